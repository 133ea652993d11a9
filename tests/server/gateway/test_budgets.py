"""What a key may spend in a day: refused before a provider is asked, counted once, remembered across restarts."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from everycall.server.gateway import CompletionRequest, Gateway, ProviderSettings
from everycall.server.gateway.budgets import DAY_S, Budgets, estimate
from everycall.server.gateway.provider_request import ProviderRequest
from everycall.server.problems import ProblemError
from everycall.server.runner import Server
from everycall.server.store.errors import StoreBusy
from everycall.server.store.sqlite import SqliteStore
from everycall.server.store.values import ApiKey, Expense, KeyLimits, RecordQuery, Spent

PATH = "/api/parea/v1/completion"
PAID = 0.000411
"""What the fake provider's default answer costs: 22 tokens in, 189 out."""


def spent_about(cost: float, completions: int) -> Spent:
    return Spent(pytest.approx(cost), completions, 0)  # type: ignore[arg-type]


def key(name: str = "ci", **limits: Any) -> ApiKey:
    return ApiKey(name.ljust(64, "0"), name, "default", "write", 0, limits=KeyLimits(**limits))


class Bench:
    def __init__(self, store: SqliteStore, base_url: str) -> None:
        self.store = store
        settings = [
            ProviderSettings("openai", "openai", base_url, "sk-x"),
            ProviderSettings("local", "openai_compatible", base_url),
        ]
        self.gateway = Gateway(store, {one.name: one for one in settings})

    def request(self, content: str = "hi", model: str = "gpt-3.5-turbo", **fields: Any) -> CompletionRequest:
        configuration: dict[str, Any] = {"model": model, "messages": [{"content": content}]}
        configuration |= {name: fields.pop(name) for name in ("model_params", "provider") if name in fields}
        return msgspec.convert({"llm_configuration": configuration, **fields}, CompletionRequest)

    async def ask(self, by: ApiKey, content: str = "hi", **fields: Any) -> Any:
        return await self.gateway.complete("default", self.request(content, **fields), by)

    async def refused(self, by: ApiKey, **fields: Any) -> Any:
        with pytest.raises(ProblemError) as raised:
            await self.ask(by, **fields)
        return raised.value

    def spent(self, by: ApiKey) -> Spent:
        return self.gateway.budgets.spent(by.digest)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    opened = SqliteStore(tmp_path / "budgets.db")
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
async def bench(store: SqliteStore, provider: Any) -> AsyncIterator[Bench]:
    made = Bench(store, provider.base_url)
    yield made
    await made.gateway.close()


async def test_the_completion_that_passes_the_budget_is_the_last(bench: Bench, provider: Any) -> None:
    ci = key(budget_usd_per_day=1.5 * PAID)
    assert (await bench.ask(ci, "one")).status == "success"
    assert (await bench.ask(ci, "two")).status == "success"
    error = await bench.refused(ci, content="three")
    body = error.problem.as_json()
    assert (body["status"], body["type"]) == (429, "urn:everycall:error:budget_exceeded")
    assert (body["limit"], body["spent"]) == (1.5 * PAID, pytest.approx(2 * PAID))
    assert body["resets_at"].endswith("T00:00:00Z")
    assert 0 < int(error.headers["retry-after"]) <= DAY_S + 1
    assert "'ci' may spend 0.0006165 US dollars a day and has spent 0.000822" in body["detail"]
    assert len(provider.requests) == 2
    assert len((await bench.store.records("default", RecordQuery())).records) == 2


async def test_cached_answers_are_free_and_given_beyond_the_budget(bench: Bench, provider: Any) -> None:
    ci = key(budget_usd_per_day=PAID)
    await bench.ask(ci)
    assert (await bench.ask(ci)).cache_hit is True
    assert bench.spent(ci) == spent_about(PAID, 1)
    await bench.refused(ci, content="other")
    follower = bench.gateway.stream("default", bench.request(), ci)
    assert [text async for text in follower] == ["hello"]
    follower.close()
    assert len(provider.requests) == 1


async def test_a_repeat_is_free(bench: Bench) -> None:
    ci = key(budget_usd_per_day=PAID)
    first = await bench.ask(ci, inference_id="i", cache=False)
    assert await bench.ask(ci, inference_id="i", cache=False) == first
    assert bench.spent(ci).completions == 1


