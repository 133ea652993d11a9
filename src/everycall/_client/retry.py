"""The tries of one request to the endpoint: how long to wait, how much time is left, what to raise at the end. Layer 4.

Used by `client.Parea`, which sends; nothing here connects to anything or knows what does.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Protocol, TypeVar

import msgspec

from everycall import limits
from everycall._retry import backoff_s, retry_after_s
from everycall.errors import AuthenticationError, NotFoundError, Problem, RequestError, UnreachableError

__all__ = ["Answer", "Tries", "decoded"]

_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
_FINAL = frozenset({"provider_failed"})
"""Problems that another try under the same `inference_id` cannot change, whatever their status."""
_LIMITED = frozenset({"budget_exceeded", "rate_limited"})
"""Problems that pass with time, and that say something when there is none left: they are raised as they are."""

T = TypeVar("T")


class Answer(Protocol):
    """What is looked at of an HTTP answer."""

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


class Tries:
    """The tries of one request, which together may take `timeout_s`."""

    def __init__(self, timeout_s: float) -> None:
        self.wait_s = 0.0
        """To be waited before the next try."""
        self._until = time.monotonic() + timeout_s
        self._made = 0

    @property
    def left_s(self) -> float:
        """The time for the next try: what is left of all, never quite nothing."""
        return max(self._until - time.monotonic(), 0.001)

    def failed(self, error: Exception) -> None:
        """Note a try without an answer. Raises `UnreachableError` when it was the last."""
        self._next(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__, None, error)

    def answered(self, answer: Answer) -> bool:
        """Return True for an answer that counts, False for one after which to try again.

        Raises `RequestError` (or one of its kinds) for a refusal; after the last try `UnreachableError`, or
        `RequestError` where it was a limit of the key's that was in the way.
        """
        if answer.is_success:
            return True
        problem = _problem(answer)
        if answer.status_code not in _PASSING or problem.code in _FINAL:
            raise _refusal(problem)
        self._next(f"{problem.status} {problem.title}: {problem.detail}", answer, None)
        return False

    def _next(self, reason: str, answer: Answer | None, cause: Exception | None) -> None:
        self._made += 1
        requested_s = retry_after_s(answer.headers) if answer is not None else None
        self.wait_s = max(backoff_s(self._made + 1), min(requested_s or 0.0, limits.RETRY_AFTER_MAX_S))
        if self._made < limits.COMPLETION_TRIES_MAX and time.monotonic() + self.wait_s < self._until:
            return
        if answer is not None and (problem := _problem(answer)).code in _LIMITED:
            raise _refusal(problem)
        raise UnreachableError(f"no answer of the endpoint after {self._made} tries; the last: {reason}") from cause


def decoded(answer: Answer, decoder: msgspec.json.Decoder[T], what: str) -> T:
    """Return the value in an answer. Raises `UnreachableError` when it is not `what` it should be."""
    try:
        return decoder.decode(answer.content)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UnreachableError(f"{answer.url} answered something that is not {what}: {error}") from error


def _refusal(problem: Problem) -> RequestError:
    kind = {401: AuthenticationError, 403: AuthenticationError, 404: NotFoundError}.get(problem.status, RequestError)
    return kind(problem)


def _problem(answer: Answer) -> Problem:
    """Return the problem in an answer; for another server's error, one made of its status and the start of its text."""
    try:
        body = msgspec.json.decode(answer.content)
    except (msgspec.DecodeError, UnicodeDecodeError):
        body = None
    if not isinstance(body, dict) or not isinstance(body.get("title"), str):
        return Problem("unknown", answer.status_code, answer.reason_phrase or "Error", answer.text[:500])
    further = {name: value for name, value in body.items() if name not in ("type", "title", "status", "detail")}
    code = str(body.get("type", "unknown")).rpartition(":")[2]
    return Problem(code, answer.status_code, body["title"], str(body.get("detail", "")), further or None)
