"""One answer, one bill: which records of a trace are of the same answer, and which of them counts. Pure.

A framework's model call and the provider's client below it record the same request twice; so do two instrumentations
of one client. Both name the answer by the provider's id. `ingest` asks here whenever such records meet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from everycall import limits
from everycall.dialects.translate import DIALECT
from everycall.record import ABSENT, Record

__all__ = ["counted_in"]


def counted_in(records: Sequence[Record]) -> Mapping[str, str]:
    """Return, of records of one trace with the same answer's id, those that do not count, and where each is counted.

    Two records are of one answer when different libraries (`scope`) made them, and one lies directly below the other,
    or both below the same call, or they ran at the same time. Of these the innermost that knows its tokens counts: it
    is the provider's own account. The result depends on what the records say, not on the order in which they came.

    More than `limits.SAME_ANSWER_MAX` records with one id show that it is no id (a test's or a small server's
    constant): then all of them count.
    """
    if len(records) < 2 or len(records) > limits.SAME_ANSWER_MAX:
        return {}
    ordered = sorted(_outermost_first(records), key=_knows_tokens)
    found: dict[str, str] = {}
    for place, outer in enumerate(ordered):
        for inner in reversed(ordered[place + 1 :]):
            if _same_call(outer, inner):
                found[outer.inference_id] = inner.inference_id
                break
    return {outer: _end(found, inner) for outer, inner in found.items()}


def _end(found: Mapping[str, str], inner: str) -> str:
    """Return where a record is counted in the end: what it is counted in may itself be counted further in."""
    while inner in found:  # ends: each step goes on in the same order
        inner = found[inner]
    return inner


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
    """Tell whether a record was made of another instrumentation's span: those double their own calls as well."""
    return record.attributes is not ABSENT and DIALECT.encode() in bytes(record.attributes)


def _knows_tokens(record: Record) -> bool:
    return record.input_tokens is not None or record.output_tokens is not None


def _outermost_first(records: Sequence[Record]) -> list[Record]:
    """Return the records by depth: a parent before its children, else what started first or ran longer first."""
    waiting = sorted(
        records, key=lambda one: (one.start_time_unix_nano, -one.end_time_unix_nano, one.scope or "", one.inference_id)
    )
    ordered: list[Record] = []
    while waiting:
        ids = {one.inference_id for one in waiting}
        free = (one for one in waiting if one.parent_id not in ids or one.parent_id == one.inference_id)
        first = next(free, waiting[0])  # a ring of parents has no outermost: the first to start
        ordered.append(first)
        waiting.remove(first)
    return ordered
