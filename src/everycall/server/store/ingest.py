"""Writing a batch: records, their tags and patches, and the summaries of the traces they belong to.

Called by the writer thread inside a transaction. Rows are written and looked up many at a time in one statement: while
one statement runs, Python's lock is free for the event loop; between two, it has to be won back.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from everycall import limits
from everycall._pricing.price_book import PRICE_FIELDS, PriceBook
from everycall.record import Record
from everycall.server.store.answers import counted_in
from everycall.server.store.bulk import SEPARATOR, insert, select_in
from everycall.server.store.errors import StoreError
from everycall.server.store.rows import COLUMNS, Row, combine_patches, encode_patch, merge, read, rewrite
from everycall.server.store.summary import Ordered, Root, TraceState, decode_state, encode_state

__all__ = ["Ingest"]


@dataclass(slots=True)
class _Stored:
    """A record in the database: its place, and what it is before and after this batch."""

    id: int
    before: Row
    after: Row


@dataclass(slots=True)
class _Trace:
    """A trace touched by this batch. `arrived` are the records new in it, by inference_id."""

    id: int
    state: TraceState
    known: bool
    tags: tuple[str, ...] = ()
    active: int = 0
    arrived: dict[str, Record] = field(default_factory=dict)
    stale: bool = False
    unrooted: bool = False


class Ingest:
    """Writes records over one connection, priced by `prices` if given. Not safe for more than one thread."""

    def __init__(self, connection: sqlite3.Connection, prices: PriceBook | None = None) -> None:
        self._connection = connection
        self._prices = prices
        self._projects: dict[str, int] = {}
        self._last_record = 0
        self._last_trace = 0
        self.forget()

    def forget(self) -> None:
        """Read again what is kept in memory, after a rollback."""
        self._projects.clear()
        one = self._connection.execute
        self._last_record = one("SELECT coalesce(max(id), 0) FROM records").fetchone()[0]
        self._last_trace = one("SELECT coalesce(max(id), 0) FROM traces").fetchone()[0]

    def project(self, name: str) -> int:
        """Return a project's number, made at its first use."""
        known = self._projects.get(name)
        if known is None:
            self._connection.execute("INSERT INTO projects (name) VALUES (?) ON CONFLICT DO NOTHING", (name,))
            known = self._connection.execute("SELECT id FROM projects WHERE name = ?", (name,)).fetchone()[0]
            self._projects[name] = known
        return known

    def write(self, name: str, rows: Sequence[Row]) -> None:
        """Store rows of one project: new ones, repeated ones (nothing changes) and changed ones (they merge)."""
        project = self.project(name)
        ids = [row.record.inference_id for row in rows]
        stored = self._stored(project, ids)
        patches = self._patches(project, ids)
        fresh: dict[str, Row] = {}
        for row in rows:
            key = row.record.inference_id
            known = stored.get(key)
            if known is not None:
                if row.body != known.after.body:
                    known.after = merge(known.after, row, patches.get(key), self._prices)
            elif key in fresh:
                if row.body != fresh[key].body:
                    fresh[key] = merge(fresh[key], row, patches.get(key), self._prices)
            elif key in patches:
                fresh[key] = merge(row, None, patches[key], self._prices)
            else:
                fresh[key] = row
        changed = [known for known in stored.values() if known.after.body != known.before.body]
        self._store(project, list(fresh.values()), changed)
        if patches:
            self._connection.executemany(
                "UPDATE patches SET pending = 0 WHERE project = ? AND inference_id = ?",
                [(project, key) for key in patches],
            )

    def patch(self, name: str, inference_id: str, fields: Mapping[str, Any]) -> None:
        """Set fields of a record now, or when it comes. Raises `StoreError` for fields that cannot be set."""
        patch = encode_patch(fields)
        project = self.project(name)
        earlier = self._patches(project, [inference_id]).get(inference_id)
        if earlier is not None:
            patch = combine_patches(earlier, patch)
            if len(patch) > limits.RECORD_BYTES_MAX:
                raise StoreError(f"all fields set so far are {len(patch)} bytes, {limits.RECORD_BYTES_MAX} are allowed")
        stored = self._stored(project, [inference_id]).get(inference_id)
        if stored is None and earlier is None:
            waiting = self._connection.execute(
                "SELECT count(*) FROM (SELECT 1 FROM patches WHERE project = ? AND pending = 1 LIMIT ?)",
                (project, limits.PATCHES_MAX),
            ).fetchone()[0]
            if waiting >= limits.PATCHES_MAX:
                raise StoreError(f"{waiting} patches wait for records that have not come; send the records first")
        self._connection.execute(
            "INSERT OR REPLACE INTO patches (project, inference_id, pending, patch) VALUES (?, ?, ?, ?)",
            (project, inference_id, stored is None, patch),
        )
        if stored is not None:
            stored.after = merge(stored.before, None, patch, self._prices)
            if stored.after.body != stored.before.body:
                self._store(project, [], [stored])

    def _stored(self, project: int, ids: Sequence[str]) -> dict[str, _Stored]:
        found: dict[str, _Stored] = {}
        for numbers, bodies in select_in(
            self._connection,
            "SELECT group_concat(r.id), CAST(group_concat(b.body, char(30)) AS BLOB)"
            " FROM records r JOIN bodies b ON b.record = r.id WHERE r.project = ? AND r.inference_id IN",
            project,
            ids,
        ):
            found.update(_as_stored(numbers, bodies))
        return found

    def _patches(self, project: int, ids: Sequence[str]) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        if self._connection.execute("SELECT 1 FROM patches WHERE project = ? LIMIT 1", (project,)).fetchone():
            for key in dict.fromkeys(ids):
                row = self._connection.execute(
                    "SELECT patch FROM patches WHERE project = ? AND inference_id = ?", (project, key)
                ).fetchone()
                if row is not None:
                    found[key] = row[0]
        return found

    def reprice(self, name: str, ids: Sequence[str]) -> int:
        """Find the cost of records again by the prices now; returns how many changed."""
        if self._prices is None:
            return 0
        project = self.project(name)
        changed = []
        for known in self._stored(project, list(dict.fromkeys(ids))).values():
            record = self._prices.reprice(known.before.record)
            if record is not known.before.record:
                known.after = rewrite(known.before, **{field: getattr(record, field) for field in PRICE_FIELDS})
                if known.after.body != known.before.body:
                    changed.append(known)
        self._store(project, [], changed)
        return len(changed)

    def _store(self, project: int, rows: Sequence[Row], altered: Sequence[_Stored]) -> None:
        fresh, changed = self._once(project, rows, altered)
        wanted = dict.fromkeys(row.record.trace_id for row in fresh)
        for known in changed:
            wanted[known.before.record.trace_id] = wanted[known.after.record.trace_id] = None
        traces = self._traces(project, list(wanted))
        records: list[tuple[Any, ...]] = []
        bodies: list[tuple[Any, ...]] = []
        tags: list[tuple[Any, ...]] = []
        number = self._last_record
        for row in fresh:
            record = row.record
            number += 1
            trace = traces[record.trace_id]
            trace.state.add(record)
            trace.arrived[record.inference_id] = record
            records.append((number, project, trace.id, *row.columns))
            bodies.append((number, row.body))
            if record.tags:
                tags.extend((number, tag, project, record.start_time_unix_nano) for tag in set(record.tags))
        self._last_record = number
        insert(self._connection, "INSERT INTO records VALUES", records)
        insert(self._connection, "INSERT INTO bodies VALUES", bodies)
        insert(self._connection, "INSERT INTO record_tags VALUES", tags)
        self._change(project, traces, changed)
        self._settle(project, traces.values())

    def _once(
        self, project: int, rows: Sequence[Row], altered: Sequence[_Stored]
    ) -> tuple[Sequence[Row], Sequence[_Stored]]:
        """Settle which records count where an answer was recorded more than once; returns all that is to be written."""
        pairs = {_pair(row) for row in rows if row.answer is not None}
        pairs |= {_pair(row) for known in altered for row in (known.before, known.after) if row.answer is not None}
        loose = [known for known in altered if known.after.answer is None and known.after.record.counted_in is not None]
        for known in loose:
            known.after = rewrite(known.after, counted_in=None)
        if not pairs:
            return rows, altered
        fresh = {row.record.inference_id: row for row in rows}
        changed = {known.after.record.inference_id: known for known in altered}
        stored = {**self._of_answers(project, pairs), **changed}
        groups: dict[tuple[str, str | None], list[Row]] = {}
        for row in (*fresh.values(), *(known.after for known in stored.values())):
            groups.setdefault(_pair(row), []).append(row)
        for members in (groups[pair] for pair in pairs if pair in groups):
            if len(members) == 1 and members[0].record.counted_in is None:
                continue
            verdict = counted_in([row.record for row in members])
            for row in members:
                key = row.record.inference_id
                if row.record.counted_in == verdict.get(key):
                    continue
                row = rewrite(row, counted_in=verdict.get(key))
                if key in fresh:
                    fresh[key] = row
                else:
                    changed[key] = stored[key]
                    changed[key].after = row
        return list(fresh.values()), list(changed.values())

    def _of_answers(self, project: int, pairs: Iterable[tuple[str, str | None]]) -> dict[str, _Stored]:
        """Return the stored records of these traces with these answers, few more of each than can be of one answer."""
        numbers, bodies = self._connection.execute(
            """
            SELECT group_concat(r.id), CAST(group_concat(b.body, char(30)) AS BLOB)
            FROM json_each(?2) j
            CROSS JOIN traces t ON t.project = ?1 AND t.trace_id = j.value ->> 0
            CROSS JOIN records r ON r.id IN (
                SELECT id FROM records WHERE trace = t.id AND answer = j.value ->> 1 LIMIT ?3)
            CROSS JOIN bodies b ON b.record = r.id
            """,
            (project, msgspec.json.encode(list(pairs)).decode(), limits.SAME_ANSWER_MAX + 1),
        ).fetchone()
        return {} if numbers is None else _as_stored(numbers, bodies)

    def _change(self, project: int, traces: Mapping[str, _Trace], changed: Sequence[_Stored]) -> None:
        replace = f"INSERT OR REPLACE INTO records ({COLUMNS}) VALUES"
        for known in changed:
            old, new = known.before.record, known.after.record
            left, joined = traces[old.trace_id], traces[new.trace_id]
            moved = left is not joined
            left.stale |= left.state.take(old, None if moved else new)
            joined.stale |= moved  # it came before records that are there already: who is first is open
            joined.state.add(new)
            left.unrooted = joined.unrooted = left.unrooted or joined.unrooted or _place(old) != _place(new)
            insert(self._connection, replace, [(known.id, project, joined.id, *known.after.columns)])
            self._connection.execute("UPDATE bodies SET body = ? WHERE record = ?", (known.after.body, known.id))
            start = new.start_time_unix_nano
            if old.tags != new.tags or old.start_time_unix_nano != start:
                self._connection.execute("DELETE FROM record_tags WHERE record = ?", (known.id,))
                insert(
                    self._connection,
                    "INSERT INTO record_tags VALUES",
                    [(known.id, tag, project, start) for tag in set(new.tags)],
                )

    def _traces(self, project: int, trace_ids: Sequence[str]) -> dict[str, _Trace]:
        """Return the traces of these ids; those not stored yet get a number here and their row in `_settle`."""
        found: dict[str, _Trace] = {}
        for numbers, states in select_in(
            self._connection,
            "SELECT group_concat(id), CAST(group_concat(state, char(30)) AS BLOB)"
            " FROM traces WHERE project = ? AND trace_id IN",
            project,
            trace_ids,
        ):
            for number, body in zip(numbers.split(","), states.split(SEPARATOR), strict=True):
                state = decode_state(body)
                found[state.trace_id] = _Trace(int(number), state, True, tuple(state.tags), state.active)
        for trace_id in trace_ids:
            if trace_id not in found:
                self._last_trace += 1
                found[trace_id] = _Trace(self._last_trace, TraceState(trace_id), False)
        return found

    def _settle(self, project: int, traces: Iterable[_Trace]) -> None:
        """Bring the traces' rows up to date with their states."""
        emptied = [trace for trace in traces if not trace.state.records]
        for trace in emptied:
            self._connection.execute("DELETE FROM trace_tags WHERE trace = ?", (trace.id,))
            self._connection.execute("DELETE FROM traces WHERE id = ?", (trace.id,))
        kept = [trace for trace in traces if trace.state.records]
        for trace in kept:
            if trace.stale:
                trace.state.order(self._ordered(trace.id))
        self._root(project, kept)
        insert(
            self._connection,
            "INSERT OR REPLACE INTO traces VALUES",
            [_trace_row(project, trace) for trace in kept],
        )
        retagged = [
            trace for trace in kept if trace.tags != tuple(trace.state.tags) or trace.active != trace.state.active
        ]
        if any(trace.tags for trace in retagged):
            self._connection.execute(
                "DELETE FROM trace_tags WHERE trace IN (SELECT value FROM json_each(?))",
                (msgspec.json.encode([trace.id for trace in retagged]).decode(),),
            )
        insert(
            self._connection,
            "INSERT INTO trace_tags VALUES",
            [(trace.id, tag, project, trace.state.active) for trace in retagged for tag in trace.state.tags],
        )

    def _ordered(self, trace: int) -> list[Ordered]:
        rows = self._connection.execute(
            "SELECT start, finish, kind, model, trace_name, end_user, session FROM records"
            " WHERE trace = ? ORDER BY start, id",
            (trace,),
        )
        return [Ordered(*row) for row in rows]

    def _root(self, project: int, traces: Sequence[_Trace]) -> None:
        """Find the root of traces whose root may have changed; the database is asked only about traces it knows."""
        unsettled: list[_Trace] = []
        for trace in traces:
            if not trace.known and not trace.unrooted:
                trace.state.root = _root_among(trace.arrived)
            elif trace.unrooted or _challenged(trace):
                unsettled.append(trace)
        if not unsettled:
            return
        # The root is the earliest record without a stored parent. Parents start before their children, so that the
        # walk by start ends at its first row in every trace whose clocks agree.
        found, ringed = self._connection.execute(
            """
            SELECT CAST(group_concat(b.body, char(30)) AS BLOB), group_concat(root IS NULL) FROM (
                SELECT
                    (SELECT r.id FROM records r WHERE r.trace = j.value AND (r.parent_id IS NULL OR NOT EXISTS (
                        SELECT 1 FROM records p WHERE p.project = ?1 AND p.inference_id = r.parent_id
                        AND p.trace = r.trace AND p.id <> r.id)) ORDER BY r.start, r.id LIMIT 1) AS root,
                    (SELECT r.id FROM records r WHERE r.trace = j.value ORDER BY r.start, r.id LIMIT 1) AS earliest
                FROM json_each(?2) j
            ) JOIN bodies b ON b.record = coalesce(root, earliest)
            """,
            (project, msgspec.json.encode([trace.id for trace in unsettled]).decode()),
        ).fetchone()
        roots: dict[str, Root] = {}
        for body, ring in zip(found.split(SEPARATOR), ringed.split(","), strict=True):
            record = read(body).record
            roots[record.trace_id] = _as_root(record, ring == "1")
        for trace in unsettled:
            trace.state.root = roots[trace.state.trace_id]


