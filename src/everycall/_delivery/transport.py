"""One request to the endpoint and its receipt. The sender and `everycall ship` use it.

It uses the standard library's HTTP client, so that batches do not appear in the program's httpx log or instrumentation,
and the first batch does not import a hundred modules. At most `limits.ANSWER_BYTES_MAX` of an answer is read.
"""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from everycall import limits
from everycall._delivery.fork_gate import gate
from everycall._delivery.receipt import Receipt, Unreachable, receipt_of
from everycall._ledger import Balance
from everycall._local_server import PROOF_PATH, UNPROVEN, is_proof, nonce
from everycall.semconv import API_KEY_HEADER, BALANCE_HEADER, CLIENT_HEADER, NDJSON, RECORDS_PATH

if TYPE_CHECKING:
    import ssl

    from everycall._delivery.connection import Connection

__all__ = ["Transport", "preload"]

_Answer = tuple[int, bytes, Mapping[str, str]]
"""Status, body, headers with names in lower case."""


def preload(endpoint: str, *, is_remote: bool) -> None:
    """Import all modules that sending to an endpoint may need.

    Called on the thread that starts the sender, never on the sender's own: a child that is forked while another thread
    imports a module hangs when it imports the same one. (Also, in CPython an import that runs while an uncaught
    `KeyboardInterrupt` ends the program can change its exit code.)
    """
    modules = ["everycall._delivery.connection", "email.utils", "encodings.idna", "hashlib", "hmac"]
    if endpoint.startswith("https:"):
        modules.append("ssl")
    if is_remote:
        modules += ["gzip", "urllib.request"]
    with gate:
        for module in modules:
            importlib.import_module(module)
        "preload".encode("idna")  # the codec imports further modules at its first use


class _Unproven(Exception):
    """The process that listens at the endpoint did not prove that it is this user's server."""


class Transport:
    """A kept-alive connection to one endpoint. One thread uses it; `cancel` may be called from another.

    With `requires_proof`, nothing is sent on a connection before the server has proved itself on it.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        compress: bool,
        client: str,
        user_agent: str,
        requires_proof: Callable[[], bool] = lambda: False,
    ) -> None:
        preload(endpoint, is_remote=compress)
        parts = urlsplit(endpoint)
        self._is_secure = parts.scheme == "https"
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if self._is_secure else 80)
        self._base_path = parts.path.rstrip("/")
        self._compress = compress
        self._client = client
        self._user_agent = user_agent
        self._uses_proxy = compress  # a loopback endpoint is never reached through a proxy
        self._connection: Connection | None = None
        self._context: ssl.SSLContext | None = None
        self._requires_proof = requires_proof
        self._proven_with: str | None = None
        """The key with which the server has proved itself on this connection."""
        self._is_cancelled = False
        self.until = math.inf
        """A `time.monotonic()` at which every attempt ends."""

    def send(
        self, lines: Sequence[bytes], key: str | None, balance: Balance, timeout_s: float = limits.ANSWER_TIMEOUT_S
    ) -> Receipt:
        """Post a batch of records' JSON and return its receipt. Raises nothing for failures of network and endpoint.

        `timeout_s` applies to the answer once the batch was sent, and to sending each part of the batch.
        """
        from http.client import HTTPException

        body = b"\n".join(lines) + b"\n"
        headers = {
            "content-type": NDJSON,
            "user-agent": self._user_agent,
            CLIENT_HEADER: self._client,
            BALANCE_HEADER: _balance_header(balance),
        }
        if key:
            headers[API_KEY_HEADER] = key
        if self._compress:
            import gzip

            body = gzip.compress(body, 1, mtime=0)
            headers["content-encoding"] = "gzip"
        try:
            status, answer, answer_headers = self._exchange(body, headers, key, timeout_s)
        except _Unproven:
            self.close()
            return Unreachable(UNPROVEN, unauthorised=True)
        except (OSError, HTTPException, ValueError) as error:
            self.close()
            return Unreachable(_reason(error))
        return receipt_of(status, answer, answer_headers, len(lines))

    def cancel(self) -> None:
        """End the current wait, and all later ones at once: `send` returns `Unreachable`."""
        self._is_cancelled = True

    def close(self) -> None:
        """Close the connection; the next `send` opens a new one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self._proven_with = None

    def release_in_child(self) -> None:
        """In a forked child: close the copy of the parent's connection."""
        if self._connection is not None:
            self._connection.stream.release_in_child()

    def _exchange(self, body: bytes, headers: dict[str, str], key: str | None, timeout_s: float) -> _Answer:
        from http.client import CannotSendRequest

        is_new = self._connection is None
        connection = self._connection or self._connect()
        connection.stream.allow(timeout_s)
        try:
            self._prove(connection, key)
            connection.request("POST", self._base_path + RECORDS_PATH, body, headers)
            response = connection.getresponse()
        except (ConnectionError, CannotSendRequest):
            self.close()
            if is_new or self._is_cancelled:
                raise
            # The endpoint had closed a kept-alive connection. Send again on a new one: the records' ids make this safe.
            return self._exchange(body, headers, key, timeout_s)
        answer = response.read(limits.ANSWER_BYTES_MAX)
        if response.will_close or not response.isclosed():
            self.close()  # the answer was not read to its end, or the endpoint closes: the connection cannot be reused
        return response.status, answer, {name.lower(): value for name, value in response.headers.items()}

    def _prove(self, connection: Connection, key: str | None) -> None:
        """Make the server prove itself on this connection, if required. Raise `_Unproven` if it fails."""
        if not self._requires_proof() or (key is not None and key == self._proven_with):
            return
        if key is None:
            raise _Unproven
        challenge = nonce()
        connection.request("GET", f"{self._base_path}{PROOF_PATH}?nonce={challenge}")
        response = connection.getresponse()
        answer = response.read(limits.ANSWER_BYTES_MAX)
        if response.status != 200 or not is_proof(answer, key, challenge, self._port):
            raise _Unproven
        self._proven_with = key

    def _connect(self) -> Connection:
        from everycall._delivery.connection import Connection, Stream

        proxy = self._proxy()
        host, port = proxy or (self._host, self._port)
        stream = Stream(lambda: self._is_cancelled, self.until)
        connection = Connection(host, port, stream, self._tls_context(), self._host)
        if proxy:
            connection.set_tunnel(self._host, self._port)
        try:
            connection.connect()
        except BaseException:
            stream.close()
            raise
        self._connection = connection
        return connection

    def _tls_context(self) -> ssl.SSLContext | None:
        if self._is_secure and self._context is None:
            import ssl

            with gate:
                self._context = ssl.create_default_context()
        return self._context

    def _proxy(self) -> tuple[str, int] | None:
        if not self._uses_proxy:
            return None
        import urllib.request

        if urllib.request.proxy_bypass(self._host):
            return None
        address = urllib.request.getproxies().get("https" if self._is_secure else "http")
        parts = urlsplit(address) if address else None
        return (parts.hostname, parts.port or 8080) if parts is not None and parts.hostname else None


def _balance_header(balance: Balance) -> str:
    counts = {
        "recorded": balance.recorded,
        "delivered": balance.delivered,
        "spooled": balance.spooled,
        "dropped": balance.dropped,
    }
    return json.dumps(counts, separators=(",", ":"))


def _reason(error: BaseException) -> str:
    """Return the system's description of a failure, never the endpoint's, which may repeat what was sent."""
    text = error.strerror if isinstance(error, OSError) else None
    return f"{type(error).__name__}: {text}"[:200] if text else type(error).__name__
