"""Which project a request works in, and Parea's ids of projects. Used by every route that Parea's clients call."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from everycall.semconv import DEFAULT_PROJECT
from everycall.server.api.http import ApiRequest, invalid_field
from everycall.server.auth import Identity, project_of
from everycall.server.projects import Projects
from everycall.server.store.base import Store

__all__ = ["Projects", "find_project", "project_named", "project_of_body"]


def project_named(identity: Identity, name: str | None) -> str:
    """Return the project to work in, as `project_of`. Parea's clients send `default` when no project was set."""
    return project_of(identity, None if name == DEFAULT_PROJECT else name)


async def project_of_body(request: ApiRequest, name: Any, identifier: Any) -> str:
    """Return the project that a body names, by name or else by Parea's UUID; without both, the caller's own.

    Raise 422 when it is not text, 403 when the caller's key belongs to another project.
    """
    own = request.user.project
    requested = name or identifier
    if requested and not isinstance(requested, str):
        raise invalid_field("project_uuid", "project_uuid must be text")
    if requested and own is not None and requested == Projects.uuid(own):
        requested = own
    elif requested and own is None:
        projects: Projects = request.app.state.projects
        requested = await projects.name_of(requested)
    return project_named(request.user, requested)


async def find_project(request: ApiRequest, *conditions: Callable[[str], Awaitable[bool]]) -> str:
    """Return the project of a request that names none: the project of the caller's key.

    For a key of all projects it is the first project that meets the first condition, else the second, and so on; else
    `default`.
    """
    project = project_of(request.user)
    if request.user.project is not None:
        return project
    store: Store = request.app.state.store
    names = [project, *(name for name in await store.projects() if name != project)]
    for condition in conditions:
        for name in names:
            if await condition(name):
                return name
    return project
