"""The server about itself: whether it is up, and the keys it knows with what they may spend. Admins alone see keys."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import msgspec
from litestar import Response, delete, get, patch, post
from litestar.openapi.spec import Schema
from litestar.openapi.spec.enums import OpenAPIType
from msgspec import UNSET, UnsetType

from everycall import limits
from everycall.errors import ConfigurationError
from everycall.semconv import DEFAULT_PROJECT
from everycall.server.api.http import ApiRequest, read_json
from everycall.server.api.openapi import operation, path_text
from everycall.server.auth import Access, Identity, require
from everycall.server.gateway.budgets import Budgets, shown
from everycall.server.keys import LOCAL_ID, UNPRICED, Keyring
from everycall.server.problems import bad_request, not_found, problem
from everycall.server.store.values import ApiKey, KeyLimits

__all__ = ["handlers"]

_STRING = Schema(type=OpenAPIType.STRING)
_BUDGET = Schema(type=[OpenAPIType.NUMBER, OpenAPIType.NULL], description="US dollars a day (UTC); null: no limit.")
_RATE = Schema(type=[OpenAPIType.INTEGER, OpenAPIType.NULL], description="Completions a minute; null: no limit.")
_UNPRICED = Schema(
    type=OpenAPIType.STRING,
    enum=list(UNPRICED),
    description="Under a budget: whether models without a known price may be used.",
)
_LIMITS = {"budget_usd_per_day": _BUDGET, "requests_per_minute": _RATE, "unpriced": _UNPRICED}
_KEY = Schema(
    type=OpenAPIType.OBJECT,
    properties={
        "id": Schema(type=OpenAPIType.STRING, description="The SHA-256 of the secret."),
        "name": _STRING,
        "project": _STRING,
        "role": Schema(type=OpenAPIType.STRING, enum=["read", "write", "admin"]),
        "created_unix_nano": Schema(type=OpenAPIType.INTEGER),
        "revoked_unix_nano": Schema(type=[OpenAPIType.INTEGER, OpenAPIType.NULL]),
        **_LIMITS,
        "spent_usd_today": Schema(type=OpenAPIType.NUMBER, description="On completions, without cached ones."),
        "completions_today": Schema(type=OpenAPIType.INTEGER, description="Those a provider made."),
        "unpriced_today": Schema(type=OpenAPIType.INTEGER, description="Of them, those without a known price."),
        "resets_at": Schema(type=OpenAPIType.STRING, description="When the day ends: midnight UTC."),
        "secret": Schema(type=OpenAPIType.STRING, description="Only in the answer that makes the key."),
    },
)


class NewKey(msgspec.Struct, forbid_unknown_fields=True):
    """What a key is made from."""

    name: str
    project: str | None = None
    role: str = "write"
    budget_usd_per_day: float | None = None
    requests_per_minute: int | None = None
    unpriced: str = "allow"


class NewLimits(msgspec.Struct, forbid_unknown_fields=True):
    """What changes of a key's limits; null takes one away."""

    budget_usd_per_day: float | UnsetType | None = UNSET
    requests_per_minute: int | UnsetType | None = UNSET
    unpriced: str | UnsetType = UNSET


_key_decoder = msgspec.json.Decoder(NewKey)
_limits_decoder = msgspec.json.Decoder(NewLimits)


@get("/healthz", operation_class=operation(answer=Schema(type=OpenAPIType.OBJECT, properties={"status": _STRING})))
async def healthz() -> dict[str, str]:
    """Say that the server is up. Needs no key, tells nothing else."""
    return {"status": "ok"}


@get(
    "/api/keys",
    operation_class=operation(
        answer=Schema(
            type=OpenAPIType.OBJECT, properties={"keys": Schema(type=OpenAPIType.ARRAY, items=_KEY), "local": _KEY}
        )
    ),
)
async def list_keys(request: ApiRequest) -> dict[str, Any]:
    """List the keys of the caller's project, or of all projects, with what they may spend and have spent today.

    Secrets are not kept, so they are not shown. `local` is the local key, for who may see all projects.
    """
    require(request.user, "admin")
    budgets = _budgets(request)
    await budgets.load()
    keyring = _access(request).keyring
    found: dict[str, Any] = {"keys": [shown(key, budgets) for key in keyring.all() if _may(request.user, key)]}
    return {**found, "local": shown(keyring.local, budgets)} if _may(request.user, keyring.local) else found


