"""The attempts of one request to the endpoint: how long to wait, how much time is left, what to raise at the end.

`client.Parea` sends the requests.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Protocol, TypeVar

import msgspec

from everycall import limits
from everycall._retry import backoff_s, retry_after_s
from everycall.errors import AuthenticationError, NotFoundError, Problem, RequestError, UnreachableError

__all__ = ["Attempts", "Response", "decoded"]

_TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})
_FINAL = frozenset({"provider_failed"})
"""Codes of problems that another attempt under the same `inference_id` cannot change, whatever their status."""
_LIMITS = frozenset({"budget_exceeded", "rate_limited"})
"""Codes of a key's limits. Waiting may help; if it does not, the problem itself is raised."""

T = TypeVar("T")


class Response(Protocol):
    """What is read of an HTTP response."""

    @property
    def status_code(self) -> int: ...
    @property
    def is_success(self) -> bool: ...
    @property
    def reason_phrase(self) -> str: ...
    @property
    def headers(self) -> Mapping[str, str]: ...
    @property
    def content(self) -> bytes: ...
    @property
    def text(self) -> str: ...
    @property
    def url(self) -> Any: ...


class Attempts:
    """The attempts of one request, which have `timeout_s` in all."""

    def __init__(self, timeout_s: float) -> None:
        self.wait_s = 0.0
        """How long to wait before the next attempt."""
        self._deadline = time.monotonic() + timeout_s
        self._count = 0

    @property
    def left_s(self) -> float:
        """The time left for the next attempt, always more than 0."""
        return max(self._deadline - time.monotonic(), 0.001)

    def failed(self, error: Exception) -> None:
        """Note an attempt without a response. Raise `UnreachableError` if it was the last."""
        self._next(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__, None, error)

    def answered(self, response: Response) -> bool:
        """Return True for a response to use, False for one after which the request should be sent again.

        Raise `RequestError` (or a subclass) for a refusal. After the last attempt raise `UnreachableError`, or
        `RequestError` if the last response was a limit of the key.
        """
        if response.is_success:
            return True
        problem = _problem(response)
        if response.status_code not in _TRANSIENT or problem.code in _FINAL:
            raise _refusal(problem)
        self._next(f"{problem.status} {problem.title}: {problem.detail}", response, None)
        return False

    def _next(self, reason: str, response: Response | None, cause: Exception | None) -> None:
        self._count += 1
        requested_s = retry_after_s(response.headers) if response is not None else None
        self.wait_s = max(backoff_s(self._count + 1), min(requested_s or 0.0, limits.RETRY_AFTER_MAX_S))
        if self._count < limits.COMPLETION_TRIES_MAX and time.monotonic() + self.wait_s < self._deadline:
            return
        if response is not None and (problem := _problem(response)).code in _LIMITS:
            raise _refusal(problem)
        raise UnreachableError(f"no answer of the endpoint after {self._count} tries; the last: {reason}") from cause


def decoded(response: Response, decoder: msgspec.json.Decoder[T], what: str) -> T:
    """Return the value in a response. Raise `UnreachableError`, which names `what` was expected, for other content."""
    try:
        return decoder.decode(response.content)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UnreachableError(f"{response.url} answered something that is not {what}: {error}") from error


def _refusal(problem: Problem) -> RequestError:
    kind = {401: AuthenticationError, 403: AuthenticationError, 404: NotFoundError}.get(problem.status, RequestError)
    return kind(problem)


def _problem(response: Response) -> Problem:
    """Return the problem in a response; for another server's error, one of its status and the start of its text."""
    try:
        body = msgspec.json.decode(response.content)
    except (msgspec.DecodeError, UnicodeDecodeError):
        body = None
    if not isinstance(body, dict) or not isinstance(body.get("title"), str):
        return Problem("unknown", response.status_code, response.reason_phrase or "Error", response.text[:500])
    extensions = {name: value for name, value in body.items() if name not in ("type", "title", "status", "detail")}
    code = str(body.get("type", "unknown")).rpartition(":")[2]
    return Problem(code, response.status_code, body["title"], str(body.get("detail", "")), extensions or None)
