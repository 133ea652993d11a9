"""The summary of a trace, updated record by record as the writer stores, changes and moves records.

Sums are integers (tokens, and dollars in units of 10^-12), so subtracting what was added leaves no rounding error.
Values that depend on order (first start, last end, first name) are kept with the start time they come from. The trace's
other records have to be read again only if the record that such a value came from changes (`TraceState.take`).
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from everycall import limits
from everycall._pricing.records import failed_without_usage
from everycall.record import Record
from everycall.semconv import ERROR, PRICED_KINDS
from everycall.server.store.values import TraceSummary

__all__ = ["Ordered", "TraceState", "decode_state", "encode_state"]

DOLLAR = 10**12
DOLLARS_MAX = 1e9
"""A record with a higher cost counts as this much in sums, so that sums stay within 64 bits."""


class First(msgspec.Struct, array_like=True):
    """The value of the earliest record that has one; of two that start together, the one that arrived first."""

    value: str | None = None
    start: int = 0

    def offer(self, value: str | None, start: int) -> None:
        if value is not None and (self.value is None or start < self.start):
            self.value = value
            self.start = start

    def is_unknown(self, old: str | None, start: int, new: str | None, after: int) -> bool:
        """Return whether the first value is unknown after a record changed from (old, start) to (new, after)."""
        if (old, start) == (new, after):
            return False
        return (self.value is not None and (old, start) == (self.value, self.start)) or after == self.start


class Sum(msgspec.Struct, array_like=True):
    """A sum, and the number of values in it. The sum of no values is unknown, not 0."""

    total: int = 0
    count: int = 0

    def shift(self, value: int | None, sign: int) -> None:
        if value is not None:
            self.total += sign * value
            self.count += sign

    def value(self) -> int | None:
        return self.total if self.count else None


class Root(msgspec.Struct, array_like=True):
    """The root record, which names the trace. `inference_id` is None if every record has a stored parent (a cycle)."""

    inference_id: str | None = None
    parent_id: str | None = None
    start: int = 0
    name: str = ""


class Ordered(msgspec.Struct, array_like=True):
    """The fields of a record that `TraceState.order` needs."""

    start: int
    finish: int
    kind: str
    model: str | None
    trace_name: str | None
    end_user: str | None
    session: str | None


class TraceState(msgspec.Struct, array_like=True):
    """The stored state of a trace. It is stored as an array: append new fields with a default, and never move one."""

    trace_id: str
    records: int = 0
    leaves: int = 0
    errors: int = 0
    cache_hits: int = 0
    uncounted: int = 0
    start: int = 0
    end: int = 0
    root: Root = msgspec.field(default_factory=Root)
    input_tokens: Sum = msgspec.field(default_factory=Sum)
    output_tokens: Sum = msgspec.field(default_factory=Sum)
    total_tokens: Sum = msgspec.field(default_factory=Sum)
    cost: Sum = msgspec.field(default_factory=Sum)
    saved_cost: Sum = msgspec.field(default_factory=Sum)
    trace_name: First = msgspec.field(default_factory=First)
    end_user: First = msgspec.field(default_factory=First)
    session: First = msgspec.field(default_factory=First)
    tags: dict[str, int] = {}
    models: dict[str, list[int]] = {}  # model -> [leaves, first start]
    elsewhere: int = 0  # model calls whose response is counted in another record
    failed_without_usage: int = 0  # leaves that failed, with neither tokens nor a cost

    @property
    def active(self) -> int:
        """The latest time of any record, by which lists are sorted."""
        return max(self.start, self.end)

    def add(self, record: Record) -> None:
        """Add a record."""
        self._shift(record, 1)
        start = record.start_time_unix_nano
        if start and (start < self.start or not self.start):
            self.start = start
        if record.end_time_unix_nano > self.end:
            self.end = record.end_time_unix_nano
        if start > self.end:
            self.end = start
        self.trace_name.offer(record.trace_name, start)
        self.end_user.offer(record.end_user_identifier, start)
        self.session.offer(record.session_id, start)
        for tag in dict.fromkeys(record.tags) if len(record.tags) > 1 else record.tags:
            if tag in self.tags:
                self.tags[tag] += 1
            elif len(self.tags) < limits.TAGS_MAX:
                self.tags[tag] = 1
        if record.model is not None and record.kind in PRICED_KINDS:
            self._offer_model(record.model, start, 1)

    def take(self, old: Record, new: Record | None) -> bool:
        """Subtract a record that becomes `new`, or leaves the trace (None). Call `add(new)` afterwards.

        Return whether `order` has to be called, because the record was the first or last in something and may not be
        any more.
        """
        self._shift(old, -1)
        for tag in set(old.tags):
            if tag in self.tags:
                self.tags[tag] -= 1
                if not self.tags[tag]:
                    del self.tags[tag]
        start = old.start_time_unix_nano
        last = max(start, old.end_time_unix_nano)
        unordered = start == self.start and (new is None or not 0 < new.start_time_unix_nano <= start)
        unordered |= last == self.end and (new is None or max(new.start_time_unix_nano, new.end_time_unix_nano) < last)
        after = 0 if new is None else new.start_time_unix_nano
        for first, field in (
            (self.trace_name, "trace_name"),
            (self.end_user, "end_user_identifier"),
            (self.session, "session_id"),
        ):
            unordered |= first.is_unknown(
                getattr(old, field), start, None if new is None else getattr(new, field), after
            )
        if old.model is not None and old.kind in PRICED_KINDS:
            unordered |= new is None or (old.model, old.kind, start) != (new.model, new.kind, after)
            if old.model in self.models:
                self.models[old.model][0] -= 1
        return unordered

    def order(self, records: Iterable[Ordered]) -> None:
        """Compute the values that depend on order again, from all records of the trace by start, then by arrival."""
        self.start = self.end = 0
        self.trace_name, self.end_user, self.session = First(), First(), First()
        self.models = {}
        for record in records:
            if record.start and not self.start:
                self.start = record.start
            self.end = max(self.end, record.start, record.finish)
            self.trace_name.offer(record.trace_name, record.start)
            self.end_user.offer(record.end_user, record.start)
            self.session.offer(record.session, record.start)
            if record.model is not None and record.kind in PRICED_KINDS:
                self._offer_model(record.model, record.start, 1)

    def _offer_model(self, model: str, start: int, count: int) -> None:
        entry = self.models.get(model)
        if entry is not None:
            entry[0] += count
            entry[1] = min(entry[1], start)
        elif len(self.models) < limits.TRACE_MODELS_MAX:
            self.models[model] = [count, start]

    def _shift(self, record: Record, sign: int) -> None:
        self.records += sign
        if record.status == ERROR:
            self.errors += sign
        if record.cache_hit:
            self.cache_hits += sign
        if record.kind not in PRICED_KINDS:
            return
        if record.counted_in is not None:
            self.elsewhere += sign
            return
        self.leaves += sign
        if failed_without_usage(record):
            self.failed_without_usage += sign
        total = _total_tokens(record)
        if total is None:
            self.uncounted += sign
        self.input_tokens.shift(record.input_tokens, sign)
        self.output_tokens.shift(record.output_tokens, sign)
        self.total_tokens.shift(total, sign)
        self.cost.shift(_units(record.cost), sign)
        self.saved_cost.shift(_units(record.saved_cost), sign)

    def summary(self, project: str) -> TraceSummary:
        """Return the summary as lists and pages show it."""
        cost, saved = self.cost.value(), self.saved_cost.value()
        models = {model: entry for model, entry in self.models.items() if entry[0] > 0}
        return TraceSummary(
            trace_id=self.trace_id,
            trace_name=self.trace_name.value,
            name=self.root.name,
            project_name=project,
            end_user_identifier=self.end_user.value,
            session_id=self.session.value,
            tags=tuple(self.tags),
            start_time_unix_nano=self.start,
            end_time_unix_nano=self.end,
            duration=(self.end - self.start) / 1e9 if self.start else 0.0,
            records=self.records,
            leaves=self.leaves,
            errors=self.errors,
            cache_hits=self.cache_hits,
            input_tokens=self.input_tokens.value(),
            output_tokens=self.output_tokens.value(),
            total_tokens=self.total_tokens.value(),
            uncounted=self.uncounted,
            cost=None if cost is None else cost / DOLLAR,
            unpriced=self.leaves - self.cost.count - self.failed_without_usage,
            counted_elsewhere=self.elsewhere,
            saved_cost=None if saved is None else saved / DOLLAR,
            model=min(models, key=lambda model: models[model][1]) if models else None,
            models=len(models),
        )


def _total_tokens(record: Record) -> int | None:
    """Return the record's total, or the sum of its input and output tokens if both are known."""
    if record.total_tokens is not None:
        return record.total_tokens
    if record.input_tokens is None or record.output_tokens is None:
        return None
    return record.input_tokens + record.output_tokens


def _units(dollars: float | None) -> int | None:
    return None if dollars is None else round(min(dollars, DOLLARS_MAX) * DOLLAR)


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(TraceState)


def encode_state(state: TraceState) -> bytes:
    """Return the state as it is stored."""
    return _encoder.encode(state)


def decode_state(body: bytes) -> TraceState:
    """Return a state from its stored form."""
    return _decoder.decode(body)
