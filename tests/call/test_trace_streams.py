"""Streams: whose child is what, to whom a stream belongs, and how much of it is kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from everycall import current, span, trace
from everycall.record import Record, to_json
from everycall.testing import capture_records

# --- whose child is what ---


def by_name(records: list[Record]) -> dict[str, Record]:
    return {record.name: record for record in records}


def test_the_consumers_spans_are_not_children() -> None:
    @trace(name="steps")
    def steps() -> Iterator[int]:
        with span("inside"):
            yield 1
            with span("leaf"):
                pass
        yield 2

    with capture_records() as records:
        with span("consumer"):
            for item in steps():
                with span(f"between {item}"):
                    pass
    named_records = by_name(records)
    parents = {name: record.parent_id for name, record in named_records.items()}
    ids = {name: record.inference_id for name, record in named_records.items()}
    assert parents == {
        "consumer": None,
        "steps": ids["consumer"],
        "inside": ids["steps"],
        "leaf": ids["inside"],  # still open across the yield, within the body only
        "between 1": ids["consumer"],
        "between 2": ids["consumer"],
    }


async def test_the_consumers_spans_are_not_children_async() -> None:
    @trace(name="steps")
    async def steps() -> AsyncIterator[int]:
        with span("inside"):
            yield 1
            await asyncio.sleep(0)
            async with span("leaf"):
                pass
        yield 2

    with capture_records() as records:
        async with span("consumer"):
            async for item in steps():
                with span(f"between {item}"):
                    await asyncio.sleep(0)
    named_records = by_name(records)
    ids = {name: record.inference_id for name, record in named_records.items()}
    assert {name: record.parent_id for name, record in named_records.items()} == {
        "consumer": None,
        "steps": ids["consumer"],
        "inside": ids["steps"],
        "leaf": ids["inside"],
        "between 1": ids["consumer"],
        "between 2": ids["consumer"],
    }


@pytest.mark.parametrize("kind", ["generator", "async generator"])
async def test_a_stream_belongs_to_the_call_that_created_it(kind: str) -> None:
    """A web framework consumes a response's stream after the endpoint has returned it."""

    @trace(name="stream")
    def steps(items: list[int]) -> Iterator[int]:
        yield from items

    @trace(name="stream")
    async def async_steps(items: list[int]) -> AsyncIterator[int]:
        for item in items:
            yield item

    @trace(name="endpoint")
    def endpoint(items: list[int]) -> Any:
        return (steps if kind == "generator" else async_steps)(items)

    items = [1, 2]
    with capture_records() as records:
        stream = endpoint(items)
        items.append(3)
        with span("server"):
            received_items = [item async for item in stream] if kind == "async generator" else list(stream)
    assert received_items == [1, 2, 3]
    named_records = by_name(records)
    assert named_records["stream"].parent_id == named_records["endpoint"].inference_id
    assert named_records["stream"].trace_id == named_records["endpoint"].trace_id
    assert to_json(named_records["stream"].inputs) == {"items": [1, 2]}
    assert to_json(named_records["stream"].output) == [1, 2, 3]


def test_interleaved_generators_keep_their_own_context() -> None:
    @trace
    def steps(name: str) -> Iterator[Any]:
        for _ in range(3):
            call = current()
            assert call is not None
            yield call.inference_id

    with capture_records() as records:
        pairs = list(zip(steps("a"), steps("b"), strict=True))
    ids = [record.inference_id for record in records]
    assert sorted({one for pair in pairs for one in pair}) == sorted(ids)
    assert all(pair[0] != pair[1] for pair in pairs)


async def test_steps_in_different_tasks() -> None:
    @trace
    async def steps() -> AsyncIterator[Any]:
        for _ in range(3):
            call = current()
            yield call.inference_id if call else None

    with capture_records() as records:
        stream = steps()
        items: list[Any] = [await asyncio.create_task(stream.__anext__()) for _ in range(3)]  # type: ignore[arg-type]
        await stream.aclose()  # type: ignore[attr-defined]
        assert not current().inference_id
    assert items == [records[0].inference_id] * 3


# --- bounds ---


def test_a_long_stream_of_texts_is_joined_and_bounded() -> None:
    @trace
    def steps(count: int, text: str) -> Iterator[str]:
        for _ in range(count):
            yield text

    with capture_records() as records:
        assert sum(len(item) for item in steps(30_000, "token ")) == 180_000
        assert sum(1 for _ in steps(300, "x" * 100_000)) == 300
    assert to_json(records[0].output) == "token " * 30_000
    assert records[0].truncated == {}
    assert len(to_json(records[1].output)) <= 2**20
    assert records[1].truncated["output"].kept > 0
    assert records[1].time_to_first_token is not None


def test_a_long_stream_of_objects_is_bounded() -> None:
    @trace
    def steps() -> Iterator[dict[str, int]]:
        for i in range(12_000):
            yield {"i": i}

    with capture_records() as records:
        assert sum(1 for _ in steps()) == 12_000
    assert len(to_json(records[0].output)) == 10_000
    assert "output" in records[0].truncated


def test_items_are_recorded_as_they_were() -> None:
    @trace
    def steps() -> Iterator[list[int]]:
        values = [1]
        yield values
        values.append(2)
        yield values

    with capture_records() as records:
        list(steps())
    assert to_json(records[0].output) == [[1], [1, 2]]
