"""Properties of the store over generated records: exact round trips, and summaries that equal a fresh count."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from everycall.record import Record, decode, encode, to_raw
from everycall.semconv import KINDS, PRICED_KINDS
from everycall.server.store.base import Store
from everycall.server.store.sqlite import SqliteStore
from everycall.server.store.values import RecordQuery, TraceQuery

P = "default"


def with_store(work: Callable[[Store], Awaitable[None]]) -> None:
    async def run(folder: Path) -> None:
        store = SqliteStore(folder / "everycall.db")
        await store.open()
        try:
            await work(store)
        finally:
            await store.close()

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run(Path(folder)))


TEXT = st.text(max_size=20)
ID = st.text(min_size=1, max_size=12)
COUNT = st.integers(0, 2**53)
MONEY = st.floats(0, 1e12, allow_nan=False) | st.just(1e300)
NANOS = st.integers(0, 2**63 - 1)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**300), 2**300)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
RAW = JSON.map(to_raw) | JSON.map(lambda value: type(to_raw(None))(json.dumps(value, indent=1).encode()))
MAYBE: dict[str, st.SearchStrategy[Any]] = {
    "trace_name": TEXT,
    "parent_id": ID,
    "name": TEXT,
    "kind": st.sampled_from(KINDS) | TEXT,
    "end_user_identifier": ID,
    "session_id": ID,
    "deployment_id": ID,
    "content": TEXT,
    "tags": st.lists(TEXT, max_size=4),
    "model": TEXT,
    "provider": TEXT,
    "input_tokens": COUNT,
    "output_tokens": COUNT,
    "total_tokens": COUNT,
    "usage": st.dictionaries(TEXT, COUNT, max_size=2),
    "cost": MONEY,
    "cache": st.booleans(),
    "cache_hit": st.booleans(),
    "saved_cost": MONEY,
    "status": st.sampled_from(["success", "error"]),
    "error": TEXT,
    "latency": MONEY,
    "start_time_unix_nano": NANOS,
    "end_time_unix_nano": NANOS,
    **dict.fromkeys(("llm_inputs", "llm_configuration", "inputs", "output", "target", "metadata", "attributes"), RAW),
}
RECORD = st.fixed_dictionaries({"inference_id": ID, "trace_id": ID}, optional=MAYBE).map(
    lambda given: Record(**given)  # type: ignore[arg-type]
)


@settings(max_examples=40, deadline=None)
@given(st.lists(RECORD, min_size=1, max_size=12, unique_by=lambda record: record.inference_id))
def test_stored_records_are_returned_unchanged(records: list[Record]) -> None:
    lines = {record.inference_id: encode(record) for record in records}

    async def work(store: Store) -> None:
        assert (await store.commit(P, [decode(line) for line in lines.values()])).committed == len(lines)
        for key, line in lines.items():
            back = await store.record(P, key)
            assert back is not None
            assert encode(back) == line
        page = await store.records(P, RecordQuery(limit=1000))
        assert {record.inference_id: encode(record) for record in page.records} == lines
        for trace_id in {record.trace_id for record in records}:
            trace = await store.trace(P, trace_id)
            mine = {record.inference_id for record in records if record.trace_id == trace_id}
            assert {record.inference_id for record in trace.records} == mine
            starts = [record.start_time_unix_nano for record in trace.records]
            assert starts == sorted(starts)
        await store.commit(P, records)
        assert len((await store.records(P, RecordQuery(limit=1000))).records) == len(lines)

    with_store(work)


KEYS = [f"r{i}" for i in range(8)]
SMALL = st.fixed_dictionaries(
    {"inference_id": st.sampled_from(KEYS), "trace_id": st.sampled_from(["t", "u"])},
    optional={
        "parent_id": st.sampled_from([*KEYS, "never"]),
        "name": st.sampled_from("abc"),
        "trace_name": st.sampled_from("abc"),
        "end_user_identifier": st.sampled_from("abc"),
        "session_id": st.sampled_from("abc"),
        "kind": st.sampled_from(["llm", "embedding", "chain"]),
        "tags": st.lists(st.sampled_from("abc"), max_size=3),
        "model": st.sampled_from("abc"),
        "input_tokens": st.integers(0, 9),
        "output_tokens": st.integers(0, 9),
        "total_tokens": st.integers(0, 9),
        "cost": st.sampled_from([0.0, 0.1, 0.2, 0.3, 1e-7]),
        "saved_cost": st.sampled_from([0.0, 0.1, 0.7]),
        "cache_hit": st.booleans(),
        "status": st.sampled_from(["success", "error"]),
        "start_time_unix_nano": st.integers(0, 6),
        "end_time_unix_nano": st.integers(0, 9),
    },
)
STEP = st.tuples(st.just("commit"), st.lists(SMALL, min_size=1, max_size=5)) | st.tuples(st.just("merge"), SMALL)


@settings(max_examples=120, deadline=None)
@given(st.lists(STEP, min_size=1, max_size=8))
def test_summaries_equal_a_fresh_count(steps: list[tuple[str, Any]]) -> None:
    """For any records in any order, a trace's summary equals a fresh count of its stored records."""

    async def work(store: Store) -> None:
        arrived: list[str] = []
        for kind, value in steps:
            if kind == "commit":
                await store.commit(P, [Record(**fields) for fields in value])
                arrived += [fields["inference_id"] for fields in value if fields["inference_id"] not in arrived]
            else:
                fields = {name: value_of_field for name, value_of_field in value.items() if name != "inference_id"}
                await store.merge(P, value["inference_id"], fields)
            records = []
            for key in dict.fromkeys(arrived):
                record = await store.record(P, key)
                assert record is not None
                records.append(record)
            for trace_id in ("t", "u"):
                await check(store, trace_id, [record for record in records if record.trace_id == trace_id])
            listed = (await store.traces(P, TraceQuery())).traces
            assert {trace.trace_id for trace in listed} == {record.trace_id for record in records}
            assert [t.end_time_unix_nano for t in listed] == sorted(
                (t.end_time_unix_nano for t in listed), reverse=True
            )

    with_store(work)


