"""`POST /api/parea/v1/deployed-prompt`: a deployment as Parea's clients fetch it, filled where there are values."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from litestar import Response, post
from litestar.openapi.spec import Schema
from litestar.openapi.spec.enums import OpenAPIType
from msgspec import Meta

from everycall import limits
from everycall.server.api.http import PAREA_PREFIX, ApiRequest, json_response, read_json
from everycall.server.api.openapi import operation, schema_of
from everycall.server.api.parea.projects import find_project
from everycall.server.auth import require
from everycall.server.gateway.preparation import missing_deployment
from everycall.server.gateway.templates import fill_messages
from everycall.server.security import header
from everycall.server.store.base import Store
from everycall.server.store.values import Deployment

__all__ = ["handlers"]


class PromptRequest(msgspec.Struct, kw_only=True):
    """Which deployment, and the values of its variables."""

    deployment_id: Annotated[str, Meta(min_length=1, max_length=limits.ID_CHARS_MAX)]
    llm_inputs: dict[str, Any] | None = None


_decoder = msgspec.json.Decoder(PromptRequest)
_encoder = msgspec.json.Encoder()
_TEXT = Schema(type=[OpenAPIType.STRING, OpenAPIType.NULL])
_MESSAGES = Schema(type=OpenAPIType.ARRAY, items=Schema(type=OpenAPIType.OBJECT))


@post(
    f"{PAREA_PREFIX}/deployed-prompt",
    status_code=200,
    operation_class=operation(
        body=schema_of(PromptRequest),
        answer=Schema(
            type=OpenAPIType.OBJECT,
            required=["deployment_id", "version_number", "prompt"],
            properties={
                "deployment_id": Schema(type=OpenAPIType.STRING),
                "version_number": Schema(type=OpenAPIType.INTEGER),
                "name": _TEXT,
                "model": _TEXT,
                "provider": _TEXT,
                "model_params": Schema(type=OpenAPIType.OBJECT),
                "functions": Schema(
                    type=OpenAPIType.ARRAY, items=Schema(type=OpenAPIType.STRING), description="Each is JSON."
                ),
                "function_call": _TEXT,
                "prompt": Schema(
                    type=OpenAPIType.OBJECT,
                    properties={
                        "raw_messages": _MESSAGES,
                        "messages": _MESSAGES,
                        "inputs": Schema(type=[OpenAPIType.OBJECT, OpenAPIType.NULL]),
                    },
                ),
            },
        ),
        problems={
            404: "No such deployment in this project.",
            410: "No version of it is served.",
            422: "A field is wrong; `field` names it.",
        },
    ),
)
async def post_deployed_prompt(request: ApiRequest) -> Response[bytes]:
    """Return the active version of a deployment: its messages as they are written, and filled with `llm_inputs`."""
    require(request.user, "read")
    store: Store = request.app.state.store
    asked = await read_json(request, _decoder)

    async def serves(project: str) -> bool:
        return await store.deployment(project, asked.deployment_id) is not None

    async def has(project: str) -> bool:
        return bool(await store.deployment_versions(project, asked.deployment_id, limit=1))

    project = await find_project(request, serves, has)
    deployment = await store.deployment(project, asked.deployment_id)
    if deployment is None:
        raise await missing_deployment(store, project, asked.deployment_id)
    answer = _answer(deployment, asked.llm_inputs)
    if _is_first_client(request):
        del answer["version_number"]
    return json_response(answer)


def _answer(deployment: Deployment, inputs: dict[str, Any] | None) -> dict[str, Any]:
    raw = [dict(message) for message in deployment.messages]
    call = deployment.function_call
    return {
        "deployment_id": deployment.deployment_id,
        "version_number": deployment.version,
        "name": deployment.name,
        "functions": [_encoder.encode(function).decode() for function in deployment.functions],
        "function_call": call if isinstance(call, str) or call is None else _encoder.encode(call).decode(),
        "prompt": {"raw_messages": raw, "messages": fill_messages(raw, inputs or {}), "inputs": inputs},
        "model": deployment.model,
        "provider": deployment.provider or None,
        "model_params": dict(deployment.model_params),
    }


def _is_first_client(request: ApiRequest) -> bool:
    """Return whether this is a client of Parea's from before it announced its version, which fails on a new field."""
    agent = header(request.scope, b"user-agent") or ""
    return agent.startswith("python-httpx/") and header(request.scope, b"x-sdk-version") is None


handlers = [post_deployed_prompt]
