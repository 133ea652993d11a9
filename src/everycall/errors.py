"""Every error this package raises, and every reason for which a record can be lost.

The tree, drawn once:

    EverycallError
    ├── ConfigurationError      a setting cannot be used as given
    ├── SpoolInUse              another process owns the files asked for
    ├── RequestError            the endpoint answered, and the answer was no (`.problem`)
    │   ├── AuthenticationError     401 or 403
    │   └── NotFoundError           404
    └── UnreachableError        the endpoint gave no answer that counts (connection, time-out, 5xx)

Telemetry itself raises none of these into a traced program: `@trace`, `span()` and the integrations count a
`Loss` instead. Only what a user calls for its answer (`Parea.completion`, `init` with a bad setting) raises.
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
    """Why a record will never arrive. `everycall.stats().dropped` counts by these names."""

    CAPTURE_FAILED = "capture_failed"  # the record could not be built; a defect of everycall's
    SPOOL_FULL = "spool_full"  # the spool reached its bound, its oldest segment went
    SPOOL_UNWRITABLE = "spool_unwritable"  # no disk, and the memory held in its place was full or the process ended
    SPOOL_CORRUPT = "spool_corrupt"  # a line's checksum did not match what was read back
    REFUSED = "refused"  # the endpoint answered that it will never take this record


@dataclass(frozen=True, slots=True)
class Problem:
    """The one shape of an error answer, RFC 9457 `application/problem+json`.

    `type` is `urn:everycall:error:<code>`; `detail` says what to do. `extensions` holds the further members, such
    as `index` for a refused record.
    """

    code: str
    status: int
    title: str
    detail: str
    extensions: dict[str, Any] | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the body to be sent, as plain values."""
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
    """A setting cannot be used as given; the message names it and what it may be."""


class SpoolInUse(EverycallError):
    """Another living process owns this data directory or spool file."""


class UnreachableError(EverycallError):
    """The endpoint gave no answer that counts: no connection, a time-out, 408, 429 or 5xx."""


class RequestError(EverycallError):
    """The endpoint answered with an error. `problem` is its body in the documented shape (`Problem`)."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(f"{problem.status} {problem.title}: {problem.detail}")
        self.problem = problem


class AuthenticationError(RequestError):
    """401 or 403: the key is missing, wrong, or may not do this."""


class NotFoundError(RequestError):
    """404: what was named does not exist in this project."""
