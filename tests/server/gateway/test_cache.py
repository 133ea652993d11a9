"""The response cache: what is the same request, one call for many that ask at once, and what is never kept."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from everycall.server.gateway import CompletionRequest, CompletionResponse, Gateway, ProviderSettings
from everycall.server.store.sqlite import SqliteStore
from everycall.server.store.values import RecordQuery

BASE: dict[str, Any] = {
    "model": "gpt-3.5-turbo",
    "provider": "openai",
    "messages": [{"role": "user", "content": "{{x}}"}],
    "model_params": {"temp": 0.5},
    "functions": [{"name": "f"}],
}


class Bench:
    def __init__(self, store: SqliteStore, base_url: str) -> None:
        self.store = store
        settings = [
            ProviderSettings("openai", "openai", base_url, "sk-x"),
            ProviderSettings("other", "openai_compatible", base_url),
        ]
        self.gateway = Gateway(store, {one.name: one for one in settings})

    async def ask(self, project: str = "default", changed: Any = None, **fields: Any) -> CompletionResponse:
        body = {"llm_configuration": {**BASE, **(changed or {})}, "llm_inputs": {"x": "hi"}, **fields}
        return await self.gateway.complete(project, msgspec.convert(body, CompletionRequest))


@pytest.fixture
async def bench(tmp_path: Path, provider: Any) -> AsyncIterator[Bench]:
    store = SqliteStore(tmp_path / "cache.db")
    await store.open()
    made = Bench(store, provider.base_url)
    yield made
    await made.gateway.close()
    await store.close()


@pytest.mark.parametrize(
    "fields",
    [
        {"trace_id": "t"},
        {"trace_name": "n"},
        {"name": "n"},
        {"metadata": {"a": 1}},
        {"tags": ["a"]},
        {"end_user_identifier": "u"},
        {"target": "t"},
        {"log_sample_rate": 0.0},
        {"inference_id": "i"},
        {"llm_inputs": {"x": "hi", "unused": 1}},
        {"changed": {"messages": [{"role": "user", "content": "hi"}]}},
        {"changed": {"functions": [{"type": "function", "function": {"name": "f"}}]}},
        {"changed": {"provider": None}},
    ],
    ids=str,
)
async def test_what_does_not_shape_the_answer_is_not_in_the_key(bench: Bench, fields: dict[str, Any]) -> None:
    await bench.ask()
    assert (await bench.ask(**fields)).cache_hit is True


@pytest.mark.parametrize(
    "fields",
    [
        {"llm_inputs": {"x": "ho"}},
        {"project": "another"},
        {"changed": {"model": "gpt-4o"}},
        {"changed": {"provider": "other"}},
        {"changed": {"model_params": {"temp": 0.3}}},
        {"changed": {"model_params": {"temp": 0.5, "max_length": 9}}},
        {"changed": {"functions": []}},
        {"changed": {"function_call": "auto"}},
        {"changed": {"history": [{"role": "user", "content": "before"}]}},
        {"changed": {"messages": [{"role": "system", "content": "{{x}}"}]}},
        {"cache": False},
    ],
    ids=str,
)
async def test_what_shapes_the_answer_is(bench: Bench, provider: Any, fields: dict[str, Any]) -> None:
    await bench.ask()
    assert (await bench.ask(**fields)).cache_hit is False
    assert len(provider.requests) == 2


async def test_cache_false_writes_nothing_either(bench: Bench) -> None:
    await bench.ask(cache=False)
    assert (await bench.ask()).cache_hit is False


async def test_identical_requests_at_once_are_one_call(bench: Bench, provider: Any) -> None:
    hold = threading.Event()
    provider.reply(hold=hold)
    calls = [asyncio.create_task(bench.ask()) for _ in range(20)]
    assert await asyncio.to_thread(provider.arrived.acquire, timeout=10)
    hold.set()
    answers = await asyncio.gather(*calls)
    assert len(provider.requests) == 1
    assert sorted(answer.cache_hit for answer in answers) == [False] + [True] * 19
    assert len({answer.inference_id for answer in answers}) == 20
    stored = (await bench.store.records("default", RecordQuery())).records
    assert [record.cost for record in stored].count(0.0) == 19
    assert sum(record.cost or 0 for record in stored) == pytest.approx(0.000411)


async def test_a_caller_that_gives_up_does_not_take_the_answer_from_the_others(bench: Bench, provider: Any) -> None:
    hold = threading.Event()
    provider.reply(hold=hold)
    first = asyncio.create_task(bench.ask())
    assert await asyncio.to_thread(provider.arrived.acquire, timeout=10)
    second = asyncio.create_task(bench.ask())
    await asyncio.sleep(0)
    first.cancel()
    hold.set()
    assert (await second).status == "success"
    await bench.gateway.close()
    assert len(provider.requests) == 1
    assert (
        len((await bench.store.records("default", RecordQuery())).records) == 2
    )  # the first was paid for all the same


async def test_another_key_is_another_call(bench: Bench, provider: Any) -> None:
    hold = threading.Event()
    provider.reply(hold=hold, status=401, error="wrong key")
    wrong = asyncio.create_task(bench.ask(provider_api_key="k"))
    assert await asyncio.to_thread(provider.arrived.acquire, timeout=10)
    right = await bench.ask()
    hold.set()
    assert ((await wrong).status, right.status) == ("error", "success")


async def test_errors_are_not_kept(bench: Bench, provider: Any) -> None:
    provider.reply(status=400, error="no")
    assert (await bench.ask()).status == "error"
    assert (await bench.ask()).status == "success"


async def test_an_entry_that_cannot_be_read_is_no_entry(bench: Bench, provider: Any) -> None:
    keys: list[str] = []
    keep = bench.store.cache

    async def spoil(project: str, key: str, body: bytes) -> None:
        keys.append(key)
        await keep(project, key, b'{"content": 3}')

    bench.store.cache = spoil  # type: ignore[method-assign]
    await bench.ask()
    bench.store.cache = keep  # type: ignore[method-assign]
    assert (await bench.ask()).cache_hit is False
    assert (await bench.ask()).cache_hit is True
    assert len(keys[0]) == 64


async def test_clearing(gateway_server: Any) -> None:
    import httpx

    body = {"llm_configuration": {"model": "gpt-3.5-turbo", "messages": [{"content": "hi"}]}}
    headers = {"x-api-key": gateway_server.key}
    async with httpx.AsyncClient(base_url=gateway_server.address, headers=headers, timeout=30) as api:
        hits = [(await api.post("/api/parea/v1/completion", json=body)).json()["cache_hit"] for _ in range(2)]
        cleared = (await api.delete("/api/cache")).json()
        again = (await api.post("/api/parea/v1/completion", json=body)).json()["cache_hit"]
        elsewhere = (await api.delete("/api/cache", params={"project": "empty"})).json()
    assert (hits, cleared, again, elsewhere) == ([False, True], {"cleared": 1}, False, {"cleared": 0})


async def test_an_old_answer_is_asked_for_again(bench: Bench, provider: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    await bench.ask()
    monkeypatch.setattr("everycall.limits.CACHE_AGE_MAX_S", -1.0)
    assert (await bench.ask()).cache_hit is False
    assert len(provider.requests) == 2


async def test_an_answer_larger_than_the_cache_is_not_kept(
    bench: Bench, provider: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("everycall.limits.CACHE_BYTES_MAX", 1_000)
    provider.reply(content="x" * 2_000)
    assert (await bench.ask()).status == "success"
    assert (await bench.ask()).cache_hit is False
    assert (await bench.ask()).cache_hit is True


@pytest.mark.parametrize(
    ("reply", "params", "is_stored"),
    [
        ({"finish": "stop"}, {}, True),
        ({"finish": "length"}, {}, False),
        ({"finish": "length"}, {"max_length": 9}, True),  # cut where the request said so
        ({"finish": "length", "content": ""}, {"max_length": 9}, False),  # all of it was thought
        ({"finish": "content_filter"}, {}, False),
        ({"finish": "content_filter"}, {"max_length": 9}, False),
        ({"finish": "sensitive"}, {}, False),
        ({"finish": "insufficient_system_resource"}, {}, False),
        ({"finish": "content_filter: RECITATION"}, {}, False),
        ({"finish": "STOP"}, {}, True),
        ({"content": ""}, {}, False),
        ({"content": " \n"}, {}, False),
        ({"tool_calls": [("f", {})], "content": None}, {}, True),
    ],
    ids=str,
)
@pytest.mark.parametrize("is_stream", [False, True], ids=["plain", "stream"])
async def test_an_answer_that_is_not_whole_is_not_served_again(
    bench: Bench, provider: Any, reply: dict[str, Any], params: dict[str, Any], is_stored: bool, is_stream: bool
) -> None:
    changed = {"model_params": params}
    provider.reply(**reply)
    if is_stream:
        body = {"llm_configuration": {**BASE, **changed}, "llm_inputs": {"x": "hi"}}
        follower = bench.gateway.stream("default", msgspec.convert(body, CompletionRequest))
        async for _ in follower:
            pass
        follower.close()
    else:
        await bench.ask(changed=changed)
    assert (await bench.ask(changed=changed)).cache_hit is is_stored
    assert len(provider.requests) == 2 - is_stored
