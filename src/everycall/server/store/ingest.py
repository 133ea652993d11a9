"""Writing a batch: records, their tags and patches, and the summaries of the traces they belong to.

The writer's thread calls it inside a transaction. Rows are written and looked up many at a time in one statement:
while a statement runs, the event loop can have Python's lock; between two statements this thread has to win it back.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from everycall import limits
from everycall._pricing.price_book import PRICE_FIELDS, PriceBook
from everycall.record import Record
from everycall.server.store.bulk import insert, select_in, update
from everycall.server.store.duplicates import mark_duplicates
from everycall.server.store.errors import StoreError
from everycall.server.store.foreign import Foreign, Settled, is_foreign
from everycall.server.store.rows import (
    COLUMNS,
    LABEL_COLUMNS,
    Row,
    combine_patches,
    encode_patch,
    has_other_labels_only,
    labels_of,
    merge,
    rewrite,
)
from everycall.server.store.stored import StoredRow, read_stored
from everycall.server.store.trace_rows import TraceRow, TraceRows

__all__ = ["Ingest"]


class Ingest:
    """Writes records over one connection, priced by `prices` if there are any. Not safe for more than one thread."""

    def __init__(self, connection: sqlite3.Connection, prices: PriceBook | None = None) -> None:
        self._connection = connection
        self._prices = prices
        self.scrub = False
        """Whether content was left out that is still in the files: after the commit, the log must be truncated."""
        self._projects: dict[str, int] = {}
        self._last_record = 0
        self._traces = TraceRows(connection)
        self._foreign = Foreign(connection, self._stored)
        self.forget()

    def forget(self) -> None:
        """Read again from the database what is kept in memory, after a rollback."""
        self._projects.clear()
        self._last_record = self._connection.execute("SELECT coalesce(max(id), 0) FROM records").fetchone()[0]
        self._traces.forget()

    def project(self, name: str) -> int:
        """Return a project's number; its first use creates it."""
        number = self._projects.get(name)
        if number is None:
            self._connection.execute("INSERT INTO projects (name) VALUES (?) ON CONFLICT DO NOTHING", (name,))
            number = self._connection.execute("SELECT id FROM projects WHERE name = ?", (name,)).fetchone()[0]
            self._projects[name] = number
        return number

    def write(self, name: str, rows: Sequence[Row]) -> None:
        """Store rows of one project: new ones, repeated ones (nothing changes) and changed ones (they merge)."""
        project = self.project(name)
        ids = [row.record.inference_id for row in rows]
        stored_rows = self._stored(project, ids)
        patches = self._patches(project, ids)
        new_rows: dict[str, Row] = {}
        for row in rows:
            inference_id = row.record.inference_id
            stored = stored_rows.get(inference_id)
            patch = patches.get(inference_id)
            if stored is not None:
                if row.body != stored.after.body:
                    stored.after = merge(stored.after, row, patch, self._prices)
            elif inference_id in new_rows:  # twice in one batch
                if row.body != new_rows[inference_id].body:
                    new_rows[inference_id] = merge(new_rows[inference_id], row, patch, self._prices)
            elif patch is not None:
                new_rows[inference_id] = merge(row, None, patch, self._prices)
            else:
                new_rows[inference_id] = row
        changed = [stored for stored in stored_rows.values() if stored.changed]
        self._store(project, list(new_rows.values()), changed)
        if patches:
            self._connection.executemany(
                "UPDATE patches SET pending = 0 WHERE project = ? AND inference_id = ?",
                [(project, inference_id) for inference_id in patches],
            )

    def patch(self, name: str, inference_id: str, fields: Mapping[str, Any]) -> None:
        """Set fields of a record, now or when it arrives. Raise `StoreError` for fields that cannot be set."""
        patch = encode_patch(fields)
        project = self.project(name)
        earlier = self._patches(project, [inference_id]).get(inference_id)
        if earlier is not None:
            patch = combine_patches(earlier, patch)
            if len(patch) > limits.RECORD_BYTES_MAX:
                raise StoreError(
                    f"The fields set on this record are {len(patch)} bytes of JSON together; "
                    f"at most {limits.RECORD_BYTES_MAX} are allowed."
                )
        stored = self._stored(project, [inference_id]).get(inference_id)
        if stored is None and earlier is None:
            self._check_pending(project)
        self._connection.execute(
            "INSERT OR REPLACE INTO patches (project, inference_id, pending, patch) VALUES (?, ?, ?, ?)",
            (project, inference_id, stored is None, patch),
        )
        if stored is not None:
            stored.after = merge(stored.before, None, patch, self._prices)
            if stored.changed:
                self._store(project, [], [stored])

    def _check_pending(self, project: int) -> None:
        """Raise `StoreError` when too many patches wait for their records already."""
        pending = self._connection.execute(
            "SELECT count(*) FROM (SELECT 1 FROM patches WHERE project = ? AND pending = 1 LIMIT ?)",
            (project, limits.PATCHES_MAX),
        ).fetchone()[0]
        if pending >= limits.PATCHES_MAX:
            raise StoreError(f"{pending} updates wait for records that have not arrived. Send the records first.")

    def reprice(self, name: str, ids: Sequence[str]) -> int:
        """Price records again by the present prices; return how many changed."""
        if self._prices is None:
            return 0
        project = self.project(name)
        changed = []
        for stored in self._stored(project, list(dict.fromkeys(ids))).values():
            record = self._prices.reprice(stored.before.record)
            if record is not stored.before.record:
                stored.after = rewrite(stored.before, **{field: getattr(record, field) for field in PRICE_FIELDS})
                if stored.changed:
                    changed.append(stored)
        self._store(project, [], changed)
        return len(changed)

    def _stored(self, project: int, ids: Sequence[str]) -> dict[str, StoredRow]:
        records: dict[str, StoredRow] = {}
        for numbers, bodies in select_in(
            self._connection,
            "SELECT group_concat(r.id), CAST(group_concat(b.body, char(30)) AS BLOB)"
            " FROM records r JOIN bodies b ON b.record = r.id WHERE r.project = ? AND r.inference_id IN",
            project,
            ids,
        ):
            records.update(read_stored(numbers, bodies))
        return records

    def _children(self, project: int, ids: Sequence[str], newest: int) -> Iterator[dict[str, StoredRow]]:
        """Yield pages of the stored records of foreign spans directly below these, up to the record `newest`."""
        parents = msgspec.json.encode(list(ids)).decode()
        after = 0
        while True:
            numbers = [
                number
                for (number,) in self._connection.execute(
                    "SELECT r.id FROM json_each(?) j CROSS JOIN records r"
                    " ON r.project = ? AND r.parent_id = j.value AND r.dialect IS NOT NULL"
                    " WHERE r.id > ? AND r.id <= ? ORDER BY r.id LIMIT ?",
                    (parents, project, after, newest, limits.SPAN_FAMILY_PAGE),
                )
            ]
            if not numbers:
                return
            after = numbers[-1]
            listed = ",".join(map(str, numbers))
            bodies = self._connection.execute(
                "SELECT CAST(group_concat(body, char(30)) AS BLOB) FROM"
                " (SELECT b.body FROM json_each(?) j CROSS JOIN bodies b ON b.record = j.value ORDER BY j.key)",
                (f"[{listed}]",),
            ).fetchone()[0]
            yield read_stored(listed, bodies)

    def _patches(self, project: int, ids: Sequence[str]) -> dict[str, bytes]:
        patches: dict[str, bytes] = {}
        if self._connection.execute("SELECT 1 FROM patches WHERE project = ? LIMIT 1", (project,)).fetchone():
            for inference_id in dict.fromkeys(ids):
                row = self._connection.execute(
                    "SELECT patch FROM patches WHERE project = ? AND inference_id = ?", (project, inference_id)
                ).fetchone()
                if row is not None:
                    patches[inference_id] = row[0]
        return patches

    def _store(self, project: int, rows: Sequence[Row], stored: Sequence[StoredRow]) -> None:
        """Write new rows and changed ones, and what they change in stored ones below them."""
        newest = self._last_record
        settled = self._foreign.settle(project, rows, {one.after.record.inference_id: one for one in stored})
        self.scrub |= settled.scrub or any(_loses_content(one) for one in stored)
        above = [row.record.inference_id for row in rows if is_foreign(row)]
        above += [one.after.record.inference_id for one in stored if is_foreign(one.after)]
        self._write_settled(project, settled)
        self._settle_below(project, above, newest)

    def _settle_below(self, project: int, above: Sequence[str], newest: int) -> None:
        """Hand down what these records say to stored ones below them, level by level and page by page.

        `newest` is the last record before the batch: later ones know already.
        """
        count = 0
        while above and count < limits.SPAN_FAMILY_MAX:
            changed: list[str] = []
            for page in self._children(project, above, newest):
                count += len(page)
                settled = self._foreign.settle(project, [], page, halves=False)
                self.scrub |= settled.scrub
                changed += [key for key, one in page.items() if one.changed or key in settled.gone]
                self._write_settled(project, settled)
            above = changed

    def _write_settled(self, project: int, settled: Settled) -> None:
        """Write records, and settle the traces that they are in or leave."""
        new, changed = mark_duplicates(
            self._connection, project, list(settled.fresh.values()), list(settled.changed.values())
        )
        changed = [one for one in changed if one.changed]
        removed = list(settled.gone.values())
        trace_ids = dict.fromkeys(
            [row.record.trace_id for row in new] + [one.before.record.trace_id for one in removed]
        )
        for one in changed:
            trace_ids[one.before.record.trace_id] = trace_ids[one.after.record.trace_id] = None
        traces = self._traces.get(project, list(trace_ids))
        self._insert(project, traces, new)
        self._change(project, traces, changed)
        for one in removed:
            self._remove(traces[one.before.record.trace_id], one)
        self._traces.settle(project, traces.values())

    def _insert(self, project: int, traces: Mapping[str, TraceRow], rows: Sequence[Row]) -> None:
        records: list[tuple[Any, ...]] = []
        bodies: list[tuple[Any, ...]] = []
        tags: list[tuple[Any, ...]] = []
        number = self._last_record
        for row in rows:
            record = row.record
            number += 1
            trace = traces[record.trace_id]
            trace.add(record)
            records.append((number, project, trace.id, *row.columns))
            bodies.append((number, row.body))
            if record.tags:
                tags.extend((number, tag, project, record.start_time_unix_nano) for tag in set(record.tags))
        self._last_record = number
        insert(self._connection, "INSERT INTO records VALUES", records)
        insert(self._connection, "INSERT INTO bodies VALUES", bodies)
        insert(self._connection, "INSERT INTO record_tags VALUES", tags)

    def _remove(self, trace: TraceRow, stored: StoredRow) -> None:
        """Take a record out: a half that became part of another record, or one that a flag omits whole."""
        trace.order_unknown |= trace.state.take(stored.before.record, None)
        trace.root_unknown = True
        for statement in (
            "DELETE FROM records WHERE id = ?",
            "DELETE FROM bodies WHERE record = ?",
            "DELETE FROM record_tags WHERE record = ?",
        ):
            self._connection.execute(statement, (stored.id,))

    def _change(self, project: int, traces: Mapping[str, TraceRow], changed: Sequence[StoredRow]) -> None:
        """Write stored records that changed. Where only labels did, most indexes of the table stay as they are."""
        rows: list[tuple[Any, ...]] = []
        labels: list[tuple[Any, ...]] = []
        bodies: list[tuple[Any, ...]] = []
        retagged: list[int] = []
        tags: list[tuple[Any, ...]] = []
        for stored in changed:
            old, new = stored.before.record, stored.after.record
            moved = _change_trace(traces, old, new)
            if moved or not has_other_labels_only(stored.before, stored.after):
                rows.append((stored.id, project, traces[new.trace_id].id, *stored.after.columns))
            else:
                labels.append((stored.id, *labels_of(stored.after)))
            bodies.append((stored.id, stored.after.body))
            start = new.start_time_unix_nano
            if old.tags != new.tags or old.start_time_unix_nano != start:
                retagged.append(stored.id)
                tags.extend((stored.id, tag, project, start) for tag in set(new.tags))
        insert(self._connection, f"INSERT OR REPLACE INTO records ({COLUMNS}) VALUES", rows)
        update(self._connection, "records", LABEL_COLUMNS, labels)
        insert(self._connection, "INSERT OR REPLACE INTO bodies VALUES", bodies)
        if retagged:
            self._connection.execute(
                "DELETE FROM record_tags WHERE record IN (SELECT value FROM json_each(?))",
                (msgspec.json.encode(retagged).decode(),),
            )
        insert(self._connection, "INSERT INTO record_tags VALUES", tags)


def _change_trace(traces: Mapping[str, TraceRow], old: Record, new: Record) -> bool:
    """Count a changed record in its trace anew; return whether that is another trace than before."""
    left, joined = traces[old.trace_id], traces[new.trace_id]
    moved = left is not joined
    left.order_unknown |= left.state.take(old, None if moved else new)
    joined.order_unknown |= moved  # it was stored before some of the records that are there already
    joined.state.add(new)
    root_unknown = left.root_unknown or joined.root_unknown or _place_in_tree(old) != _place_in_tree(new)
    left.root_unknown = joined.root_unknown = root_unknown
    return moved


def _place_in_tree(record: Record) -> tuple[Any, ...]:
    """Return what decides where a record stands in its trace's tree, and what the tree is called."""
    return record.trace_id, record.parent_id, record.start_time_unix_nano, record.name


def _loses_content(stored: StoredRow) -> bool:
    """Return whether a change leaves out content that the stored record has."""
    return not set(stored.after.record.omitted) <= set(stored.before.record.omitted)
