"""`POST /api/parea/v1/completion/stream` on a running server: its events, its record, every way it can end."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from everycall.server.api.streaming import encode_event
from everycall_testkit.stream_provider import StreamProvider

PATH = "/api/parea/v1/completion/stream"
PLAIN = "/api/parea/v1/completion"


@pytest.fixture
def provider() -> Iterator[Any]:
    """The fake provider that streams; `gateway_server` asks it as `openai`."""
    with StreamProvider() as started:
        yield started


@pytest.fixture
def api(gateway_server: Any) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=gateway_server.address, headers={"x-api-key": gateway_server.key}, timeout=30) as opened:
        yield opened


@pytest.fixture
def deployment_id(api: httpx.Client) -> str:
    body = {"name": "hello", "messages": [{"content": "Say {{x}}"}], "model": "gpt-3.5-turbo"}
    return str(api.post("/api/deployments", json=body).json()["deployment_id"])


def prompt(content: str = "hi", **fields: Any) -> dict[str, Any]:
    return {"model": "gpt-3.5-turbo", "messages": [{"role": "user", "content": content}], **fields}


def records(api: httpx.Client, **query: Any) -> list[dict[str, Any]]:
    return list(api.get("/api/records", params=query).json()["records"])


def chunks_of(answer: httpx.Response) -> Iterator[str]:
    """What each HTTP chunk holds, read as Parea's client reads it: one event, of which it takes the data line."""
    for chunk in answer.iter_raw():
        text = chunk.decode()
        assert text.endswith("\r\n\r\n"), text
        lines = text[:-4].split("\r\n")
        assert len(lines) == 1, lines
        assert lines[0].startswith('data: {"chunk":')
        yield json.loads(lines[0].replace("data: ", ""))["chunk"]


@pytest.fixture
def stream(api: httpx.Client) -> Callable[..., list[str]]:
    """Post a stream that is to be answered 200 and return its texts."""

    def post(**body: Any) -> list[str]:
        if "deployment_id" not in body:
            body.setdefault("llm_configuration", prompt())
        with api.stream("POST", PATH, json=body) as answer:
            assert answer.status_code == 200, answer.read()
            assert answer.headers["content-type"] == "text/event-stream"
            return list(chunks_of(answer))

    return post


def refused(api: httpx.Client, status: int, **body: Any) -> dict[str, Any]:
    answer = api.post(PATH, json=body)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    return dict(answer.json())


def test_each_text_is_an_event_of_its_own(api: httpx.Client, stream: Any, provider: Any, deployment_id: str) -> None:
    assert stream(deployment_id=deployment_id, llm_inputs={"x": "hello"}, trace_name="greet") == ["he", "ll", "o"]
    sent = provider.requests[0].body
    assert (sent["stream"], sent["stream_options"]) == (True, {"include_usage": True})
    assert sent["messages"] == [{"role": "user", "content": "Say hello"}]
    (record,) = records(api)
    assert (record["content"], record["model"], record["name"]) == ("hello", "gpt-3.5-turbo-0613", "greet")
    assert (record["input_tokens"], record["output_tokens"], record["total_tokens"]) == (22, 189, 211)
    assert record["usage"] == {"cached": 10, "reasoning": 64}
    assert record["cost"] == pytest.approx(0.000411)
    assert 0 < record["time_to_first_token"] <= record["latency"]
    assert record["cache_hit"] is False
    assert record.get("status", "success") == "success"


def test_a_text_leaves_before_the_next_one_is_there(api: httpx.Client, provider: Any) -> None:
    scripted = provider.stream(pieces=["first", "second"], pause_after=1)
    with api.stream("POST", PATH, json={"llm_configuration": prompt()}) as answer:
        texts = chunks_of(answer)
        assert next(texts) == "first"
        assert not scripted.go.is_set()
        scripted.go.set()
        assert list(texts) == ["second"]


def test_the_record_is_there_when_the_stream_ends(api: httpx.Client, stream: Any) -> None:
    for number in range(5):
        stream(inference_id=f"i{number}", cache=False)
        assert api.get(f"/api/records/i{number}").json()["content"] == "hello"


