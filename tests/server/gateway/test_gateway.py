"""The gateway on the real client packages, a real store and a provider on loopback: what is sent, what comes back."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from opentelemetry import context as otel_context
from opentelemetry import trace as otel_trace

from everycall.errors import ConfigurationError
from everycall.record import Record, to_json
from everycall.server.app import create_app
from everycall.server.gateway import CompletionRequest, Gateway, ProviderSettings, provider_settings
from everycall.server.options import ServerOptions
from everycall.server.problems import ProblemError
from everycall.server.store.errors import StoreBusy
from everycall.server.store.sqlite import SqliteStore
from everycall.server.store.values import RecordQuery

FUNCTION = {"name": "weather", "description": "of a city", "parameters": {"type": "object", "properties": {}}}


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    opened = SqliteStore(tmp_path / "gateway.db")
    await opened.open()
    yield opened
    await opened.close()


class Bench:
    """A gateway over a store: `ask` completes with the given fields of `llm_configuration` and returns the answer."""

    def __init__(self, store: SqliteStore, settings: ProviderSettings) -> None:
        self.store = store
        self.gateway = Gateway(store, {settings.name: settings})

    async def ask(self, model: str = "gpt-3.5-turbo", content: Any = "hi", **fields: Any) -> Any:
        beside = {name: fields.pop(name) for name in list(fields) if name in CompletionRequest.__struct_fields__}
        configuration = {"model": model, "messages": [{"content": content}], **fields}
        body = {"llm_configuration": configuration, **beside}
        return await self.gateway.complete("default", msgspec.convert(body, CompletionRequest))

    async def records(self) -> list[Record]:
        return list((await self.store.records("default", RecordQuery())).records)


@pytest.fixture
def bench(store: SqliteStore, provider: Any) -> Callable[..., Any]:
    """Open a bench with the fake provider as this kind: `async with bench("anthropic") as b`."""

    @asynccontextmanager
    async def opened(kind: str = "openai", **settings: Any) -> AsyncIterator[Bench]:
        base_url = provider.root if kind in ("azure", "anthropic") else provider.base_url
        given = {"name": kind, "kind": kind, "base_url": base_url, "api_key": "sk-secret-1234567", **settings}
        made = Bench(store, ProviderSettings(**given))
        yield made
        await made.gateway.close()

    return opened


async def test_parameters_get_the_names_of_openai_and_null_is_not_sent(bench: Any, provider: Any) -> None:
    params = {
        "temp": 0.2,
        "top_p": 0.9,
        "max_length": 50,
        "presence_penalty": None,
        "response_format": {"type": "text"},
    }
    async with bench() as b:
        await b.ask(model_params=params, functions=[FUNCTION], function_call={"name": "weather"})
    assert provider.requests[0].body == {
        "model": "gpt-3.5-turbo",
        "messages": [{"role": "user", "content": "hi"}],
        "temperature": 0.2,
        "top_p": 0.9,
        "max_tokens": 50,
        "response_format": {"type": "text"},
        "tools": [{"type": "function", "function": FUNCTION}],
        "tool_choice": {"type": "function", "function": {"name": "weather"}},
    }
    assert provider.requests[0].headers["authorization"] == "Bearer sk-secret-1234567"


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("gpt-4o", "max_tokens"),
        ("gpt-3.5-turbo", "max_tokens"),
        ("o3-mini", "max_completion_tokens"),
        ("gpt-5-nano", "max_completion_tokens"),
    ],
)
async def test_newer_models_of_openai_have_another_name_for_the_length(
    bench: Any, provider: Any, model: str, name: str
) -> None:
    async with bench() as b:
        await b.ask(model, model_params={"max_length": 7})
    assert provider.requests[0].body[name] == 7


@pytest.mark.parametrize(
    "given", [FUNCTION, {"type": "function", "function": FUNCTION}, msgspec.json.encode(FUNCTION).decode()], ids=type
)
async def test_functions_may_be_plain_wrapped_or_text(bench: Any, provider: Any, given: Any) -> None:
    async with bench() as b:
        await b.ask(functions=[given], function_call="auto")
    assert provider.requests[0].body["tools"] == [{"type": "function", "function": FUNCTION}]
    assert provider.requests[0].body["tool_choice"] == "auto"


async def test_roles_and_history(bench: Any, provider: Any) -> None:
    messages = [
        {"role": role, "content": role} for role in ("system", "example_user", "example_assistant", "Role.user")
    ]
    async with bench() as b:
        await b.ask(messages=messages, history=[{"role": "assistant", "content": "{{x}}"}], llm_inputs={"x": "no"})
    assert [(m["role"], m["content"]) for m in provider.requests[0].messages] == [
        ("assistant", "{{x}}"),
        ("system", "system"),
        ("user", "example_user"),
        ("assistant", "example_assistant"),
        ("user", "Role.user"),
    ]


async def test_usage_has_one_meaning(bench: Any) -> None:
    """22 input tokens include 10 cached, 189 output tokens include 64 of reasoning."""
    async with bench() as b:
        answer = await b.ask()
        (record,) = await b.records()
    assert (answer.input_tokens, answer.output_tokens, answer.total_tokens) == (22, 189, 211)
    assert record.usage == {"cached": 10, "reasoning": 64}
    assert record.cost == answer.cost == pytest.approx(22 * 1.5e-6 + 189 * 2e-6)
    assert (record.cost_source, record.model) == ("genai-prices", "gpt-3.5-turbo-0613")


async def test_what_the_provider_says_it_charged_is_the_cost(bench: Any, provider: Any) -> None:
    """OpenRouter's charge includes its searches; a price list knows nothing of them."""
    usage = {"prompt_tokens": 20, "completion_tokens": 5, "total_tokens": 25, "cost": 0.0146, "is_byok": False}
    provider.reply(usage=usage)
    async with bench() as b:
        answer = await b.ask()
        hit = await b.ask()
        again, first = await b.records()
    assert (answer.cost, first.cost, first.cost_source, first.price_version) == (0.0146, 0.0146, "provider", None)
    assert (hit.cache_hit, again.cost, again.saved_cost) == (True, 0.0, 0.0146)


