"""The store's contract for lists: filters, search, pages, cursors and bounds."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from everycall import limits
from everycall.record import ABSENT, Record, to_raw
from everycall.server.store.base import Store
from everycall.server.store.errors import StoreError
from everycall.server.store.values import (
    ApiKey,
    RecordQuery,
    TraceQuery,
)
from everycall_testkit.store_records import (
    NOON,
    SECOND,
    P,
    call,
    record_query,
    trace_query,
)


async def test_records_are_found_by_every_filter(store: Store) -> None:
    odd = call(
        2,
        trace="u",
        name="odd",
        trace_name="tn",
        kind="llm",
        model="m",
        provider="p",
        status="error",
        end_user_identifier="e",
        session_id="s",
        deployment_id="d",
        tags=["x", "y"],
        cache_hit=True,
    )
    await store.commit(P, [call(1, tags=["y"], cache_hit=False), odd, call(3)])
    for name, value in {
        "trace_id": "u",
        "name": "odd",
        "trace_name": "tn",
        "kind": "llm",
        "model": "m",
        "provider": "p",
        "status": "error",
        "end_user_identifier": "e",
        "session_id": "s",
        "deployment_id": "d",
        "tag": "x",
        "cache_hit": True,
    }.items():
        assert (await store.records(P, record_query(**{name: value}))).records == (odd,), name
        for hostile in ("' OR 1=1 --", "%", "_", "\x00", "x'00'", "*", "Odd"):
            if not isinstance(value, bool):
                assert (await store.records(P, record_query(**{name: hostile}))).records == (), name
    assert [r.name for r in (await store.records(P, RecordQuery(tag="y"))).records] == ["odd", "call 1"]
    assert [r.name for r in (await store.records(P, RecordQuery(status="success"))).records] == ["call 3", "call 1"]
    assert [r.name for r in (await store.records(P, RecordQuery(cache_hit=False))).records] == ["call 1"]
    between = RecordQuery(since=NOON + 2 * SECOND, until=NOON + 3 * SECOND)
    assert (await store.records(P, between)).records == (odd,)
    assert (await store.records(P, replace(between, tag="x", trace_id="u", kind="llm", search="odd"))).records == (odd,)
    assert (await store.records(P, replace(between, tag="x", trace_id="t"))).records == ()
    assert len((await store.records(P, RecordQuery(since=-(2**70), until=2**70))).records) == 3


async def test_traces_are_found_by_every_filter(store: Store) -> None:
    odd = {"trace_name": "tn", "end_user_identifier": "e", "session_id": "s"}
    await store.commit(P, [call(1, "one", tags=["y"]), call(2, "two", **odd, tags=["x", "y"]), call(3, "three")])
    await store.commit(P, [call(4, "two", status="error", content="needle")])
    for name, value in {
        "trace_name": "tn",
        "status": "error",
        "end_user_identifier": "e",
        "session_id": "s",
        "tag": "x",
        "search": "needle",
    }.items():
        page = await store.traces(P, trace_query(**{name: value}))
        assert [trace.trace_id for trace in page.traces] == ["two"], name
        assert page.next_cursor is None
        for hostile in ("' OR 1=1 --", "%", "_", "\x00"):
            assert (await store.traces(P, trace_query(**{name: hostile}))).traces == (), name

    async def ids(**filters: Any) -> list[str]:
        return [trace.trace_id for trace in (await store.traces(P, TraceQuery(**filters))).traces]

    assert await ids() == ["two", "three", "one"]
    assert await ids(tag="y") == ["two", "one"]
    assert await ids(status="success") == ["three", "one"]
    assert await ids(since=NOON + 2 * SECOND) == ["two", "three"]
    assert await ids(until=NOON + 3 * SECOND) == ["two", "one"]
    assert await ids(since=NOON + 2 * SECOND, until=NOON + 3 * SECOND, tag="y", search="call") == ["two"]


@pytest.mark.parametrize(
    "text",
    [
        "plain",
        "100%",
        "under_score",
        'quo"te',
        "back\\slash",
        "line\nbreak",
        "nul\x00in",
        "grün",
        "🦉",
        '"key": "v',
        "'; --",
    ],
)
async def test_search_is_literal(store: Store, text: str) -> None:
    def hay(number: int, **fields: Any) -> Record:
        return call(number, **{"name": "n", **fields})

    records = [
        hay(1, name=f"a {text} b"),
        hay(2, trace_name=f"{text}"),
        hay(3, content=f"… {text} …"),
        hay(4, inputs=to_raw({"q": [f"<{text}>"]})),
        hay(5, inputs=type(ABSENT)(json.dumps({"q": text}).encode())),  # escaped to ASCII
        hay(6, output=to_raw(text), metadata=to_raw({"m": text}), error=text, tags=[text]),  # not searched
        hay(7, content=text[:-1] + "?"),
    ]
    await store.commit(P, records)
    matches = (await store.records(P, RecordQuery(search=text))).records
    assert [record.inference_id for record in matches] == ["r5", "r4", "r3", "r2", "r1"]
    assert [trace.trace_id for trace in (await store.traces(P, TraceQuery(search=text))).traces] == ["t"]


async def test_search_in_json_text(store: Store) -> None:
    await store.commit(P, [call(1, inputs=to_raw({"city": "Oslo"})), call(2)])
    assert len((await store.records(P, RecordQuery(search='"city":"Oslo"'))).records) == 1
    assert (await store.records(P, RecordQuery(search="null"))).records == ()
    assert len((await store.records(P, RecordQuery(search=""))).records) == 2


async def test_pages_follow_each_other(store: Store) -> None:
    # Three records start at the same time, so that a page ends between equals.
    records = [call(i, f"t{i % 5}", start_time_unix_nano=NOON + i // 3, tags=["a"]) for i in range(25)]
    await store.commit(P, records)
    for query in (RecordQuery(limit=4), RecordQuery(limit=4, tag="a"), RecordQuery(limit=4, search="call")):
        ids: list[str] = []
        cursor = None
        while True:
            page = await store.records(P, replace(query, cursor=cursor))
            ids += [record.inference_id for record in page.records]
            cursor = page.next_cursor
            if cursor is None:
                break
            assert len(page.records) == 4
        assert ids == [f"r{i}" for i in reversed(range(25))]
    for filters in (TraceQuery(limit=2), TraceQuery(limit=2, tag="a"), TraceQuery(limit=2, search="call")):
        ids, cursor = [], None
        while True:
            traces = await store.traces(P, replace(filters, cursor=cursor))
            ids += [trace.trace_id for trace in traces.traces]
            cursor = traces.next_cursor
            if cursor is None:
                break
        assert ids == ["t4", "t3", "t2", "t1", "t0"]
    assert (await store.records(P, RecordQuery(limit=25))).next_cursor is None
    assert (await store.traces(P, TraceQuery(limit=5))).next_cursor is None


async def test_a_trace_is_read_oldest_first_in_bounded_pages(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    records = [call(i) for i in range(7)]
    await store.commit(P, records[::-1])
    assert (await store.trace(P, "t")).records == tuple(records)
    monkeypatch.setattr(limits, "TRACE_RECORDS_MAX", 3)
    first = await store.trace(P, "t")
    second = await store.trace(P, "t", first.next_cursor)
    third = await store.trace(P, "t", second.next_cursor)
    assert first.records + second.records + third.records == tuple(records)
    assert third.next_cursor is None
    monkeypatch.setattr(limits, "PAGE_BYTES_MAX", 1)  # one record is always given
    assert (await store.trace(P, "t")).records == (records[0],)


async def test_a_cursor_serves_only_its_own_list(store: Store) -> None:
    await store.commit(P, [call(i, f"t{i}") for i in range(4)])
    mine = (await store.records(P, RecordQuery(limit=2))).next_cursor
    traces = (await store.traces(P, TraceQuery(limit=2))).next_cursor
    assert mine is not None
    assert traces is not None
    changed = ("A" if mine[0] != "A" else "B") + mine[1:]
    for wrong in ("", "x", "é", "\ud800", mine[:-1], mine + "A", mine[::-1], changed, traces, "A" * 10_000):
        with pytest.raises(StoreError, match="cursor"):
            await store.records(P, RecordQuery(cursor=wrong))
        with pytest.raises(StoreError, match="cursor"):
            await store.trace(P, "t1", wrong)
    for wrong in ("", "x", mine):
        with pytest.raises(StoreError, match="cursor"):
            await store.traces(P, TraceQuery(cursor=wrong))
    with pytest.raises(StoreError, match="cursor"):
        await store.records(P, RecordQuery(kind="llm", cursor=mine))
    with pytest.raises(StoreError, match="cursor"):
        await store.records("other", RecordQuery(cursor=mine))
    assert len((await store.records(P, RecordQuery(limit=1000, cursor=mine))).records) == 2


async def test_lists_are_bounded(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    await store.commit(P, [call(i, f"t{i}") for i in range(5)])
    monkeypatch.setattr(limits, "PAGE_ROWS_MAX", 3)
    assert len((await store.records(P, RecordQuery(limit=10**9))).records) == 3
    assert len((await store.traces(P, TraceQuery(limit=10**9))).traces) == 3
    for limit in (0, -1):
        with pytest.raises(StoreError, match="limit"):
            await store.records(P, RecordQuery(limit=limit))
        with pytest.raises(StoreError, match="limit"):
            await store.traces(P, TraceQuery(limit=limit))


@pytest.mark.parametrize("text", ["\ud800", "a\udfff"])
async def test_invalid_text_is_an_error(store: Store, text: str) -> None:
    with pytest.raises(StoreError):
        await store.records(P, RecordQuery(name=text))
    with pytest.raises(StoreError):
        await store.traces(P, TraceQuery(search=text))
    with pytest.raises(StoreError):
        await store.record(text, "x")
    with pytest.raises(StoreError):
        await store.commit(text, [call(1)])
    with pytest.raises(StoreError):
        await store.merge(P, text, {"name": "x"})
    with pytest.raises(StoreError):
        await store.put_key(ApiKey(text, "n", P, "read", 1))


async def test_a_trace_keeps_a_bounded_union_of_tags(store: Store) -> None:
    await store.commit(P, [call(i, tags=[f"tag {i}", "all", "all"]) for i in range(limits.TAGS_MAX + 10)])
    summary = await store.trace_summary(P, "t")
    assert summary is not None
    assert len(summary.tags) == limits.TAGS_MAX
    assert len((await store.traces(P, TraceQuery(tag="all"))).traces) == 1
    assert len((await store.records(P, RecordQuery(tag="tag 137"))).records) == 1
    await store.merge(P, "r0", {"tags": ["new"]})
    assert (await store.records(P, RecordQuery(tag="tag 0"))).records == ()
    assert (await store.traces(P, TraceQuery(tag="tag 0"))).traces == ()
    assert len((await store.traces(P, TraceQuery(tag="new"))).traces) == 1
