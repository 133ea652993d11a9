"""The form that makes a deployment or a version of one, and what it sends, read into a `DeploymentRequest`.

It works without a script: adding and removing a message is a button that shows the form again. What the form says is
checked as the API checks a body, and a wrong field is named beside what was typed.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from litestar import Response, get, post

from everycall import limits
from everycall.server import deployments as rules
from everycall.server.auth import project_of
from everycall.server.deployments import DeploymentRequest
from everycall.server.gateway.preparation import missing_deployment
from everycall.server.pages.addresses import deployment_path, with_query
from everycall.server.pages.deployments import to_deployment
from everycall.server.pages.forms import FieldError, Form, read_form
from everycall.server.pages.layout import Asked, chrome_of, reading
from everycall.server.pages.rendering import html
from everycall.server.problems import ProblemError, invalid_body
from everycall.server.store.base import Store
from everycall.server.store.errors import StoreBusy, StoreError
from everycall.server.store.values import Deployment

__all__ = ["handlers"]

ROLES: Final = ("system", "user", "assistant", "developer", "tool", "function")
WHOLE: Final = "json"
"""The role, in the form alone, of a message that is more than a role and a text: it is edited as JSON."""
MESSAGES_MAX: Final = 100
_NUMBERS: Final = {
    "temp": False,
    "top_p": False,
    "max_length": True,
    "frequency_penalty": False,
    "presence_penalty": False,
}
"""The parameters that have a field of their own, and whether they are whole numbers."""


@dataclass(frozen=True, slots=True)
class EditForm:
    """The form as it is shown: its texts by field, its messages, and what is wrong with it."""

    fields: dict[str, str]
    messages: tuple[tuple[str, str], ...]
    activate: bool = True
    field: str | None = None
    error: str | None = None


@get("/deployments/new", include_in_schema=False)
async def new_page(request: Asked) -> Response[bytes]:
    """Show the form for a new deployment."""
    store, project = reading(request, "write")
    return await _page(request, store, project, None, EditForm({}, (("system", ""), ("user", ""))))


@post("/deployments/new", include_in_schema=False, status_code=303)
async def make(request: Asked) -> Response[bytes]:
    """Make a deployment from the form."""
    store, project = reading(request, "write")
    return await _save(request, store, project, None)


@get("/deployments/{deployment_id:str}/edit", include_in_schema=False)
async def edit_page(request: Asked) -> Response[bytes]:
    """Show the form for the next version, filled with the one asked for, else the served one, else the newest."""
    store, project = reading(request, "write")
    deployment_id = str(request.path_params["deployment_id"])
    asked = request.query_params.get("version") or ""
    version = int(asked) if asked.isascii() and asked.isdigit() and len(asked) < 10 else None
    served = await store.deployment(project, deployment_id)
    if version is None and served is None:
        version = await rules.newest_of(store, project, deployment_id) or None
    found = await rules.version_of(store, project, deployment_id, version)
    shown = _as_form(found, served.version if served else 0)
    return await _page(request, store, project, deployment_id, shown)


@post("/deployments/{deployment_id:str}/edit", include_in_schema=False, status_code=303)
async def edit(request: Asked) -> Response[bytes]:
    """Make the next version from the form."""
    store, project = reading(request, "write")
    return await _save(request, store, project, str(request.path_params["deployment_id"]))


async def _save(request: Asked, store: Store, project: str, deployment_id: str | None) -> Response[bytes]:
    """Make the version; or show the form again, with a message more or less, or with what is wrong."""
    form = await read_form(request)
    messages = _messages(form)
    activate = form.line("activate") == "on"
    action = form.line("action")
    if action == "add":
        messages.append(("user", ""))
    elif action.startswith("remove:"):
        messages = [one for at, one in enumerate(messages) if str(at) != action.removeprefix("remove:")]
    if action != "save":  # one of the buttons that only change the form
        shown = EditForm(form.fields, tuple(messages[:MESSAGES_MAX]), activate)
        return await _page(request, store, project, deployment_id, shown)
    try:
        given = _request(form, messages, deployment_id)
        if deployment_id is None and given.deployment_id:
            rules.check_id(given.deployment_id)
        elif deployment_id is not None and not await rules.newest_of(store, project, deployment_id):
            raise await missing_deployment(store, project, deployment_id)
        new = rules.as_deployment(given, project_of(request.user, project), request.user.name)
        outcome, stored = await rules.put(store, given, new)
    except FieldError as error:
        wrong, status = (error.field, f"{error.field} {error.detail}."), 422
    except ProblemError as error:
        if error.problem.status == 404:
            raise
        wrong = (str((error.problem.extensions or {}).get("field") or ""), error.problem.detail)
        status = error.problem.status
    except StoreBusy:
        raise
    except StoreError as error:
        wrong, status = ("", str(error)), 400
    else:
        shown_version = None if stored.active else stored.version
        return to_deployment(request, stored.deployment_id, done=outcome, version=shown_version)
    shown = EditForm(form.fields, tuple(messages), activate, wrong[0] or None, wrong[1])
    return await _page(request, store, project, deployment_id, shown, status)


async def _page(
    request: Asked, store: Store, project: str, deployment_id: str | None, form: EditForm, status: int = 200
) -> Response[bytes]:
    chrome = await chrome_of(request, store, project)
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
        twin=with_query(f"{path}.json", project=chrome["asked_project"]),
        **chrome,
    )


def _messages(form: Form) -> list[tuple[str, str]]:
    """Return the messages of the form, in order, as role and text."""
    found = []
    for at in range(MESSAGES_MAX):
        if f"role.{at}" not in form.fields:
            break
        found.append((form.line(f"role.{at}"), form.text(f"content.{at}")))
    return found


def _request(form: Form, messages: list[tuple[str, str]], deployment_id: str | None) -> DeploymentRequest:
    """Return what the form asks for. Raises `FieldError`, and `ProblemError` 422 as the API does."""
    params: dict[str, Any] = {name: form.number(name, whole=whole) for name, whole in _NUMBERS.items()}
    params["response_format"] = form.json("response_format")
    params["safe_prompt"] = form.json("safe_prompt")
    body = {
        "name": form.line("name"),
        "description": form.line("description") or None,
        "deployment_id": deployment_id or form.line("deployment_id") or None,
        "model": form.line("model"),
        "provider": form.line("provider") or None,
        # an empty system message is the form's own suggestion, left as it was
        "messages": [_message(at, role, text) for at, (role, text) in enumerate(messages) if text or role != "system"],
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


def _message(at: int, role: str, text: str) -> Any:
    if role != WHOLE:
        return {"role": role, "content": text}
    try:
        return msgspec.json.decode(text)
    except (ValueError, RecursionError) as error:
        raise FieldError(f"messages[{at}]", f"must be a message as JSON: {error}") from None


def _function_call(form: Form) -> Any:
    text = form.line("function_call")
    return form.json("function_call") if text.startswith("{") else text or None


def _as_form(version: Deployment, served: int) -> EditForm:
    """Return the form that says what a version says."""
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


handlers = [new_page, make, edit_page, edit]
