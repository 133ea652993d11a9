"""What Anthropic's API sends: messages, legacy completions, token counts and batches; whole and as server-sent events.

Pure functions from a request and a `Reply` of the fake provider to bodies; the provider sends them. Bedrock's and
Vertex's paths are known too: there the model is in the path.
"""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import unquote

__all__ = ["answer", "events", "failure", "got", "message", "model_of", "speaks"]

SUFFIXES = ("/messages", "/complete", "/messages/count_tokens", "/messages/batches", "/invoke", ":rawPredict",
            ":streamRawPredict")  # fmt: skip
USAGE = {"input_tokens": 7, "cache_read_input_tokens": 10, "cache_creation_input_tokens": 5, "output_tokens": 189}
"""22 input tokens in all: 7 plain, 10 read from its cache, 5 written to it."""
BATCH = {"id": "msgbatch_1", "type": "message_batch", "processing_status": "ended",
         "created_at": "2026-01-01T00:00:00Z", "ended_at": "2026-01-01T00:10:00Z",
         "expires_at": "2026-01-02T00:00:00Z", "archived_at": None,
         "cancel_initiated_at": None, "request_counts": {"canceled": 1, "errored": 1, "expired": 1, "processing": 0,
                                                         "succeeded": 2}}  # fmt: skip
ERRORS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}
MODEL_IN_PATH = re.compile(r"/(?:model|models)/([^/]+?)(?:/invoke|:\w+)$")


def speaks(path: str) -> bool:
    """Return whether a path is one of Anthropic's."""
    return path.endswith(SUFFIXES)


def model_of(path: str, body: dict[str, Any]) -> str:
    """Return the model that a request names, in its body or in its path."""
    match = MODEL_IN_PATH.search(path)
    return str(body["model"]) if "model" in body else unquote(match[1]) if match else "none"


def failure(reply: Any) -> dict[str, Any]:
    """Return the body of an error."""
    kind = ERRORS.get(reply.status, "api_error")
    return {"type": "error", "error": {"type": kind, "message": reply.error}, "request_id": "req_body"}


def answer(path: str, body: dict[str, Any], reply: Any, model: str) -> dict[str, Any]:
    """Return the whole answer to a request that is not streamed."""
    if path.endswith("/complete"):
        return {
            **_completion(model),
            "completion": "".join(_pieces(reply)),
            "stop_reason": reply.finish or "stop_sequence",
        }
    if path.endswith("/count_tokens"):
        return {"input_tokens": 22}
    if path.endswith("/batches"):
        return {**BATCH, "results_url": None, "processing_status": "in_progress", "ended_at": None}
    return message(reply, model)


def message(reply: Any, model: str) -> dict[str, Any]:
    """Return a message. `reply.message` has members that replace the usual ones, such as `content` with its blocks."""
    body: dict[str, Any] = {
        **_begun(model),
        "content": _blocks(reply),
        "stop_reason": reply.finish or ("tool_use" if reply.tool_calls else "end_turn"),
        **reply.message,
    }
    usage = USAGE if reply.usage == "default" else reply.usage
    return body if usage is None else {**body, "usage": usage}


def got(path: str, root: str, reply: Any) -> bytes | None:
    """Return the answer to a GET: a batch that has ended, or its results (`reply.body`, else one success)."""
    if path.endswith("/results"):
        lines = [{"custom_id": "one", "result": {"type": "succeeded", "message": message(reply, "claude-sonnet-4-5")}}]
        return reply.body or b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    if "/batches/" in path:
        return json.dumps({**BATCH, "results_url": f"{root}{path}/results"}).encode()
    return None


def events(path: str, body: dict[str, Any], reply: Any, model: str) -> list[tuple[bool, bytes]]:
    """Return the events of a streamed answer, each with whether it is a piece of what the model says."""
    if path.endswith("/complete"):
        return _completions(reply, model)
    sse_events: list[tuple[bool, bytes]] = []

    def event(kind: str, is_piece: bool = False, **fields: Any) -> None:
        sse_events.append((is_piece, _event(kind, {"type": kind, **fields})))

    whole = message(reply, model)
    usage = whole.get("usage")
    start = {**_begun(model), "content": [], "stop_reason": None}
    event("message_start", message=start if usage is None else {**start, "usage": {**usage, "output_tokens": 1}})
    event("ping")
    for index, block in enumerate(whole["content"]):
        empty, deltas = _deltas(block, _pieces(reply) if reply.message.get("content") is None else None)
        event("content_block_start", index=index, content_block=empty)
        for delta in deltas:
            event("content_block_delta", True, index=index, delta=delta)
        event("content_block_stop", index=index)
    stop = {name: whole[name] for name in ("stop_reason", "stop_sequence", "stop_details") if name in whole}
    event("message_delta", delta=stop, **({} if usage is None else {"usage": usage}))
    event("message_stop")
    return sse_events


def _event(kind: str, data: dict[str, Any]) -> bytes:
    return f"event: {kind}\ndata: {json.dumps(data)}\n\n".encode()


def _begun(model: str) -> dict[str, Any]:
    return {"id": "msg_1", "type": "message", "role": "assistant", "model": model, "stop_sequence": None}


def _pieces(reply: Any) -> list[str]:
    return list(reply.pieces) if reply.pieces is not None else ([reply.content] if reply.content else [])


def _blocks(reply: Any) -> list[dict[str, Any]]:
    text = "".join(_pieces(reply))
    calls = [
        {"type": "tool_use", "id": f"toolu_{n}", "name": name, "input": arguments}
        for n, (name, arguments) in enumerate(reply.tool_calls, 1)
    ]
    return [*([{"type": "text", "text": text}] if text else []), *calls]


def _deltas(block: dict[str, Any], pieces: list[str] | None) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return a block as it begins, and the deltas that follow."""
    kind = block["type"]
    if kind == "text":
        texts = pieces or [block["text"][:2], block["text"][2:]]
        cited = [{"type": "citations_delta", "citation": citation} for citation in block.get("citations") or ()]
        return {**block, "text": "", "citations": None}, [*({"type": "text_delta", "text": t} for t in texts), *cited]
    if kind == "thinking":
        thought, signature = block["thinking"], block["signature"]
        deltas = [{"type": "thinking_delta", "thinking": part} for part in (thought[:3], thought[3:])]
        return {**block, "thinking": "", "signature": ""}, [
            *deltas,
            {"type": "signature_delta", "signature": signature},
        ]
    if kind in ("tool_use", "server_tool_use"):
        arguments = json.dumps(block["input"])
        parts = [{"type": "input_json_delta", "partial_json": part} for part in ("", arguments[:3], arguments[3:])]
        return {**block, "input": {}}, parts
    return block, []


def _completion(model: str) -> dict[str, Any]:
    return {"id": "compl_1", "type": "completion", "model": model, "stop": None, "log_id": "compl_1"}


def _completions(reply: Any, model: str) -> list[tuple[bool, bytes]]:
    about = _completion(model)
    sent = [
        (True, _event("completion", {**about, "completion": piece, "stop_reason": None})) for piece in _pieces(reply)
    ]
    last = {**about, "completion": "", "stop_reason": reply.finish or "stop_sequence"}
    return [*sent, (False, _event("completion", last))]
