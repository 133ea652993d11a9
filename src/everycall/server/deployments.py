"""Deployments as they are asked for: read and checked, stored, activated, compared. The API and the pages call this.

A deployment is data. Its templates are stored as they came, and nothing here or elsewhere evaluates them.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
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
_ID_BYTES = 16  # 21 of the 22 characters of their base64 form, as Parea's ids have

Name = Annotated[str, Meta(min_length=1, max_length=limits.NAME_CHARS_MAX)]


class _Message(Message, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A message of a template; a misspelt field is refused instead of left out."""


class _ModelParams(ModelParams, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Parameters of a template, for the same reason."""


class Fallback(msgspec.Struct, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A further model, for when those before it fail. Without `provider`, the model's name tells."""

    model: Name
    provider: Annotated[str, Meta(max_length=limits.NAME_CHARS_MAX)] | None = None


class DeploymentRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What a deployment is made of. With `deployment_id` it is the next version of that one, else a new one.

    `messages` may have `{{variables}}`; `model_params` has Parea's names (temp, top_p, max_length, ...). `provider` is
    a name of the server's settings; without it, the model's name tells. `activate` says whether the version is served
    from now on. `expected_version` is the one that must be served now (0: none), or nothing is changed.
    """

    name: Name
    messages: Annotated[list[_Message], Meta(min_length=1)]
    model: Name
    provider: Annotated[str, Meta(max_length=limits.NAME_CHARS_MAX)] | None = None
    model_params: _ModelParams | None = None
    functions: list[Any] | None = None
    function_call: str | dict[str, Any] | None = None
    description: Annotated[str, Meta(max_length=limits.NAME_CHARS_MAX)] | None = None
    metadata: dict[str, Any] | None = None
    fallbacks: Annotated[list[Fallback], Meta(max_length=limits.FALLBACKS_MAX)] | None = None
    deployment_id: Annotated[str, Meta(max_length=limits.ID_CHARS_MAX)] | None = None
    project_name: Annotated[str, Meta(max_length=256)] | None = None
    activate: bool = True
    expected_version: Annotated[int, Meta(ge=0)] | None = None


def as_deployment(given: DeploymentRequest, project: str, by: str) -> Deployment:
    """Return the version to store. Raises `ProblemError` 422 that names the field which cannot be used."""
    for index, message in enumerate(given.messages):
        if isinstance(message.content, str) and len(message.content) > limits.TEMPLATE_CHARS_MAX:
            raise problem(
                "template_too_long",
                422,
                "The prompt template is too long",
                f"messages[{index}].content may have {limits.TEMPLATE_CHARS_MAX} characters; use llm_inputs.",
                field=f"messages[{index}].content",
            )
    return Deployment(
        deployment_id=given.deployment_id or f"p-{secrets.token_urlsafe(_ID_BYTES)[:21]}",
        version=0,
        project_name=project,
        name=given.name,
        messages=tuple(as_messages(given.messages, "messages")),
        model=given.model,
        provider=_provider(given.model, given.provider),
        model_params=given.model_params.given() if given.model_params else {},
        functions=tuple(as_functions(given.functions or ())),
        function_call=given.function_call,
        description=given.description or "",
        metadata=given.metadata or {},
        fallbacks=tuple(
            {"model": one.model, "provider": _provider(one.model, one.provider)} for one in given.fallbacks or ()
        ),
        created_by=by,
    )


def _provider(model: str, given: str | None) -> str:
    return (given or provider_of(model) or "").lower()


def check_id(deployment_id: str) -> None:
    """Raise 422 unless a new deployment may have this id."""
    if not ID_PATTERN.match(deployment_id) or deployment_id in RESERVED:
        raise problem(
            "invalid",
            422,
            "Not as documented",
            "A deployment_id has letters, digits, - and _, begins with a letter or digit, and has at most 128 of them; "
            f"it is not {' or '.join(sorted(RESERVED))}.",
            field="deployment_id",
        )


async def newest_of(store: Store, project: str, deployment_id: str) -> int:
    """Return the number of a deployment's newest version; 0 when there is no such deployment."""
    found: Sequence[Any] = await store.deployment_versions(project, deployment_id, limit=1)
    return found[0].version if found else 0


async def put(
    store: Store, given: DeploymentRequest, new: Deployment, *, dry_run: bool = False
) -> tuple[str, Deployment]:
    """Store a version; return what came of it (`created`, `changed`, `activated`, `unchanged`) and the version.

    `activated`: the content is that of an older version, which is served again. `unchanged`: nothing was done. With
    `dry_run` nothing is done in any case. Raises 409 when `expected_version` is not the one that is served.
    """
    before = await newest_of(store, new.project_name, new.deployment_id)
    served = await store.deployment(new.project_name, new.deployment_id)
    try:
        stored = await store.put_deployment(
            new, activate=given.activate, expected=given.expected_version, dry_run=dry_run
        )
    except VersionConflict as error:
        raise _conflict(error) from error
    if stored.version > before:
        return ("changed" if before else "created"), stored
    was_served = served is not None and served.version == stored.version
    return ("unchanged" if was_served or not given.activate else "activated"), stored


async def activate(
    store: Store, project: str, deployment_id: str, version: int, *, by: str, expected: int | None = None
) -> Deployment:
    """Serve a version (0: none) and return it. Raises 404 when there is none, 409 as `put` does."""
    try:
        found = await store.activate_deployment(project, deployment_id, version, by=by, expected=expected)
    except VersionConflict as error:
        raise _conflict(error) from error
    if found is None:
        raise _no_version()
    return found


async def roll_back(
    store: Store, project: str, deployment_id: str, *, by: str, expected: int | None = None
) -> Deployment:
    """Serve what was served before and return it. Raises 404, and 409 also when nothing was served before."""
    try:
        found = await store.roll_back_deployment(project, deployment_id, by=by, expected=expected)
    except VersionConflict as error:
        raise _conflict(error) from error
    except NoEarlierVersion as error:
        raise problem("no_earlier_version", 409, "Nothing to roll back to", str(error)) from error
    if found is None:
        raise _no_version()
    return found


async def version_of(store: Store, project: str, deployment_id: str, version: int | None) -> Deployment:
    """Return a version, or the one that is served. Raises 404, or 410 when none is served."""
    found = await store.deployment(project, deployment_id, version)
    if found is not None:
        return found
    if version is not None:
        raise _no_version()
    raise await missing_deployment(store, project, deployment_id)


async def both_versions(
    store: Store, project: str, deployment_id: str, older: int | None, newer: int | None
) -> tuple[Deployment | None, Deployment]:
    """Return two versions to be compared: the newest with the one before it, unless others are asked for.

    The first is None for version 0: nothing. Raises 404.
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
        "There is no such deployment or version in this project. GET /api/deployments lists those that are.",
    )


def _conflict(error: VersionConflict) -> ProblemError:
    return problem(
        "version_conflict",
        409,
        "Another version is served",
        f"{error}, not the one in expected_version: somebody was quicker. Nothing was changed; look, and ask again.",
        active_version=error.active,
    )
