"""Deployments: versioned prompts with their model, parameters and functions. `POST` and `PUT` create versions.

A version never changes. Which version is served changes by activating another one, by rolling back, and by archiving.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Sequence
from typing import Annotated, Literal, TypeVar

import msgspec
from litestar import Response, get, post, put
from litestar.di import NamedDependency
from msgspec import Meta

from everycall import limits
from everycall.server import deployments as rules
from everycall.server.api.deployment_versions import DEPLOYMENT_ID, MISSING, PROJECT, Difference, difference_of
from everycall.server.api.http import (
    ApiRequest,
    boolean_parameter,
    decode_json,
    encode_json,
    integer_parameter,
    json_response,
    project_for,
    read_json,
)
from everycall.server.api.openapi import operation, query_parameter
from everycall.server.api.parea.projects import project_named
from everycall.server.auth import require
from everycall.server.deployments import DeploymentRequest
from everycall.server.problems import bad_request, problem
from everycall.server.request_bodies import Bodies
from everycall.server.services import Services
from everycall.server.store.values import Deployment

__all__ = ["handlers", "next_cursor", "read_cursor"]

T = TypeVar("T")


class Expectation(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The version that must be served now (0: none) for a change of the served version to happen."""

    expected_version: Annotated[int, Meta(ge=0)] | None = None


class ActivationRequest(Expectation, kw_only=True, forbid_unknown_fields=True):
    """The version to serve."""

    version: Annotated[int, Meta(ge=1)]


class DeploymentsResponse(msgspec.Struct):
    """A page of deployments, by name. `next_cursor`, given as `cursor`, continues; null on the last page."""

    deployments: list[Deployment]
    next_cursor: str | None


class PutResponse(msgspec.Struct):
    """What was done, the version, and how it differs from the one that was served."""

    outcome: Literal["created", "changed", "activated", "unchanged"]
    deployment: Deployment
    diff: Difference


_decoder = msgspec.json.Decoder(DeploymentRequest)
_activation_decoder = msgspec.json.Decoder(ActivationRequest)
_expectation_decoder = msgspec.json.Decoder(Expectation)
_cursor_decoder = msgspec.json.Decoder(tuple[str, str])
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
        body=DeploymentRequest,
        response=Deployment,
        problems={**_CHANGE_PROBLEMS, 404: "No such deployment to create a version of."},
    ),
)
async def post_deployment(request: ApiRequest, services: NamedDependency[Services]) -> Response[bytes]:
    """Create a deployment, or its next version, and serve it. Content that a version already has creates none."""
    require(request.user, "write")
    body = await read_json(request, services.bodies, _decoder)
    project = project_named(request.user, body.project_name)
    if body.deployment_id and not await rules.newest_of(services.store, project, body.deployment_id):
        raise problem(
            "unknown_deployment",
            404,
            "No such deployment",
            "There is no such deployment in this project. Leave deployment_id out to create one with a new id, or "
            "choose the id with PUT /api/deployments/{deployment_id}.",
            field="deployment_id",
        )
    _, stored = await rules.put(services.store, body, rules.as_deployment(body, project, request.user.name))
    return json_response(stored)


@put(
    "/api/deployments/{deployment_id:str}",
    status_code=200,
    operation_class=operation(
        parameters=[DEPLOYMENT_ID, query_parameter("dry_run", "true: say what would be done, and do nothing.", bool)],
        body=DeploymentRequest,
        response=PutResponse,
        problems=_CHANGE_PROBLEMS,
    ),
)
async def put_deployment(request: ApiRequest, services: NamedDependency[Services]) -> Response[bytes]:
    """Create a deployment with this id, or its next version; return what was done and how it differs.

    Sending the same request again changes nothing: content that a version already has creates none.
    """
    require(request.user, "write")
    body = await read_json(request, services.bodies, _decoder)
    project = project_named(request.user, body.project_name)
    deployment_id = str(request.path_params["deployment_id"])
    rules.check_id(deployment_id)
    if body.deployment_id not in (None, deployment_id):
        raise problem(
            "invalid",
            422,
            "Not as documented",
            "deployment_id differs from the one in the URL; leave it out of the body.",
            field="deployment_id",
        )
    dry_run = boolean_parameter(request, "dry_run", default=False)
    served = await services.store.deployment(project, deployment_id)
    new = rules.as_deployment(msgspec.structs.replace(body, deployment_id=deployment_id), project, request.user.name)
    outcome, stored = await rules.put(services.store, body, new, dry_run=dry_run)
    difference = await asyncio.to_thread(difference_of, served, stored)
    return json_response({"outcome": outcome, "deployment": stored, "diff": difference})


