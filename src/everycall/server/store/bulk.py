"""Many rows in one statement, both ways.

Between two steps of a statement the `sqlite3` module gives up and takes back Python's global lock; beside a busy event
loop each taking back can cost 5 ms. So rows go in hundreds at a time, and come out joined into one value.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import chain
from typing import Any

__all__ = ["SEPARATOR", "insert", "select_in"]

SEPARATOR = b"\x1e"
"""Joins JSON texts in one value (`group_concat(body, char(30))`). JSON has no such byte, in a string or out of it."""

_CHUNKS = (500, 100, 20, 4, 1)
"""Rows or ids in one statement. Few sizes, so that each statement is prepared once and kept."""


@cache
def _values(statement: str, rows: int, columns: int) -> str:
    row = "(" + ",".join("?" * columns) + ")"
    return statement + " " + ",".join([row] * rows)


@cache
def _listed(statement: str, count: int) -> str:
    return statement + " (" + ",".join("?" * count) + ")"


def insert(connection: sqlite3.Connection, statement: str, rows: Sequence[Sequence[Any]]) -> None:
    """Run `INSERT ... VALUES` for all rows."""
    done = 0
    for size in _CHUNKS:
        while len(rows) - done >= size:
            part = rows[done : done + size]
            connection.execute(_values(statement, size, len(part[0])), tuple(chain.from_iterable(part)))
            done += size


def select_in(
    connection: sqlite3.Connection, statement: str, first: Any, values: Sequence[str]
) -> Iterator[tuple[Any, ...]]:
    """Run a `SELECT` of aggregates that ends in `IN` for all values; yields a row for each chunk that found anything.

    A chunk is filled up by repeating its last value.
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
