"""`POST /api/parea/v1/completion` on a running server: the seed's contract, Parea's clients, omission, repetition."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

PATH = "/api/parea/v1/completion"
KEYS = [
    "inference_id", "content", "latency", "input_tokens", "output_tokens", "total_tokens", "cost", "model", "provider",
    "cache_hit", "status", "error", "start_timestamp", "end_timestamp",
]  # fmt: skip
TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")
PAREA_PARAMS = {
    "temp": 1.0, "top_p": 1.0, "frequency_penalty": 0.0, "presence_penalty": 0.0, "max_length": None,
    "response_format": None, "safe_prompt": None,
}  # fmt: skip


@pytest.fixture
def api(gateway_server: Any) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=gateway_server.address, headers={"x-api-key": gateway_server.key}, timeout=30) as opened:
        yield opened


@pytest.fixture
def complete(api: httpx.Client) -> Callable[..., dict[str, Any]]:
    """Post a completion that is to be answered 200 and return the answer."""

    def post(**body: Any) -> dict[str, Any]:
        if "deployment_id" not in body:
            body.setdefault("llm_configuration", prompt("hi"))
        answer = api.post(PATH, json=body)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    return post


@pytest.fixture
def deployment_id(api: httpx.Client) -> str:
    body = {
        "name": "hello world",
        "messages": [{"role": "user", "content": "I want a Hello World program in {{x}}. Using the {{y}} framework."}],
        "model": "gpt-3.5-turbo",
        "model_params": {"temp": 0.5},
        "functions": [{"name": "f", "parameters": {}}],
    }
    return str(api.post("/api/deployments", json=body).json()["deployment_id"])


def prompt(content: str, **fields: Any) -> dict[str, Any]:
    return {"model": "gpt-3.5-turbo", "messages": [{"role": "user", "content": content}], **fields}


def records(api: httpx.Client, **query: Any) -> list[dict[str, Any]]:
    return list(api.get("/api/records", params=query).json()["records"])


def stored_bytes(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_the_seeds_call(api: httpx.Client, complete: Any, deployment_id: str, provider: Any) -> None:
    answer = complete(
        deployment_id=deployment_id, llm_inputs={"x": "Golang", "y": "Fiber"}, metadata={"purpose": "testing"}
    )
    assert list(answer) == KEYS
    assert {
        name: answer[name]
        for name in KEYS
        if name not in ("inference_id", "latency", "start_timestamp", "end_timestamp")
    } == {
        "content": "hello",
        "input_tokens": 22,
        "output_tokens": 189,
        "total_tokens": 211,
        "cost": pytest.approx(0.000411),
        "model": "gpt-3.5-turbo-0613",
        "provider": "openai",
        "cache_hit": False,
        "status": "success",
        "error": None,
    }
    assert TIME.fullmatch(answer["start_timestamp"])
    assert TIME.fullmatch(answer["end_timestamp"])
    assert 0 < answer["latency"] < 30
    sent = "I want a Hello World program in Golang. Using the Fiber framework."
    assert provider.requests[0].messages == [{"role": "user", "content": sent}]
    (record,) = records(api)
    assert record["metadata"] == {"purpose": "testing"}
    assert record["llm_inputs"] == {"x": "Golang", "y": "Fiber"}
    assert record["llm_configuration"]["messages"] == [{"role": "user", "content": sent}]
    assert (record["deployment_id"], record["kind"], record["content"]) == (deployment_id, "llm", "hello")
    assert record["attributes"]["everycall.deployment.version"] == 1
    assert record.get("project_name", "default") == "default"
    assert (record["trace_name"], record["name"]) == ("llm-openai", "hello world")


def test_the_name_of_a_record(api: httpx.Client, complete: Any, deployment_id: str) -> None:
    """It is the request's `name`, else its `trace_name`, else the deployment's name, else the provider's."""
    inputs = {"x": "Golang", "y": "Fiber"}
    bodies: dict[str, dict[str, Any]] = {
        "step": {"name": "step", "trace_name": "support", "deployment_id": deployment_id, "llm_inputs": inputs},
        "support": {"trace_name": "support", "deployment_id": deployment_id, "llm_inputs": inputs},
        "hello world": {"deployment_id": deployment_id, "llm_inputs": inputs},
        "llm-openai": {},
    }
    names = {complete(**body)["inference_id"]: name for name, body in bodies.items()}
    assert {record["inference_id"]: record["name"] for record in records(api)} == names