async def test_reasoning_counted_beside_the_output_is_added(bench: Any, provider: Any) -> None:
    details = {"reasoning_tokens": 5}
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 8, "completion_tokens_details": details}
    provider.reply(usage=usage)
    async with bench() as b:
        answer = await b.ask()
    assert (answer.input_tokens, answer.output_tokens, answer.total_tokens) == (1, 7, 8)


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": None}, {"prompt_tokens": -1}, "many"])
async def test_unknown_usage_is_null_in_the_record_and_0_on_the_wire(bench: Any, provider: Any, usage: Any) -> None:
    provider.reply(usage=usage)
    async with bench() as b:
        answer = await b.ask()
        (record,) = await b.records()
    assert (answer.input_tokens, answer.total_tokens, answer.cost) == (0, 0, 0.0)
    assert (record.input_tokens, record.output_tokens, record.total_tokens, record.cost) == (None, None, None, None)
    assert record.status == "success"


async def test_an_unknown_price_is_null_in_the_record(bench: Any) -> None:
    async with bench("openai_compatible", name="local") as b:
        answer = await b.ask("SmolLM2")
        hit = await b.ask("SmolLM2")
        again, first = await b.records()
    assert (answer.cost, answer.provider, first.cost, first.cost_source) == (0.0, "local", None, None)
    assert (hit.cache_hit, again.cost, again.saved_cost) == (True, 0.0, None)


async def test_tool_calls_are_text_for_the_caller_and_structure_in_the_record(bench: Any, provider: Any) -> None:
    provider.reply(content=None, tool_calls=[("weather", {"city": "Zürich"})])
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": {"city": "Zürich"}}}
    async with bench() as b:
        answer = await b.ask()
        (record,) = await b.records()
    assert msgspec.json.decode(answer.content) == [call]
    assert to_json(record.output) == [call]
    assert to_json(record.attributes)["gen_ai.response.finish_reasons"] == ["tool_calls"]


async def test_text_beside_tool_calls_is_kept(bench: Any, provider: Any) -> None:
    provider.reply(content="let me see", tool_calls=[("weather", {})])
    async with bench() as b:
        await b.ask()
        (record,) = await b.records()
    assert to_json(record.output)[0] == {"type": "text", "text": "let me see"}


