"""The table of spending: a row for each key and day. Called by `sqlite.SqliteStore`."""

from __future__ import annotations

import sqlite3

import msgspec

from everycall import limits
from everycall.server.store.readers import Read
from everycall.server.store.values import Expense, Spent

__all__ = ["spend", "spent"]

_rows = msgspec.json.Decoder(list[tuple[str, float, int, int]])


def spend(connection: sqlite3.Connection, expense: Expense) -> None:
    """Add an amount to the spending of a key on a day. Days before the last `limits.SPENDING_DAYS_MAX` are deleted."""
    amount, day, key = expense.amount, expense.day, expense.key
    changed = connection.execute(
        "UPDATE spending SET cost = cost + ?, completions = completions + ?, unpriced = unpriced + ?"
        " WHERE day = ? AND key = ?",
        (amount.cost, amount.completions, amount.unpriced, day, key),
    )
    if not changed.rowcount:
        connection.execute(
            "INSERT INTO spending (day, key, cost, completions, unpriced) VALUES (?, ?, ?, ?, ?)",
            (day, key, amount.cost, amount.completions, amount.unpriced),
        )
        connection.execute("DELETE FROM spending WHERE day < ?", (day - limits.SPENDING_DAYS_MAX,))


def spent(read: Read, day: int) -> dict[str, Spent]:
    """Return the spending of each key on a day."""
    row = read.one(
        "SELECT CAST(json_group_array(json_array(key, cost, completions, unpriced)) AS BLOB) FROM spending"
        " WHERE day = ?",
        (day,),
    )
    rows = [] if row is None else _rows.decode(row[0])
    return {key: Spent(cost, completions, unpriced) for key, cost, completions, unpriced in rows}