@get(
    "/api/deployments",
    operation_class=operation(
        parameters=[
            query_parameter("active", "false: deployments of which no version is served.", bool),
            query_parameter(
                "limit", f"Rows of a page, 1 to {limits.PAGE_ROWS}.", Annotated[int, Meta(ge=1, le=limits.PAGE_ROWS)]
            ),
            query_parameter("cursor", "next_cursor of the page before."),
            PROJECT,
        ],
        response=DeploymentsResponse,
    ),
)
async def get_deployments(request: ApiRequest, services: NamedDependency[Services]) -> Response[bytes]:
    """List the deployments of the project by name: the served version of each, or the newest where none is served."""
    project = project_for(request, "read")
    # A row is a whole version, so a page is smaller than that of other lists.
    limit = integer_parameter(request, "limit", maximum=limits.PAGE_ROWS) or limits.PAGE_ROWS
    active = boolean_parameter(request, "active", default=True)
    after = read_cursor(request.query_params.get("cursor"))
    rows = await services.store.deployments(project, active=active, after=after, limit=limit + 1)
    return json_response(DeploymentsResponse(list(rows[:limit]), next_cursor(rows, limit)))


@get(
    "/api/deployments/{deployment_id:str}",
    operation_class=operation(
        parameters=[
            DEPLOYMENT_ID,
            query_parameter("version", "A version; the served one if missing.", Annotated[int, Meta(ge=1)]),
            PROJECT,
        ],
        response=Deployment,
        problems={**MISSING, 410: "No version of the deployment is served."},
    ),
)
async def get_deployment(request: ApiRequest, services: NamedDependency[Services]) -> Response[bytes]:
    """Return one version of a deployment: the one in `version`, else the served one."""
    project = project_for(request, "read")
    version = integer_parameter(request, "version")
    deployment_id = str(request.path_params["deployment_id"])
    return json_response(await rules.version_of(services.store, project, deployment_id, version))


@post(
    "/api/deployments/{deployment_id:str}/activate",
    status_code=200,
    operation_class=operation(
        parameters=[DEPLOYMENT_ID, PROJECT], body=ActivationRequest, response=Deployment, problems=_CHANGE_PROBLEMS
    ),
)
async def post_activate(request: ApiRequest, services: NamedDependency[Services]) -> Response[bytes]:
    """Serve this version from now on. Activating the served version adds nothing to the history."""
    body, project, deployment_id = await _change(request, services.bodies, _activation_decoder)
    by = request.user.name
    return json_response(
        await rules.activate(
            services.store, project, deployment_id, body.version, by=by, expected=body.expected_version
        )
    )


@post(
    "/api/deployments/{deployment_id:str}/roll-back",
    status_code=200,
    operation_class=operation(
        parameters=[DEPLOYMENT_ID, PROJECT], body=Expectation, response=Deployment, problems=_CHANGE_PROBLEMS
    ),
)
async def post_roll_back(request: ApiRequest, services: NamedDependency[Services]) -> Response[bytes]:
    """Serve the version that was served before; repeated, the one before that. The body may be empty."""
    body, project, deployment_id = await _change(request, services.bodies, _expectation_decoder)
    by = request.user.name
    return json_response(
        await rules.roll_back(services.store, project, deployment_id, by=by, expected=body.expected_version)
    )


@post(
    "/api/deployments/{deployment_id:str}/archive",
    status_code=200,
    operation_class=operation(
        parameters=[DEPLOYMENT_ID, PROJECT], body=Expectation, response=Deployment, problems=_CHANGE_PROBLEMS
    ),
)
async def post_archive(request: ApiRequest, services: NamedDependency[Services]) -> Response[bytes]:
    """Serve no version any more: the deployment is not listed, and completions with it are answered 410.

    Activating a version brings it back. The body may be empty.
    """
    body, project, deployment_id = await _change(request, services.bodies, _expectation_decoder)
    by = request.user.name
    return json_response(
        await rules.activate(services.store, project, deployment_id, 0, by=by, expected=body.expected_version)
    )


def next_cursor(rows: Sequence[Deployment], limit: int) -> str | None:
    """Return the cursor after a page of `limit` rows, or None if `rows`, read with one row more, has no further row."""
    if len(rows) <= limit:
        return None
    last = rows[limit - 1]
    return base64.urlsafe_b64encode(encode_json([last.name, last.deployment_id])).decode()


def read_cursor(text: str | None) -> tuple[str, str] | None:
    """Return the name and id that a cursor stands for. Raise 400 for an invalid one."""
    if not text:
        return None
    try:
        return _cursor_decoder.decode(base64.b64decode(text, b"-_", validate=True))
    except (binascii.Error, ValueError):
        raise bad_request("cursor is not valid for this list. Use next_cursor of the page before.") from None


async def _change(request: ApiRequest, bodies: Bodies, decoder: msgspec.json.Decoder[T]) -> tuple[T, str, str]:
    """Return what a change of the served version asks for: its body, which may be empty, project and deployment id."""
    require(request.user, "write")
    async with bodies.body(request.scope, request.receive, limits.SMALL_BODY_BYTES_MAX) as data:
        body = decode_json(data.strip() or b"{}", decoder)
    return body, project_for(request, "write"), str(request.path_params["deployment_id"])


handlers = [
    post_deployment,
    put_deployment,
    get_deployments,
    get_deployment,
    post_activate,
    post_roll_back,
    post_archive,
]
