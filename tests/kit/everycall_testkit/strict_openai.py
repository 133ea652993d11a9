"""What OpenAI refuses of a chat completion, as its reference and public error reports say. For the fake provider."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from typing import Any

__all__ = ["refusal"]

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
_PARTICIPANT = re.compile(r"[^\s<|\\/>]+\Z")
_O_SERIES = re.compile(r"o\d")
_REASONING = re.compile(r"o\d|gpt-5")
_MEMBERS = {
    "system": {"role", "content", "name"},
    "developer": {"role", "content", "name"},
    "user": {"role", "content", "name"},
    "assistant": {"role", "content", "name", "tool_calls", "refusal", "audio", "function_call"},
    "tool": {"role", "content", "tool_call_id"},
    "function": {"role", "content", "name"},
}
_PARTS = {
    "system": {"text"}, "developer": {"text"}, "tool": {"text"}, "function": set[str](),
    "assistant": {"text", "refusal"}, "user": {"text", "image_url", "input_audio", "file"},
}  # fmt: skip
_PART_MEMBERS = {
    "image_url": {"url", "detail"}, "input_audio": {"data", "format"}, "file": {"file_data", "file_id", "filename"},
}  # fmt: skip
_VALUES = {
    "service_tier": ("auto", "default", "flex", "scale", "priority"),
    "reasoning_effort": ("none", "minimal", "low", "medium", "high", "xhigh"),
    "verbosity": ("low", "medium", "high"),
}
_WITHOUT_STOP = re.compile(r"o3(?!-mini)|o4|gpt-5")
_BODY = {
    "model", "messages", "temperature", "top_p", "frequency_penalty", "presence_penalty", "max_tokens", "stop", "seed",
    "max_completion_tokens", "response_format", "tools", "tool_choice", "stream", "stream_options", "reasoning_effort",
    "verbosity", "service_tier", "logit_bias", "parallel_tool_calls",
}  # fmt: skip


def refusal(body: dict[str, Any]) -> str | None:
    """Return the message of the 400 that OpenAI answers, or None if it takes the body."""
    return next(_refusals(body), None)


def _refusals(body: dict[str, Any]) -> Iterator[str]:
    for name in body.keys() - _BODY:
        yield f"Unrecognized request argument supplied: {name}"
    yield from _parameters(body)
    yield from _tools(body)
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        yield "Invalid 'messages': empty array."
        return
    waiting: list[str] = []
    for index, message in enumerate(messages):
        place = f"messages[{index}]"
        role = message.get("role")
        if role not in _MEMBERS:
            yield f"Invalid value: '{role}' in {place}.role"
            return
        if role == "tool":
            if message.get("tool_call_id") not in waiting:
                yield f"{place}: messages with role 'tool' must be a response to a message with 'tool_calls'."
                return
            waiting.remove(message["tool_call_id"])
        elif waiting:
            yield "An assistant message with 'tool_calls' must be followed by tool messages responding to each id."
        for name in message.keys() - _MEMBERS[role]:
            yield f"Unknown parameter: '{place}.{name}'."
        name = message.get("name")
        if name is not None and not _PARTICIPANT.match(name):
            yield f"Invalid '{place}.name': string does not match pattern."
        yield from _content(message, place)
        if "tool_calls" in message:
            yield from _calls(message["tool_calls"], place)
            waiting = [call["id"] for call in message["tool_calls"]]
    if waiting:
        yield "An assistant message with 'tool_calls' must be followed by tool messages responding to each id."


def _parameters(body: dict[str, Any]) -> Iterator[str]:
    for name, least, most in (
        ("temperature", 0, 2), ("top_p", 0, 1), ("frequency_penalty", -2, 2), ("presence_penalty", -2, 2),
    ):  # fmt: skip
        if name in body and not least <= body[name] <= most:
            yield f"Invalid '{name}': decimal out of range."
    reasons = bool(_REASONING.match(body.get("model", "")))
    refused = ["temperature", "top_p", "frequency_penalty", "presence_penalty", "max_tokens", "logit_bias"]
    if _O_SERIES.match(body.get("model", "")):
        refused.append("verbosity")
        if body.get("reasoning_effort", "low") not in ("low", "medium", "high"):
            yield "Unsupported value: 'reasoning_effort' does not support this value with this model."
    for name in refused if reasons else ["reasoning_effort", "verbosity"]:
        if name in body:
            yield f"Unsupported parameter: '{name}' is not supported with this model."
    if "stop" in body:
        if _WITHOUT_STOP.match(body.get("model", "")):
            yield "Unsupported parameter: 'stop' is not supported with this model."
        if isinstance(body["stop"], list) and not 1 <= len(body["stop"]) <= 4:
            yield f"{body['stop']} is too short or too long - 'stop'"
    for name, values in _VALUES.items():
        if name in body and body[name] not in values:
            yield f"Invalid value: '{body[name]}'. Supported values are: {values} ({name})"
    if any(not -100 <= bias <= 100 for bias in body.get("logit_bias", {}).values()):
        yield "Invalid value for 'logit_bias': expected a value from -100 to 100."
    form = (body.get("response_format") or {}).get("type", "text")
    if form not in ("text", "json_object", "json_schema"):
        yield "Invalid 'response_format.type'."
    schema = (body.get("response_format") or {}).get("json_schema")
    if form == "json_schema" and not (isinstance(schema, dict) and _NAME.match(schema.get("name", ""))):
        yield "Missing required parameter: 'response_format.json_schema.name'."
    if form == "json_object" and "json" not in str(body.get("messages")).lower():
        yield "'messages' must contain the word 'json' in some form, to use 'response_format' of type 'json_object'."
    if "parallel_tool_calls" in body and "tools" not in body:
        yield "Invalid value for 'parallel_tool_calls': it is only allowed when 'tools' are specified."
    if "stream_options" in body and not body.get("stream"):
        yield "The 'stream_options' parameter is only allowed when 'stream' is enabled."


def _tools(body: dict[str, Any]) -> Iterator[str]:
    tools = body.get("tools")
    if tools is not None and not tools:
        yield "Invalid 'tools': empty array."
    names = []
    for index, tool in enumerate(tools or ()):
        function = tool["function"]
        names.append(function["name"])
        if not _NAME.match(function["name"]):
            yield f"Invalid 'tools[{index}].function.name': string does not match pattern."
        for name in function.keys() - {"name", "description", "parameters", "strict"}:
            yield f"Unknown parameter: 'tools[{index}].function.{name}'."
        schema = function.get("parameters", {"type": "object"})
        if schema.get("type") != "object" or schema.keys() & {"oneOf", "anyOf", "allOf", "enum", "not"}:
            yield (
                f"Invalid schema for function '{function['name']}': schema must have type 'object' and not have "
                "'oneOf'/'anyOf'/'allOf'/'enum'/'not' at the top level."
            )
    if len(set(names)) < len(names):
        yield "Tool names must be unique."
    choice = body.get("tool_choice")
    if choice is None:
        return
    if not names:
        yield "'tool_choice' is only allowed when 'tools' are specified."
    elif isinstance(choice, str):
        if choice not in ("none", "auto", "required"):
            yield f"Invalid value: '{choice}'."
    elif choice.get("type") != "function" or choice["function"]["name"] not in names:
        yield "Tool choice not found in 'tools' parameter."


def _content(message: dict[str, Any], place: str) -> Iterator[str]:
    role, content = message["role"], message.get("content")
    if content is None:
        if role != "assistant" or not (message.get("tool_calls") or message.get("function_call")):
            yield f"Invalid value for '{place}.content': expected a string, got null."
        return
    if isinstance(content, str):
        return
    if not content:
        yield f"Invalid '{place}.content': empty array."
    for index, part in enumerate(content):
        kind = part.get("type")
        if kind not in _PARTS[role]:
            yield f"Invalid value: '{kind}' in {place}.content[{index}].type"
            continue
        if part.keys() - {"type", kind}:
            yield f"Unknown parameter in {place}.content[{index}]."
        if kind in ("text", "refusal") and not isinstance(part.get(kind), str):
            yield f"Invalid type for '{place}.content[{index}].{kind}': expected a string."
        if kind in _PART_MEMBERS and part[kind].keys() - _PART_MEMBERS[kind]:
            yield f"Unknown parameter in '{place}.content[{index}].{kind}'."
        if kind == "input_audio" and part[kind].get("format") not in ("wav", "mp3"):
            yield f"Invalid value for '{place}.content[{index}].input_audio.format'."
        if kind == "image_url" and part[kind].get("detail", "auto") not in ("auto", "low", "high"):
            yield f"Invalid value for '{place}.content[{index}].image_url.detail'."
        if kind == "image_url":
            yield from _image(part["image_url"], f"{place}.content[{index}]")
        if kind == "file" and not part["file"].keys() & {"file_data", "file_id"}:
            yield f"Missing required parameter: '{place}.content[{index}].file.file_data'."


def _image(image: Any, place: str) -> Iterator[str]:
    if not isinstance(image, dict) or not isinstance(image.get("url"), str):
        yield f"Invalid type for '{place}.image_url': expected an object."
        return
    url = image["url"]
    if url.startswith("data:"):
        media_type, _, data = url.removeprefix("data:").partition(";base64,")
        if media_type not in ("image/png", "image/jpeg", "image/gif", "image/webp"):
            yield f"Invalid MIME type in {place}. Only image types are supported."
        try:
            base64.b64decode(data, validate=True)
        except ValueError:
            yield f"Invalid base64 image_url in {place}."
    elif not url.startswith(("http://", "https://")):
        yield f"Invalid '{place}.image_url.url': expected a valid URL."


def _calls(calls: Any, place: str) -> Iterator[str]:
    if not calls:
        yield f"Invalid '{place}.tool_calls': empty array."
    ids = [call.get("id") for call in calls]
    if len(set(ids)) < len(ids):
        yield f"Duplicate ids in {place}.tool_calls."
    for index, call in enumerate(calls):
        where = f"{place}.tool_calls[{index}]"
        if not isinstance(call.get("id"), str) or not 0 < len(call["id"]) <= 40:
            yield f"Invalid '{where}.id': string too long."
        if call.keys() - {"id", "type", "function"} or call["function"].keys() - {"name", "arguments"}:
            yield f"Unknown parameter in '{where}'."
        if call.get("type") != "function" or not _NAME.match(call["function"]["name"]):
            yield f"Invalid '{where}.function.name': string does not match pattern."
        if not isinstance(call["function"].get("arguments"), str):
            yield f"Invalid type for '{where}.function.arguments': expected a string."
