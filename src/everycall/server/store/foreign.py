"""Relations between records of foreign spans: inheritance, omission, duplicates and halves of one call.

The spans of a trace arrive in any order and in several requests. `ingest` calls `Foreign.settle` in the transaction
that stores a batch, first with all new and changed records, then with the stored records below them, page by page.
`settle` changes these records and the stored ones that they belong to. Each look-up uses an index, so the cost of a
record does not depend on the length of its trace.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from everycall import limits
from everycall.dialects.join import join, join_halves
from everycall.dialects.labels import labels_of_parent
from everycall.dialects.marks import ANSWER, HALF, OMIT, SPAN_NAME
from everycall.record import ABSENT, Record, omit_from, to_json, to_raw
from everycall.semconv import PRICED_KINDS
from everycall.server.store.rows import Row, keeps_attribute, relabel, rewrite
from everycall.server.store.stored import StoredRow

__all__ = ["Foreign", "Settled", "fill_counted", "is_foreign"]


_OMIT: Final = OMIT.encode()
_HALF: Final = HALF.encode()


@dataclass(slots=True)
class Settled:
    """What to write: new rows by id, changed stored rows by id, and stored rows to delete.

    With `scrub`, content that was stored is deleted, and its bytes must be removed from the database's files too.
    """

    fresh: dict[str, Row]
    changed: dict[str, StoredRow]
    gone: dict[str, StoredRow] = field(default_factory=dict)
    scrub: bool = False

    def get(self, key: str | None) -> Row | None:
        """Return the row with an id as it will be written, or None."""
        if key is None:
            return None
        row = self.fresh.get(key)
        if row is not None:
            return row
        stored = self.changed.get(key)
        return None if stored is None else stored.after

    def put(self, row: Row) -> None:
        """Replace the row with the same id."""
        key = row.record.inference_id
        if key in self.fresh:
            self.fresh[key] = row
        else:
            self.changed[key].after = row

    def drop(self, key: str) -> None:
        """Remove a record: a new one is not written, a stored one is deleted."""
        if self.fresh.pop(key, None) is None:
            stored = self.changed.pop(key, None)
            if stored is not None:
                self.gone[key] = stored


def is_foreign(row: Row) -> bool:
    """Return whether a record was made from another instrumentation's span."""
    return row.dialect is not None


def fill_counted(members: Mapping[str, Row], counted: Mapping[str, str]) -> dict[str, Row]:
    """Return the rows whose figures count, filled with what only the other records of the same answer have."""
    filled: dict[str, Row] = {}
    for outer, inner in counted.items():
        one, other = filled.get(inner) or members.get(inner), members.get(outer)
        if one is None or other is None or not (is_foreign(one) or is_foreign(other)):
            continue
        source = msgspec.structs.replace(other.record, omitted=[], attributes=ABSENT, metadata=ABSENT, tags=[])
        whole = join(one.record, source)
        if whole.error is not None and whole.error == whole.error_type and source.error is not None:
            whole = msgspec.structs.replace(whole, error=source.error, error_type=source.error_type)
        if whole is not one.record:
            filled[inner] = _same(one, _omitted(whole, set(one.record.omitted)))
    return filled


