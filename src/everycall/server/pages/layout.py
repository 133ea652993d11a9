"""What all pages share: the frame around a page, and its JSON twin. Called by the routes."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import MediaType, Response

from everycall.server.api.http import ApiRequest
from everycall.server.keys import ROLES
from everycall.server.pages.views import server_version
from everycall.server.services import Services

__all__ = ["frame_of", "json_twin", "may_write"]


async def frame_of(request: ApiRequest, services: Services, project: str) -> dict[str, Any]:
    """Return what the frame needs: the projects to choose from, the one in the URL, and whether there is a log-out."""
    projects = [project]
    if request.user.project is None:
        projects = sorted({*await services.store.projects(), project})
    return {
        "projects": projects,
        "project": project,
        "asked_project": request.query_params.get("project") or None,
        "version": server_version(),
        "logs_out": not services.access.no_auth,
    }


def json_twin(view: Any) -> Response[bytes]:
    """Return a view as JSON, indented for reading."""
    body = msgspec.json.format(msgspec.json.encode(view), indent=2)
    return Response(body, media_type=MediaType.JSON)


def may_write(request: ApiRequest) -> bool:
    """Return whether the caller may change something, so that a page offers only what will work."""
    return ROLES.index(request.user.role) >= ROLES.index("write")