def test_the_same_again_comes_from_the_cache(
    api: httpx.Client, complete: Any, deployment_id: str, provider: Any
) -> None:
    inputs = {"x": "Golang", "y": "Fiber"}
    first = complete(deployment_id=deployment_id, llm_inputs=inputs)
    second = complete(
        deployment_id=deployment_id, llm_inputs=inputs, metadata={"a": 1}, tags=["t"], end_user_identifier="u"
    )
    assert len(provider.requests) == 1
    assert second["cache_hit"] is True
    assert second["inference_id"] != first["inference_id"]
    for name in ("content", "input_tokens", "output_tokens", "total_tokens", "cost", "model", "provider", "status"):
        assert second[name] == first[name]
    hit, miss = records(api)
    assert (hit["cost"], hit["saved_cost"], hit["cost_source"], hit["cache_hit"]) == (0.0, first["cost"], "cache", True)
    assert (miss["cost"], miss["cost_source"], miss["cache_hit"]) == (first["cost"], "genai-prices", False)


def test_what_the_request_gives_is_used_instead_of_the_deployments(
    complete: Any, deployment_id: str, provider: Any
) -> None:
    complete(deployment_id=deployment_id, llm_configuration={"model": "gpt-4o", "model_params": {"max_length": 5}})
    body = provider.requests[0].body
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("gpt-4o", 0.5, 5)
    assert body["tools"][0]["function"]["name"] == "f"
    complete(
        deployment_id=deployment_id, llm_configuration={"messages": [{"content": "other {{x}}"}]}, llm_inputs={"x": 1}
    )
    assert provider.requests[1].messages == [{"role": "user", "content": "other 1"}]


def test_what_pareas_client_always_sends_counts_as_not_given(complete: Any, deployment_id: str, provider: Any) -> None:
    """The body that parea-ai 0.2.220 sends for the seed's call, with its default parameters and empty strings."""
    nothing = dict.fromkeys(("model", "provider", "messages", "history", "functions", "function_call"))
    answer = complete(
        inference_id="3f0c2b9e-7b1c-4f37-9d7e-0c3f4b8f0a11",
        parent_trace_id="3f0c2b9e-7b1c-4f37-9d7e-0c3f4b8f0a11",
        root_trace_id="",
        trace_name=None,
        llm_inputs={"x": "Golang", "y": "Fiber"},
        llm_configuration={**nothing, "model_params": PAREA_PARAMS},
        end_user_identifier=None,
        deployment_id=deployment_id,
        name=None,
        metadata={"purpose": "testing"},
        tags=[],
        target=None,
        cache=True,
        log_omit_inputs=False,
        log_omit_outputs=False,
        log_omit=False,
        log_sample_rate=1.0,
        experiment_uuid=None,
        project_uuid="default",
    )
    assert answer["inference_id"] == "3f0c2b9e-7b1c-4f37-9d7e-0c3f4b8f0a11"
    assert (provider.requests[0].body["model"], provider.requests[0].body["temperature"]) == ("gpt-3.5-turbo", 0.5)


def test_default_parameters_without_a_deployment_are_given(complete: Any, provider: Any) -> None:
    complete(llm_configuration=prompt("hi", model_params=PAREA_PARAMS))
    assert provider.requests[0].body["temperature"] == 1.0


def test_a_chain_of_completions(api: httpx.Client, complete: Any) -> None:
    first = complete(trace_id="T1", trace_name="step1", llm_configuration=prompt("1"), session_id="s")
    second = complete(trace_id="T1", trace_name="step2", llm_configuration=prompt("2"), name="second")
    assert first["inference_id"] != second["inference_id"]
    found = {record["trace_name"]: record for record in records(api, trace_id="T1")}
    assert found["step1"]["name"] == "step1"
    assert found["step1"]["session_id"] == "s"
    assert found["step2"]["name"] == "second"


