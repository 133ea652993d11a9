"""Requests of the commands to a server: its API over HTTP, with one line for the person when it fails.

`deploy`, `deployment`, `key` and `reprice` use it. httpx is imported with the first request, to keep `--help` quick.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from everycall._local_server import UNPROVEN, proves
from everycall.cli.errors import CommandFailed
from everycall.semconv import API_KEY_HEADER
from everycall.settings import Settings

if TYPE_CHECKING:
    import httpx

__all__ = ["RequestRefused", "request"]


class RequestRefused(CommandFailed):
    """The server answered with an error.

    `status` is the HTTP status, and `problem` the members of the server's problem document (RFC 9457), or empty if the
    answer is something else.
    """

    def __init__(self, message: str, status: int, problem: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.status = status
        self.problem = problem


def request(
    settings: Settings,
    path: str,
    body: Mapping[str, Any] | None = None,
    *,
    failure: str,
    timeout_s: float,
    method: str | None = None,
) -> dict[str, Any] | None:
    """Send one request to `settings.endpoint` and return the JSON object of the answer.

    The method is GET without a `body` and POST with one, unless `method` is given. Redirects are not followed: they
    would take the key to another host. Proxies of the environment are used, except for this machine.

    Return None if the endpoint is on this machine and nothing listens on its port. Raise `RequestRefused` if the server
    answers with an error (the message says that the server `failure`, such as "refused the deployment"), and
    `CommandFailed` if it cannot be reached, answers with something other than a JSON object, or does not prove that it
    is the user's own.
    """
    import httpx

    _require_proof(settings)
    key = settings.key()
    headers = {} if key is None else {API_KEY_HEADER: key}
    try:
        with httpx.Client(trust_env=not settings.on_loopback, timeout=timeout_s) as client:
            response = client.request(
                method or ("GET" if body is None else "POST"), f"{settings.endpoint}{path}", headers=headers, json=body
            )
    except httpx.HTTPError as error:
        if settings.on_loopback and _is_connection_refused(error):
            return None
        reason = str(error) or type(error).__name__
        raise CommandFailed(f"cannot reach {settings.endpoint}: {reason}. Is EVERYCALL_ENDPOINT right?") from None
    content = _json_object(response)
    if not response.is_success:
        problem = content or {}
        detail = problem.get("detail", "no reason given")
        raise RequestRefused(
            f"{settings.endpoint} {failure}: {response.status_code}: {detail}", response.status_code, problem
        )
    if content is None:
        raise CommandFailed(f"{settings.endpoint} did not answer with JSON: is it an everycall server?")
    return content


def _require_proof(settings: Settings) -> None:
    """Raise `CommandFailed` if a server on loopback answers and does not prove that it is this user's."""
    if not settings.requires_proof:
        return
    try:
        is_proven = proves(settings.endpoint, settings.key())
    except OSError:
        return  # nothing answers; the request itself reports it
    if not is_proven:
        raise CommandFailed(f"{settings.endpoint}: {UNPROVEN}")


def _is_connection_refused(error: BaseException) -> bool:
    """Return whether the port is closed, by the errors that `error` was raised from."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ConnectionRefusedError):
        cause = cause.__cause__ or cause.__context__
    return cause is not None


def _json_object(response: httpx.Response) -> dict[str, Any] | None:
    try:
        content = response.json()
    except ValueError:
        return None
    return content if isinstance(content, dict) else None
