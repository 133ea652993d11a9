"""Chat messages in the shapes that records have, converted to one shape. Pure functions; called by `content`.

Recognised: OpenAI chat (`role`, `content` as text or parts, `tool_calls`), Anthropic (content blocks), LangChain
(`type`, also inside its `kwargs` dump), OpenTelemetry GenAI (`role`, `parts`). Anything else is shown as JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from everycall.server.pages.values import Node, Text, node_of, text_of

__all__ = ["Message", "Part", "as_chats", "as_message"]

_ROLES: Final = {
    "human": "user",
    "ai": "assistant",
    "model": "assistant",
    "AIMessageChunk": "assistant",
    "user": "user",
    "assistant": "assistant",
    "system": "system",
    "developer": "developer",
    "tool": "tool",
    "function": "function",
    "example_user": "user",
    "example_assistant": "assistant",
}
_MESSAGES_MAX: Final = 2_000


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a message: text, a tool call (`tool` is its name, `node` or `text` its arguments), or other JSON."""

    text: Text | None = None
    node: Node | None = None
    tool: str | None = None
    tool_id: str | None = None
    label: str | None = None


@dataclass(frozen=True, slots=True)
class Message:
    """One message. `role` is user, assistant, system, developer, tool or function; `name` is of a person or tool."""

    role: str
    name: str | None
    parts: tuple[Part, ...]


def as_chats(value: Any) -> tuple[tuple[Message, ...], ...] | None:
    """Return one or more conversations when the value is a list of messages, or a list of such lists; else None."""
    if not isinstance(value, list) or not value or len(value) > _MESSAGES_MAX:
        return None
    if all(isinstance(item, list) for item in value):
        chats = tuple(_chat(item) for item in value)
        return None if any(chat is None for chat in chats) else tuple(chat for chat in chats if chat)
    chat = _chat(value)
    return (chat,) if chat else None


def as_message(value: Any) -> Message | None:
    """Return the value as a message, or None if it is not one."""
    if not isinstance(value, Mapping):
        return None
    if isinstance(value.get("kwargs"), Mapping) and "lc" in value:
        value = {"type": _langchain_type(value), **value["kwargs"]}
    role_name = value.get("role") if isinstance(value.get("role"), str) else value.get("type")
    role = _ROLES.get(role_name) if isinstance(role_name, str) else None
    if role is None or not ({"content", "parts", "tool_calls", "function_call"} & value.keys()):
        return None
    parts = [*_parts(value.get("content")), *_parts(value.get("parts"))]
    parts.extend(_calls(value.get("tool_calls")))
    if isinstance(value.get("function_call"), Mapping):
        parts.extend(_calls([value["function_call"]]))
    name = next((value[key] for key in ("name", "tool_call_id") if isinstance(value.get(key), str)), None)
    return Message(role, name, tuple(parts))


def _chat(items: list[Any]) -> tuple[Message, ...] | None:
    messages = tuple(as_message(item) for item in items)
    if not messages or any(message is None for message in messages):
        return None
    return tuple(message for message in messages if message)


def _langchain_type(value: Mapping[str, Any]) -> str | None:
    """Return the message's type from the class named at the end of a LangChain dump's `id`."""
    path = value.get("id")
    last = path[-1] if isinstance(path, list) and path and isinstance(path[-1], str) else ""
    return last.removesuffix("Chunk").removesuffix("Message").lower() or None


def _parts(content: Any) -> list[Part]:
    if content is None or content == "":
        return []
    if isinstance(content, str):
        return [Part(text=text_of(content))]
    if not isinstance(content, list):
        return [Part(node=node_of(content))]
    return [_part(piece) for piece in content]


def _part(piece: Any) -> Part:
    if isinstance(piece, str):
        return Part(text=text_of(piece))
    if not isinstance(piece, Mapping):
        return Part(node=node_of(piece))
    kind = piece.get("type")
    if kind in ("text", "input_text", "output_text", "reasoning", "thinking", "refusal"):
        text = next(
            (piece[k] for k in ("text", "content", "thinking", "refusal") if isinstance(piece.get(k), str)), None
        )
        if text is not None:
            return Part(text=text_of(text), label=kind if kind in ("reasoning", "thinking", "refusal") else None)
    if kind in ("tool_use", "tool_call", "server_tool_use") and isinstance(piece.get("name"), str):
        return _call(piece)
    if kind in ("tool_result", "tool_call_response"):
        return _result(piece)
    return Part(node=node_of(piece))


def _result(piece: Mapping[str, Any]) -> Part:
    result = next((piece[key] for key in ("content", "response", "result") if key in piece), None)
    call_id = next((piece[key] for key in ("tool_use_id", "id") if isinstance(piece.get(key), str)), None)
    label = f"result of {call_id}" if call_id else "tool result"
    if isinstance(result, str):
        return Part(text=text_of(result), label=label)
    return Part(node=node_of(result), label=label)


def _calls(calls: Any) -> list[Part]:
    if not isinstance(calls, list):
        return []
    return [_call(call) if isinstance(call, Mapping) else Part(node=node_of(call)) for call in calls]


def _call(call: Mapping[str, Any]) -> Part:
    function = call["function"] if isinstance(call.get("function"), Mapping) else call
    name = function.get("name")
    if not isinstance(name, str):
        return Part(node=node_of(call))
    arguments = next((function[key] for key in ("arguments", "args", "input") if key in function), None)
    if isinstance(arguments, str):
        try:
            arguments = msgspec.json.decode(arguments)
        except msgspec.DecodeError:
            return Part(text=text_of(arguments), tool=name, tool_id=_id(call))
    return Part(node=node_of(arguments), tool=name, tool_id=_id(call))


def _id(call: Mapping[str, Any]) -> str | None:
    return call["id"] if isinstance(call.get("id"), str) else None
