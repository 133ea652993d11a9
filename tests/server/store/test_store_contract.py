"""The contract of `everycall.server.store.base`, as tests that every store has to pass."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from everycall import limits
from everycall.record import ABSENT, Cut, Record, encode, to_json, to_raw
from everycall.server.store.base import Store
from everycall.server.store.errors import NoEarlierVersion, StoreError, VersionConflict
from everycall.server.store.sqlite import SqliteStore
from everycall.server.store.values import (
    ApiKey,
    ClientReport,
    Deployment,
    DeploymentUse,
    RecordQuery,
    TraceQuery,
)

STORES: dict[str, Callable[[Path], Store]] = {"sqlite": lambda folder: SqliteStore(folder / "everycall.db")}
P = "default"
SECOND = 10**9
NOON = 1_700_000_000 * SECOND


def record_query(**filters: Any) -> RecordQuery:
    return RecordQuery(**filters)


def trace_query(**filters: Any) -> TraceQuery:
    return TraceQuery(**filters)


@pytest.fixture(params=sorted(STORES))
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    opened = STORES[request.param](tmp_path)
    await opened.open()
    yield opened
    await opened.close()


def call(number: int, trace: str = "t", **fields: Any) -> Record:
    """A record that starts `number` seconds after noon and lasts half a second."""
    start = NOON + number * SECOND
    times = {"start_time_unix_nano": start, "end_time_unix_nano": start + SECOND // 2}
    return Record(**{"inference_id": f"r{number}", "trace_id": trace, "name": f"call {number}", **times, **fields})


FULL: dict[str, Any] = {
    "inference_id": "full",
    "trace_id": "order-42",
    "trace_name": "support \u0000 desk",
    "parent_id": "root",
    "name": "naïve 🦉 \x00\x1e\x1f \\ \" ' % _",
    "kind": "llm",
    "end_user_identifier": "u\x00-7",
    "session_id": "s-1",
    "deployment_id": "p-1",
    "llm_inputs": to_raw({"x": "Golang"}),
    "llm_configuration": to_raw({"model": "gpt-4o", "messages": [{"role": "user", "content": "{{x}}"}]}),
    "inputs": to_raw({"big": 123456789012345678901234567890, "deep": json.loads("[" * 60 + "]" * 60), "\x00": 1.5e300}),
    "content": "line one\nline two\x00\x1e end",
    "output": to_raw([{"tool": "look_up", "arguments": {}}]),
    "target": to_raw("gold"),
    "metadata": to_raw({"purpose": "testing"}),
    "tags": ["beta", "α", "nul\x00"],
    "model": "gpt-4o",
    "provider": "openai",
    "input_tokens": 2**53,
    "output_tokens": 0,
    "total_tokens": 2**53,
    "usage": {"cached": 3, "reasoning": 4},
    "cost": 0.1,
    "cost_source": "genai-prices",
    "price_version": "2026-01-01",
    "cache": True,
    "cache_hit": False,
    "saved_cost": 0.0,
    "status": "error",
    "error": "ValueError: no\nTraceback",
    "error_type": "builtins.ValueError",
    "latency": 0.25,
    "time_to_first_token": 0.125,
    "start_time_unix_nano": 2**63 - 2,
    "end_time_unix_nano": 2**63 - 1,
    "omitted": ["inputs"],
    "truncated": {"content": Cut(bytes=10, kept=5, sha256="00")},
    "sdk": "everycall-python/0.1.0",
    "scope": "everycall",
    "attributes": to_raw({"exception.type": "ValueError"}),
}
OTHER: dict[str, Any] = {
    "trace_id": "order-43",
    "trace_name": "sales",
    "parent_id": "another",
    "name": "renamed",
    "kind": "embedding",
    "end_user_identifier": "u-8",
    "session_id": "s-2",
    "deployment_id": "p-2",
    "llm_inputs": to_raw({"y": "Fiber"}),
    "llm_configuration": to_raw({"model": "gpt-5"}),
    "inputs": to_raw([1, 2, {"a": None}]),
    "content": "other",
    "output": to_raw(False),
    "target": to_raw({"score": 1}),
    "metadata": to_raw({"score": "0.5"}),
    "tags": ["gamma"],
    "model": "text-embedding-3",
    "provider": "azure",
    "input_tokens": 7,
    "output_tokens": 8,
    "total_tokens": 15,
    "usage": {"cached": 1},
    "cost": 0.2,
    "cost_source": "client",
    "price_version": "2026-02-02",
    "cache": False,
    "cache_hit": True,
    "saved_cost": 0.3,
    "status": "success",
    "error": "other",
    "error_type": "cancelled",
    "latency": 1.0,
    "time_to_first_token": 0.5,
    "start_time_unix_nano": NOON,
    "end_time_unix_nano": NOON + SECOND,
    "omitted": ["outputs"],
    "truncated": {"inputs": Cut(kept=1)},
    "sdk": "other/1",
    "scope": "other",
    "attributes": to_raw({"a": [1]}),
}

WHOLE: dict[str, Any] = {**FULL, "omitted": []}
"""A record without omitted content."""


def plain(value: Any) -> Any:
    """A field's value as plain JSON."""
    return json.loads(encode(Record(inference_id="i", trace_id="t", truncated=value)))["truncated"]


