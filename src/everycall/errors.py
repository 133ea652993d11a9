"""The errors that this package raises, and the reasons for which a record can be lost.

    EverycallError
    ├── ConfigurationError      a setting is invalid
    ├── SpoolInUse              another process uses these files
    ├── RequestError            the endpoint refused the request (`.problem`)
    │   ├── AuthenticationError     401 or 403
    │   └── NotFoundError           404
    └── UnreachableError        no usable response from the endpoint (connection, time-out, 5xx)

Tracing never raises these: `@trace`, `span()` and the integrations count a `Loss` instead. Only functions that a user
calls for their result raise them, such as `Parea.completion`, and `init` with an invalid setting.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

__all__ = [
    "AuthenticationError",
    "ConfigurationError",
    "EverycallError",
    "Loss",
    "NotFoundError",
    "Problem",
    "RequestError",
    "SpoolInUse",
    "UnreachableError",
]


class Loss(StrEnum):
    """The reason why a record will never arrive. `everycall.stats().dropped` has a count for each."""

    CAPTURE_FAILED = "capture_failed"  # the record could not be built: a defect in everycall
    SPOOL_FULL = "spool_full"  # the spool reached its bound, so its oldest segment was deleted
    SPOOL_UNWRITABLE = "spool_unwritable"  # no writable disk, and the memory used instead was full or the process ended
    SPOOL_CORRUPT = "spool_corrupt"  # the checksum of a line that was read back did not match
    REFUSED = "refused"  # the endpoint refused the record for good


@dataclass(frozen=True, slots=True)
class Problem:
    """An error response as a problem document, RFC 9457 `application/problem+json`.

    `type` is `urn:everycall:error:<code>`; `detail` says what to do. `extensions` has further members, such as `index`
    for a refused record.
    """

    code: str
    status: int
    title: str
    detail: str
    extensions: dict[str, Any] | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the body of the response, as plain JSON values."""
        body: dict[str, Any] = {
            "type": f"urn:everycall:error:{self.code}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
        }
        if self.extensions:
            body.update(self.extensions)
        return body


class EverycallError(Exception):
    """The base of all errors raised by everycall."""


class ConfigurationError(EverycallError):
    """A setting is invalid. The message names it and says which values are valid."""


class SpoolInUse(EverycallError):
    """Another running process uses this data directory or spool file."""


class UnreachableError(EverycallError):
    """The endpoint gave no usable response: no connection, a time-out, 408, 429 or 5xx."""


class RequestError(EverycallError):
    """The endpoint responded with an error; `problem` is its body."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(f"{problem.status} {problem.title}: {problem.detail}")
        self.problem = problem


class AuthenticationError(RequestError):
    """401 or 403: the key is missing or wrong, or does not permit this."""


class NotFoundError(RequestError):
    """404: the object does not exist in this project."""
