"""A provider of language models on loopback: a real HTTP server with OpenAI's, Azure's, Anthropic's and Google's APIs.

The same request gets the same answer. `script(...)` says what the next requests get instead: failures, slow answers,
tool calls. `requests` has what was received. Used by fixtures, from any client library. It has all of OpenAI's APIs
(chat, legacy completions, responses, embeddings), also streamed. `openai_wire.py`, `anthropic_wire.py` and
`gemini_wire.py` make what is sent.
"""

from __future__ import annotations

import json
import socket
import threading
from collections import deque
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from everycall_testkit import anthropic_wire, gemini_wire, openai_wire, strict_anthropic, strict_openai

__all__ = ["FakeProvider", "Reply", "Seen"]

RESOLVED = {"gpt-3.5-turbo": "gpt-3.5-turbo-0613", "gpt-4o": "gpt-4o-2024-08-06"}
"""The dated name with which a provider answers for an alias; other models answer under their own name."""

HOLD_MAX_S = 60
"""A reply that waits for a test continues after this time, so that a failed test leaves no thread behind."""


@dataclass(frozen=True)
class Seen:
    """One request as it was received: `body` decoded, header names in lower case."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def messages(self) -> list[dict[str, Any]]:
        messages: list[dict[str, Any]] = self.body["messages"]
        return messages


@dataclass
class Reply:
    """The reply to one request. The default is a success: "hello", 22 input tokens and 189 output tokens.

    `usage` None sends none; "default" the one above; a dict is sent as it is. `error` is the message of a failure with
    `status`. `body` replaces the whole body. `cut` closes the connection in the middle of the body. `hold` is waited
    for before anything is sent (at most ten seconds), so that a test says when the provider answers.

    Of OpenAI's APIs: `pieces` is the content as it is streamed (`content` in one piece by default), `finish` the reason
    for the end (of a response: its status), `message` what a chat's message has beside its content. A stream waits for
    `go` after `pause_after` pieces, and has its connection broken after `break_after` or an error event after
    `error_after`.
    """

    status: int = 200
    content: str | None = "hello"
    tool_calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    refusal: str | None = None
    model: str | None = None
    usage: dict[str, Any] | str | None = "default"
    error: str = "the model is overloaded"
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    cut: bool = False
    hold: threading.Event | None = None
    pieces: list[str] | None = None
    finish: str | None = None
    message: dict[str, Any] = field(default_factory=dict)
    pause_after: int | None = None
    go: threading.Event = field(default_factory=threading.Event)
    break_after: int | None = None
    error_after: int | None = None


class FakeProvider:
    """The server. `base_url` ends in /v1, as OpenAI's does; `root` is without it, for Azure and Anthropic.

    With `strict`, a chat completion or a message that the real provider would refuse is answered 400.
    """

    def __init__(self) -> None:
        self.requests: list[Seen] = []
        self.arrived = threading.Semaphore(0)
        self.default = Reply()
        self.strict = False
        self._script: deque[Reply] = deque()
        self._lock = threading.Lock()
        self._server: ThreadingHTTPServer | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> FakeProvider:
        """Listen on a free port of 127.0.0.1."""
        self._server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"provider": self}))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), name="fake provider")
        self._thread.start()
        return self

    def stop(self) -> None:
        """Close the port and wait for the requests under way."""
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()
            self._server = self._thread = None

    def __enter__(self) -> FakeProvider:
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    @property
    def root(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def base_url(self) -> str:
        return f"{self.root}/v1"

    def script(self, *replies: Reply) -> None:
        """Answer the next requests with these replies, in order, and later ones with `default`."""
        with self._lock:
            self._script.extend(replies)

    def reply(self, **fields: Any) -> Reply:
        """Script one reply from its fields, and return it."""
        reply = Reply(**fields)
        self.script(reply)
        return reply

    def take(self, request: Seen) -> Reply:
        """Keep a request and return its reply."""
        with self._lock:
            self.requests.append(request)
            reply = self._script.popleft() if self._script else self.default
        self.arrived.release()
        return reply


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log nothing: clients that go away are part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    provider: FakeProvider
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("content-length", 0))))
        path = self.path.partition("?")[0]
        reply = self.provider.take(Seen(self.path, {k.lower(): v for k, v in self.headers.items()}, body))
        if reply.hold is not None:
            reply.hold.wait(HOLD_MAX_S)
        if gemini_wire.is_asked(path):
            if gemini_wire.is_streamed(path, reply):
                self._stream(gemini_wire.events(path, reply), reply)
            else:
                self._send(reply.status, gemini_wire.answer(path, body, reply), reply)
            return
        anthropic = anthropic_wire.speaks(path)
        if self.provider.strict and reply.status == 200:
            refusal = strict_anthropic.refusal(body) if anthropic else strict_openai.refusal(body)
            if refusal is not None:
                reply = Reply(status=400, error=refusal)
        if not anthropic and not path.endswith(openai_wire.PATHS):
            self._send(404, json.dumps({"error": {"message": f"no such path {path}"}}).encode(), reply)
        elif reply.body is not None:
            self._send(reply.status, reply.body, reply)
        elif reply.status >= 400:
            error = {"type": "error", "message": reply.error, "code": None, "param": None}
            failure = anthropic_wire.failure(reply) if anthropic else {"type": "error", "error": error}
            self._send(reply.status, json.dumps(failure).encode(), reply)
        else:
            name = anthropic_wire.model_of(path, body) if anthropic else body["model"]
            model = reply.model or RESOLVED.get(name, name)
            wire = anthropic_wire if anthropic else openai_wire
            if body.get("stream"):
                self._stream(wire.events(path, body, reply, model), reply)
                return
            self._send(200, json.dumps(wire.answer(path, body, reply, model)).encode(), reply)

    def date_time_string(self, timestamp: float | None = None) -> str:
        """Return one date for all replies, so that a test can compare two of them."""
        return super().date_time_string(1_767_225_600)

    def do_GET(self) -> None:
        """Answer for Anthropic's batches; only a request for results takes a scripted reply."""
        path, seen = self.path.partition("?")[0], Seen(self.path, {k.lower(): v for k, v in self.headers.items()}, {})
        reply = self.provider.take(seen) if path.endswith("/results") else Reply()
        batch = anthropic_wire.got(path, self.provider.root, reply)
        self._send(404 if batch is None else reply.status, batch or b"{}", reply)

    def _send(self, status: int, body: bytes, reply: Reply) -> None:
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.end_headers()
        if reply.cut:
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return
        self.wfile.write(body)

    def _stream(self, events: list[tuple[bool, bytes]], reply: Reply) -> None:
        """Send events one by one, as `reply` says; each with whether it is a piece of what the model says."""
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.end_headers()
        sent_count = 0
        for is_piece, event in events:
            if is_piece and sent_count == reply.pause_after:
                reply.go.wait(HOLD_MAX_S)
            if is_piece and sent_count == reply.error_after:
                error = {"type": "overloaded_error", "message": "overloaded in the middle"}
                self._chunk(f"event: error\ndata: {json.dumps({'type': 'error', 'error': error})}\n\n".encode())
                break
            if is_piece and sent_count == reply.break_after:
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
                return
            self._chunk(event)
            sent_count += is_piece
        self._chunk(b"")

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
        self.wfile.flush()

    def log_message(self, *args: object) -> None:
        """Print nothing."""


def _openai(reply: Reply, model: str) -> dict[str, Any]:
    body: dict[str, Any] = openai_wire.answer("/chat/completions", {}, reply, model)
    return body


_anthropic = anthropic_wire.message
