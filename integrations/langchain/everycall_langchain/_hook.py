"""Callbacks that work with both of LangChain's dispatchers, the synchronous and the asynchronous one.

LangChain's synchronous dispatcher calls a handler's method; if that returns a coroutine, it starts an event loop to run
it. The asynchronous one awaits the method if it is a coroutine function. If not, it runs the method in a thread, which
takes twice the time of a short chain and waits for whatever else fills the executor; unless the handler sets
`run_inline`, but then LangChain does not call `on_llm_start` of other handlers (`AsyncCallbackManager.on_llm_start`).

A `hook` avoids all of this. Its work is done when the call returns, its result can be awaited and is already done, and
`inspect.iscoroutinefunction` is true for it. Should a later Python answer that question otherwise, hooks run in
LangChain's thread: slower, with the same result.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from types import MethodType
from typing import Any, Final, TypeVar, cast

from everycall.integration import report

__all__ = ["DONE", "Done", "guarded_hook", "hook"]

F = TypeVar("F", bound=Callable[..., Any])


class Done:
    """The result of a hook: awaitable and done. It is not a coroutine, which would need an event loop."""

    __slots__ = ()

    def __await__(self) -> Generator[Any, None, None]:
        return
        yield


DONE: Final = Done()


async def _coroutine_function() -> None:
    """Lends the flags of its code to hooks."""


class _Hook:
    """An object that `inspect` takes for a function: it has a name, defaults, annotations and code."""

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
    """Make a method a callback for synchronous and asynchronous runs. It never raises into them."""

    def guarded(*args: Any, **kwargs: Any) -> Done:
        try:
            function(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - the guard
            report(function.__qualname__, error)
        return DONE

    return cast(F, _hook(function, guarded))


def guarded_hook(function: F) -> F:
    """Make a callback of a method that contains its own guard and returns `DONE`.

    It saves a call for each step of each chain.
    """
    return cast(F, _hook(function, function))


def _hook(function: Callable[..., Any], target: Callable[..., Done]) -> _Hook:
    """Return a hook that calls `target`. Each hook has a class of its own, so that nothing is called in between."""
    kind: type[_Hook] = type(function.__name__, (_Hook,), {"__call__": staticmethod(target)})
    return kind(function)
