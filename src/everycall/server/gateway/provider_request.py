"""From a request and its deployment to what is asked of a provider. Called by `gateway/gateway.py`.

Precedence, as the seed says: what the request's `llm_configuration` gives is used instead of the deployment's, field
by field. Lists (messages, functions) are replaced as a whole, parameters one by one. Parea's client sends a full set
of default parameters with every request; with a deployment, exactly that set counts as not given, or no deployed
temperature would ever be used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from everycall.server.gateway.request import PAREA_DEFAULTS, CompletionRequest, LLMConfiguration, Message, ModelParams
from everycall.server.gateway.templates import fill_messages
from everycall.server.problems import ProblemError, problem
from everycall.server.store.base import Store
from everycall.server.store.values import Deployment

__all__ = ["ProviderRequest", "as_functions", "as_messages", "ask", "missing_deployment"]

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
    """What a provider is asked: everything that shapes its answer.

    `provider` is the name given, or None to choose by the model. `params` has Parea's names, only those given.
    `version` is that of the deployment; it shapes nothing.
    """

    provider: str | None
    model: str
    params: Mapping[str, Any]
    messages: Sequence[Mapping[str, Any]]
    functions: Sequence[Mapping[str, Any]]
    function_call: str | Mapping[str, Any] | None
    version: int | None = None

    def as_json(self) -> dict[str, Any]:
        """Return it as a record's `llm_configuration`."""
        return {
            "model": self.model,
            "provider": self.provider,
            "model_params": dict(self.params),
            "messages": list(self.messages),
            "functions": list(self.functions) or None,
            "function_call": self.function_call,
        }


def ask(request: CompletionRequest, deployment: Deployment | None) -> ProviderRequest:
    """Merge the request over its deployment and fill the templates; `history` comes first and is never a template.

    Raises `ProblemError` 422 when there is no model or no message, or one of them cannot be used.
    """
    given = request.llm_configuration or LLMConfiguration()
    params = given.model_params
    if deployment is not None and params == PAREA_DEFAULTS:
        params = None
    model = given.model or (deployment.model if deployment else None)
    templates = as_messages(given.messages, "llm_configuration.messages") if given.messages else None
    if templates is None and deployment is not None:
        templates = [dict(message) for message in deployment.messages]
    if not model or not templates:
        raise problem(
            "nothing_to_complete",
            422,
            "Neither a deployment nor a model with messages",
            "Give deployment_id, or llm_configuration with model and at least one message.",
        )
    messages = fill_messages(templates, request.variables())
    if given.history:
        messages = [*as_messages(given.history, "llm_configuration.history"), *messages]
    functions: Sequence[Mapping[str, Any]]
    if given.functions is not None:
        functions = as_functions(given.functions)
    else:
        functions = deployment.functions if deployment else ()
    return ProviderRequest(
        provider=given.provider or (deployment.provider if deployment else None) or None,
        model=model,
        params={**(deployment.model_params if deployment else {}), **(params or ModelParams()).given()},
        messages=messages,
        functions=functions,
        function_call=given.function_call or (deployment.function_call if deployment else None),
        version=deployment.version if deployment else None,
    )


def as_messages(messages: Sequence[Message], field: str) -> list[dict[str, Any]]:
    """Return messages as plain values, with the roles that providers know. Raises `ProblemError` 422 for others."""
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
        for name in ("name", "tool_calls", "tool_call_id"):
            if (extra := getattr(message, name)) is not None:
                value[name] = extra
        plain.append(value)
    return plain


def as_functions(functions: Sequence[Any]) -> list[dict[str, Any]]:
    """Return function schemas as objects with a name: plain ones, OpenAI tool wrappers, or either as JSON text.

    Raises `ProblemError` 422 naming the one that is none of these.
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


async def missing_deployment(store: Store, project: str, deployment_id: str) -> ProblemError:
    """Return what to raise where the store has no served version: 410 when there are versions, else 404."""
    if await store.deployment_versions(project, deployment_id, limit=1):
        return problem(
            "inactive_deployment",
            410,
            "No version of this deployment is served",
            "It was archived, or none of its versions has been activated yet. Activate one: "
            'POST /api/deployments/{deployment_id}/activate with {"version": ...}.',
            field="deployment_id",
        )
    return problem(
        "unknown_deployment",
        404,
        "No such deployment",
        "There is no deployment with this deployment_id in this project. GET /api/deployments lists those that are; "
        "POST /api/deployments makes one.",
        field="deployment_id",
    )
