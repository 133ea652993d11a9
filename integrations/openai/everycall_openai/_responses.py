"""What an answer says, as fields of a record. Called by exchanges with the library's objects or with plain JSON.

Nothing is guessed: what was not reported stays unknown.
"""

from __future__ import annotations

import json
from typing import Any, Final

from everycall.integration import get_member, media_reference, members, to_plain, usage_fields

__all__ = ["chat", "completion", "embeddings", "message", "response"]

_SPOKEN: Final = frozenset({"refusal", "reasoning_content", "reasoning", "annotations"})
_ABOUT: Final = (
    ("model", "model"),
    ("id", "gen_ai.response.id"),
    ("service_tier", "openai.response.service_tier"),
    ("system_fingerprint", "openai.response.system_fingerprint"),
)


def chat(answer: Any) -> dict[str, Any]:
    """Read a chat completion: `content` is the text of the first choice, `output` what text alone does not tell.

    `output` is the message with its tool calls, refusal, reasoning or audio; a list of messages for several choices.
    """
    told = members(answer)
    choices = [members(choice) for choice in _list(told.get("choices"))]
    fields = _about(told, [choice.get("finish_reason") for choice in choices])
    shown = [message(choice.get("message")) for choice in choices]
    if shown:
        first = shown[0]
        if first["content"] is not None:
            fields["content"] = first["content"]
        if len(shown) > 1:
            fields["output"] = shown
        elif len(first) > 2:
            fields["output"] = first
    return fields


def message(said: Any) -> dict[str, Any]:
    """Return an assistant's message with what it has; the arguments of its calls as objects, when they can be read."""
    shown: dict[str, Any] = {"role": "assistant", "content": None}
    for name, value in members(said).items():
        if not value:
            continue
        if name == "role" or name == "content":
            shown[name] = value
        elif name in _SPOKEN:
            shown[name] = to_plain(value)
        elif name == "tool_calls":
            shown[name] = [_tool_call(call) for call in value]
        elif name == "function_call":
            shown[name] = {"name": get_member(value, "name"), "arguments": _arguments(get_member(value, "arguments"))}
        elif name == "audio":
            spoken, data = (
                {"id": get_member(value, "id"), "transcript": get_member(value, "transcript")},
                get_member(value, "data"),
            )
            shown[name] = {**spoken, "data": media_reference(data, "audio") if isinstance(data, str) else None}
    return shown


def _tool_call(call: Any) -> dict[str, Any]:
    kind = get_member(call, "type") or "function"
    shown: dict[str, Any] = {"id": get_member(call, "id"), "type": kind}
    function = get_member(call, "function")
    if function is not None:
        shown["function"] = {
            "name": get_member(function, "name"),
            "arguments": _arguments(get_member(function, "arguments")),
        }
    elif get_member(call, kind) is not None:
        shown[kind] = to_plain(get_member(call, kind))
    return shown


def _arguments(given: Any) -> Any:
    try:
        return json.loads(given)
    except (TypeError, ValueError, RecursionError):
        return given


def completion(answer: Any) -> dict[str, Any]:
    """Read a legacy completion: `content` is the first text, `output` all of them when there are several."""
    told = members(answer)
    choices = [members(choice) for choice in _list(told.get("choices"))]
    fields = _about(told, [choice.get("finish_reason") for choice in choices])
    texts = [choice.get("text") for choice in choices]
    if texts:
        fields["content"] = texts[0]
    if len(texts) > 1:
        fields["output"] = texts
    return fields


def response(answer: Any) -> dict[str, Any]:
    """Read an answer of the Responses API: `content` is its text, `output` its items where there is more than text.

    A failed response has `failure`, which is no field of a record.
    """
    told = members(answer)
    incomplete, status = get_member(told.get("incomplete_details"), "reason"), told.get("status")
    fields = _about(told, [incomplete or status])
    items = _list(told.get("output"))
    said = [
        part for item in items if get_member(item, "type") == "message" for part in _list(get_member(item, "content"))
    ]
    texts = [chunk for part in said if isinstance(chunk := get_member(part, "text"), str)]
    if texts:
        fields["content"] = "".join(texts)
    if items and (len(items) > 1 or len(texts) < len(said) or not texts):
        fields["output"] = [to_plain(item) for item in items]
    if status == "failed":
        fields["failure"] = failure(told.get("error"))
    return fields


def failure(error: Any) -> str:
    """Return what an answer says of its failure: its code and message."""
    code, told = get_member(error, "code"), get_member(error, "message")
    return ": ".join(str(part) for part in (code, told) if part) or "the response failed"


def embeddings(answer: Any) -> dict[str, Any]:
    """Read embeddings: how many, and of how many dimensions; the numbers themselves are not kept."""
    told = members(answer)
    vectors = _list(told.get("data"))
    shown: dict[str, Any] = {"embeddings": len(vectors)}
    first = get_member(vectors[0], "embedding") if vectors else None
    if isinstance(first, str):
        shown["dimensions"] = (len(first) * 3 // 4 - first[-2:].count("=")) // 4  # float32 in base64
    elif first is not None:
        shown["dimensions"] = len(first)
    return {**_about(told, []), "output": shown}


def _about(told: dict[str, Any], reasons: list[Any]) -> dict[str, Any]:
    """Read what all answers have: the model that answered, tokens, ids."""
    usage = told.get("usage")
    fields = usage_fields(usage, response=told) if usage is not None else {}
    for name, field in _ABOUT:
        value = told.get(name)
        if value and isinstance(value, str):
            fields[field] = value
    finished = [reason for reason in reasons if isinstance(reason, str)]
    if finished:
        fields["gen_ai.response.finish_reasons"] = finished
    return fields


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
