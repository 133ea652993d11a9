"""Google's JSON with the names that Python users know. Used where requests and responses are read.

On the wire the library's versions mix `inlineData` and `inline_data`; a record has the latter. What belongs to the
user, such as the arguments of a function or a schema, keeps its names.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from functools import lru_cache
from typing import Any, Final

from everycall import limits
from everycall.integration import Fields, media_reference, members, to_plain

__all__ = ["items", "message", "parts", "python_names", "snake_case"]

_VERBATIM: Final = frozenset(
    {
        "args",
        "labels",
        "parameters",
        "parameters_json_schema",
        "response",
        "response_json_schema",
        "response_schema",
    }
)
"""Members whose content is the user's."""
_ROLES: Final = {"model": "assistant", None: "user"}
_SIGNATURE: Final = "thought_signature"


@lru_cache(maxsize=1_024)
def snake_case(name: str) -> str:
    """Return a name of the wire as a Python name: `maxOutputTokens` is `max_output_tokens`."""
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)


def python_names(value: object) -> Any:
    """Return JSON of the wire with Python names, and media by reference."""
    return _python_names(to_plain(value), 0)


def _python_names(value: object, depth: int) -> Any:
    if depth > limits.CAPTURE_DEPTH_MAX:
        return value
    if type(value) is dict:
        renamed = {}
        for key, item in value.items():
            name = snake_case(key) if isinstance(key, str) else key
            renamed[name] = item if name in _VERBATIM else _python_names(item, depth + 1)
        media = renamed.get("inline_data")
        if isinstance(media, dict) and isinstance(data := media.get("data"), str) and not data.startswith("<"):
            renamed["inline_data"] = {**media, "data": media_reference(data, _media_type(media))}
        return renamed
    if type(value) is list:
        return [_python_names(item, depth + 1) for item in value]
    return value.value if isinstance(value, Enum) else value


def _media_type(media: Fields) -> str:
    media_type = media.get("mime_type")
    return media_type if isinstance(media_type, str) else "base64"


def message(content: object) -> Fields:
    """Return a content as a message. Its `content` is a text if it has one text part only, else the list of parts."""
    values = members(content)
    message_parts = parts(values.get("parts"))
    role = values.get("role")
    if len(message_parts) == 1 and message_parts[0].get("type") == "text":
        return {"role": _ROLES.get(role, role), "content": message_parts[0]["text"]}
    return {"role": _ROLES.get(role, role), "content": message_parts}


def parts(values: object) -> list[Fields]:
    """Return the parts that are not empty; text, `reasoning` (a thought), tool calls and their responses have a `type`.

    The types are those of OpenTelemetry's message parts. All other members are kept with their names, as are parts of
    other kinds, such as `inline_data`, `file_data` or `executable_code`. Signatures of thoughts, which only Google can
    read, are left out.
    """
    return [part for value in items(values) if (part := _part(value))]


def _part(value: object) -> Fields:
    if type(value) is dict and len(value) == 1 and type(text := value.get("text")) is str:  # the most common case
        return {"type": "text", "text": text} if text else {}
    part = python_names(value)
    if not isinstance(part, dict):
        return {}
    part.pop(_SIGNATURE, None)
    text, call, response = part.get("text"), part.get("function_call"), part.get("function_response")
    if isinstance(text, str):
        kind = "reasoning" if part.pop("thought", None) else "text"
        return {"type": kind, **part} if text or len(part) > 1 else {}
    if isinstance(call, Mapping):
        return {"type": "tool_call", **_function(call, "args", "arguments"), **_without(part, "function_call")}
    if isinstance(response, Mapping):
        return {
            "type": "tool_call_response",
            **_function(response, "response", "response"),
            **_without(part, "function_response"),
        }
    return part


def _function(values: Mapping[str, Any], payload: str, name: str) -> Fields:
    """Return the members of a function call or its response, with its payload under a name."""
    others = {key: value for key, value in values.items() if key != payload and value is not None}
    return {**others, name: values.get(payload)}


def _without(part: Fields, name: str) -> Fields:
    return {key: value for key, value in part.items() if key != name}


def items(value: object) -> list[Any]:
    """Return a list as it is; an empty list for anything else."""
    return value if isinstance(value, list) else []
