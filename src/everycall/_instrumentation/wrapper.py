"""Wraps the methods of a client that send requests: those of one client, or of its class.

An integration names the library's methods in which all others end. The clients stay the library's own objects, of their
own class.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from types import MethodType
from typing import Any, Final

from everycall._call.context import attach, attach_unseen, detach
from everycall._instrumentation.request import Arguments, Keywords, ModelRequest, Options
from everycall._patches import Patches

__all__ = ["ClientWrapper", "StartRequest"]

StartRequest = Callable[[Any, str, Arguments, Keywords, Any], ModelRequest | None]
"""Starts the recording of a request: `start(client, method, args, kwargs, options)`; None if it is not recorded.

It must not raise: a request that cannot be described is sent all the same.
"""
_NO_OPTIONS: Final = Options({})
_ORIGINAL: Final = "__everycall_original__"
"""The attribute of our wrappers that holds the original method."""


class ClientWrapper:
    """Records the requests that the methods of a library's clients send.

    `methods` are the names of the methods that are wrapped, functions or coroutine functions. `copies` are the names of
    methods that return a copy of the client, which is wrapped as its original is. `traces_itself` is for a library that
    opens spans and sends their ids along: while it runs, OpenTelemetry's current span is the program's, not the call.
    """

    __slots__ = ("_class_options", "_copies", "_methods", "_patches", "_start", "_traces_itself")

    def __init__(
        self, start: StartRequest, methods: Iterable[str], copies: Iterable[str] = (), *, traces_itself: bool = False
    ) -> None:
        self._start = start
        self._methods = tuple(methods)
        self._copies = tuple(copies)
        self._patches = Patches()
        self._traces_itself = traces_itself
        self._class_options: Any = _NO_OPTIONS

    def wrap(self, client: object, options: Options) -> None:
        """Record what one client sends. Wrapping it again replaces the options."""
        for name in self._methods:
            setattr(client, name, self._instance_method(client, name, _unwrapped(client, name), options))
        for name in self._copies:
            setattr(client, name, self._copy_method(client, _unwrapped(client, name), options))

    def instrument(self, classes: Iterable[type], options: Options) -> None:
        """Record what all clients of some classes send; wrapped clients keep their own options.

        Another call replaces the options.
        """
        self._class_options = options
        for cls in classes:
            for name in self._methods:
                owner = next(base for base in cls.__mro__ if name in vars(base))
                self._patches.replace(owner, name, functools.partial(self._class_method, name))

    def uninstrument(self) -> None:
        """Undo `instrument`: the classes are as they were. Wrapped clients stay wrapped, open streams are recorded."""
        self._patches.undo()

    def is_recorded(self, client: object) -> bool:
        """Return whether the requests of a client are recorded, because it is wrapped or its class is."""
        return self._patches.on or any(_is_wrapper(getattr(client, name, None)) for name in self._methods)

    def _instance_method(self, client: object, name: str, original: Callable[..., Any], options: Options) -> MethodType:
        """Return the wrapper of a bound method, to be set on its client."""
        if inspect.iscoroutinefunction(original):

            async def send_async(client: object, *args: Any, **kwargs: Any) -> Any:
                return await self._send_async(options, client, name, original, args, kwargs)

            return _bind(send_async, client, original)

        def send(client: object, *args: Any, **kwargs: Any) -> Any:
            return self._send(options, client, name, original, args, kwargs)

        return _bind(send, client, original)

    def _copy_method(self, client: object, original: Callable[..., Any], options: Options) -> MethodType:
        def copy(_client: object, *args: Any, **kwargs: Any) -> Any:
            copied = original(*args, **kwargs)
            self.wrap(copied, options)
            return copied

        return _bind(copy, client, original)

    def _class_method(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function that stands in the class. It leaves wrapped clients to their own wrappers."""
        if inspect.iscoroutinefunction(original):

            async def send_async(client: object, *args: Any, **kwargs: Any) -> Any:
                if not self._patches.on or _is_wrapper(vars(client).get(name)):
                    return await original(client, *args, **kwargs)
                bound = functools.partial(original, client)
                return await self._send_async(self._class_options, client, name, bound, args, kwargs)

            return send_async

        def send(client: object, *args: Any, **kwargs: Any) -> Any:
            if not self._patches.on or _is_wrapper(vars(client).get(name)):
                return original(client, *args, **kwargs)
            bound = functools.partial(original, client)
            return self._send(self._class_options, client, name, bound, args, kwargs)

        return send

    def _send(
        self,
        options: object,
        client: object,
        name: str,
        original: Callable[..., Any],
        args: Arguments,
        kwargs: Keywords,
    ) -> Any:
        """Send a request as the library does, and record it."""
        request = self._start(client, name, args, kwargs, options)
        if request is None:
            return self._send_unrecorded(original, args, kwargs)
        while True:
            args, kwargs = request.call_arguments(args, kwargs)
            try:
                token = self._attach(request)
                try:
                    response = original(*args, **kwargs)
                finally:
                    detach(token)
                break
            except BaseException as error:
                if not request.should_resend(error):
                    request.fail(error)
                    raise
        request.record_response(response)
        return request.replace_response(response)

    async def _send_async(
        self,
        options: object,
        client: object,
        name: str,
        original: Callable[..., Any],
        args: Arguments,
        kwargs: Keywords,
    ) -> Any:  # as `_send`, step for step
        request = self._start(client, name, args, kwargs, options)
        if request is None:
            return await self._send_unrecorded_async(original, args, kwargs)
        while True:
            args, kwargs = request.call_arguments(args, kwargs)
            try:
                token = self._attach(request)
                try:
                    response = await original(*args, **kwargs)
                finally:
                    detach(token)
                break
            except BaseException as error:
                if not request.should_resend(error):
                    request.fail(error)
                    raise
        request.record_response(response)
        return request.replace_response(response)

    def _attach(self, request: ModelRequest) -> object:
        call = request.call
        return attach_unseen(call) if self._traces_itself else attach(call, call)

    def _send_unrecorded(self, original: Callable[..., Any], args: Arguments, kwargs: Keywords) -> Any:
        if not self._traces_itself:
            return original(*args, **kwargs)
        token = attach_unseen(None)
        try:
            return original(*args, **kwargs)
        finally:
            detach(token)

    async def _send_unrecorded_async(self, original: Callable[..., Any], args: Arguments, kwargs: Keywords) -> Any:
        if not self._traces_itself:
            return await original(*args, **kwargs)
        token = attach_unseen(None)
        try:
            return await original(*args, **kwargs)
        finally:
            detach(token)


def _bind(function: Callable[..., Any], client: object, original: Callable[..., Any]) -> MethodType:
    """Bind a wrapper to a client, with the name and signature of the method it stands for."""
    functools.update_wrapper(function, original)
    if isinstance(original, MethodType):
        function.__wrapped__ = original.__func__  # type: ignore[attr-defined] # inspect reads the signature there
    else:
        del function.__wrapped__  # type: ignore[attr-defined]
    setattr(function, _ORIGINAL, original)
    return MethodType(function, client)


def _is_wrapper(method: object) -> bool:
    return _ORIGINAL in getattr(method, "__dict__", ())


def _unwrapped(client: object, name: str) -> Any:
    """Return a method of a client without our wrapper."""
    method = getattr(client, name)
    return getattr(method, _ORIGINAL) if _is_wrapper(method) else method