class Foreign:
    """Applies the relations between foreign records, on the writer's connection."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        load: Callable[[int, Sequence[str]], dict[str, StoredRow]],
    ) -> None:
        self._connection = connection
        self._load = load

    def settle(
        self, project: int, fresh: Sequence[Row], altered: Mapping[str, StoredRow], *, halves: bool = True
    ) -> Settled:
        """Return what to write for a batch: `fresh` rows, `altered` stored rows, and the stored rows they change.

        It does not include the stored records below them. The caller loads those afterwards and settles them too,
        without `halves`, which are joined when they arrive.
        """
        settled = Settled({row.record.inference_id: row for row in fresh}, dict(altered))
        foreign = [key for key in (*settled.fresh, *settled.changed) if (row := settled.get(key)) and is_foreign(row)]
        if not foreign:
            return settled
        if halves:
            self._join_halves(project, settled, foreign)
        self._bring_parents(project, settled, foreign)
        self._omit(project, settled)
        self._fold(settled)
        return settled

    def _bring(self, settled: Settled, stored: Mapping[str, StoredRow]) -> list[str]:
        """Add stored records to those that may be changed. Return the ids of those added."""
        new = [key for key in stored if settled.get(key) is None and key not in settled.gone]
        settled.changed.update((key, stored[key]) for key in new)
        return new

    def _bring_parents(self, project: int, settled: Settled, foreign: Sequence[str]) -> None:
        """Load stored parents, and let the records of this batch inherit their labels."""
        rows = [row for key in foreign if (row := settled.get(key)) is not None]
        parents = {row.record.parent_id for row in rows} - {None}
        missing = [key for key in parents if key is not None and settled.get(key) is None]
        self._bring(settled, self._load(project, missing))
        self._inherit(settled, _from_the_top(settled, [row.record.inference_id for row in rows]))

    def _inherit(self, settled: Settled, keys: Iterable[str]) -> set[str]:
        """Give each record its parent's labels that it lacks. Return the ids of the records that changed."""
        changed = set()
        for key in keys:
            row = settled.get(key)
            parent = settled.get(row.record.parent_id) if row is not None else None
            if row is None or parent is None or not is_foreign(row):
                continue
            record, above = row.record, parent.record
            labels = labels_of_parent(record, above)
            omit = _flags(above) - _flags(record)
            if omit:
                attributes = _with(record, OMIT, sorted(_flags(record) | omit))
                settled.put(rewrite(row, **labels, attributes=attributes))
            elif labels:
                settled.put(relabel(row, labels))
            if labels or omit:
                changed.add(key)
        return changed

    def _omit(self, project: int, settled: Settled) -> None:
        """Remove the content that flags of a span or its parents cover.

        A record that a flag omits whole leaves a mark, for records below it that arrive later.
        """
        keys = _from_the_top(settled, [*settled.fresh, *settled.changed])
        parents = {row.record.parent_id for key in keys if (row := settled.get(key)) is not None}
        dropped = self._marks(project, parents.union(keys))
        for key in keys:
            row = settled.get(key)
            if row is None or not is_foreign(row):
                continue
            above = dropped.get(row.record.parent_id or "", set())
            flags = _flags(row.record) | above | dropped.get(key, set())
            if not flags:
                continue
            was_stored = key in settled.changed or bool(settled.gone)
            if "all" in flags:
                dropped[key] = flags
                self._mark(project, key, flags)
                settled.drop(key)
                settled.scrub |= was_stored
                continue
            record = _omitted(row.record, flags)
            if record != row.record:
                settled.put(_same(row, record))
                settled.scrub |= was_stored

    def _marks(self, project: int, keys: Iterable[str | None]) -> dict[str, set[str]]:
        """Return the flags of the given spans that were omitted whole."""
        rows = self._connection.execute(
            "SELECT j.value, s.flags FROM json_each(?) j CROSS JOIN span_joins s"
            " ON s.project = ? AND s.key = 'omit ' || j.value WHERE s.flags IS NOT NULL",
            (msgspec.json.encode([key for key in keys if key is not None]).decode(), project),
        )
        return {key: set(flags.split(",")) for key, flags in rows}

    def _mark(self, project: int, key: str, flags: set[str]) -> None:
        self._connection.execute(
            "INSERT OR REPLACE INTO span_joins (project, key, inference_id, at, stored, is_answer, flags)"
            " VALUES (?, ?, ?, 0, ?, 0, ?)",
            (project, f"omit {key}", key, time.time_ns(), ",".join(sorted(flags))),
        )

    def _join_halves(self, project: int, settled: Settled, foreign: Sequence[str]) -> None:
        """Join the two spans of one call, and log records without a span to their span."""
        for key in foreign:
            row = settled.get(key)
            half = _half(row.record) if row is not None else None
            if row is None or half is None:
                continue
            other_id = self._other_half(project, key, half)
            self._connection.execute(
                "INSERT OR REPLACE INTO span_joins (project, key, inference_id, at, stored, is_answer, joined)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (project, half["key"], key, half["at"], time.time_ns(), half["answer"], other_id),
            )
            if other_id is None:
                continue
            self._connection.execute(
                "UPDATE span_joins SET joined = ? WHERE project = ? AND key = ? AND inference_id = ?",
                (key, project, half["key"], other_id),
            )
            if settled.get(other_id) is None:
                self._bring(settled, self._load(project, [other_id]))
            other = settled.get(other_id)
            if other is None:  # it was joined and removed before: this record is the whole call
                if half["answer"]:
                    settled.drop(key)
                continue
            request, answer = (other, row) if half["answer"] else (row, other)
            timed = bool(answer.record.start_time_unix_nano)
            whole = join_halves(request.record, answer.record) if timed else join(request.record, answer.record)
            settled.put(_same(request, whole))
            settled.drop(answer.record.inference_id)
        self._forget_old()

    def _other_half(self, project: int, key: str, half: Mapping[str, Any]) -> str | None:
        """Return the id of the other half: the one it is joined to, else the closest in time that is not joined."""
        earlier = self._connection.execute(
            "SELECT joined FROM span_joins WHERE project = ? AND key = ? AND inference_id = ?",
            (project, half["key"], key),
        ).fetchone()
        if earlier is not None and earlier[0] is not None:
            return str(earlier[0])
        distance = limits.SPAN_HALVES_NANOS_MAX if half["at"] else 2**62
        candidate = self._connection.execute(
            "SELECT inference_id FROM span_joins WHERE project = ? AND key = ? AND is_answer = ? AND joined IS NULL"
            " AND inference_id <> ? AND (at = 0 OR ? = 0 OR abs(at - ?) <= ?) ORDER BY abs(at - ?) LIMIT 1",
            (project, half["key"], not half["answer"], key, half["at"], half["at"], distance, half["at"]),
        ).fetchone()
        return None if candidate is None else str(candidate[0])

    def _forget_old(self) -> None:
        before = time.time_ns() - int(limits.SPAN_JOINS_AGE_MAX_S * 1e9)
        self._connection.execute("DELETE FROM span_joins WHERE stored < ?", (before,))

    def _fold(self, settled: Settled) -> None:
        """Give one answer id to a call and the call directly above it, if both recorded the same answer."""
        for key in [*settled.fresh, *settled.changed]:
            row = settled.get(key)
            if row is None or row.record.kind not in PRICED_KINDS:
                continue
            parent = settled.get(row.record.parent_id)
            if parent is None or not (is_foreign(row) or is_foreign(parent)) or not _doubles(parent, row):
                continue
            answer = parent.answer or row.answer or parent.record.inference_id
            for one in (parent, row):
                if one.answer is None:
                    settled.put(rewrite(one, attributes=_with(one.record, ANSWER, answer)))