def _pair(row: Row) -> tuple[str, str | None]:
    return row.record.trace_id, row.answer


def _as_stored(numbers: str, bodies: bytes) -> dict[str, _Stored]:
    rows = [(int(number), read(body)) for number, body in zip(numbers.split(","), bodies.split(SEPARATOR), strict=True)]
    return {row.record.inference_id: _Stored(number, row, row) for number, row in rows}


def _place(record: Record) -> tuple[Any, ...]:
    """What decides where in its trace's tree a record stands, and what the tree is called."""
    return record.trace_id, record.parent_id, record.start_time_unix_nano, record.name


def _challenged(trace: _Trace) -> bool:
    root = trace.state.root
    return (
        root.parent_id in trace.arrived
        or root.inference_id is None
        or any(record.start_time_unix_nano < root.start for record in trace.arrived.values())
    )


def _root_among(records: Mapping[str, Record]) -> Root:
    """Return the root of a trace of which these are all records."""
    roots = [
        record
        for record in records.values()
        if record.parent_id is None or record.parent_id not in records or record.parent_id == record.inference_id
    ]
    return _as_root(min(roots or records.values(), key=lambda record: record.start_time_unix_nano), not roots)


def _as_root(record: Record, ring: bool) -> Root:
    return Root(None if ring else record.inference_id, record.parent_id, record.start_time_unix_nano, record.name)


def _trace_row(project: int, trace: _Trace) -> tuple[Any, ...]:
    state = trace.state
    return (
        trace.id,
        project,
        state.trace_id,
        state.active,
        state.start,
        state.errors > 0,
        state.trace_name.value,
        state.end_user.value,
        state.session.value,
        encode_state(state),
    )
