"""The contract of `everycall.server.store.base`, as tests that every store has to pass: records, merges, sums."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from everycall import limits
from everycall.record import ABSENT, Record, encode, to_json, to_raw
from everycall.server.store.base import Store
from everycall.server.store.errors import StoreError
from everycall.server.store.values import (
    ApiKey,
    ClientReport,
    RecordQuery,
    TraceQuery,
)
from everycall_testkit.store_records import (
    FULL,
    OTHER,
    WHOLE,
    P,
    call,
    plain,
)


def test_the_examples_cover_every_field() -> None:
    fields = set(Record.__struct_fields__)
    assert set(FULL) == fields - {"project_name", "counted_in"}
    assert set(OTHER) == fields - {"project_name", "inference_id", "counted_in"}
    assert all(FULL[name] != OTHER[name] for name in OTHER)


async def test_a_stored_record_is_returned_unchanged(store: Store) -> None:
    full = Record(**FULL)
    assert (await store.commit(P, [full])).committed == 1
    back = await store.record(P, "full")
    assert back == full
    assert encode(back) == encode(full)
    assert (await store.records(P, RecordQuery())).records == (full,)
    assert (await store.trace(P, "order-42")).records == (full,)
    assert await store.record(P, "fullx") is None


async def test_the_same_record_again_changes_nothing(store: Store) -> None:
    records = [call(1, kind="llm", cost=0.1), call(2)]
    assert (await store.commit(P, records)).committed == 2
    before = await store.trace_summary(P, "t")
    assert (await store.commit(P, [*records, *records])).committed == 4
    assert await store.trace_summary(P, "t") == before
    assert (await store.records(P, RecordQuery())).records == (records[1], records[0])


@pytest.mark.parametrize("name", sorted(OTHER.keys() - {"omitted"}))
async def test_every_field_can_be_added_later(store: Store, name: str) -> None:
    # A later copy in which only this field (and the two that name the record) is given.
    await store.commit(P, [Record(**WHOLE)])
    later = {"trace_id": FULL["trace_id"], name: OTHER[name]}
    await store.commit(P, [Record(inference_id="full", **later)])
    expected = WHOLE if name == "status" else {**WHOLE, **later}  # success is the default and not in the wire form
    assert await store.record(P, "full") == Record(**expected)


@pytest.mark.parametrize("name", sorted(OTHER))
@pytest.mark.parametrize("early", [False, True])
async def test_every_field_can_be_set(store: Store, name: str, early: bool) -> None:
    value = OTHER[name]
    if name == "truncated":
        fields = {name: plain(value)}
    else:
        fields = {name: to_json(value) if isinstance(value, type(ABSENT)) else value}
    if early:
        await store.merge(P, "full", fields)
        assert await store.record(P, "full") is None
        assert (await store.records(P, RecordQuery())).records == ()
        assert (await store.traces(P, TraceQuery())).traces == ()
        assert await store.trace_summary(P, FULL["trace_id"]) is None
        assert list(await store.projects()) == []
    await store.commit(P, [Record(**WHOLE)])
    if not early:
        await store.merge(P, "full", fields)
    expected = Record(**{**WHOLE, name: value})
    assert await store.record(P, "full") == expected
    # A copy that was still on its way does not undo what was set.
    await store.commit(P, [Record(**WHOLE)])
    assert await store.record(P, "full") == expected
    assert [trace.records for trace in (await store.traces(P, TraceQuery())).traces] == [1]


async def test_patches_are_merged_and_none_removes_a_field(store: Store) -> None:
    await store.merge(P, "full", {"target": "a", "metadata": {"a": 1}})
    await store.merge(P, "full", {"target": "b", "content": None})
    await store.commit(P, [Record(**FULL)])
    changed = {"target": to_raw("b"), "metadata": to_raw({"a": 1}), "content": None}
    assert await store.record(P, "full") == Record(**{**FULL, **changed})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"colour": "red"}, "colour"),
        ({"inference_id": "x"}, "inference_id"),
        ({"project_name": "x"}, "project_name"),
        ({"trace_id": None}, "trace_id"),
        ({"input_tokens": "many"}, "input_tokens"),
        ({"cost": -1}, "cost"),
        ({"name": "\ud800"}, "cannot be set"),
        ({"inputs": {1, 2, object}}, "cannot be set"),
    ],
)
async def test_an_error_names_a_field_that_cannot_be_set(store: Store, fields: dict[str, Any], message: str) -> None:
    await store.commit(P, [call(1)])
    with pytest.raises(StoreError, match=message):
        await store.merge(P, "r1", fields)
    assert await store.record(P, "r1") == call(1)


async def test_moving_a_record_updates_both_sums(store: Store) -> None:
    await store.commit(P, [call(1, kind="llm", cost=0.5, tags=["a"]), call(2)])
    await store.merge(P, "r1", {"trace_id": "other"})
    left, joined = await store.trace_summary(P, "t"), await store.trace_summary(P, "other")
    assert left is not None
    assert joined is not None
    assert (left.records, left.cost, left.tags, left.name) == (1, None, (), "call 2")
    assert (joined.records, joined.cost, joined.tags, joined.name) == (1, 0.5, ("a",), "call 1")
    await store.merge(P, "r2", {"trace_id": "other"})
    assert await store.trace_summary(P, "t") is None
    assert [trace.trace_id for trace in (await store.traces(P, TraceQuery())).traces] == ["other"]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (call(2, name="\ud800"), "Unicode"),
        (call(2, inputs=type(ABSENT)(b'{"a":')), "malformed"),
        (call(2, inputs=type(ABSENT)(b'"\xff"')), "Unicode"),
        (call(2, inputs=type(ABSENT)(b"[" * 100_000 + b"]" * 100_000)), "deep"),
        (call(2, input_tokens=-1), "input_tokens"),
        (call(2, start_time_unix_nano=2**63), "start_time_unix_nano"),
        (call(2, tags=["x"] * (limits.TAGS_MAX + 1)), "tags"),
        (call(2, trace_id=""), "trace_id"),
        (call(2, status="odd"), "status"),
        (call(2, output=object()), "object"),
        (call(2, content="x" * (limits.RECORD_BYTES_MAX + 1)), "allowed"),
    ],
)
async def test_a_bad_record_is_refused_alone(store: Store, bad: Record, reason: str) -> None:
    commit = await store.commit(P, [call(1), bad, call(3)])
    assert commit.committed == 2
    (refusal,) = commit.refused
    assert (refusal.index, refusal.inference_id) == (1, "r2")
    assert reason in refusal.reason
    assert (await store.records(P, RecordQuery())).records == (call(3), call(1))


async def test_projects_do_not_see_each_other(store: Store) -> None:
    await store.commit("a", [call(1, content="secret", tags=["x"])], ClientReport("host:1:1", {"recorded": 1}))
    await store.commit("b", [call(1, content="public", tags=["x"])])
    (mine,) = (await store.records("b", RecordQuery(tag="x", trace_id="t"))).records
    assert (mine.content, mine.project_name) == ("public", "b")
    assert (await store.records("b", RecordQuery(search="secret"))).records == ()
    assert (await store.traces("b", TraceQuery(search="secret"))).traces == ()
    assert len((await store.traces("b", TraceQuery(tag="x"))).traces) == 1
    assert list(await store.clients("b")) == []
    await store.merge("b", "r1", {"content": "changed"})
    first = await store.record("a", "r1")
    assert first is not None
    assert first.content == "secret"
    assert (await store.records("none", RecordQuery())).records == ()
    assert (await store.records("none", RecordQuery(trace_id="t"))).records == ()
    assert (await store.trace("none", "t")).records == ()
    await store.put_key(ApiKey("00", "key", "c", "read", 1))
    assert list(await store.projects()) == ["a", "b", "c"]


async def test_sums_count_unknown_values(store: Store) -> None:
    leaf = {"kind": "llm", "parent_id": "r1"}
    await store.commit(P, [call(1, kind="chain", cost=9.0, input_tokens=9, trace_name="support")])
    summary = await store.trace_summary(P, "t")
    assert summary is not None
    assert (summary.cost, summary.input_tokens, summary.total_tokens, summary.saved_cost) == (None,) * 4
    assert (summary.leaves, summary.unpriced, summary.uncounted, summary.model, summary.models) == (0, 0, 0, None, 0)
    await store.commit(
        P,
        [
            call(4, cost=0.2, input_tokens=3, output_tokens=4, model="late", **leaf),
            call(3, cost=0.1, total_tokens=5, model="early", cache_hit=True, saved_cost=0.4, **leaf),
            call(5, **leaf, status="error", model="late"),
            call(6, kind="rerank", cost=7.0),
        ],
    )
    summary = await store.trace_summary(P, "t")
    assert summary is not None
    assert (summary.cost, summary.unpriced) == (0.3, 0)  # the call that failed has nothing to price
    assert (summary.input_tokens, summary.output_tokens, summary.total_tokens, summary.uncounted) == (3, 4, 12, 1)
    assert (summary.saved_cost, summary.cache_hits, summary.errors) == (0.4, 1, 1)
    assert (summary.model, summary.models, summary.records, summary.leaves) == ("early", 2, 5, 3)
    assert (summary.name, summary.trace_name, summary.duration) == ("call 1", "support", 5.5)


async def test_sums_do_not_drift(store: Store) -> None:
    await store.commit(P, [call(i, kind="llm", cost=0.1, saved_cost=0.7) for i in range(10)])
    for cost in (1e-9, 0.3, 1e6, 0.1):
        for number in range(10):
            await store.merge(P, f"r{number}", {"cost": cost})
    summary = await store.trace_summary(P, "t")
    assert summary is not None
    assert (summary.cost, summary.saved_cost) == (1.0, 7.0)
    await store.commit(P, [call(11, kind="llm", cost=1e300)])
    summary = await store.trace_summary(P, "t")
    assert summary is not None
    assert summary.cost == 1e9 + 1


async def test_the_root_names_the_trace_in_any_order_of_arrival(store: Store) -> None:
    names = []
    for record in (
        call(5, parent_id="r3"),
        call(4, parent_id="r3"),
        call(3, parent_id="r1"),
        call(2),
        call(1, parent_id="elsewhere"),
    ):
        await store.commit(P, [record])
        summary = await store.trace_summary(P, "t")
        assert summary is not None
        names.append(summary.name)
    # `call 2` has no parent, but `call 3` is without a stored one until `call 1` comes, and starts later.
    assert names == ["call 5", "call 4", "call 3", "call 2", "call 1"]


@pytest.mark.parametrize("careful_first", [True, False])
async def test_content_that_one_copy_omits_is_stored_from_none(store: Store, careful_first: bool) -> None:
    """In any order of arrival; content of the side that was not omitted stays."""
    careful = call(1, kind="llm", omitted=["outputs"], inputs=to_raw({"q": "asked"}), input_tokens=3)
    careless = call(
        1,
        content="SECRET",
        output=to_raw("SECRET"),
        attributes=to_raw({"noted": "SECRET"}),
        status="error",
        error="SECRET",
        error_type="ValueError",
        output_tokens=5,
    )
    copies = (careful, careless) if careful_first else (careless, careful)
    for copy in copies:
        await store.commit(P, [copy])
    stored = await store.record(P, "r1")
    assert stored is not None
    assert b"SECRET" not in encode(stored)
    assert (stored.omitted, to_json(stored.inputs), stored.error_type) == (["outputs"], {"q": "asked"}, "ValueError")
    assert (stored.input_tokens, stored.output_tokens) == (3, 5)


async def test_many_at_once(store: Store) -> None:
    """Eight writers, a full export and page reads at the same time: no error, and nothing is lost."""
    batches, size = 30, 25
    writing = True

    async def write(writer: int) -> None:
        for batch in range(batches):
            base = (writer * batches + batch) * size
            records = [call(base + i, f"t{writer}-{i % 5}", kind="llm", cost=0.01, tags=["a"]) for i in range(size)]
            assert (await store.commit(P, records)).committed == size
            await store.merge(P, f"r{base}", {"target": batch})
            await store.cache(P, f"{writer}-{batch}", b"body")

    async def export() -> int:
        cursor, count = None, 0
        while True:
            page = await store.records(P, RecordQuery(limit=500, cursor=cursor))
            count += len(page.records)
            cursor = page.next_cursor
            if cursor is None:
                return count

    async def read() -> int:
        reads = 0
        while writing:
            for trace in (await store.traces(P, TraceQuery(tag="a"))).traces[:3]:
                assert (await store.trace(P, trace.trace_id)).records
                await store.cached(P, "0-0", 60)
            await export()
            reads += 1
        return reads

    readers = [asyncio.create_task(read()) for _ in range(3)]
    await asyncio.gather(*(write(writer) for writer in range(8)))
    writing = False
    assert all(reads > 0 for reads in await asyncio.gather(*readers))
    assert await export() == 8 * batches * size
    traces = (await store.traces(P, TraceQuery(limit=1000))).traces
    assert sum(trace.records for trace in traces) == 8 * batches * size
    assert sum(round(100 * (trace.cost or 0)) for trace in traces) == 8 * batches * size
