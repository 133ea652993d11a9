"""What an OTLP request holds, in either encoding: spans and log records, and those that were rejected, by reason."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from everycall import limits
from everycall.dialects import LogEvent, Scope, Span

__all__ = ["JSON", "PROTOBUF", "Batch", "Undecodable", "checked_span", "within_bounds"]

PROTOBUF: Final = "application/x-protobuf"
JSON: Final = "application/json"
_TIME_MAX: Final = 2**63 - 1
_ZERO: Final = "0"


class Undecodable(Exception):
    """A body that is no OTLP request in its encoding; the message says where it ends to make sense."""


@dataclass(slots=True)
class Batch:
    """The spans or log records of one request. `rejected` counts those left out; `reasons` has the first few."""

    spans: list[Span] = field(default_factory=list)
    logs: list[LogEvent] = field(default_factory=list)
    points: int = 0
    rejected: int = 0
    reasons: list[str] = field(default_factory=list)

    def reject(self, reason: str) -> None:
        """Count one that cannot be read or stored."""
        self.rejected += 1
        if len(self.reasons) < limits.OTLP_REASONS_MAX and reason not in self.reasons:
            self.reasons.append(reason)

    @property
    def message(self) -> str:
        """The reasons as one text for the answer."""
        return "; ".join(self.reasons)[: limits.OTLP_MESSAGE_CHARS_MAX]


def checked_span(trace_id: str, span_id: str, parent_id: str, build: Callable[[str, str, str | None], Span]) -> Span:
    """Return the span that `build` makes of checked ids. Raises `ValueError` for ids that name no span.

    A parent's id of the wrong length names nothing: the span becomes a root.
    """
    if len(trace_id) != 32 or not trace_id.strip(_ZERO):
        raise ValueError(f"a span's traceId has 16 bytes and is not zero; this one has {len(trace_id) // 2} bytes")
    if len(span_id) != 16 or not span_id.strip(_ZERO):
        raise ValueError(f"a span's spanId has 8 bytes and is not zero; this one has {len(span_id) // 2} bytes")
    parent = parent_id if len(parent_id) == 16 and parent_id.strip(_ZERO) and parent_id != span_id else None
    return build(trace_id, span_id, parent)


def within_bounds(start: int, end: int, arrived: int) -> tuple[int, int]:
    """Return a span's times within a record's range.

    A time that was not sent, or lies beyond the year 2262, is taken from the other one, else from the arrival.
    """
    start = start if 0 < start <= _TIME_MAX else 0
    end = end if 0 < end <= _TIME_MAX else 0
    if not start:
        start = end or arrived
    return start, max(end, start) if end else start


def bounded(pairs: Iterable[tuple[str, Any]]) -> tuple[dict[str, Any], int]:
    """Return attributes up to `limits.OTLP_ATTRIBUTES_MAX` of them, and how many were left out."""
    kept: dict[str, Any] = {}
    dropped = 0
    for name, value in pairs:
        if len(kept) < limits.OTLP_ATTRIBUTES_MAX or name in kept:
            kept[name[: limits.NAME_CHARS_MAX]] = value
        else:
            dropped += 1
    return kept, dropped


def scope_of(name: str, version: str, attributes: dict[str, Any], resource: dict[str, Any]) -> Scope:
    """Return an instrumentation scope; one for all the spans of a batch."""
    return Scope(name[: limits.NAME_CHARS_MAX], version[: limits.NAME_CHARS_MAX], attributes, resource)
