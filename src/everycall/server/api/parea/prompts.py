"""`POST /api/parea/v1/deployed-prompt`: a deployment as Parea's clients fetch it, with its variables filled in."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from litestar import Response, post
from litestar.di import NamedDependency
from msgspec import UNSET, Meta, UnsetType

from everycall import limits
from everycall.server.api.http import PAREA_PREFIX, ApiRequest, encode_json, json_response, read_json
from everycall.server.api.openapi import operation
from everycall.server.api.parea.projects import find_project
from everycall.server.auth import require
from everycall.server.gateway.preparation import missing_deployment
from everycall.server.gateway.templates import fill_messages, uses_python_values
from everycall.server.security import header
from everycall.server.services import Services
from everycall.server.store.values import Deployment

__all__ = ["handlers"]


class PromptRequest(msgspec.Struct, kw_only=True):
    """Which deployment, and the values of its variables."""

    deployment_id: Annotated[str, Meta(min_length=1, max_length=limits.ID_CHARS_MAX)]
    llm_inputs: dict[str, Any] | None = None


class Prompt(msgspec.Struct):
    """The messages of a deployment: as they were written, and with `inputs` filled in."""

    raw_messages: list[dict[str, Any]]
    messages: list[dict[str, Any]]
    inputs: dict[str, Any] | None


class PromptResponse(msgspec.Struct, kw_only=True):
    """The served version of a deployment."""

    deployment_id: str
    version_number: Annotated[int, Meta(description="Left out for the first Parea clients, which fail on it.")] | (
        UnsetType
    ) = UNSET
    name: str | None
    functions: Annotated[list[str], Meta(description="Each is JSON.")]
    function_call: str | None
    prompt: Prompt
    model: str | None
    provider: str | None
    model_params: dict[str, Any]


_decoder = msgspec.json.Decoder(PromptRequest)


@post(
    f"{PAREA_PREFIX}/deployed-prompt",
    status_code=200,
    operation_class=operation(
        body=PromptRequest,
        response=PromptResponse,
        problems={
            404: "No such deployment in this project.",
            410: "No version of the deployment is served.",
            422: "A field is wrong; `field` names it.",
        },
    ),
)
async def post_deployed_prompt(request: ApiRequest, services: NamedDependency[Services]) -> Response[bytes]:
    """Return the served version of a deployment: its messages as they were written, and filled with `llm_inputs`."""
    require(request.user, "read")
    body = await read_json(request, services.bodies, _decoder)
    store = services.store
    deployment_id = body.deployment_id

    async def serves(project: str) -> bool:
        return await store.deployment(project, deployment_id) is not None

    async def exists(project: str) -> bool:
        return bool(await store.deployment_versions(project, deployment_id, limit=1))

    project = await find_project(request.user, store, serves, exists)
    deployment = await store.deployment(project, deployment_id)
    if deployment is None:
        raise await missing_deployment(store, project, deployment_id)
    response = _response(deployment, body.llm_inputs)
    if _is_first_client(request):
        response.version_number = UNSET
    return json_response(response)


def _response(deployment: Deployment, inputs: dict[str, Any] | None) -> PromptResponse:
    raw_messages = [dict(message) for message in deployment.messages]
    call = deployment.function_call
    return PromptResponse(
        deployment_id=deployment.deployment_id,
        version_number=deployment.version,
        name=deployment.name,
        functions=[encode_json(function).decode() for function in deployment.functions],
        function_call=call if isinstance(call, str) or call is None else encode_json(call).decode(),
        prompt=Prompt(
            raw_messages, fill_messages(raw_messages, inputs or {}, python=uses_python_values(deployment)), inputs
        ),
        model=deployment.model,
        provider=deployment.provider or None,
        model_params=dict(deployment.model_params),
    )


def _is_first_client(request: ApiRequest) -> bool:
    """Return whether the caller is a Parea client older than the one that sends its version: a new field breaks it."""
    agent = header(request.scope, b"user-agent") or ""
    return agent.startswith("python-httpx/") and header(request.scope, b"x-sdk-version") is None


handlers = [post_deployed_prompt]