def test_parents(api: httpx.Client, complete: Any) -> None:
    complete(inference_id="a-1", parent_trace_id="a-1", root_trace_id="")
    complete(inference_id="b-1", parent_trace_id="p-1", root_trace_id="r-1", llm_configuration=prompt("b"))
    complete(inference_id="c-1", parent_trace_id="p-1", llm_configuration=prompt("c"))
    own = f"{'0123456789abcdef' * 2}-0123456789abcdef"
    complete(inference_id=own, llm_configuration=prompt("d"))
    found = {record["inference_id"]: record for record in records(api)}
    assert (found["a-1"]["trace_id"], found["a-1"].get("parent_id")) == ("a-1", None)
    assert (found["b-1"]["trace_id"], found["b-1"]["parent_id"]) == ("r-1", "p-1")
    assert (found["c-1"]["trace_id"], found["c-1"]["parent_id"]) == ("p-1", "p-1")
    assert "trace_name" not in found["b-1"]
    assert found[own]["trace_id"] == own[:32]


@pytest.mark.parametrize(
    ("given", "target"), [({"taget": "gold"}, "gold"), ({"taget": "a", "target": "b"}, "b"), ({"target": ""}, None)]
)
def test_taget(api: httpx.Client, complete: Any, given: dict[str, str], target: str | None) -> None:
    answer = complete(**given)
    assert list(answer) == KEYS
    assert records(api)[0].get("target") == target


def test_inputs_is_another_name_of_llm_inputs(complete: Any, provider: Any) -> None:
    complete(inputs={"x": "y"}, llm_configuration=prompt("{{x}}"))
    assert provider.requests[0].messages[0]["content"] == "y"


def test_an_unknown_deployment_is_404_and_says_what_to_do(api: httpx.Client) -> None:
    answer = api.post(PATH, json={"deployment_id": "p-none"})
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["type"] == "urn:everycall:error:unknown_deployment"
    assert "/api/deployments" in answer.json()["detail"]
    assert records(api) == []


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"cache": "maybe"}, "cache"),
        ({"trace_id": 7}, "trace_id"),
        ({"llm_inputs": []}, "llm_inputs"),
        ({"llm_configuration": {"messages": "hi"}}, "llm_configuration.messages"),
        ({"llm_configuration": {"model_params": {"temp": "hot"}}}, "llm_configuration.model_params.temp"),
        (
            {"llm_configuration": prompt("x", model_params={"max_length": 0})},
            "llm_configuration.model_params.max_length",
        ),
        ({"tags": [1]}, "tags[0]"),
        ({"log_sample_rate": 2}, "log_sample_rate"),
        ({"llm_configuration": {"model": "m", "messages": [{"role": "boss"}]}}, "llm_configuration.messages[0].role"),
        ({"llm_configuration": prompt("x", functions=[3])}, "functions[0]"),
        ({"trace_id": "x" * 1000}, "trace_id"),
    ],
    ids=str,
)
def test_a_wrong_field_is_named(api: httpx.Client, body: dict[str, Any], field: str) -> None:
    answer = api.post(PATH, json=body)
    assert (answer.status_code, answer.json()["field"]) == (422, field)
    assert records(api) == []


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"{", 400),
        (b"\xff", 400),
        (b"[]", 422),
        (b'{"llm_inputs":' + b'{"a":' * 500 + b"1" + b"}" * 501, 422),
        (b'{"llm_inputs":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_001, 422),
        (b'{"llm_inputs":{"x":"\\ud800"},"llm_configuration":{"model":"m","messages":[{}]}}', 400),
    ],
    ids=["broken", "not utf-8", "a list", "deep", "very deep", "half a character"],
)
def test_what_is_no_request_is_refused(api: httpx.Client, content: bytes, status: int) -> None:
    assert api.post(PATH, content=content).status_code == status


@pytest.mark.parametrize("body", [{}, {"llm_configuration": {"model": "gpt-4o"}}, {"llm_inputs": {"x": "y"}}])
def test_nothing_to_complete_says_what_to_give(api: httpx.Client, body: dict[str, Any]) -> None:
    answer = api.post(PATH, json=body)
    assert answer.status_code == 422
    assert "deployment_id" in answer.json()["detail"]


