"""What every answer carries and every request is checked for: headers, Host, origin, counts of wrong keys.

Pure functions and small counters without any I/O; `auth.Guard` and `create_app` put them in place.
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
"""On every answer, 404 and 500 included. A handler's own value of one of them stays (static files may be cached)."""

_RAW_HEADERS = [(name.encode(), value.encode()) for name, value in HEADERS.items()]


async def secure(message: Message, _: Scope) -> None:
    """Add `HEADERS` to the start of an answer. Litestar calls it before each message that is sent."""
    if message["type"] == "http.response.start":
        present = {bytes(name).lower() for name, _ in message["headers"]}
        message["headers"] = [*message["headers"], *(pair for pair in _RAW_HEADERS if pair[0] not in present)]


def headers_of(scope: Scope, name: bytes) -> list[str]:
    """Return all values of a request header, as sent."""
    return [value.decode("latin-1") for key, value in scope["headers"] if key == name]


def header(scope: Scope, name: bytes) -> str | None:
    """Return a request header, or None; the first when it was sent several times."""
    return next(iter(headers_of(scope, name)), None)


def _host_name(value: str) -> str | None:
    """Return the name in a Host header, without port and brackets, in lower case; None when it is not one."""
    try:
        parts = urlsplit(f"//{value}")
        _ = parts.port  # raises for a port that is no number
    except ValueError:
        return None
    if parts.path or parts.query or parts.fragment or parts.username is not None or not parts.hostname:
        return None
    return parts.hostname.rstrip(".")


class AllowedHosts:
    """The names under which this server answers, so that a foreign name pointed at it (DNS rebinding) gets nothing.

    Always: the name it was bound to, `localhost`, loopback addresses and the options' `hosts`. When it is bound to an
    address others can reach, also any IP address and this machine's name: rebinding needs a name of the attacker's.
    """

    def __init__(self, options: ServerOptions) -> None:
        names = {options.host, "localhost", *options.hosts}
        self._open = not is_loopback(options.host)
        if self._open:
            names.add(socket.gethostname())
        self._names = {name.strip("[]").rstrip(".").lower() for name in names}

    def allow(self, value: str) -> bool:
        """Return whether a Host header names this server."""
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
    """Return whether an answer is for a person: of a page or a form in a browser, not of data."""
    path = scope["path"]
    if scope.get("method") not in ("GET", "POST") or path.startswith(DATA_PREFIXES) or path.endswith(".json"):
        return False
    return "text/html" in (header(scope, b"accept") or "")


def is_same_origin(scope: Scope) -> bool:
    """Return whether a request that changes something was not made by another site's page.

    Browsers say where a request comes from in `Sec-Fetch-Site` (to loopback and over TLS) and in `Origin` (with every
    POST; as `null` where the page's referrer policy is `no-referrer`, which ours is not); a program sends neither and
    has no cookie that could be misused.
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


def local_path(asked: str | None) -> str:
    """Return where to go after the login: the path asked for when it is one of this server's, else `/`.

    Browsers read `//host`, `/\\host` and what hides behind tabs and newlines as another site; those become `/`.
    """
    if not asked or not asked.startswith("/") or asked[1:2] in ("/", "\\"):
        return "/"
    if not asked.isprintable() or "\\" in asked or len(asked) > 2048:
        return "/"
    parts = urlsplit(asked)
    return "/" if parts.scheme or parts.netloc or parts.path == "/logout" else asked


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
    """Return whether the browser's connection is encrypted: to this server, or to a proxy that is trusted to say so.

    A proxy says it in `X-Forwarded-Proto` (the last value is that of the nearest one). From any other address the
    header is a stranger's word and counts for nothing. `trusted_proxies` are addresses or networks (`10.0.0.0/8`).
    """
    if scope["scheme"] == "https":
        return True
    client = scope.get("client")
    values = headers_of(scope, b"x-forwarded-proto")
    if not client or not values or values[-1].rpartition(",")[2].strip().lower() != "https":
        return False
    return TrustedProxies(trusted_proxies).trust(client[0])


def onward(scope: Scope, path: str) -> bytes | None:
    """Return a page that goes on to `path`, for a browser that came by a link of another site; None for any other.

    Browsers leave a `SameSite=Strict` cookie out of such a visit and of what it is redirected to, but not of where a
    page of this server leads. So a link to a trace in a chat or a ticket works for who is logged in.
    """
    if header(scope, b"sec-fetch-site") not in ("cross-site", "same-site"):
        return None
    if header(scope, b"sec-fetch-dest") != "document":
        return None
    return (
        f'<!doctype html><title>everycall</title><meta http-equiv="refresh" content="0; url={escape(path)}">'.encode()
    )


class WrongKeys:
    """Counts wrong keys per address and minute. `limits.WRONG_KEYS_MAX` of them, and the address is told to wait.

    A right key is always let in: addresses are shared (a proxy, one machine), and 256 random bits need no lock-out.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def count(self, address: str) -> int:
        """Count one more wrong key; return the seconds to wait, 0 while within the bound."""
        now = self._clock()
        since, seen = self._seen.get(address, (now, 0))
        if now - since >= 60:
            since, seen = now, 0
        self._seen[address] = (since, seen + 1)
        self._seen.move_to_end(address)
        while len(self._seen) > limits.WRONG_KEY_ADDRESSES_MAX:
            self._seen.popitem(last=False)
        return max(1, int(60 - (now - since))) if seen + 1 > limits.WRONG_KEYS_MAX else 0
