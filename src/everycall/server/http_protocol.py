"""One HTTP/1.1 connection: uvicorn's protocol, with bounds on what a client can do before the app sees its request.

The runner creates one for each connection. Bodies that a route reads are bounded in `request_bodies`; here it is the
head of a request, a body that nobody reads, and bytes that are not HTTP.

Requests are parsed by httptools. It knows a fixed list of methods, and cannot read the body of a request that offers to
upgrade the connection, as Java's client does. Such a connection is handed over to `H11Connection`, parsed by h11.
"""

from __future__ import annotations

import asyncio
import logging
from enum import Enum, auto
from typing import Any

import h11
import httptools
import msgspec
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from everycall import limits
from everycall.errors import Problem
from everycall.semconv import PROBLEM_JSON
from everycall.server.connections import Activity, Connections
from everycall.server.security import HEADERS

__all__ = ["Connection", "H11Connection"]

_METHODS = (b"GET ", b"POST ", b"PUT ", b"DELETE ", b"PATCH ", b"HEAD ", b"OPTIONS ")
FRAMING_SHARE = 8
"""Bytes of framing for each byte of a chunked body: chunks of one byte have five."""
_FINAL_STATUS = tuple(b"HTTP/1.1 %d" % hundreds for hundreds in range(2, 6))

_logger = logging.getLogger("everycall.server.http_protocol")
_logger.setLevel(logging.ERROR)  # uvicorn logs a warning for every invalid request, and anybody can send those


class _HeadFirst:
    """A transport that sends the head of a response with the first bytes of its body: one packet instead of two.

    A head that is not followed at once is sent alone.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self.unwrapped = transport
        self._loop = loop
        self._head = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.unwrapped, name)

    def write(self, data: bytes) -> None:
        """Send bytes, or keep those of a head until the next write or turn of the loop."""
        if self._head:
            data, self._head = self._head + data, b""
        elif data.startswith(_FINAL_STATUS):
            self._head = data
            self._loop.call_soon(self._flush)
            return
        self.unwrapped.write(data)

    def close(self) -> None:
        """Send what is left and close."""
        self._flush()
        self.unwrapped.close()

    def _flush(self) -> None:
        if self._head:
            data, self._head = self._head, b""
            self.unwrapped.write(data)


class _Stage(Enum):
    """How much of the next request has arrived."""

    NOTHING = auto()
    HEAD = auto()
    BODY = auto()


class _BoundedProtocol:
    """What both parsers' connections share: their place among the open connections, and one deadline.

    A base class before uvicorn's protocol, whose `loop`, `client`, `cycle` and `transport` it uses.
    """

    loop: asyncio.AbstractEventLoop
    transport: Any
    client: tuple[str, int] | None
    cycle: Any

    def __init__(self, *args: Any, connections: Connections, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.logger = _logger
        self.address = ""
        self._open_connections = connections
        self._deadline: asyncio.TimerHandle | None = None
        self._awaited: tuple[float, object] | None = None

    def connection_made(self, transport: Any) -> None:
        """Start to wait for the first request."""
        super().connection_made(_HeadFirst(transport, self.loop))  # type: ignore[misc]
        self.address = self.client[0] if self.client else ""
        self._open_connections.add(self)
        self._wait(limits.HEAD_TIMEOUT_S)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop all waiting."""
        self._open_connections.remove(self)
        self._wait(None)
        super().connection_lost(exc)  # type: ignore[misc]

    def displace(self) -> None:
        """Close at once, to make room for another connection."""
        self.transport.abort()

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
        raise NotImplementedError


