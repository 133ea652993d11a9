"""What a deployment was: its versions, which of them was served when, and what differs between two of them.

Also what these routes and those of `deployments` share.
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Any

import msgspec
from litestar import Response, get
from litestar.openapi.spec import Schema
from litestar.openapi.spec.enums import OpenAPIType

from everycall import limits
from everycall.server import deployments as rules
from everycall.server.api.http import ApiRequest, integer_parameter, json_response
from everycall.server.api.openapi import operation, path_text, query_text
from everycall.server.auth import project_of, require
from everycall.server.diff import changes, unified
from everycall.server.gateway.preparation import missing_deployment
from everycall.server.store.base import Store
from everycall.server.store.values import Deployment

__all__ = [
    "DEPLOYMENT",
    "DEPLOYMENT_ID",
    "LIMIT",
    "MISSING",
    "PROJECT",
    "difference",
    "handlers",
    "reader",
]

_encoder = msgspec.json.Encoder()
_STRING = Schema(type=OpenAPIType.STRING)
_INTEGER = Schema(type=OpenAPIType.INTEGER)
_OBJECT = Schema(type=OpenAPIType.OBJECT)
PROJECT = query_text("project", "The project, for keys of all projects.")
LIMIT = query_text("limit", f"Rows of a page, 1 to {limits.PAGE_ROWS_MAX}.", OpenAPIType.INTEGER)
DEPLOYMENT_ID = path_text("deployment_id", "The deployment's id, such as p-qZrnFesaeCpqcXJ_yL3wi.")
DEPLOYMENT = Schema(
    type=OpenAPIType.OBJECT,
    description="One version of a deployment.",
    properties={
        **dict.fromkeys(("deployment_id", "project_name", "name", "model", "description", "created_by"), _STRING),
        "version": _INTEGER,
        "provider": Schema(type=OpenAPIType.STRING, description="Empty: the model's name tells."),
        "messages": Schema(type=OpenAPIType.ARRAY, items=_OBJECT),
        "model_params": _OBJECT,
        "functions": Schema(type=OpenAPIType.ARRAY, items=_OBJECT),
        "function_call": Schema(type=[OpenAPIType.STRING, OpenAPIType.OBJECT, OpenAPIType.NULL]),
        "metadata": _OBJECT,
        "fallbacks": Schema(type=OpenAPIType.ARRAY, items=_OBJECT),
        "created_unix_nano": _INTEGER,
        "active": Schema(type=OpenAPIType.BOOLEAN),
    },
)
MISSING = {404: "No such deployment or version in this project."}


def _listing(of: str, **properties: Schema) -> Schema:
    rows = Schema(type=OpenAPIType.ARRAY, items=Schema(type=OpenAPIType.OBJECT, properties={**properties}))
    following = Schema(type=[OpenAPIType.STRING, OpenAPIType.NULL], description="Given as `cursor`, it continues.")
    return Schema(type=OpenAPIType.OBJECT, required=[of], properties={of: rows, "next_cursor": following})


@get(
    "/api/deployments/{deployment_id:str}/versions",
    operation_class=operation(
        parameters=[DEPLOYMENT_ID, LIMIT, query_text("cursor", "next_cursor of the page before."), PROJECT],
        answer=_listing(
            "versions", version=_INTEGER, active=Schema(type=OpenAPIType.BOOLEAN), name=_STRING, model=_STRING,
            provider=_STRING, created_unix_nano=_INTEGER, created_by=_STRING,
        ),
        problems=MISSING,
    ),
)  # fmt: skip
async def get_versions(request: ApiRequest) -> Response[bytes]:
    """List the versions of a deployment, the newest first, without their content."""
    store, project = reader(request)
    limit = integer_parameter(request, "limit", maximum=limits.PAGE_ROWS_MAX) or limits.PAGE_ROWS
    before = integer_parameter(request, "cursor")
    deployment_id = str(request.path_params["deployment_id"])
    found = await store.deployment_versions(project, deployment_id, before=before, limit=limit + 1)
    if not found and before is None:
        raise await missing_deployment(store, project, deployment_id)
    following = str(found[limit - 1].version) if len(found) > limit else None
    return json_response({"versions": [asdict(one) for one in found[:limit]], "next_cursor": following})


@get(
    "/api/deployments/{deployment_id:str}/activations",
    operation_class=operation(
        parameters=[DEPLOYMENT_ID, LIMIT, PROJECT],
        answer=_listing(
            "activations",
            version=_INTEGER,
            unix_nano=_INTEGER,
            by=_STRING,
            roll_back_to=Schema(type=[OpenAPIType.INTEGER, OpenAPIType.NULL]),
        ),
        problems=MISSING,
    ),
)
async def get_activations(request: ApiRequest) -> Response[bytes]:
    """List which version was served from when on and by whose key, the latest first; version 0: none was.

    `roll_back_to` is where a roll-back leads while this one is served.
    """
    store, project = reader(request)
    limit = integer_parameter(request, "limit", maximum=limits.PAGE_ROWS_MAX) or limits.PAGE_ROWS
    deployment_id = str(request.path_params["deployment_id"])
    found = await store.deployment_activations(project, deployment_id, limit=limit)
    if not found and not await rules.newest_of(store, project, deployment_id):
        raise await missing_deployment(store, project, deployment_id)
    return json_response({"activations": [asdict(one) for one in found]})


@get(
    "/api/deployments/{deployment_id:str}/diff",
    operation_class=operation(
        parameters=[
            DEPLOYMENT_ID,
            query_text("from", "The older version, 0 for nothing; the one before `to`.", OpenAPIType.INTEGER),
            query_text("to", "The newer version; the newest when left out.", OpenAPIType.INTEGER),
            PROJECT,
        ],
        answer=Schema(
            type=OpenAPIType.OBJECT,
            required=["from", "to", "changes", "unified"],
            properties={
                "from": _INTEGER,
                "to": _INTEGER,
                "changes": Schema(type=OpenAPIType.ARRAY, items=_OBJECT),
                "unified": _STRING,
            },
        ),
        problems=MISSING,
    ),
)
async def get_diff(request: ApiRequest) -> Response[bytes]:
    """Compare two versions: which parts differ, and the same as unified text."""
    store, project = reader(request)
    older, newer = integer_parameter(request, "from", minimum=0), integer_parameter(request, "to")
    before, after = await rules.both_versions(store, project, request.path_params["deployment_id"], older, newer)
    return json_response(await asyncio.to_thread(difference, before, after))


def reader(request: ApiRequest) -> tuple[Store, str]:
    """Return the store and the project to read. Raises 403."""
    require(request.user, "read")
    return request.app.state.store, project_of(request.user, request.query_params.get("project"))


def difference(before: Deployment | None, after: Deployment) -> dict[str, Any]:
    """Return what differs between two versions as it is answered: the parts, and unified text."""
    return {
        "from": before.version if before else 0,
        "to": after.version,
        "changes": [asdict(one) for one in changes(before, after)],
        "unified": unified(before, after),
    }


handlers = [get_versions, get_activations, get_diff]
