"""Any other span: a step with its name, times and attributes, such as a request to a database. Never a completion."""

from __future__ import annotations

from typing import Final

from everycall import semconv
from everycall.dialects.reading import Reading, Source
from everycall.dialects.values import first, strings

__all__ = ["complete", "read", "read_own"]

_OWN: Final = "everycall."


def read(source: Source) -> Reading:
    """Read what any span may have: the user, the session and the error type."""
    reading = Reading()
    complete(reading, source)
    return reading


def complete(reading: Reading, source: Source) -> None:
    """Fill the fields that a dialect's reader left open with what any span may have."""
    reading.dialect = reading.dialect or "opentelemetry"
    if reading.user_id is None and "user_id" not in reading.unknown:
        reading.user_id = source.text("user.id", "enduser.id", "enduser.pseudo.id")
    if reading.session_id is None and "session_id" not in reading.unknown:
        reading.session_id = source.text("session.id")
    if reading.error_type is None and "error_type" not in reading.unknown:
        reading.error_type = source.text("error.type")


def read_own(source: Source) -> Reading | None:
    """Read everycall's own attributes, which any span may have. They take precedence over every dialect."""
    if not source.has(_OWN):
        return None
    reading = Reading()
    kind = source.text("everycall.kind")
    reading.kind = kind if kind in semconv.KINDS else None
    reading.name = source.text("everycall.name")
    reading.trace_name = source.text("everycall.trace.name", "everycall.trace_name")
    reading.session_id = source.text("everycall.session_id", "everycall.session.id")
    reading.user_id = source.text("everycall.end_user_identifier", "everycall.user.id")
    reading.tags = strings(source.value("everycall.tags")) or None
    reading.target = source.value("everycall.target")
    reading.cost = first(source.number("everycall.cost.total"), source.number("everycall.cost"))
    reading.deployment = source.text("everycall.deployment.id", "everycall.deployment_id")
    metadata = source.below("everycall.metadata.")
    reading.metadata = metadata or None
    return reading
