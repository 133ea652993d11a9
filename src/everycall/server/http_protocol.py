"""One HTTP/1.1 connection: uvicorn's protocol, with bounds on what a client can do before the app sees its request.

The runner creates one for each connection. Bodies that a route reads are bounded in `request_bodies`; here it is the
head of a request, a body that nobody reads, and bytes that are not HTTP.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import h11
import msgspec
from uvicorn.protocols.http.h11_impl import H11Protocol

from everycall import limits
from everycall.errors import Problem
from everycall.semconv import PROBLEM_JSON
from everycall.server.connections import Activity, Connections
from everycall.server.security import HEADERS

__all__ = ["Connection"]

_FINAL_STATUS = tuple(b"HTTP/1.1 %d" % hundreds for hundreds in range(2, 6))

_logger = logging.getLogger("everycall.server.http_protocol")
_logger.setLevel(logging.ERROR)  # uvicorn logs a warning for every invalid request, and anybody can send those


class _HeadFirst:
    """A transport that sends the head of a response with the first bytes of its body: one packet instead of two.

    A head that is not followed at once is sent alone.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._head = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send bytes, or keep those of a head until the next write or turn of the loop."""
        if self._head:
            data, self._head = self._head + data, b""
        elif data.startswith(_FINAL_STATUS):
            self._head = data
            self._loop.call_soon(self._flush)
            return
        self._transport.write(data)

    def close(self) -> None:
        """Send what is left and close."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._head:
            data, self._head = self._head, b""
            self._transport.write(data)


class Connection(H11Protocol):
    """An HTTP/1.1 connection, parsed by h11 even if httptools is installed: the limit of a head's size is h11's.

    The head of a request has to arrive within `limits.HEAD_TIMEOUT_S` of its first byte (for the first request: of the
    connection), and has at most `limits.HEAD_BYTES_MAX`. What the client sends after the response, such as a refused
    body, is read and dropped for `limits.UNREAD_TIMEOUT_S`, so that the client can read the response; then the
    connection is closed.
    """

    def __init__(self, *args: Any, connections: Connections, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.logger = _logger
        self.conn = h11.Connection(h11.SERVER, limits.HEAD_BYTES_MAX)
        self.address = ""
        self._open_connections = connections
        self._deadline: asyncio.TimerHandle | None = None
        self._awaited: tuple[float, object] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start to wait for the first request."""
        super().connection_made(_HeadFirst(transport, self.loop))  # type: ignore[arg-type]
        self.address = self.client[0] if self.client else ""
        self._open_connections.add(self)
        self._wait(limits.HEAD_TIMEOUT_S)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop all waiting."""
        self._open_connections.remove(self)
        self._wait(None)
        super().connection_lost(exc)

    def displace(self) -> None:
        """Close at once, to make room for another connection."""
        self.transport.abort()

    def data_received(self, data: bytes) -> None:
        """Parse data, and set the deadline of what is expected next."""
        super().data_received(data)
        self._update()

    def on_response_complete(self) -> None:
        """Wait for the next request, or for the end of this one."""
        super().on_response_complete()
        self._update()

    def send_400_response(self, msg: str) -> None:
        """Refuse bytes that are not HTTP, unless a response has been started; then close the connection."""
        if self.cycle is not None:
            self.cycle.disconnected = True  # tells the app, which then sends nothing more
            self.cycle.message_event.set()
        self._refuse(Problem("not_http", 400, "Bad request", f"{msg} Send HTTP/1.1, with a head of bounded length."))

    def _update(self) -> None:
        """Set the deadline and the activity that follow from the state of the connection."""
        theirs, ours = self.conn.their_state, self.conn.our_state
        if theirs is h11.IDLE and self.conn.trailing_data[0]:
            self._wait(limits.HEAD_TIMEOUT_S)
        elif theirs is h11.SEND_BODY and ours in (h11.DONE, h11.MUST_CLOSE):
            self._wait(limits.UNREAD_TIMEOUT_S)
        elif theirs is not h11.IDLE or self.cycle is not None:
            self._wait(None)
        self._open_connections.set_activity(self, self._activity())

    def _activity(self) -> Activity:
        if self.conn.their_state is h11.SEND_BODY or self.transport.get_write_buffer_size():
            return Activity.TRANSFERRING
        if self.cycle is None or self.cycle.response_complete:
            return Activity.IDLE
        return Activity.RESPONDING

    def _wait(self, seconds: float | None) -> None:
        """Set the deadline of what the connection waits for now. A wait that has begun keeps its deadline."""
        awaited = None if seconds is None else (seconds, self.cycle)
        if awaited == self._awaited:
            return
        self._awaited = awaited
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = None if seconds is None else self.loop.call_later(seconds, self._too_late)

    def _too_late(self) -> None:
        head_has_begun = self.conn.their_state is h11.IDLE and bool(self.conn.trailing_data[0])
        if head_has_begun:
            detail = f"The head of the request was not complete within {limits.HEAD_TIMEOUT_S:g} s."
            self._refuse(Problem("slow_head", 408, "Request time-out", detail))
        else:
            self.transport.close()

    def _refuse(self, problem: Problem) -> None:
        if not self.transport.is_closing() and self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = msgspec.json.encode(problem.as_json())
            headers = {**HEADERS, "content-type": PROBLEM_JSON, "content-length": str(len(body)), "connection": "close"}
            response = h11.Response(status_code=problem.status, headers=list(headers.items()), reason=problem.title)
            for event in (response, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
