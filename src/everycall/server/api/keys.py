"""API keys, for admins: listing, creating and revoking them, and what they may spend. Also the health check."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Annotated, Any, Literal

import msgspec
from litestar import Response, delete, get, patch, post
from litestar.di import NamedDependency
from msgspec import UNSET, Meta, UnsetType

from everycall import limits
from everycall.errors import ConfigurationError
from everycall.semconv import DEFAULT_PROJECT
from everycall.server.api.http import ApiRequest, json_response, read_json
from everycall.server.api.openapi import operation, path_parameter
from everycall.server.auth import Identity, require
from everycall.server.gateway.budgets import Budgets
from everycall.server.keys import LOCAL_ID, Keyring
from everycall.server.problems import bad_request, not_found, problem, sentence
from everycall.server.services import Services
from everycall.server.store.values import ApiKey, KeyLimits

__all__ = ["handlers"]

Budget = Annotated[float, Meta(description="US dollars a day (UTC); null: no limit.")]
Rate = Annotated[int, Meta(description="Completions a minute; null: no limit.")]
Unpriced = Annotated[
    str, Meta(description="allow or refuse: whether a key with a budget may use models without a known price.")
]


class NewKey(msgspec.Struct, forbid_unknown_fields=True):
    """The key to create. `role` is read, write or admin."""

    name: str
    project: str | None = None
    role: str = "write"
    budget_usd_per_day: Budget | None = None
    requests_per_minute: Rate | None = None
    unpriced: Unpriced = "allow"


class NewLimits(msgspec.Struct, forbid_unknown_fields=True):
    """The limits to change; null removes one."""

    budget_usd_per_day: Budget | UnsetType | None = UNSET
    requests_per_minute: Rate | UnsetType | None = UNSET
    unpriced: Unpriced | UnsetType = UNSET


class KeyResponse(msgspec.Struct, kw_only=True):
    """A key with its limits, and what it has spent today (UTC)."""

    id: Annotated[str, Meta(description="The SHA-256 of the secret; `local` for the local key.")]
    name: str
    project: str
    role: Literal["read", "write", "admin"]
    created_unix_nano: int
    revoked_unix_nano: int | None
    budget_usd_per_day: Budget | None
    requests_per_minute: Rate | None
    unpriced: Literal["allow", "refuse"]
    spent_usd_today: Annotated[float, Meta(description="On completions, without those from the cache.")]
    completions_today: Annotated[int, Meta(description="Completions that a provider made.")]
    unpriced_today: Annotated[int, Meta(description="Completions of these without a known price.")]
    resets_at: Annotated[str, Meta(description="When the day ends: midnight UTC.")]
    secret: Annotated[str, Meta(description="Only in the response that creates the key.")] | UnsetType = UNSET


class KeysResponse(msgspec.Struct):
    """The keys, and the local key where the caller may see all projects."""

    keys: list[KeyResponse]
    local: KeyResponse | UnsetType = UNSET


_key_decoder = msgspec.json.Decoder(NewKey)
_limits_decoder = msgspec.json.Decoder(NewLimits)


@get("/api/keys", operation_class=operation(response=KeysResponse))
async def list_keys(request: ApiRequest, services: NamedDependency[Services]) -> Response[bytes]:
    """List the keys of the caller's project, or of all projects, with their limits and what they have spent today.

    Secrets are not stored, so they are not listed.
    """
    require(request.user, "admin")
    budgets = services.gateway.budgets
    await budgets.load()
    keyring = services.access.keyring
    response = KeysResponse([_response(key, budgets) for key in keyring.all() if _may_manage(request.user, key)])
    if _may_manage(request.user, keyring.local):
        response.local = _response(keyring.local, budgets)
    return json_response(response)


@post(
    "/api/keys",
    status_code=201,
    operation_class=operation(
        body=NewKey, response=KeyResponse, problems={413: "Too large.", 422: "Not as documented."}
    ),
)
async def make_key(request: ApiRequest, services: NamedDependency[Services]) -> Response[bytes]:
    """Create a key for one project. Only this response has its secret."""
    require(request.user, "admin")
    body = await read_json(request, services.bodies, _key_decoder, limits.SMALL_BODY_BYTES_MAX)
    project = body.project or request.user.project or DEFAULT_PROJECT
    if request.user.project not in (None, project):
        raise problem("forbidden", 403, "Forbidden", "This key belongs to another project; leave the project out.")
    try:
        key_limits = KeyLimits(body.budget_usd_per_day, body.requests_per_minute, body.unpriced)
        secret, key = await services.access.keyring.add(body.name, project, body.role, key_limits)
    except ConfigurationError as error:
        raise bad_request(sentence(error)) from error
    response = _response(key, services.gateway.budgets)
    response.secret = secret
    return json_response(response, 201)


@patch(
    "/api/keys/{key_id:str}",
    operation_class=operation(
        parameters=[
            path_parameter("key_id", "The key's id, or its first 8 or more digits; `local` for the local key.")
        ],
        body=NewLimits,
        response=KeyResponse,
        problems={404: "No such key.", 413: "Too large.", 422: "Not as documented."},
    ),
)
async def limit_key(request: ApiRequest, services: NamedDependency[Services]) -> Response[bytes]:
    """Change the limits of a key, from its next request on. Missing limits stay as they are; null removes one."""
    require(request.user, "admin")
    keyring = services.access.keyring
    budgets = services.gateway.budgets
    key = _key_of_path(request, keyring)
    body = await read_json(request, services.bodies, _limits_decoder, limits.SMALL_BODY_BYTES_MAX)
    values = msgspec.structs.asdict(body).items()
    changes: dict[str, Any] = {name: value for name, value in values if value is not UNSET}
    await budgets.load()
    try:
        changed = await keyring.limit(key.digest, replace(key.limits, **changes))
    except ConfigurationError as error:
        raise bad_request(sentence(error)) from error
    return json_response(_response(changed or key, budgets))


@delete(
    "/api/keys/{key_id:str}",
    status_code=200,
    operation_class=operation(
        parameters=[path_parameter("key_id", "The key's id, or its first 8 or more digits.")],
        response=KeyResponse,
        problems={404: "No such key."},
    ),
)
async def revoke_key(request: ApiRequest, services: NamedDependency[Services]) -> Response[bytes]:
    """Revoke a key. It is refused from the next request on, and the browser sessions that it started end."""
    require(request.user, "admin")
    keyring = services.access.keyring
    key = _key_of_path(request, keyring)
    if key.digest == LOCAL_ID:
        raise bad_request("The local key cannot be revoked. To replace it, delete its file and restart the server.")
    revoked = await keyring.revoke(key.digest)
    return json_response(_response(revoked or key, services.gateway.budgets))


def _key_of_path(request: ApiRequest, keyring: Keyring) -> ApiKey:
    """Return the key that the path names. Raise 404 unless there is exactly one that the caller may manage."""
    key_id: str = request.path_params["key_id"]
    if not re.fullmatch(rf"[0-9a-f]{{8,64}}|{LOCAL_ID}", key_id):
        raise not_found("key")
    keys = [
        key
        for key in (keyring.local, *keyring.all())
        if key.digest.startswith(key_id) and _may_manage(request.user, key)
    ]
    if len(keys) != 1:
        raise not_found("key")
    return keys[0]


def _may_manage(identity: Identity, key: ApiKey) -> bool:
    return identity.project is None or (identity.project == key.project_name and key.digest != LOCAL_ID)


def _response(key: ApiKey, budgets: Budgets) -> KeyResponse:
    spent = budgets.spent(key.digest)
    return KeyResponse(
        id=key.digest,
        name=key.name,
        project=key.project_name,
        role=key.role,  # type: ignore[arg-type]
        created_unix_nano=key.created_unix_nano,
        revoked_unix_nano=key.revoked_unix_nano,
        budget_usd_per_day=key.limits.budget_usd_per_day,
        requests_per_minute=key.limits.requests_per_minute,
        unpriced=key.limits.unpriced,  # type: ignore[arg-type]
        spent_usd_today=round(spent.cost, 9),
        completions_today=spent.completions,
        unpriced_today=spent.unpriced,
        resets_at=budgets.resets_at().strftime("%Y-%m-%dT%H:%M:%SZ"),
    )


handlers = [list_keys, make_key, limit_key, revoke_key]