def test_tokens_that_the_provider_does_not_tell_are_null(api: httpx.Client, stream: Any, provider: Any) -> None:
    provider.stream(usage=False, done=False)
    stream()
    (record,) = records(api)
    assert not {"input_tokens", "output_tokens", "total_tokens", "cost"} & set(record)


def test_streams_and_completions_share_the_cache(api: httpx.Client, stream: Any, provider: Any) -> None:
    assert stream(llm_configuration=prompt("a")) == ["he", "ll", "o"]
    assert stream(llm_configuration=prompt("a")) == ["hello"]
    plain = api.post(PLAIN, json={"llm_configuration": prompt("a")}).json()
    assert (plain["content"], plain["cache_hit"]) == ("hello", True)
    api.post(PLAIN, json={"llm_configuration": prompt("b")})
    assert stream(llm_configuration=prompt("b")) == ["hello"]
    assert len(provider.requests) == 2
    assert [record["cache_hit"] for record in records(api)] == [True, False, True, True, False]
    assert stream(llm_configuration=prompt("a"), cache=False) == ["he", "ll", "o"]


def test_a_hit_has_its_times_and_its_saved_cost(api: httpx.Client, stream: Any) -> None:
    stream()
    stream()
    hit, miss = records(api)
    assert (hit["cost"], hit["saved_cost"], hit["content"]) == (0.0, miss["cost"], "hello")
    assert 0 <= hit["time_to_first_token"] < 1


@pytest.mark.parametrize(
    "text",
    [
        "data: x data: y",
        "a\r\n\r\nb",
        'quote " and \\ data: ',
        "\N{OWL}" * 2_000,
        "x" * 40_000,
        "\x00 \x7f",
        "ID_START",
    ],
    ids=["data", "lines", "quotes", "wide", "long", "control", "marker"],
)
def test_any_text_arrives_as_it_was(stream: Any, provider: Any, text: str) -> None:
    provider.stream(pieces=[text])
    assert "".join(stream()) == text
    assert "".join(stream()) == text  # from the cache, at once


