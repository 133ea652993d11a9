"""Parea's list of logs, by page number and with one condition. Called by `sqlite.SqliteStore`.

The condition is not SQL: a Python function reads each record of the project in the requested time and decides. Like
every read it has a time limit, so a query on a large project needs a time range.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from everycall import limits
from everycall.record import decode
from everycall.semconv import CHAIN, ERROR, SUCCESS
from everycall.server.store.errors import StoreError
from everycall.server.store.readers import Read
from everycall.server.store.values import OPERATORS, Condition, LogPage, LogQuery

__all__ = ["add_log_functions", "logs", "meets"]

_PROJECT = "(SELECT id FROM projects WHERE name = ?)"
_FEEDBACK = (
    "(SELECT f.score FROM feedback f WHERE f.project = r.project AND f.inference_id = r.inference_id"
    " ORDER BY f.id DESC LIMIT 1)"
)
_DEFAULTS = {"status": SUCCESS, "kind": CHAIN}
"""Values that the wire form of a record leaves out."""

_json = msgspec.json.Decoder()
_conditions = msgspec.json.Decoder(Condition)


def add_log_functions(connection: sqlite3.Connection) -> None:
    """Add the SQL function `everycall_meets(body, feedback score, condition)` to a connection."""
    connection.create_function("everycall_meets", 3, _meets, deterministic=True)


def logs(read: Read, project: str, query: LogQuery) -> LogPage:
    """Return a page of records and the total number of records that match."""
    if query.condition is not None and query.condition.operator not in OPERATORS:
        raise StoreError(f"Unknown operator {query.condition.operator!r}: use one of {', '.join(OPERATORS)}.")
    where = ["r.project = " + _PROJECT]
    values: list[Any] = [project]
    if query.trace_ids is not None:
        where.append(
            f"r.trace IN (SELECT id FROM traces WHERE project = {_PROJECT}"  # noqa: S608 - a constant
            " AND trace_id IN (SELECT value FROM json_each(?)))"
        )
        values += (project, msgspec.json.encode(query.trace_ids).decode())
    if query.since is not None:
        where.append("r.start >= ?")
        values.append(query.since)
    if query.status is not None:
        where.append("r.failed = ?")
        values.append(query.status == ERROR)
    if query.roots:
        where.append(
            "(r.parent_id IS NULL OR NOT EXISTS (SELECT 1 FROM records p"
            " WHERE p.project = r.project AND p.inference_id = r.parent_id AND p.id <> r.id))"
        )
    source = "records r"
    if query.condition is not None:
        source += " JOIN bodies b ON b.record = r.id"
        where.append(f"everycall_meets(b.body, {_FEEDBACK}, ?)")
        values.append(msgspec.json.encode(query.condition))
    return _page(read, source, " AND ".join(where), values, query)


def _page(read: Read, source: str, where: str, values: list[Any], query: LogQuery) -> LogPage:
    row = read.one(
        f"WITH found AS MATERIALIZED (SELECT r.id, r.start FROM {source} WHERE {where})"  # noqa: S608 - fixed parts
        " SELECT (SELECT count(*) FROM found), (SELECT json_group_array(id) FROM"
        " (SELECT id FROM found ORDER BY start DESC, id DESC LIMIT ? OFFSET ?))",
        [*values, min(query.limit, limits.PAGE_ROWS_MAX), query.offset],
    )
    assert row is not None
    bodies = read.texts(
        "SELECT CAST(group_concat(body, char(30)) AS BLOB) FROM (SELECT b.body FROM json_each(?) j"
        " CROSS JOIN bodies b ON b.record = j.value ORDER BY j.key)",
        (row[1],),
    )
    return LogPage(tuple(map(decode, bodies)), row[0])


def _meets(body: bytes, feedback: float | None, condition: bytes) -> bool:
    return meets(_json.decode(body), feedback, _conditions.decode(condition))


def meets(record: Mapping[str, Any], feedback: float | None, condition: Condition) -> bool:
    """Return whether a record meets a condition. `record` is its wire form, `feedback` its latest feedback's score."""
    record = {**_DEFAULTS, **record, "feedback": feedback}
    values = [value for path in condition.paths for value in _values(record, path) if value is not None]
    operator = condition.operator
    if operator in ("is_null", "exists"):
        return bool(values) is (operator == "exists")
    if operator == "not_equals":
        return not any(_equal(value, condition.value or "") for value in values)
    return any(_holds(value, operator, condition.value or "") for value in values)


def _values(value: Any, path: tuple[str, ...]) -> Iterator[Any]:
    """Yield the values at a path; several if it leads to a list."""
    for place, key in enumerate(path):
        if isinstance(value, list):
            items = (item for item in value if isinstance(item, dict) and item.get("name") == key)
            for item in items:
                yield from _values(item.get("score", item), path[place + 1 :])
            return
        if not isinstance(value, dict):
            return
        if key == "*":
            for below in value.values():
                yield from _values(below, path[place + 1 :])
            return
        value = value.get(key)
    if isinstance(value, list):
        yield from value
    else:
        yield value


def _holds(value: Any, operator: str, operand: str) -> bool:
    if operator == "equals":
        return _equal(value, operand)
    if operator == "like":
        return _like(_text(value).casefold(), operand.casefold())
    if operator == "in":
        return any(_equal(value, one) for one in _listed(operand))
    if operator == "between":
        bounds = _listed(operand)
        return len(bounds) == 2 and _compare(value, bounds[0]) >= 0 and _compare(value, bounds[1]) <= 0
    order = _compare(value, operand)
    return {
        "greater_than": order > 0,
        "greater_than_or_equal": order >= 0,
        "less_than": order < 0,
        "less_than_or_equal": order <= 0,
    }[operator]


def _equal(value: Any, operand: str) -> bool:
    return _compare(value, operand) == 0


def _compare(value: Any, operand: str) -> int:
    """Return -1, 0 or 1. Two numbers are compared as numbers, everything else as text."""
    text = _text(value)
    if isinstance(value, bool):
        return _order(text, operand.lower())
    try:
        return _order(float(text), float(operand))
    except ValueError:
        return _order(text, operand)


def _order(one: Any, other: Any) -> int:
    return int(one > other) - int(one < other)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _listed(operand: str) -> list[str]:
    try:
        items = _json.decode(operand.encode())
    except (msgspec.DecodeError, UnicodeEncodeError):
        items = None
    if isinstance(items, list):
        return [_text(item) for item in items]
    return [item.strip() for item in operand.split(",")]


def _like(text: str, pattern: str) -> bool:
    """Return whether a text contains the pattern, or matches it as a whole if it has `%` (any text)."""
    if "%" not in pattern:
        return pattern in text
    first, *middle, last = pattern.split("%")
    if not text.startswith(first) or not text.endswith(last) or len(text) < len(first) + len(last):
        return False
    at, end = len(first), len(text) - len(last)
    for part in middle:
        at = text.find(part, at, end)
        if at < 0:
            return False
        at += len(part)
    return True
