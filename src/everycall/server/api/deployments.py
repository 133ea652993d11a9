"""Deployments: versioned prompts with their model, parameters and functions. `POST` and `PUT` make one, or a version.

A version never changes. Which one is served does: by activating another one, by rolling back, by archiving.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from dataclasses import asdict
from typing import Annotated, Any, TypeVar

import msgspec
from litestar import Response, get, post, put
from litestar.openapi.spec import Schema
from litestar.openapi.spec.enums import OpenAPIType
from msgspec import Meta

from everycall import limits
from everycall.server import deployments as rules
from everycall.server.api.deployment_versions import (
    DEPLOYMENT,
    DEPLOYMENT_ID,
    MISSING,
    PROJECT,
    difference,
    reader,
)
from everycall.server.api.http import (
    ApiRequest,
    boolean_parameter,
    decode_json,
    integer_parameter,
    json_response,
    read_json,
)
from everycall.server.api.openapi import operation, query_text, schema_of
from everycall.server.api.parea.projects import project_named
from everycall.server.auth import project_of, require
from everycall.server.deployments import DeploymentRequest
from everycall.server.problems import bad_request, problem
from everycall.server.request_bodies import Bodies
from everycall.server.store.base import Store
from everycall.server.store.values import Deployment

__all__ = ["handlers", "next_cursor", "read_cursor"]

T = TypeVar("T")

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(DeploymentRequest)


class Expectation(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What a change of the served version is asked with: the one that must be served now (0: none)."""

    expected_version: Annotated[int, Meta(ge=0)] | None = None


class ActivationRequest(Expectation, kw_only=True, forbid_unknown_fields=True):
    """The version to serve."""

    version: Annotated[int, Meta(ge=1)]


_activation_decoder = msgspec.json.Decoder(ActivationRequest)
_expectation_decoder = msgspec.json.Decoder(Expectation)

_CHANGE_PROBLEMS = {
    **MISSING,
    409: "Another version is served than `expected_version`.",
    413: "Too large.",
    422: "A field is wrong; `field` names it.",
}


@post(
    "/api/deployments",
    status_code=200,
    operation_class=operation(
        body=schema_of(DeploymentRequest),
        answer=DEPLOYMENT,
        problems={**_CHANGE_PROBLEMS, 404: "No such deployment to make a version of."},
    ),
)
async def post_deployment(request: ApiRequest) -> Response[bytes]:
    """Make a deployment or its next version, which is served from now on. A content it has already makes no version."""
    store, given, project = await _given(request)
    if given.deployment_id and not await rules.newest_of(store, project, given.deployment_id):
        raise problem(
            "unknown_deployment",
            404,
            "No such deployment",
            "There is no such deployment in this project to make a version of. Leave deployment_id out for a new one, "
            "or choose its id with PUT /api/deployments/{deployment_id}.",
            field="deployment_id",
        )
    _, stored = await rules.put(store, given, rules.as_deployment(given, project, request.user.name))
    return json_response(asdict(stored))


@put(
    "/api/deployments/{deployment_id:str}",
    status_code=200,
    operation_class=operation(
        parameters=[
            DEPLOYMENT_ID,
            query_text("dry_run", "true: say what would be done, and do nothing.", OpenAPIType.BOOLEAN),
        ],
        body=schema_of(DeploymentRequest),
        answer=Schema(
            type=OpenAPIType.OBJECT,
            required=["outcome", "deployment", "diff"],
            properties={
                "outcome": Schema(type=OpenAPIType.STRING, enum=["created", "changed", "activated", "unchanged"]),
                "deployment": DEPLOYMENT,
                "diff": Schema(type=OpenAPIType.OBJECT),
            },
        ),
        problems=_CHANGE_PROBLEMS,
    ),
)
async def put_deployment(request: ApiRequest) -> Response[bytes]:
    """Make a deployment with this id, or its next version; say what was done and how it differs from what was served.

    The same request again changes nothing: a content that a version has already makes none.
    """
    store, given, project = await _given(request)
    deployment_id = str(request.path_params["deployment_id"])
    rules.check_id(deployment_id)
    if given.deployment_id not in (None, deployment_id):
        raise problem(
            "invalid",
            422,
            "Not as documented",
            "deployment_id is not the one of the address; leave it out of the body.",
            field="deployment_id",
        )
    dry_run = boolean_parameter(request, "dry_run", default=False)
    served = await store.deployment(project, deployment_id)
    new = rules.as_deployment(msgspec.structs.replace(given, deployment_id=deployment_id), project, request.user.name)
    outcome, stored = await rules.put(store, given, new, dry_run=dry_run)
    return json_response(
        {"outcome": outcome, "deployment": asdict(stored), "diff": await asyncio.to_thread(difference, served, stored)}
    )


