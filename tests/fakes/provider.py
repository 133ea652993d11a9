"""A provider of language models on loopback: a real HTTP server that speaks OpenAI's, Azure's and Anthropic's APIs.

The same request gets the same answer. `script(...)` says how the next requests go instead: failures, slow answers,
tool calls. What was asked is in `requests`. Loaded by fixtures; used from any client library.
"""

from __future__ import annotations

import json
import socket
import threading
from collections import deque
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

__all__ = ["FakeProvider", "Reply", "Seen"]

RESOLVED = {"gpt-3.5-turbo": "gpt-3.5-turbo-0613", "gpt-4o": "gpt-4o-2024-08-06"}
"""The dated name with which a provider answers for an alias; other models answer under their own name."""


@dataclass(frozen=True)
class Seen:
    """One request as it came: `body` decoded, header names in lower case."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def messages(self) -> list[dict[str, Any]]:
        return self.body["messages"]


@dataclass
class Reply:
    """How one request goes. The default is a success: "hello", 22 input tokens and 189 output tokens.

    `usage` None sends none; "default" the one above; a dict is sent as it is. `error` is the message of a failure with
    `status`. `body` replaces the whole body. `cut` closes the connection in the middle of the body. `hold` is waited
    for before anything is sent (at most ten seconds), so that a test says when the provider answers.
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


class FakeProvider:
    """The server. `base_url` ends in /v1, as OpenAI's does; `root` is without it, for Azure and Anthropic."""

    def __init__(self) -> None:
        self.requests: list[Seen] = []
        self.arrived = threading.Semaphore(0)
        self.default = Reply()
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
        """Let the next requests go like this, one each, in order; later ones go as `default` says."""
        with self._lock:
            self._script.extend(replies)

    def reply(self, **fields: Any) -> Reply:
        """Script one reply from its fields, and return it."""
        reply = Reply(**fields)
        self.script(reply)
        return reply

    def take(self, seen: Seen) -> Reply:
        """Note a request and return how it goes."""
        with self._lock:
            self.requests.append(seen)
            reply = self._script.popleft() if self._script else self.default
        self.arrived.release()
        return reply


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that went away are part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    provider: FakeProvider
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("content-length", 0))))
        path = self.path.partition("?")[0]
        reply = self.provider.take(Seen(self.path, {k.lower(): v for k, v in self.headers.items()}, body))
        if reply.hold is not None:
            reply.hold.wait(10)
        anthropic = path.endswith("/messages")
        if not anthropic and not path.endswith("/chat/completions"):
            self._send(404, json.dumps({"error": {"message": f"no such path {path}"}}).encode(), reply)
        elif reply.body is not None:
            self._send(reply.status, reply.body, reply)
        elif reply.status >= 400:
            error = {"type": "error", "message": reply.error, "code": None, "param": None}
            self._send(reply.status, json.dumps({"type": "error", "error": error}).encode(), reply)
        else:
            model = reply.model or RESOLVED.get(body["model"], body["model"])
            answer = _anthropic(reply, model) if anthropic else _openai(reply, model)
            self._send(200, json.dumps(answer).encode(), reply)

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

    def log_message(self, *args: object) -> None:
        """Say nothing on stderr."""


def _openai(reply: Reply, model: str) -> dict[str, Any]:
    usage: Any = reply.usage
    if usage == "default":
        usage = {
            "prompt_tokens": 22,
            "completion_tokens": 189,
            "total_tokens": 211,
            "prompt_tokens_details": {"cached_tokens": 10, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 64, "audio_tokens": 0},
        }
    message: dict[str, Any] = {"role": "assistant", "content": reply.content, "refusal": reply.refusal}
    if reply.tool_calls:
        message["tool_calls"] = [
            {"id": f"call_{n}", "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
            for n, (name, arguments) in enumerate(reply.tool_calls, 1)
        ]
    answer: dict[str, Any] = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": model,
        "choices": [
            {
                "index": 0,
                "message": message,
                "logprobs": None,
                "finish_reason": "tool_calls" if reply.tool_calls else "stop",
            }
        ],
    }
    return answer if usage is None else {**answer, "usage": usage}


def _anthropic(reply: Reply, model: str) -> dict[str, Any]:
    usage: Any = reply.usage
    if usage == "default":
        # 22 input tokens in all: 7 plain, 10 read from its cache, 5 written to it.
        usage = {
            "input_tokens": 7,
            "cache_read_input_tokens": 10,
            "cache_creation_input_tokens": 5,
            "output_tokens": 189,
        }
    content: list[dict[str, Any]] = [{"type": "text", "text": reply.content}] if reply.content else []
    content += [
        {"type": "tool_use", "id": f"toolu_{n}", "name": name, "input": arguments}
        for n, (name, arguments) in enumerate(reply.tool_calls, 1)
    ]
    answer: dict[str, Any] = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": content,
        "stop_reason": "tool_use" if reply.tool_calls else "end_turn",
        "stop_sequence": None,
    }
    return answer if usage is None else {**answer, "usage": usage}
