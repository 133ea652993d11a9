"""The history of a deployment: its versions, when each was served, and the difference between two of them."""

from __future__ import annotations

import asyncio
from typing import Annotated

import msgspec
from litestar import Response, get
from litestar.di import NamedDependency
from msgspec import Meta

from everycall import limits
from everycall.server import deployments as rules
from everycall.server.api.http import ApiRequest, integer_parameter, json_response, project_for
from everycall.server.api.openapi import operation, path_parameter, query_parameter
from everycall.server.diff import Change, changes, unified
from everycall.server.gateway.preparation import missing_deployment
from everycall.server.services import Services
from everycall.server.store.values import Activation, Deployment, DeploymentVersion

__all__ = ["DEPLOYMENT_ID", "MISSING", "PROJECT", "Difference", "difference_of", "handlers"]

PROJECT = query_parameter("project", "The project, for keys of all projects.")
DEPLOYMENT_ID = path_parameter("deployment_id", "The deployment's id, such as p-qZrnFesaeCpqcXJ_yL3wi.")
MISSING = {404: "No such deployment or version in this project."}
_LIMIT = query_parameter(
    "limit", f"Rows of a page, 1 to {limits.PAGE_ROWS_MAX}.", Annotated[int, Meta(ge=1, le=limits.PAGE_ROWS_MAX)]
)
_VERSION = Annotated[int, Meta(ge=0)]


class VersionsResponse(msgspec.Struct):
    """A page of versions, the newest first. `next_cursor`, given as `cursor`, continues; null on the last page."""

    versions: list[DeploymentVersion]
    next_cursor: str | None


class ActivationsResponse(msgspec.Struct):
    """The latest activations, the latest first."""

    activations: list[Activation]


class Difference(msgspec.Struct, rename={"before": "from", "after": "to"}):
    """What differs between two versions: the parts, and the same as unified text. Version 0 has no content."""

    before: int
    after: int
    changes: list[Change]
    unified: str


@get(
    "/api/deployments/{deployment_id:str}/versions",
    operation_class=operation(
        parameters=[DEPLOYMENT_ID, _LIMIT, query_parameter("cursor", "next_cursor of the page before."), PROJECT],
        response=VersionsResponse,
        problems=MISSING,
    ),
)
async def get_versions(request: ApiRequest, services: NamedDependency[Services]) -> Response[bytes]:
    """List the versions of a deployment, the newest first, without their content."""
    project = project_for(request, "read")
    limit = integer_parameter(request, "limit", maximum=limits.PAGE_ROWS_MAX) or limits.PAGE_ROWS
    before = integer_parameter(request, "cursor")
    deployment_id = str(request.path_params["deployment_id"])
    rows = await services.store.deployment_versions(project, deployment_id, before=before, limit=limit + 1)
    if not rows and before is None:
        raise await missing_deployment(services.store, project, deployment_id)
    next_cursor = str(rows[limit - 1].version) if len(rows) > limit else None
    return json_response(VersionsResponse(list(rows[:limit]), next_cursor))


@get(
    "/api/deployments/{deployment_id:str}/activations",
    operation_class=operation(
        parameters=[DEPLOYMENT_ID, _LIMIT, PROJECT], response=ActivationsResponse, problems=MISSING
    ),
)
async def get_activations(request: ApiRequest, services: NamedDependency[Services]) -> Response[bytes]:
    """List when each version was served and by whose key, the latest first. Version 0 means that none was served.

    `roll_back_to` is the version that a roll-back led to while this one was served.
    """
    project = project_for(request, "read")
    store = services.store
    limit = integer_parameter(request, "limit", maximum=limits.PAGE_ROWS_MAX) or limits.PAGE_ROWS
    deployment_id = str(request.path_params["deployment_id"])
    activations = await store.deployment_activations(project, deployment_id, limit=limit)
    if not activations and not await rules.newest_of(store, project, deployment_id):
        raise await missing_deployment(store, project, deployment_id)
    return json_response(ActivationsResponse(list(activations)))


@get(
    "/api/deployments/{deployment_id:str}/diff",
    operation_class=operation(
        parameters=[
            DEPLOYMENT_ID,
            query_parameter("from", "The older version, 0 for no content; the one before `to` if missing.", _VERSION),
            query_parameter("to", "The newer version; the newest if missing.", _VERSION),
            PROJECT,
        ],
        response=Difference,
        problems=MISSING,
    ),
)
async def get_diff(request: ApiRequest, services: NamedDependency[Services]) -> Response[bytes]:
    """Compare two versions: return the parts that differ, and the same as unified text."""
    project = project_for(request, "read")
    older, newer = integer_parameter(request, "from", minimum=0), integer_parameter(request, "to")
    deployment_id = str(request.path_params["deployment_id"])
    before, after = await rules.both_versions(services.store, project, deployment_id, older, newer)
    return json_response(await asyncio.to_thread(difference_of, before, after))


def difference_of(before: Deployment | None, after: Deployment) -> Difference:
    """Return what differs between two versions; `before` is None for no content."""
    return Difference(before.version if before else 0, after.version, changes(before, after), unified(before, after))


handlers = [get_versions, get_activations, get_diff]
