"""Rules that all providers have for tool calls in a conversation, checked before a provider refuses it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from everycall.server.gateway.formats.base import refused

__all__ = ["arguments_object", "function_choice", "paired"]

_OWNERS = {
    "tool_calls": ("assistant",),
    "function_call": ("assistant",),
    "refusal": ("assistant",),
    "audio": ("assistant",),
    "reasoning_content": ("assistant",),
    "tool_call_id": ("tool", "function"),
}
"""Which roles may have a member that not all messages may have."""
_CALL_MEMBERS = frozenset({"id", "type", "function", "index", "cache_control"})
"""`index` is what a stream's chunks have, and says nothing more than the order."""
_FUNCTION_MEMBERS = frozenset({"name", "arguments", "parsed_arguments"})
"""`parsed_arguments` are the arguments once more, as OpenAI's package parsed them."""


def paired(messages: Sequence[Mapping[str, Any]], *, adjacent: bool) -> list[dict[str, Any]]:
    """Return the messages with an id in every tool call and its result, in the form of OpenAI's `tool_calls`.

    The older `function_call` becomes a tool call, and the message of role `function` after it a result. A result
    without an id belongs to the first call that has none yet. With `adjacent`, results must follow their call without
    another message in between. Raise `ProblemError` 422 for a call without a result, and for a result without a call.
    """
    conversation: list[dict[str, Any]] = []
    waiting: dict[str, tuple[str, str]] = {}  # by id: the place and the function's name
    for index, message in enumerate(messages):
        place = f"messages[{index}]"
        message = _checked_members(message, place)
        if message["role"] in ("tool", "function"):
            call_id = _result_id(message, waiting, place)
            del waiting[call_id]
            conversation.append({**message, "role": "tool", "tool_call_id": call_id, "place": place})
            continue
        if waiting and (adjacent or message["role"] == "assistant"):
            raise _unanswered(waiting)
        legacy = message.pop("function_call", None)
        calls = [dict(call) for call in message.pop("tool_calls", None) or ()]
        if isinstance(legacy, Mapping):
            calls.append({"function": legacy})
        for position, call in enumerate(calls):
            field = f"{place}.tool_calls[{position}]"
            function = call.get("function")
            if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
                raise refused(field, "A tool call without a function", f"{field} must have a function with a name.")
            _check_call(call, field)
            call["id"] = str(call.get("id") or f"call_{index}_{position}")
            if call["id"] in waiting:
                raise refused(field, "Two tool calls have one id", f"{field}.id is the id of another call, too.")
            waiting[call["id"]] = (field, function["name"])
        if calls:
            message["tool_calls"] = calls
        conversation.append({**message, "place": place})
    if waiting:
        raise _unanswered(waiting)
    return conversation


def _checked_members(message: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Return a message without empty members. Raise `ProblemError` 422 for one that its role cannot have."""
    role = message["role"]
    checked: dict[str, Any] = {}
    for name, value in message.items():
        owners = _OWNERS.get(name)
        if owners is not None and not value:
            continue
        if owners is not None and role not in owners:
            detail = f"{place} has the role {role}; only a message of role {owners[0]} may have {name}."
            raise refused(f"{place}.{name}", f"A {name} in a message of another role", detail, "invalid_request")
        checked[name] = value
    return checked


def _check_call(call: Mapping[str, Any], field: str) -> None:
    """Raise `ProblemError` 422 for a member of a tool call that no provider is sent."""
    function = call["function"]
    others = [(name, call[name]) for name in call if name not in _CALL_MEMBERS]
    others += [(f"function.{name}", function[name]) for name in function if name not in _FUNCTION_MEMBERS]
    for name, value in others:
        if value is not None:
            detail = f"{field} may have id, type and function with name and arguments; leave out {name[:64]}."
            raise refused(f"{field}.{name[:64]}", "A tool call has no such member", detail)


def arguments_object(function: Mapping[str, Any]) -> dict[str, Any]:
    """Return a call's arguments as an object. Text that is not a JSON object becomes the member `arguments` of one."""
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments) if arguments.strip() else {}
        except ValueError:
            return {"arguments": arguments}
    if arguments is None:
        return {}
    return arguments if isinstance(arguments, dict) else {"arguments": arguments}


def function_choice(choice: str | Mapping[str, Any] | None, functions: Sequence[Mapping[str, Any]]) -> str | None:
    """Return `auto`, `none`, `required`, the name of a function after `=`, or None if nothing was chosen.

    Raise `ProblemError` 422 for anything else, and for a choice among functions that are not there.
    """
    if not choice:
        return None
    if isinstance(choice, Mapping):
        inner = choice.get("function")
        name = (inner if isinstance(inner, Mapping) else choice).get("name")
        kind = choice.get("type")
        if isinstance(name, str):
            if name not in {function["name"] for function in functions}:
                raise _bad_choice(f"function_call names {name[:64]!r}, which is not among the functions")
            return f"={name}"
        choice = kind if isinstance(kind, str) else ""
    choice = {"any": "required"}.get(choice, choice)
    if choice not in ("auto", "none", "required"):
        raise _bad_choice('function_call may be "auto", "none", "required" or {"name": ...}')
    if not functions:
        if choice == "required":
            raise _bad_choice('function_call is "required", and there are no functions')
        return None
    return choice


def _bad_choice(detail: str) -> Exception:
    field = "llm_configuration.function_call"
    return refused(field, "This function_call cannot be sent", f"{detail}.", "invalid_request")


def _result_id(message: Mapping[str, Any], waiting: Mapping[str, tuple[str, str]], place: str) -> str:
    call_id = message.get("tool_call_id")
    if call_id is None:
        name = message.get("name")
        candidates = [waiting_id for waiting_id, (_, function) in waiting.items() if name in (None, function)]
        call_id = candidates[0] if candidates else None
    if call_id not in waiting:
        detail = f"{place} answers no tool call of the assistant's message before it. Check its tool_call_id."
        raise refused(f"{place}.tool_call_id", "A tool's result without its call", detail, "invalid_request")
    return str(call_id)


def _unanswered(waiting: Mapping[str, tuple[str, str]]) -> Exception:
    field, _ = next(iter(waiting.values()))
    detail = f"No message of role tool with its id follows {field}. Add the result of each call right after the call."
    return refused(field, "A tool call without its result", detail, "invalid_request")
