"""Asking a running server something over its API, for the commands that also work on the store of one that is off."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

from everycall._local_server import UNPROVEN, proves
from everycall.cli.errors import CommandFailed
from everycall.semconv import API_KEY_HEADER
from everycall.settings import Settings

__all__ = ["Refused", "ask"]


class Refused(CommandFailed):
    """The server answered with an error: its `status`, and the members of its problem (none where it is no problem)."""

    def __init__(self, message: str, status: int, problem: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.status = status
        self.problem = problem


def ask(
    settings: Settings,
    path: str,
    body: Mapping[str, Any] | None,
    *,
    failed: str,
    timeout_s: float,
    method: str | None = None,
) -> dict[str, Any] | None:
    """Return the server's answer: to a POST (or `method`) of `body`, else to a GET. None when the server is off.

    A server is off when it is the local one and its port is closed. `failed` says what it did not do, for an error.
    Raises `CommandFailed` with a line for the person who asked.
    """
    _require_proof(settings)
    headers = {"content-type": "application/json"}
    key = settings.key()
    if key is not None:
        headers[API_KEY_HEADER] = key
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(  # noqa: S310 - http(s), checked
        f"{settings.endpoint}{path}", data, headers, method=method
    )
    proxies = urllib.request.ProxyHandler({} if settings.on_loopback else None)
    try:
        with urllib.request.build_opener(proxies).open(request, timeout=timeout_s) as answer:
            return dict(json.load(answer))
    except urllib.error.HTTPError as error:
        with error:
            problem = _problem(error)
            detail = f"{error.code}: {problem['detail']}" if "detail" in problem else f"it answered {error.code}"
            raise Refused(f"{settings.endpoint} {failed}: {detail}", error.code, problem) from None
    except urllib.error.URLError as error:
        if settings.on_loopback and isinstance(error.reason, ConnectionRefusedError):
            return None
        raise CommandFailed(
            f"{settings.endpoint} does not answer: {error.reason}. Is EVERYCALL_ENDPOINT right?"
        ) from None
    except (ValueError, OSError) as error:
        raise CommandFailed(f"{settings.endpoint} does not answer as a server of everycall does: {error}") from None


def _require_proof(settings: Settings) -> None:
    """Raise `CommandFailed` if a server on loopback answers and does not prove that it is this user's."""
    if not settings.requires_proof:
        return
    try:
        is_proven = proves(settings.endpoint, settings.key())
    except OSError:
        return  # nothing answers: the request itself says so
    if not is_proven:
        raise CommandFailed(f"{settings.endpoint}: {UNPROVEN}")


def _problem(error: urllib.error.HTTPError) -> dict[str, Any]:
    try:
        found = json.load(error)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
