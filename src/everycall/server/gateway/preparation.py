"""From a request to what its providers are asked: the deployment, the templates, the providers to try in order.

Called by `gateway.py`. Values in the request's `llm_configuration` override the deployment's, field by field: lists
(messages, functions) as a whole, parameters one by one. Parea's client sends a full set of default parameters with
every request. With a deployment, exactly that set counts as not given; otherwise no deployed temperature would apply.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from everycall import limits
from everycall.server.gateway.provider_request import ProviderRequest, as_functions, as_messages
from everycall.server.gateway.request import PAREA_DEFAULTS, CompletionRequest, LLMConfiguration, ModelParams
from everycall.server.gateway.routing import Candidate, Routes, UnusableFallback
from everycall.server.gateway.templates import fill_messages, uses_python_values, variables_of
from everycall.server.problems import ProblemError, problem
from everycall.server.provider_settings import Fallback
from everycall.server.store.base import Store
from everycall.server.store.values import Deployment

__all__ = ["Preparation", "PreparedRequest", "merge", "missing_deployment"]


@dataclass(frozen=True, slots=True)
class PreparedRequest:
    """A request that is ready to be sent, to `first` and then to `fallbacks`.

    `timeout_s` is for all of it together. `deployment_name` is the name of the deployment, None without one.
    """

    project: str
    request: CompletionRequest
    first: Candidate
    fallbacks: Sequence[Candidate | UnusableFallback]
    timeout_s: float
    deployment_name: str | None = None


class Preparation:
    """Prepares requests with a store's deployments and the configured providers."""

    def __init__(self, store: Store, routes: Routes) -> None:
        self._store = store
        self._routes = routes

    async def prepare(self, project: str, request: CompletionRequest) -> PreparedRequest:
        """Return the request with its deployment applied, its templates filled and its providers chosen.

        Raise `ProblemError` if no provider can be asked: 404 or 410 for the deployment, 422 for everything else.
        """
        deployment = None
        if request.deployment_id:
            deployment = await self._store.deployment(project, request.deployment_id)
            if deployment is None:
                raise await missing_deployment(self._store, project, request.deployment_id)
        merged, caller_key = merge(request, deployment), request.provider_api_key or None
        first = self._routes.route(merged, caller_key)
        fallbacks = self._routes.fallbacks(first, caller_key, _fallbacks(deployment))
        timeout_s = max(limits.PROVIDER_TIMEOUT_S, first.settings.timeout_s)
        name = deployment.name if deployment else None
        return PreparedRequest(project, request, first, fallbacks, timeout_s, deployment_name=name)


def merge(request: CompletionRequest, deployment: Deployment | None) -> ProviderRequest:
    """Return the request merged over its deployment, with templates filled. `history` comes first, unfilled.

    Raise `ProblemError` 422 if there is no model or no message, or if one of them cannot be used.
    """
    configuration = request.llm_configuration or LLMConfiguration()
    params = configuration.model_params
    if deployment is not None and params == PAREA_DEFAULTS:
        params = None
    model = configuration.model or (params.model if params else None) or (deployment.model if deployment else None)
    templates: list[dict[str, Any]] = []
    if configuration.messages:
        templates = as_messages(configuration.messages, "llm_configuration.messages")
    elif deployment is not None:
        templates = [dict(message) for message in deployment.messages]
    if not model or not templates:
        raise problem(
            "nothing_to_complete",
            422,
            "Neither a deployment nor a model with messages",
            "Give deployment_id, or llm_configuration with model and at least one message.",
        )
    variables = request.variables()
    messages = fill_messages(templates, variables, python=uses_python_values(deployment))
    missing: list[str] = []
    if variables or deployment is not None:  # else what looks like a variable is text
        missing = [name for name in variables_of(templates) if name not in variables]
    if configuration.history:
        messages = [*as_messages(configuration.history, "llm_configuration.history"), *messages]
    functions: Sequence[Any] = deployment.functions if deployment else ()
    if configuration.functions is not None:
        functions = as_functions(configuration.functions)
    return ProviderRequest(
        provider=configuration.provider or (deployment.provider if deployment else None) or None,
        model=model,
        params={**(deployment.model_params if deployment else {}), **(params or ModelParams()).as_set()},
        messages=messages,
        functions=functions,
        function_call=configuration.function_call or (deployment.function_call if deployment else None),
        version=deployment.version if deployment else None,
        missing_variables=missing[: limits.MISSING_VARIABLES_MAX],
    )


async def missing_deployment(store: Store, project: str, deployment_id: str) -> ProblemError:
    """Return the error to raise if no version of a deployment is served: 410 if it has versions, else 404."""
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


def _fallbacks(deployment: Deployment | None) -> Sequence[Fallback]:
    """Return the fallbacks stored with a deployment: objects with `model`, `provider` or both."""
    if deployment is None:
        return ()
    entries = deployment.fallbacks[: limits.FALLBACKS_MAX]
    return [Fallback(entry.get("provider") or None, entry.get("model") or None) for entry in entries]
