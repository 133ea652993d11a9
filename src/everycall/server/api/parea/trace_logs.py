"""The routes to which Parea's clients send logs: projects, trace logs and the health check.

Clients create a project first, then send each log on its own: children before parents, the same log several times, and
updates before the log itself.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from litestar import get, post, put
from litestar.di import NamedDependency
from msgspec import Meta

from everycall import semconv
from everycall.server.api.http import PAREA_PREFIX, ApiRequest, invalid_field, read_object
from everycall.server.api.openapi import operation
from everycall.server.api.parea.log_fields import (
    checked_record,
    fields_of_log,
    fields_of_update,
    restore_attributes,
    stored_attributes,
)
from everycall.server.api.parea.projects import find_project, project_named, project_of_body
from everycall.server.auth import project_of, require
from everycall.server.projects import Projects
from everycall.server.services import Services

__all__ = ["LogResponse", "handlers"]

PROJECT_CHARS_MAX = 256


class NewProject(msgspec.Struct):
    """A project to create."""

    name: Annotated[str, Meta(min_length=1, max_length=PROJECT_CHARS_MAX)]


class ProjectResponse(msgspec.Struct):
    """A project, with the UUID that Parea's clients send instead of its name."""

    name: str
    uuid: str
    created_at: str
    was_created: bool


class TraceLog(msgspec.Struct):
    """Parea's TraceLog: the fields that identify and place a log. It may have all others of Parea's."""

    trace_id: Annotated[str, Meta(description="The id of this log.")]
    start_timestamp: Annotated[str, Meta(description="ISO 8601, or any form Parea's clients wrote.")]
    root_trace_id: Annotated[str, Meta(description="The id of its tree's root.")] = ""
    parent_trace_id: Annotated[str, Meta(description="The id of its parent; its own for a root.")] = ""


class TraceLogUpdate(msgspec.Struct):
    """Fields of a log to set, by Parea's names."""

    trace_id: str
    field_name_to_value_map: dict[str, Any]
    root_trace_id: str = ""


class LogResponse(msgspec.Struct):
    """The id of the log that was stored."""

    trace_id: str


_PROBLEMS = {
    408: "The body took too long.",
    413: "Too large.",
    415: "Unknown content-encoding.",
    422: "Not as documented.",
}


@get(PAREA_PREFIX, operation_class=operation(response=dict[str, str]))
async def health(request: ApiRequest) -> dict[str, str]:
    """Say that the API is there, and which project the key works in."""
    return {"status": "ok", "service": "everycall", "project": project_of(request.user)}


@post(
    f"{PAREA_PREFIX}/project",
    status_code=200,
    operation_class=operation(body=NewProject, response=ProjectResponse, problems=_PROBLEMS),
)
async def post_project(request: ApiRequest, services: NamedDependency[Services]) -> ProjectResponse:
    """Return the project of a name, creating it if needed. `default` is the key's own project."""
    require(request.user, "write")
    name = (await read_object(request, services.bodies)).get("name")
    if not isinstance(name, str) or not 0 < len(name) <= PROJECT_CHARS_MAX:
        raise invalid_field("name", f"name is required: 1 to {PROJECT_CHARS_MAX} characters")
    project = project_named(request.user, name)
    created, is_new = await services.projects.register(project)
    return ProjectResponse(project, Projects.uuid(project), created.isoformat(), is_new)


@post(
    f"{PAREA_PREFIX}/trace_log",
    status_code=200,
    operation_class=operation(body=TraceLog, response=LogResponse, problems=_PROBLEMS),
)
async def post_trace_log(request: ApiRequest, services: NamedDependency[Services]) -> LogResponse:
    """Store one log.

    Sending the same id again sets the fields that are given and keeps the others. With `log_omit`, nothing is stored.
    """
    require(request.user, "write")
    log = await read_object(request, services.bodies)
    store = services.store
    project = await project_of_body(request.user, services.projects, log.get("project_name"), log.get("project_uuid"))
    try:
        log_id: str = fields_of_log(log)["inference_id"]
        if log.get("log_omit"):
            return LogResponse(log_id)
        async with services.projects.turn(project, log_id):
            stored = await store.record(project, log_id)
            fields = fields_of_log(log, () if stored is None else stored.omitted)
            if "attributes" in fields:
                fields["attributes"] = stored_attributes(stored) | fields["attributes"]
            record = checked_record({**fields, "project_name": project})
            commit = await store.commit(project, [record])
            if "attributes" in fields and not commit.refused:
                await restore_attributes(store, record, fields["attributes"])
    except (ValueError, RecursionError) as error:
        raise invalid_field("body", str(error)) from error
    if commit.refused:
        raise invalid_field("body", commit.refused[0].reason)
    return LogResponse(record.inference_id)


@put(
    f"{PAREA_PREFIX}/trace_log",
    operation_class=operation(body=TraceLogUpdate, response=LogResponse, problems=_PROBLEMS),
)
async def put_trace_log(request: ApiRequest, services: NamedDependency[Services]) -> LogResponse:
    """Set fields of a log. The log itself may be sent later."""
    require(request.user, "write")
    update = await read_object(request, services.bodies)
    store = services.store
    log_id = update.get("trace_id")
    values = update.get("field_name_to_value_map")
    root = update.get("root_trace_id")
    if not isinstance(log_id, str) or not log_id:
        raise invalid_field("trace_id", "trace_id is required: the id of the log")
    if not isinstance(values, dict):
        raise invalid_field("field_name_to_value_map", "field_name_to_value_map is required: an object of fields")
    root_id = root if isinstance(root, str) and root else None

    async def has_log(name: str) -> bool:
        return await store.record(name, log_id) is not None

    async def has_tree(name: str) -> bool:
        return await store.trace_summary(name, root_id or log_id) is not None

    project = await find_project(request.user, store, has_log, has_tree)
    try:
        async with services.projects.turn(project, log_id):
            stored = await store.record(project, log_id)
            if stored is None:
                fields = fields_of_update(values, llm=None)
            else:
                fields = fields_of_update(values, llm=stored.kind == semconv.LLM, omitted=stored.omitted)
            if "attributes" in fields:
                fields["attributes"] = stored_attributes(stored) | fields["attributes"]
            if root_id is not None:
                fields["trace_id"] = root_id
            checked_record({"inference_id": log_id, "trace_id": log_id, **fields})
            await store.merge(project, log_id, fields)
    except (ValueError, RecursionError) as error:
        raise invalid_field("field_name_to_value_map", str(error)) from error
    return LogResponse(log_id)


handlers = [health, post_project, post_trace_log, put_trace_log]
