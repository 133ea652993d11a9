"""A fake OpenAI-compatible model server: the same prompt always gets the same answer, at once.

The demo uses it where the real local model cannot run, and the tests of the examples use it. It serves
`POST /v1/chat/completions` (plain and streamed) and `GET /v1/models`. Its tokens are words and punctuation marks.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

__all__ = ["STAND_IN_MODEL", "StandInModel"]

STAND_IN_MODEL = "stand-in"
BODY_BYTES_MAX = 1024 * 1024
ANSWER_TOKENS_MAX = 128
CREATED = 1_700_000_000  # a fixed moment: the whole answer is the same each time, its id included

_TOKEN = re.compile(r"\w+|[^\w\s]")
_PIECE = re.compile(r"\s*(?:\w+|[^\w\s])")


def tokens_of(text: str) -> int:
    """Return how many tokens this server counts in a text."""
    return len(_TOKEN.findall(text))


def answer_to(messages: list[dict[str, Any]]) -> str:
    """Return the answer to a chat. It repeats the question, so that a reader sees that the question arrived."""
    question = next((_text(m.get("content")) for m in reversed(messages) if m.get("role") == "user"), "")
    question = " ".join(question.split())
    short = question if len(question) <= 200 else question[:199] + "…"
    return f"Sure! You asked: {short} Here is a stand-in answer, the same every time."


class StandInModel:
    """The server, on a free port of loopback, in a thread of this process. Also a context manager.

    `base_url` is what an OpenAI client takes, such as `http://127.0.0.1:41234/v1`. Starts when constructed.
    """

    def __init__(self) -> None:
        self._server = _LoopbackServer(("127.0.0.1", 0), _Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, name="everycall-stand-in", daemon=True)
        self._thread.start()

    @property
    def base_url(self) -> str:
        """The address for an OpenAI client, with `/v1`."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def stop(self) -> None:
        """End the server and let go of its port. Safe to call twice."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class _LoopbackServer(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = False


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # one write for headers and body, or Nagle and delayed acknowledgements cost 40 ms each

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - so named in the base class
        """Say nothing: the demo's own lines are what a person reads."""

    def do_GET(self) -> None:
        if self.path.rstrip("/") == "/v1/models":
            model = {"id": STAND_IN_MODEL, "object": "model", "created": CREATED, "owned_by": "everycall"}
            self._json(200, {"object": "list", "data": [model]})
        else:
            self._refuse(404, "not_found", f"there is no {self.path} here")

    def do_POST(self) -> None:
        if self.path.rstrip("/") != "/v1/chat/completions":
            self._refuse(404, "not_found", f"there is no {self.path} here")
            return
        length = self.headers.get("content-length", "")
        if not length.isdigit() or int(length) > BODY_BYTES_MAX:
            self.close_connection = True
            self._refuse(413, "too_large", f"send a content-length of at most {BODY_BYTES_MAX}")
            return
        try:
            request = json.loads(self.rfile.read(int(length)))
            messages = request["messages"]
            text = answer_to(messages)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            self._refuse(400, "invalid_request_error", f"messages cannot be read: {error!r}")
            return
        reply = _Reply(request, messages, text)
        if request.get("stream"):
            self._events(reply.chunks())
        else:
            self._json(200, reply.whole())

    def _json(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _refuse(self, status: int, kind: str, message: str) -> None:
        self._json(status, {"error": {"message": message, "type": kind, "code": kind, "param": None}})

    def _events(self, chunks: Iterator[dict[str, Any]]) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        self.close_connection = True
        for chunk in chunks:
            self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
            self.wfile.flush()
        self.wfile.write(b"data: [DONE]\n\n")


class _Reply:
    """One answer in both of its wire forms."""

    def __init__(self, request: dict[str, Any], messages: list[dict[str, Any]], text: str) -> None:
        asked_for = request.get("max_completion_tokens") or request.get("max_tokens") or ANSWER_TOKENS_MAX
        pieces = _PIECE.findall(text)
        self.pieces = pieces[: max(1, int(asked_for))]
        self.finish_reason = "stop" if len(self.pieces) == len(pieces) else "length"
        self.model = str(request.get("model") or STAND_IN_MODEL)
        self.with_usage = bool((request.get("stream_options") or {}).get("include_usage"))
        prompt = sum(tokens_of(_text(m.get("content"))) for m in messages)
        out = len(self.pieces)
        self.usage = {"prompt_tokens": prompt, "completion_tokens": out, "total_tokens": prompt + out}
        digest = hashlib.sha256(json.dumps([self.model, messages], sort_keys=True).encode()).hexdigest()
        self.common = {"id": f"chatcmpl-{digest[:24]}", "created": CREATED, "model": self.model}

    def whole(self) -> dict[str, Any]:
        message = {"role": "assistant", "content": "".join(self.pieces), "refusal": None}
        choice = {"index": 0, "message": message, "finish_reason": self.finish_reason, "logprobs": None}
        return {**self.common, "object": "chat.completion", "choices": [choice], "usage": self.usage}

    def chunks(self) -> Iterator[dict[str, Any]]:
        yield self._chunk({"role": "assistant", "content": ""}, None)
        for piece in self.pieces:
            yield self._chunk({"content": piece}, None)
        yield self._chunk({}, self.finish_reason)
        if self.with_usage:
            yield {**self.common, "object": "chat.completion.chunk", "choices": [], "usage": self.usage}

    def _chunk(self, delta: dict[str, str], finish_reason: str | None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason, "logprobs": None}
        return {**self.common, "object": "chat.completion.chunk", "choices": [choice]}


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else ()
    return " ".join(str(part.get("text", "")) for part in parts if isinstance(part, dict))
