"""The server about itself: whether it is up, and the keys it knows. Keys are for admins alone."""

from __future__ import annotations

import re
from typing import Any

import msgspec
from litestar import Request, Response, delete, get, post
from litestar.openapi.spec import Schema
from litestar.openapi.spec.enums import OpenAPIType

from everycall import limits
from everycall.errors import ConfigurationError
from everycall.semconv import DEFAULT_PROJECT
from everycall.server.api.documents import operation, path_text
from everycall.server.auth import Access, Identity, require
from everycall.server.bodies import Bodies
from everycall.server.problems import bad_request, not_found, problem
from everycall.server.store.base import ApiKey

__all__ = ["handlers"]

_STRING = Schema(type=OpenAPIType.STRING)
_KEY = Schema(
    type=OpenAPIType.OBJECT,
    properties={
        "id": Schema(type=OpenAPIType.STRING, description="The SHA-256 of the secret."),
        "name": _STRING,
        "project": _STRING,
        "role": Schema(type=OpenAPIType.STRING, enum=["read", "write", "admin"]),
        "created_unix_nano": Schema(type=OpenAPIType.INTEGER),
        "revoked_unix_nano": Schema(type=[OpenAPIType.INTEGER, OpenAPIType.NULL]),
        "secret": Schema(type=OpenAPIType.STRING, description="Only in the answer that makes the key."),
    },
)


class NewKey(msgspec.Struct, forbid_unknown_fields=True):
    """What a key is made from."""

    name: str
    project: str | None = None
    role: str = "write"


@get("/healthz", operation_class=operation(answer=Schema(type=OpenAPIType.OBJECT, properties={"status": _STRING})))
async def healthz() -> dict[str, str]:
    """Say that the server is up. Needs no key, tells nothing else."""
    return {"status": "ok"}


@get(
    "/api/keys",
    operation_class=operation(
        answer=Schema(type=OpenAPIType.OBJECT, properties={"keys": Schema(type=OpenAPIType.ARRAY, items=_KEY)})
    ),
)
async def list_keys(request: Request[Identity, Any, Any]) -> dict[str, Any]:
    """List the keys of the caller's project, or of all projects. Secrets are not kept, so they are not shown."""
    require(request.user, "admin")
    return {"keys": [_shown(key) for key in _access(request).keyring.all() if _may(request.user, key)]}


@post(
    "/api/keys",
    status_code=201,
    operation_class=operation(
        body=Schema(
            type=OpenAPIType.OBJECT,
            required=["name"],
            properties={"name": _STRING, "project": _STRING, "role": _STRING},
        ),
        answer=_KEY,
        problems={413: "Too large.", 422: "Not as documented."},
    ),
)
async def make_key(request: Request[Identity, Any, Any]) -> Response[Any]:
    """Make a key for one project; the answer is the only place where its secret is shown."""
    require(request.user, "admin")
    bodies: Bodies = request.app.state.bodies
    async with bodies.body(request.scope, request.receive, limits.SMALL_BODY_BYTES_MAX) as data:
        try:
            asked = msgspec.json.decode(data, type=NewKey)
        except (ValueError, RecursionError) as error:
            told = str(error)
            if "unknown field" in told:  # whose name is the caller's
                told = "A key has a name, a project and a role, and no further field"
            raise problem("invalid", 422, "Not as documented", told) from error
    project = asked.project or request.user.project or DEFAULT_PROJECT
    if request.user.project not in (None, project):
        raise problem("forbidden", 403, "Forbidden", "This key belongs to another project; leave the project out.")
    try:
        secret, key = await _access(request).keyring.add(asked.name, project, asked.role)
    except ConfigurationError as error:
        raise bad_request(str(error)) from error
    return Response({**_shown(key), "secret": secret}, status_code=201)


@delete(
    "/api/keys/{key_id:str}",
    status_code=200,
    operation_class=operation(
        parameters=[path_text("key_id", "The key's id, or its first 8 or more digits.")],
        answer=_KEY,
        problems={404: "No such key."},
    ),
)
async def revoke_key(request: Request[Identity, Any, Any]) -> dict[str, Any]:
    """Revoke a key. It is refused from the next request on, and the sessions that came from it end."""
    require(request.user, "admin")
    key_id = request.path_params["key_id"]
    if not re.fullmatch(r"[0-9a-f]{8,64}", key_id):
        raise not_found("key")
    keyring = _access(request).keyring
    found = [key for key in keyring.all() if key.digest.startswith(key_id) and _may(request.user, key)]
    if len(found) != 1:
        raise not_found("key")
    revoked = await keyring.revoke(found[0].digest)
    return _shown(revoked or found[0])


def _access(request: Request[Identity, Any, Any]) -> Access:
    found: Access = request.app.state.access
    return found


def _may(identity: Identity, key: ApiKey) -> bool:
    return identity.project is None or identity.project == key.project_name


def _shown(key: ApiKey) -> dict[str, Any]:
    return {
        "id": key.digest,
        "name": key.name,
        "project": key.project_name,
        "role": key.role,
        "created_unix_nano": key.created_unix_nano,
        "revoked_unix_nano": key.revoked_unix_nano,
    }


handlers = [healthz, list_keys, make_key, revoke_key]