def test_the_examples_cover_every_field() -> None:
    fields = set(Record.__struct_fields__)
    assert set(FULL) == fields - {"project_name", "counted_in"}
    assert set(OTHER) == fields - {"project_name", "inference_id", "counted_in"}
    assert all(FULL[name] != OTHER[name] for name in OTHER)


async def test_a_record_comes_back_as_it_was(store: Store) -> None:
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
async def test_every_field_can_be_given_later(store: Store, name: str) -> None:
    # A later copy in which only this field (and the two that name the record) is given.
    await store.commit(P, [Record(**WHOLE)])
    given = {"trace_id": FULL["trace_id"], name: OTHER[name]}
    await store.commit(P, [Record(inference_id="full", **given)])
    expected = WHOLE if name == "status" else {**WHOLE, **given}  # success is what is not said
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


async def test_patches_add_up_and_none_takes_a_field_away(store: Store) -> None:
    await store.merge(P, "full", {"target": "a", "metadata": {"a": 1}})
    await store.merge(P, "full", {"target": "b", "content": None})
    await store.commit(P, [Record(**FULL)])
    changed = {"target": to_raw("b"), "metadata": to_raw({"a": 1}), "content": None}
    assert await store.record(P, "full") == Record(**{**FULL, **changed})


@pytest.mark.parametrize(
    ("fields", "said"),
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
async def test_what_cannot_be_set_is_said(store: Store, fields: dict[str, Any], said: str) -> None:
    await store.commit(P, [call(1)])
    with pytest.raises(StoreError, match=said):
        await store.merge(P, "r1", fields)
    assert await store.record(P, "r1") == call(1)


async def test_a_record_that_moves_takes_its_sums_along(store: Store) -> None:
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
    ("bad", "said"),
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
async def test_a_bad_record_is_refused_alone(store: Store, bad: Record, said: str) -> None:
    commit = await store.commit(P, [call(1), bad, call(3)])
    assert commit.committed == 2
    (refusal,) = commit.refused
    assert (refusal.index, refusal.inference_id) == (1, "r2")
    assert said in refusal.reason
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


async def test_sums_know_what_they_do_not_know(store: Store) -> None:
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
    assert (summary.cost, summary.unpriced) == (0.3, 1)
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


async def test_the_root_names_the_trace_whatever_order_records_come_in(store: Store) -> None:
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
    found = (await store.records(P, RecordQuery(search=text))).records
    assert [record.inference_id for record in found] == ["r5", "r4", "r3", "r2", "r1"]
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
        seen: list[str] = []
        cursor = None
        while True:
            page = await store.records(P, replace(query, cursor=cursor))
            seen += [record.inference_id for record in page.records]
            cursor = page.next_cursor
            if cursor is None:
                break
            assert len(page.records) == 4
        assert seen == [f"r{i}" for i in reversed(range(25))]
    for filters in (TraceQuery(limit=2), TraceQuery(limit=2, tag="a"), TraceQuery(limit=2, search="call")):
        seen, cursor = [], None
        while True:
            traces = await store.traces(P, replace(filters, cursor=cursor))
            seen += [trace.trace_id for trace in traces.traces]
            cursor = traces.next_cursor
            if cursor is None:
                break
        assert seen == ["t4", "t3", "t2", "t1", "t0"]
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
async def test_text_that_is_none_is_an_error_not_a_crash(store: Store, text: str) -> None:
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


async def test_clients_report_their_balance(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CLIENTS_MAX", 3)
    for number in range(5):
        await store.commit(P, [call(number)], ClientReport(f"host:{number}:1", {"recorded": number}, number + 1))
    await store.commit(P, [], ClientReport("host:3:1", {"recorded": 99, "dropped": {"refused": 1}}, 10))
    await store.commit(P, [], ClientReport("host:3:1", {"recorded": 1}, 9))  # came late
    assert [(report.client, report.balance["recorded"]) for report in await store.clients(P)] == [
        ("host:3:1", 99),
        ("host:4:1", 4),
        ("host:2:1", 2),
    ]
    odd = ClientReport("host:9:1", {"recorded": {1, 2}, "x": object()}, 20)
    assert (await store.commit(P, [call(9)], odd)).committed == 1  # a report never costs a record
    assert (await store.commit(P, [], ClientReport("host:8:1", {"recorded": 2}))).committed == 0
    assert (await store.clients(P))[0].seen_unix_nano > NOON


async def test_a_report_without_records_reaches_the_projects_of_its_client(store: Store) -> None:
    for project in ("a", "b"):
        await store.commit(project, [call(1)], ClientReport("host:1:1", {"recorded": 1}, 1))
    await store.commit("c", [call(1)], ClientReport("host:2:1", {"recorded": 7}, 1))
    await store.report("a", ClientReport("host:1:1", {"recorded": 2}, 2))
    await store.report("other", ClientReport("host:1:1", {"recorded": 3}, 3), everywhere=True)
    await store.report("new", ClientReport("host:3:1", {"recorded": 4}, 4), everywhere=True)
    await store.report("a", ClientReport("host:1:1", {"recorded": 1}, 1))  # came late
    reports = {
        project: [(report.client, report.balance["recorded"]) for report in await store.clients(project)]
        for project in ("a", "b", "c", "other", "new")
    }
    assert reports == {
        "a": [("host:1:1", 3)],
        "b": [("host:1:1", 3)],
        "c": [("host:2:1", 7)],
        "other": [],
        "new": [("host:3:1", 4)],
    }


def prompt(**fields: Any) -> Deployment:
    messages = ({"role": "user", "content": "I want a Hello World program in {{x}}. 🦉\x00"},)
    return Deployment(
        **{
            "deployment_id": "p-1",
            "version": 0,
            "project_name": P,
            "name": "hello",
            "messages": messages,
            "model": "gpt-4o",
            "provider": "openai",
            **fields,
        }
    )


@pytest.mark.parametrize("careful_first", [True, False])
async def test_what_one_copy_leaves_out_is_taken_from_none(store: Store, careful_first: bool) -> None:
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
    found = await store.record(P, "r1")
    assert found is not None
    assert b"SECRET" not in encode(found)
    assert (found.omitted, to_json(found.inputs), found.error_type) == (["outputs"], {"q": "asked"}, "ValueError")
    assert (found.input_tokens, found.output_tokens) == (3, 5)


async def test_deployments_are_versions_that_never_change(store: Store) -> None:
    first = await store.put_deployment(prompt(model_params={"temp": 0.5}, function_call={"name": "f"}))
    assert (first.version, first.active, first.messages) == (1, True, prompt().messages)
    assert first.created_unix_nano > NOON
    assert await store.put_deployment(prompt(model_params={"temp": 0.5}, function_call={"name": "f"})) == first
    second = await store.put_deployment(prompt(functions=({"name": "f", "parameters": {}},), name="renamed"))
    assert second.version == 2
    assert await store.deployment(P, "p-1") == second
    assert await store.deployment(P, "p-1", 1) == replace(first, active=False)
    assert await store.deployment(P, "p-1", 3) is None
    assert await store.deployment(P, "p-2") is None
    assert await store.deployment("other", "p-1") is None
    again = await store.put_deployment(prompt(model_params={"temp": 0.5}, function_call={"name": "f"}))
    assert again == first  # the content of an old version is that version
    assert await store.deployment(P, "p-1", 2) == replace(second, active=False)
    await store.put_deployment(prompt(deployment_id="p-0", name="a"))
    await store.put_deployment(prompt(project_name="other"))
    assert [(d.deployment_id, d.version) for d in await store.deployments(P)] == [("p-0", 1), ("p-1", 1)]
    with pytest.raises(StoreError):
        await store.put_deployment(prompt(model_params={"x": object()}))


async def test_which_version_is_served_and_was(store: Store) -> None:
    for number in (1, 2, 3):
        made = await store.put_deployment(prompt(name=f"v{number}\x00\x1e", created_by="ci"), activate=number != 3)
        assert (made.version, made.active) == (number, number != 3)
    served = await store.deployment(P, "p-1")
    assert served is not None
    assert served.version == 2
    would = await store.put_deployment(prompt(name="v4"), dry_run=True)
    assert (would.version, would.active) == (4, True)
    rows = await store.deployment_versions(P, "p-1")
    assert [(row.version, row.active, row.name, row.created_by) for row in rows] == [
        (3, False, "v3\x00\x1e", "ci"),
        (2, True, "v2\x00\x1e", "ci"),
        (1, False, "v1\x00\x1e", "ci"),
    ]
    assert [row.version for row in await store.deployment_versions(P, "p-1", before=3, limit=1)] == [2]
    for change in (
        store.activate_deployment(P, "p-1", 1, expected=1),
        store.roll_back_deployment(P, "p-1", expected=0),
        store.put_deployment(prompt(name="v4"), expected=3),
    ):
        with pytest.raises(VersionConflict) as raised:
            await change
        assert raised.value.active == 2
    assert await store.activate_deployment(P, "p-1", 4) is None
    assert await store.activate_deployment("other", "p-1", 1) is None
    assert await store.roll_back_deployment(P, "p-2") is None
    third = await store.activate_deployment(P, "p-1", 3, by="ann", expected=2)
    assert third is not None
    assert (third.version, third.active) == (3, True)
    back = await store.roll_back_deployment(P, "p-1", by="bob")
    assert back is not None
    assert (back.version, back.active) == (2, True)
    history = await store.deployment_activations(P, "p-1")
    assert [(one.version, one.by, one.roll_back_to) for one in history] == [
        (2, "bob", 1),
        (3, "ann", 2),
        (2, "ci", 1),
        (1, "ci", None),
    ]
    assert await store.deployment_activations("other", "p-1") == []
    await store.roll_back_deployment(P, "p-1")
    with pytest.raises(NoEarlierVersion):
        await store.roll_back_deployment(P, "p-1")
    archived = await store.activate_deployment(P, "p-1", 0, by="ann")
    assert archived is not None
    assert (archived.version, archived.active) == (3, False)
    assert await store.deployment(P, "p-1") is None
    assert list(await store.deployments(P)) == []
    assert [one.version for one in await store.deployments(P, active=False)] == [3]


async def test_deployments_are_listed_in_pages(store: Store) -> None:
    for number in range(5):
        await store.put_deployment(prompt(deployment_id=f"p-{number}", name=f"n{number % 2}"))
    first = await store.deployments(P, limit=3)
    rest = await store.deployments(P, after=(first[-1].name, first[-1].deployment_id), limit=3)
    assert [one.deployment_id for one in (*first, *rest)] == ["p-0", "p-2", "p-4", "p-1", "p-3"]


async def test_how_deployments_were_used(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    records = [
        call(
            number, deployment_id="p-1", cost=None if number == 3 else 0.5, status="error" if number == 2 else "success"
        )
        for number in range(1, 5)
    ]
    await store.commit(P, [*records, call(9, deployment_id="p-2"), call(10)])
    await store.commit("other", [call(1, deployment_id="p-1", cost=100.0)])
    latest = max(record.start_time_unix_nano for record in records)
    used = await store.deployment_uses(P, ["p-1", "p-none"], 0)
    assert used == {
        "p-1": DeploymentUse(4, 1, 1.5, 1, 4, latest, whole=True),
        "p-none": DeploymentUse(0, 0, None, 0, 0, None, whole=True),
    }
    later = await store.deployment_uses(P, ["p-1"], latest + 1)
    assert later == {"p-1": DeploymentUse(0, 0, None, 0, 0, latest, whole=True)}
    monkeypatch.setattr(limits, "DEPLOYMENT_COSTS_MAX", 4)
    shared = await store.deployment_uses(P, ["p-1", "p-none"], 0)  # two for each, the latest first
    assert shared["p-1"] == DeploymentUse(4, 1, 0.5, 1, 2, latest, whole=True)
    monkeypatch.setattr(limits, "DEPLOYMENT_USES_MAX", 3)
    assert (await store.deployment_uses(P, ["p-1"], 0))["p-1"].whole is False


async def test_ended_sessions_are_kept_until_they_run_out(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ENDED_SESSIONS_MAX", 2)
    later = int(time.time()) + 1_000
    assert await store.ended_sessions() == {}
    await store.end_session("old", 5)
    await store.end_session("a", later)
    assert await store.ended_sessions() == {"a": later}
    await store.end_session("b", later + 1)
    await store.end_session("c", later + 2)
    assert await store.ended_sessions() == {"b": later + 1, "c": later + 2}


async def test_keys_are_stored_and_revoked(store: Store) -> None:
    key = ApiKey("aa", "ci", P, "write", 2)
    await store.put_key(key)
    await store.put_key(ApiKey("bb", "old", "other", "admin", 1))
    await store.put_key(replace(key, revoked_unix_nano=5))
    assert list(await store.keys()) == [ApiKey("bb", "old", "other", "admin", 1), replace(key, revoked_unix_nano=5)]


async def test_responses_are_cached_and_the_least_used_go(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CACHE_BYTES_MAX", 100)
    for key in ("a", "b", "c"):
        await store.cache(P, key, b"x" * 29)
    await store.cache("other", "a", b"other" * 10)
    hit = await store.cached(P, "a", 60)
    assert hit is not None
    assert (hit.body, hit.created_unix_nano > NOON) == (b"x" * 29, True)
    await store.cache(P, "d", b"y" * 30)  # 4 of them are too many: b, not used since, goes
    assert [(await store.cached(P, key, 60)) is not None for key in "abcd"] == [True, False, True, True]
    await store.cache(P, "a", b"z" * 29)  # takes the place of itself
    hit = await store.cached(P, "a", 60)
    assert hit is not None
    assert hit.body == b"z" * 29
    assert await store.cached(P, "a", 0) is None
    assert await store.cached(P, "none", 60) is None
    await store.cache(P, "big", b"x" * 101)
    assert await store.cached(P, "big", 60) is None
    assert await store.clear_cache(P) == 3
    assert await store.cached(P, "a", 60) is None
    assert await store.cached("other", "a", 60) is not None
    for key in ("e", "f", "g"):
        await store.cache(P, key, b"x" * 30)
    assert await store.clear_cache(P) == 3
    monkeypatch.setattr(limits, "CACHE_AGE_MAX_S", -1.0)
    await store.cache(P, "h", b"")
    await store.cache(P, "i", b"")
    assert await store.cached(P, "h", 60) is None


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
