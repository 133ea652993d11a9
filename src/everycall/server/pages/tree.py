"""A trace's records as the rows of a tree on a time axis. Pure functions; called by `views`.

Every record becomes exactly one row, whatever the parents are: a record whose parent is not among the records, that
names itself as its parent, or that is part of a cycle is shown as a root and marked.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from everycall._pricing.records import unpriced_reason
from everycall.record import Record
from everycall.semconv import ABANDONED, CANCELLED, ERROR, SUCCESS
from everycall.server.pages.origin import is_step

__all__ = ["Axis", "Row", "axis_of", "fold_steps", "rails", "rows_of", "state_of"]

ROOT: Final = "root"
CHILD: Final = "child"
ORPHAN: Final = "orphan"
CIRCLE: Final = "circle"
_NANOS: Final = 1_000_000_000
_LATENCY_MAX_S: Final = 1e9
_DAY: Final = 86_400
_CLOCK_STEPS: Final = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1_800, 3_600, 7_200, 21_600, 43_200, _DAY)


@dataclass(frozen=True, slots=True)
class Axis:
    """The time axis of a trace: first start, length in seconds, and ticks as `(seconds, percent of the length)`."""

    start_time_unix_nano: int
    seconds: float
    ticks: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Row:
    """One record in the tree. `placement` is root, child, orphan (parent not among the records) or circle.

    `state` is success, error, cancelled or abandoned. `left`, `width` and `first_token` are percent of the axis, None
    when the record's times are not known; `first_token` is measured from the bar's start. `unpriced` says why an
    inference call has no cost; `counted_in` is the record of the same answer whose figures are in the sums instead.
    `step` says that the record is no call (see `origin.is_step`); `folded` counts the steps below it that
    `fold_steps` took out.
    """

    inference_id: str
    parent_id: str | None
    name: str
    kind: str
    depth: int
    placement: str
    children: int
    state: str
    left: float | None
    width: float | None
    first_token: float | None
    latency: float | None
    total_tokens: int | None
    cost: float | None
    unpriced: str | None
    counted_in: str | None
    cache_hit: bool | None
    omitted: tuple[str, ...]
    truncated: bool
    step: bool = False
    folded: int = 0


def state_of(record: Record) -> str:
    """Return success or error; for a call that was stopped, cancelled or abandoned."""
    if record.status == SUCCESS:
        return SUCCESS
    return record.error_type if record.error_type in (CANCELLED, ABANDONED) else ERROR


def axis_of(records: Sequence[Record], marks: int = 5) -> Axis:
    """Return the axis for all records whose times are known, with about `marks` ticks at round numbers."""
    timed = [record for record in records if record.start_time_unix_nano]
    if not timed:
        return Axis(0, 0.0, ())
    start = min(record.start_time_unix_nano for record in timed)
    length = max(_end(record) for record in timed) - start
    seconds = length / _NANOS
    if length <= 0:
        return Axis(start, 0.0, ())
    step = _round_step(seconds / marks)
    ticks = tuple((index * step, index * step / seconds * 100) for index in range(int(seconds / step) + 1))
    return Axis(start, seconds, ticks)


def rows_of(records: Sequence[Record], axis: Axis) -> list[Row]:
    """Return every record once, parents before children, siblings by start time. Linear in the number of records."""
    ordered = sorted(records, key=lambda record: (record.start_time_unix_nano, record.end_time_unix_nano * -1))
    ids = {record.inference_id for record in ordered}
    children: dict[str, list[Record]] = {}
    roots: list[tuple[Record, str]] = []
    for record in ordered:
        if record.parent_id is None:
            roots.append((record, ROOT))
        elif record.parent_id == record.inference_id:
            roots.append((record, CIRCLE))
        elif record.parent_id not in ids:
            roots.append((record, ORPHAN))
        else:
            children.setdefault(record.parent_id, []).append(record)
    rows: list[Row] = []
    placed: set[str] = set()
    for record, placement in roots:
        _place(record, placement, children, placed, rows, axis)
    if len(placed) < len(ordered):  # the rest is part of a cycle, or below one
        for record in _circle_entries(ordered, placed):
            if record.inference_id not in placed:
                _place(record, CIRCLE, children, placed, rows, axis)
    return rows


def fold_steps(rows: Sequence[Row]) -> list[Row]:
    """Return the rows without the steps; what is below a step moves up to the call that the step belongs to."""
    remaining: list[Row] = []
    path: list[tuple[int, int | None]] = []  # depth of each row above this one, and its index in `remaining`
    above_top = 0  # how many of them were taken out
    for row in rows:
        while path and path[-1][0] >= row.depth:
            above_top -= path.pop()[1] is None
        if row.step and row.depth:
            owner = next((index for _, index in reversed(path) if index is not None), None)
            if owner is not None:
                remaining[owner] = replace(remaining[owner], folded=remaining[owner].folded + 1)
                path.append((row.depth, None))
                above_top += 1
                continue
        path.append((row.depth, len(remaining)))
        remaining.append(replace(row, depth=row.depth - above_top) if above_top else row)
    return remaining


def rails(rows: Sequence[Row], depth_max: int) -> list[tuple[tuple[int, ...], bool]]:
    """Return the guide lines of each row: the levels at which an ancestor's line passes, and whether its own continues.

    Levels are counted from 1 and end at `depth_max`, however deep the tree is.
    """
    lines: list[tuple[tuple[int, ...], bool]] = []
    open_levels: set[int] = set()
    for row in reversed(rows):
        depth = min(row.depth, depth_max)
        continues = depth in open_levels
        open_levels = {level for level in open_levels if level < depth}
        lines.append((tuple(sorted(open_levels)), continues))
        if depth:
            open_levels.add(depth)
    lines.reverse()
    return lines


def _place(
    top: Record, placement: str, children: dict[str, list[Record]], placed: set[str], rows: list[Row], axis: Axis
) -> None:
    stack = [(top, 0, placement)]
    while stack:
        record, depth, here = stack.pop()
        if record.inference_id in placed:
            continue
        placed.add(record.inference_id)
        below = children.get(record.inference_id, ())
        rows.append(_row(record, depth, here, len(below), axis))
        stack.extend((child, depth + 1, CHILD) for child in reversed(below))


def _circle_entries(ordered: Sequence[Record], placed: set[str]) -> list[Record]:
    """Return one record of each circle, the one that started first."""
    parents = {record.inference_id: record.parent_id for record in ordered if record.inference_id not in placed}
    place = {record.inference_id: index for index, record in enumerate(ordered)}
    done: set[str] = set()
    entries: list[Record] = []
    for first in parents:
        path: dict[str, int] = {}
        step: str | None = first
        while step is not None and step not in done and step not in path:
            path[step] = len(path)
            step = parents.get(step)
        if step is not None and step in path:
            circle = [member for member, index in path.items() if index >= path[step]]
            entries.append(ordered[min(place[member] for member in circle)])
        done.update(path)
    return entries


def _row(record: Record, depth: int, placement: str, below: int, axis: Axis) -> Row:
    left = width = first_token = None
    if record.start_time_unix_nano and axis.seconds > 0:
        span = axis.seconds * _NANOS
        left = (record.start_time_unix_nano - axis.start_time_unix_nano) / span * 100
        width = (_end(record) - record.start_time_unix_nano) / span * 100
        if record.time_to_first_token is not None:
            first_token = min(width, record.time_to_first_token / axis.seconds * 100)
    elif record.start_time_unix_nano:
        left, width = 0.0, 100.0
    return Row(
        inference_id=record.inference_id,
        parent_id=record.parent_id,
        name=record.name,
        kind=record.kind,
        depth=depth,
        placement=placement,
        children=below,
        state=state_of(record),
        left=left,
        width=width,
        first_token=first_token,
        latency=record.latency,
        total_tokens=record.total_tokens,
        cost=record.cost,
        unpriced=unpriced_reason(record),
        counted_in=record.counted_in,
        cache_hit=record.cache_hit,
        omitted=tuple(record.omitted),
        truncated=bool(record.truncated),
        step=is_step(record),
    )


def _end(record: Record) -> int:
    """Return the end of a record, from its latency if it has no end after its start."""
    if record.end_time_unix_nano >= record.start_time_unix_nano:
        return record.end_time_unix_nano
    return record.start_time_unix_nano + int(min(record.latency or 0, _LATENCY_MAX_S) * _NANOS)


def _round_step(rough: float) -> float:
    """Return a round step of at least `rough` seconds: as on a clock from one second on, decimal below."""
    enough = rough * 0.999
    if rough > _CLOCK_STEPS[0]:
        return next((float(step) for step in _CLOCK_STEPS if step >= enough), math.ceil(enough / _DAY) * float(_DAY))
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= enough)
