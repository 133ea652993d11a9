"""Where the recording of a client's requests is put in: one client, or all of a process. Layer 3.

An integration names the library's methods in which all others end; these are wrapped, in one object or in its class.
The objects stay the library's own, of their own class.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any, Final

import wrapt

from everycall._context import attach, detach
from everycall._exchange import Exchange, Options
from everycall._patches import Patches

__all__ = ["Begin", "Wrapping"]

Begin = Callable[[Any, str, tuple[Any, ...], dict[str, Any], Any], Exchange | None]
"""Begins the exchange of a request: `begin(owner, method, args, kwargs, options)`. None for one that is not recorded.

It must not raise: a request that cannot be described goes out all the same.
"""
_NOTHING_GIVEN: Final = Options({})


class _Wrapped(wrapt.FunctionWrapper):  # type: ignore[misc, type-arg, unused-ignore]
    """A bound method of one object, wrapped. To be told from what others put there."""


class Wrapping:
    """The methods of a library that send its requests, and what is put around them.

    `methods` are names of methods of the objects that are wrapped; synchronous ones and coroutine functions. `copies`
    are names of methods that return a copy of the object, which is wrapped as its original is.
    """

    __slots__ = ("_begin", "_copies", "_everywhere", "_methods", "_patches")

    def __init__(self, begin: Begin, methods: Iterable[str], copies: Iterable[str] = ()) -> None:
        self._begin = begin
        self._methods = tuple(methods)
        self._copies = tuple(copies)
        self._patches = Patches()
        self._everywhere: Any = _NOTHING_GIVEN

    def wrap(self, owner: Any, options: Options) -> None:
        """Record what one object sends; wrapping it again replaces the options."""
        for name in self._methods:
            inner = _inner(owner, name)
            traced = self._traced_async if inspect.iscoroutinefunction(inner) else self._traced
            setattr(owner, name, _Wrapped(inner, functools.partial(traced, options, owner, name)))
        for name in self._copies:
            setattr(owner, name, _Wrapped(_inner(owner, name), functools.partial(self._copied, options)))

    def instrument(self, owners: Iterable[type], options: Options) -> None:
        """Record what all objects of some classes send, save those that are wrapped; again: replaces the options."""
        self._everywhere = options
        for owner in owners:
            for name in self._methods:
                holder = next(kind for kind in owner.__mro__ if name in vars(kind))
                self._patches.replace(holder, name, functools.partial(self._of_all, name))

    def uninstrument(self) -> None:
        """Undo `instrument`: the classes are as they were. Wrapped objects stay wrapped; open streams go on."""
        self._patches.undo()

    def _copied(self, options: Options, copy: Any, _owner: Any, args: Any, kwargs: Any) -> Any:
        copied = copy(*args, **kwargs)
        self.wrap(copied, options)
        return copied

    def _of_all(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        """Make the function that stands in the class: it leaves wrapped objects to their own."""
        if inspect.iscoroutinefunction(original):

            async def send_async(owner: Any, *args: Any, **kwargs: Any) -> Any:
                if not self._patches.on or type(vars(owner).get(name)) is _Wrapped:
                    return await original(owner, *args, **kwargs)
                send = functools.partial(original, owner)
                return await self._traced_async(self._everywhere, owner, name, send, None, args, kwargs)

            return send_async

        def send_now(owner: Any, *args: Any, **kwargs: Any) -> Any:
            if not self._patches.on or type(vars(owner).get(name)) is _Wrapped:
                return original(owner, *args, **kwargs)
            send = functools.partial(original, owner)
            return self._traced(self._everywhere, owner, name, send, None, args, kwargs)

        return send_now

    def _traced(
        self, options: Any, owner: Any, name: str, send: Any, _bound: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Send a request as the library would, and record it."""
        exchange = self._begin(owner, name, args, kwargs, options)
        if exchange is None:
            return send(*args, **kwargs)
        while True:
            args, kwargs = exchange.arguments(args, kwargs)
            try:
                token = attach(exchange.call, exchange.call)
                try:
                    answer = send(*args, **kwargs)
                finally:
                    detach(token)
                break
            except BaseException as error:
                if not exchange.takes_back(error):
                    exchange.fail(error)
                    raise
        exchange.take(answer)
        return answer

    async def _traced_async(
        self, options: Any, owner: Any, name: str, send: Any, _bound: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:  # as `_traced`, step for step
        exchange = self._begin(owner, name, args, kwargs, options)
        if exchange is None:
            return await send(*args, **kwargs)
        while True:
            args, kwargs = exchange.arguments(args, kwargs)
            try:
                token = attach(exchange.call, exchange.call)
                try:
                    answer = await send(*args, **kwargs)
                finally:
                    detach(token)
                break
            except BaseException as error:
                if not exchange.takes_back(error):
                    exchange.fail(error)
                    raise
        exchange.take(answer)
        return answer


def _inner(owner: Any, name: str) -> Any:
    """Return an object's method without our wrapper, should it have one."""
    found = getattr(owner, name)
    return found.__wrapped__ if type(found) is _Wrapped else found
