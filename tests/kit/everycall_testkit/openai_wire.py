"""What OpenAI's APIs send: chat, legacy completions, responses and embeddings, whole and as server-sent events.

Pure functions from a request and a `Reply` of the fake provider to bodies; the provider sends them.
"""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

__all__ = ["PATHS", "answer", "events"]

PATHS = ("/chat/completions", "/completions", "/responses", "/embeddings")
CREATED = 1_700_000_000
RESPONSE = {"object": "response", "created_at": CREATED, "parallel_tool_calls": True, "tool_choice": "auto",
            "tools": [], "metadata": {}, "instructions": None, "temperature": 1.0, "top_p": 1.0,
            "error": None, "incomplete_details": None}  # fmt: skip
USAGE = {
    "prompt_tokens": 22,
    "completion_tokens": 189,
    "total_tokens": 211,
    "prompt_tokens_details": {"cached_tokens": 10, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 64, "audio_tokens": 0},
}
RESPONSE_USAGE = {
    "input_tokens": 22,
    "input_tokens_details": {"cached_tokens": 10, "cache_write_tokens": 0},
    "output_tokens": 189,
    "output_tokens_details": {"reasoning_tokens": 64},
    "total_tokens": 211,
}


def answer(path: str, body: dict[str, Any], reply: Any, model: str) -> dict[str, Any]:
    """Return the whole answer to a request that is not streamed."""
    if path.endswith("/chat/completions"):
        answer_body: dict[str, Any] = _chat(body, reply, model)
    elif path.endswith("/completions"):
        answer_body = _completion(body, reply, model)
    elif path.endswith("/responses"):
        return _response(reply, model, reply.finish or "completed", _items(reply))
    else:
        answer_body = _embeddings(body, model)
    usage = USAGE if reply.usage == "default" else reply.usage
    if path.endswith("/embeddings") and reply.usage == "default":
        usage = {"prompt_tokens": 7, "total_tokens": 7}
    return answer_body if usage is None else {**answer_body, "usage": usage}


def events(path: str, body: dict[str, Any], reply: Any, model: str) -> list[tuple[bool, bytes]]:
    """Return the events of a streamed answer, each with whether it is a piece of what the model says."""
    if path.endswith("/responses"):
        return _response_events(reply, model)
    chat = path.endswith("/chat/completions")
    with_usage = bool((body.get("stream_options") or {}).get("include_usage"))
    about: dict[str, Any] = {"id": "chatcmpl-1" if chat else "cmpl-1", "created": CREATED, "model": model,
                             "object": "chat.completion.chunk" if chat else "text_completion"}  # fmt: skip
    if with_usage:
        about["usage"] = None
    chunks = [
        (is_piece, {**about, "choices": choices}) for is_piece, choices in (_deltas if chat else _texts)(body, reply)
    ]
    if with_usage and reply.usage is not None:
        usage = USAGE if reply.usage == "default" else reply.usage
        chunks.append((False, {**about, "choices": [], "usage": usage}))
    return [*((is_piece, _event(data)) for is_piece, data in chunks), (False, b"data: [DONE]\n\n")]


def _event(data: dict[str, Any], kind: str | None = None) -> bytes:
    head = f"event: {kind}\n" if kind else ""
    return f"{head}data: {json.dumps(data)}\n\n".encode()


def _pieces(reply: Any) -> list[str]:
    return list(reply.pieces) if reply.pieces is not None else ([reply.content] if reply.content else [])


