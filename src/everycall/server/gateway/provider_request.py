"""What a provider is asked, in one shape for all of them. Made by `preparation.py`, sent by `providers.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from everycall.server.gateway.request import Message
from everycall.server.problems import problem

__all__ = ["ProviderRequest", "as_functions", "as_messages"]

_MESSAGE_EXTRAS = (
    "name", "tool_calls", "tool_call_id", "function_call", "refusal", "audio", "reasoning_content", "cache_control"
)  # fmt: skip
_ROLES = {
    "system": "system",
    "developer": "developer",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "function",
    "example_user": "user",
    "example_assistant": "assistant",
}


@dataclass(frozen=True, slots=True)
class ProviderRequest:
    """Everything that shapes a provider's answer.

    `provider` is a configured name, or None to choose by the model. `params` has Parea's names, and only parameters
    that were set. `version` is that of the deployment, and `missing_variables` are those of its template that had no
    value; neither shapes the answer.
    """

    provider: str | None
    model: str
    params: Mapping[str, Any]
    messages: Sequence[Mapping[str, Any]]
    functions: Sequence[Mapping[str, Any]]
    function_call: str | Mapping[str, Any] | None
    version: int | None = None
    missing_variables: Sequence[str] = ()

    def as_json(self) -> dict[str, Any]:
        """Return the request as the `llm_configuration` of a record."""
        return {
            "model": self.model,
            "provider": self.provider,
            "model_params": dict(self.params),
            "messages": list(self.messages),
            "functions": list(self.functions) or None,
            "function_call": self.function_call,
        }


def as_messages(messages: Sequence[Message], field: str) -> list[dict[str, Any]]:
    """Return messages as plain values, with roles that providers know. Raise `ProblemError` 422 for other roles."""
    plain: list[dict[str, Any]] = []
    for index, message in enumerate(messages):
        role = _ROLES.get(message.role.removeprefix("Role."))  # Parea's Message.to_dict() writes "Role.user"
        if role is None:
            raise problem(
                "invalid_request",
                422,
                "Unknown role of a message",
                f"{field}[{index}].role may be {', '.join(_ROLES)}.",
                field=f"{field}[{index}].role",
            )
        value: dict[str, Any] = {"role": role, "content": message.content}
        for name in _MESSAGE_EXTRAS:
            if (extra := getattr(message, name)) is not None:
                value[name] = extra
        plain.append(value)
    return plain


def as_functions(functions: Sequence[Any]) -> list[dict[str, Any]]:
    """Return function schemas as objects with a name: plain ones, OpenAI tool wrappers, or either as JSON text.

    Raise `ProblemError` 422 naming the first schema that cannot be used.
    """
    plain: list[dict[str, Any]] = []
    for index, function in enumerate(functions):
        value = function
        if isinstance(value, str):
            try:
                value = msgspec.json.decode(value)
            except msgspec.DecodeError:
                value = None
        if isinstance(value, dict) and isinstance(value.get("function"), dict):
            value = value["function"]
        if not isinstance(value, dict) or not isinstance(value.get("name"), str):
            raise problem(
                "invalid_request",
                422,
                "A function schema cannot be used",
                f"functions[{index}] must be an object with name, description and parameters (a JSON Schema).",
                field=f"functions[{index}]",
            )
        plain.append(value)
    return plain
