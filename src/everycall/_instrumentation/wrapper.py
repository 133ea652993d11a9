"""Where the recording of a client's requests is put in: one client, or all of a process. Layer 3.

An integration names the library's methods in which all others end; these are wrapped, in one object or in its class.
The objects stay the library's own, of their own class.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from types import MethodType
from typing import Any, Final

from everycall._call.context import attach, attach_unseen, detach
from everycall._instrumentation.request import Exchange, Options
from everycall._patches import Patches

__all__ = ["Begin", "Wrapping"]

Begin = Callable[[Any, str, tuple[Any, ...], dict[str, Any], Any], Exchange | None]
"""Begins the exchange of a request: `begin(owner, method, args, kwargs, options)`. None for one that is not recorded.

It must not raise: a request that cannot be described goes out all the same.
"""
_NOTHING_GIVEN: Final = Options({})
_MARK: Final = "__everycall_original__"
"""What tells our wrapper of a method from what others put there: it holds the method."""


class Wrapping:
    """The methods of a library that send its requests, and what is put around them.

    `methods` are names of methods of the objects that are wrapped; synchronous ones and coroutine functions. `copies`
    are names of methods that return a copy of the object, which is wrapped as its original is. `traces_itself` says
    that the library opens spans of its own and sends their ids along: it is shown the program's spans, and no calls.
    """

    __slots__ = ("_begin", "_copies", "_everywhere", "_methods", "_patches", "_traces_itself")

    def __init__(
        self, begin: Begin, methods: Iterable[str], copies: Iterable[str] = (), *, traces_itself: bool = False
    ) -> None:
        self._begin = begin
        self._methods = tuple(methods)
        self._copies = tuple(copies)
        self._patches = Patches()
        self._traces_itself = traces_itself
        self._everywhere: Any = _NOTHING_GIVEN

    def wrap(self, owner: Any, options: Options) -> None:
        """Record what one object sends; wrapping it again replaces the options."""
        for name in self._methods:
            setattr(owner, name, self._of_one(owner, name, _inner(owner, name), options))
        for name in self._copies:
            setattr(owner, name, self._copier(owner, _inner(owner, name), options))

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

    def records(self, owner: Any) -> bool:
        """Tell whether what an object sends is recorded: it is wrapped, or all are."""
        return self._patches.on or any(_is_ours(getattr(owner, name, None)) for name in self._methods)

    def _of_one(self, owner: Any, name: str, original: Callable[..., Any], options: Options) -> MethodType:
        """Make what stands in one object, in the place of its bound method."""
        if inspect.iscoroutinefunction(original):

            async def send_async(owner: Any, *args: Any, **kwargs: Any) -> Any:
                return await self._traced_async(options, owner, name, original, args, kwargs)

            return _bound(send_async, owner, original)

        def send_now(owner: Any, *args: Any, **kwargs: Any) -> Any:
            return self._traced(options, owner, name, original, args, kwargs)

        return _bound(send_now, owner, original)

    def _copier(self, owner: Any, original: Callable[..., Any], options: Options) -> MethodType:
        def copy(_owner: Any, *args: Any, **kwargs: Any) -> Any:
            copied = original(*args, **kwargs)
            self.wrap(copied, options)
            return copied

        return _bound(copy, owner, original)

    def _of_all(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        """Make the function that stands in the class: it leaves wrapped objects to their own."""
        if inspect.iscoroutinefunction(original):

            async def send_async(owner: Any, *args: Any, **kwargs: Any) -> Any:
                if not self._patches.on or _is_ours(vars(owner).get(name)):
                    return await original(owner, *args, **kwargs)
                send = functools.partial(original, owner)
                return await self._traced_async(self._everywhere, owner, name, send, args, kwargs)

            return send_async

        def send_now(owner: Any, *args: Any, **kwargs: Any) -> Any:
            if not self._patches.on or _is_ours(vars(owner).get(name)):
                return original(owner, *args, **kwargs)
            send = functools.partial(original, owner)
            return self._traced(self._everywhere, owner, name, send, args, kwargs)

        return send_now

    def _traced(
        self, options: Any, owner: Any, name: str, send: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Send a request as the library would, and record it."""
        exchange = self._begin(owner, name, args, kwargs, options)
        if exchange is None:
            return self._unrecorded(send, args, kwargs)
        while True:
            args, kwargs = exchange.arguments(args, kwargs)
            try:
                token = self._attach(exchange)
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
        return exchange.handed(answer)

    async def _traced_async(
        self, options: Any, owner: Any, name: str, send: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:  # as `_traced`, step for step
        exchange = self._begin(owner, name, args, kwargs, options)
        if exchange is None:
            return await self._unrecorded_async(send, args, kwargs)
        while True:
            args, kwargs = exchange.arguments(args, kwargs)
            try:
                token = self._attach(exchange)
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
        return exchange.handed(answer)

    def _attach(self, exchange: Exchange) -> object:
        call = exchange.call
        return attach_unseen(call) if self._traces_itself else attach(call, call)

    def _unrecorded(self, send: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not self._traces_itself:
            return send(*args, **kwargs)
        token = attach_unseen(None)
        try:
            return send(*args, **kwargs)
        finally:
            detach(token)

    async def _unrecorded_async(self, send: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not self._traces_itself:
            return await send(*args, **kwargs)
        token = attach_unseen(None)
        try:
            return await send(*args, **kwargs)
        finally:
            detach(token)


def _bound(function: Callable[..., Any], owner: Any, original: Callable[..., Any]) -> MethodType:
    """Bind a function of ours to an object, with the looks of the method that stood there, and a mark."""
    functools.update_wrapper(function, original)
    if isinstance(original, MethodType):
        function.__wrapped__ = original.__func__  # type: ignore[attr-defined] # a signature is read there, unbound
    else:
        del function.__wrapped__  # type: ignore[attr-defined]
    setattr(function, _MARK, original)
    return MethodType(function, owner)


def _is_ours(found: Any) -> bool:
    return _MARK in getattr(found, "__dict__", ())


def _inner(owner: Any, name: str) -> Any:
    """Return an object's method without our wrapper, should it have one."""
    found = getattr(owner, name)
    return getattr(found, _MARK) if _is_ours(found) else found