@get(
    "/api/deployments",
    operation_class=operation(
        parameters=[
            query_text("active", "false: those of which no version is served, with their newest.", OpenAPIType.BOOLEAN),
            query_text("limit", f"Rows of a page, 1 to {limits.PAGE_ROWS}.", OpenAPIType.INTEGER),
            query_text("cursor", "next_cursor of the page before."),
            PROJECT,
        ],
        answer=Schema(
            type=OpenAPIType.OBJECT,
            properties={
                "deployments": Schema(type=OpenAPIType.ARRAY, items=DEPLOYMENT),
                "next_cursor": Schema(type=[OpenAPIType.STRING, OpenAPIType.NULL]),
            },
        ),
    ),
)
async def get_deployments(request: ApiRequest) -> Response[bytes]:
    """List the served version of each deployment of the project, by name."""
    store, project = reader(request)
    limit = (
        integer_parameter(request, "limit", maximum=limits.PAGE_ROWS) or limits.PAGE_ROWS
    )  # whole versions: few fill a page
    active = boolean_parameter(request, "active", default=True)
    after = read_cursor(request.query_params.get("cursor"))
    found = await store.deployments(project, active=active, after=after, limit=limit + 1)
    shown = found[:limit]
    return json_response({"deployments": [asdict(one) for one in shown], "next_cursor": next_cursor(found, limit)})


@get(
    "/api/deployments/{deployment_id:str}",
    operation_class=operation(
        parameters=[
            DEPLOYMENT_ID,
            query_text("version", "A version; the one served when left out.", OpenAPIType.INTEGER),
            PROJECT,
        ],
        answer=DEPLOYMENT,
        problems={**MISSING, 410: "No version of it is served."},
    ),
)
async def get_deployment(request: ApiRequest) -> Response[bytes]:
    """Return one deployment: the version that is served, or the one asked for."""
    store, project = reader(request)
    version = integer_parameter(request, "version")
    return json_response(asdict(await rules.version_of(store, project, request.path_params["deployment_id"], version)))


@post(
    "/api/deployments/{deployment_id:str}/activate",
    status_code=200,
    operation_class=operation(
        parameters=[DEPLOYMENT_ID, PROJECT],
        body=schema_of(ActivationRequest),
        answer=DEPLOYMENT,
        problems=_CHANGE_PROBLEMS,
    ),
)
async def post_activate(request: ApiRequest) -> Response[bytes]:
    """Serve this version from now on. The one that is served already stays, without a note in the history."""
    given = await _change(request, _activation_decoder)
    store, project, deployment_id = _writer(request)
    found = await rules.activate(
        store, project, deployment_id, given.version, by=request.user.name, expected=given.expected_version
    )
    return json_response(asdict(found))


@post(
    "/api/deployments/{deployment_id:str}/roll-back",
    status_code=200,
    operation_class=operation(
        parameters=[DEPLOYMENT_ID, PROJECT], body=schema_of(Expectation), answer=DEPLOYMENT, problems=_CHANGE_PROBLEMS
    ),
)
async def post_roll_back(request: ApiRequest) -> Response[bytes]:
    """Serve the version that was served before this one; asked again, the one before that. The body may be empty."""
    given = await _change(request, _expectation_decoder)
    store, project, deployment_id = _writer(request)
    by = request.user.name
    return json_response(
        asdict(await rules.roll_back(store, project, deployment_id, by=by, expected=given.expected_version))
    )


@post(
    "/api/deployments/{deployment_id:str}/archive",
    status_code=200,
    operation_class=operation(
        parameters=[DEPLOYMENT_ID, PROJECT], body=schema_of(Expectation), answer=DEPLOYMENT, problems=_CHANGE_PROBLEMS
    ),
)
async def post_archive(request: ApiRequest) -> Response[bytes]:
    """Serve no version any more: it is not listed, and completions with it are a 410. Activating one brings it back."""
    given = await _change(request, _expectation_decoder)
    store, project, deployment_id = _writer(request)
    by = request.user.name
    return json_response(
        asdict(await rules.activate(store, project, deployment_id, 0, by=by, expected=given.expected_version))
    )


def next_cursor(found: Any, limit: int) -> str | None:
    """Return the cursor behind the last row shown of a list of which one row more was read."""
    if len(found) <= limit:
        return None
    last: Deployment = found[limit - 1]
    return base64.urlsafe_b64encode(_encoder.encode([last.name, last.deployment_id])).decode()


def read_cursor(text: str | None) -> tuple[str, str] | None:
    """Return the name and id that a cursor stands for. Raises 400 for what is none."""
    if not text:
        return None
    try:
        name, deployment_id = msgspec.json.decode(base64.b64decode(text, b"-_", validate=True), type=tuple[str, str])
    except (binascii.Error, ValueError):
        raise bad_request("cursor is not one of this list. Use next_cursor of the page before.") from None
    return name, deployment_id


async def _given(request: ApiRequest) -> tuple[Store, DeploymentRequest, str]:
    require(request.user, "write")
    given = await read_json(request, _decoder)
    return request.app.state.store, given, project_named(request.user, given.project_name)


async def _change(request: ApiRequest, decoder: msgspec.json.Decoder[T]) -> T:
    """Return the body of a change of the served version; an empty one stands for no expectation."""
    require(request.user, "write")
    bodies: Bodies = request.app.state.bodies
    async with bodies.body(request.scope, request.receive, limits.SMALL_BODY_BYTES_MAX) as data:
        return decode_json(data.strip() or b"{}", decoder)


def _writer(request: ApiRequest) -> tuple[Store, str, str]:
    project = project_of(request.user, request.query_params.get("project"))
    return request.app.state.store, project, str(request.path_params["deployment_id"])


handlers = [
    post_deployment,
    put_deployment,
    get_deployments,
    get_deployment,
    post_activate,
    post_roll_back,
    post_archive,
]
