"""The pages of deployments: the list, one deployment with a form that runs it, and what differs between two versions.

Each has a twin whose path ends in `.json`. Changes are the POST requests of forms; `deployment_edits` has the form that
creates a version.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import Any, Final

from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.types import ASGIApp

from everycall import limits
from everycall.server import deployments as rules
from everycall.server.api.deployments import read_cursor
from everycall.server.api.http import ApiRequest, integer_parameter, project_for
from everycall.server.api.streaming import events_of
from everycall.server.gateway.request import CompletionRequest, LLMConfiguration, Message, ModelParams
from everycall.server.gateway.routing import provider_of
from everycall.server.pages.addresses import deployment_path, with_query
from everycall.server.pages.deployment_views import (
    DeploymentView,
    RunView,
    deployment_view,
    deployments_view,
    diff_view,
    run_view,
)
from everycall.server.pages.forms import Form, read_form
from everycall.server.pages.layout import frame_of, json_twin, may_write
from everycall.server.pages.rendering import html
from everycall.server.pages.values import text_of
from everycall.server.problems import ProblemError, bad_request, problem
from everycall.server.services import Services
from everycall.server.store.errors import StoreBusy
from everycall.server.store.values import Deployment

__all__ = ["handlers", "to_deployment"]

_TWIN: Final = ".json"
_DONE: Final = {
    "created": "Deployment created.",
    "changed": "New version created.",
    "activated": "Another version is served from now on.",
    "unchanged": "Nothing changed: a version already has this content.",
    "rolled-back": "Rolled back: the previously served version is served again.",
    "archived": "Archived: no version is served, and completions with this deployment are refused.",
}
"""What the page says after a change, by the `done` parameter of its URL."""
TAG: Final = "page"
"""The tag of completions that were run on a page."""


@get("/deployments", include_in_schema=False)
async def deployments_page(request: ApiRequest, services: NamedDependency[Services]) -> Response[bytes]:
    """List the deployments of the project."""
    project = project_for(request, "read")
    active = request.query_params.get("active") != "false"
    cursor = request.query_params.get("cursor")
    view = await deployments_view(services.store, project, active=active, after=read_cursor(cursor))
    frame = await frame_of(request, services, project)
    parameters = {"project": frame["project_in_url"], "active": None if active else "false"}
    return await asyncio.to_thread(
        html,
        "deployments.html",
        view=view,
        may_write=may_write(request),
        first_page=not cursor,
        next_page=with_query("/deployments", **parameters, cursor=view.next_cursor) if view.next_cursor else None,
        twin=with_query("/deployments.json", **parameters, cursor=cursor),
        **frame,
    )


@get("/deployments.json", include_in_schema=False)
async def deployments_json(request: ApiRequest, services: NamedDependency[Services]) -> Response[bytes]:
    """Return the list as JSON."""
    project = project_for(request, "read")
    active = request.query_params.get("active") != "false"
    after = read_cursor(request.query_params.get("cursor"))
    return json_twin(await deployments_view(services.store, project, active=active, after=after))


@get("/deployments/{deployment_id:str}", include_in_schema=False)
async def deployment_page(request: ApiRequest, services: NamedDependency[Services]) -> Response[bytes]:
    """Show one deployment, or return it as JSON (`.json`)."""
    project = project_for(request, "read")
    deployment_id = str(request.path_params["deployment_id"])
    version = integer_parameter(request, "version")
    view = await deployment_view(services.store, project, deployment_id.removesuffix(_TWIN), version)
    if deployment_id.endswith(_TWIN):
        return json_twin(view)
    answer_id = request.query_params.get("answer") or None
    run = await run_view(services.store, project, answer_id) if answer_id else None
    return await _page(request, services, view, Form({}), run)


@post("/deployments/{deployment_id:str}", include_in_schema=False, status_code=303)
async def change_deployment(request: ApiRequest, services: NamedDependency[Services]) -> Response[bytes]:
    """Do what a form of the page asks for: run, activate, roll back or archive."""
    project = project_for(request, "write")
    deployment_id = str(request.path_params["deployment_id"])
    form = await read_form(request, services.bodies)
    action, by = form.line("action"), request.user.name
    if action == "run":
        return await _run(request, services, project, form)
    expected = form.version("expected_version")
    if action == "activate":
        version = form.version("version")
        if not version:
            raise bad_request("version must be the number of the version to serve.", field="version")
        await rules.activate(services.store, project, deployment_id, version, by=by, expected=expected)
    elif action == "roll-back":
        await rules.roll_back(services.store, project, deployment_id, by=by, expected=expected)
    elif action == "archive":
        await rules.activate(services.store, project, deployment_id, 0, by=by, expected=expected)
    else:
        raise bad_request("action must be run, activate, roll-back or archive.")
    done = {"activate": "activated", "roll-back": "rolled-back", "archive": "archived"}[action]
    return to_deployment(request, deployment_id, done=done)


@post("/deployments/{deployment_id:str}/stream", include_in_schema=False, status_code=200)
async def stream_run(request: ApiRequest, services: NamedDependency[Services]) -> ASGIApp:
    """Run the version that the form shows and stream its text. The page's script sends this request."""
    project = project_for(request, "write")
    services.gateway.rates.enter(request.user.key)
    form = await read_form(request, services.bodies)
    view = await deployment_view(
        services.store, project, str(request.path_params["deployment_id"]), form.version("version")
    )
    follower = services.gateway.stream(project, completion_of(view, form), request.user.key)
    return await events_of(follower, request.receive)


