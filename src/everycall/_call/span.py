"""A call's side as an OpenTelemetry span: the methods that other instrumentation calls on the current span.

`call` derives `OwnedCall` from it. What is set here goes to the record's attributes, events, name and status.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from opentelemetry.trace import SpanContext, Status, StatusCode, TraceFlags

from everycall import limits
from everycall._call import exceptions
from everycall._call.context import clipped as _clipped
from everycall._call.interface import Call
from everycall.semconv import ERROR
from everycall.settings import OMIT_ALL

__all__ = ["CallSpan"]

_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_clock = time.time_ns


class CallSpan(Call):
    """A call as OpenTelemetry's `Span`. Its methods may be called from any thread and never raise."""

    # Set by `OwnedCall` for each call.
    trace_hex: str
    span_id: str
    omit: int
    _draft: dict[str, Any]

    # Most calls never set these, so the class has the defaults.
    ended = False
    _attributes: dict[str, Any] | None = None
    _events: list[dict[str, Any]] | None = None
    _context: SpanContext | None = None
    _withheld_errors: tuple[exceptions.Identity, ...] = ()

    def get_span_context(self) -> SpanContext:
        """Return the ids, for children of this call and for propagation."""
        if self._context is None:
            self._context = SpanContext(int(self.trace_hex, 16), int(self.span_id, 16), False, _SAMPLED)
        return self._context

    def is_recording(self) -> bool:
        """True until the call has ended, unless `log_omit` covers it."""
        return not self.ended and not self.omit & OMIT_ALL

    def set_attribute(self, key: str, value: Any) -> None:
        """Keep an attribute for the record; the last value of a key wins."""
        if self.ended or self._withheld("attributes"):
            return
        if self._attributes is None:
            self._attributes = {}
        if key in self._attributes or len(self._attributes) < limits.ATTRIBUTES_MAX:
            self._attributes[key] = value

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Keep several attributes."""
        for key, value in attributes.items():
            self.set_attribute(key, value)

    def add_event(self, name: str, attributes: Mapping[str, Any] | None = None, timestamp: int | None = None) -> None:
        """Keep an event, in `attributes.events` of the record; at most `limits.EVENTS_MAX`."""
        if self.ended or self._withheld("attributes"):
            return
        if self._events is None:
            self._events = []
        if len(self._events) < limits.EVENTS_MAX:
            event: dict[str, Any] = {"name": name, "time_unix_nano": timestamp or _clock()}
            if attributes:
                event["attributes"] = dict(attributes)
            self._events.append(event)

    def add_link(self, context: SpanContext, attributes: Mapping[str, Any] | None = None) -> None:
        """Keep a link as an event named `link`."""
        ids = {"trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}"}
        self.add_event("link", {**ids, **(attributes or {})})

    def update_name(self, name: str) -> None:
        """Rename the call; not when an omit flag covers it, for a later name may be made from content."""
        if not self.ended and not self._withheld("name"):
            self.name = _clipped(name, limits.NAME_CHARS_MAX)

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        """Take an ERROR status as the record's; the call goes on."""
        code = status.status_code if isinstance(status, Status) else status
        if self.ended or code is not StatusCode.ERROR:
            return
        text = status.description if isinstance(status, Status) else description
        self._draft["status"] = ERROR
        self._draft.setdefault("error", _clipped(text or "error", limits.ERROR_CHARS_MAX))

    def record_exception(
        self,
        exception: BaseException,
        attributes: Mapping[str, Any] | None = None,
        timestamp: int | None = None,
        escaped: bool = False,  # noqa: ARG002 - of the API; says nothing that `fail` does not
    ) -> None:
        """Record a handled exception as an event; the call's status does not change."""
        if self.ended or self._withheld("attributes"):
            return
        details = {"exception.type": exceptions.type_name(exception)}
        if not exceptions.holds(exception, self._withheld_errors):
            details["exception.message"] = exceptions.message(exception)
        self.add_event("exception", {**details, **(attributes or {})}, timestamp)

    def _withheld(self, what: str) -> bool:
        """Return whether an omit flag covers what is set while the call runs, and note that something was omitted."""
        if not self.omit:
            return False
        withheld = self._draft.setdefault("omitted", [])
        if what not in withheld:
            withheld.append(what)
        return True
