"""The call: a light OpenTelemetry span that becomes one record when it ends.

It implements the API's `Span` (see `span`), so it can be OpenTelemetry's current span; no SDK is needed. A call ends
once: the first of `end`, `fail`, `cancel` and `abandon` wins. The record is on the spool when that method returns.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Unpack

import msgspec
from msgspec import Raw
from opentelemetry.context.context import Context
from opentelemetry.trace import SpanContext

from everycall import _guard, limits
from everycall._call import context as ids
from everycall._call.context import Scope, foreign_span
from everycall._call.errors import set_error
from everycall._call.fields import JSON_FIELDS, SETTERS, encodable, note_cut, set_json, tags_of
from everycall._call.keywords import ATTRIBUTE_ADVICE, UNSET, UPDATE_KEYWORDS, UpdateFields, refuse_keyword
from everycall._call.recorder import Recorder
from everycall._call.span import CallSpan
from everycall._capture import processors
from everycall._capture.serialize import capture_plain
from everycall._version import SDK
from everycall.errors import Loss
from everycall.record import ABSENT, Cut, Labels, omit
from everycall.semconv import ABANDONED, CANCELLED, ERROR
from everycall.settings import OMIT_ALL, OMIT_OUTPUTS, omitted_sides

__all__ = ["OwnedCall"]


_NO_OUTPUT = OMIT_OUTPUTS | OMIT_ALL
_encode = msgspec.json.Encoder().encode
_clock, _monotonic = time.time_ns, time.perf_counter_ns


class OwnedCall(CallSpan):
    """One unit of work being recorded, made by `start_call`. Its methods may be called from any thread and never raise.

    Attributes for reading: `trace_id` (as the user gave it), `trace_hex`, `inference_id`, `parent_id`, `name`, `kind`,
    `trace_name`, `end_user_identifier`, `session_id`, `omit` (bit set), `begun` (`time.perf_counter_ns()`), `ended`.
    """

    # Most calls never set these, so the class has the defaults, and beginning a call sets little.
    above: OwnedCall | None = None
    parent_id: str | None = None
    trace_name: str | None = None
    end_user_identifier: str | None = None
    session_id: str | None = None
    inherited_metadata: dict[str, Any] | None = None
    inherited_tags: tuple[str, ...] = ()
    labelled = False  # whether one of these five may be set, for calls below
    _declared = Labels()
    begun_in: Context | None = None  # OpenTelemetry's context there; known of a framework's calls, see `_context`
    around: OwnedCall | None = None  # the enclosing call in the code, if this call starts a separate trace
    _sampled_out = False  # not recorded for that reason alone: no flag covers its errors

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
        if type(node) is OwnedCall:  # most calls are below another: no need to look for a `Scope`
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
                set_error(self, error)
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

    # --- for integrations and the decorator ---

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
