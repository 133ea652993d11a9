"""The fake provider, which also streams: server-sent events as OpenAI and Anthropic send them, under a test's control.

`provider.stream(...)` says what the next streamed requests get. Without it a stream has the default answer in pieces of
two characters. Plain requests get what the fake provider's own scripts say.
"""

from __future__ import annotations

import io
import json
import select
import socket
import threading
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from everycall_testkit import provider as base

__all__ = ["StreamProvider", "StreamReply"]


@dataclass
class StreamReply:
    """The reply to one streamed request: `pieces` are sent one by one.

    After `pause_after` pieces it waits for `go` (at most ten seconds) or for the client to hang up, which sets `gone`.
    `break_after` closes the connection after so many pieces, `error_after` sends an error event instead of the next.
    `raw` replaces everything with these bytes.
    """

    pieces: list[str] = field(default_factory=lambda: ["he", "ll", "o"])
    tool_calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    usage: bool = True
    done: bool = True
    model: str | None = None
    pause_after: int | None = None
    go: threading.Event = field(default_factory=threading.Event)
    gone: threading.Event = field(default_factory=threading.Event)
    break_after: int | None = None
    error_after: int | None = None
    raw: bytes | None = None


class StreamProvider(base.FakeProvider):
    """`FakeProvider` with streams."""

    def __init__(self) -> None:
        super().__init__()
        self._streams: deque[StreamReply] = deque()

    def stream(self, **fields: Any) -> StreamReply:
        """Script one stream from its fields, and return it."""
        reply = StreamReply(**fields)
        self._streams.append(reply)
        return reply

    def start(self) -> StreamProvider:
        """Listen on a free port of 127.0.0.1."""
        handler = type("StreamHandler", (_StreamHandler,), {"provider": self})
        self._server = base._Server(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), name="fake provider")
        self._thread.start()
        return self

    def take_stream(self) -> StreamReply:
        """Return the reply to the next stream."""
        return self._streams.popleft() if self._streams else StreamReply()


class _StreamHandler(base._Handler):
    provider: StreamProvider

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers.get("content-length", 0)))
        body = json.loads(data)
        if not body.get("stream"):
            whole, self.rfile = self.rfile, io.BytesIO(data)
            try:
                super().do_POST()
            finally:
                self.rfile = whole
            return
        provider = self.provider
        reply = provider.take(base.Seen(self.path, {k.lower(): v for k, v in self.headers.items()}, body))
        if reply.hold is not None:
            reply.hold.wait(base.HOLD_MAX_S)
        if reply.status >= 400:
            error = {"type": "error", "message": reply.error, "code": None, "param": None}
            self._send(reply.status, json.dumps({"type": "error", "error": error}).encode(), reply)
            return
        stream = provider.take_stream()
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        anthropic = self.path.partition("?")[0].endswith("/messages")
        model = stream.model or base.RESOLVED.get(body["model"], body["model"])
        try:
            self._send_stream(stream, (_anthropic if anthropic else _openai)(stream, model, body))
        except OSError:
            stream.gone.set()
            self.close_connection = True

    def _send_stream(self, stream: StreamReply, events: list[tuple[int | None, bytes]]) -> None:
        """Send the events; the number says how many pieces were sent once an event is."""
        if stream.raw is not None:
            self._chunk(stream.raw)
            self._chunk(b"")
            return
        if stream.pause_after == 0:
            self._pause(stream)
        for number, event in events:
            self._chunk(event)
            if number is None:
                continue
            if number == stream.pause_after:
                self._pause(stream)
            if number == stream.break_after:
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
                return
            if number == stream.error_after:
                self._chunk(b'data: {"type": "error", "error": {"message": "overloaded in the middle"}}\n\n')
                self._chunk(b"")
                return
        self._chunk(b"")

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
        self.wfile.flush()

    def _pause(self, stream: StreamReply) -> None:
        for _ in range(base.HOLD_MAX_S * 100):
            if stream.go.wait(0.01):
                return
            readable, _, _ = select.select([self.connection], [], [], 0)
            if readable and not self.connection.recv(1, socket.MSG_PEEK):
                raise ConnectionResetError


def _openai(stream: StreamReply, model: str, body: dict[str, Any]) -> list[tuple[int | None, bytes]]:
    about = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": model}

    def event(**fields: Any) -> bytes:
        return b"data: " + json.dumps({**about, **fields}).encode() + b"\n\n"

    def delta(finish: str | None = None, **fields: Any) -> bytes:
        return event(choices=[{"index": 0, "delta": fields, "finish_reason": finish}])

    events: list[tuple[int | None, bytes]] = [(None, delta(role="assistant", content=""))]
    events += [(n, delta(content=piece)) for n, piece in enumerate(stream.pieces, 1)]
    for index, (name, arguments) in enumerate(stream.tool_calls):
        text = json.dumps(arguments)
        first = {"index": index, "id": f"call_{index + 1}", "type": "function"}
        events.append((None, delta(tool_calls=[{**first, "function": {"name": name, "arguments": ""}}])))
        for part in (text[:3], text[3:]):
            events.append((None, delta(tool_calls=[{"index": index, "function": {"arguments": part}}])))
    events.append((None, delta("tool_calls" if stream.tool_calls else "stop")))
    if stream.usage and (body.get("stream_options") or {}).get("include_usage"):
        usage = base._openai(base.Reply(), model)["usage"]
        events.append((None, event(choices=[], usage=usage)))
    if stream.done:
        events.append((None, b"data: [DONE]\n\n"))
    return events


def _anthropic(stream: StreamReply, model: str, body: dict[str, Any]) -> list[tuple[int | None, bytes]]:
    def event(kind: str, **fields: Any) -> bytes:
        return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()

    usage = base._anthropic(base.Reply(), model)["usage"]
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": model, "content": []}
    start = {**message, "usage": {**usage, "output_tokens": 1}}
    events: list[tuple[int | None, bytes]] = [
        (None, event("message_start", message=start)),
        (None, event("content_block_start", index=0, content_block={"type": "text", "text": ""})),
        (None, event("ping")),
    ]
    for n, piece in enumerate(stream.pieces, 1):
        events.append((n, event("content_block_delta", index=0, delta={"type": "text_delta", "text": piece})))
    events.append((None, event("content_block_stop", index=0)))
    for index, (name, arguments) in enumerate(stream.tool_calls, 1):
        block = {"type": "tool_use", "id": f"toolu_{index}", "name": name, "input": {}}
        events.append((None, event("content_block_start", index=index, content_block=block)))
        text = json.dumps(arguments)
        for part in (text[:3], text[3:]):
            delta = {"type": "input_json_delta", "partial_json": part}
            events.append((None, event("content_block_delta", index=index, delta=delta)))
    reason = "tool_use" if stream.tool_calls else "end_turn"
    end = {"output_tokens": 189} if stream.usage else {}
    events.append((None, event("message_delta", delta={"stop_reason": reason}, usage=end)))
    if stream.done:
        events.append((None, event("message_stop")))
    return events
