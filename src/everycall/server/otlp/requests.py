"""What an OTLP request contains, in either encoding: spans and log records, and the reasons for what was rejected."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from everycall import limits
from everycall.dialects import LogEvent, Scope, Span

__all__ = [
    "JSON",
    "PROTOBUF",
    "Batch",
    "Undecodable",
    "bounded",
    "checked_span",
    "scope_of",
    "too_many",
    "within_bounds",
]

PROTOBUF: Final = "application/x-protobuf"
JSON: Final = "application/json"
_TIME_MAX: Final = 2**63 - 1
_ZERO: Final = "0"


class Undecodable(Exception):
    """The body is not an OTLP request in its encoding. The message says what is wrong with it."""


@dataclass(slots=True)
class Batch:
    """The content of one request: its log records and counts, and notes about all that it contains.

    `rejected` counts the spans or log records that are not stored, and `reasons` has the first few reasons. `warnings`
    say what was changed in those that are stored, such as attributes beyond the limit.
    """

    logs: list[LogEvent] = field(default_factory=list)
    points: int = 0
    rejected: int = 0
    reasons: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def reject(self, reason: str) -> None:
        """Count a span or log record that cannot be read or stored."""
        self.rejected += 1
        _note(self.reasons, reason)

    def warn(self, warning: str) -> None:
        """Note something that was changed or left out without rejecting a span."""
        _note(self.warnings, warning)

    @property
    def message(self) -> str:
        """The reasons and warnings as one text for the response."""
        return "; ".join((*self.reasons, *self.warnings))[: limits.OTLP_MESSAGE_CHARS_MAX]


def _note(notes: list[str], note: str) -> None:
    if len(notes) < limits.OTLP_REASONS_MAX and note not in notes:
        notes.append(note)


def checked_span(trace_id: str, span_id: str, parent_id: str, build: Callable[[str, str, str | None], Span]) -> Span:
    """Return the span that `build` makes of checked ids. Raise `ValueError` for invalid ids.

    If the parent's id is invalid or the span's own, the span becomes a root.
    """
    if len(trace_id) != 32 or not trace_id.strip(_ZERO):
        raise ValueError(_wrong_id("traceId", 16, trace_id))
    if len(span_id) != 16 or not span_id.strip(_ZERO):
        raise ValueError(_wrong_id("spanId", 8, span_id))
    parent = parent_id if len(parent_id) == 16 and parent_id.strip(_ZERO) and parent_id != span_id else None
    return build(trace_id, span_id, parent)


def _wrong_id(name: str, size: int, value: str) -> str:
    if len(value) == 2 * size:
        return f"a span's {name} is all zeros; send the {size} bytes that identify it"
    length = f"{len(value) // 2} bytes" if len(value) % 2 == 0 else f"{len(value)} hex digits"
    return f"a span's {name} must have {size} bytes ({2 * size} hex digits); this one has {length}"


def within_bounds(start: int, end: int, arrived: int) -> tuple[int, int]:
    """Return a span's times within a record's range.

    A time that was not sent, or is after the year 2262, is replaced by the span's other time, or by the arrival.
    """
    start = start if 0 < start <= _TIME_MAX else 0
    end = end if 0 < end <= _TIME_MAX else 0
    if not start:
        start = end or arrived
    return start, max(end, start) if end else start


def bounded(pairs: Iterable[tuple[str, Any]]) -> tuple[dict[str, Any], int]:
    """Return at most `limits.OTLP_ATTRIBUTES_MAX` attributes, and how many were left out."""
    attributes: dict[str, Any] = {}
    dropped = 0
    for name, value in pairs:
        if len(attributes) < limits.OTLP_ATTRIBUTES_MAX or name in attributes:
            attributes[name[: limits.NAME_CHARS_MAX]] = value
        else:
            dropped += 1
    return attributes, dropped


def too_many(count: int) -> str:
    """Return the warning about a span with more attributes than are stored."""
    return f"a span has {count} attributes; the first {limits.OTLP_ATTRIBUTES_MAX} are stored"


def scope_of(name: str, version: str, attributes: dict[str, Any], resource: dict[str, Any]) -> Scope:
    """Return an instrumentation scope; all spans of a batch share it."""
    return Scope(name[: limits.NAME_CHARS_MAX], version[: limits.NAME_CHARS_MAX], attributes, resource)
