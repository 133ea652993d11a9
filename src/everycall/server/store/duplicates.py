"""Counting an answer once while a batch is written: finds the records of one answer and marks those that do not count.

Which of them counts is decided in `answers`; here they are looked up, and rewritten where the decision changes.
Called by `ingest` before anything of a batch is written.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Sequence
from typing import TypeAlias

import msgspec

from everycall import limits
from everycall.server.store.answers import counted_in
from everycall.server.store.foreign import fill_counted
from everycall.server.store.rows import Row, rewrite
from everycall.server.store.stored import StoredRow, read_stored

__all__ = ["mark_duplicates"]

AnswerKey: TypeAlias = tuple[str, str | None]
"""A trace's id and the provider's id of an answer: records that share both may be of one answer."""


def mark_duplicates(
    connection: sqlite3.Connection, project: int, new: Sequence[Row], changed: Sequence[StoredRow]
) -> tuple[Sequence[Row], Sequence[StoredRow]]:
    """Set `Record.counted_in` where an answer was recorded more than once.

    `new` and `changed` are what a batch writes. Returns both again, with the stored records added to `changed` whose
    mark changes because of this batch.
    """
    for stored in changed:
        if stored.after.answer is None and stored.after.record.counted_in is not None:
            stored.after = rewrite(stored.after, counted_in=None)  # it lost its answer's id, and counts again
    keys = _answer_keys(new, changed)
    if not keys:
        return new, changed
    new_rows = {row.record.inference_id: row for row in new}
    changed_rows = {stored.after.record.inference_id: stored for stored in changed}
    stored_rows = _stored_with_answers(connection, project, keys, changed) | changed_rows
    groups = _by_answer([*new_rows.values(), *(stored.after for stored in stored_rows.values())], keys)
    for row in _with_other_marks(groups):
        inference_id = row.record.inference_id
        if inference_id in new_rows:
            new_rows[inference_id] = row
        else:
            changed_rows[inference_id] = stored_rows[inference_id]
            changed_rows[inference_id].after = row
    return list(new_rows.values()), list(changed_rows.values())


def _answer_keys(new: Iterable[Row], changed: Iterable[StoredRow]) -> set[AnswerKey]:
    """Return the answers this batch touches. A change may take a record away from one answer and give it to another."""
    keys = {_key(row) for row in new if row.answer is not None}
    for stored in changed:
        keys.update(_key(row) for row in (stored.before, stored.after) if row.answer is not None)
    return keys


def _by_answer(rows: Iterable[Row], keys: Collection[AnswerKey]) -> list[list[Row]]:
    groups: dict[AnswerKey, list[Row]] = {key: [] for key in keys}
    for row in rows:
        group = groups.get(_key(row))
        if group is not None:
            group.append(row)
    return list(groups.values())


def _with_other_marks(groups: Iterable[Sequence[Row]]) -> Iterable[Row]:
    """Yield the rows whose `counted_in` changes, and those that are filled from a row that does not count."""
    for group in groups:
        if len(group) == 1 and group[0].record.counted_in is None:
            continue  # the usual case, without any work
        counted = counted_in([row.record for row in group])
        filled = fill_counted({row.record.inference_id: row for row in group}, counted)
        for row in group:
            right = counted.get(row.record.inference_id)
            whole = filled.get(row.record.inference_id, row)
            if row.record.counted_in != right:
                yield rewrite(whole, counted_in=right)
            elif whole is not row:
                yield whole


def _stored_with_answers(
    connection: sqlite3.Connection, project: int, keys: Iterable[AnswerKey], known: Iterable[StoredRow]
) -> dict[str, StoredRow]:
    """Return the stored records of these answers, without those that are known already.

    Of one answer at most `limits.SAME_ANSWER_MAX` + 1: enough to see that there are too many to be one answer.
    """
    numbers, bodies = connection.execute(
        """
        SELECT group_concat(r.id), CAST(group_concat(b.body, char(30)) AS BLOB)
        FROM json_each(:keys) j
        CROSS JOIN traces t ON t.project = :project AND t.trace_id = j.value ->> 0
        CROSS JOIN records r ON r.id IN (
            SELECT id FROM records WHERE trace = t.id AND answer = j.value ->> 1
            AND id NOT IN (SELECT value FROM json_each(:known)) LIMIT :per_answer)
        CROSS JOIN bodies b ON b.record = r.id
        """,
        {
            "project": project,
            "keys": msgspec.json.encode(list(keys)).decode(),
            "known": msgspec.json.encode([stored.id for stored in known]).decode(),
            "per_answer": limits.SAME_ANSWER_MAX + 1,
        },
    ).fetchone()
    return {} if numbers is None else read_stored(numbers, bodies)


def _key(row: Row) -> AnswerKey:
    return row.record.trace_id, row.answer