def test_unknown_and_deprecated_fields_are_ignored(complete: Any) -> None:
    answer = complete(stream=True, retry=True, fallback_strategy=["x"], eval_metric_ids=[1], another={"a": 1})
    assert answer["status"] == "success"


def test_the_openapi_document_has_the_fields(api: httpx.Client) -> None:
    document = api.get("/openapi.json").json()

    def schema_of(content: Any) -> Any:
        schema = content["content"]["application/json"]["schema"]
        return document["components"]["schemas"][schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema

    described = document["paths"][PATH]["post"]
    asked = schema_of(described["requestBody"])["properties"]
    assert {"trace_id", "llm_configuration", "log_omit", "taget"} <= set(asked)
    assert [one["type"] for one in asked["trace_id"]["anyOf"]] == ["string", "null"]
    answered = schema_of(described["responses"]["200"])
    assert answered["required"] == KEYS


def test_omitted_inputs_are_nowhere(api: httpx.Client, complete: Any, provider: Any, tmp_path: Path) -> None:
    provider.reply(content="fine")
    for _ in range(3):
        provider.reply(status=500, error="cannot do CANARY-IN", headers={"retry-after-ms": "1"})
    configuration = prompt("{{x}} CANARY-IN-2")
    body = {"llm_configuration": configuration, "llm_inputs": {"x": "CANARY-IN-3"}, "target": "CANARY-IN-4"}
    assert complete(**body, log_omit_inputs=True, metadata={"kept": "yes"})["content"] == "fine"
    failed = complete(**body, log_omit_inputs=True)
    assert "CANARY-IN" in failed["error"]
    error, record = records(api)
    assert (record["content"], record["model"], record["omitted"]) == ("fine", "gpt-3.5-turbo-0613", ["inputs"])
    assert record["metadata"] == {"kept": "yes"}
    assert record["input_tokens"] == 22
    assert not {"llm_inputs", "llm_configuration", "target", "inputs"} & record.keys()
    assert (error["error"], error["status"]) == ("InternalServerError (500)", "error")
    assert b"CANARY-IN" not in stored_bytes(tmp_path)
    assert len(provider.requests) == 4  # the second was not answered from a cache that must not have the first


def test_omitted_outputs_are_nowhere(api: httpx.Client, complete: Any, provider: Any, tmp_path: Path) -> None:
    provider.reply(content="CANARY-OUT", tool_calls=[("CANARY_OUT_2", {})])
    assert "CANARY_OUT_2" in complete(log_omit_outputs=True)["content"]
    (record,) = records(api)
    assert record["llm_configuration"]["messages"][0]["content"] == "hi"
    assert record["omitted"] == ["outputs"]
    assert not {"content", "output"} & record.keys()
    assert b"CANARY" not in stored_bytes(tmp_path)


def test_log_omit_leaves_no_record_and_nothing_in_the_cache(
    api: httpx.Client, complete: Any, provider: Any, tmp_path: Path
) -> None:
    provider.reply(content="CANARY-OUT")
    body = {"llm_configuration": prompt("CANARY-IN"), "trace_id": "CANARY-TRACE", "log_omit": True}
    assert complete(**body)["content"] == "CANARY-OUT"
    assert complete(**body)["cache_hit"] is False
    assert records(api) == []
    assert b"CANARY" not in stored_bytes(tmp_path)
    assert len(provider.requests) == 2


def test_a_cached_answer_is_served_to_omitted_inputs_but_not_recorded_with_them(
    api: httpx.Client, complete: Any, provider: Any
) -> None:
    complete()
    assert complete(log_omit_inputs=True)["cache_hit"] is True
    assert "llm_configuration" not in records(api)[0]
    assert complete(log_omit=True)["cache_hit"] is False
    assert len(provider.requests) == 2


@pytest.mark.parametrize(
    "flags", [{}, {"log_omit_inputs": True}, {"log_omit_outputs": True}, {"log_omit": True}], ids=str
)
def test_a_repeated_inference_id_is_answered_again_and_not_asked_again(
    api: httpx.Client, complete: Any, provider: Any, flags: dict[str, bool]
) -> None:
    body = {"inference_id": "once", "cache": False, **flags}
    first = complete(**body)
    assert complete(**body) == first
    assert len(provider.requests) == 1
    assert len(records(api)) == (0 if flags.get("log_omit") else 1)


def test_a_repeat_while_the_first_is_under_way_waits_for_it(
    gateway_server: Any, api: httpx.Client, complete: Any, provider: Any
) -> None:
    hold = threading.Event()
    provider.reply(hold=hold)
    with ThreadPoolExecutor(5) as threads:
        calls = [threads.submit(complete, inference_id="once", cache=False) for _ in range(5)]
        assert provider.arrived.acquire(timeout=30)
        hold.set()
        answers = [call.result(timeout=120) for call in calls]
    assert [answer == answers[0] for answer in answers] == [True] * 5
    assert len(provider.requests) == 1
    assert len(records(api)) == 1


def test_a_failed_completion_is_not_asked_again_under_its_id(api: httpx.Client, complete: Any, provider: Any) -> None:
    provider.reply(status=400, error="no")
    first = complete(inference_id="once")
    assert first["status"] == "error"
    assert complete(inference_id="once") == first
    assert len(provider.requests) == 1
    assert len(records(api)) == 1


def test_an_inference_id_belongs_to_one_request(api: httpx.Client, complete: Any, provider: Any) -> None:
    complete(inference_id="once")
    answer = api.post(PATH, json={"inference_id": "once", "llm_configuration": prompt("another")})
    assert (answer.status_code, answer.json()["type"]) == (409, "urn:everycall:error:inference_id_taken")
    assert len(provider.requests) == 1


def test_repeats_survive_a_restart_where_the_record_can_answer(tmp_path: Path, provider: Any) -> None:
    from everycall.server.options import ServerOptions
    from everycall.server.provider_settings import ProviderSettings
    from everycall.server.runner import Server

    settings = {"openai": ProviderSettings("openai", "openai", provider.base_url, "sk-x")}
    options = ServerOptions(tmp_path / "data", port=0, providers=settings)
    whole = {"inference_id": "whole", "llm_configuration": prompt("hi"), "cache": False}
    omitted = {**whole, "inference_id": "omitted", "log_omit_outputs": True}
    answers = []
    for _ in range(2):
        with Server(options) as server, httpx.Client(base_url=server.address, headers={"x-api-key": server.key}) as api:
            answers.append([api.post(PATH, json=body, timeout=30) for body in (whole, omitted)])
    assert answers[0][0].json() == answers[1][0].json()
    assert answers[0][1].status_code == 200
    assert (answers[1][1].status_code, answers[1][1].json()["type"]) == (409, "urn:everycall:error:answer_not_kept")
    assert len(provider.requests) == 2


def test_sampling_keeps_whole_traces(api: httpx.Client, complete: Any) -> None:
    for n in range(12):
        for step in range(2):
            complete(trace_id=f"T{n}", log_sample_rate=0.5, llm_configuration=prompt(f"{step}"))
    kept = [record["trace_id"] for record in records(api)]
    assert 2 <= len(kept) <= 22
    assert all(kept.count(trace_id) == 2 for trace_id in kept)
    complete(trace_id="T", log_sample_rate=0.0)
    assert records(api, trace_id="T") == []


def test_keys_and_projects(api: httpx.Client, complete: Any, provider: Any, gateway_server: Any) -> None:
    def key(project: str, role: str) -> str:
        made = api.post("/api/keys", json={"name": f"{project} {role}", "project": project, "role": role})
        return str(made.json()["secret"])

    def post(secret: str, **body: Any) -> int:
        given = {"llm_configuration": prompt("hi"), **body}
        return httpx.post(gateway_server.address + PATH, json=given, headers={"x-api-key": secret}).status_code

    writer = key("alpha", "write")
    assert post("wrong" * 8) == 401
    assert post(key("alpha", "read")) == 403
    assert post(writer) == 200
    assert post(writer, project_name="default") == 200  # what clients say when they were told nothing
    assert post(writer, project_name="alpha") == 200
    assert post(writer, project_name="beta") == 403
    complete(project_name="beta")
    assert len(records(api, project="alpha")) == 3
    assert len(records(api, project="beta")) == 1
    assert records(api) == []
    assert len(provider.requests) == 2  # alpha's answers are not beta's