async def test_a_refusal_is_the_content(bench: Any, provider: Any) -> None:
    provider.reply(content=None, refusal="I cannot help with that")
    async with bench() as b:
        assert (await b.ask()).content == "I cannot help with that"


async def test_our_own_tool_calls_can_be_sent_back(bench: Any, provider: Any) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": {"city": "Bern"}}}
    messages = [
        {"role": "user", "content": "weather?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
    ]
    async with bench() as b:
        await b.ask(messages=messages)
    sent = provider.requests[0].messages
    assert sent[1]["tool_calls"][0]["function"]["arguments"] == '{"city": "Bern"}'
    assert sent[2] == {"role": "tool", "tool_call_id": "c1", "content": "sunny"}


async def test_anthropic(bench: Any, provider: Any) -> None:
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]
    async with bench("anthropic") as b:
        answer = await b.ask(
            "claude-haiku-4-5",
            messages=messages,
            model_params={"temp": 1.0, "top_p": 1.0, "frequency_penalty": 0.0, "presence_penalty": 0.0},
            functions=[FUNCTION],
            function_call={"name": "weather"},
        )
        (record,) = await b.records()
    seen = provider.requests[0]
    assert seen.path == "/v1/messages"
    assert "sk-secret-1234567" in (seen.headers.get("x-api-key", "") + seen.headers.get("authorization", ""))
    assert seen.body == {
        "model": "claude-haiku-4-5",
        "system": "be brief",
        "messages": [{"role": "user", "content": "hi"}],
        "max_tokens": 64_000,
        "tools": [{"name": "weather", "description": "of a city", "input_schema": FUNCTION["parameters"]}],
        "tool_choice": {"type": "tool", "name": "weather"},
    }
    assert (answer.content, answer.provider) == ("hello", "anthropic")
    assert (record.input_tokens, record.output_tokens, record.total_tokens) == (22, 189, 211)
    assert record.usage == {"cached": 10, "cache_write": 5}
    assert record.cost == pytest.approx((7 * 1 + 10 * 0.1 + 5 * 1.25 + 189 * 5) / 1e6)


