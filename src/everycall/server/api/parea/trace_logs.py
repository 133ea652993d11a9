"""The part of Parea's API by which its clients log: projects, trace logs, the health answer.

Existing `parea-ai` clients work unchanged with `PAREA_BASE_URL` set to `<address>/api/parea/v1`. They create a project
first, then send each log alone, children before parents, the same one several times, updates before the log itself.
"""

from __future__ import annotations

from typing import Any

from litestar import get, post, put
from litestar.openapi.spec import Schema
from litestar.openapi.spec.enums import OpenAPIType

from everycall import semconv
from everycall.server.api.http import PAREA_PREFIX, ApiRequest, invalid_field, read_object
from everycall.server.api.openapi import operation
from everycall.server.api.parea.log_fields import (
    checked,
    fields_of_log,
    fields_of_update,
    restore_attributes,
    stored_attributes,
)
from everycall.server.api.parea.projects import find_project, project_named, project_of_body
from everycall.server.auth import project_of, require
from everycall.server.projects import Projects
from everycall.server.store.base import Store

__all__ = ["handlers"]

_OBJECT = Schema(type=OpenAPIType.OBJECT)
_STRING = Schema(type=OpenAPIType.STRING)
_NAME = Schema(type=OpenAPIType.STRING, min_length=1, max_length=256)
_DONE = Schema(type=OpenAPIType.OBJECT, properties={"trace_id": _STRING})
_PROBLEMS = {
    408: "The body took too long.",
    413: "Too large.",
    415: "Unknown content-encoding.",
    422: "Not as documented.",
}
_LOG = Schema(
    type=OpenAPIType.OBJECT,
    description="Parea's TraceLog.",
    required=["trace_id", "start_timestamp"],
    properties={
        "trace_id": Schema(type=OpenAPIType.STRING, description="The id of this log."),
        "root_trace_id": Schema(type=OpenAPIType.STRING, description="The id of its tree's root."),
        "parent_trace_id": Schema(type=OpenAPIType.STRING, description="The id of its parent; its own for a root."),
        "start_timestamp": Schema(type=OpenAPIType.STRING, description="ISO 8601, or any form Parea's clients wrote."),
    },
)
_UPDATE = Schema(
    type=OpenAPIType.OBJECT,
    required=["trace_id", "field_name_to_value_map"],
    properties={"trace_id": _STRING, "root_trace_id": _STRING, "field_name_to_value_map": _OBJECT},
)


@get(
    PAREA_PREFIX,
    operation_class=operation(answer=Schema(type=OpenAPIType.OBJECT, additional_properties=_STRING)),
)
async def health(request: ApiRequest) -> dict[str, str]:
    """Say that the API is there."""
    return {"status": "ok", "service": "everycall", "project": project_of(request.user)}


@post(
    f"{PAREA_PREFIX}/project",
    status_code=200,
    operation_class=operation(
        body=Schema(type=OpenAPIType.OBJECT, required=["name"], properties={"name": _NAME}),
        answer=Schema(
            type=OpenAPIType.OBJECT,
            required=["name", "uuid", "created_at", "was_created"],
            properties={
                "name": _STRING,
                "uuid": _STRING,
                "created_at": _STRING,
                "was_created": Schema(type=OpenAPIType.BOOLEAN),
            },
        ),
        problems=_PROBLEMS,
    ),
)
async def post_project(request: ApiRequest) -> dict[str, Any]:
    """Return the project of a name, which every Parea client asks for first. `default` is the key's own project."""
    require(request.user, "write")
    name = (await read_object(request)).get("name")
    if not isinstance(name, str) or not 0 < len(name) <= 256:
        raise invalid_field("name", "name is required: 1 to 256 characters")
    project = project_named(request.user, name)
    since, new = await _projects(request).register(project)
    return {"name": project, "uuid": Projects.uuid(project), "created_at": since.isoformat(), "was_created": new}


@post(
    f"{PAREA_PREFIX}/trace_log",
    status_code=200,
    operation_class=operation(body=_LOG, answer=_DONE, problems=_PROBLEMS),
)
async def post_trace_log(request: ApiRequest) -> dict[str, str]:
    """Store one log. The same id again sets what is given and keeps the rest; with `log_omit` nothing is stored."""
    require(request.user, "write")
    log = await read_object(request)
    store: Store = request.app.state.store
    projects = _projects(request)
    project = await project_of_body(request, log.get("project_name"), log.get("project_uuid"))
    try:
        own = fields_of_log(log)["inference_id"]
        if log.get("log_omit"):
            return {"trace_id": own}
        async with projects.turn(project, own):
            stored = await store.record(project, own)
            fields = fields_of_log(log, () if stored is None else stored.omitted)
            if "attributes" in fields:
                fields["attributes"] = stored_attributes(stored) | fields["attributes"]
            found = checked({**fields, "project_name": project})
            commit = await store.commit(project, [found])
            if "attributes" in fields and not commit.refused:
                await restore_attributes(store, found, fields["attributes"])
    except (ValueError, RecursionError) as error:
        raise invalid_field("body", str(error)) from error
    if commit.refused:
        raise invalid_field("body", commit.refused[0].reason)
    return {"trace_id": found.inference_id}


@put(
    f"{PAREA_PREFIX}/trace_log",
    operation_class=operation(body=_UPDATE, answer=_DONE, problems=_PROBLEMS),
)
async def put_trace_log(request: ApiRequest) -> dict[str, str]:
    """Set fields of a log, which may come later."""
    require(request.user, "write")
    update = await read_object(request)
    own = update.get("trace_id")
    given = update.get("field_name_to_value_map")
    if not isinstance(own, str) or not own:
        raise invalid_field("trace_id", "trace_id is required: the id of the log")
    if not isinstance(given, dict):
        raise invalid_field("field_name_to_value_map", "field_name_to_value_map is required: an object of fields")
    store: Store = request.app.state.store
    projects = _projects(request)
    root = update.get("root_trace_id")
    project = await _project_of_log(request, own, root if isinstance(root, str) and root else own)
    try:
        async with projects.turn(project, own):
            stored = await store.record(project, own)
            fields = (
                fields_of_update(given, llm=None)
                if stored is None
                else fields_of_update(given, llm=stored.kind == semconv.LLM, omitted=stored.omitted)
            )
            if "attributes" in fields:
                fields["attributes"] = stored_attributes(stored) | fields["attributes"]
            if isinstance(root, str) and root:
                fields["trace_id"] = root
            checked({"inference_id": own, "trace_id": own, **fields})
            await store.merge(project, own, fields)
    except (ValueError, RecursionError) as error:
        raise invalid_field("field_name_to_value_map", str(error)) from error
    return {"trace_id": own}


async def _project_of_log(request: ApiRequest, own: str, root: str) -> str:
    """Return the project of an update, which names none: the key's, else the one that has the log or its tree."""
    store: Store = request.app.state.store

    async def has_log(name: str) -> bool:
        return await store.record(name, own) is not None

    async def has_tree(name: str) -> bool:
        return await store.trace_summary(name, root) is not None

    return await find_project(request, has_log, has_tree)


def _projects(request: ApiRequest) -> Projects:
    found: Projects = request.app.state.projects
    return found


handlers = [health, post_project, post_trace_log, put_trace_log]
