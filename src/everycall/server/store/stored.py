"""A stored record while a batch changes it: its number, its row before and after. Used by `ingest` and `duplicates`."""

from __future__ import annotations

from dataclasses import dataclass

from everycall.server.store.bulk import SEPARATOR
from everycall.server.store.rows import Row, read

__all__ = ["StoredRow", "read_stored"]


@dataclass(slots=True)
class StoredRow:
    """A record in the database: its number, and its row before and after this batch."""

    id: int
    before: Row
    after: Row

    @property
    def changed(self) -> bool:
        """Whether the batch changes what is stored."""
        return self.after.body != self.before.body


def read_stored(numbers: str, bodies: bytes) -> dict[str, StoredRow]:
    """Return stored records by `inference_id`, from `group_concat` of their numbers and of their bodies."""
    records = {}
    for number, body in zip(numbers.split(","), bodies.split(SEPARATOR), strict=True):
        row = read(body)
        records[row.record.inference_id] = StoredRow(int(number), row, row)
    return records
