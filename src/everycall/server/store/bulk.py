"""Writing and reading many rows with one SQL statement.

For each row of a result, the `sqlite3` module releases Python's global lock and takes it again; next to a busy event
loop, taking it can cost 5 ms. So rows are inserted hundreds at a time, and read joined into one value.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import chain
from typing import Any

__all__ = ["SEPARATOR", "insert", "select_in", "update"]

SEPARATOR = b"\x1e"
"""Separates JSON texts in one value (`group_concat(body, char(30))`). JSON never contains this byte."""

_CHUNKS = (500, 100, 20, 4, 1)
"""Numbers of rows (or ids) in one statement. Few sizes, so each statement is prepared once and cached."""


@cache
def _values(statement: str, rows: int, columns: int) -> str:
    row = "(" + ",".join("?" * columns) + ")"
    return statement + " " + ",".join([row] * rows)


@cache
def _listed(statement: str, count: int) -> str:
    return statement + " (" + ",".join("?" * count) + ")"


@cache
def _updates(table: str, columns: tuple[str, ...], rows: int) -> str:
    changes = ", ".join(f"{name} = changes.column{place}" for place, name in enumerate(columns, start=2))
    values = _values("VALUES", rows, len(columns) + 1)
    return f"UPDATE {table} SET {changes} FROM ({values}) AS changes WHERE {table}.id = changes.column1"  # noqa: S608 - only names of ours


def insert(connection: sqlite3.Connection, statement: str, rows: Sequence[Sequence[Any]]) -> None:
    """Run a statement that ends in `VALUES` for all rows."""
    done = 0
    for size in _CHUNKS:
        while len(rows) - done >= size:
            part = rows[done : done + size]
            connection.execute(_values(statement, size, len(part[0])), tuple(chain.from_iterable(part)))
            done += size


def update(connection: sqlite3.Connection, table: str, columns: tuple[str, ...], rows: Sequence[Sequence[Any]]) -> None:
    """Set columns of the rows of a table; `rows` have the `id` and then the new values."""
    done = 0
    for size in _CHUNKS:
        while len(rows) - done >= size:
            part = rows[done : done + size]
            connection.execute(_updates(table, columns, size), tuple(chain.from_iterable(part)))
            done += size


def select_in(
    connection: sqlite3.Connection, statement: str, first: Any, values: Sequence[str]
) -> Iterator[tuple[Any, ...]]:
    """Run a `SELECT` of aggregates that ends in `IN` for all values, in chunks. `first` is its first parameter.

    Yield the row of each chunk that matched anything. A chunk is filled up by repeating its last value.
    """
    done = 0
    while done < len(values):
        left = len(values) - done
        size = next((size for size in reversed(_CHUNKS) if size >= left), _CHUNKS[0])
        part = list(values[done : done + size])
        part += part[-1:] * (size - len(part))
        row = connection.execute(_listed(statement, size), (first, *part)).fetchone()
        if row[0] is not None:
            yield row
        done += size
