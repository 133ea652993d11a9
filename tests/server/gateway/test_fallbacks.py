"""Where a provider does not answer: the tries, the wait it asks for, the fallback list, and what the record says."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from everycall.errors import ConfigurationError
from everycall.record import Record, to_json
from everycall.server.gateway import CompletionRequest, Gateway, ProviderSettings, provider_settings
from everycall.server.problems import ProblemError
from everycall.server.provider_settings import Fallback
from everycall.server.store.sqlite import SqliteStore
from everycall.server.store.values import Deployment, RecordQuery

SECRET = "sk-secret-1234567"
AT_ONCE = {"retry-after-ms": "1"}
LOCAL = Fallback("local", "llama")


@pytest.fixture
def second(provider: Any) -> Iterator[Any]:
    """Another fake provider."""
    with type(provider)() as started:
        yield started


class Bench:
    """A gateway with the providers openai (whose fallback is local), local and claude, on two fakes."""

    def __init__(self, store: SqliteStore, first: Any, second: Any, **changes: Any) -> None:
        self.store = store
        openai = ProviderSettings("openai", "openai", first.base_url, SECRET, fallbacks={"*": (LOCAL,)})
        settings = [
            replace(openai, **changes),
            ProviderSettings("local", "openai_compatible", second.base_url, "sk-of-local-777"),
            ProviderSettings("claude", "anthropic", second.root, "sk-of-claude-777"),
        ]
        self.gateway = Gateway(store, {one.name: one for one in settings})

    def request(self, content: str = "hi", **fields: Any) -> CompletionRequest:
        configuration = {"model": "gpt-4o", "messages": [{"content": content}], **fields.pop("configuration", {})}
        return msgspec.convert({"llm_configuration": configuration, **fields}, CompletionRequest)

    async def ask(self, **fields: Any) -> Any:
        return await self.gateway.complete("default", self.request(**fields))

    async def stream(self, **fields: Any) -> tuple[list[str], Any]:
        follower = self.gateway.stream("default", self.request(**fields))
        try:
            return [text async for text in follower], follower.result
        finally:
            follower.close()

    async def record(self) -> Record:
        return (await self.store.records("default", RecordQuery())).records[0]

    async def attempts(self) -> list[tuple[Any, ...]]:
        attributes = to_json((await self.record()).attributes) or {}
        return [
            (one["provider"], one["model"], one["error"], one["tries"])
            for one in attributes.get("everycall.attempts", ())
        ]


@pytest.fixture
async def bench(tmp_path: Path, provider: Any, second: Any) -> AsyncIterator[Callable[..., Bench]]:
    store = SqliteStore(tmp_path / "fallbacks.db")
    await store.open()
    made: list[Bench] = []

    def make(**changes: Any) -> Bench:
        made.append(Bench(store, provider, second, **changes))
        return made[-1]

    yield make
    for one in made:
        await one.gateway.close()
    await store.close()


def failing(provider: Any, status: int, times: int = 3, **fields: Any) -> None:
    for _ in range(times):
        provider.reply(**{"status": status, "error": "not now", "headers": AT_ONCE, **fields})


# --- the list ---


@pytest.mark.parametrize("status", [408, 429, 500, 503, 529])
async def test_what_passes_leads_to_the_next(bench: Any, provider: Any, second: Any, status: int) -> None:
    failing(provider, status)
    b = bench()
    answer = await b.ask()
    record = await b.record()
    assert (answer.status, answer.provider, answer.model, answer.content) == ("success", "local", "llama", "hello")
    assert (record.provider, record.model, record.status, record.error) == ("local", "llama", "success", None)
    assert to_json(record.llm_configuration)["model"] == "gpt-4o"  # what was asked for
    ((name, model, error, tries),) = await b.attempts()
    assert (name, model, tries) == ("openai", "gpt-4o", 3)
    assert error.endswith(f"({status})")
    assert len(provider.requests) == 3
    assert second.requests[0].headers["authorization"] == "Bearer sk-of-local-777"


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422])
async def test_what_does_not_pass_is_the_answer(bench: Any, provider: Any, second: Any, status: int) -> None:
    failing(provider, status)
    b = bench()
    answer = await b.ask()
    assert (answer.status, answer.provider) == ("error", "openai")
    assert (len(provider.requests), len(second.requests)) == (1, 0)
    assert await b.attempts() == []


async def test_no_connection_leads_to_the_next(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("everycall.limits.BACKOFF_FIRST_S", 0.001)
    b = bench(base_url="http://127.0.0.1:9/v1")
    assert (await b.ask()).provider == "local"
    assert await b.attempts() == [("openai", "gpt-4o", "APIConnectionError", 3)]


async def test_a_time_out_leads_to_the_next(bench: Any, provider: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("everycall.limits.PROVIDER_RETRIES", 1)
    monkeypatch.setattr("everycall.limits.BACKOFF_FIRST_S", 0.001)
    never = threading.Event()
    for _ in range(2):
        provider.reply(hold=never)
    b = bench(timeout_s=0.2)
    answer = await b.ask()
    never.set()
    assert answer.provider == "local"
    assert await b.attempts() == [("openai", "gpt-4o", "APITimeoutError", 2)]


async def test_the_cost_is_that_of_the_one_that_answered(bench: Any, provider: Any) -> None:
    failing(provider, 500)
    b = bench(fallbacks={"*": (Fallback("claude", "claude-haiku-4-5"),)})
    answer = await b.ask()
    assert (answer.provider, answer.cost) == ("claude", pytest.approx((7 + 10 * 0.1 + 5 * 1.25 + 189 * 5) / 1e6))
    assert (await b.record()).cost == answer.cost


async def test_when_none_answers_the_last_failure_is_the_answer(bench: Any, provider: Any, second: Any) -> None:
    failing(provider, 500)
    failing(second, 503)
    b = bench()
    answer = await b.ask()
    assert (answer.status, answer.provider) == ("error", "local")
    assert answer.error == "InternalServerError (503): not now"
    assert await b.attempts() == [("openai", "gpt-4o", "InternalServerError (500)", 3)]
    assert (await b.record()).status == "error"


async def test_a_fallback_that_cannot_be_asked_is_passed_over(bench: Any, provider: Any) -> None:
    failing(provider, 500)
    b = bench(fallbacks={"*": (Fallback("gone", "x"), Fallback("claude", "claude-haiku-4-5"), LOCAL)})
    answer = await b.ask(configuration={"model_params": {"frequency_penalty": 0.5}})
    assert answer.provider == "local"
    assert await b.attempts() == [
        ("openai", "gpt-4o", "InternalServerError (500)", 3),
        ("gone", "x", "unknown_provider", 0),
        ("claude", "claude-haiku-4-5", "unsupported_parameter", 0),
    ]


async def test_a_model_has_its_own_list_and_another_has_none(bench: Any, provider: Any) -> None:
    failing(provider, 500, times=6)
    b = bench(fallbacks={"gpt-4o": (), "*": (Fallback("local", None),)})
    assert (await b.ask()).status == "error"
    answer = await b.ask(configuration={"model": "gpt-3.5-turbo"})
    assert (answer.provider, answer.model) == ("local", "gpt-3.5-turbo-0613")


async def test_an_answer_of_a_fallback_is_not_kept_as_that_of_the_first(bench: Any, provider: Any, second: Any) -> None:
    """During an outage the fallback's answer comes from the cache; afterwards the first provider is asked again."""
    failing(provider, 500, times=6)
    b = bench()
    first, again, after = [await b.ask() for _ in range(3)]
    assert [(one.provider, one.cache_hit) for one in (first, again, after)] == [
        ("local", False), ("local", True), ("openai", False),
    ]  # fmt: skip
    assert len(second.requests) == 1