async def test_failures_cost_nothing(bench: Bench, provider: Any) -> None:
    ci = key(budget_usd_per_day=PAID)
    provider.reply(status=400, error="no")
    assert (await bench.ask(ci)).status == "error"
    assert bench.spent(ci) == Spent()
    assert (await bench.ask(ci)).status == "success"


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
async def test_any_number_at_once_pass_it_by_one_at_most(bench: Bench, provider: Any, streamed: bool) -> None:
    """40 different requests at once, and room for three and a bit: what those under way will cost is reserved."""
    ci = key(budget_usd_per_day=3.1 * PAID)

    async def one(n: int) -> str:
        request = bench.request(f"number {n}", "gpt-3.5-turbo-0613", model_params={"max_length": 189})
        try:
            if not streamed:
                return (await bench.gateway.complete("default", request, ci)).status
            follower = bench.gateway.stream("default", request, ci)
            try:
                async for _ in follower:
                    pass
            finally:
                follower.close()
            assert follower.result is not None
        except ProblemError as error:
            return error.problem.code
        return follower.result.status

    hold = threading.Event()
    for _ in range(4):
        provider.reply(hold=hold)
    calls = [asyncio.create_task(one(n)) for n in range(40)]
    assert await asyncio.to_thread(provider.arrived.acquire, timeout=10)
    while sum(call.done() for call in calls) < 36:
        await asyncio.sleep(0.01)
    hold.set()
    results = await asyncio.gather(*calls)
    assert results.count("success") == 4
    assert results.count("budget_exceeded") == 36
    assert bench.spent(ci).cost <= 4 * PAID * 1.001
    for n in range(50, 60):
        assert await one(n) == "budget_exceeded"
    assert len(provider.requests) == 4


async def test_what_is_reserved_says_so_and_is_given_back(bench: Bench, provider: Any) -> None:
    ci = key(budget_usd_per_day=PAID)
    hold = threading.Event()
    provider.reply(hold=hold, status=400, error="no")
    first = asyncio.create_task(bench.ask(ci, "one"))
    assert await asyncio.to_thread(provider.arrived.acquire, timeout=10)
    error = await bench.refused(ci, content="two")
    assert error.headers["retry-after"] == "1"
    assert error.problem.title == "The rest of the key's budget is in use"
    assert error.problem.extensions["reserved"] > PAID
    hold.set()
    assert (await first).status == "error"
    assert (await bench.ask(ci, "two")).status == "success"


async def test_a_model_without_a_price_is_counted_apart(bench: Bench, provider: Any) -> None:
    ci = key(budget_usd_per_day=PAID)
    for n in range(3):
        assert (
            await bench.ask(ci, f"{n}", model="SmolLM2", provider="local", inference_id=f"i-{n}")
        ).status == "success"
    assert bench.spent(ci) == Spent(0.0, 3, 3)
    strict = key("strict", budget_usd_per_day=PAID, unpriced="refuse")
    error = await bench.refused(strict, content="x", model="SmolLM2", provider="local")
    assert (error.problem.status, error.problem.code) == (403, "unpriced_model")
    assert len(provider.requests) == 3
    assert (
        await bench.ask(key("no-budget", unpriced="refuse"), "y", model="SmolLM2", provider="local")
    ).status == "success"


async def test_an_answer_without_counts_is_estimated(bench: Bench, provider: Any) -> None:
    """The record says that its cost is not known; the budget does not let it pass for nothing."""
    ci = key(budget_usd_per_day=1.0)
    provider.reply(usage=None, content="four " * 100)
    await bench.ask(ci)
    (record,) = (await bench.store.records("default", RecordQuery())).records
    assert record.cost is None
    assert bench.spent(ci).cost == pytest.approx((1 * 0.5 + 167 * 1.5) / 1e6, rel=3)
    assert bench.spent(ci).unpriced == 0


async def test_a_stream_that_is_left_is_estimated(bench: Bench, provider: Any) -> None:
    ci = key(budget_usd_per_day=1.0)
    reply = provider.reply(pieces=["four " * 100, "more"], pause_after=1)
    follower = bench.gateway.stream("default", bench.request(inference_id="left"), ci)
    await follower.first_text()
    follower.close()
    async with asyncio.timeout(10):
        while await bench.store.record("default", "left") is None:
            await asyncio.sleep(0.01)
    reply.go.set()
    assert 0 < bench.spent(ci).cost < 0.001