@post(
    "/api/keys",
    status_code=201,
    operation_class=operation(
        body=Schema(
            type=OpenAPIType.OBJECT,
            required=["name"],
            properties={"name": _STRING, "project": _STRING, "role": _STRING, **_LIMITS},
        ),
        answer=_KEY,
        problems={413: "Too large.", 422: "Not as documented."},
    ),
)
async def make_key(request: ApiRequest) -> Response[Any]:
    """Make a key for one project; the answer is the only place where its secret is shown."""
    require(request.user, "admin")
    asked = await read_json(request, _key_decoder, limits.SMALL_BODY_BYTES_MAX)
    project = asked.project or request.user.project or DEFAULT_PROJECT
    if request.user.project not in (None, project):
        raise problem("forbidden", 403, "Forbidden", "This key belongs to another project; leave the project out.")
    try:
        limited = KeyLimits(asked.budget_usd_per_day, asked.requests_per_minute, asked.unpriced)
        secret, key = await _access(request).keyring.add(asked.name, project, asked.role, limited)
    except ConfigurationError as error:
        raise bad_request(str(error)) from error
    return Response({**shown(key, _budgets(request)), "secret": secret}, status_code=201)


@patch(
    "/api/keys/{key_id:str}",
    operation_class=operation(
        parameters=[path_text("key_id", "The key's id, or its first 8 or more digits; `local` for the local key.")],
        body=Schema(type=OpenAPIType.OBJECT, properties=dict(_LIMITS)),
        answer=_KEY,
        problems={404: "No such key.", 413: "Too large.", 422: "Not as documented."},
    ),
)
async def limit_key(request: ApiRequest) -> dict[str, Any]:
    """Change what a key may spend, from its next request on. What is left out stays; null takes a limit away."""
    require(request.user, "admin")
    key = _named(request)
    asked = await read_json(request, _limits_decoder, limits.SMALL_BODY_BYTES_MAX)
    given = {name: value for name, value in msgspec.structs.asdict(asked).items() if value is not UNSET}
    budgets = _budgets(request)
    await budgets.load()
    try:
        changed = await _access(request).keyring.limit(key.digest, replace(key.limits, **given))
    except ConfigurationError as error:
        raise bad_request(str(error)) from error
    return shown(changed or key, budgets)


@delete(
    "/api/keys/{key_id:str}",
    status_code=200,
    operation_class=operation(
        parameters=[path_text("key_id", "The key's id, or its first 8 or more digits.")],
        answer=_KEY,
        problems={404: "No such key."},
    ),
)
async def revoke_key(request: ApiRequest) -> dict[str, Any]:
    """Revoke a key. It is refused from the next request on, and the sessions that came from it end."""
    require(request.user, "admin")
    key = _named(request)
    if key.digest == LOCAL_ID:
        raise bad_request("The local key cannot be revoked: delete its file and restart the server to have a new one.")
    revoked = await _access(request).keyring.revoke(key.digest)
    return shown(revoked or key, _budgets(request))


def _named(request: ApiRequest) -> ApiKey:
    """Return the key that the path names. Raises 404 when there is none that the caller may manage."""
    key_id: str = request.path_params["key_id"]
    keyring: Keyring = _access(request).keyring
    known = [keyring.local, *keyring.all()]
    if not re.fullmatch(rf"[0-9a-f]{{8,64}}|{LOCAL_ID}", key_id):
        raise not_found("key")
    found = [key for key in known if key.digest.startswith(key_id) and _may(request.user, key)]
    if len(found) != 1:
        raise not_found("key")
    return found[0]


def _budgets(request: ApiRequest) -> Budgets:
    found: Budgets = request.app.state.gateway.budgets
    return found


def _access(request: ApiRequest) -> Access:
    found: Access = request.app.state.access
    return found


def _may(identity: Identity, key: ApiKey) -> bool:
    return identity.project is None or (identity.project == key.project_name and key.digest != LOCAL_ID)


handlers = [healthz, list_keys, make_key, limit_key, revoke_key]
