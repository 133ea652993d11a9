"""One connection as uvicorn serves it, with what a stranger may do to it before the app is asked: bounds and quiet.

`running` gives it to uvicorn. Bodies that a route reads are bounded in `bodies`; here it is the head of a request, the
rest of a body that nobody reads, and bytes that are no HTTP.
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
from everycall.server.security import HEADERS

__all__ = ["Connection"]

_logger = logging.getLogger("everycall.server.http_protocol")
_logger.setLevel(logging.ERROR)  # anybody can send what uvicorn warns of, once for every request


class Connection(H11Protocol):
    """HTTP/1.1 by h11, whatever other parser is installed: its bound of a head's bytes is a part of this one's.

    The head of a request has to be there within `limits.HEAD_TIMEOUT_S` of its first byte (of the connection, for the
    first one), and within `limits.HEAD_BYTES_MAX`. What is sent on after the answer, such as a body that was refused,
    is read and dropped for `limits.UNREAD_TIMEOUT_S`, so that the client reads its answer; then the connection ends.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.logger = _logger
        self.conn = h11.Connection(h11.SERVER, limits.HEAD_BYTES_MAX)
        self._deadline: asyncio.TimerHandle | None = None
        self._for: tuple[float, object] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._wait(limits.HEAD_TIMEOUT_S)

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing more."""
        self._wait(None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what came, and see what is waited for now."""
        super().data_received(data)
        self._look()

    def on_response_complete(self) -> None:
        """Go on to the next request, or wait for the end of this one."""
        super().on_response_complete()
        self._look()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP in the one shape of errors, unless an answer is under way; then end the connection."""
        if self.cycle is not None:
            self.cycle.disconnected = True  # the app is told so, and sends nothing more
            self.cycle.message_event.set()
        self._refuse(Problem("not_http", 400, "Bad request", f"{msg} Send HTTP/1.1, with a head of bounded length."))

    def _look(self) -> None:
        theirs, ours = self.conn.their_state, self.conn.our_state
        if theirs is h11.IDLE and self.conn.trailing_data[0]:
            self._wait(limits.HEAD_TIMEOUT_S)
        elif theirs is h11.SEND_BODY and ours in (h11.DONE, h11.MUST_CLOSE):
            self._wait(limits.UNREAD_TIMEOUT_S)
        elif theirs is not h11.IDLE or self.cycle is not None:
            self._wait(None)

    def _wait(self, seconds: float | None) -> None:
        """Wait no longer than this for what the current request is at; what is waited for already keeps its time."""
        wanted = None if seconds is None else (seconds, self.cycle)
        if wanted == self._for:
            return
        self._for = wanted
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = None if seconds is None else self.loop.call_later(seconds, self._too_late)

    def _too_late(self) -> None:
        begun = self.conn.their_state is h11.IDLE and bool(self.conn.trailing_data[0])
        if begun:
            detail = f"The head of the request was not complete within {limits.HEAD_TIMEOUT_S:g} s."
            self._refuse(Problem("slow_head", 408, "Request time-out", detail))
        else:
            self.transport.close()

    def _refuse(self, problem: Problem) -> None:
        if not self.transport.is_closing() and self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = msgspec.json.encode(problem.as_json())
            headers = {**HEADERS, "content-type": PROBLEM_JSON, "content-length": str(len(body)), "connection": "close"}
            answer = h11.Response(status_code=problem.status, headers=list(headers.items()), reason=problem.title)
            for event in (answer, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
