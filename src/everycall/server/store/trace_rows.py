"""The rows of traces while a batch is written: looked up, brought up to date, written back. Called by `ingest`."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from everycall.record import Record
from everycall.server.store.bulk import SEPARATOR, insert, select_in
from everycall.server.store.rows import read
from everycall.server.store.summary import Ordered, Root, TraceState, decode_state, encode_state

__all__ = ["TraceRow", "TraceRows"]


@dataclass(slots=True)
class TraceRow:
    """A trace that a batch touches.

    `tags` and `active` are what is stored, `state` what it becomes. `arrived` are the records that are new in it, by
    `inference_id`. `order_unknown`: a record that was the first or the last in something was changed or left.
    `root_unknown`: a record was moved or renamed, so that another one may be the root now.
    """

    id: int
    state: TraceState
    is_stored: bool
    tags: tuple[str, ...] = ()
    active: int = 0
    arrived: dict[str, Record] = field(default_factory=dict)
    order_unknown: bool = False
    root_unknown: bool = False

    def add(self, record: Record) -> None:
        """Count in a record that is new in the store."""
        self.state.add(record)
        self.arrived[record.inference_id] = record


class TraceRows:
    """The table `traces` over one connection. Not safe for more than one thread."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._last_id = 0
        self.forget()

    def forget(self) -> None:
        """Read again from the database what is kept in memory, after a rollback."""
        self._last_id = self._connection.execute("SELECT coalesce(max(id), 0) FROM traces").fetchone()[0]

    def get(self, project: int, trace_ids: Sequence[str]) -> dict[str, TraceRow]:
        """Return the traces with these ids. One that is not stored gets its number here, and its row in `settle`."""
        traces: dict[str, TraceRow] = {}
        for numbers, states in select_in(
            self._connection,
            "SELECT group_concat(id), CAST(group_concat(state, char(30)) AS BLOB)"
            " FROM traces WHERE project = ? AND trace_id IN",
            project,
            trace_ids,
        ):
            for number, body in zip(numbers.split(","), states.split(SEPARATOR), strict=True):
                state = decode_state(body)
                traces[state.trace_id] = TraceRow(int(number), state, True, tuple(state.tags), state.active)
        for trace_id in trace_ids:
            if trace_id not in traces:
                self._last_id += 1
                traces[trace_id] = TraceRow(self._last_id, TraceState(trace_id), False)
        return traces

    def settle(self, project: int, traces: Iterable[TraceRow]) -> None:
        """Write the rows of these traces, and delete those without any record."""
        remaining: list[TraceRow] = []
        for trace in traces:
            if trace.state.records:
                remaining.append(trace)
            else:
                self._connection.execute("DELETE FROM trace_tags WHERE trace = ?", (trace.id,))
                self._connection.execute("DELETE FROM traces WHERE id = ?", (trace.id,))
        for trace in remaining:
            if trace.order_unknown:
                trace.state.order(self._ordered(trace.id))
        self._find_roots(project, remaining)
        rows = [_columns(project, trace) for trace in remaining]
        insert(self._connection, "INSERT OR REPLACE INTO traces VALUES", rows)
        self._write_tags(project, remaining)

    def _write_tags(self, project: int, traces: Sequence[TraceRow]) -> None:
        changed = [
            trace for trace in traces if trace.tags != tuple(trace.state.tags) or trace.active != trace.state.active
        ]
        if any(trace.tags for trace in changed):
            self._connection.execute(
                "DELETE FROM trace_tags WHERE trace IN (SELECT value FROM json_each(?))",
                (msgspec.json.encode([trace.id for trace in changed]).decode(),),
            )
        rows = [(trace.id, tag, project, trace.state.active) for trace in changed for tag in trace.state.tags]
        insert(self._connection, "INSERT INTO trace_tags VALUES", rows)

    def _ordered(self, trace: int) -> list[Ordered]:
        rows = self._connection.execute(
            "SELECT start, finish, kind, model, trace_name, end_user, session FROM records"
            " WHERE trace = ? ORDER BY start, id",
            (trace,),
        )
        return [Ordered(*row) for row in rows]

    def _find_roots(self, project: int, traces: Sequence[TraceRow]) -> None:
        """Set the roots that may have changed. The database is asked only about traces it knows."""
        unsettled: list[TraceRow] = []
        for trace in traces:
            if not trace.is_stored and not trace.root_unknown:
                trace.state.root = _root_among(trace.arrived)
            elif trace.root_unknown or _may_replace_root(trace):
                unsettled.append(trace)
        if unsettled:
            roots = self._stored_roots(project, unsettled)
            for trace in unsettled:
                trace.state.root = roots[trace.state.trace_id]

    def _stored_roots(self, project: int, traces: Sequence[TraceRow]) -> dict[str, Root]:
        """Return the roots of traces by `trace_id`: the earliest record without a stored parent.

        Parents start before their children, so the search by start ends at its first row in every trace whose clocks
        agree. Where every record has a stored parent (a ring), the earliest record stands for the root.
        """
        bodies, rings = self._connection.execute(
            """
            SELECT CAST(group_concat(b.body, char(30)) AS BLOB), group_concat(root IS NULL) FROM (
                SELECT
                    (SELECT r.id FROM records r WHERE r.trace = j.value AND (r.parent_id IS NULL OR NOT EXISTS (
                        SELECT 1 FROM records p WHERE p.project = :project AND p.inference_id = r.parent_id
                        AND p.trace = r.trace AND p.id <> r.id)) ORDER BY r.start, r.id LIMIT 1) AS root,
                    (SELECT r.id FROM records r WHERE r.trace = j.value ORDER BY r.start, r.id LIMIT 1) AS earliest
                FROM json_each(:traces) j
            ) JOIN bodies b ON b.record = coalesce(root, earliest)
            """,
            {"project": project, "traces": msgspec.json.encode([trace.id for trace in traces]).decode()},
        ).fetchone()
        roots: dict[str, Root] = {}
        for body, is_ring in zip(bodies.split(SEPARATOR), rings.split(","), strict=True):
            record = read(body).record
            roots[record.trace_id] = _as_root(record, is_ring == "1")
        return roots


def _may_replace_root(trace: TraceRow) -> bool:
    root = trace.state.root
    return (
        root.parent_id in trace.arrived
        or root.inference_id is None
        or any(record.start_time_unix_nano < root.start for record in trace.arrived.values())
    )


def _root_among(records: Mapping[str, Record]) -> Root:
    """Return the root of a trace that has these records and no others."""
    roots = [
        record
        for record in records.values()
        if record.parent_id is None or record.parent_id not in records or record.parent_id == record.inference_id
    ]
    return _as_root(min(roots or records.values(), key=lambda record: record.start_time_unix_nano), not roots)


def _as_root(record: Record, is_ring: bool) -> Root:
    inference_id = None if is_ring else record.inference_id
    return Root(inference_id, record.parent_id, record.start_time_unix_nano, record.name)


def _columns(project: int, trace: TraceRow) -> tuple[Any, ...]:
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
