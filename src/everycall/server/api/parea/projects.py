"""Which project a request of Parea's clients works in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from everycall.semconv import DEFAULT_PROJECT
from everycall.server.api.http import invalid_field
from everycall.server.auth import Identity, project_of
from everycall.server.projects import Projects
from everycall.server.store.base import Store

__all__ = ["find_project", "project_named", "project_of_body"]


def project_named(identity: Identity, name: str | None) -> str:
    """Return the project to work in, as `project_of`. Parea's clients send `default` when no project was set."""
    return project_of(identity, None if name == DEFAULT_PROJECT else name)


async def project_of_body(identity: Identity, projects: Projects, name: Any, identifier: Any) -> str:
    """Return the project that a body names, by name or else by Parea's UUID; without both, the caller's own.

    Raise 422 when it is not text, 403 when the caller's key belongs to another project.
    """
    requested = name or identifier
    if requested and not isinstance(requested, str):
        raise invalid_field("project_uuid", "project_uuid must be text")
    if requested and identity.project is None:
        requested = await projects.name_of(requested)
    elif requested and requested == Projects.uuid(identity.project or ""):
        requested = identity.project
    return project_named(identity, requested)


async def find_project(identity: Identity, store: Store, *conditions: Callable[[str], Awaitable[bool]]) -> str:
    """Return the project of a request that names none: the project of the caller's key.

    For a key of all projects it is the first project that meets the first condition, else the second, and so on; else
    `default`.
    """
    project = project_of(identity)
    if identity.project is not None:
        return project
    names = [project, *(name for name in await store.projects() if name != project)]
    for condition in conditions:
        for name in names:
            if await condition(name):
                return name
    return project