def _calls(reply: Any) -> list[dict[str, Any]]:
    return [
        {"id": f"call_{n}", "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
        for n, (name, arguments) in enumerate(reply.tool_calls, 1)
    ]


def _reason(reply: Any) -> str:
    return reply.finish or ("tool_calls" if reply.tool_calls else "stop")


def _chat(body: dict[str, Any], reply: Any, model: str) -> dict[str, Any]:
    content = reply.content if reply.pieces is None else "".join(reply.pieces)
    message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": reply.refusal, **reply.message}
    if reply.tool_calls:
        message["tool_calls"] = _calls(reply)
    choices = [
        {"index": index, "message": message, "logprobs": None, "finish_reason": _reason(reply)}
        for index in range(body.get("n") or 1)
    ]
    return {"id": "chatcmpl-1", "object": "chat.completion", "created": CREATED, "model": model, "choices": choices}


def _completion(body: dict[str, Any], reply: Any, model: str) -> dict[str, Any]:
    prompts = body["prompt"] if isinstance(body["prompt"], list) else [body["prompt"]]
    prompts = [prompts] if isinstance(prompts[0], int) else prompts
    choices = [
        {"index": index, "text": "".join(_pieces(reply)), "logprobs": None, "finish_reason": _reason(reply)}
        for index in range(len(prompts) * (body.get("n") or 1))
    ]
    return {"id": "cmpl-1", "object": "text_completion", "created": CREATED, "model": model, "choices": choices}


def _embeddings(body: dict[str, Any], model: str) -> dict[str, Any]:
    texts = body["input"]
    number = len(texts) if isinstance(texts, list) and texts and not isinstance(texts[0], int) else 1
    vector: Any = [0.25] * (body.get("dimensions") or 4)
    if body.get("encoding_format") == "base64":
        vector = base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
    data = [{"object": "embedding", "index": index, "embedding": vector} for index in range(number)]
    return {"object": "list", "model": model, "data": data}


def _deltas(body: dict[str, Any], reply: Any) -> list[tuple[bool, list[dict[str, Any]]]]:
    def choice(index: int, delta: dict[str, Any], reason: str | None = None) -> list[dict[str, Any]]:
        return [{"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}]

    chunks = []
    for index in range(body.get("n") or 1):
        chunks.append((False, choice(index, {"role": "assistant", "content": "", "refusal": None})))
        chunks += [(True, choice(index, {"content": piece})) for piece in _pieces(reply)]
        if reply.refusal:
            chunks.append((True, choice(index, {"refusal": reply.refusal})))
        if reply.message:
            chunks.append((True, choice(index, reply.message)))
        for at, call in enumerate(_calls(reply)):
            arguments = call["function"]["arguments"]
            first = {**call, "index": at, "function": {"name": call["function"]["name"], "arguments": ""}}
            chunks.append((True, choice(index, {"tool_calls": [first]})))
            for part in (arguments[:3], arguments[3:]):
                chunks.append((True, choice(index, {"tool_calls": [{"index": at, "function": {"arguments": part}}]})))
        chunks.append((False, choice(index, {}, _reason(reply))))
    return chunks


def _texts(body: dict[str, Any], reply: Any) -> list[tuple[bool, list[dict[str, Any]]]]:
    blank = {"index": 0, "logprobs": None}
    chunks = [(True, [{**blank, "text": piece, "finish_reason": None}]) for piece in _pieces(reply)]
    return [*chunks, (False, [{**blank, "text": "", "finish_reason": _reason(reply)}])]


def _items(reply: Any) -> list[dict[str, Any]]:
    """Return the output items of a response."""
    parts: list[dict[str, Any]] = []
    if _pieces(reply) and not reply.refusal:
        text = "".join(_pieces(reply))
        parts = [{"type": "output_text", "text": text, "annotations": [], "logprobs": []}]
    if reply.refusal:
        parts = [{"type": "refusal", "refusal": reply.refusal}]
    message = {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": parts}
    calls = [
        {
            "id": f"fc_{n}",
            "type": "function_call",
            "status": "completed",
            "call_id": f"call_{n}",
            "name": name,
            "arguments": json.dumps(arguments),
        }
        for n, (name, arguments) in enumerate(reply.tool_calls, 1)
    ]
    return [*([message] if parts else []), *calls]


def _response(reply: Any, model: str, status: str, items: list[dict[str, Any]]) -> dict[str, Any]:
    response: dict[str, Any] = {**RESPONSE, "id": "resp_1", "model": model, "status": status, "output": items}
    if status == "failed":
        response["error"] = {"code": "server_error", "message": reply.error}
    if status == "incomplete":
        response["incomplete_details"] = {"reason": "max_output_tokens"}
    if status in ("in_progress", "failed"):
        return {**response, "usage": None}
    return {**response, "usage": RESPONSE_USAGE if reply.usage == "default" else reply.usage}


def _response_events(reply: Any, model: str) -> list[tuple[bool, bytes]]:
    chunks: list[tuple[bool, str, dict[str, Any]]] = []

    def event(kind: str, is_piece: bool = False, **fields: Any) -> None:
        chunks.append((is_piece, kind, {"type": kind, "sequence_number": len(chunks), **fields}))

    start = _response(reply, model, "in_progress", [])
    event("response.created", response=start)
    event("response.in_progress", response=start)
    for index, item in enumerate(_items(reply)):
        where = {"output_index": index, "item_id": item["id"]}
        if item["type"] == "message":
            event("response.output_item.added", output_index=index, item={**item, "content": []})
            part = item["content"][0]
            inside = {**where, "content_index": 0}
            is_piece = "text" in part
            empty = {**part, "text": ""} if is_piece else {**part, "refusal": ""}
            event("response.content_part.added", part=empty, **inside)
            for piece in _pieces(reply) if is_piece else [reply.refusal]:
                kind = "response.output_text.delta" if is_piece else "response.refusal.delta"
                event(kind, True, delta=piece, **inside, **({"logprobs": []} if is_piece else {}))
            if is_piece:
                event("response.output_text.done", text=part["text"], logprobs=[], **inside)
            else:
                event("response.refusal.done", refusal=part["refusal"], **inside)
            event("response.content_part.done", part=part, **inside)
        else:
            event("response.output_item.added", output_index=index, item={**item, "arguments": ""})
            for part in (item["arguments"][:3], item["arguments"][3:]):
                event("response.function_call_arguments.delta", True, delta=part, **where)
            event("response.function_call_arguments.done", arguments=item["arguments"], name=item["name"], **where)
        event("response.output_item.done", output_index=index, item=item)
    status = reply.finish or "completed"
    event(f"response.{status}", response=_response(reply, model, status, _items(reply)))
    return [(is_piece, _event(data, kind)) for is_piece, kind, data in chunks]
