"""The call: a light OpenTelemetry span that becomes one record when it ends.

It implements the API's `Span`, so code that reads the current span finds it; no SDK is needed. A call ends once: the
first of `end`, `fail`, `cancel` and `abandon` wins. The record is on the spool when that method returns.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Unpack

import msgspec
from msgspec import Raw
from opentelemetry.context.context import Context
from opentelemetry.trace import SpanContext, Status, StatusCode, TraceFlags

from everycall import _guard, limits
from everycall._call import context as ids
from everycall._call import exceptions
from everycall._call.context import Scope, foreign_span
from everycall._call.context import clipped as _clipped
from everycall._call.fields import JSON_FIELDS, SETTERS, encodable, note_cut, set_json, tags_of
from everycall._call.interface import Call
from everycall._call.keywords import ATTRIBUTE_ADVICE, UNSET, UPDATE_KEYWORDS, UpdateFields, refuse_keyword
from everycall._call.recorder import Recorder
from everycall._capture import processors
from everycall._capture.serialize import capture_plain
from everycall._version import SDK
from everycall.errors import Loss
from everycall.record import ABSENT, Cut, Labels, error_without_content, omit
from everycall.semconv import ABANDONED, CANCELLED, CODE_LOCATION, ERROR
from everycall.settings import OMIT_ALL, OMIT_OUTPUTS, omitted_sides

__all__ = ["OwnedCall"]


_NO_OUTPUT = OMIT_OUTPUTS | OMIT_ALL
_encode = msgspec.json.Encoder().encode
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_clock, _monotonic = time.time_ns, time.perf_counter_ns


class OwnedCall(Call):
    """One unit of work being recorded, made by `start_call`. Its methods may be called from any thread and never raise.

    Attributes for reading: `trace_id` (as the user gave it), `trace_hex`, `inference_id`, `parent_id`, `name`, `kind`,
    `trace_name`, `end_user_identifier`, `session_id`, `omit` (bit set), `begun` (`time.perf_counter_ns()`), `ended`.
    """

    # What most calls never set stands here once, so that beginning a call sets little (the API's Span has no slots).
    ended = False
    above: OwnedCall | None = None
    parent_id: str | None = None
    trace_name: str | None = None
    end_user_identifier: str | None = None
    session_id: str | None = None
    inherited_metadata: dict[str, Any] | None = None
    inherited_tags: tuple[str, ...] = ()
    labelled = False  # whether one of these five may be set, for calls below
    _attributes: dict[str, Any] | None = None
    _events: list[dict[str, Any]] | None = None
    _context: SpanContext | None = None
    _declared = Labels()
    begun_in: Context | None = None  # OpenTelemetry's context there; known of a framework's calls, see `_context`
    around: OwnedCall | None = None  # the enclosing call in the code, if this call starts a separate trace
    _sampled_out = False  # not recorded for that reason alone: no flag covers its errors
    _withheld_errors: tuple[exceptions.Identity, ...] = ()

    def __init__(
        self, name: str, kind: str, node: Scope | OwnedCall | None, recorder: Recorder | None, scope: str
    ) -> None:
        self.name = name
        self.kind = kind
        self._recorder = recorder
        self._scope_name = scope
        self._draft: dict[str, Any] = {}
        self.omit: int = recorder.omit if recorder is not None else OMIT_ALL
        trace, self.span_id = ids.new_ids()
        self.trace_id: str = trace
        self.trace_hex: str = trace
        if type(node) is OwnedCall:  # most calls lie below another; nothing of a `Scope` is to be looked for
            self.above = node
            self.omit |= node.omit
            self.trace_id, self.trace_hex = node.trace_id, node.trace_hex
            self.parent_id = node.inference_id
            if node.labelled:
                self._inherit_labels(node)
        elif node is not None:
            self._inherit(node)
        elif (above := foreign_span()) is not None:
            self._nest_under(above)
        self.inference_id: str = f"{self.trace_hex}-{self.span_id}"
        self._started: int = _clock()
        self.begun: int = _monotonic()

    def _inherit(self, node: Scope | OwnedCall) -> None:
        above = node.call
        self.above = above
        if above is None:
            self.around = node.within  # a scope with a separate trace: errors still pass through the enclosing call
        self.omit |= node.omit
        self._inherit_labels(node)
        if node.trace_id is not None and node.trace_hex is not None:
            self.trace_id, self.trace_hex = node.trace_id, node.trace_hex
            if above is not None:
                self.parent_id = above.inference_id
            elif isinstance(node, Scope) and node.remote is not None:
                self.parent_id = f"{node.remote.trace_id:032x}-{node.remote.span_id:016x}"
        elif (foreign := foreign_span()) is not None:
            self._nest_under(foreign)

    def _inherit_labels(self, node: Scope | OwnedCall) -> None:
        self.labelled = True
        if node.trace_name is not None:
            self.trace_name = node.trace_name
        if node.end_user_identifier is not None:
            self.end_user_identifier = node.end_user_identifier
        if node.session_id is not None:
            self.session_id = node.session_id
        if node.inherited_metadata is not None:
            self.inherited_metadata = node.inherited_metadata
        if node.inherited_tags:
            self.inherited_tags = node.inherited_tags

    def _nest_under(self, foreign: SpanContext) -> None:
        """A root takes the trace of a foreign span around it, and names it as its parent."""
        self.trace_id = self.trace_hex = f"{foreign.trace_id:032x}"
        self.parent_id = f"{self.trace_hex}-{foreign.span_id:016x}"

    @property
    def call(self) -> OwnedCall:
        """This call: a node's nearest call in progress, as of a `Scope`."""
        return self

    @property
    def within(self) -> OwnedCall:
        """This call: the one in which a node was made, as of a `Scope`."""
        return self

    # --- OpenTelemetry's Span ---

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
        if not self._holds_withheld(exception):
            details["exception.message"] = exceptions.message(exception)
        self.add_event("exception", {**details, **(attributes or {})}, timestamp)

    def end(self, end_time: int | None = None) -> None:
        """End the call as a success (or as the error that `set_status` declared)."""
        elapsed = _monotonic() - self.begun
        if not self.ended:
            self._close(elapsed if end_time is None else max(end_time - self._started, 0))

    # --- everycall's own ---

    def update(self, **fields: Unpack[UpdateFields]) -> None:
        """Set fields of the record; described in `Call.update`."""
        if not fields.keys() <= UPDATE_KEYWORDS:
            refuse_keyword("update", fields, UPDATE_KEYWORDS, ATTRIBUTE_ADVICE)
        self.set_fields(**fields)

    def set_fields(self, **fields: Any) -> None:
        """Set fields as `update` does, for integrations: a name that is not a field's is kept as an attribute."""
        if self.ended or self.omit & OMIT_ALL:
            return
        try:
            for name, value in fields.items():
                if value is None or value is UNSET:
                    continue
                setter = SETTERS.get(name)
                if setter is not None:
                    setter(self._draft, self.omit, name, value)
                elif name == "name":
                    self.update_name(value)
                else:
                    self.set_attribute(name, value)
        except Exception as error:  # noqa: BLE001 - the guard
            _guard.report("Call.update", error)

    def first_token(self) -> None:
        """Note the time to the first token; only the first call counts."""
        if "time_to_first_token" not in self._draft and not self.ended:
            self._draft["time_to_first_token"] = (_monotonic() - self.begun) / 1e9

    def fail(self, error: BaseException | str) -> None:
        """End the call with an error. A cancellation and an abandoned generator have their own error types."""
        try:
            if isinstance(error, GeneratorExit):
                self.abandon()
                return
            if not self.ended:
                self._take_error(error)
        except Exception as failure:  # noqa: BLE001 - the guard
            _guard.report("Call.fail", failure)
        self.end()

    def cancel(self) -> None:
        """End the call as cancelled: status error, error_type `cancelled`."""
        if not self.ended:
            self._draft.update(status=ERROR, error=CANCELLED, error_type=CANCELLED)
        self.end()

    def abandon(self) -> None:
        """End the call as left by its consumer: status success, error_type `abandoned`, with the output so far."""
        if not self.ended:
            self._draft.setdefault("error_type", ABANDONED)
        self.end()

    @property
    def url(self) -> str:
        """The address of this call's trace on the endpoint's page."""
        from urllib.parse import quote

        base = self._recorder.settings.endpoint if self._recorder is not None else ""
        return f"{base}/traces/{quote(self.trace_id, safe='')}?record={quote(self.inference_id, safe='')}"

    def backdate(self, key: str) -> None:
        """Record what happened earlier and elsewhere, such as a result of a batch; called before anything is below.

        How long it took is not known. The id follows from the trace and `key`: recorded again, it is the same record.
        """
        self.span_id = hashlib.sha256(key.encode("utf-8", "backslashreplace")).hexdigest()[:16]
        self.inference_id = f"{self.trace_hex}-{self.span_id}"
        self._draft["latency"] = None

    def declare(self, metadata: Mapping[str, Any] | None, tags: Iterable[str]) -> None:
        """Set the labels given at the start: omit flags leave them, for they are not content. Called once."""
        joined = {**(self.inherited_metadata or {}), **(metadata or {})}
        labels = tags_of([*self.inherited_tags, *tags])
        if joined:
            set_json(self._draft, "metadata", joined)
        if labels:
            self._draft["tags"] = labels
        self._declared = Labels(self._draft.get("metadata", ABSENT), labels)

    # --- within ---

    def _withheld(self, what: str) -> bool:
        """Return whether an omit flag covers what is set while the call runs, and note that something was omitted."""
        if not self.omit:
            return False
        withheld = self._draft.setdefault("omitted", [])
        if what not in withheld:
            withheld.append(what)
        return True

    def capture(self, name: str, value: Any) -> None:
        """Set a JSON field; the caller has looked at the omit flags. Raises nothing for any value."""
        set_json(self._draft, name, value)

    def keep(self, name: str, value: Any, render: Callable[[Any], Any] | None = None) -> None:
        """Set one of the fields that hold any JSON, as `update` does. For integrations: `render(value)` makes plain
        what JSON does not have, and is asked only for a value that is not plain already.
        """
        if value is None or self.ended or self.omit & (JSON_FIELDS[name] | OMIT_ALL):
            return
        try:
            raw = capture_plain(value) if type(value) is dict else None
            if raw is not None:
                self._draft[name] = raw
            else:
                set_json(self._draft, name, value, render)
        except Exception as error:  # noqa: BLE001 - the guard
            _guard.report("Call.keep", error)

    def keep_own(self, name: str, value: Any) -> None:
        """As `keep`, for a value that the caller made of JSON's own types, that nobody else has, and that is bounded
        (`limits.CAPTURE_TEXT_MAX`): it is neither looked at nor encoded before the record is. None is not allowed.
        """
        if not self.ended and not self.omit & (JSON_FIELDS[name] | OMIT_ALL):
            self._draft[name] = value

    def returned(self, value: Any, render: Callable[[Any], Any] | None = None) -> None:
        """End the call with what a function returned; `render` is as in `keep`. Never raises."""
        elapsed = _monotonic() - self.begun
        if self.ended:
            return
        if not self.omit & _NO_OUTPUT:
            try:
                set_json(self._draft, "output", value, render)
            except Exception as error:  # noqa: BLE001 - the guard
                _guard.report("Call.returned", error)
        self._close(elapsed)

    def set_raw(self, name: str, raw: Raw) -> None:
        """Set a JSON field that is captured already; for streams, which capture piece by piece."""
        if not self.ended and not self.omit & JSON_FIELDS[name]:
            self._draft[name] = raw

    def note_cut(self, name: str, cut: Cut) -> None:
        """Say in the record that a field is not whole."""
        note_cut(self._draft, name, cut)

    def _take_error(self, error: BaseException | str) -> None:
        self._draft["status"] = ERROR
        if isinstance(error, str):
            text = _clipped(error, limits.ERROR_CHARS_MAX)
            self._draft.update(error=text, error_type=self._draft.get("error_type") or "error")
            return
        if type(error).__name__ == "CancelledError":
            self._draft.update(error=CANCELLED, error_type=CANCELLED)
            return
        name = exceptions.type_name(error)
        location = exceptions.location(error)
        attributes = {CODE_LOCATION: location} if location else {}
        if self.omit or self._holds_withheld(error):
            self._withhold(error)
            self._draft.update(error=error_without_content(name, location), error_type=name)
        else:
            message = exceptions.message(error)
            self._draft.update(error=f"{name}: {message}" if message else name, error_type=name)
            attributes["exception.stacktrace"] = exceptions.stacktrace(error)
        self._attributes = {**(self._attributes or {}), **attributes}

    def _withhold(self, error: BaseException) -> None:
        """Leave an error's text out, here and in the calls above, which it may pass through: it may repeat content.

        Errors are known again by identity, type and place: to keep one would keep its frames alive.
        """
        if self._sampled_out:
            return
        if not self.omit:
            self._draft["omitted"] = [*self._draft.get("omitted", ()), "error"]
        around = self.above or self.around
        if around is not None:
            around._withheld_errors = (
                *around._withheld_errors[1 - limits.ERRORS_WITHHELD_MAX :],
                exceptions.identity(error),
            )

    def _holds_withheld(self, error: BaseException) -> bool:
        """Return whether an error is, was raised from, or holds one whose text an omit flag of a call below covers."""
        return bool(self._withheld_errors) and exceptions.holds(error, self._withheld_errors)

    def _close(self, elapsed: int) -> None:
        """Make the record, pass it through the chain, append it. What goes wrong is a counted loss."""
        self.ended = True
        recorder = self._recorder
        if recorder is None or self.omit & OMIT_ALL:
            return
        try:
            if self._attributes is not None or self._events is not None:
                self._take_attributes()
            if self.omit:
                self._draft = omit(self._draft, omitted_sides(self.omit), labels=self._declared)
            fields = self._fields(elapsed, recorder.project_name)
            try:
                line = _encode(fields)
            except UnicodeEncodeError:
                line = _encode(encodable(fields))
            if recorder.mask is not None or len(line) > limits.FIELD_BYTES_MAX:
                line = processors.mask_and_limit(line, recorder.mask)
            recorder.append(line)
        except Exception as error:  # noqa: BLE001 - the guard
            _guard.report("Call.end", error)
            recorder.ledger.drop(Loss.CAPTURE_FAILED, was_spooled=False)
        finally:
            # Children may keep this call alive for long, so its references to the program's data are dropped.
            self._draft, self._attributes, self._events = {}, None, None

    def _fields(self, elapsed: int, project_name: str) -> dict[str, Any]:
        """Return the fields of the `Record` that are given, ready for the codec: a third cheaper than the class."""
        draft, started = self._draft, self._started
        fields = {
            "inference_id": self.inference_id,
            "trace_id": self.trace_id,
            "name": self.name,
            "kind": self.kind,
            "project_name": project_name,
            "latency": elapsed / 1e9,
            "start_time_unix_nano": started,
            "end_time_unix_nano": started + elapsed,
            "sdk": SDK,
            "scope": self._scope_name,
            **draft,
        }
        if self.parent_id is not None:
            fields["parent_id"] = self.parent_id
        if self.labelled:
            self._add_labels(fields)
        if "input_tokens" in draft and "output_tokens" in draft and "total_tokens" not in draft:
            fields["total_tokens"] = draft["input_tokens"] + draft["output_tokens"]
        return fields

    def _add_labels(self, fields: dict[str, Any]) -> None:
        if self.trace_name is not None:
            fields["trace_name"] = self.trace_name
        if self.end_user_identifier is not None:
            fields["end_user_identifier"] = self.end_user_identifier
        if self.session_id is not None:
            fields["session_id"] = self.session_id

    def _take_attributes(self) -> None:
        attributes = dict(self._attributes or {})
        if self._events:
            attributes["events"] = self._events
        set_json(self._draft, "attributes", attributes)