def test_tool_calls_come_last_as_json(api: httpx.Client, stream: Any, provider: Any) -> None:
    provider.stream(pieces=["Let me see."], tool_calls=[("weather", {"city": "Bern"}), ("clock", {})])
    first, second = stream(llm_configuration=prompt(functions=[{"name": "weather"}]))
    assert first == "Let me see."
    calls = [
        {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": {"city": "Bern"}}},
        {"id": "call_2", "type": "function", "function": {"name": "clock", "arguments": {}}},
    ]
    assert json.loads(second) == calls
    (record,) = records(api)
    assert record["output"] == [{"type": "text", "text": "Let me see."}, *calls]
    assert record["content"] == second
    assert stream(llm_configuration=prompt(functions=[{"name": "weather"}])) == [first, second]


def test_what_cannot_be_asked_is_a_problem(api: httpx.Client, provider: Any) -> None:
    assert refused(api, 404, deployment_id="p-none")["type"].endswith("unknown_deployment")
    assert refused(api, 422)["type"].endswith("nothing_to_complete")
    assert refused(api, 422, cache="maybe")["field"] == "cache"
    assert api.post(PATH, content=b"{").status_code == 400
    assert httpx.post(str(api.base_url) + PATH, json={}).status_code == 401
    assert (records(api), provider.requests) == ([], [])


def test_a_provider_that_refuses_is_a_problem_and_a_record(api: httpx.Client, provider: Any) -> None:
    provider.reply(status=400, error="too spicy")
    told = refused(api, 502, llm_configuration=prompt(), inference_id="i")
    assert told["inference_id"] == "i"
    assert "BadRequestError (400): too spicy" in told["detail"]
    (record,) = records(api)
    assert (record["status"], record["error"]) == ("error", "BadRequestError (400): too spicy")
    refused(api, 502, llm_configuration=prompt(), inference_id="i")
    assert len(provider.requests) == 1


@pytest.mark.parametrize(
    ("script", "error_type"),
    [
        ({"break_after": 2}, None),
        ({"error_after": 2}, "StreamError"),
        ({"raw": b'data: {"choices":[{"delta":{"content":"hell"}}]}\n\n: end'}, "IncompleteAnswer"),
        ({"raw": b'data: {"choices":[{"delta":{"content":"hell"}}]}\n\ndata: <html>\n\n'}, "InvalidAnswer"),
    ],
    ids=["broken off", "error event", "no end", "not json"],
)  # fmt: skip
def test_a_failure_after_the_first_text_ends_the_stream(
    api: httpx.Client, stream: Any, provider: Any, script: dict[str, Any], error_type: str | None
) -> None:
    provider.stream(**script)
    assert "".join(stream()) == "hell"
    (record,) = records(api)
    assert (record["status"], record["content"]) == ("error", "hell")
    assert error_type in (None, record["error_type"])
    assert stream() == ["he", "ll", "o"]  # nothing of it was cached


@pytest.mark.parametrize("pause_after", [0, 1], ids=["before the first text", "in the middle"])
@pytest.mark.parametrize(
    ("headers", "silence"),
    [({}, b": waiting\r\n\r\n"), ({"x-sdk-language": "python"}, b'data: {"chunk":""}\r\n\r\n')],
    ids=["any client", "Parea's"],
)
def test_something_is_sent_while_a_model_thinks(
    api: httpx.Client,
    provider: Any,
    monkeypatch: pytest.MonkeyPatch,
    headers: dict[str, str],
    silence: bytes,
    pause_after: int,
) -> None:
    monkeypatch.setattr("everycall.limits.STREAM_SILENCE_S", 0.02)
    scripted = provider.stream(pieces=["he", "llo"], pause_after=pause_after)
    with api.stream("POST", PATH, json={"llm_configuration": prompt()}, headers=headers) as answer:
        chunks = answer.iter_raw()
        sent: list[bytes] = []
        # On a busy machine the provider's first piece may itself take longer than the silence.
        while len([chunk for chunk in sent if chunk != silence]) < pause_after:
            sent.append(next(chunks))
        silent = [next(chunks), next(chunks)]
        assert silent == [silence, silence]
        scripted.go.set()
        sent += chunks
    assert [chunk for chunk in sent if chunk != silence] == [encode_event("he"), encode_event("llo")]
    (record,) = records(api)
    assert record["content"] == "hello"


@pytest.mark.parametrize("with_end", [True, False])
def test_a_failure_after_a_silence_is_no_success(
    api: httpx.Client, provider: Any, monkeypatch: pytest.MonkeyPatch, with_end: bool
) -> None:
    """Its status was 200 by then: the last event says so, and without one the connection breaks off."""
    monkeypatch.setattr("everycall.limits.STREAM_SILENCE_S", 0.02)
    hold = threading.Event()
    provider.reply(status=400, error="too spicy", hold=hold)
    headers = {"x-everycall-stream": "end"} if with_end else {}
    with api.stream("POST", PATH, json={"llm_configuration": prompt()}, headers=headers) as answer:
        chunks = answer.iter_raw()
        assert next(chunks) == b": waiting\r\n\r\n"
        hold.set()
        if with_end:
            assert b"too spicy" in b"".join(chunks)
        else:
            with pytest.raises(httpx.RemoteProtocolError):
                list(chunks)
    (record,) = records(api)
    assert (record["status"], record["error"]) == ("error", "BadRequestError (400): too spicy")


def test_a_caller_that_goes_away_cancels_the_request(api: httpx.Client, provider: Any) -> None:
    scripted = provider.stream(pieces=["he", "llo"], pause_after=1)
    with api.stream("POST", PATH, json={"llm_configuration": prompt(), "inference_id": "left"}) as answer:
        assert next(answer.iter_raw()) == b'data: {"chunk":"he"}\r\n\r\n'
    assert scripted.gone.wait(30)
    record = eventually(api, "left")
    assert (record["error_type"], record["content"], record.get("status", "success")) == ("abandoned", "he", "success")
    assert "output_tokens" not in record
    again = refused(api, 409, llm_configuration=prompt(), inference_id="left")
    assert again["type"].endswith("answer_not_kept")
    assert "went away" in again["detail"]
    assert len(provider.requests) == 1


def test_a_caller_that_goes_away_before_the_first_text(api: httpx.Client, provider: Any) -> None:
    scripted = provider.stream(pause_after=0)
    body = json.dumps({"llm_configuration": prompt(), "inference_id": "early"})
    head = f"POST {PATH} HTTP/1.1\r\nhost: localhost\r\nx-api-key: {api.headers['x-api-key']}\r\n"
    with socket.create_connection((api.base_url.host, api.base_url.port), timeout=30) as caller:
        caller.sendall(f"{head}content-length: {len(body)}\r\n\r\n{body}".encode())
        assert provider.arrived.acquire(timeout=30)
    assert scripted.gone.wait(30)
    record = eventually(api, "early")
    assert (record["error_type"], record.get("content")) == ("abandoned", "")


def test_a_stream_goes_on_while_one_caller_is_left(api: httpx.Client, provider: Any) -> None:
    scripted = provider.stream(pieces=["he", "llo"], pause_after=1)
    body = {"llm_configuration": prompt(), "inference_id": "shared"}
    with api.stream("POST", PATH, json=body) as first:
        raw = first.iter_raw()
        assert next(raw)
        with ThreadPoolExecutor(2) as pool:
            with api.stream("POST", PATH, json=body) as second:
                texts = chunks_of(second)
                assert next(texts) == "he"
                plain = pool.submit(api.post, PLAIN, json=body)
                first.close()
                scripted.go.set()
                assert list(texts) == ["llo"]
            assert plain.result().json()["content"] == "hello"
    assert len(provider.requests) == 1
    assert [record["content"] for record in records(api)] == ["hello"]


def test_a_stream_of_a_completion_under_way(api: httpx.Client, stream: Any, provider: Any) -> None:
    hold = threading.Event()
    provider.reply(hold=hold)
    body = {"llm_configuration": prompt(), "inference_id": "both"}
    with ThreadPoolExecutor(2) as pool:
        plain = pool.submit(api.post, PLAIN, json=body)
        assert provider.arrived.acquire(timeout=30)
        streamed = pool.submit(stream, **body)
        hold.set()
        assert (plain.result().json()["content"], streamed.result()) == ("hello", ["hello"])
    assert len(provider.requests) == 1


def test_the_same_inference_id_is_answered_again(api: httpx.Client, stream: Any, provider: Any) -> None:
    body = {"llm_configuration": prompt(), "inference_id": "again", "cache": False}
    assert stream(**body) == ["he", "ll", "o"]
    assert stream(**body) == ["hello"]
    assert api.post(PLAIN, json=body).json()["content"] == "hello"
    assert refused(api, 409, llm_configuration=prompt("other"), inference_id="again")["field"] == "inference_id"
    assert (len(provider.requests), len(records(api))) == (1, 1)


@pytest.mark.parametrize("flags", [{"log_omit": True}, {"log_omit_inputs": True, "log_omit_outputs": True}])
def test_what_is_omitted_is_nowhere(
    api: httpx.Client, stream: Any, provider: Any, tmp_path: Path, flags: dict[str, bool]
) -> None:
    provider.stream(pieces=["CANARY-", "OUT"])
    assert "".join(stream(llm_configuration=prompt("CANARY-IN"), inference_id="secret", **flags)) == "CANARY-OUT"
    assert "".join(stream(llm_configuration=prompt("CANARY-IN"), inference_id="secret", **flags)) == "CANARY-OUT"
    left = provider.stream(pieces=["CANARY-", "LEFT"], pause_after=1)
    with api.stream(
        "POST", PATH, json={"llm_configuration": prompt("CANARY-IN"), "inference_id": "gone", **flags}
    ) as answer:
        next(answer.iter_raw())
    assert left.gone.wait(30)
    provider.stream(pieces=["CANARY-", "ERROR"], break_after=1)
    stream(llm_configuration=prompt("CANARY-IN"), inference_id="broken", **flags)
    stored = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"CANARY" not in stored
    if "log_omit" in flags:
        assert records(api) == []
    else:
        assert eventually(api, "gone")["omitted"] == ["inputs", "outputs"]


def test_an_anthropic_stream(tmp_path: Path, provider: Any) -> None:
    from everycall.server.options import ServerOptions
    from everycall.server.provider_settings import ProviderSettings
    from everycall.server.runner import Server

    settings = ProviderSettings("anthropic", "anthropic", base_url=provider.root, api_key="sk-fake")
    provider.stream(pieces=["Hel", "lo"], tool_calls=[("weather", {"city": "Bern"})])
    left = provider.stream(pieces=["He", "llo"], pause_after=1)
    body = {"llm_configuration": prompt(model="claude-3-5-sonnet-20241022"), "cache": False}
    with Server(ServerOptions(data_dir=tmp_path / "a", port=0, providers={"anthropic": settings})) as server:
        with httpx.Client(base_url=server.address, headers={"x-api-key": server.key}, timeout=30) as api:
            with api.stream("POST", PATH, json=body) as answer:
                first, second, third = chunks_of(answer)
            assert (first, second) == ("Hel", "lo")
            assert json.loads(third)[0]["function"] == {"name": "weather", "arguments": {"city": "Bern"}}
            (record,) = records(api)
            assert (record["input_tokens"], record["output_tokens"], record["usage"]) == (
                22, 189, {"cached": 10, "cache_write": 5},
            )  # fmt: skip
            assert record["attributes"]["gen_ai.response.finish_reasons"] == ["tool_use"]
            with api.stream("POST", PATH, json={**body, "inference_id": "left"}) as answer:
                next(answer.iter_raw())
            assert left.gone.wait(30)
            record = eventually(api, "left")
            assert (record["content"], record["input_tokens"], record.get("output_tokens")) == ("He", 22, None)


def test_a_server_that_stops_records_the_stream(tmp_path: Path, provider: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from everycall import limits
    from everycall.server.options import ServerOptions
    from everycall.server.provider_settings import ProviderSettings
    from everycall.server.runner import Server

    monkeypatch.setattr(limits, "GATEWAY_CLOSE_S", 0.4)
    monkeypatch.setattr(limits, "SHUTDOWN_TIMEOUT_S", 1.0)
    provider.stream(pieces=["he", "llo"], pause_after=1)
    settings = ProviderSettings("openai", "openai", base_url=provider.base_url, api_key="sk-fake")
    options = ServerOptions(data_dir=tmp_path / "s", port=0, providers={"openai": settings})
    with Server(options) as server, httpx.Client(headers={"x-api-key": server.key}, timeout=30) as client:
        body = {"llm_configuration": prompt(), "inference_id": "stopped"}
        with client.stream("POST", server.address + PATH, json=body) as answer:
            assert next(answer.iter_raw())
            server.stop()
    with Server(options) as server:
        record = httpx.get(f"{server.address}/api/records/stopped", headers={"x-api-key": server.key}).json()
    assert (record["error_type"], record["content"]) == ("abandoned", "he")


def test_an_end_event_for_who_asks(api: httpx.Client, provider: Any) -> None:
    headers = {"x-everycall-stream": "end"}
    with api.stream("POST", PATH, json={"llm_configuration": prompt()}, headers=headers) as answer:
        *_, last = answer.iter_raw()
    kind, data = last.decode().strip().split("\r\n")
    told = json.loads(data.removeprefix("data: "))
    assert kind == "event: end"
    assert (told["status"], told["total_tokens"], told["content"], len(told)) == ("success", 211, "", 14)


def eventually(api: httpx.Client, inference_id: str) -> dict[str, Any]:
    """The record, once it is there: a server writes it after its caller has gone."""
    for _ in range(3_000):
        answer = api.get(f"/api/records/{inference_id}")
        if answer.status_code == 200:
            return dict(answer.json())
        threading.Event().wait(0.01)
    raise AssertionError("no record came")
