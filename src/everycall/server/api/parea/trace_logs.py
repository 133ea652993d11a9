"""The part of Parea's API by which its clients log: projects, trace logs, the health answer.

Existing `parea-ai` clients work unchanged with `PAREA_BASE_URL` set to `<address>/api/parea/v1`. They create a project
first, then send each log alone, children before parents, the same one several times, updates before the log itself.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
from litestar import Request, get, post, put
from litestar.openapi.spec import Schema
from litestar.openapi.spec.enums import OpenAPIType

from everycall import record, semconv
from everycall.record import Record
from everycall.server.api.openapi import operation
from everycall.server.api.parea.log_fields import checked, fields_of_log, fields_of_update
from everycall.server.auth import Identity, project_of, require
from everycall.server.problems import ProblemError, problem
from everycall.server.projects import Projects
from everycall.server.request_bodies import Bodies
from everycall.server.store.base import Store

__all__ = [
    "PREFIX",
    "find_project",
    "handlers",
    "invalid",
    "read_object",
    "restore_attributes",
    "written_project",
]

PREFIX = "/api/parea/v1"

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
    PREFIX,
    operation_class=operation(answer=Schema(type=OpenAPIType.OBJECT, additional_properties=_STRING)),
)
async def health(request: Request[Identity, Any, Any]) -> dict[str, str]:
    """Say that the API is there."""
    return {"status": "ok", "service": "everycall", "project": project_of(request.user)}


@post(
    f"{PREFIX}/project",
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
async def post_project(request: Request[Identity, Any, Any]) -> dict[str, Any]:
    """Return the project of a name, which every Parea client asks for first. `default` is the key's own project."""
    require(request.user, "write")
    name = (await read_object(request)).get("name")
    if not isinstance(name, str) or not 0 < len(name) <= 256:
        raise invalid("name", "name is required: 1 to 256 characters")
    project = project_of(request.user, None if name == semconv.DEFAULT_PROJECT else name)
    since, new = await _projects(request).register(project)
    return {"name": project, "uuid": Projects.uuid(project), "created_at": since.isoformat(), "was_created": new}


@post(
    f"{PREFIX}/trace_log",
    status_code=200,
    operation_class=operation(body=_LOG, answer=_DONE, problems=_PROBLEMS),
)
async def post_trace_log(request: Request[Identity, Any, Any]) -> dict[str, str]:
    """Store one log. The same id again sets what is given and keeps the rest; with `log_omit` nothing is stored."""
    require(request.user, "write")
    log = await read_object(request)
    store: Store = request.app.state.store
    projects = _projects(request)
    project = await written_project(request, log)
    try:
        own = fields_of_log(log)["inference_id"]
        if log.get("log_omit"):
            return {"trace_id": own}
        async with projects.turn(project, own):
            stored = await store.record(project, own)
            fields = fields_of_log(log, () if stored is None else stored.omitted)
            if "attributes" in fields:
                fields["attributes"] = _attributes_of(stored) | fields["attributes"]
            found = checked({**fields, "project_name": project})
            commit = await store.commit(project, [found])
            if "attributes" in fields and not commit.refused:
                await restore_attributes(store, found, fields["attributes"])
    except (ValueError, RecursionError) as error:
        raise invalid("body", str(error)) from error
    if commit.refused:
        raise invalid("body", commit.refused[0].reason)
    return {"trace_id": found.inference_id}


@put(
    f"{PREFIX}/trace_log",
    operation_class=operation(body=_UPDATE, answer=_DONE, problems=_PROBLEMS),
)
async def put_trace_log(request: Request[Identity, Any, Any]) -> dict[str, str]:
    """Set fields of a log, which may come later."""
    require(request.user, "write")
    update = await read_object(request)
    own = update.get("trace_id")
    given = update.get("field_name_to_value_map")
    if not isinstance(own, str) or not own:
        raise invalid("trace_id", "trace_id is required: the id of the log")
    if not isinstance(given, dict):
        raise invalid("field_name_to_value_map", "field_name_to_value_map is required: an object of fields")
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
                fields["attributes"] = _attributes_of(stored) | fields["attributes"]
            if isinstance(root, str) and root:
                fields["trace_id"] = root
            checked({"inference_id": own, "trace_id": own, **fields})
            await store.merge(project, own, fields)
    except (ValueError, RecursionError) as error:
        raise invalid("field_name_to_value_map", str(error)) from error
    return {"trace_id": own}


async def read_object(request: Request[Identity, Any, Any]) -> dict[str, Any]:
    """Return the body, a JSON object. Raises `ProblemError` 422."""
    bodies: Bodies = request.app.state.bodies
    async with bodies.body(request.scope, request.receive) as data:
        try:
            found = msgspec.json.decode(data)
        except (ValueError, RecursionError) as error:
            raise invalid("body", f"the body is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise invalid("body", "the body must be a JSON object")
    return found


async def written_project(request: Request[Identity, Any, Any], log: Mapping[str, Any]) -> str:
    """Return the project that a body names, by name or by Parea's UUID, else the caller's own."""
    asked = log.get("project_name") or log.get("project_uuid")
    if asked is not None and not isinstance(asked, str):
        raise invalid("project_uuid", "project_uuid is text")
    if not asked or asked == semconv.DEFAULT_PROJECT:
        return project_of(request.user)
    if request.user.project is not None and asked == Projects.uuid(request.user.project):
        return request.user.project
    return project_of(request.user, await _projects(request).name_of(asked) if request.user.project is None else asked)


async def _project_of_log(request: Request[Identity, Any, Any], own: str, root: str) -> str:
    """Return the project of an update, which names none: the key's, else the one that has the log or its tree."""
    store: Store = request.app.state.store

    async def has_log(name: str) -> bool:
        return await store.record(name, own) is not None

    async def has_tree(name: str) -> bool:
        return await store.trace_summary(name, root) is not None

    return await find_project(request, has_log, has_tree)


async def find_project(request: Request[Identity, Any, Any], *tests: Callable[[str], Awaitable[bool]]) -> str:
    """Return the project of a request that names none: the key's own.

    For a key of all projects, it is the first one that passes the first test, else the second, else `default`.
    """
    project = project_of(request.user)
    if request.user.project is not None:
        return project
    store: Store = request.app.state.store
    names = [project, *(name for name in await store.projects() if name != project)]
    for test in tests:
        for name in names:
            if await test(name):
                return name
    return project


def _attributes_of(stored: Record | None) -> dict[str, Any]:
    """Return the attributes already stored with a log: an update or a repeated log adds to them."""
    found = None if stored is None else record.to_json(stored.attributes)
    return found if isinstance(found, dict) else {}


async def restore_attributes(store: Store, sent: Record, attributes: dict[str, Any]) -> None:
    """Put back the attributes of a log that an earlier update replaced as a whole: a store applies updates last."""
    stored = _attributes_of(await store.record(sent.project_name, sent.inference_id))
    if any(stored.get(name) != value for name, value in attributes.items()):
        await store.merge(sent.project_name, sent.inference_id, {"attributes": {**stored, **attributes}})


def _projects(request: Request[Identity, Any, Any]) -> Projects:
    found: Projects = request.app.state.projects
    return found


def invalid(where: str, message: str) -> ProblemError:
    """Return the 422 to raise for a field; `errors` has it in the form that Parea's clients know."""
    errors = [{"loc": ["body"] if where == "body" else ["body", where], "msg": message, "type": "value_error"}]
    return problem("invalid", 422, "Not as documented", f"{message[:1].upper()}{message[1:]}.", errors=errors)


handlers = [health, post_project, post_trace_log, put_trace_log]
