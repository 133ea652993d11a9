"""Responses of Gemini's API and Vertex AI: generated content, streamed or not, embeddings, token counts, errors.

Pure functions from a request and a `Reply` of the fake provider to bodies; the provider sends them. The reply's
`message` may have `parts` (before the text) and `more` (after it) as they are on the wire, other members of a
`candidate` and of the `answer`, and the number of `candidates`.
"""

from __future__ import annotations

import json
from typing import Any

__all__ = ["answer", "events", "is_asked", "is_streamed"]

USAGE = {
    "promptTokenCount": 22,
    "cachedContentTokenCount": 10,
    "candidatesTokenCount": 125,
    "thoughtsTokenCount": 64,
    "totalTokenCount": 211,
    "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 22}],
}
STATUSES = {400: "INVALID_ARGUMENT", 403: "PERMISSION_DENIED", 404: "NOT_FOUND", 429: "RESOURCE_EXHAUSTED",
            500: "INTERNAL", 503: "UNAVAILABLE", 504: "DEADLINE_EXCEEDED"}  # fmt: skip
VERBS = ("generateContent", "streamGenerateContent", "embedContent", "batchEmbedContents", "predict", "countTokens")


def verb(path: str) -> str:
    """Return the verb of a path: that of `/v1beta/models/gemini-2.5-flash:generateContent` is `generateContent`."""
    return path.partition("?")[0].rpartition(":")[2]


def is_asked(path: str) -> bool:
    """Whether a path is one of Google's."""
    return ":" in path and verb(path) in VERBS


def is_streamed(path: str, reply: Any) -> bool:
    """Whether the response to a request is streamed."""
    return reply.status < 400 and reply.body is None and verb(path) == "streamGenerateContent"


def failure(reply: Any) -> dict[str, Any]:
    """Return an error in Google's shape."""
    return {"error": {"code": reply.status, "message": reply.error, "status": STATUSES.get(reply.status, "UNKNOWN")}}


def answer(path: str, body: dict[str, Any], reply: Any) -> bytes:
    """Return the response to a request that is not streamed, or an error."""
    return reply.body if reply.body is not None else json.dumps(_answer(path, body, reply)).encode()


def _answer(path: str, body: dict[str, Any], reply: Any) -> dict[str, Any]:
    if reply.status >= 400:
        return failure(reply)
    operation = verb(path)
    if operation == "countTokens":
        return {"totalTokens": 7}
    if operation == "predict":
        return {"predictions": [_predicted(one) for one in body["instances"]]}
    if operation == "embedContent":
        return {"embedding": {"values": _vector(body.get("embedContentConfig") or body)}}
    if operation == "batchEmbedContents":
        response: dict[str, Any] = {"embeddings": [{"values": _vector(one)} for one in body["requests"]]}
        return response if reply.usage in ("default", None) else {**response, "usageMetadata": reply.usage}
    parts = [*reply.message.get("parts", ()), *_text(reply), *_calls(reply), *reply.message.get("more", ())]
    usage = USAGE if reply.usage == "default" else reply.usage
    return _whole(path, reply, _candidates(reply, parts, reply.finish or "STOP"), usage)


def events(path: str, reply: Any) -> list[tuple[bool, bytes]]:
    """Return the events of a streamed response, each with whether it has a piece of the model's text."""
    chunks: list[tuple[bool, bytes]] = []
    usage: Any
    for part in reply.message.get("parts", ()):
        chunks.append((False, _event(_whole(path, reply, _candidates(reply, [part], None), None))))
    for count, piece in enumerate(_pieces(reply), 1):
        if count - 1 == reply.error_after:
            return [
                *chunks,
                (False, _event({"error": {"code": 503, "message": "overloaded", "status": "UNAVAILABLE"}})),
            ]
        so_far = {"promptTokenCount": 22, "candidatesTokenCount": count, "totalTokenCount": 22 + count}
        usage = so_far if reply.usage == "default" else None
        chunks.append((True, _event(_whole(path, reply, _candidates(reply, [{"text": piece}], None), usage))))
    last = [*_calls(reply), *reply.message.get("more", ())] or [{"text": ""}]
    usage = USAGE if reply.usage == "default" else reply.usage
    chunks.append((False, _event(_whole(path, reply, _candidates(reply, last, reply.finish or "STOP"), usage))))
    return chunks


def _event(data: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(data)}\r\n\r\n".encode()


def _whole(path: str, reply: Any, candidates: list[dict[str, Any]], usage: Any) -> dict[str, Any]:
    model = reply.model or path.partition("?")[0].rpartition(":")[0].rpartition("/")[2]
    about = {"modelVersion": model, "responseId": "resp-1", **reply.message.get("answer", {})}
    response = {"candidates": candidates, **about} if candidates else about
    return response if usage is None else {**response, "usageMetadata": usage}


def _candidates(reply: Any, parts: list[dict[str, Any]], reason: str | None) -> list[dict[str, Any]]:
    about: dict[str, Any] = {} if reason is None else {"finishReason": reason, **reply.message.get("candidate", {})}
    content = {"content": {"role": "model", "parts": parts}} if parts else {}
    return [{**content, **about, "index": index} for index in range(reply.message.get("candidates", 1))]


def _pieces(reply: Any) -> list[str]:
    return list(reply.pieces) if reply.pieces is not None else ([reply.content] if reply.content else [])


def _text(reply: Any) -> list[dict[str, Any]]:
    text = "".join(_pieces(reply))
    return [{"text": text}] if text else []


def _calls(reply: Any) -> list[dict[str, Any]]:
    return [{"functionCall": {"name": name, "args": arguments}} for name, arguments in reply.tool_calls]


def _vector(request: dict[str, Any]) -> list[float]:
    return [0.25] * (request.get("outputDimensionality") or 4)


def _predicted(instance: dict[str, Any]) -> dict[str, Any]:
    if "prompt" in instance:
        return {"bytesBase64Encoded": "iVBORw0KGgo=", "mimeType": "image/png"}
    return {"embeddings": {"values": _vector(instance), "statistics": {"truncated": False, "token_count": 3}}}