async def test_keys_pay_apart_and_nobody_pays_without_one(bench: Bench) -> None:
    a, b = key("a"), key("b")
    await bench.ask(a, "one")
    await bench.ask(b, "two")
    await bench.gateway.complete("default", bench.request("three"))
    assert bench.spent(a) == bench.spent(b) == spent_about(PAID, 1)


async def test_one_call_for_many_is_paid_by_one(bench: Bench, provider: Any) -> None:
    hold = threading.Event()
    provider.reply(hold=hold)
    keys = [key(f"k{n}", budget_usd_per_day=1.0) for n in range(5)]
    calls = [asyncio.create_task(bench.ask(one)) for one in keys]
    assert await asyncio.to_thread(provider.arrived.acquire, timeout=10)
    hold.set()
    await asyncio.gather(*calls)
    assert sorted(bench.spent(one).completions for one in keys) == [0, 0, 0, 0, 1]


async def test_who_may_not_ask_does_not_keep_the_others_from_it(bench: Bench, provider: Any) -> None:
    spent, free = key("spent", budget_usd_per_day=0.0), key("free")
    await bench.ask(free, "warm-up")  # from here on, who comes first asks first
    asked = [bench.ask(spent), bench.ask(free), bench.ask(free)]
    results: list[Any] = await asyncio.gather(*asked, return_exceptions=True)
    assert isinstance(results[0], ProblemError)
    assert [one.status for one in results[1:]] == ["success", "success"]
    assert len(provider.requests) == 2


async def test_the_day_ends_at_midnight_utc(store: SqliteStore) -> None:
    now = [20_000 * DAY_S + DAY_S - 10.0]
    budgets = Budgets(store, lambda: now[0])
    await budgets.load()
    account = budgets.account(key())
    request = ProviderRequest("openai", "gpt-4o", {}, [], [], None)
    account.charge(request, ProviderSettings("openai", "openai"), 0.25, "")
    await store.spend(account.unsaved())  # type: ignore[arg-type]
    assert budgets.spent(key().digest) == Spent(0.25, 1, 0)
    assert (budgets.resets_at().isoformat(), budgets.resets_in_s()) == ("2024-10-05T00:00:00+00:00", 11)
    now[0] += 11
    assert budgets.spent(key().digest) == Spent()
    assert await store.spent(20_000) == {key().digest: Spent(0.25, 1, 0)}


class BusyStore(SqliteStore):
    """A store that is busy for the next `busy` writes."""

    busy = 0

    async def spend(self, expense: Any) -> None:
        self.check()
        await super().spend(expense)

    async def commit(self, project: str, records: Any, client: Any = None, expense: Any = None) -> Any:
        self.check()
        return await super().commit(project, records, client, expense)

    def check(self) -> None:
        if self.busy:
            self.busy -= 1
            raise StoreBusy("the write queue is full")