async def test_anthropic_tools_images_and_formats(bench: Any, provider: Any) -> None:
    provider.reply(content="see", tool_calls=[("weather", {"city": "Bern"})])
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    call = {"id": "t1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Bern"}'}}
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "look"}, image]},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "t1", "content": "sunny"},
    ]
    response_format = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}}
    async with bench("anthropic") as b:
        answer = await b.ask(
            "claude-haiku-4-5",
            messages=messages,
            model_params={"max_length": 9, "temp": 0.5, "response_format": response_format},
            functions=[FUNCTION],
            function_call="required",
        )
    body = provider.requests[0].body
    assert (body["max_tokens"], body["temperature"]) == (9, 0.5)
    assert body["tool_choice"] == {"type": "any"}
    assert body["output_config"] == {"format": {"type": "json_schema", "schema": {"type": "object"}}}
    assert body["messages"][0]["content"][1]["source"] == {"type": "base64", "media_type": "image/png", "data": "AAAA"}
    assert body["messages"][1]["content"] == [
        {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Bern"}}
    ]
    assert body["messages"][2]["content"] == [{"type": "tool_result", "tool_use_id": "t1", "content": "sunny"}]
    assert msgspec.json.decode(answer.content)[0]["function"] == {"name": "weather", "arguments": {"city": "Bern"}}


async def test_a_prompt_of_system_messages_alone_is_the_users_turn_at_anthropic(bench: Any, provider: Any) -> None:
    async with bench("anthropic") as b:
        await b.ask("claude-haiku-4-5", messages=[{"role": "system", "content": "write a poem"}])
    assert provider.requests[0].messages == [{"role": "user", "content": "write a poem"}]
    assert "system" not in provider.requests[0].body


@pytest.mark.parametrize("params", [{"frequency_penalty": 0.5}, {"response_format": {"type": "json_object"}}])
async def test_what_anthropic_does_not_have_is_said(bench: Any, provider: Any, params: dict[str, Any]) -> None:
    async with bench("anthropic") as b:
        with pytest.raises(ProblemError) as raised:
            await b.ask("claude-haiku-4-5", model_params=params)
        assert await b.records() == []
    assert raised.value.problem.code == "unsupported_parameter"
    assert provider.requests == []


async def test_the_server_sends_no_trace_of_its_own(bench: Any, provider: Any) -> None:
    """Anthropic's client would begin a span here and tell the provider of it; inside ours it must not."""
    above = otel_trace.SpanContext(1, 2, False, otel_trace.TraceFlags(1))
    token = otel_context.attach(otel_trace.set_span_in_context(otel_trace.NonRecordingSpan(above)))
    try:
        async with bench("anthropic") as b:
            await b.ask("claude-haiku-4-5")
    finally:
        otel_context.detach(token)
    assert "traceparent" not in provider.requests[0].headers


async def test_azure(bench: Any, provider: Any) -> None:
    async with bench("azure", api_version="2024-10-21") as b:
        answer = await b.ask("azure_gpt-4o")
    seen = provider.requests[0]
    assert seen.path == "/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21"
    assert seen.headers["api-key"] == "sk-secret-1234567"
    assert (answer.provider, answer.model) == ("azure", "gpt-4o-2024-08-06")
    assert answer.cost > 0


async def test_azure_without_a_version_says_what_is_missing(bench: Any) -> None:
    async with bench("azure") as b:
        with pytest.raises(ProblemError, match="api_version"):
            await b.ask("gpt-4o", provider="azure")


async def test_a_compatible_server_needs_no_key_and_serves_any_model(bench: Any, provider: Any) -> None:
    async with bench("openai_compatible", name="local", api_key=None) as b:
        answer = await b.ask("gpt-oss-20b", model_params={"safe_prompt": True, "max_length": 5})
    assert (answer.status, answer.provider, answer.model) == ("success", "local", "gpt-oss-20b")
    assert provider.requests[0].body["safe_prompt"] is True
    assert provider.requests[0].body["max_tokens"] == 5


@pytest.mark.parametrize(
    ("model", "name", "said"),
    [
        ("claude-haiku-4-5", None, "ANTHROPIC_API_KEY"),
        ("some-model", "mistral", "'mistral' is not configured"),
        ("gpt-4o", "azure", "AZURE_OPENAI_ENDPOINT"),
    ],
)
async def test_a_provider_that_is_not_configured_is_told_from_one_that_fails(
    bench: Any, provider: Any, model: str, name: str | None, said: str
) -> None:
    async with bench() as b:
        with pytest.raises(ProblemError) as raised:
            await b.ask(model, provider=name)
    assert (raised.value.problem.status, raised.value.problem.code) == (422, "unknown_provider")
    assert said in raised.value.problem.detail
    assert provider.requests == []


async def test_a_failure_is_an_answer_and_one_record(bench: Any, provider: Any) -> None:
    for _ in range(3):
        provider.reply(status=500, error="out of order", headers={"retry-after-ms": "1"})
    async with bench() as b:
        answer = await b.ask()
        (record,) = await b.records()
    assert len(provider.requests) == 3  # two retries of the client's own
    assert (answer.status, answer.content, answer.total_tokens, answer.cost) == ("error", "", 0, 0.0)
    assert answer.error == "InternalServerError (500): out of order"
    assert (record.status, record.error, record.error_type) == ("error", answer.error, "InternalServerError")
    assert (record.content, record.cost, record.input_tokens) == (None, None, None)


async def test_a_passing_failure_is_tried_again(bench: Any, provider: Any) -> None:
    provider.reply(status=429, error="slow down", headers={"retry-after-ms": "1"})
    async with bench() as b:
        assert (await b.ask()).status == "success"
    assert len(provider.requests) == 2


async def test_an_answer_that_breaks_off_is_tried_again(bench: Any, provider: Any) -> None:
    provider.reply(cut=True)
    async with bench() as b:
        assert (await b.ask()).content == "hello"


@pytest.mark.parametrize("kind", ["openai", "anthropic"])
@pytest.mark.parametrize("body", [b"<html>gateway</html>", b"[]", b"{}", b'{"choices": []}', b'{"content": 3}'])
async def test_an_answer_that_is_none_is_a_failure(bench: Any, provider: Any, kind: str, body: bytes) -> None:
    provider.reply(body=body)
    async with bench(kind) as b:
        answer = await b.ask("some-model")
    assert answer.status == "error"
    assert answer.error.startswith("InvalidAnswer: the answer of")


async def test_no_connection_is_a_failure(bench: Any) -> None:
    async with bench(base_url="http://127.0.0.1:9/v1") as b:
        answer = await b.ask()
    assert (answer.status, answer.error) == ("error", "APIConnectionError: Connection error.")


@pytest.mark.parametrize("kind", ["openai", "anthropic"])
async def test_errors_do_not_show_keys(bench: Any, provider: Any, kind: str) -> None:
    told = "wrong key sk-secret-1234567, or was it sk-proj-abc***xyz? own-key-99 Bearer abc.def"
    provider.reply(status=401, error=told)
    async with bench(kind) as b:
        answer = await b.ask("some-model", provider_api_key="own-key-99")
    assert "401" in answer.error
    for secret in ("secret", "abc", "own-key"):
        assert secret not in answer.error


async def test_a_key_of_the_request_is_used_and_never_stored(bench: Any, provider: Any, tmp_path: Path) -> None:
    async with bench() as b:
        await b.ask(provider_api_key="own-key-99")
        await b.ask(content="second")
    assert [seen.headers["authorization"] for seen in provider.requests] == [
        "Bearer own-key-99",
        "Bearer sk-secret-1234567",
    ]
    stored = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"gpt-3.5-turbo" in stored
    assert b"own-key" not in stored
    assert b"sk-secret" not in stored


async def test_a_large_answer_is_cut_in_the_record_only(bench: Any, provider: Any) -> None:
    long = "ä" * 2_000_000
    provider.reply(content=long)
    async with bench() as b:
        answer = await b.ask(inference_id="i-1")
        (record,) = await b.records()
        again = await b.ask(inference_id="i-1")
    assert answer.content == again.content == long
    assert record.content is not None
    assert len(record.content.encode()) < 1_100_000
    assert record.truncated["content"].bytes == 4_000_000


class BusyStore(SqliteStore):
    """A store that is busy for the next `busy` commits."""

    busy = 0

    async def commit(self, project: str, records: Any, client: Any = None, expense: Any = None) -> Any:
        if self.busy:
            self.busy -= 1
            raise StoreBusy("the write queue is full")
        return await super().commit(project, records, client, expense)


async def test_a_busy_store_costs_no_second_call(
    tmp_path: Path, provider: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Busy for a moment: waited for. For longer: 503, and the same inference_id gets the answer that was paid for."""
    store = BusyStore(tmp_path / "busy.db")
    await store.open()
    b = Bench(store, ProviderSettings("openai", "openai", provider.base_url, "sk-x"))
    store.busy = 2
    assert (await b.ask(inference_id="moment")).status == "success"
    monkeypatch.setattr("everycall.limits.COMMIT_PATIENCE_S", 0.01)
    store.busy = 1
    with pytest.raises(StoreBusy, match="could not be stored"):
        await b.ask(inference_id="longer", content="other")
    assert len(await b.records()) == 1
    answer = await b.ask(inference_id="longer", content="other")
    assert answer.content == "hello"
    assert len(provider.requests) == 2
    assert len(await b.records()) == 2
    assert await b.ask(inference_id="longer", content="other") == answer
    await b.gateway.close()
    await store.close()


async def test_a_paid_answer_is_given_though_its_record_cannot_be_stored(
    tmp_path: Path, provider: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an inference_id nobody could ask for it again. It is marked, and its record is stored with the next."""
    monkeypatch.setattr("everycall.limits.COMMIT_PATIENCE_S", 0.01)
    store = BusyStore(tmp_path / "busy.db")
    gateway = Gateway(store, {"openai": ProviderSettings("openai", "openai", provider.base_url, "sk-x")})
    app = create_app(ServerOptions(tmp_path, local_key="k" * 20), store, gateway)
    body = {"llm_configuration": {"model": "gpt-4o", "messages": [{"content": "hi"}]}, "cache": False}
    transport = httpx.ASGITransport(app)  # type: ignore[arg-type]
    headers = {"x-api-key": "k" * 20}
    async with (
        app.lifespan(),
        httpx.AsyncClient(transport=transport, base_url="http://localhost", headers=headers) as c,
    ):
        store.busy = 1
        first = await c.post("/api/parea/v1/completion", json=body)
        assert (await store.records("default", RecordQuery())).records == ()
        second = await c.post("/api/parea/v1/completion", json=body)
        stored = {record.inference_id for record in (await store.records("default", RecordQuery())).records}
    assert (first.status_code, first.json()["content"]) == (200, "hello")
    assert (first.headers["x-everycall-record"], "x-everycall-record" in second.headers) == ("not-stored", False)
    assert stored == {first.json()["inference_id"], second.json()["inference_id"]}
    assert len(provider.requests) == 2


async def test_the_last_records_are_stored_when_the_gateway_closes(
    tmp_path: Path, provider: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("everycall.limits.COMMIT_PATIENCE_S", 0.01)
    monkeypatch.setattr("everycall.limits.UNSTORED_RECORDS_MAX", 2)
    store = BusyStore(tmp_path / "busy.db")
    await store.open()
    b = Bench(store, ProviderSettings("openai", "openai", provider.base_url, "sk-x"))
    for content in "abc":
        store.busy = 1
        assert (await b.ask(content=content)).content == "hello"
    assert "could not be stored and is lost" in caplog.text  # the first of three, and it is named
    await b.gateway.close()
    assert len(await b.records()) == 2
    store.busy = 1
    await b.ask(content="d")
    store.busy = 1
    await b.gateway.close()
    assert "the records of 1 completions could not be stored and are lost" in caplog.text
    await store.close()


async def test_closing_waits_for_what_is_under_way(store: SqliteStore, provider: Any) -> None:
    gateway = Gateway(store, {"openai": ProviderSettings("openai", "openai", provider.base_url, "sk-x")})
    hold = threading.Event()
    provider.reply(hold=hold)
    request = msgspec.convert(
        {"llm_configuration": {"model": "gpt-4o", "messages": [{"content": "x"}]}}, CompletionRequest
    )
    task = asyncio.create_task(gateway.complete("default", request))
    assert await asyncio.to_thread(provider.arrived.acquire, timeout=10)
    hold.set()
    await gateway.close()
    assert (await task).content == "hello"
    assert len((await store.records("default", RecordQuery())).records) == 1


def test_settings_come_from_the_environment_and_the_file_wins(tmp_path: Path) -> None:
    path = tmp_path / "providers.toml"
    path.write_text(
        '[local]\nkind = "openai_compatible"\nbase_url = "http://127.0.0.1:8080/v1"\napi_key_env = "LOCAL_KEY"\n'
        '[openai]\nkind = "openai"\napi_key = "from-file"\ntimeout_s = 5\n'
    )
    environment = {
        "OPENAI_API_KEY": "from-env",
        "ANTHROPIC_API_KEY": "a",
        "AZURE_OPENAI_ENDPOINT": "https://x.openai.azure.com",
        "AZURE_OPENAI_API_KEY": "z",
        "OPENAI_API_VERSION": "2024-10-21",
        "LOCAL_KEY": "l",
    }
    found = provider_settings(environment, path)
    assert found == {
        "openai": ProviderSettings("openai", "openai", None, "from-file", timeout_s=5.0),
        "azure": ProviderSettings("azure", "azure", "https://x.openai.azure.com", "z", "2024-10-21"),
        "anthropic": ProviderSettings("anthropic", "anthropic", None, "a"),
        "local": ProviderSettings("local", "openai_compatible", "http://127.0.0.1:8080/v1", "l"),
    }
    assert "from-file" not in repr(found)
    assert provider_settings({}, tmp_path / "none.toml") == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[x", "not valid TOML"),
        ("x = 1", "must be a table"),
        ('[x]\nkind = "other"', "kind must be one of"),
        ('[x]\nkind = "openai_compatible"', "base_url is needed"),
        ('[x]\nkind = "openai"\nbase_url = "ftp://x"', "base_url must start with"),
        ('[x]\nkind = "openai"\nkey = "k"', "unknown key 'key'"),
        ('[x]\nkind = "openai"\napi_key = 3', "api_key must be a string"),
        ('[x]\nkind = "openai"\ntimeout_s = 0', "timeout_s must be"),
        ('[x]\nkind = "openai"\napi_key_env = "NO_SUCH"', "NO_SUCH"),
    ],
)
def test_wrong_settings_are_named(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "providers.toml"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=r"providers\.toml") as raised:
        provider_settings({}, path)
    assert said in str(raised.value)
