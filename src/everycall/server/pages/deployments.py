"""The pages of deployments: the list, one deployment with a form that runs it, and what differs between two versions.

Each has a twin with `.json` at its end. What changes something is a form's POST; `deployment_edits` has the form that
makes a version.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import Any, Final

from litestar import Response, get, post
from litestar.types import ASGIApp

from everycall import limits
from everycall.server import deployments as rules
from everycall.server.api.deployments import read_cursor
from everycall.server.api.streaming import events_of
from everycall.server.gateway import Gateway
from everycall.server.gateway.request import CompletionRequest, LLMConfiguration, Message, ModelParams
from everycall.server.gateway.routing import provider_of
from everycall.server.keys import ROLES
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
from everycall.server.pages.layout import Asked, chrome_of, data, reading
from everycall.server.pages.rendering import html
from everycall.server.pages.values import text_of
from everycall.server.problems import ProblemError, bad_request, problem
from everycall.server.store.base import Store
from everycall.server.store.errors import StoreBusy
from everycall.server.store.values import Deployment

__all__ = ["handlers", "may_write", "to_deployment"]

_TWIN: Final = ".json"
_DONE: Final = {
    "created": "The deployment is made, and its first version is served.",
    "changed": "A new version is made.",
    "activated": "Another version is served from now on.",
    "unchanged": "Nothing changed: a version says the same already.",
    "rolled-back": "Rolled back: the version that was served before is served again.",
    "archived": "Archived: no version is served, and completions with this deployment are refused.",
}
"""What a page says after a change, by the `done` of its address."""
TAG: Final = "page"
"""On the record of a completion that was tried here."""


@get("/deployments", include_in_schema=False)
async def deployments_page(request: Asked) -> Response[bytes]:
    """List the deployments of the project."""
    store, project = reading(request)
    active = request.query_params.get("active") != "false"
    cursor = request.query_params.get("cursor")
    view = await deployments_view(store, project, active=active, after=read_cursor(cursor))
    chrome = await chrome_of(request, store, project)
    kept = {"project": chrome["asked_project"], "active": None if active else "false"}
    return await asyncio.to_thread(
        html,
        "deployments.html",
        view=view,
        may_write=may_write(request),
        first_page=not cursor,
        next_page=with_query("/deployments", **kept, cursor=view.next_cursor) if view.next_cursor else None,
        twin=with_query("/deployments.json", **kept, cursor=cursor),
        **chrome,
    )


@get("/deployments.json", include_in_schema=False)
async def deployments_twin(request: Asked) -> Response[bytes]:
    """Give the list as data."""
    store, project = reading(request)
    active = request.query_params.get("active") != "false"
    after = read_cursor(request.query_params.get("cursor"))
    return data(await deployments_view(store, project, active=active, after=after))


@get("/deployments/{deployment_id:str}", include_in_schema=False)
async def deployment_page(request: Asked) -> Response[bytes]:
    """Show one deployment, or give it as data (`.json`)."""
    store, project = reading(request)
    deployment_id = str(request.path_params["deployment_id"])
    twin = deployment_id.endswith(_TWIN)
    version = _version(request, "version")
    view = await deployment_view(store, project, deployment_id.removesuffix(_TWIN), version)
    if twin:
        return data(view)
    asked = request.query_params.get("answer") or None
    return await _page(request, store, view, Form({}), await run_view(store, project, asked) if asked else None)


@post("/deployments/{deployment_id:str}", include_in_schema=False, status_code=303)
async def change_deployment(request: Asked) -> Response[bytes]:
    """Do what a form of the page says: run, activate, roll back or archive."""
    store, project = reading(request, "write")
    deployment_id = str(request.path_params["deployment_id"])
    form = await read_form(request)
    action, by = form.line("action"), request.user.name
    if action == "run":
        return await _run(request, store, project, form)
    expected = form.version("expected_version")
    if action == "activate":
        wanted = form.version("version")
        if not wanted:
            raise bad_request("version is the number of the version to serve.", field="version")
        await rules.activate(store, project, deployment_id, wanted, by=by, expected=expected)
    elif action == "roll-back":
        await rules.roll_back(store, project, deployment_id, by=by, expected=expected)
    elif action == "archive":
        await rules.activate(store, project, deployment_id, 0, by=by, expected=expected)
    else:
        raise bad_request("action is run, activate, roll-back or archive.")
    done = {"activate": "activated", "roll-back": "rolled-back", "archive": "archived"}[action]
    return to_deployment(request, deployment_id, done=done)


@post("/deployments/{deployment_id:str}/stream", include_in_schema=False, status_code=200)
async def stream_run(request: Asked) -> ASGIApp:
    """Run the version that the form shows and send its texts as they come; the page's script asks for this."""
    store, project = reading(request, "write")
    gateway: Gateway = request.app.state.gateway
    gateway.rates.enter(request.user.key)
    form = await read_form(request)
    view = await deployment_view(store, project, str(request.path_params["deployment_id"]), form.version("version"))
    follower = gateway.stream(project, completion_of(view, form), request.user.key)
    return await events_of(follower, request.receive, with_end=False)