@pytest.mark.parametrize("fields", [{}, {"log_omit": True}], ids=["with a record", "without"])
async def test_what_could_not_be_stored_is_stored_with_the_next(
    tmp_path: Path, provider: Any, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any]
) -> None:
    """And at the latest when the gateway is closed. In memory it counts at once."""
    monkeypatch.setattr("everycall.limits.COMMIT_PATIENCE_S", 0.01)
    store = BusyStore(tmp_path / "busy.db")
    await store.open()
    bench = Bench(store, provider.base_url)

    async def stored() -> Spent:
        today = int(bench.gateway.budgets.resets_at().timestamp() // DAY_S) - 1
        return (await store.spent(today)).get(key().digest, Spent())

    async def fail(content: str) -> None:
        store.busy = 1
        with contextlib.suppress(StoreBusy):
            await bench.ask(key(), content, cache=False, **fields)
        assert store.busy == 0

    await fail("one")
    assert (bench.spent(key()).completions, await stored()) == (1, Spent())
    await bench.ask(key(), "two", **fields)
    assert await stored() == spent_about(2 * PAID, 2)
    await fail("three")
    await bench.gateway.close()
    assert (await stored()).completions == 3
    await store.close()


def test_an_estimate_is_high() -> None:
    """Of English text: three characters a token where there are four, and all tokens that may come."""
    openai = ProviderSettings("openai", "openai")
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "word " * 600},
        {"content": [{"type": "image_url", "image_url": {"url": "d"}}]},
    ]
    asked = ProviderRequest("openai", "gpt-4o-2024-08-06", {"max_length": 100}, messages, [], None)
    assert estimate(asked, openai) == pytest.approx(((3_001 // 3 + 1 + 1_500) * 2.5 + 100 * 10) / 1e6, rel=0.01)
    local = ProviderSettings("local", "openai_compatible")
    assert estimate(ProviderRequest("local", "SmolLM2", {}, messages, [], None), local) is None


async def test_the_store_adds_up_by_key_and_day(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    one = Spent(0.5, 1, 0)
    await store.spend(Expense("a", 100, one))
    await store.commit("default", [], expense=Expense("a", 100, Spent(0.25, 2, 1)))
    await store.spend(Expense("a", 101, one))
    await store.spend(Expense('b"', 100, one))
    assert await store.spent(100) == {"a": Spent(0.75, 3, 1), 'b"': one}
    assert (await store.spent(101), await store.spent(102)) == ({"a": one}, {})
    monkeypatch.setattr("everycall.limits.SPENDING_DAYS_MAX", 10)
    await store.spend(Expense("a", 111, one))
    assert (await store.spent(100), await store.spent(101)) == ({}, {"a": one})


# --- the API and the command ---


@pytest.fixture
def admin(gateway_server: Any) -> Any:
    with httpx.Client(base_url=gateway_server.address, headers={"x-api-key": gateway_server.key}, timeout=30) as opened:
        yield opened


def make(admin: httpx.Client, **fields: Any) -> dict[str, Any]:
    answer = admin.post("/api/keys", json={"name": "ci", **fields})
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


def complete(admin: httpx.Client, secret: str, content: str = "hi", path: str = PATH) -> httpx.Response:
    body = {"llm_configuration": {"model": "gpt-3.5-turbo", "messages": [{"content": content}]}}
    return httpx.post(f"{admin.base_url}{path}", json=body, headers={"x-api-key": secret}, timeout=30)


@pytest.mark.parametrize("path", [PATH, f"{PATH}/stream"])
def test_a_budget_over_http(admin: httpx.Client, path: str) -> None:
    made = make(admin, budget_usd_per_day=PAID)
    assert complete(admin, made["secret"], "one", path).status_code == 200
    refused = complete(admin, made["secret"], "two", path)
    assert (refused.status_code, refused.headers["content-type"]) == (429, "application/problem+json")
    assert refused.json()["type"] == "urn:everycall:error:budget_exceeded"
    assert int(refused.headers["retry-after"]) > 1
    (shown,) = admin.get("/api/keys").json()["keys"]
    assert (shown["budget_usd_per_day"], shown["completions_today"], shown["unpriced_today"]) == (PAID, 1, 0)
    assert shown["spent_usd_today"] == pytest.approx(PAID)
    raised = admin.patch(f"/api/keys/{made['id'][:12]}", json={"budget_usd_per_day": None})
    assert (raised.status_code, raised.json()["budget_usd_per_day"]) == (200, None)
    assert complete(admin, made["secret"], "two", path).status_code == 200


def test_records_are_not_budgeted(admin: httpx.Client) -> None:
    made = make(admin, budget_usd_per_day=0, requests_per_minute=1)
    line = b'{"inference_id": "i", "trace_id": "t", "kind": "llm", "cost": 5.0}'
    for _ in range(3):
        sent = httpx.post(
            f"{admin.base_url}/v1/records", content=line, headers={"x-api-key": made["secret"]}, timeout=120
        )
        assert (sent.status_code, sent.json()["committed"]) == (200, 1)


def test_the_local_key_has_no_limits_until_it_is_given_some(admin: httpx.Client, gateway_server: Any) -> None:
    assert complete(admin, gateway_server.key, "one").status_code == 200
    local = admin.get("/api/keys").json()["local"]
    assert (local["budget_usd_per_day"], local["completions_today"]) == (None, 1)
    assert admin.patch("/api/keys/local", json={"budget_usd_per_day": PAID}).status_code == 200
    assert complete(admin, gateway_server.key, "two").status_code == 429
    assert admin.delete("/api/keys/local").status_code == 400
    mine = make(admin, name="admin", role="admin")["secret"]
    theirs = httpx.Client(base_url=str(admin.base_url), headers={"x-api-key": mine}, timeout=30)
    with theirs:
        assert "local" not in theirs.get("/api/keys").json()
        assert theirs.patch("/api/keys/local", json={}).status_code == 404


@pytest.mark.parametrize(
    "limits",
    [
        {"budget_usd_per_day": -1},
        {"budget_usd_per_day": "5"},
        {"requests_per_minute": 0},
        {"requests_per_minute": 10**9},
        {"requests_per_minute": 1.5},
        {"unpriced": "ignore"},
        {"budget": 5},
    ],
    ids=str,
)
def test_limits_that_cannot_be_are_refused(admin: httpx.Client, limits: dict[str, Any]) -> None:
    made = make(admin)
    for answer in (
        admin.post("/api/keys", json={"name": "x", **limits}),
        admin.patch(f"/api/keys/{made['id']}", json=limits),
    ):
        assert answer.status_code in (400, 422), answer.text
        assert answer.json()["detail"]


def test_what_was_spent_outlives_the_server(gateway_server: Any, admin: httpx.Client) -> None:
    made = make(admin, budget_usd_per_day=PAID)
    assert complete(admin, made["secret"], "one").status_code == 200
    gateway_server.stop()
    with Server(gateway_server.options) as again:
        headers = {"x-api-key": again.key}
        with httpx.Client(base_url=again.address, headers=headers, timeout=30) as opened:
            assert complete(opened, made["secret"], "two").status_code == 429
            (shown,) = opened.get("/api/keys").json()["keys"]
            assert shown["spent_usd_today"] == pytest.approx(PAID)
            assert complete(opened, made["secret"], "one").json()["cache_hit"] is True


@pytest.fixture
def everycall(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Run the command in a process of its own and return what it says."""

    def run(*arguments: str, code: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "everycall", *arguments], capture_output=True, text=True, timeout=120
        )
        assert done.returncode == code, done.stderr
        return done.stdout + done.stderr

    return run


def test_the_command(
    everycall: Callable[..., str], admin: httpx.Client, gateway_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVERYCALL_ENDPOINT", gateway_server.address)
    monkeypatch.setenv("EVERYCALL_API_KEY", gateway_server.key)
    monkeypatch.setenv("COLUMNS", "120")
    said = everycall("key", "create", "ci", "--budget-usd-per-day", "5", "--requests-per-minute", "60")
    assert "$5 a day, $0.0000 of it spent today; 60 completions a minute; models without a known price are" in said
    secret = next(line.strip() for line in said.splitlines() if line.strip().startswith("ek_"))
    assert complete(admin, secret).status_code == 200
    row = next(line for line in everycall("key", "list").splitlines() if " ci " in line)
    assert [cell.strip() for cell in row.split("│")[2:-1]] == ["ci", "default", "write", "$0.0004", "$5", "60", "0"]
    assert "local" in everycall("key", "list")
    said = everycall("key", "set", "ci", "--budget-usd-per-day", "0.0001", "--requests-per-minute", "none")
    assert "$0.0001 a day, $0.0004 of it spent today; no rate limit" in said
    assert complete(admin, secret, "other").status_code == 429
    assert "name a limit to change" in everycall("key", "set", "ci", code=2)
    assert "is not a number of US dollars" in everycall("key", "set", "ci", "--budget-usd-per-day", "five", code=2)
    assert "no key named 'nobody'" in everycall("key", "set", "nobody", "--unpriced", "refuse", code=1)
    assert "Revoked the key ci" in everycall("key", "revoke", "ci")
    assert complete(admin, secret).status_code == 401


def test_the_command_without_a_server(everycall: Callable[..., str], tmp_path: Path) -> None:
    data = ("--data", str(tmp_path / "data"))
    everycall("key", "create", "ci", "--budget-usd-per-day", "5", *data)
    everycall("key", "create", "ci", *data)
    assert "2 keys are named 'ci'" in everycall("key", "set", "ci", "--unpriced", "refuse", *data, code=1)
    said = everycall("key", "set", "local", "--requests-per-minute", "9", *data)
    assert said == "local (local), from its next request on: no budget; 9 completions a minute.\n"
    listed = everycall("key", "list", *data)
    assert len([line for line in listed.splitlines() if " ci " in line]) == 2
    assert "$5" in listed
    assert f"in {tmp_path / 'data'} (its server is not running)" in " ".join(listed.split())