async def test_a_key_of_the_request_goes_to_its_provider_alone(bench: Any, provider: Any, second: Any) -> None:
    failing(provider, 500)
    b = bench(fallbacks={"*": (LOCAL, Fallback("openai", "gpt-3.5-turbo"))})
    answer = await b.ask(provider_api_key="own-key-99")
    assert (answer.provider, answer.model) == ("openai", "gpt-3.5-turbo-0613")
    assert {seen.headers["authorization"] for seen in provider.requests} == {"Bearer own-key-99"}
    assert second.requests == []


async def test_a_deployments_fallbacks_are_used_instead(bench: Any, provider: Any, second: Any) -> None:
    failing(provider, 500)
    b = bench(fallbacks={"*": (Fallback("gone", None),)})
    await b.store.put_deployment(
        Deployment(
            "p-1", 0, "default", "d", ({"role": "user", "content": "{{x}}"},), "gpt-4o", "openai",
            fallbacks=({"model": "llama-2", "provider": "local"},),
        )
    )  # fmt: skip
    request = msgspec.convert({"deployment_id": "p-1", "llm_inputs": {"x": "hi"}}, CompletionRequest)
    answer = await b.gateway.complete("default", request)
    assert (answer.provider, answer.model) == ("local", "llama-2")
    assert second.requests[0].messages == [{"role": "user", "content": "hi"}]