@get(["/deployments/{deployment_id:str}/diff", "/deployments/{deployment_id:str}/diff.json"], include_in_schema=False)
async def diff_page(request: Asked) -> Response[bytes]:
    """Show what differs between two versions, or give it as data."""
    store, project = reading(request)
    older, newer = _version(request, "from", least=0), _version(request, "to")
    view = await diff_view(store, project, str(request.path_params["deployment_id"]), older, newer)
    if request.scope["path"].endswith(_TWIN):
        return data(view)
    chrome = await chrome_of(request, store, project)
    path = deployment_path(view.deployment_id)
    twin = with_query(f"{path}/diff{_TWIN}", project=chrome["asked_project"], **{"from": view.before, "to": view.after})
    return await asyncio.to_thread(
        html, "deployment_diff.html", view=view, path=path, may_write=may_write(request), twin=twin, **chrome
    )


def may_write(request: Asked) -> bool:
    """Return whether the caller may change something, so that a page offers only what will be done."""
    return ROLES.index(request.user.role) >= ROLES.index("write")


def to_deployment(request: Asked, deployment_id: str, **query: Any) -> Response[bytes]:
    """Send a browser to a deployment's page after a form was done: reloading that does nothing again."""
    project = request.query_params.get("project") or None
    path = with_query(deployment_path(deployment_id), project=project, **query)
    return Response(b"", status_code=303, headers={"location": path})


def _version(request: Asked, name: str, least: int = 1) -> int | None:
    text = request.query_params.get(name) or ""
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) >= least):
        raise bad_request(f"{name} is a version's number.", field=name)
    return int(text)


async def _page(
    request: Asked, store: Store, view: DeploymentView, form: Form, run: RunView | None = None
) -> Response[bytes]:
    chrome = await chrome_of(request, store, view.project)
    path = deployment_path(view.deployment.deployment_id)
    shown = view.deployment.version if view.deployment.version != view.served else None
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
        twin=with_query(path + _TWIN, project=chrome["asked_project"], version=shown),
        **chrome,
    )


async def _run(request: Asked, store: Store, project: str, form: Form) -> Response[bytes]:
    """Run the version that the form shows, and show the page again with the answer."""
    gateway: Gateway = request.app.state.gateway
    view = await deployment_view(store, project, str(request.path_params["deployment_id"]), form.version("version"))
    try:
        gateway.rates.enter(request.user.key)
        answer = await gateway.complete(project, completion_of(view, form), request.user.key)
    except ProblemError as error:
        return await _page(request, store, view, form, RunView(problem=error.problem))
    except StoreBusy as error:
        busy = problem("busy", 503, "Busy", f"{error} Try again: a completion that was made is not made again.")
        return await _page(request, store, view, form, RunView(problem=busy.problem))
    return await _page(request, store, view, form, await run_view(store, project, answer.inference_id))


def completion_of(view: DeploymentView, form: Form) -> CompletionRequest:
    """Return the completion that a form asks for.

    The version that is served is run as programs run it, by its id. Any other one is run by what it says, so that it
    can be tried before it is activated; its record names the deployment and the version in its metadata.
    """
    version = view.deployment
    model = form.line("model") or None
    provider = form.line("provider") or (provider_of(model) if model else None) or None
    served = version.version == view.served
    inference_id = form.line("inference_id")[: limits.ID_CHARS_MAX] or None
    return CompletionRequest(
        deployment_id=version.deployment_id if served else None,
        llm_inputs={name: form.text(f"var.{name}") for name in view.variables if f"var.{name}" in form.fields},
        llm_configuration=LLMConfiguration(model=model, provider=provider)
        if served
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


handlers = [deployments_page, deployments_twin, deployment_page, change_deployment, stream_run, diff_page]
