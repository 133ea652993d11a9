"""One request to the endpoint and its receipt. Layer 2; only the sender and `everycall ship` call it.

On the standard library's `http.client`: a batch must not show up in anybody's httpx log or instrumentation, and the
first one must not import a hundred modules into a running program (what it needs is imported by the sender's thread,
not with everycall). At most `limits.ANSWER_BYTES_MAX` of an answer is
read.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from everycall import limits
from everycall._ledger import Balance
from everycall._retry import retry_after_s
from everycall.semconv import API_KEY_HEADER, BALANCE_HEADER, CLIENT_HEADER, NDJSON, RECORDS_PATH

if TYPE_CHECKING:
    import http.client

__all__ = ["Committed", "Receipt", "Refused", "TooLarge", "Transport", "Unreachable", "preload"]


@dataclass(frozen=True, slots=True)
class Committed:
    """The batch is stored, but for the records refused alone: index in the batch -> reason."""

    refused: dict[int, str]


@dataclass(frozen=True, slots=True)
class Unreachable:
    """No answer that counts: keep everything and come back. `retry_after_s` is what the endpoint asked for."""

    reason: str
    retry_after_s: float | None = None
    unauthorised: bool = False


@dataclass(frozen=True, slots=True)
class TooLarge:
    """413: send less at once."""


@dataclass(frozen=True, slots=True)
class Refused:
    """Another 4xx: the endpoint will never take this body."""

    status: int
    reason: str


Receipt = Committed | Unreachable | TooLarge | Refused


class Transport:
    """A kept-alive connection to one endpoint. Not shared between threads."""

    def __init__(self, endpoint: str, *, compress: bool, client: str, user_agent: str) -> None:
        parts = urlsplit(endpoint)
        self._secure = parts.scheme == "https"
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if self._secure else 80)
        self._path = parts.path.rstrip("/") + RECORDS_PATH
        self._compress = compress
        self._client = client
        self._user_agent = user_agent
        self._proxied = compress  # a loopback endpoint is never reached through a proxy
        self._connection: http.client.HTTPConnection | None = None

    def send(
        self, lines: Sequence[bytes], key: str | None, balance: Balance, timeout_s: float = limits.ANSWER_TIMEOUT_S
    ) -> Receipt:
        """Post a batch of records' JSON and return its receipt; what network and endpoint do is never raised."""
        from http.client import HTTPException

        body = b"\n".join(lines) + b"\n"
        headers = {
            "content-type": NDJSON,
            "user-agent": self._user_agent,
            CLIENT_HEADER: self._client,
            BALANCE_HEADER: json.dumps(
                {
                    "recorded": balance.recorded,
                    "delivered": balance.delivered,
                    "spooled": balance.spooled,
                    "dropped": balance.dropped,
                },
                separators=(",", ":"),
            ),
        }
        if key:
            headers[API_KEY_HEADER] = key
        if self._compress:
            import gzip

            body = gzip.compress(body, 1, mtime=0)
            headers["content-encoding"] = "gzip"
        try:
            status, answer, answer_headers = self._exchange(body, headers, timeout_s)
        except (OSError, HTTPException, ValueError) as error:
            self.close()
            return Unreachable(_reason(error))
        return _receipt(status, answer, answer_headers, len(lines))

    def _exchange(self, body: bytes, headers: dict[str, str], timeout_s: float) -> tuple[int, bytes, Mapping[str, str]]:
        from http.client import CannotSendRequest

        fresh = self._connection is None
        connection = self._connection or self._connect()
        if connection.sock is not None:
            connection.sock.settimeout(timeout_s)
        try:
            connection.request("POST", self._path, body, headers)
            if connection.sock is not None:
                connection.sock.settimeout(timeout_s)
            response = connection.getresponse()
        except (ConnectionError, CannotSendRequest):
            self.close()
            if fresh:
                raise
            # a kept-alive connection that the endpoint had closed meanwhile: once more on a new one (ids make it safe)
            return self._exchange(body, headers, timeout_s)
        answer = response.read(limits.ANSWER_BYTES_MAX)
        if response.will_close or not response.isclosed():
            self.close()  # there is more to read, or no more to come: either way this connection is done
        return response.status, answer, {name.lower(): value for name, value in response.headers.items()}

    def _connect(self) -> http.client.HTTPConnection:
        import http.client

        proxy = self._proxy()
        host, port = proxy or (self._host, self._port)
        connection: http.client.HTTPConnection
        if self._secure:
            import ssl

            context = ssl.create_default_context()
            connection = http.client.HTTPSConnection(host, port, timeout=limits.CONNECT_TIMEOUT_S, context=context)
        else:
            connection = http.client.HTTPConnection(host, port, timeout=limits.CONNECT_TIMEOUT_S)
        if proxy:
            connection.set_tunnel(self._host, self._port)
        connection.connect()
        self._connection = connection
        return connection

    def _proxy(self) -> tuple[str, int] | None:
        if not self._proxied:
            return None
        import urllib.request

        if urllib.request.proxy_bypass(self._host):
            return None
        address = urllib.request.getproxies().get("https" if self._secure else "http")
        parts = urlsplit(address) if address else None
        return (parts.hostname, parts.port or 8080) if parts is not None and parts.hostname else None

    def close(self) -> None:
        """Close the connection; the next `send` opens a new one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def preload(*, compress: bool) -> None:
    """Import what sending needs; `everycall.init` calls it, so that it does not happen while the program runs or ends.

    (In CPython, an import that runs while an uncaught `KeyboardInterrupt` ends the program can change its exit code.)
    """
    for module in ("http.client", "email.utils", *(("gzip", "urllib.request") if compress else ())):
        importlib.import_module(module)


def _reason(error: BaseException) -> str:
    """Return what to tell of a failure: the system's words, never the endpoint's, which may repeat what was sent."""
    text = error.strerror if isinstance(error, OSError) else None
    return f"{type(error).__name__}: {text}"[:200] if text else type(error).__name__


def _receipt(status: int, answer: bytes, headers: Mapping[str, str], count: int) -> Receipt:
    if 200 <= status < 300:
        refused, told = _refusals(answer, count)
        # more were refused than the answer had room to name: smaller batches will name them all
        return Committed(refused) if told <= len(refused) or count == 1 else TooLarge()
    if status == 413:
        return TooLarge()
    if status in (401, 403):
        return Unreachable(f"the endpoint answered {status}: the key is missing or not accepted", None, True)
    if status in (408, 425, 429) or status >= 500 or status < 400:
        requested_s = retry_after_s(headers)
        wait_s = min(requested_s, limits.RETRY_AFTER_MAX_S) if requested_s is not None else None
        return Unreachable(f"the endpoint answered {status}", wait_s)
    return Refused(status, _detail(answer) or f"the endpoint answered {status}")


def _refusals(answer: bytes, count: int) -> tuple[dict[int, str], int]:
    """Read who was refused, and how many were. A 2xx that cannot be read counts as committed: the endpoint said yes."""
    try:
        body = json.loads(answer)
        refused = {
            int(entry["index"]): str(entry.get("reason", "refused"))[:500]
            for entry in body["refused"]
            if 0 <= int(entry["index"]) < count
        }
        return refused, int(body.get("refused_count", 0))
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}, 0


def _detail(answer: bytes) -> str | None:
    try:
        return str(json.loads(answer)["detail"])[:500]
    except (ValueError, KeyError, TypeError):
        return None
