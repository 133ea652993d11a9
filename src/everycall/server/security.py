"""Security headers of responses, and checks of requests: Host, origin, trusted proxies, wrong keys.

Pure functions and small counters without I/O. `auth.Guard`, the login and `create_app` use them.
"""

from __future__ import annotations

import ipaddress
import socket
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from html import escape
from urllib.parse import urlsplit

from litestar.types import Message, Scope

from everycall import limits
from everycall.server.options import ServerOptions, is_loopback

__all__ = [
    "HEADERS",
    "AllowedHosts",
    "TrustedProxies",
    "WrongKeys",
    "header",
    "headers_of",
    "is_same_origin",
    "local_path",
    "onward",
    "over_tls",
    "secure",
    "wants_page",
]

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; form-action 'self'; "
    "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'"
)
DATA_PREFIXES = ("/api/", "/v1/", "/static/", "/openapi.json", "/healthz", "/metrics")
HEADERS: dict[str, str] = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
"""On every response, including errors. A handler may set its own value, as static files do for caching."""

_RAW_HEADERS = [(name.encode(), value.encode()) for name, value in HEADERS.items()]


async def secure(message: Message, _: Scope) -> None:
    """Add `HEADERS` to a response. Litestar calls it before each message that is sent."""
    if message["type"] == "http.response.start":
        present = {bytes(name).lower() for name, _ in message["headers"]}
        message["headers"] = [*message["headers"], *(pair for pair in _RAW_HEADERS if pair[0] not in present)]


def headers_of(scope: Scope, name: bytes) -> list[str]:
    """Return all values of a request header, as sent."""
    return [value.decode("latin-1") for key, value in scope["headers"] if key == name]


def header(scope: Scope, name: bytes) -> str | None:
    """Return the value of a request header, the first if it was sent several times; None if it was not sent."""
    return next(iter(headers_of(scope, name)), None)


def _host_name(value: str) -> str | None:
    """Return the name in a Host header, in lower case, without port and brackets; None if the header is invalid."""
    try:
        parts = urlsplit(f"//{value}")
        _ = parts.port  # raises if the port is not a number
    except ValueError:
        return None
    if parts.path or parts.query or parts.fragment or parts.username is not None or not parts.hostname:
        return None
    return parts.hostname.rstrip(".")


class AllowedHosts:
    """The host names under which this server answers. Others are refused, against DNS rebinding.

    Allowed are the name it is bound to, `localhost`, loopback addresses and the options' `hosts`. If other machines can
    reach it, any IP address and this machine's name are allowed too: rebinding needs a name that the attacker controls.
    """

    def __init__(self, options: ServerOptions) -> None:
        names = {options.host, "localhost", *options.hosts}
        self._open = not is_loopback(options.host)
        if self._open:
            names.add(socket.gethostname())
        self._names = {name.strip("[]").rstrip(".").lower() for name in names}

    def allow(self, value: str) -> bool:
        """Return whether a Host header has an allowed name."""
        name = _host_name(value)
        if name is None:
            return False
        if name in self._names or is_loopback(name):
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return self._open


def wants_page(scope: Scope) -> bool:
    """Return whether the response should be a page for a person, not data for a program."""
    path = scope["path"]
    if scope.get("method") not in ("GET", "POST") or path.startswith(DATA_PREFIXES) or path.endswith(".json"):
        return False
    return "text/html" in (header(scope, b"accept") or "")


def is_same_origin(scope: Scope) -> bool:
    """Return whether a request was sent by this server's own pages or by a program, not by another site's page.

    Browsers send `Sec-Fetch-Site` to loopback and over TLS, and `Origin` with every POST (as `null` if the page's
    referrer policy is `no-referrer`, which ours is not). A program sends neither, and has no cookie to misuse.
    """
    site = header(scope, b"sec-fetch-site")
    if site is not None:
        return site in ("same-origin", "none")
    origin = header(scope, b"origin")
    if origin is None:
        return True
    if origin == "null":
        return False
    host = header(scope, b"host") or ""
    return urlsplit(origin).netloc.lower() == host.lower()


def local_path(target: str | None) -> str:
    """Return where to go after the login: the target if it is a path of this server, else `/`.

    Browsers go to another site for `//host` and `/\\host`, even with tabs or newlines in between.
    """
    if not target or not target.startswith("/") or target[1:2] in ("/", "\\"):
        return "/"
    if not target.isprintable() or "\\" in target or len(target) > 2048:
        return "/"
    parts = urlsplit(target)
    return "/" if parts.scheme or parts.netloc or parts.path == "/logout" else target


class TrustedProxies:
    """The proxies that are believed in what they say about a client: addresses, or networks such as `10.0.0.0/8`."""

    def __init__(self, proxies: Sequence[str]) -> None:
        self._networks = [ipaddress.ip_network(proxy, strict=False) for proxy in proxies]

    def trust(self, address: str) -> bool:
        """Return whether an address is that of a trusted proxy."""
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(parsed in network for network in self._networks)


def over_tls(scope: Scope, trusted_proxies: Sequence[str]) -> bool:
    """Return whether the browser's connection is encrypted, to this server or to a trusted proxy.

    A proxy says so in `X-Forwarded-Proto`, whose last value comes from the nearest proxy. From any other address the
    header is ignored. `trusted_proxies` are addresses or networks (`10.0.0.0/8`).
    """
    if scope["scheme"] == "https":
        return True
    client = scope.get("client")
    values = headers_of(scope, b"x-forwarded-proto")
    if not client or not values or values[-1].rpartition(",")[2].strip().lower() != "https":
        return False
    return TrustedProxies(trusted_proxies).trust(client[0])


def onward(scope: Scope, path: str) -> bytes | None:
    """Return a page that forwards to `path`, if the browser followed a link of another site; else None.

    Browsers do not send a `SameSite=Strict` cookie with such a request, nor with the redirects that follow. They send
    it when a page of this server forwards them. So links to traces in chats and tickets work for logged-in users.
    """
    if header(scope, b"sec-fetch-site") not in ("cross-site", "same-site"):
        return None
    if header(scope, b"sec-fetch-dest") != "document":
        return None
    return (
        f'<!doctype html><title>everycall</title><meta http-equiv="refresh" content="0; url={escape(path)}">'.encode()
    )


class WrongKeys:
    """Counts wrong keys per address and minute; after `limits.WRONG_KEYS_MAX`, the address has to wait.

    A correct key is always accepted: addresses are shared (by a proxy, or on one machine), and 256 random bits cannot
    be guessed.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._counts: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def count(self, address: str) -> int:
        """Count a wrong key; return the seconds to wait, 0 within the limit."""
        now = self._clock()
        since, count = self._counts.get(address, (now, 0))
        if now - since >= 60:
            since, count = now, 0
        count += 1
        self._counts[address] = (since, count)
        self._counts.move_to_end(address)
        while len(self._counts) > limits.WRONG_KEY_ADDRESSES_MAX:
            self._counts.popitem(last=False)
        return max(1, int(60 - (now - since))) if count > limits.WRONG_KEYS_MAX else 0
