"""Creating, activating and comparing deployments. The API and the pages call it.

A deployment is data: its templates are stored as they were sent, and never evaluated as code.
"""

from __future__ import annotations

import re
import secrets
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from everycall import limits
from everycall.server.gateway.preparation import missing_deployment
from everycall.server.gateway.provider_request import as_functions, as_messages
from everycall.server.gateway.request import Message, ModelParams
from everycall.server.gateway.routing import provider_of
from everycall.server.problems import ProblemError, problem
from everycall.server.store.base import Store
from everycall.server.store.errors import NoEarlierVersion, VersionConflict
from everycall.server.store.values import Deployment

__all__ = [
    "DeploymentRequest",
    "Fallback",
    "activate",
    "as_deployment",
    "both_versions",
    "check_id",
    "newest_of",
    "put",
    "roll_back",
    "version_of",
]

ID_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}\Z")
RESERVED = frozenset({"new"})
_ID_BYTES = 16  # 22 characters of base64, cut to 21, the length of Parea's ids

Name = Annotated[str, Meta(min_length=1, max_length=limits.NAME_CHARS_MAX)]


class TemplateMessage(Message, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A message of a template. Unknown fields are refused, so a misspelt one is not lost."""


class TemplateParams(ModelParams, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Model parameters of a template. Unknown fields are refused, as in messages."""


class Fallback(msgspec.Struct, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A model to try if the models before it fail. Without `provider`, the model's name decides."""

    model: Name
    provider: Annotated[str, Meta(max_length=limits.NAME_CHARS_MAX)] | None = None


class DeploymentRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A request to create a deployment, or with `deployment_id` a new version of that deployment.

    `messages` may contain `{{variables}}`. `model_params` has Parea's names (temp, top_p, max_length, ...).
    `provider` is a name from the server's settings; without it, the model's name decides. With `activate`, the version
    is served from now on. If `expected_version` is not the version served now (0: none), nothing is changed.
    """

    name: Name
    messages: Annotated[list[TemplateMessage], Meta(min_length=1)]
    model: Name
    provider: Annotated[str, Meta(max_length=limits.NAME_CHARS_MAX)] | None = None
    model_params: TemplateParams | None = None
    functions: list[Any] | None = None
    function_call: str | dict[str, Any] | None = None
    description: Annotated[str, Meta(max_length=limits.NAME_CHARS_MAX)] | None = None
    metadata: dict[str, Any] | None = None
    fallbacks: Annotated[list[Fallback], Meta(max_length=limits.FALLBACKS_MAX)] | None = None
    deployment_id: Annotated[str, Meta(max_length=limits.ID_CHARS_MAX)] | None = None
    project_name: Annotated[str, Meta(max_length=256)] | None = None
    activate: bool = True
    expected_version: Annotated[int, Meta(ge=0)] | None = None


def as_deployment(request: DeploymentRequest, project: str, by: str) -> Deployment:
    """Return the version to store, created by the key named `by`. Raise a `ProblemError` 422 that names a bad field."""
    for index, message in enumerate(request.messages):
        if isinstance(message.content, str) and len(message.content) > limits.TEMPLATE_CHARS_MAX:
            raise problem(
                "template_too_long",
                422,
                "The prompt template is too long",
                f"messages[{index}].content may have at most {limits.TEMPLATE_CHARS_MAX} characters. "
                "Pass long text in llm_inputs.",
                field=f"messages[{index}].content",
            )
    return Deployment(
        deployment_id=request.deployment_id or f"p-{secrets.token_urlsafe(_ID_BYTES)[:21]}",
        version=0,
        project_name=project,
        name=request.name,
        messages=tuple(as_messages(request.messages, "messages")),
        model=request.model,
        provider=_provider(request.model, request.provider),
        model_params=request.model_params.as_set() if request.model_params else {},
        functions=tuple(as_functions(request.functions or ())),
        function_call=request.function_call,
        description=request.description or "",
        metadata=request.metadata or {},
        fallbacks=tuple(
            {"model": one.model, "provider": _provider(one.model, one.provider)} for one in request.fallbacks or ()
        ),
        created_by=by,
    )


def _provider(model: str, provider: str | None) -> str:
    return (provider or provider_of(model) or "").lower()


def check_id(deployment_id: str) -> None:
    """Raise 422 if a new deployment cannot have this id."""
    if not ID_PATTERN.match(deployment_id) or deployment_id in RESERVED:
        raise problem(
            "invalid",
            422,
            "Not as documented",
            "A deployment_id has 1 to 128 letters, digits, - and _, and starts with a letter or a digit. "
            f"Reserved: {', '.join(sorted(RESERVED))}.",
            field="deployment_id",
        )


async def newest_of(store: Store, project: str, deployment_id: str) -> int:
    """Return the number of a deployment's newest version; 0 if there is no such deployment."""
    versions = await store.deployment_versions(project, deployment_id, limit=1)
    return versions[0].version if versions else 0


async def put(
    store: Store, request: DeploymentRequest, new: Deployment, *, dry_run: bool = False
) -> tuple[str, Deployment]:
    """Store a version; return the result and the version as stored.

    The result is "created", "changed" (a new version), "activated" (an older version with the same content is served
    again) or "unchanged". With `dry_run`, nothing is stored. Raise 409 if `expected_version` is not the served version.
    """
    before = await newest_of(store, new.project_name, new.deployment_id)
    served = await store.deployment(new.project_name, new.deployment_id)
    try:
        stored = await store.put_deployment(
            new, activate=request.activate, expected=request.expected_version, dry_run=dry_run
        )
    except VersionConflict as error:
        raise _conflict(error) from error
    if stored.version > before:
        return ("changed" if before else "created"), stored
    was_served = served is not None and served.version == stored.version
    return ("unchanged" if was_served or not request.activate else "activated"), stored


async def activate(
    store: Store, project: str, deployment_id: str, version: int, *, by: str, expected: int | None = None
) -> Deployment:
    """Serve a version (0: none) and return it. Raise 404 if it does not exist, and 409 as `put` does."""
    try:
        activated = await store.activate_deployment(project, deployment_id, version, by=by, expected=expected)
    except VersionConflict as error:
        raise _conflict(error) from error
    if activated is None:
        raise _no_version()
    return activated


async def roll_back(
    store: Store, project: str, deployment_id: str, *, by: str, expected: int | None = None
) -> Deployment:
    """Serve the previously served version and return it. Raise 404, 409 as `put` does, and 409 if there is none."""
    try:
        activated = await store.roll_back_deployment(project, deployment_id, by=by, expected=expected)
    except VersionConflict as error:
        raise _conflict(error) from error
    except NoEarlierVersion as error:
        raise problem("no_earlier_version", 409, "Nothing to roll back to", str(error)) from error
    if activated is None:
        raise _no_version()
    return activated


async def version_of(store: Store, project: str, deployment_id: str, version: int | None) -> Deployment:
    """Return a version, or the served one if `version` is None. Raise 404, or 410 if no version is served."""
    stored = await store.deployment(project, deployment_id, version)
    if stored is not None:
        return stored
    if version is not None:
        raise _no_version()
    raise await missing_deployment(store, project, deployment_id)


async def both_versions(
    store: Store, project: str, deployment_id: str, older: int | None, newer: int | None
) -> tuple[Deployment | None, Deployment]:
    """Return two versions to compare: by default the newest, and the one before it.

    The first is None for version 0, which is no version. Raise 404 if a version does not exist.
    """
    if newer is None:
        newer = await newest_of(store, project, deployment_id)
    after = await version_of(store, project, deployment_id, newer)
    older = newer - 1 if older is None else older
    before = await version_of(store, project, deployment_id, older) if older else None
    return before, after


def _no_version() -> ProblemError:
    return problem(
        "unknown_deployment",
        404,
        "No such deployment",
        "There is no such deployment or version in this project. GET /api/deployments lists the deployments.",
    )


def _conflict(error: VersionConflict) -> ProblemError:
    return problem(
        "version_conflict",
        409,
        "Another version is served",
        f"{error}, not expected_version: it was changed meanwhile. Nothing was changed. Check it, and try again.",
        active_version=error.active,
    )
