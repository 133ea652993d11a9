"""Traced callables that are not functions: partials, callable objects, caches, builtins. Layer 3; `@trace` uses it.

On wrapt, whose proxies are the wrapped object to `isinstance`, `inspect` and attribute access, and which binds methods.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import wrapt

__all__ = ["CallableProxy"]

Build = Callable[[Any, Any], Callable[..., Any]]


class CallableProxy(wrapt.FunctionWrapper[Any, Any]):
    """Whatever it wraps, with its calls recorded. Copies are traced; a pickle holds the wrapped object itself."""

    def __init__(self, wrapped: Any, options: Any, build: Build) -> None:
        run = build(wrapped, options)

        def record(bound: Any, _instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            traced = run if bound is wrapped else build(bound, options)
            return traced(*args, **kwargs)

        super().__init__(wrapped, record)
        self._self_made_of = (options, build)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.__wrapped__.__reduce_ex__(protocol)

    def __copy__(self) -> CallableProxy:
        return type(self)(copy.copy(self.__wrapped__), *self._self_made_of)

    def __deepcopy__(self, memo: dict[int, Any]) -> CallableProxy:
        return type(self)(copy.deepcopy(self.__wrapped__, memo), *self._self_made_of)