def _omitted(record: Record, flags: set[str]) -> Record:
    """Return the record without what flags (`inputs`, `outputs`) omit. The marks that join it to others stay."""
    if record.attributes is not ABSENT and SPAN_NAME.encode() in bytes(record.attributes):
        name = (to_json(record.attributes) or {}).get(SPAN_NAME)
        if isinstance(name, str):
            record = msgspec.structs.replace(record, name=name)
    return omit_from(record, flags, keep_attribute=keeps_attribute)


def _doubles(outer: Row, inner: Row) -> bool:
    """Return whether a call and the one directly below it are the same call: one kind, one answer, within its time.

    If both have the provider's id of the answer, the ids decide. Without content, the token counts do.
    """
    one, other = outer.record, inner.record
    if one.kind != other.kind or one.kind not in PRICED_KINDS or one.trace_id != other.trace_id:
        return False
    if outer.answer is not None and inner.answer is not None:
        return False  # records with equal ids are joined by the id; different ids are different answers
    if one.status != other.status:
        return False
    answer, other_answer = _answer_of(one), _answer_of(other)
    if answer is not None and other_answer is not None:
        return bool(answer == other_answer)
    counts = (one.input_tokens, one.output_tokens)
    if None not in counts and other.input_tokens is not None:
        return counts == (other.input_tokens, other.output_tokens)
    return one.start_time_unix_nano <= other.start_time_unix_nano and other.end_time_unix_nano <= one.end_time_unix_nano


def _answer_of(record: Record) -> Any:
    """Return a call's answer, in a form that does not depend on its vocabulary."""
    if record.content:
        return record.content
    output = to_json(record.output) if record.output is not ABSENT else None
    calls = output.get("tool_calls") if isinstance(output, dict) else None
    if isinstance(calls, list):
        return [call.get("function") if isinstance(call, dict) else call for call in calls]
    return None


def _from_the_top(settled: Settled, keys: Iterable[str]) -> list[str]:
    """Return the ids with each parent before its children. A cycle of parents is cut where it is entered."""
    pending = dict.fromkeys(keys)
    ordered: dict[str, None] = {}
    for key in pending:
        path = []
        at: str | None = key
        while at is not None and at in pending and at not in ordered and at not in path:
            path.append(at)
            row = settled.get(at)
            at = row.record.parent_id if row is not None else None
        ordered.update(dict.fromkeys(reversed(path)))
    return list(ordered)


def _flags(record: Record) -> set[str]:
    """Return what a record's flags omit below it, from a foreign span's mark and from what the record itself omits."""
    flags: set[str] = {side for side in ("inputs", "outputs") if side in record.omitted}
    if record.attributes is not ABSENT and _OMIT in bytes(record.attributes):
        mark = (to_json(record.attributes) or {}).get(OMIT)
        flags.update(mark if isinstance(mark, list) else ())
    return flags


def _half(record: Record) -> dict[str, Any] | None:
    if record.attributes is ABSENT or _HALF not in bytes(record.attributes):
        return None
    half = (to_json(record.attributes) or {}).get(HALF)
    return half if isinstance(half, dict) and {"key", "at", "answer"} <= half.keys() else None


def _with(record: Record, name: str, value: Any) -> Any:
    attributes = to_json(record.attributes) if record.attributes is not ABSENT else {}
    return to_raw({**(attributes if isinstance(attributes, dict) else {}), name: value})


def _same(row: Row, record: Record) -> Row:
    return rewrite(row, **{name: getattr(record, name) for name in Record.__struct_fields__})