@get(["/deployments/{deployment_id:str}/diff", "/deployments/{deployment_id:str}/diff.json"], include_in_schema=False)
async def diff_page(request: ApiRequest, services: NamedDependency[Services]) -> Response[bytes]:
    """Show what differs between two versions, or return it as JSON."""
    project = project_for(request, "read")
    older, newer = integer_parameter(request, "from", minimum=0), integer_parameter(request, "to")
    view = await diff_view(services.store, project, str(request.path_params["deployment_id"]), older, newer)
    if request.scope["path"].endswith(_TWIN):
        return json_twin(view)
    frame = await frame_of(request, services, project)
    path = deployment_path(view.deployment_id)
    twin = with_query(f"{path}/diff{_TWIN}", project=frame["project_in_url"], **{"from": view.before, "to": view.after})
    return await asyncio.to_thread(
        html, "deployment_diff.html", view=view, path=path, may_write=may_write(request), twin=twin, **frame
    )


def to_deployment(request: ApiRequest, deployment_id: str, **query: Any) -> Response[bytes]:
    """Redirect to a deployment's page after a change, so that reloading the page does not repeat it."""
    project = request.query_params.get("project") or None
    path = with_query(deployment_path(deployment_id), project=project, **query)
    return Response(b"", status_code=303, headers={"location": path})


async def _page(
    request: ApiRequest, services: Services, view: DeploymentView, form: Form, run: RunView | None = None
) -> Response[bytes]:
    frame = await frame_of(request, services, view.project)
    path = deployment_path(view.deployment.deployment_id)
    version = view.deployment.version if view.deployment.version != view.served else None
    status = 200 if run is None or run.problem is None else run.problem.status
    return await asyncio.to_thread(
        html,
        "deployment.html",
        status=status,
        view=view,
        d=view.deployment,
        path=path,
        form=form,
        fields=view.variables[: limits.FORM_VARIABLES_MAX],
        inference_id=f"{secrets.token_hex(16)}-{secrets.token_hex(8)}",
        run=run,
        answer=text_of(run.content) if run else None,
        done=_DONE.get(request.query_params.get("done", "")),
        may_write=may_write(request),
        twin=with_query(path + _TWIN, project=frame["project_in_url"], version=version),
        **frame,
    )


async def _run(request: ApiRequest, services: Services, project: str, form: Form) -> Response[bytes]:
    """Run the version that the form shows, and show the page again with the answer."""
    view = await deployment_view(
        services.store, project, str(request.path_params["deployment_id"]), form.version("version")
    )
    try:
        services.gateway.rates.enter(request.user.key)
        answer = await services.gateway.complete(project, completion_of(view, form), request.user.key)
    except ProblemError as error:
        return await _page(request, services, view, form, RunView(problem=error.problem))
    except StoreBusy as error:
        busy = problem("busy", 503, "Busy", f"{error} Try again: a completion that was made is not made again.")
        return await _page(request, services, view, form, RunView(problem=busy.problem))
    return await _page(request, services, view, form, await run_view(services.store, project, answer.inference_id))


def completion_of(view: DeploymentView, form: Form) -> CompletionRequest:
    """Return the completion that a form asks for.

    The served version is run as programs run it, by the deployment's id. Any other version is run by its content, so
    that it can be tried before it is activated; the metadata of its record names the deployment and the version.
    """
    version = view.deployment
    model = form.line("model") or None
    provider = form.line("provider") or (provider_of(model) if model else None) or None
    is_served = version.version == view.served
    inference_id = form.line("inference_id")[: limits.ID_CHARS_MAX] or None
    return CompletionRequest(
        deployment_id=version.deployment_id if is_served else None,
        llm_inputs={name: form.text(f"var.{name}") for name in view.variables if f"var.{name}" in form.fields},
        llm_configuration=LLMConfiguration(model=model, provider=provider)
        if is_served
        else _configuration(version, model, provider),
        trace_name=version.name,
        tags=[TAG],
        metadata={"deployment_id": version.deployment_id, "version": version.version},
        cache=form.line("cache") == "on",
        inference_id=inference_id,
    )


def _configuration(version: Deployment, model: str | None, provider: str | None) -> LLMConfiguration:
    return LLMConfiguration(
        model=model or version.model,
        provider=provider or version.provider or None,
        model_params=ModelParams(**version.model_params),
        messages=[Message(**message) for message in version.messages],
        functions=list(version.functions),
        function_call=version.function_call,  # type: ignore[arg-type]
    )


handlers = [deployments_page, deployments_json, deployment_page, change_deployment, stream_run, diff_page]
