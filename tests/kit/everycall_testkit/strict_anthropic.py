"""What Anthropic refuses of a message, as its reference and public error reports say. For the fake provider."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from typing import Any

__all__ = ["refusal"]

_ID = re.compile(r"[a-zA-Z0-9_-]+\Z")
_TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}\Z")
_IMAGES = ("image/jpeg", "image/png", "image/gif", "image/webp")
_PROPERTY = re.compile(r"[a-zA-Z0-9_.-]{1,64}\Z")
_BODY = {
    "model", "messages", "max_tokens", "system", "temperature", "top_p", "top_k", "stop_sequences", "tools",
    "tool_choice", "stream", "service_tier", "output_config", "metadata",
}  # fmt: skip
_MAX_TOKENS = {"claude-haiku-4-5": 64_000, "claude-3-5-haiku-latest": 8_192, "claude-3-haiku-20240307": 4_096}


def refusal(body: dict[str, Any]) -> str | None:
    """Return the message of the 400 that Anthropic answers, or None if it takes the body."""
    return next(_refusals(body), None)


def _refusals(body: dict[str, Any]) -> Iterator[str]:
    for name in body.keys() - _BODY:
        yield f"{name}: Extra inputs are not permitted"
    yield from _parameters(body)
    yield from _tools(body)
    yield from _system(body.get("system"))
    if str(body).count("'cache_control':") > 4:
        yield "A maximum of 4 blocks with cache_control may be provided."
    turns = body.get("messages") or []
    if not turns:
        yield "messages: at least one message is required"
        return
    calls: list[str] = []
    ids: set[str] = set()
    for index, turn in enumerate(turns):
        place, last = f"messages.{index}", index == len(turns) - 1
        if turn.keys() != {"role", "content"} or turn["role"] not in ("user", "assistant"):
            yield f"{place}: Extra inputs are not permitted"
            return
        if index and turns[index - 1]["role"] == turn["role"]:
            yield f'{place}: roles must alternate between "user" and "assistant"'
        if not turn["content"]:
            yield f"{place}: all messages must have non-empty content"
        blocks = turn["content"]
        if isinstance(blocks, str):
            blocks = [{"type": "text", "text": blocks}]
        results = [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"]
        if sorted(results) != sorted(calls):
            yield f"{place}: `tool_use` ids were found without `tool_result` blocks immediately after: {calls}"
        if any(block["type"] != "tool_result" for block in blocks[: len(results)]):
            yield f"{place}: tool_result blocks must come before other content"
        for position, block in enumerate(blocks):
            yield from _block(block, turn["role"], f"{place}.content.{position}")
        calls = [block["id"] for block in blocks if block["type"] == "tool_use"]
        if len({*ids, *calls}) < len(ids) + len(calls):
            yield f"{place}: `tool_use` ids must be unique"
        ids |= {*calls}
        if last and turn["role"] == "assistant" and str(blocks[-1].get("text", "")).endswith((" ", "\n", "\t")):
            yield "messages: final assistant content cannot end with trailing whitespace"
    if calls:
        yield "messages: `tool_use` ids were found without `tool_result` blocks immediately after"


def _parameters(body: dict[str, Any]) -> Iterator[str]:
    model, tokens = body.get("model", ""), body.get("max_tokens")
    most = _MAX_TOKENS.get(model, 64_000)
    if type(tokens) is not int or tokens < 1:
        yield "max_tokens: Field required"
    elif tokens > most:
        yield f"max_tokens: {tokens} > {most}, which is the maximum allowed number of output tokens for {model}"
    for name in ("temperature", "top_p"):
        if name in body and not 0 <= body[name] <= 1:
            yield f"{name}: range: 0..1"
    if {"temperature", "top_p"} <= body.keys() and "claude-3" not in model:
        yield "`temperature` and `top_p` cannot both be specified for this model. Please use only one."
    if any(not stop.strip() for stop in body.get("stop_sequences", [])):
        yield "stop_sequences: each stop sequence must contain non-whitespace"
    if body.get("service_tier", "auto") not in ("auto", "standard_only"):
        yield "service_tier: Input should be 'auto' or 'standard_only'"


def _tools(body: dict[str, Any]) -> Iterator[str]:
    names = [tool.get("name", "") for tool in body.get("tools", [])]
    if len(set(names)) < len(names):
        yield "tools: Tool names must be unique."
    for index, tool in enumerate(body.get("tools", [])):
        if not _TOOL_NAME.match(tool["name"]):
            yield f"tools.{index}.name: String should match pattern"
        schema = tool.get("input_schema", {})
        if schema.get("type") != "object":
            yield f"tools.{index}.input_schema.type: Input should be 'object'"
        if schema.keys() & {"oneOf", "allOf", "anyOf"}:
            yield f"tools.{index}.input_schema: input_schema does not support oneOf, allOf, or anyOf at the top level"
        if not all(_PROPERTY.match(name) for name in schema.get("properties", {})):
            yield f"tools.{index}.input_schema.properties: Property keys should match pattern '{_PROPERTY.pattern}'"
        for name in tool.keys() - {"name", "description", "input_schema", "cache_control", "strict"}:
            yield f"tools.{index}.{name}: Extra inputs are not permitted"
    choice = body.get("tool_choice")
    if choice is None:
        return
    if choice.get("type") not in ("auto", "any", "tool", "none"):
        yield "tool_choice: Input tag found using 'type' does not match any of the expected tags"
    if not names:
        yield "tool_choice may only be specified while providing tools"
    elif choice["type"] == "tool" and choice.get("name") not in names:
        yield f"Tool '{choice.get('name')}' not found in provided tools"


def _system(system: Any) -> Iterator[str]:
    for block in [{"type": "text", "text": system}] if isinstance(system, str) else system or ():
        if block["type"] != "text":
            yield "system: Input should be 'text'"
        elif not block["text"].strip():
            yield "system: text content blocks must contain non-whitespace text"


def _block(block: dict[str, Any], role: str, place: str) -> Iterator[str]:
    kind = block["type"]
    members = {
        "text": {"text", "citations"},
        "image": {"source"},
        "document": {"source", "title", "context", "citations"},
        "tool_use": {"id", "name", "input"},
        "tool_result": {"tool_use_id", "content", "is_error"},
    }
    if kind not in members:
        yield f"{place}: Input tag '{kind}' found using 'type' does not match any of the expected tags"
        return
    for name in block.keys() - members[kind] - {"type", "cache_control"}:
        yield f"{place}.{kind}.{name}: Extra inputs are not permitted"
    if role == "assistant" and kind in ("image", "document", "tool_result"):
        yield f"{place}: `{kind}` blocks can only be in `user` messages"
    if role == "user" and kind == "tool_use":
        yield f"{place}: `tool_use` blocks can only be in `assistant` messages"
    if kind == "text" and not block["text"].strip():
        yield f"{place}: text content blocks must contain non-whitespace text"
    elif kind in ("image", "document"):
        yield from _source(block["source"], kind, place)
    elif kind == "tool_use":
        if not _ID.match(block["id"]) or not _TOOL_NAME.match(block["name"]):
            yield f"{place}.tool_use.id: String should match pattern '^[a-zA-Z0-9_-]+$'"
        if not isinstance(block["input"], dict):
            yield f"{place}.tool_use.input: Input should be a valid dictionary"
    elif kind == "tool_result":
        if not _ID.match(block["tool_use_id"]):
            yield f"{place}.tool_result.tool_use_id: String should match pattern '^[a-zA-Z0-9_-]+$'"
        content = block.get("content", "")
        for index, inner in enumerate(content if isinstance(content, list) else ()):
            if inner["type"] not in ("text", "image", "document"):
                yield f"{place}.content.{index}: Input tag does not match any of the expected tags"
            else:
                yield from _block(inner, "user", f"{place}.content.{index}")


def _source(source: dict[str, Any], kind: str, place: str) -> Iterator[str]:
    if source["type"] == "base64":
        allowed = _IMAGES if kind == "image" else ("application/pdf",)
        if source["media_type"] not in allowed:
            yield f"{place}.source.base64.media_type: Input should be one of {allowed}"
        try:
            if not base64.b64decode(source["data"], validate=True):
                yield f"{place}.source.base64: data is empty"
        except ValueError:
            yield f"{place}.source.base64.data: invalid base64 data"
    elif source["type"] == "url":
        if not source["url"].startswith("https://"):
            yield f"{place}.source.url: Only HTTPS URLs are supported."
    elif source["type"] != "text" or source.get("media_type") != "text/plain":
        yield f"{place}.source: Input tag does not match any of the expected tags"
