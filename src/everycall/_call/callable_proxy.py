"""Traced callables that are not functions: partials, callable objects, caches, builtins.

Built on wrapt: to `isinstance`, `inspect` and attribute access its proxies look like the wrapped object, and it binds
methods.
"""

from __future__ import annotations

import copy
import functools
from typing import Any

import wrapt

from everycall import _guard
from everycall._call.arguments import Arguments
from everycall._call.wrappers import Options, Plan, wrapping_of

__all__ = ["CallableProxy"]


class CallableProxy(wrapt.FunctionWrapper[Any, Any]):
    """Whatever it wraps, with its calls recorded. Copies are traced; a pickle holds the wrapped object itself."""

    def __init__(self, wrapped: Any, options: Options) -> None:
        described = _described(wrapped)
        wrap = wrapping_of(described)
        arguments = Arguments.of(described)
        name = _name(wrapped)
        run = wrap(wrapped, Plan(options, name, arguments)) if callable(wrapped) else None
        plan = Plan(options, name, arguments if isinstance(wrapped, functools.partialmethod) else arguments.bound())

        def record(bound: Any, _instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            traced = run if run is not None and bound is wrapped else wrap(bound, plan)
            return traced(*args, **kwargs)

        super().__init__(wrapped, record)
        self._self_options = options

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.__wrapped__.__reduce_ex__(protocol)

    def __copy__(self) -> CallableProxy:
        return type(self)(copy.copy(self.__wrapped__), self._self_options)

    def __deepcopy__(self, memo: dict[int, Any]) -> CallableProxy:
        return type(self)(copy.deepcopy(self.__wrapped__, memo), self._self_options)


def _described(wrapped: Any) -> Any:
    """Return the function that determines the kind of the calls and their arguments."""
    if isinstance(wrapped, functools.partialmethod):
        return functools.partial(wrapped.func, None, *wrapped.args, **wrapped.keywords)
    return wrapped.func if isinstance(wrapped, functools.singledispatchmethod) else wrapped


def _name(wrapped: Any) -> str:
    try:
        for described in (wrapped, getattr(wrapped, "func", None)):
            name = getattr(described, "__qualname__", None)
            if isinstance(name, str):
                return name.replace("<locals>.", "")
    except Exception as error:  # noqa: BLE001 - a callable object may be anything; it is traced all the same
        _guard.report("trace", error)
    return type(wrapped).__qualname__