async def test_attempts_have_neither_secret_nor_prompt(bench: Any, provider: Any, tmp_path: Path) -> None:
    failing(provider, 500, error=f"CANARY-PROMPT {SECRET}")
    b = bench()
    await b.ask(content="CANARY-PROMPT", log_omit_inputs=True)
    assert len(await b.attempts()) == 1
    stored = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"everycall.attempts" in stored
    assert b"CANARY" not in stored
    assert b"sk-secret" not in stored


# --- streams ---


async def test_a_stream_goes_to_the_next_before_its_first_text(bench: Any, provider: Any) -> None:
    failing(provider, 500)
    b = bench()
    texts, answer = await b.stream()
    assert ("".join(texts), answer.provider) == ("hello", "local")
    assert await b.attempts() == [("openai", "gpt-4o", "InternalServerError (500)", 3)]


async def test_a_stream_whose_first_event_is_an_overload_goes_to_the_next(
    bench: Any, second: Any, provider: Any
) -> None:
    error = b'data: {"error": {"type": "server_error", "message": "overloaded"}}\n\n'
    failing(provider, 200, body=error)
    b = bench()
    texts, answer = await b.stream()
    assert ("".join(texts), answer.provider, len(second.requests)) == ("hello", "local", 1)


async def test_a_stream_never_goes_to_the_next_after_its_first_text(bench: Any, provider: Any, second: Any) -> None:
    provider.reply(pieces=["he", "ll", "o"], error_after=1)
    b = bench()
    texts, answer = await b.stream()
    assert (texts, answer.status, answer.provider) == (["he"], "error", "openai")
    assert (len(provider.requests), len(second.requests)) == (1, 0)
    record = await b.record()
    assert (record.content, record.status) == ("he", "error")


# --- the wait ---


