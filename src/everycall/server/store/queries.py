"""Queries for records and traces. Their SQL consists of fixed parts; every value is a parameter.

`sqlite.SqliteStore` calls them in the reader threads. A page takes two statements, one for the ids and one for the
bodies, so that it can be bounded in bytes. Each statement returns a single row, for the reason given in `bulk`.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import msgspec

from everycall import limits
from everycall.record import ABSENT, Record, decode
from everycall.server.store.bulk import SEPARATOR
from everycall.server.store.cursors import Cursors
from everycall.server.store.errors import StoreError
from everycall.server.store.readers import Read
from everycall.server.store.summary import decode_state
from everycall.server.store.values import RecordPage, RecordQuery, TracePage, TraceQuery, TraceSummary

__all__ = ["Queries", "add_functions"]

_PROJECT = "(SELECT id FROM projects WHERE name = ?)"
_RECORD_FILTERS = {
    "name": "r.name = ?",
    "trace_name": "r.trace_name = ?",
    "kind": "r.kind = ?",
    "model": "r.model = ?",
    "provider": "r.provider = ?",
    "end_user_identifier": "r.end_user = ?",
    "session_id": "r.session = ?",
    "deployment_id": "r.deployment = ?",
    "cache_hit": "r.cache_hit = ?",
    "since": "r.start >= ?",
    "until": "r.start < ?",
}
_TRACE_FILTERS = {
    "trace_name": "t.trace_name = ?",
    "end_user_identifier": "t.end_user = ?",
    "session_id": "t.session = ?",
    "since": "t.start >= ?",
    "until": "t.start < ?",
}
_FAILED = {"error": "{0}.failed = 1", "success": "{0}.failed = 0"}
_NEVER = "0"
_TIME_MAX = 2**63 - 1


def add_functions(connection: sqlite3.Connection) -> None:
    """Add the SQL function `everycall_found(body, text)` to a connection."""
    connection.create_function("everycall_found", 2, _found, deterministic=True)


class Queries:
    """The queries of one database, with its cursors."""

    def __init__(self, cursors: Cursors) -> None:
        self._cursors = cursors

    def record(self, read: Read, project: str, inference_id: str) -> Record | None:
        """Return the record with this id, or None."""
        row = read.one(
            "SELECT b.body FROM records r JOIN bodies b ON b.record = r.id"  # noqa: S608 - a constant
            f" WHERE r.project = {_PROJECT} AND r.inference_id = ?",
            (project, inference_id),
        )
        return None if row is None else decode(row[0])

    def records(self, read: Read, project: str, query: RecordQuery) -> RecordPage:
        """Return a page of records, newest first."""
        limit = _limit(query.limit)
        scope = ["records", project, replace(query, cursor=None, limit=0)]
        where = ["r.project = " + _PROJECT]
        values: list[Any] = [project]
        source, order = "records r", "r.start DESC, r.id DESC"
        position = ("r.start", "r.id")
        if query.trace_id is not None:
            where = [f"r.trace = (SELECT id FROM traces WHERE project = {_PROJECT} AND trace_id = ?)"]  # noqa: S608
            values.append(query.trace_id)
        if query.tag is not None:
            source = "record_tags g CROSS JOIN records r ON r.id = g.record"
            where[:0] = [f"g.project = {_PROJECT}", "g.tag = ?"]
            values[:0] = [project, query.tag]
            order, position = "g.start DESC, g.record DESC", ("g.start", "g.record")
        _filter(where, values, query, _RECORD_FILTERS, "r")
        if query.search:
            source += " CROSS JOIN bodies b ON b.record = r.id"
            where.append(_search("b.body", query.search, values))
        if query.cursor is not None:
            where.append(f"({position[0]}, {position[1]}) < (?, ?)")
            values.extend(self._cursors.read(scope, query.cursor))
        statement = (
            "SELECT group_concat(id), group_concat(start), group_concat(size) FROM ("  # noqa: S608 - fixed parts
            f"SELECT r.id, r.start, r.size FROM {source} WHERE {' AND '.join(where)} ORDER BY {order} LIMIT ?)"
        )
        return self._page(read, statement, [*values, limit + 1], limit, scope)

    def trace(self, read: Read, project: str, trace_id: str, cursor: str | None) -> RecordPage:
        """Return a page of the records of one trace, oldest first."""
        scope = ["trace", project, trace_id]
        start, number = (-1, -1) if cursor is None else self._cursors.read(scope, cursor)
        limit = limits.TRACE_RECORDS_MAX
        statement = (
            "SELECT group_concat(id), group_concat(start), group_concat(size) FROM ("  # noqa: S608 - a constant
            f"SELECT id, start, size FROM records"
            f" WHERE trace = (SELECT id FROM traces WHERE project = {_PROJECT} AND trace_id = ?)"
            " AND (start, id) > (?, ?) ORDER BY start, id LIMIT ?)"
        )
        return self._page(read, statement, [project, trace_id, start, number, limit + 1], limit, scope)

    def trees(self, read: Read, project: str, trace_ids: Sequence[str], cursor: str | None) -> RecordPage:
        """Return a page of the records of several traces, oldest first."""
        scope = ["trees", project, list(trace_ids)]
        start, number = (-1, -1) if cursor is None else self._cursors.read(scope, cursor)
        limit = limits.TRACE_RECORDS_MAX
        statement = (
            "SELECT group_concat(id), group_concat(start), group_concat(size) FROM ("  # noqa: S608 - a constant
            "SELECT id, start, size FROM records WHERE trace IN"
            f" (SELECT id FROM traces WHERE project = {_PROJECT} AND trace_id IN (SELECT value FROM json_each(?)))"
            " AND (start, id) > (?, ?) ORDER BY start, id LIMIT ?)"
        )
        ids = msgspec.json.encode(list(trace_ids)).decode()
        return self._page(read, statement, [project, ids, start, number, limit + 1], limit, scope)

    def trace_summary(self, read: Read, project: str, trace_id: str) -> TraceSummary | None:
        """Return the summary of one trace, or None."""
        row = read.one(
            f"SELECT state FROM traces WHERE project = {_PROJECT} AND trace_id = ?",  # noqa: S608 - a constant
            (project, trace_id),
        )
        return None if row is None else decode_state(row[0]).summary(project)

    def traces(self, read: Read, project: str, query: TraceQuery) -> TracePage:
        """Return a page of traces, those with the latest activity first."""
        limit = _limit(query.limit)
        scope = ["traces", project, replace(query, cursor=None, limit=0)]
        where = ["t.project = " + _PROJECT]
        values: list[Any] = [project]
        source, order, position = "traces t", "t.active DESC, t.id DESC", ("t.active", "t.id")
        if query.tag is not None:
            source = "trace_tags g CROSS JOIN traces t ON t.id = g.trace"
            where[:0] = [f"g.project = {_PROJECT}", "g.tag = ?"]
            values[:0] = [project, query.tag]
            order, position = "g.active DESC, g.trace DESC", ("g.active", "g.trace")
        _filter(where, values, query, _TRACE_FILTERS, "t")
        if query.since is not None:
            where.append("t.active >= ?")  # implied by the start; the index is sorted by it
            values.append(_time(query.since))
        if query.search:
            matches = _search("b.body", query.search, values)
            where.append(
                "EXISTS (SELECT 1 FROM records r CROSS JOIN bodies b ON b.record = r.id"  # noqa: S608 - fixed parts
                f" WHERE r.trace = t.id AND {matches})"
            )
        if query.cursor is not None:
            where.append(f"({position[0]}, {position[1]}) < (?, ?)")
            values.extend(self._cursors.read(scope, query.cursor))
        row = read.one(
            "SELECT group_concat(id), group_concat(active), CAST(group_concat(state, char(30)) AS BLOB) FROM ("  # noqa: S608
            f"SELECT t.id, t.active, t.state FROM {source} WHERE {' AND '.join(where)} ORDER BY {order} LIMIT ?)",
            [*values, limit + 1],
        )
        if row is None or row[0] is None:
            return TracePage((), None)
        numbers, times, states = row[0].split(","), row[1].split(","), row[2].split(SEPARATOR)
        cursor = None
        if len(numbers) > limit:
            cursor = self._cursors.make(scope, int(times[limit - 1]), int(numbers[limit - 1]))
        return TracePage(tuple(decode_state(state).summary(project) for state in states[:limit]), cursor)

    def _page(self, read: Read, statement: str, values: list[Any], limit: int, scope: object) -> RecordPage:
        row = read.one(statement, values)
        if row is None or row[0] is None:
            return RecordPage((), None)
        numbers, starts, sizes = row[0].split(","), row[1].split(","), row[2].split(",")
        count, bytes_left = 0, limits.PAGE_BYTES_MAX
        for size in sizes[:limit]:
            bytes_left -= int(size)
            if bytes_left < 0 and count:
                break
            count += 1
        bodies = read.texts(
            "SELECT CAST(group_concat(body, char(30)) AS BLOB) FROM (SELECT b.body FROM json_each(?) j"
            " CROSS JOIN bodies b ON b.record = j.value ORDER BY j.key)",
            ("[" + ",".join(numbers[:count]) + "]",),
        )
        cursor = None
        if len(numbers) > count:
            cursor = self._cursors.make(scope, int(starts[count - 1]), int(numbers[count - 1]))
        return RecordPage(tuple(map(decode, bodies)), cursor)


def _filter(
    where: list[str], values: list[Any], query: RecordQuery | TraceQuery, filters: dict[str, str], table: str
) -> None:
    for name, condition in filters.items():
        value = getattr(query, name)
        if value is not None:
            where.append(condition)
            values.append(_time(value) if name in ("since", "until") else value)
    if query.status is not None:
        where.append(_FAILED.get(query.status, _NEVER).format(table))


def _limit(limit: int) -> int:
    if limit < 1:
        raise StoreError(f"limit must be from 1 to {limits.PAGE_ROWS_MAX}, not {limit}.")
    return min(limit, limits.PAGE_ROWS_MAX)


def _time(nanos: int) -> int:
    return max(-1, min(nanos, _TIME_MAX))


def _search(column: str, text: str, values: list[Any]) -> str:
    """Return the SQL condition that a body has `text` in a searched field, and append its parameters to `values`.

    A body is JSON. It may contain the text as it is, escaped as our encoder does, or escaped to ASCII as Python's
    encoder does. Bodies with none of these forms are skipped without decoding them.
    """
    forms = dict.fromkeys(_forms(text))
    values.extend(forms)
    values.append(text)
    any_form = " OR ".join([f"instr({column}, ?)"] * len(forms))
    return f"({any_form}) AND everycall_found({column}, ?)"


def _forms(text: str) -> tuple[bytes, ...]:
    return text.encode(), msgspec.json.encode(text)[1:-1], json.dumps(text)[1:-1].encode()


def _found(body: bytes, text: str) -> bool:
    """Return whether a record has the text in its name, trace name, content or inputs."""
    record = decode(body)
    if text in record.name or text in (record.trace_name or "") or text in (record.content or ""):
        return True
    inputs = bytes(record.inputs)
    return inputs != bytes(ABSENT) and any(form in inputs for form in _forms(text))
