"""Deployments: versioned prompts with their model, parameters and functions. `POST` makes one, or its next version."""

from __future__ import annotations

import secrets
from dataclasses import asdict
from typing import Annotated, Any

import msgspec
from litestar import Request, Response, get, post
from litestar.openapi.spec import Schema
from litestar.openapi.spec.enums import OpenAPIType
from msgspec import Meta

from everycall import limits
from everycall.server.api.completion import project_in, read_body, schema_of
from everycall.server.api.documents import operation, path_text, query_text
from everycall.server.auth import Identity, project_of, require
from everycall.server.bodies import Bodies
from everycall.server.gateway.asking import as_functions, as_messages
from everycall.server.gateway.providers import provider_of
from everycall.server.gateway.request import Message, ModelParams
from everycall.server.problems import bad_request, problem
from everycall.server.store.base import Deployment, Store

__all__ = ["DeploymentRequest", "handlers"]

_ID_BYTES = 16  # 21 of the 22 characters of their base64 form, as Parea's ids have
_encoder = msgspec.json.Encoder()
_PROJECT = query_text("project", "The project, for keys of all projects.")


class DeploymentRequest(msgspec.Struct, kw_only=True):
    """What a deployment is made of. With `deployment_id` it is the next version of that one, else a new one.

    `messages` may have `{{variables}}`; `model_params` has Parea's names (temp, top_p, max_length, ...). `provider` is
    a name of the server's settings; without it, the model's name tells.
    """

    name: Annotated[str, Meta(min_length=1, max_length=limits.NAME_CHARS_MAX)]
    messages: Annotated[list[Message], Meta(min_length=1)]
    model: Annotated[str, Meta(min_length=1, max_length=limits.NAME_CHARS_MAX)]
    provider: Annotated[str, Meta(max_length=limits.NAME_CHARS_MAX)] | None = None
    model_params: ModelParams | None = None
    functions: list[Any] | None = None
    function_call: str | dict[str, Any] | None = None
    deployment_id: Annotated[str, Meta(max_length=limits.ID_CHARS_MAX)] | None = None
    project_name: Annotated[str, Meta(max_length=256)] | None = None


_decoder = msgspec.json.Decoder(DeploymentRequest)

_DEPLOYMENT = Schema(
    type=OpenAPIType.OBJECT,
    description="One version of a deployment.",
    properties={
        **{name: Schema(type=OpenAPIType.STRING) for name in ("deployment_id", "project_name", "name", "model")},
        "version": Schema(type=OpenAPIType.INTEGER),
        "provider": Schema(type=OpenAPIType.STRING, description="Empty: the model's name tells."),
        "messages": Schema(type=OpenAPIType.ARRAY, items=Schema(type=OpenAPIType.OBJECT)),
        "model_params": Schema(type=OpenAPIType.OBJECT),
        "functions": Schema(type=OpenAPIType.ARRAY, items=Schema(type=OpenAPIType.OBJECT)),
        "function_call": Schema(type=[OpenAPIType.STRING, OpenAPIType.OBJECT, OpenAPIType.NULL]),
        "created_unix_nano": Schema(type=OpenAPIType.INTEGER),
        "active": Schema(type=OpenAPIType.BOOLEAN),
    },
)


@post(
    "/api/deployments",
    status_code=200,
    operation_class=operation(
        body=schema_of(DeploymentRequest),
        answer=_DEPLOYMENT,
        problems={404: "No such deployment to make a version of.", 422: "A field is wrong; `field` names it."},
    ),
)
async def post_deployment(request: Request[Identity, Any, Any]) -> Response[bytes]:
    """Make a deployment or its next version, which is served from now on. Unchanged content makes no version."""
    require(request.user, "write")
    bodies: Bodies = request.app.state.bodies
    store: Store = request.app.state.store
    async with bodies.body(request.scope, request.receive) as data:
        given: DeploymentRequest = read_body(data, _decoder)
    project = project_in(request.user, given.project_name)
    if given.deployment_id and await store.deployment(project, given.deployment_id) is None:
        raise _unknown()
    stored = await store.put_deployment(_deployment(given, project))
    return _json(asdict(stored))


def _deployment(given: DeploymentRequest, project: str) -> Deployment:
    for index, message in enumerate(given.messages):
        if isinstance(message.content, str) and len(message.content) > limits.TEMPLATE_CHARS_MAX:
            raise problem(
                "template_too_long",
                422,
                "The prompt template is too long",
                f"messages[{index}].content may have {limits.TEMPLATE_CHARS_MAX} characters; use llm_inputs.",
                field=f"messages[{index}].content",
            )
    return Deployment(
        deployment_id=given.deployment_id or f"p-{secrets.token_urlsafe(_ID_BYTES)[:21]}",
        version=0,
        project_name=project,
        name=given.name,
        messages=tuple(as_messages(given.messages, "messages")),
        model=given.model,
        provider=(given.provider or provider_of(given.model) or "").lower(),
        model_params=given.model_params.given() if given.model_params else {},
        functions=tuple(as_functions(given.functions or ())),
        function_call=given.function_call,
    )


@get(
    "/api/deployments",
    operation_class=operation(
        parameters=[_PROJECT],
        answer=Schema(
            type=OpenAPIType.OBJECT, properties={"deployments": Schema(type=OpenAPIType.ARRAY, items=_DEPLOYMENT)}
        ),
    ),
)
async def get_deployments(request: Request[Identity, Any, Any]) -> Response[bytes]:
    """List the active version of each deployment of the project, by name."""
    require(request.user, "read")
    store: Store = request.app.state.store
    found = await store.deployments(project_of(request.user, request.query_params.get("project")))
    return _json({"deployments": [asdict(one) for one in found]})


@get(
    "/api/deployments/{deployment_id:str}",
    operation_class=operation(
        parameters=[
            path_text("deployment_id", "The deployment's id, such as p-qZrnFesaeCpqcXJ_yL3wi."),
            query_text("version", "A version; the active one when left out.", OpenAPIType.INTEGER),
            _PROJECT,
        ],
        answer=_DEPLOYMENT,
        problems={404: "No such deployment or version in this project."},
    ),
)
async def get_deployment(request: Request[Identity, Any, Any]) -> Response[bytes]:
    """Return one deployment: the version that is served, or the one asked for."""
    require(request.user, "read")
    store: Store = request.app.state.store
    version = request.query_params.get("version")
    if version is not None and not (version.isascii() and version.isdigit() and 0 < len(version) < 10):
        raise bad_request("version must be a whole number from 1.", field="version")
    project = project_of(request.user, request.query_params.get("project"))
    deployment_id = str(request.path_params["deployment_id"])
    found = await store.deployment(project, deployment_id, int(version) if version else None)
    if found is None:
        raise _unknown()
    return _json(asdict(found))


def _unknown() -> Exception:
    return problem(
        "unknown_deployment",
        404,
        "No such deployment",
        "There is no such deployment or version in this project. GET /api/deployments lists those that are.",
    )


def _json(value: Any) -> Response[bytes]:
    return Response(_encoder.encode(value), media_type="application/json")


handlers = [post_deployment, get_deployments, get_deployment]
