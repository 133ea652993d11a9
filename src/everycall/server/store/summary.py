"""A trace's summary, kept up to date record by record: what the writer adds to and takes from.

Sums are integers (tokens, and dollars in units of 10^-12), so that taking away what was added leaves no trace of it.
What a later record can only lower or raise (first start, last end, first name) is kept with its start; only taking
such a winner away asks for a look at the trace's other records (`stale`).
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from everycall import limits
from everycall.record import Record
from everycall.semconv import ERROR, PRICED_KINDS
from everycall.server.store.values import TraceSummary

__all__ = ["Ordered", "TraceState", "decode_state", "encode_state"]

DOLLAR = 10**12
DOLLARS_MAX = 1e9
"""A record that claims to have cost more counts as this much in sums."""


class First(msgspec.Struct, array_like=True):
    """The value of the earliest record that gives one; of two that start together, the first to arrive."""

    value: str | None = None
    start: int = 0

    def offer(self, value: str | None, start: int) -> None:
        if value is not None and (self.value is None or start < self.start):
            self.value = value
            self.start = start

    def unsettled(self, old: str | None, start: int, new: str | None, after: int) -> bool:
        """Return whether a record's change from (old, start) to (new, after) leaves it open which value is first."""
        if (old, start) == (new, after):
            return False
        return (self.value is not None and (old, start) == (self.value, self.start)) or after == self.start


class Sum(msgspec.Struct, array_like=True):
    """A sum, and of how many: of none, the sum is unknown."""

    total: int = 0
    count: int = 0

    def shift(self, value: int | None, sign: int) -> None:
        if value is not None:
            self.total += sign * value
            self.count += sign

    def known(self) -> int | None:
        return self.total if self.count else None


class Root(msgspec.Struct, array_like=True):
    """The record that names the trace. `inference_id` is None where every record has a stored parent (a ring)."""

    inference_id: str | None = None
    parent_id: str | None = None
    start: int = 0
    name: str = ""


class Ordered(msgspec.Struct, array_like=True):
    """What of a record the ordered parts of a summary need (`TraceState.order`)."""

    start: int
    finish: int
    kind: str
    model: str | None
    trace_name: str | None
    end_user: str | None
    session: str | None


class TraceState(msgspec.Struct, array_like=True):
    """All that is kept of a trace. Fields may be appended, with a default; never moved: it is stored as an array."""

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
    elsewhere: int = 0  # inference calls that are counted in another record of the same answer

    @property
    def active(self) -> int:
        """The last time known of any record, by which lists are sorted."""
        return max(self.start, self.end)

    def add(self, record: Record) -> None:
        """Count a record in."""
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
        """Count a record out, to be followed by `add(new)`; None when it leaves the trace.

        Returns whether `order` must be called because the record was first or last in something and no longer is.
        """
        self._shift(old, -1)
        for tag in set(old.tags):
            if tag in self.tags:
                self.tags[tag] -= 1
                if not self.tags[tag]:
                    del self.tags[tag]
        start = old.start_time_unix_nano
        last = max(start, old.end_time_unix_nano)
        stale = start == self.start and (new is None or not 0 < new.start_time_unix_nano <= start)
        stale |= last == self.end and (new is None or max(new.start_time_unix_nano, new.end_time_unix_nano) < last)
        after = 0 if new is None else new.start_time_unix_nano
        for first, field in (
            (self.trace_name, "trace_name"),
            (self.end_user, "end_user_identifier"),
            (self.session, "session_id"),
        ):
            stale |= first.unsettled(getattr(old, field), start, None if new is None else getattr(new, field), after)
        if old.model is not None and old.kind in PRICED_KINDS:
            stale |= new is None or (old.model, old.kind, start) != (new.model, new.kind, after)
            if old.model in self.models:
                self.models[old.model][0] -= 1
        return stale

    def order(self, records: Iterable[Ordered]) -> None:
        """Find the ordered parts anew, from all records of the trace by start, then arrival."""
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
        known = self.models.get(model)
        if known is not None:
            known[0] += count
            known[1] = min(known[1], start)
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
        total = _total_tokens(record)
        if total is None:
            self.uncounted += sign
        self.input_tokens.shift(record.input_tokens, sign)
        self.output_tokens.shift(record.output_tokens, sign)
        self.total_tokens.shift(total, sign)
        self.cost.shift(_units(record.cost), sign)
        self.saved_cost.shift(_units(record.saved_cost), sign)

    def summary(self, project: str) -> TraceSummary:
        """Return the row that lists and pages show."""
        cost, saved = self.cost.known(), self.saved_cost.known()
        models = {model: seen for model, seen in self.models.items() if seen[0] > 0}
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
            input_tokens=self.input_tokens.known(),
            output_tokens=self.output_tokens.known(),
            total_tokens=self.total_tokens.known(),
            uncounted=self.uncounted,
            cost=None if cost is None else cost / DOLLAR,
            unpriced=self.leaves - self.cost.count,
            counted_elsewhere=self.elsewhere,
            saved_cost=None if saved is None else saved / DOLLAR,
            model=min(models, key=lambda model: models[model][1]) if models else None,
            models=len(models),
        )


def _total_tokens(record: Record) -> int | None:
    """What the record says, else the sum of both sides where both are known."""
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
    """Read a stored state."""
    return _decoder.decode(body)