async def test_the_wait_that_is_asked_for_is_kept(bench: Any, provider: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sleep = asyncio.sleep
    waits: list[tuple[float, int]] = []

    async def skip(delay: float, result: Any = None) -> Any:
        waits.append((delay, len(provider.requests)))
        return await sleep(0, result)

    failing(provider, 429, times=1, headers={"retry-after": "3.25"})
    b = bench()
    monkeypatch.setattr("asyncio.sleep", skip)
    assert (await b.ask()).provider == "openai"
    assert [wait for wait in waits if wait[0] > 0] == [(3.25, 1)]
    assert len(provider.requests) == 2


@pytest.mark.parametrize("header", ["3600", "Fri, 31 Dec 2999 23:59:59 GMT", "1e400"])
async def test_a_wait_beyond_the_deadline_is_not_begun(bench: Any, provider: Any, header: str) -> None:
    failing(provider, 429, headers={"retry-after": header})
    b = bench(fallbacks={})
    answer = await b.ask()
    assert answer.error == "RateLimitError (429): not now"
    assert len(provider.requests) == 1


async def test_with_a_fallback_a_long_wait_is_not_begun(bench: Any, provider: Any) -> None:
    failing(provider, 429, headers={"retry-after": "6"})
    assert (await bench().ask()).provider == "local"
    assert len(provider.requests) == 1


async def test_a_provider_that_wants_no_other_try_has_none(bench: Any, provider: Any) -> None:
    failing(provider, 503, headers={"x-should-retry": "false"})
    assert (await bench().ask()).provider == "local"
    assert len(provider.requests) == 1


async def test_the_deadline_is_for_all_tries_together(
    bench: Any, provider: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first try takes 58 s by the deadline's clock, so the second is given up after 2 s."""
    monkeypatch.setattr("everycall.limits.PROVIDER_TIMEOUT_S", 60.0)
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + (58.0 if provider.requests else 0.0))
    monkeypatch.setattr("everycall.server.gateway.retry.time", clock)
    failing(provider, 503, times=1)
    never = threading.Event()
    provider.reply(hold=never)
    answer = await bench(timeout_s=50.0, fallbacks={}).ask()
    never.set()
    assert answer.error.startswith("DeadlineExceeded: no answer within the 60 s")
    assert len(provider.requests) == 2


# --- where requests go ---


@pytest.mark.parametrize("status", [301, 302, 307, 308])
@pytest.mark.parametrize("name", ["openai", "claude", "azure"])
async def test_a_redirect_is_not_followed(bench: Any, provider: Any, second: Any, name: str, status: int) -> None:
    """Neither the prompt nor a key goes where a provider points."""
    failing(provider, status, headers={"location": f"{second.root}/elsewhere"}, body=b"{}")
    kinds = {
        "openai": ("openai", provider.base_url),
        "claude": ("anthropic", provider.root),
        "azure": ("azure", provider.root),
    }
    kind, base_url = kinds[name]
    b = bench()
    settings = ProviderSettings(name, kind, base_url, SECRET, api_version="2024-10-21")  # type: ignore[arg-type]
    gateway = Gateway(b.store, {name: settings})
    request = b.request(configuration={"provider": name, "model": "m-1"})
    answer = await gateway.complete("default", request)
    follower = gateway.stream("default", b.request(content="other", configuration={"provider": name, "model": "m-1"}))
    assert [text async for text in follower] == []
    follower.close()
    await gateway.close()
    assert answer.error is not None
    assert (answer.status, str(status) in answer.error) == ("error", True)
    assert (len(provider.requests), second.requests) == (2, [])


@pytest.mark.parametrize(
    "model", ["http://127.0.0.1:9/v1", "//127.0.0.1:9/x", "../../admin", "a/../../../admin?x=1#y", "x\r\nhost: y"]
)
@pytest.mark.parametrize("kind", ["openai", "azure", "anthropic"])
async def test_a_models_name_leads_nowhere(bench: Any, provider: Any, kind: str, model: str) -> None:
    b = bench()
    base_url = provider.base_url if kind == "openai" else provider.root
    settings = ProviderSettings(kind, kind, base_url, SECRET, api_version="2024-10-21")  # type: ignore[arg-type]
    gateway = Gateway(b.store, {kind: settings})
    await gateway.complete("default", b.request(configuration={"provider": kind, "model": model}))
    await gateway.close()
    places = {"openai": "/v1/chat/completions", "azure": "/openai/deployments/", "anthropic": "/v1/messages"}
    for seen in provider.requests:
        assert seen.path.startswith(places[kind])
        assert kind == "azure" or seen.path == places[kind]
        assert not {"..", "admin"} & set(seen.path.split("/"))


@pytest.mark.parametrize(
    "fields",
    [
        {"base_url": "ADDRESS"},
        {"api_base": "ADDRESS"},
        {"extra_body": {"base_url": "ADDRESS"}, "extra_headers": {"host": "ADDRESS"}},
        {"model_params": {"base_url": "ADDRESS", "extra_body": {"x": 1}, "extra_headers": {"x": "y"}}},
        {"provider": "ADDRESS"},
    ],
    ids=lambda fields: next(iter(fields)),
)
async def test_no_field_of_a_request_names_an_address(
    bench: Any, provider: Any, second: Any, fields: dict[str, Any]
) -> None:
    text = msgspec.json.encode(fields).decode().replace("ADDRESS", second.base_url)
    b = bench(fallbacks={})
    with contextlib.suppress(ProblemError, msgspec.ValidationError):  # 422: unknown provider, unknown field
        await b.ask(configuration=msgspec.json.decode(text))
    assert second.requests == []
    for seen in provider.requests:
        assert seen.body.keys() == {"model", "messages"}


# --- configuration ---


def test_fallbacks_are_configured_as_a_list_or_by_model(tmp_path: Path) -> None:
    path = tmp_path / "providers.toml"
    path.write_text(
        '[openai]\nkind = "openai"\nfallbacks = ["azure/gpt-4o", "Local/meta/llama-3", "azure"]\n'
        '[azure]\nkind = "azure"\nbase_url = "https://x.openai.azure.com"\n'
        '[local]\nkind = "openai_compatible"\nbase_url = "http://127.0.0.1:1/v1"\n'
        '[local.fallbacks]\nllama = ["openai/gpt-4o"]\n"*" = []\n'
    )
    found = provider_settings({}, path)
    assert found["openai"].fallbacks_of("gpt-4o") == (
        Fallback("azure", "gpt-4o"), Fallback("local", "meta/llama-3"), Fallback("azure", None),
    )  # fmt: skip
    assert found["local"].fallbacks_of("llama") == (Fallback("openai", "gpt-4o"),)
    assert found["local"].fallbacks_of("other") == found["azure"].fallbacks_of("x") == ()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('fallbacks = "azure"', "must be a list"),
        ("fallbacks = [3]", "must be a list"),
        ('fallbacks = ["nobody/gpt-4o"]', "'nobody' is not a configured provider"),
        (f"fallbacks = {['openai'] * 9}", "at most 8"),
    ],
)
def test_wrong_fallbacks_are_named(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "providers.toml"
    path.write_text(f'[openai]\nkind = "openai"\n{text}\n')
    with pytest.raises(ConfigurationError, match=r"providers\.toml, provider \[openai\]") as raised:
        provider_settings({}, path)
    assert said in str(raised.value)
