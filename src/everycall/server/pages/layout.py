"""What all pages share: who asks for which project, the frame around a page, its JSON twin. Called by the routes."""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec
from litestar import MediaType, Request, Response
from litestar.datastructures import State

from everycall.server.auth import Access, Identity, project_of, require
from everycall.server.keys import Role
from everycall.server.pages.views import server_version
from everycall.server.store.base import Store

__all__ = ["Asked", "chrome_of", "data", "reading"]

Asked: TypeAlias = Request[Identity, Any, State]


def reading(request: Asked, role: Role = "read") -> tuple[Store, str]:
    """Return the store and the project to work in, or raise what the caller may not do."""
    require(request.user, role)
    store: Store = request.app.state.store
    return store, project_of(request.user, request.query_params.get("project") or None)


async def chrome_of(request: Asked, store: Store, project: str) -> dict[str, Any]:
    """Return what the frame needs: the projects to choose from, the one asked for, and whether there is a log-out."""
    projects = sorted({*await store.projects(), project}) if request.user.project is None else [project]
    access: Access = request.app.state.access
    return {
        "projects": projects,
        "project": project,
        "asked_project": request.query_params.get("project") or None,
        "version": server_version(),
        "logs_out": not access.no_auth,
    }


def data(view: Any) -> Response[bytes]:
    """Return a view as JSON, laid out for reading."""
    body = msgspec.json.format(msgspec.json.encode(view), indent=2)
    return Response(body, media_type=MediaType.JSON)
