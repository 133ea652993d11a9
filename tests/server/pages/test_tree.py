"""The rows of a trace: every record once, whatever its parent, in the right order and place."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everycall.record import Record, to_raw
from everycall.server.pages.tree import Axis, Row, axis_of, fold_steps, rails, rows_of, state_of

SECOND = 1_000_000_000


def call(name: str, parent: str | None = None, start: int = 0, end: int = 10, **fields: object) -> Record:
    """A record at `start` to `end`, in seconds after some moment."""
    moment = 1_700_000_000 * SECOND
    return Record(
        inference_id=name,
        trace_id="t",
        name=name,
        parent_id=parent,
        start_time_unix_nano=moment + start * SECOND,
        end_time_unix_nano=moment + end * SECOND,
        **fields,  # type: ignore[arg-type]
    )


def shape(records: list[Record]) -> list[tuple[str, int, str]]:
    return [(row.inference_id, row.depth, row.placement) for row in rows_of(records, axis_of(records))]


def test_children_follow_their_parent_by_start_time() -> None:
    records = [call("late", "root", 5), call("root"), call("early", "root", 1), call("leaf", "early", 2)]
    assert shape(records) == [("root", 0, "root"), ("early", 1, "child"), ("leaf", 2, "child"), ("late", 1, "child")]


def test_an_orphan_is_a_marked_root_with_its_children() -> None:
    records = [call("root"), call("lost", "never stored", 1), call("below", "lost", 2)]
    assert shape(records) == [("root", 0, "root"), ("lost", 0, "orphan"), ("below", 1, "child")]


def test_a_record_that_is_its_own_parent_is_a_marked_root() -> None:
    assert shape([call("self", "self"), call("below", "self", 1)]) == [("self", 0, "circle"), ("below", 1, "child")]


def test_a_cycle_starts_at_its_first_record_and_keeps_its_descendants() -> None:
    records = [call("hanging", "a", 0), call("a", "b", 3), call("b", "c", 1), call("c", "a", 2)]
    assert shape(records) == [
        ("b", 0, "circle"),
        ("a", 1, "child"),
        ("hanging", 2, "child"),
        ("c", 2, "child"),
    ]


STEP: dict[str, Any] = {"attributes": to_raw({"everycall.dialect": "opentelemetry"})}


def test_folded_steps_hand_their_children_to_the_call_above() -> None:
    records = [
        call("root", **STEP),
        call("request", "root", 1, **STEP),
        call("query", "request", 2, **STEP),
        call("model", "query", 3, kind="llm"),
        call("tool", "request", 4, kind="tool"),
        call("inner query", "tool", 5, **STEP),
        call("last", "root", 6, kind="llm"),
    ]
    rows = rows_of(records, axis_of(records))
    folded = fold_steps(rows)
    assert [(row.name, row.depth, row.folded) for row in folded] == [
        ("root", 0, 2),
        ("model", 1, 0),
        ("tool", 1, 1),
        ("last", 1, 0),
    ]
    assert [row.step for row in rows] == [False, True, True, False, False, True, False]


def test_a_step_whose_parent_is_not_stored_keeps_its_row() -> None:
    records = [call("orphan", "never stored", **STEP), call("model", "orphan", 1, kind="llm")]
    rows = rows_of(records, axis_of(records))
    assert [row.name for row in fold_steps(rows)] == ["orphan", "model"]


names = st.integers(0, 24).map(str)


@given(st.dictionaries(names, st.tuples(st.none() | names, st.integers(0, 20), st.integers(0, 20)), max_size=25))
def test_every_record_is_one_row_below_its_parent_and_inside_the_axis(
    given_records: dict[str, tuple[str | None, int, int]],
) -> None:
    records = [call(name, parent, start, end) for name, (parent, start, end) in given_records.items()]
    rows = rows_of(records, axis_of(records))
    assert sorted(row.inference_id for row in rows) == sorted(given_records)
    for index, row in enumerate(rows):
        if row.placement == "child":
            above = next(other for other in reversed(rows[:index]) if other.depth < row.depth)
            assert (above.inference_id, above.depth) == (row.parent_id, row.depth - 1)
        else:
            assert row.depth == 0
        assert row.left is not None
        assert row.width is not None
        assert 0 <= row.left <= row.left + row.width <= 100.0001


@given(st.lists(st.integers(0, 6), max_size=30))
def test_a_guide_line_continues_exactly_while_a_sibling_follows(steps: list[int]) -> None:
    depths: list[int] = []
    for step in steps:
        depths.append(min(step, depths[-1] + 1 if depths else 0))
    rows = [row_at(depth) for depth in depths]
    for index, (levels, own) in enumerate(rails(rows, 99)):
        for level in range(1, depths[index] + 1):
            rest = depths[index + 1 :]
            ended = next((place for place, depth in enumerate(rest) if depth < level), len(rest))
            follows = level in rest[:ended]
            assert (own if level == depths[index] else level in levels) == follows


def row_at(depth: int) -> Row:
    records = [call(str(level), str(level - 1) if level else None) for level in range(depth + 1)]
    return rows_of(records, Axis(0, 0.0, ()))[depth]


def test_a_chain_of_ten_thousand_nested_calls_needs_no_recursion() -> None:
    records = [call(str(level), str(level - 1) if level else None) for level in range(10_000)]
    assert [row.depth for row in rows_of(records, axis_of(records))] == list(range(10_000))


def test_bars_are_placed_by_the_times() -> None:
    records = [call("root", None, 0, 10), call("half", "root", 5, 10, time_to_first_token=2.5)]
    root, half = rows_of(records, axis_of(records))
    assert (root.left, root.width, root.first_token) == (0, 100, None)
    assert (half.left, half.width, half.first_token) == (50, 50, 25)


def test_unknown_times_have_no_bar_and_do_not_stretch_the_axis() -> None:
    records = [call("root", None, 0, 8), Record(inference_id="x", trace_id="t", parent_id="root")]
    axis = axis_of(records)
    assert axis.seconds == 8
    untimed = next(row for row in rows_of(records, axis) if row.inference_id == "x")
    assert (untimed.left, untimed.width) == (None, None)


def test_an_end_before_the_start_is_taken_from_the_latency() -> None:
    wrong = call("x", None, 5, 1, latency=2.0)
    assert axis_of([wrong]).seconds == 2
    assert axis_of([call("x", None, 5, 1, latency=1e300)]).seconds == 1e9


def test_a_trace_without_duration_has_a_full_bar_and_no_ticks() -> None:
    axis = axis_of([call("x", None, 3, 3)])
    assert (axis.seconds, axis.ticks) == (0, ())
    (row,) = rows_of([call("x", None, 3, 3)], axis)
    assert (row.left, row.width) == (0, 100)


@pytest.mark.parametrize(
    ("seconds", "step"),
    [(4, 1), (10, 2), (60, 15), (192, 60), (3_600, 900), (864_000, 172_800), (1, 0.2), (0.01, 0.002)],
)
def test_the_axis_has_round_ticks(seconds: float, step: float) -> None:
    lasting = Record(inference_id="x", trace_id="t", start_time_unix_nano=SECOND, latency=float(seconds))
    ticks = axis_of([lasting]).ticks
    assert ticks[1][0] == pytest.approx(step)
    assert ticks[1][1] == pytest.approx(step / seconds * 100)
    assert ticks[-1][0] <= seconds


@pytest.mark.parametrize(
    ("status", "error_type", "state"),
    [
        ("success", None, "success"),
        ("error", "ValueError", "error"),
        ("error", "cancelled", "cancelled"),
        ("error", "abandoned", "abandoned"),
        ("success", "cancelled", "success"),
    ],
)
def test_a_stopped_call_differs_from_a_failed_one(status: str, error_type: str | None, state: str) -> None:
    assert state_of(call("x", status=status, error_type=error_type)) == state
