"""Counting each model response once: which records of a trace describe the same response, and which of them counts.

A framework's model call and the provider's client below it record the same request twice; so do two instrumentations
of one client. Both records have the provider's response id. Pure functions; `duplicates` calls them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from everycall import limits
from everycall.dialects.marks import DIALECT
from everycall.record import ABSENT, Record

__all__ = ["counted_in"]


def counted_in(records: Sequence[Record]) -> Mapping[str, str]:
    """Return the records that do not count, each with the record that counts in its place (both by `inference_id`).

    `records` are those of one trace with the same response id. Two of them describe the same response if different
    libraries (`scope`) made them, and one is the parent of the other, or both have the same parent, or they ran at the
    same time. The innermost record with token counts counts, as it is nearest to the provider. The result does not
    depend on the order of `records`.

    If more than `limits.SAME_ANSWER_MAX` records share an id, it is not an id but a constant (of a test, or of a small
    server). Then all of them count.
    """
    if len(records) < 2 or len(records) > limits.SAME_ANSWER_MAX:
        return {}
    ordered = sorted(_outermost_first(records), key=_knows_tokens)
    inner_of: dict[str, str] = {}
    for place, outer in enumerate(ordered):
        for inner in reversed(ordered[place + 1 :]):
            if _same_call(outer, inner):
                inner_of[outer.inference_id] = inner.inference_id
                break
    return {outer: _innermost(inner_of, inner) for outer, inner in inner_of.items()}


def _innermost(inner_of: Mapping[str, str], inference_id: str) -> str:
    """Follow `inner_of` to its end. It has no cycle: each step goes forward in one order."""
    while inference_id in inner_of:
        inference_id = inner_of[inference_id]
    return inference_id


def _same_call(outer: Record, inner: Record) -> bool:
    above = inner.parent_id == outer.inference_id or outer.parent_id == inner.inference_id
    if outer.scope == inner.scope:
        return above and _is_foreign(outer) and _is_foreign(inner)
    if above:
        return True
    if outer.parent_id is not None and outer.parent_id == inner.parent_id:
        return True
    return (
        min(outer.start_time_unix_nano, inner.start_time_unix_nano) > 0
        and outer.start_time_unix_nano <= inner.end_time_unix_nano
        and inner.start_time_unix_nano <= outer.end_time_unix_nano
    )


def _is_foreign(record: Record) -> bool:
    """Return whether a record was made of another instrumentation's span: those double their own calls as well."""
    return record.attributes is not ABSENT and DIALECT.encode() in bytes(record.attributes)


def _knows_tokens(record: Record) -> bool:
    return record.input_tokens is not None or record.output_tokens is not None


def _outermost_first(records: Sequence[Record]) -> list[Record]:
    """Return the records by depth, a parent before its children.

    Within a level, the one that started first comes first; of those, the one that ran longer.
    """
    remaining = sorted(
        records, key=lambda one: (one.start_time_unix_nano, -one.end_time_unix_nano, one.scope or "", one.inference_id)
    )
    ordered: list[Record] = []
    while remaining:
        ids = {one.inference_id for one in remaining}
        outermost = (one for one in remaining if one.parent_id not in ids or one.parent_id == one.inference_id)
        first = next(outermost, remaining[0])  # a cycle of parents has no outermost: take the first to start
        ordered.append(first)
        remaining.remove(first)
    return ordered
