"""ASGI and WSGI middlewares: calls made while a request is handled continue the trace of the client.

Both are public in `everycall.propagation`. They open no call, buffer nothing and change no message. A request without
trace headers passes unchanged.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, MutableMapping
from typing import Any

from everycall import _guard
from everycall._call.context import Scope, attach_scope, current_node, detach
from everycall._propagation.headers import BAGGAGE, HEADERS, TRACEPARENT, TRACESTATE, scope_of

__all__ = ["ASGIMiddleware", "WSGIMiddleware"]

Message = MutableMapping[str, Any]
ASGIApp = Callable[[MutableMapping[str, Any], Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]],
                   Awaitable[None]]  # fmt: skip
WSGIApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class ASGIMiddleware:
    """`app = ASGIMiddleware(app)`: calls made while a request or a websocket is served belong to its caller's trace.

    For services that your own programs call: anyone who can send the headers determines the trace, user and session of
    the calls, and can have their content omitted. Never raises by itself; `lifespan` passes unchanged.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(
        self,
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        """Serve one connection (ASGI 3)."""
        node = _from_asgi(scope) if scope["type"] in ("http", "websocket") else None
        if node is None:
            await self.app(scope, receive, send)
            return
        token = attach_scope(node)
        try:
            await self.app(scope, receive, send)
        finally:
            detach(token)


@_guard.guarded
def _from_asgi(scope: MutableMapping[str, Any]) -> Scope | None:
    """Return a request's scope. Repeated headers are joined (RFC 9110, 5.3), so two `traceparent` are invalid."""
    headers: dict[str, str] = {}
    for raw_name, raw_value in scope.get("headers", ()):
        name = raw_name.decode("latin-1").lower() if len(raw_name) <= len(TRACEPARENT) else ""
        if name in HEADERS:
            value = raw_value.decode("latin-1")
            headers[name] = f"{headers[name]},{value}" if name in headers else value
    return scope_of(headers, current_node()) if headers else None


class WSGIMiddleware:
    """`app = WSGIMiddleware(app)`: like `ASGIMiddleware`, for WSGI (PEP 3333); also while the body is iterated over.

    A body that is a list, a tuple or the server's file wrapper is returned unchanged.
    """

    def __init__(self, app: WSGIApp) -> None:
        self.app = app

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Serve one request."""
        node = _from_wsgi(environ)
        if node is None:
            return self.app(environ, start_response)
        token = attach_scope(node)
        try:
            body = self.app(environ, start_response)
        finally:
            detach(token)
        wrapper = environ.get("wsgi.file_wrapper")
        if type(body) in (list, tuple) or (isinstance(wrapper, type) and isinstance(body, wrapper)):
            return body
        return (_SizedBody if hasattr(body, "__len__") else _Body)(body, node)


@_guard.guarded
def _from_wsgi(environ: dict[str, Any]) -> Scope | None:
    headers = {
        name: environ[key] for name in (TRACEPARENT, TRACESTATE, BAGGAGE) if (key := f"HTTP_{name.upper()}") in environ
    }
    return scope_of(headers, current_node()) if headers else None


class _Body:
    """A response body whose iteration and `close` run in the caller's trace."""

    def __init__(self, body: Any, node: Scope) -> None:
        self._body = body
        self._node = node
        self._items: Iterator[bytes] | None = None

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        token = attach_scope(self._node)
        try:
            if self._items is None:
                self._items = iter(self._body)
            return next(self._items)
        finally:
            detach(token)

    def close(self) -> None:
        close = getattr(self._body, "close", None)
        if close is None:
            return
        token = attach_scope(self._node)
        try:
            close()
        finally:
            detach(token)


class _SizedBody(_Body):
    """A body with a length; servers use it to compute the content length of a single chunk."""

    def __len__(self) -> int:
        return len(self._body)