def failed_without_tokens(record: Record) -> bool:
    return record.status == "error" and record.input_tokens is record.output_tokens is record.total_tokens is None


async def check(store: Store, trace_id: str, records: list[Record]) -> None:
    summary = await store.trace_summary(P, trace_id)
    if not records:
        assert summary is None
        return
    assert summary is not None
    ordered = sorted(records, key=lambda record: record.start_time_unix_nano)  # stable: then by arrival
    leaves = [record for record in ordered if record.kind in PRICED_KINDS]
    ids = {record.inference_id for record in records}
    roots = [r for r in ordered if r.parent_id not in ids or r.parent_id == r.inference_id]
    totals = [
        r.total_tokens
        if r.total_tokens is not None
        else None
        if r.input_tokens is None or r.output_tokens is None
        else r.input_tokens + r.output_tokens
        for r in leaves
    ]

    def first(name: str) -> Any:
        return next((getattr(r, name) for r in ordered if getattr(r, name) is not None), None)

    def total(values: list[Any]) -> Any:
        known_values = [value for value in values if value is not None]
        return round(sum(known_values), 9) if known_values else None

    starts = [r.start_time_unix_nano for r in records if r.start_time_unix_nano]
    ends = [max(r.start_time_unix_nano, r.end_time_unix_nano) for r in records]
    assert summary.name == (roots or ordered)[0].name
    assert summary.trace_name == first("trace_name")
    assert summary.end_user_identifier == first("end_user_identifier")
    assert summary.session_id == first("session_id")
    assert set(summary.tags) == {tag for r in records for tag in r.tags}
    assert summary.start_time_unix_nano == min(starts, default=0)
    assert summary.end_time_unix_nano == max(ends)
    assert summary.records == len(records)
    assert summary.leaves == len(leaves)
    assert summary.errors == sum(r.status == "error" for r in records)
    assert summary.cache_hits == sum(bool(r.cache_hit) for r in records)
    assert summary.input_tokens == total([r.input_tokens for r in leaves])
    assert summary.output_tokens == total([r.output_tokens for r in leaves])
    assert summary.total_tokens == total(totals)
    assert summary.uncounted == totals.count(None)
    assert summary.cost == total([r.cost for r in leaves])
    assert summary.unpriced == sum(r.cost is None and not failed_without_tokens(r) for r in leaves)
    assert summary.saved_cost == total([r.saved_cost for r in leaves])
    firsts = {r.model: r.start_time_unix_nano for r in reversed(leaves) if r.model is not None}
    assert summary.models == len(firsts)
    if firsts:
        assert summary.model is not None
        assert firsts[summary.model] == min(firsts.values())
    else:
        assert summary.model is None
