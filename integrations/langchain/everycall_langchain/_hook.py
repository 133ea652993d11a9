"""One kind of callback for both of LangChain's dispatchers. Called when the handler's class is made.

LangChain's synchronous dispatcher calls a handler's method and, when it returns a coroutine, starts an event loop to
run it. Its asynchronous one awaits the method when that is a coroutine function, else moves it to a thread (twice the
time of a short chain, and a wait for whatever else fills the executor), unless `run_inline` is set; and an inline
handler keeps `on_llm_start` of text models from all others (`AsyncCallbackManager.on_llm_start`).

A `hook` avoids the three: its work is done when the call returns, what it returns can be awaited and is already done,
and `inspect.iscoroutinefunction` holds for it. Where a future Python should answer that question otherwise, the hook
runs in LangChain's thread, slower and just as right.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from types import MethodType
from typing import Any, Final, TypeVar, cast

from everycall.integration import report

__all__ = ["DONE", "Done", "hook", "own_hook"]

F = TypeVar("F", bound=Callable[..., Any])


class Done:
    """What a hook returns: awaitable, with nothing left to wait for. Not a coroutine, which would need a loop."""

    __slots__ = ()

    def __await__(self) -> Generator[Any, None, None]:
        return
        yield


DONE: Final = Done()


async def _coroutine_function() -> None:
    """Lend its code flags to hooks."""


class _Hook:
    """A function with the outline of a function, as `inspect` wants it: a name, defaults, annotations and code."""

    __code__ = _coroutine_function.__code__
    __defaults__ = None
    __kwdefaults__ = None

    def __init__(self, function: Callable[..., Any]) -> None:
        self.__name__ = function.__name__
        self.__qualname__ = function.__qualname__
        self.__doc__ = function.__doc__
        self.__annotations__ = {}
        self.__wrapped__ = function

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        return self if instance is None else MethodType(cast(Callable[..., Any], self), instance)


def hook(function: F) -> F:
    """Make a method a callback that serves synchronous and asynchronous runs, and never raises into them."""

    def guarded(*args: Any, **kwargs: Any) -> Done:
        try:
            function(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - the guard
            report(function.__qualname__, error)
        return DONE

    return cast(F, _hook(function, guarded))


def own_hook(function: F) -> F:
    """The same for a method that guards itself and returns `DONE`: it is called for each step of each chain."""
    return cast(F, _hook(function, function))


def _hook(function: Callable[..., Any], called: Callable[..., Done]) -> _Hook:
    """Make the object. Its class is its own, for the call to go to the function without one of ours in between."""
    kind: type[_Hook] = type(function.__name__, (_Hook,), {"__call__": staticmethod(called)})
    return kind(function)