class Connection(_BoundedProtocol, HttpToolsProtocol):
    """An HTTP/1.1 connection.

    The head of a request has to arrive within `limits.HEAD_TIMEOUT_S` of its first byte (for the first request: of the
    connection), and has at most `limits.HEAD_BYTES_MAX` unless it comes in one piece. What the client sends after the
    response, such as a refused body, is read and dropped for `limits.UNREAD_TIMEOUT_S`, so that the client can read the
    response; then the connection is closed. Trailers are dropped.
    """

    def __init__(self, *args: Any, connections: Connections, **kwargs: Any) -> None:
        super().__init__(*args, connections=connections, **kwargs)
        self._stage = _Stage.NOTHING
        self._head_bytes = 0
        self._body_bytes = 0
        self._framing_bytes = 0

    def data_received(self, data: bytes) -> None:
        """Parse data, check the bounds, and set the deadline of what is expected next."""
        if self._stage is _Stage.NOTHING and _is_unusual(data) and self._is_quiet():
            self._hand_over(data)
            return
        before, body_before = self._stage, self._body_bytes
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self.send_400_response("Invalid HTTP request received.")
            return
        except httptools.HttpParserUpgrade:
            self.send_400_response("This server does not upgrade connections.")
            return
        if self._stage is _Stage.HEAD:
            # What came before this head in the same piece does not count, nor does the head's beginning then.
            self._head_bytes += len(data) if before is not _Stage.BODY else 0
            if self._head_bytes > limits.HEAD_BYTES_MAX:
                self.send_400_response("The head of the request is too large.")
                return
        elif self._stage is _Stage.BODY and before is _Stage.BODY:
            self._framing_bytes += len(data) - (self._body_bytes - body_before)
            if self._framing_bytes > limits.HEAD_BYTES_MAX + FRAMING_SHARE * self._body_bytes:
                self.send_400_response("The body has more framing than content.")
                return
        self._update()

    def on_message_begin(self) -> None:
        """Begin a head."""
        super().on_message_begin()
        self._stage = _Stage.HEAD
        self._head_bytes = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """Add a header. Trailers are dropped, because applications do not expect headers after the head."""
        if self._stage is _Stage.HEAD:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Begin the body, and the app's work. Raise `ValueError` for a target that is not a path (RFC 9112, 3.2.1)."""
        if not self.url.startswith(b"/"):
            raise ValueError("the target of the request is not a path")
        self._stage = _Stage.BODY
        self._body_bytes = self._framing_bytes = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a part of the body, or drop it once the response is complete."""
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End the request."""
        self._stage = _Stage.NOTHING
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Wait for the next request, or for the end of this one."""
        super().on_response_complete()
        self._update()

    def send_400_response(self, msg: str) -> None:
        """Refuse bytes that are not HTTP, unless a response has been started; then close the connection."""
        self._refuse(Problem("not_http", 400, "Bad request", f"{msg} Send HTTP/1.1, with a head of bounded length."))

    def _is_quiet(self) -> bool:
        """Return whether no response is being made."""
        return not self.pipeline and (self.cycle is None or self.cycle.response_complete)

    def _hand_over(self, data: bytes) -> None:
        """Let h11 read the rest of the connection."""
        self._wait(None)
        self._unset_keepalive_if_required()
        self._open_connections.remove(self)
        self.connections.discard(self)
        heir = H11Connection(
            config=self.config,
            server_state=self.server_state,
            app_state=self.app_state,
            connections=self._open_connections,
        )
        transport: Any = self.transport
        heir.connection_made(transport.unwrapped)
        transport.unwrapped.set_protocol(heir)
        heir.data_received(data)

    def _update(self) -> None:
        """Set the deadline and the activity that follow from the state of the connection."""
        if self._stage is _Stage.HEAD:
            self._wait(limits.HEAD_TIMEOUT_S)
        elif self._stage is _Stage.BODY and self.cycle is not None and self.cycle.response_complete:
            self._wait(limits.UNREAD_TIMEOUT_S)
        elif self._stage is not _Stage.NOTHING or self.cycle is not None:
            self._wait(None)
        self._open_connections.set_activity(self, self._activity())

    def _activity(self) -> Activity:
        if self._stage is _Stage.BODY or self.transport.get_write_buffer_size():
            return Activity.TRANSFERRING
        return Activity.IDLE if self._is_quiet() else Activity.RESPONDING

    def _too_late(self) -> None:
        if self._stage is _Stage.HEAD:
            detail = f"The head of the request was not complete within {limits.HEAD_TIMEOUT_S:g} s."
            self._refuse(Problem("slow_head", 408, "Request time-out", detail))
        else:
            self.transport.close()

    def _refuse(self, problem: Problem) -> None:
        """Send an error, unless a response has been started, and close the connection."""
        is_free = not (self.pipeline or self.cycle.response_started) if self.cycle is not None else True
        if self._is_quiet():
            is_free = self._stage is not _Stage.BODY  # else it is the body of a request that has its response
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True  # tells the app, which then sends nothing more
            self.cycle.message_event.set()
        if is_free and not self.transport.is_closing():
            self.transport.write(_response(problem))
        self.transport.close()


def _is_unusual(data: bytes) -> bool:
    """Return whether the beginning of a request has a method that httptools may not know, or offers an upgrade."""
    if not data.startswith(_METHODS):
        return True
    return b"upgrade:" in data[: limits.HEAD_BYTES_MAX].partition(b"\r\n\r\n")[0].lower()


class H11Connection(_BoundedProtocol, H11Protocol):
    """A connection with a request that httptools cannot read: the bounds of `Connection`, and no upgrade."""

    def __init__(self, *args: Any, connections: Connections, **kwargs: Any) -> None:
        super().__init__(*args, connections=connections, **kwargs)
        self.conn = h11.Connection(h11.SERVER, limits.HEAD_BYTES_MAX)

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

    def _too_late(self) -> None:
        head_has_begun = self.conn.their_state is h11.IDLE and bool(self.conn.trailing_data[0])
        if head_has_begun:
            detail = f"The head of the request was not complete within {limits.HEAD_TIMEOUT_S:g} s."
            self._refuse(Problem("slow_head", 408, "Request time-out", detail))
        else:
            self.transport.close()

    def _refuse(self, problem: Problem) -> None:
        if not self.transport.is_closing() and self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.write(_response(problem))
        self.transport.close()


def _response(problem: Problem) -> bytes:
    """Return a whole response, after which the connection is closed."""
    body = msgspec.json.encode(problem.as_json())
    headers = {**HEADERS, "content-type": PROBLEM_JSON, "content-length": str(len(body)), "connection": "close"}
    lines = [f"HTTP/1.1 {problem.status} {problem.title}", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body
