"""Spans, span events and log records as plain values. Every dialect reads these, whatever the transport was.

The server makes them from OTLP requests; an exporter in a user's process can make them from the SDK's spans.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

__all__ = ["STATUS_ERROR", "Event", "LogEvent", "Scope", "Span"]

STATUS_ERROR: Final = 2
"""The code of a failed span's status, as in OTLP."""


@dataclass(frozen=True, slots=True)
class Event:
    """An event of a span. Times are UTC nanoseconds since the epoch."""

    name: str
    time_unix_nano: int = 0
    attributes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Scope:
    """The instrumentation scope that made a span or log record, with the attributes of its resource."""

    name: str = ""
    version: str = ""
    attributes: dict[str, Any] = field(default_factory=dict)
    resource: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Span:
    """One finished span.

    `trace_id` is 32 and `span_id` 16 lower-case hex digits; `parent_id` is None for a root. Attribute values are JSON
    values (bytes as base64 text). `start` and `end` are UTC nanoseconds since the epoch, 0 where they were not sent.
    """

    trace_id: str
    span_id: str
    parent_id: str | None
    name: str
    scope: Scope
    start: int = 0
    end: int = 0
    attributes: dict[str, Any] = field(default_factory=dict)
    events: tuple[Event, ...] = ()
    links: tuple[dict[str, Any], ...] = ()
    status_code: int = 0
    status_message: str = ""
    dropped_attributes: int = 0


@dataclass(frozen=True, slots=True)
class LogEvent:
    """One log record. `trace_id` and `span_id` are None where it names no span."""

    name: str
    scope: Scope
    trace_id: str | None = None
    span_id: str | None = None
    time_unix_nano: int = 0
    body: Any = None
    attributes: dict[str, Any] = field(default_factory=dict)
