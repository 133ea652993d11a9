"""Google's JSON with the names that Python's users know. Called where requests and answers are read.

On the wire the library mixes `inlineData` and `inline_data`, as its versions differ: a record has the latter only. What
is a user's own, such as the arguments of a function or a schema, keeps its names.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from functools import lru_cache
from typing import Any, Final

from everycall import limits
from everycall.integration import members, plain, reference

__all__ = ["items", "message", "named", "parts", "snake"]

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
_ROLES: Final = {"model": "assistant", None: "user"}
_SIGNATURE: Final = "thought_signature"


@lru_cache(maxsize=1_024)
def snake(name: str) -> str:
    """Return a name of the wire as Python's: `maxOutputTokens` is `max_output_tokens`."""
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)


def named(value: Any) -> Any:
    """Return JSON of the wire with Python's names, media by reference. What was so already stays."""
    return _named(plain(value), 0)


def _named(value: Any, depth: int) -> Any:
    if depth > limits.CAPTURE_DEPTH_MAX:
        return value
    if type(value) is dict:
        shown = {}
        for key, item in value.items():
            name = snake(key) if isinstance(key, str) else key
            shown[name] = item if name in _VERBATIM else _named(item, depth + 1)
        if isinstance(media := shown.get("inline_data"), dict) and isinstance(data := media.get("data"), str):
            shown["inline_data"] = {**media, "data": data if data[:1] == "<" else reference(data, _type_of(media))}
        return shown
    if type(value) is list:
        return [_named(item, depth + 1) for item in value]
    return value.value if isinstance(value, Enum) else value


def _type_of(media: dict[str, Any]) -> str:
    given = media.get("mime_type")
    return given if isinstance(given, str) else "base64"


def message(content: Any) -> dict[str, Any]:
    """Return a content as a message: `content` is its text where it is one text, else the list of its parts."""
    told = members(content)
    found = parts(told.get("parts"))
    role = told.get("role")
    if len(found) == 1 and found[0].get("type") == "text":
        return {"role": _ROLES.get(role, role), "content": found[0]["text"]}
    return {"role": _ROLES.get(role, role), "content": found}


def parts(given: Any) -> list[dict[str, Any]]:
    """Return parts that are not empty, with a `type` where it is text, `reasoning` (a thought) or a tool's.

    The types are those of OpenTelemetry's message parts. What has none of them keeps its one member, such as
    `inline_data`, `file_data` or `executable_code`. Signatures of thoughts, which only Google can read, are left out.
    """
    return [shown for part in items(given) if (shown := _part(part))]


def _part(given: Any) -> dict[str, Any]:
    if type(given) is dict and len(given) == 1 and type(text := given.get("text")) is str:  # nearly all are so
        return {"type": "text", "text": text} if text else {}
    part = named(given)
    if not isinstance(part, Mapping):
        return {}
    text, asked, answered = part.get("text"), part.get("function_call"), part.get("function_response")
    if isinstance(text, str):
        return {"type": "reasoning" if part.get("thought") else "text", "text": text} if text else {}
    if isinstance(asked, Mapping):
        return {"type": "tool_call", **_about(asked), "arguments": asked.get("args")}
    if isinstance(answered, Mapping):
        return {"type": "tool_call_response", **_about(answered), "response": answered.get("response")}
    return {name: value for name, value in part.items() if name != _SIGNATURE}


def _about(function: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name in ("id", "name") if (value := function.get(name)) is not None}


def items(value: Any) -> list[Any]:
    """Return a list, or an empty one for what is none."""
    return value if isinstance(value, list) else []
