"""Identical streams at once: one call of the provider, a record each; the call goes on while one of them is left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from everycall.record import Record
from everycall.server.gateway import CompletionRequest, Gateway, ProviderSettings
from everycall.server.problems import ProblemError
from everycall.server.store.sqlite import SqliteStore
from everycall.server.store.values import ApiKey, KeyLimits, RecordQuery

PAID = 0.000411
"""What the fake provider's default answer costs."""


class Bench:
    def __init__(self, store: SqliteStore, base_url: str) -> None:
        self.store = store
        self.gateway = Gateway(store, {"openai": ProviderSettings("openai", "openai", base_url, "sk-x")})

    def follow(self, inference_id: str | None, key: ApiKey | None = None, **fields: Any) -> Any:
        """Begin a stream; every one asks the same."""
        configuration = {"model": "gpt-3.5-turbo", "messages": [{"content": fields.pop("content", "hi")}]}
        body = {"llm_configuration": configuration, "inference_id": inference_id, **fields}
        return self.gateway.stream("default", msgspec.convert(body, CompletionRequest), key)

    async def record(self, inference_id: str) -> Record:
        async with asyncio.timeout(10):
            while (found := await self.store.record("default", inference_id)) is None:
                await asyncio.sleep(0.01)
        return found

    async def records(self) -> list[Record]:
        return list((await self.store.records("default", RecordQuery())).records)


@pytest.fixture
async def bench(tmp_path: Path, streaming_provider: Any) -> AsyncIterator[Bench]:
    store = SqliteStore(tmp_path / "shared.db")
    await store.open()
    made = Bench(store, streaming_provider.base_url)
    yield made
    await made.gateway.close()
    await store.close()


async def read(follower: Any) -> str:
    try:
        return "".join([text async for text in follower])
    finally:
        follower.close()


async def test_identical_streams_at_once_are_one_call(bench: Bench, streaming_provider: Any) -> None:
    scripted = streaming_provider.stream(pieces=["he", "llo"], pause_after=1)
    first = bench.follow("s-0")
    await first.first_text()
    others = [bench.follow(f"s-{n}", trace_name="another") for n in range(1, 8)]
    for other in others:
        await other.first_text()  # what had come before they came
    scripted.go.set()
    texts = await asyncio.gather(*(read(one) for one in (first, *others)))
    assert texts == ["hello"] * 8
    assert len(streaming_provider.requests) == 1
    found = {record.inference_id: record for record in await bench.records()}
    assert len(found) == 8
    assert (found["s-0"].cache_hit, found["s-0"].total_tokens) == (False, 211)
    assert found["s-0"].cost == pytest.approx(PAID)
    for n in range(1, 8):
        one = found[f"s-{n}"]
        assert (one.cache_hit, one.cost) == (True, 0.0)
        assert one.saved_cost == pytest.approx(PAID)
        assert (one.content, one.total_tokens, one.time_to_first_token is not None) == ("hello", 211, True)
    assert others[0].result.cache_hit is True


async def test_the_call_goes_on_when_the_first_caller_goes_away(bench: Bench, streaming_provider: Any) -> None:
    """And its cost is that of the one who stays; the record of the other says abandoned, with what it had."""
    scripted = streaming_provider.stream(pieces=["he", "llo"], pause_after=1)
    first, second, third = (bench.follow(f"s-{n}") for n in range(3))
    for follower in (first, second, third):
        await follower.first_text()
    first.close()
    left = await bench.record("s-0")
    assert (left.error_type, left.content, left.cost) == ("abandoned", "he", None)
    assert not scripted.gone.is_set()
    scripted.go.set()
    assert list(await asyncio.gather(read(second), read(third))) == ["hello", "hello"]
    assert len(streaming_provider.requests) == 1
    stayed = [await bench.record(f"s-{n}") for n in (1, 2)]
    assert [(one.cache_hit, one.cost) for one in stayed] == [(False, pytest.approx(PAID)), (True, 0.0)]


async def test_when_all_go_away_the_call_is_cancelled(bench: Bench, streaming_provider: Any) -> None:
    scripted = streaming_provider.stream(pieces=["he", "llo"], pause_after=1)
    first, second = bench.follow("s-0"), bench.follow("s-1")
    await asyncio.gather(first.first_text(), second.first_text())
    first.close()
    second.close()
    assert await asyncio.to_thread(scripted.gone.wait, 30)
    for n in range(2):
        assert (await bench.record(f"s-{n}")).error_type == "abandoned"
    assert await read(bench.follow("s-2")) == "hello"  # nothing half was cached, nor is the dead call joined
    assert len(streaming_provider.requests) == 2


async def test_a_failure_is_that_of_all(bench: Bench, streaming_provider: Any) -> None:
    streaming_provider.stream(pieces=["he", "llo"], error_after=1, pause_after=None)
    followers = [bench.follow(f"s-{n}") for n in range(3)]
    assert await asyncio.gather(*(read(one) for one in followers)) == ["he"] * 3
    assert {record.status for record in await bench.records()} == {"error"}
    assert {one.result.error for one in followers} == {"StreamError: overloaded in the middle"}
    assert len(streaming_provider.requests) == 1
    assert await read(bench.follow("later")) == "hello"  # errors are not cached


@pytest.mark.parametrize("fields", [{"cache": False}, {"log_omit_outputs": True}, {"provider_api_key": "k"}], ids=str)
async def test_some_calls_are_not_shared(bench: Bench, streaming_provider: Any, fields: dict[str, Any]) -> None:
    scripted = streaming_provider.stream(pieces=["he", "llo"], pause_after=1)
    first = bench.follow("s-0")
    await first.first_text()
    assert await read(bench.follow("s-1", **fields)) == "hello"
    scripted.go.set()
    assert await read(first) == "hello"
    assert len(streaming_provider.requests) == 2


async def test_who_may_not_ask_does_not_keep_the_others_from_it(bench: Bench, streaming_provider: Any) -> None:
    """Its budget is its own: those who came to the same call meanwhile ask for themselves."""
    await read(bench.follow("warm-up", content="other"))  # from here on, who comes first asks first
    spent = ApiKey("a" * 64, "spent", "default", "write", 0, limits=KeyLimits(budget_usd_per_day=0.0))
    free = ApiKey("b" * 64, "free", "default", "write", 0)
    refused, *others = bench.follow(None, spent), bench.follow(None, free), bench.follow(None, free)
    results = await asyncio.gather(*(read(one) for one in (refused, *others)), return_exceptions=True)
    assert isinstance(results[0], ProblemError)
    assert results[0].problem.code == "budget_exceeded"
    assert results[1:] == ["hello", "hello"]
    assert len(streaming_provider.requests) == 2
    assert await read(bench.follow("s-3", spent)) == "hello"  # cached by now, and so free


async def test_who_stays_pays(bench: Bench, streaming_provider: Any) -> None:
    keys = [ApiKey(str(n) * 64, f"k{n}", "default", "write", 0) for n in range(2)]
    scripted = streaming_provider.stream(pieces=["he", "llo"], pause_after=1)
    first, second = (bench.follow(f"s-{n}", keys[n]) for n in range(2))
    await asyncio.gather(first.first_text(), second.first_text())
    first.close()
    scripted.go.set()
    await read(second)
    await bench.record("s-0")
    spent = [bench.gateway.budgets.spent(key.digest) for key in keys]
    assert (spent[0].completions, spent[1].completions) == (0, 1)
    assert spent[1].cost == pytest.approx(PAID)
