"""The form that creates a deployment or a version of one, read into a `DeploymentRequest`.

It works without a script: the buttons that add and remove a message show the form again. The fields are checked as the
API checks a body; the form is then shown again with the error and with what was typed.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from litestar import Response, get, post
from litestar.di import NamedDependency

from everycall import limits
from everycall.server import deployments as rules
from everycall.server.api.http import ApiRequest, integer_parameter, project_for
from everycall.server.auth import project_of
from everycall.server.deployments import DeploymentRequest
from everycall.server.gateway.preparation import missing_deployment
from everycall.server.pages.addresses import deployment_path, with_query
from everycall.server.pages.deployments import to_deployment
from everycall.server.pages.forms import FieldError, Form, read_form
from everycall.server.pages.layout import frame_of
from everycall.server.pages.rendering import html
from everycall.server.problems import ProblemError, invalid_body
from everycall.server.services import Services
from everycall.server.store.errors import StoreBusy, StoreError
from everycall.server.store.values import Deployment

__all__ = ["handlers"]

ROLES: Final = ("system", "user", "assistant", "developer", "tool", "function")
WHOLE: Final = "json"
"""The role, in the form only, of a message that has more than a role and text: it is edited as JSON."""
MESSAGES_MAX: Final = 100
_NUMBERS: Final = {
    "temp": False,
    "top_p": False,
    "max_length": True,
    "frequency_penalty": False,
    "presence_penalty": False,
}
"""The parameters with a field of their own, and whether they are whole numbers."""


@dataclass(frozen=True, slots=True)
class EditForm:
    """The form as it is shown: its texts by field, its messages as role and text, and its error.

    `field` is the name of the field that the error is about, or None if it is about several or none.
    """

    fields: dict[str, str]
    messages: tuple[tuple[str, str], ...]
    activate: bool = True
    field: str | None = None
    error: str | None = None


@get("/deployments/new", include_in_schema=False)
async def new_page(request: ApiRequest, services: NamedDependency[Services]) -> Response[bytes]:
    """Show the form for a new deployment."""
    project = project_for(request, "write")
    return await _page(request, services, project, None, EditForm({}, (("system", ""), ("user", ""))))


@post("/deployments/new", include_in_schema=False, status_code=303)
async def create(request: ApiRequest, services: NamedDependency[Services]) -> Response[bytes]:
    """Create a deployment from the form."""
    project = project_for(request, "write")
    return await _save(request, services, project, None)


@get("/deployments/{deployment_id:str}/edit", include_in_schema=False)
async def edit_page(request: ApiRequest, services: NamedDependency[Services]) -> Response[bytes]:
    """Show the form for the next version, filled from the version in the URL, else the served one, else the newest."""
    project = project_for(request, "write")
    deployment_id = str(request.path_params["deployment_id"])
    version = integer_parameter(request, "version")
    served = await services.store.deployment(project, deployment_id)
    if version is None and served is None:
        version = await rules.newest_of(services.store, project, deployment_id) or None
    source = await rules.version_of(services.store, project, deployment_id, version)
    form = _as_form(source, served.version if served else 0)
    return await _page(request, services, project, deployment_id, form)


@post("/deployments/{deployment_id:str}/edit", include_in_schema=False, status_code=303)
async def edit(request: ApiRequest, services: NamedDependency[Services]) -> Response[bytes]:
    """Create the next version from the form."""
    project = project_for(request, "write")
    return await _save(request, services, project, str(request.path_params["deployment_id"]))


async def _save(request: ApiRequest, services: Services, project: str, deployment_id: str | None) -> Response[bytes]:
    """Create the version; or show the form again, with a message added or removed, or with an error."""
    form = await read_form(request, services.bodies)
    messages = _messages(form)
    activate = form.line("activate") == "on"
    action = form.line("action")
    if action == "add":
        messages.append(("user", ""))
    elif action.startswith("remove:"):
        removed = action.removeprefix("remove:")
        messages = [message for index, message in enumerate(messages) if str(index) != removed]
    if action != "save":  # one of the buttons that only change the form
        changed = EditForm(form.fields, tuple(messages[:MESSAGES_MAX]), activate)
        return await _page(request, services, project, deployment_id, changed)
    try:
        body = _request(form, messages, deployment_id)
        if deployment_id is None and body.deployment_id:
            rules.check_id(body.deployment_id)
        elif deployment_id is not None and not await rules.newest_of(services.store, project, deployment_id):
            raise await missing_deployment(services.store, project, deployment_id)
        new = rules.as_deployment(body, project_of(request.user, project), request.user.name)
        outcome, stored = await rules.put(services.store, body, new)
    except FieldError as error:
        field, detail, status = error.field, f"{error.field} {error.detail}.", 422
    except ProblemError as error:
        if error.problem.status == 404:
            raise
        field = str((error.problem.extensions or {}).get("field") or "")
        detail, status = error.problem.detail, error.problem.status
    except StoreBusy:
        raise
    except StoreError as error:
        field, detail, status = "", str(error), 400
    else:
        version = None if stored.active else stored.version
        return to_deployment(request, stored.deployment_id, done=outcome, version=version)
    invalid = EditForm(form.fields, tuple(messages), activate, field or None, detail)
    return await _page(request, services, project, deployment_id, invalid, status)


async def _page(
    request: ApiRequest, services: Services, project: str, deployment_id: str | None, form: EditForm, status: int = 200
) -> Response[bytes]:
    frame = await frame_of(request, services, project)
    path = deployment_path(deployment_id) if deployment_id else "/deployments"
    return await asyncio.to_thread(
        html,
        "deployment_form.html",
        status=status,
        form=form,
        deployment_id=deployment_id,
        path=path,
        roles=ROLES,
        whole=WHOLE,
        numbers=tuple(_NUMBERS),
        template_chars=limits.TEMPLATE_CHARS_MAX,
        twin=with_query(f"{path}.json", project=frame["project_in_url"]),
        **frame,
    )


def _messages(form: Form) -> list[tuple[str, str]]:
    """Return the messages of the form, in order, as role and text."""
    messages = []
    for index in range(MESSAGES_MAX):
        if f"role.{index}" not in form.fields:
            break
        messages.append((form.line(f"role.{index}"), form.text(f"content.{index}")))
    return messages


def _request(form: Form, messages: list[tuple[str, str]], deployment_id: str | None) -> DeploymentRequest:
    """Return the content of the form. Raise `FieldError`, and `ProblemError` 422 as the API does."""
    params: dict[str, Any] = {name: form.number(name, whole=whole) for name, whole in _NUMBERS.items()}
    params["response_format"] = form.json("response_format")
    params["safe_prompt"] = form.json("safe_prompt")
    body = {
        "name": form.line("name"),
        "description": form.line("description") or None,
        "deployment_id": deployment_id or form.line("deployment_id") or None,
        "model": form.line("model"),
        "provider": form.line("provider") or None,
        # The form starts with an empty system message; leaving it empty means to have none.
        "messages": [
            _message(index, role, text) for index, (role, text) in enumerate(messages) if text or role != "system"
        ],
        "model_params": params,
        "functions": form.json("functions"),
        "function_call": _function_call(form),
        "fallbacks": form.json("fallbacks"),
        "metadata": form.json("metadata"),
        "activate": form.line("activate") == "on",
        "expected_version": form.version("expected_version"),
    }
    try:
        return msgspec.convert(body, DeploymentRequest)
    except msgspec.ValidationError as error:
        raise invalid_body(error) from None


def _message(index: int, role: str, text: str) -> Any:
    if role != WHOLE:
        return {"role": role, "content": text}
    try:
        return msgspec.json.decode(text)
    except (ValueError, RecursionError) as error:
        raise FieldError(f"messages[{index}]", f"must be a message as JSON: {error}") from None


def _function_call(form: Form) -> Any:
    text = form.line("function_call")
    return form.json("function_call") if text.startswith("{") else text or None


def _as_form(version: Deployment, served: int) -> EditForm:
    """Return the form filled from a version."""
    params = version.model_params
    fields = {name: _text(params.get(name)) for name in (*_NUMBERS, "response_format", "safe_prompt")}
    call = version.function_call
    fields |= {
        "name": version.name,
        "description": version.description,
        "model": version.model,
        "provider": version.provider,
        "functions": _text(list(version.functions)),
        "function_call": call if isinstance(call, str) else _text(call),
        "fallbacks": _text(list(version.fallbacks)),
        "metadata": _text(dict(version.metadata)),
        "expected_version": str(served),
    }
    messages = []
    for message in version.messages:
        plain = message.keys() <= {"role", "content"} and isinstance(message.get("content"), str)
        messages.append((message["role"], message["content"]) if plain else (WHOLE, _text(dict(message))))
    return EditForm(fields, tuple(messages))


def _text(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) if value not in (None, [], {}) else ""


handlers = [new_page, create, edit_page, edit]
