"""What all pages share: the frame around a page, and its JSON twin. Called by the routes."""

from __future__ import annotations

import contextlib
from typing import Any, Final

import msgspec
from litestar import MediaType, Request, Response

from everycall.errors import Problem
from everycall.semconv import DEFAULT_PROJECT
from everycall.server.api.http import ApiRequest
from everycall.server.auth import Identity
from everycall.server.keys import ROLES
from everycall.server.pages.addresses import with_query
from everycall.server.pages.rendering import html
from everycall.server.pages.views import server_version
from everycall.server.problems import ProblemError
from everycall.server.services import Services

__all__ = ["frame_of", "json_twin", "may_write", "problem_page"]

THEME_COOKIE: Final = "everycall_theme"
"""Set by the script of the pages: light or dark. Without it a page follows the browser's preference."""
_THEMES: Final = ("light", "dark")


async def frame_of(request: ApiRequest, services: Services, project: str) -> dict[str, Any]:
    """Return what the frame needs: the projects to choose from, the one in the URL, and whether there is a log-out."""
    projects = [project]
    if request.user.project is None:
        projects = sorted({*await services.store.projects(), project})
    return _frame(request, services, projects, project, request.query_params.get("project") or None)


def _frame(
    request: Request[Any, Any, Any], services: Services, projects: list[str], project: str, project_in_url: str | None
) -> dict[str, Any]:
    theme = request.cookies.get(THEME_COOKIE)
    return {
        "theme": theme if theme in _THEMES else None,
        "projects": projects,
        "project": project,
        "project_in_url": project_in_url,
        "version": server_version(),
        "logs_out": not services.access.no_auth,
    }


def problem_page(request: Request[Any, Any, Any], problem: Problem) -> Response[bytes]:
    """Return an error as a page with the problem's texts, and with the navigation if the browser is logged in."""
    services: Services = request.app.state.services
    identity = _identity(request, services, problem)
    if identity is None:
        return html("problem_alone.html", status=problem.status, problem=problem)
    # With a key of one project, the links have no project: any other one would be refused.
    project_in_url = None if identity.project is not None else request.query_params.get("project") or None
    project = identity.project or project_in_url or DEFAULT_PROJECT
    return html(
        "problem.html",
        status=problem.status,
        problem=problem,
        path_section=request.scope["path"].split("/")[1],
        without_query=_without_query(request, project_in_url),
        **_frame(request, services, [project], project, project_in_url),
    )


def _without_query(request: Request[Any, Any, Any], project_in_url: str | None) -> str | None:
    """Return the URL of the same page without its parameters but the project; None if it has no others."""
    if request.scope["method"] != "GET" or not set(request.query_params) - {"project"}:
        return None
    path: bytes = request.scope["raw_path"]
    return with_query("/" + path.decode("ascii", "replace").partition("?")[0].lstrip("/"), project=project_in_url)


def _identity(request: Request[Any, Any, Any], services: Services, problem: Problem) -> Identity | None:
    """Return who sent a request, or None if that is unknown or was not checked.

    For a URL without a route, the guard in front of the routes did not run, so it is checked here.
    """
    identity: Identity | None = request.scope.get("user")
    if identity is None and problem.status == 404:
        with contextlib.suppress(ProblemError):
            identity = services.access.identify(request.scope)
    return identity


def json_twin(view: Any) -> Response[bytes]:
    """Return a view as JSON, indented for reading."""
    body = msgspec.json.format(msgspec.json.encode(view), indent=2)
    return Response(body, media_type=MediaType.JSON)


def may_write(request: ApiRequest) -> bool:
    """Return whether the caller may change something, so that a page offers only what will work."""
    return ROLES.index(request.user.role) >= ROLES.index("write")
