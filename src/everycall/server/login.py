"""Browser login: `GET /login` with a printed token or as a form, `POST /login` with a key, and `POST /logout`."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, quote

from litestar import Request, Response, get, post
from litestar.datastructures import Cookie
from litestar.di import NamedDependency
from litestar.enums import MediaType

from everycall import limits
from everycall.server.base_path import base_path
from everycall.server.options import ServerOptions
from everycall.server.pages.rendering import html as render
from everycall.server.problems import ProblemError, problem
from everycall.server.request_bodies import Bodies
from everycall.server.security import is_same_origin, local_path, onward, over_tls
from everycall.server.services import Services
from everycall.server.sessions import COOKIE

__all__ = ["handlers"]


@get("/login", include_in_schema=False)
async def login_page(request: Request[Any, Any, Any], services: NamedDependency[Services]) -> Response[Any]:
    """Log in with the one-time `token`, or show the form. `next` is the local path to go to afterwards."""
    access = services.access
    path = local_path(request.query_params.get("next"))
    token = request.query_params.get("token")
    if access.no_auth:
        return _go(path)
    if token is None:
        return _form(path)
    if access.sessions.use(token):
        cookie = _cookie(request, services.options, access.sessions.issue(access.keyring.local_digest))
        page = onward(request.scope, base_path() + path)
        return _go(path, cookie) if page is None else Response(page, media_type=MediaType.HTML, cookies=[cookie])
    return _form(path, "This login address was used before, or has expired. Log in with a key.", 401)


@post("/login", include_in_schema=False, status_code=303)
async def login(request: Request[Any, Any, Any], services: NamedDependency[Services]) -> Response[Any]:
    """Log in with the key from the form."""
    access = services.access
    if not is_same_origin(request.scope):
        raise problem("cross_origin", 403, "Forbidden", "Log in on this server's own page.")
    form = await _read_form(request, services.bodies)
    path = local_path(form.get("next"))
    try:
        _, digest = access.check(request.scope, form.get("key", "").strip())
    except ProblemError as error:
        response = _form(path, error.problem.detail, error.problem.status)
        response.headers.update({name: value for name, value in error.headers.items() if name == "retry-after"})
        return response
    return _go(path, _cookie(request, services.options, access.sessions.issue(digest)))


@post("/logout", include_in_schema=False, status_code=303)
async def logout(request: Request[Any, Any, Any], services: NamedDependency[Services]) -> Response[Any]:
    """End the browser's session: delete its cookie, and refuse copies of it from now on."""
    ended = services.access.sessions.end(request.cookies.get(COOKIE, ""))
    if ended is not None:
        await services.store.end_session(*ended)
    return _go("/login", _cookie(request, services.options, "", 0))


async def _read_form(request: Request[Any, Any, Any], bodies: Bodies) -> dict[str, str]:
    async with bodies.body(request.scope, request.receive, limits.SMALL_BODY_BYTES_MAX) as data:
        try:
            fields = parse_qs(data.decode("latin-1"), max_num_fields=16, errors="replace")
        except ValueError as error:
            raise problem("bad_request", 400, "Bad request", "Too many fields in the form.") from error
    return {name: values[0] for name, values in fields.items()}


def _form(path: str, message: str = "", status: int = 200) -> Response[Any]:
    return render("login.html", status=status, next=path, message=message)


def _go(path: str, cookie: Cookie | None = None) -> Response[Any]:
    headers = {"location": quote(path, safe="/?&=%#:;,+@!$'()*~[]-._")}
    return Response(b"", status_code=303, headers=headers, cookies=[] if cookie is None else [cookie])


def _cookie(
    request: Request[Any, Any, Any], options: ServerOptions, value: str, max_age: int = int(limits.SESSION_AGE_S)
) -> Cookie:
    return Cookie(
        key=COOKIE,
        value=value,
        max_age=max_age,
        httponly=True,
        samesite="strict",
        secure=over_tls(request.scope, options.trusted_proxies),
        path=base_path() or "/",
    )


handlers = [login_page, login, logout]
