"""Serving below a path, such as `https://tools.example/calls/`, behind a proxy that keeps or strips that path.

The app does not know about it: its routes, redirects and links are those of a server at `/`. `BelowPath` removes the
base path from requests and adds it to redirects, and `with_base_path` adds it to the URLs of a page. So every link is
below the path, wherever it is written.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextvars import ContextVar

from litestar.types import ASGIApp, Message, Receive, Scope, Send

from everycall.server.options import is_base_path
from everycall.server.security import TrustedProxies, header, headers_of, over_tls

__all__ = ["BelowPath", "base_path", "public_url", "with_base_path"]

PREFIX_HEADER = b"x-forwarded-prefix"
_URL_ATTRIBUTE = re.compile(r'(\s(?:href|src|action|data-run|data-page|data-cookie-path)=")/(?!/)')
"""Start of a local URL in rendered HTML. Values are escaped, so text of users cannot contain the quote."""

_base_path: ContextVar[str] = ContextVar("everycall_base_path", default="")


def base_path() -> str:
    """Return the path below which the present request reached the server: empty, or such as `/calls`."""
    return _base_path.get()


def public_url(scope: Scope, trusted_proxies: Sequence[str]) -> str:
    """Return the URL of this server as the client knows it, without a slash at its end."""
    scheme = "https" if over_tls(scope, trusted_proxies) else "http"
    return f"{scheme}://{header(scope, b'host') or 'localhost'}{base_path()}"


def with_base_path(html: str) -> str:
    """Return a page whose local URLs stay below the base path."""
    base = base_path()
    return _URL_ATTRIBUTE.sub(rf"\1{base}/", html) if base else html


class BelowPath:
    """ASGI middleware around the app. `root_path` is the base path of all requests, empty for none.

    A trusted proxy can name another one in `X-Forwarded-Prefix`, which clients cannot. Requests may come with the base
    path or without it, since some proxies strip it.
    """

    def __init__(self, app: ASGIApp, root_path: str, proxies: TrustedProxies) -> None:
        self._app = app
        self._root_path = root_path
        self._proxies = proxies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on without its base path, and its response back with it."""
        base = self._base_path_of(scope)
        if not base:
            await self._app(scope, receive, send)
            return

        async def send_below(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [_below(name, value, base.encode()) for name, value in message["headers"]]
            await send(message)

        token = _base_path.set(base)
        try:
            await self._app(_stripped(scope, base), receive, send_below)
        finally:
            _base_path.reset(token)

    def _base_path_of(self, scope: Scope) -> str:
        prefixes = headers_of(scope, PREFIX_HEADER)
        if prefixes:
            client = scope.get("client")
            prefix = prefixes[-1].strip().rstrip("/")
            if client and self._proxies.trust(client[0]) and is_base_path(prefix):
                return prefix
        return self._root_path


def _stripped(scope: Scope, base: str) -> Scope:
    path = scope["path"]
    if path != base and not path.startswith(f"{base}/"):
        return scope  # the proxy stripped it
    raw_path = scope.get("raw_path", b"")
    return {  # type: ignore[return-value]
        **scope,
        "path": path[len(base) :] or "/",
        "raw_path": raw_path[len(base) :] or b"/",  # the base path has no character that is ever escaped
    }


def _below(name: bytes, value: bytes, base: bytes) -> tuple[bytes, bytes]:
    """Return a response header; a redirect to a local path gets the base path."""
    if name.lower() == b"location" and value.startswith(b"/") and not value.startswith(b"//"):
        return name, base + value
    return name, value
