"""Completions under omit flags: flag x entry x outcome, each searched for in every byte the server keeps or says.

The prompt's canary stands in each place of a request that is an input, the answer's in what the provider says. The
provider repeats the prompt in its errors, as providers do.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import everycall
from everycall.client import Completion, LLMInputs, Message, Parea

PATH = "/api/parea/v1/completion"
FLAGS: dict[str, dict[str, Any]] = {
    "none": {},
    "inputs": {"log_omit_inputs": True},
    "outputs": {"log_omit_outputs": True},
    "both": {"log_omit_inputs": True, "log_omit_outputs": True},
    "all": {"log_omit": True},
}
MODELS = ["gpt-4o-mini", "claude-test"]


class Case:
    """One completion with its canaries: `i-` and the canary in the prompt, `o-` and the canary in the answer."""

    def __init__(self, endpoint: Any, canary: str, flags: dict[str, bool], model: str) -> None:
        self.endpoint = endpoint
        endpoint.provider.forget()
        self.canary = canary
        self.asked, self.answered = f"i-{canary}", f"o-{canary}"
        self.inference_id = f"id-{time.time_ns()}"
        self.body: dict[str, Any] = {
            "inference_id": self.inference_id,
            "llm_configuration": {
                "model": model,
                "messages": [
                    {"role": "system", "content": self.asked},
                    {"role": "user", "content": [{"type": "text", "text": "{{x}}"}]},
                ],
                "history": [{"role": "assistant", "content": self.asked}],
                "functions": [{"name": "f", "description": self.asked, "parameters": {"type": "object"}}],
            },
            "llm_inputs": {"x": self.asked, "unused": {"deep": [self.asked]}},
            "target": self.asked,
            **flags,
        }

    def post(self, path: str = PATH, **more: Any) -> Any:
        answer = self.endpoint.client.post(path, json={**self.body, **more})
        assert answer.status_code == 200, answer.text
        return answer.json() if path == PATH else answer.text

    def answers(self, **reply: Any) -> None:
        self.endpoint.provider.reply(**{"content": self.answered, **reply})


def ok(case: Case) -> None:
    """An answer, returned whole whatever the log leaves out."""
    case.answers()
    assert case.answered in case.post()["content"]


def tool_calls(case: Case) -> None:
    """An answer that calls a tool with arguments from the prompt."""
    case.answers(tool_calls=[("look_up", {"city": case.answered})])
    assert case.answered in case.post()["content"]


def error(case: Case) -> None:
    """A provider that refuses the request and repeats it."""
    case.answers(status=400, error=f"cannot do {case.asked} nor {case.answered}")
    assert case.asked in case.post()["error"]


def broken(case: Case) -> None:
    """A provider that answers no JSON but what it was sent."""
    case.answers(body=f"<html>{case.asked} {case.answered}".encode())
    assert case.post()["status"] == "error"


def cached(case: Case) -> None:
    """The same prompt again under another id: nothing was kept to be served."""
    case.answers()
    case.post()
    case.answers()
    case.post(inference_id=case.inference_id + "-b")


def repeated(case: Case) -> None:
    """The same id again is given the same answer, and the provider is not asked."""
    case.answers()
    request_count = len(case.endpoint.provider.requests)
    assert case.post() == case.post()
    assert len(case.endpoint.provider.requests) == request_count + 1


def deployed(case: Case) -> None:
    """A deployed template filled with an input."""
    body = {"messages": [{"content": "Say {{x}}"}], "model": case.body["llm_configuration"]["model"], "name": "say"}
    deployment = case.endpoint.client.post("/api/deployments", json=body).json()["deployment_id"]
    case.answers()
    case.post(deployment_id=deployment, llm_configuration=None)
    request = case.endpoint.provider.requests[-1].body
    assert f"Say {case.asked}" in str(request)


def streamed(case: Case) -> None:
    """A stream to its end."""
    case.endpoint.provider.stream(pieces=["one ", case.answered, " three"])
    assert case.answered in case.post(PATH + "/stream")


def stream_breaks(case: Case) -> None:
    """A stream that ends in an error; the record has what had come, or not."""
    case.endpoint.provider.stream(pieces=[case.answered, "two", "three"], break_after=2)
    with contextlib.suppress(httpx.HTTPError):
        case.post(PATH + "/stream")


def stream_left(case: Case) -> None:
    """A stream whose caller goes away: abandoned."""
    reply = case.endpoint.provider.stream(pieces=[case.answered, "two"], pause_after=1)
    with case.endpoint.client.stream("POST", PATH + "/stream", json=case.body) as answer:
        assert case.answered in next(answer.iter_text())
    reply.gone.wait(30)
    if not case.body.get("log_omit"):
        until = time.monotonic() + 120
        while case.endpoint.record(case.inference_id) is None:
            assert time.monotonic() < until
            time.sleep(0.02)


def client(case: Case) -> None:
    """`Parea.completion` with the flags on it."""
    case.answers()
    configuration = LLMInputs(
        model=case.body["llm_configuration"]["model"], messages=[Message(case.asked, "system"), Message("{{x}}")]
    )
    flags = {name: value for name, value in case.body.items() if name.startswith("log_omit")}
    with Parea(api_key=case.endpoint.key, base_url=case.endpoint.address) as parea:
        answer = parea.completion(
            Completion(llm_configuration=configuration, llm_inputs={"x": case.asked}, target=case.asked, **flags)
        )
    assert answer.content == case.answered


def client_in_context(case: Case) -> None:
    """`Parea.completion` without flags, inside a traced function that has them."""
    flags = {name: value for name, value in case.body.items() if name.startswith("log_omit")}
    case.body = {name: value for name, value in case.body.items() if name not in flags}
    everycall.init(endpoint=case.endpoint.address, api_key=case.endpoint.key)

    @everycall.trace(name="around", **flags)
    def around(question: str) -> str:
        client(case)
        return case.answered

    try:
        around(case.asked)
        assert everycall.flush(10).spooled == 0
    finally:
        everycall.shutdown(1)


def client_in_process(case: Case) -> None:
    """`Parea.completion` without flags, in a process with flags."""
    flags = {name: value for name, value in case.body.items() if name.startswith("log_omit")}
    case.body = {name: value for name, value in case.body.items() if name not in flags}
    everycall.init(endpoint=case.endpoint.address, api_key=case.endpoint.key, **flags)
    try:
        client(case)
    finally:
        everycall.shutdown(1)


OUTCOMES = [
    ok, tool_calls, error, broken, cached, repeated, deployed, streamed, stream_breaks, stream_left, client,
    client_in_context, client_in_process,
]  # fmt: skip


@pytest.mark.parametrize("outcome", OUTCOMES, ids=lambda outcome: outcome.__name__)
@pytest.mark.parametrize("flag", FLAGS)
def test_omitted_content_is_in_no_byte(
    endpoint: Any,
    canary: str,
    written_output: Callable[[], str],
    tmp_path: Any,
    flag: str,
    outcome: Callable[[Case], None],
) -> None:
    """Database, write-ahead log, cache, the client's own files, everybody's log at DEBUG, standard streams.

    Without a flag the same search finds both: it works.
    """
    for model in MODELS:
        case = Case(endpoint, f"{canary}-{model[:3]}", FLAGS[flag], model)
        outcome(case)
        stored = endpoint.every_byte() + b"\n".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())
        has_in, has_out = case.asked.encode() in stored, case.answered.encode() in stored
        output = written_output()
        if flag == "none":
            assert has_in
            assert has_out or outcome is broken
        if flag in ("inputs", "both", "all"):
            assert not has_in
        if flag in ("outputs", "both", "all"):
            assert not has_out
        if flag != "none" or outcome is not client_in_context:
            assert canary not in output
        record = endpoint.record(case.inference_id)
        if flag == "all":
            assert record is None
        elif "client" not in outcome.__name__:
            assert record is not None
            assert record.get("omitted", []) == [s for s in ("inputs", "outputs") if flag in (s, "both")]
            assert record["model"].startswith(model)


def test_a_cached_response_is_not_recorded_under_a_flag(endpoint: Any, canary: str) -> None:
    """A hit in the cache, filled by a request without flags, is served, and its record is as empty as any."""
    case = Case(endpoint, canary, {}, MODELS[0])
    case.answers()
    case.post()
    before = endpoint.every_byte().count(canary.encode())
    for flags in (FLAGS["inputs"], FLAGS["outputs"], FLAGS["both"]):
        again = case.post(inference_id=f"{case.inference_id}-{len(flags)}-{next(iter(flags))}", **flags)
        assert again["cache_hit"] is True
        record = endpoint.record(again["inference_id"])
        assert record is not None
        sides = {"llm_inputs", "llm_configuration", "target"} if "log_omit_inputs" in flags else {"content", "output"}
        assert not sides & record.keys()
    assert endpoint.every_byte().count(canary.encode()) >= before


SERVERS_KEY, CALLERS_KEY = "Zx91-of-the-server-8f2c", "Zx91-of-the-caller-8f2c"


@pytest.fixture
def keyed(tmp_path: Path, streaming_provider: Any) -> Iterator[httpx.Client]:
    """A server whose providers have a key that does not look like one, each with a fallback to the last."""
    from everycall.server.options import ServerOptions
    from everycall.server.provider_settings import Fallback, ProviderSettings
    from everycall.server.runner import Server

    provider = streaming_provider
    then = {"*": (Fallback("local", None),)}
    settings = [
        ProviderSettings("openai", "openai", provider.base_url, SERVERS_KEY, fallbacks=then),
        ProviderSettings("azure", "azure", provider.root, SERVERS_KEY, "2024-10-21", fallbacks=then),
        ProviderSettings("anthropic", "anthropic", provider.root, SERVERS_KEY, fallbacks=then),
        ProviderSettings("local", "openai_compatible", provider.base_url, SERVERS_KEY),
    ]
    options = ServerOptions(tmp_path / "keyed", port=0, providers={one.name: one for one in settings})
    with Server(options) as server:
        headers = {"x-api-key": server.key}
        with httpx.Client(base_url=server.address, headers=headers, timeout=30) as opened:
            yield opened


@pytest.mark.parametrize("own_key", [None, CALLERS_KEY], ids=["the server's key", "the caller's key"])
@pytest.mark.parametrize("name", ["openai", "azure", "anthropic", "local"])
def test_keys_are_in_no_byte(
    keyed: httpx.Client,
    streaming_provider: Any,
    written_output: Callable[[], str],
    tmp_path: Path,
    name: str,
    own_key: str | None,
) -> None:
    """Of answers, records, cache, database and everybody's log at DEBUG; whatever a provider repeats of them."""
    configuration = {"model": "m-1", "provider": name, "messages": [{"content": "hi"}]}
    body = {"llm_configuration": configuration, "provider_api_key": own_key, "cache": False}
    key = own_key or SERVERS_KEY
    echo = f"invalid key {key}, told as Bearer {key}"
    hurry = {"retry-after-ms": "1"}
    answers: list[str] = []
    for reply in (
        {},
        {"status": 401, "error": echo},
        {"status": 429, "error": echo, "headers": {**hurry, "x-should-retry": "false"}},
        {"status": 500, "body": echo.encode(), "headers": {**hurry, "x-should-retry": "false"}},
        {"status": 307, "body": b"", "headers": {"location": f"http://127.0.0.1:9/{key}"}},
        {"body": echo.encode()},
        {"cut": True},
    ):
        for path in (PATH, PATH + "/stream"):
            streaming_provider._script.clear()
            streaming_provider.reply(**reply)
            answer = keyed.post(path, json=body)
            answers.append(f"{answer.text} {answer.headers}")
            assert answer.status_code in (200, 502)
    event = {"type": "error", "error": {"type": "overloaded_error", "message": echo}}
    for raw in (json.dumps(event), json.dumps({"error": {"message": echo}}), echo):
        streaming_provider._script.clear()
        streaming_provider.stream(raw=f"data: {raw}\n\n".encode())
        answers.append(keyed.post(PATH + "/stream", json=body).text)
    header_values = {value for request in streaming_provider.requests for value in request.headers.values()}
    assert header_values & {key, f"Bearer {key}"}
    records = keyed.get("/api/records", params={"limit": 100}).text
    assert echo[:11] in records
    files = b"".join(path.read_bytes() for path in (tmp_path / "keyed").rglob("*") if path.is_file())
    assert b"m-1" in files
    for place in (*answers, records, written_output(), files.decode("utf-8", "replace")):
        assert "Zx91" not in place
