"""Authentication and roles. `Guard` runs before every route and sets `request.user`; routes call `project_of` and
`require`.

Only `OPEN_ROUTES` answer without credentials. Credentials are a key in `x-api-key`, in `Authorization: Bearer` or as
the secret of a `Basic` pair, or the session cookie of a browser that logged in.
"""

from __future__ import annotations

import base64
from dataclasses import replace
from http.cookies import CookieError, SimpleCookie
from urllib.parse import quote

from litestar.types import ASGIApp, Receive, Scope, Send

from everycall.semconv import API_KEY_HEADER, DEFAULT_PROJECT
from everycall.server.base_path import base_path
from everycall.server.keys import ROLES, Identity, Keyring, Role
from everycall.server.options import ServerOptions
from everycall.server.problems import problem
from everycall.server.security import (
    AllowedHosts,
    WrongKeys,
    header,
    headers_of,
    is_same_origin,
    local_path,
    onward,
    wants_page,
)
from everycall.server.sessions import COOKIE, Sessions
from everycall.server.store.base import Store

__all__ = ["OPEN_ROUTES", "Access", "Guard", "Identity", "project_of", "require"]

OPEN_ROUTES = frozenset({"/healthz", "/login", "/static/{file_path}", "/v1/proof"})
"""The path templates that answer without credentials. A test compares this list with the router."""
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
ANONYMOUS = Identity(project=None, role="admin", name="anonymous")
"""The identity of every caller if the server runs with `--no-auth` (on loopback)."""


def project_of(identity: Identity, requested: str | None = None) -> str:
    """Return the project of a request.

    The key of a project works in that project only: another one raises 403, whether it exists or not. An identity for
    all projects works in the requested one, or in `default`.
    """
    if identity.project is None:
        if requested and len(requested) > 256:
            raise problem("bad_request", 400, "Bad request", "A project's name has at most 256 characters.")
        return requested or DEFAULT_PROJECT
    if requested and requested != identity.project:
        raise problem("forbidden", 403, "Forbidden", "This key belongs to another project. Leave the project out.")
    return identity.project


def require(identity: Identity, role: Role) -> None:
    """Raise 403 if the identity does not have the role. `admin` includes `write`, which includes `read`."""
    if ROLES.index(identity.role) < ROLES.index(role):
        detail = f"This needs a key with the role {role}. Yours has the role {identity.role}."
        raise problem("forbidden", 403, "Forbidden", detail)


class Access:
    """Identifies callers: by keys and sessions. Knows the allowed hosts, and counts wrong keys."""

    def __init__(self, options: ServerOptions, store: Store, local_secret: str) -> None:
        self.no_auth = options.no_auth
        self.local_secret = local_secret
        self.keyring = Keyring(store, local_secret)
        self.sessions = Sessions(local_secret)
        self.hosts = AllowedHosts(options)
        self.wrong_keys = WrongKeys()

    def identify(self, scope: Scope) -> Identity | None:
        """Return the identity of a request, or None without credentials.

        Raise 401 or 429 for a wrong key, and 403 for a session cookie that another site's page sent.
        """
        secret = _secret(scope)
        if secret is not None and not self.no_auth:
            return self.check(scope, secret)[0]
        identity = replace(ANONYMOUS, key=self.keyring.local) if self.no_auth else self._session(scope)
        if identity is not None and scope.get("method") not in SAFE_METHODS and not is_same_origin(scope):
            detail = "The page of another site sent this request. Use the server's own pages, or a key in x-api-key."
            raise problem("cross_origin", 403, "Forbidden", detail)
        return identity

    def check(self, scope: Scope, secret: str) -> tuple[Identity, str]:
        """Return the identity and the digest of a secret.

        Raise 401 if it is wrong, or 429 if too many wrong ones came from its address.
        """
        api_key = self.keyring.identify(secret)
        if api_key is not None:
            return api_key
        client = scope.get("client")
        wait = self.wrong_keys.count(client[0] if client else "")
        if wait:
            detail = f"Too many wrong keys from this address. Try again in {wait} s."
            raise problem("too_many_requests", 429, "Too many requests", detail, headers={"retry-after": str(wait)})
        detail = "This key is unknown or revoked. To create a key, run: everycall key create"
        raise problem("wrong_key", 401, "Unauthenticated", detail, headers={"www-authenticate": "Bearer"})

    def _session(self, scope: Scope) -> Identity | None:
        for value in headers_of(scope, b"cookie"):
            try:
                morsel = SimpleCookie(value).get(COOKIE)
            except CookieError:
                continue
            key_digest = self.sessions.read(morsel.value) if morsel is not None else None
            if key_digest is not None:
                return self.keyring.by_digest(key_digest)
        return None


class Guard:
    """ASGI middleware around every route. It checks the Host, credentials and origin before any of the body is read."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on to its route, raise `ProblemError`, or redirect a browser to the login."""
        hosts = headers_of(scope, b"host")
        if len(hosts) != 1:
            raise problem("bad_request", 400, "Bad request", "Send exactly one Host header.")
        if headers_of(scope, b"transfer-encoding") and headers_of(scope, b"content-length"):
            # a proxy may believe the other one, and take the rest of the body for a request (request smuggling)
            detail = "Send content-length or transfer-encoding, not both."
            raise problem("bad_request", 400, "Bad request", detail, headers={"connection": "close"})
        if not self._access.hosts.allow(hosts[0]):
            detail = "This server does not answer to that host name. To allow it, start the server with --allow-host."
            raise problem("wrong_host", 421, "Misdirected request", detail)
        identity = None
        if scope["path_template"] not in OPEN_ROUTES:
            identity = self._access.identify(scope)
            if identity is None:
                if wants_page(scope):
                    await _to_login(scope, send)
                    return
                detail = "Send a key in the x-api-key header, or log in at /login."
                raise problem("unauthenticated", 401, "Unauthenticated", detail, headers={"www-authenticate": "Bearer"})
        scope["user"] = identity
        scope["auth"] = None
        await self._app(scope, receive, send)


def _secret(scope: Scope) -> str | None:
    key = header(scope, API_KEY_HEADER.encode())
    if key is not None:
        return key.strip()
    scheme, _, token = (header(scope, b"authorization") or "").partition(" ")
    if scheme.lower() == "basic":
        return _secret_of_pair(token.strip())
    return token.strip() if scheme.lower() == "bearer" else None


def _secret_of_pair(token: str) -> str | None:
    """Return the secret of a pair of public and secret key, as Langfuse's SDK sends them; None for what is no pair."""
    try:
        pair = base64.b64decode(token, validate=True).decode()
    except ValueError:
        return None
    return pair.partition(":")[2] or None


async def _to_login(scope: Scope, send: Send) -> None:
    path = scope.get("raw_path") or quote(scope["path"]).encode()  # still escaped: ids may contain ? and #
    query = scope.get("query_string", b"")
    target = path.decode("latin-1") + (f"?{query.decode('latin-1')}" if query else "")
    page = onward(scope, base_path() + local_path(target))
    headers = [(b"content-type", b"text/html; charset=utf-8"), (b"content-length", str(len(page or b"")).encode())]
    if page is None:
        headers.append((b"location", f"/login?next={quote(target, safe='')}".encode()))
    await send({"type": "http.response.start", "status": 303 if page is None else 200, "headers": headers})
    await send({"type": "http.response.body", "body": page or b"", "more_body": False})
