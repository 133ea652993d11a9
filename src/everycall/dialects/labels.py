"""Labels that spans inherit from their parents: the user, session, trace name and tags."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from everycall import limits
from everycall.record import Record

__all__ = ["hand_down", "labels_of_parent"]

_LABELS: Final = ("end_user_identifier", "session_id", "trace_name")


def labels_of_parent(record: Record, parent: Record) -> dict[str, Any]:
    """Return the labels that a record inherits from its parent: those it lacks, and further tags."""
    labels: dict[str, Any] = {
        name: value
        for name in _LABELS
        if getattr(record, name) is None and (value := getattr(parent, name)) is not None
    }
    if parent.tags and len(record.tags) < limits.TAGS_MAX:
        tags = [tag for tag in parent.tags if tag not in record.tags]
        if tags:
            labels["tags"] = [*record.tags, *tags][: limits.TAGS_MAX]
    return labels


def hand_down(records: Sequence[Record]) -> list[Record]:
    """Return the records with the labels that they inherit from each other.

    The store does the same for parents that arrive in another request. Here it costs less, because the records are not
    yet encoded.
    """
    by_id = {record.inference_id: record for record in records}
    settled: set[str] = set()
    for key in list(by_id):
        path: list[str] = []
        at: str | None = key
        while at is not None and at in by_id and at not in settled:
            settled.add(at)
            path.append(at)
            at = by_id[at].parent_id
        for name in reversed(path):
            record = by_id[name]
            parent = by_id.get(record.parent_id or "")
            labels = labels_of_parent(record, parent) if parent is not None else None
            if labels:
                by_id[name] = msgspec.structs.replace(record, **labels)
    return list(by_id.values()) if len(by_id) == len(records) else list(records)
