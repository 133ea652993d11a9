"""Model parameters: their aliases, those that a provider does not have, and variables without a value."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

PATH = "/api/parea/v1/completion"


@pytest.fixture
def api(gateway_server: Any) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=gateway_server.address, headers={"x-api-key": gateway_server.key}, timeout=30) as opened:
        yield opened


def configuration(model: str = "gpt-4o", content: str = "hi", **params: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": content}], "model_params": params}


def complete(api: httpx.Client, params: dict[str, Any], model: str = "gpt-4o", **body: Any) -> httpx.Response:
    return api.post(PATH, json={"llm_configuration": configuration(model, **params), **body})


@pytest.mark.parametrize(
    ("params", "sent"),
    [
        ({"temperature": 0.2}, {"temperature": 0.2}),
        ({"temperature": 0.2, "temp": 0.2}, {"temperature": 0.2}),
        ({"max_tokens": 9}, {"max_tokens": 9}),
        ({"max_completion_tokens": 9}, {"max_tokens": 9}),
        ({"stop": ["a", "b"], "seed": 7}, {"stop": ["a", "b"], "seed": 7}),
        ({"stop": "a", "logit_bias": {"50256": -100}}, {"stop": "a", "logit_bias": {"50256": -100}}),
        ({"service_tier": "flex"}, {"service_tier": "flex"}),
    ],
)
def test_parameters_are_passed_on(
    api: httpx.Client, provider: Any, params: dict[str, Any], sent: dict[str, Any]
) -> None:
    assert complete(api, params).json()["status"] == "success"
    body = provider.requests[0].body
    assert {name: value for name, value in body.items() if name not in ("model", "messages")} == sent


def test_reasoning_models_have_parameters_of_their_own(api: httpx.Client, provider: Any) -> None:
    answer = complete(api, {"reasoning_effort": "low", "verbosity": "low", "max_tokens": 50}, "gpt-5").json()
    assert answer["status"] == "success"
    body = provider.requests[0].body
    assert (body["reasoning_effort"], body["verbosity"], body["max_completion_tokens"]) == ("low", "low", 50)


def test_each_value_is_another_question_for_the_cache(api: httpx.Client, provider: Any) -> None:
    for params in ({}, {"stop": "x"}, {"stop": "y"}, {"seed": 1}, {"temperature": 0.1}, {"max_tokens": 5}):
        assert complete(api, params).json()["cache_hit"] is False
    assert complete(api, {"temp": 0.1}).json()["cache_hit"] is True  # the same parameter under its other name
    assert complete(api, {"max_length": 5}).json()["cache_hit"] is True
    assert len(provider.requests) == 6


@pytest.mark.parametrize(
    ("model", "params", "name"),
    [
        ("gpt-4o", {"frequency_penaltie": 1}, "frequency_penaltie"),
        ("gpt-4o", {"n": 2}, "n"),
        ("gpt-4o", {"temp": 1, "temperature": 0}, "temperature"),
        ("gpt-4o", {"temp": 3}, "temp"),
        ("gpt-4o", {"top_k": 5}, "top_k"),
        ("gpt-4o", {"reasoning_effort": "low"}, "reasoning_effort"),
        ("gpt-4o", {"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ("o3-mini", {"temp": 0.5}, "temp"),
        ("gpt-4o", {"safe_prompt": True}, "safe_prompt"),
        ("gpt-4o", {"service_tier": "gold"}, "service_tier"),
        ("gpt-4o", {"logit_bias": {"5": 101}}, "logit_bias"),
        ("gpt-4o", {"response_format": {"type": "yaml"}}, "response_format"),
        ("gpt-4o", {"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}}, "response_format"),
        ("gpt-5", {"reasoning_effort": "lowest"}, "reasoning_effort"),
        ("o4-mini", {"stop": "x"}, "stop"),
        ("o3-mini", {"reasoning_effort": "minimal"}, "reasoning_effort"),
        ("gpt-5-mini", {"reasoning_effort": "none"}, "reasoning_effort"),
        ("o3", {"verbosity": "low"}, "verbosity"),
        ("gpt-5", {"logit_bias": {"5": 1}}, "logit_bias"),
    ],
)
def test_what_would_be_dropped_or_refused_is_refused_by_name(
    api: httpx.Client, provider: Any, model: str, params: dict[str, Any], name: str
) -> None:
    for path in (PATH, PATH + "/stream"):
        answer = api.post(path, json={"llm_configuration": configuration(model, **params)})
        assert answer.status_code == 422, answer.text
        assert name in answer.json()["detail"]
        assert "model_params" in answer.json()["field"]
    assert provider.requests == []


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"temperature": 0}, "temperature"),
        ({"model": "gpt-4o-mini"}, "model"),
        ({"messages": [{"role": "user", "content": "lost"}]}, "messages"),
        ({"tools": []}, "tools"),
        ({"n": 2}, "n"),
        ({"llm_configuration": {**configuration(), "temperature": 0}}, "llm_configuration"),
        ({"llm_configuration": {**configuration(), "top_logprobs": 2}}, "llm_configuration"),
        ({"llm_configuration": {**configuration(), "functions": [], "tools": [{"name": "f"}]}}, "llm_configuration"),
    ],
)
def test_a_parameter_out_of_place_is_refused_by_name(
    api: httpx.Client, provider: Any, body: dict[str, Any], field: str
) -> None:
    for path in (PATH, PATH + "/stream"):
        answer = api.post(path, json={"llm_configuration": configuration(), **body})
        assert (answer.status_code, answer.json()["field"]) == (422, field)
    assert provider.requests == []
    parea = {"x-sdk-language": "python"}
    if "functions" not in str(body):
        assert api.post(PATH, json={"llm_configuration": configuration(), **body}, headers=parea).status_code == 200


def test_openais_names_of_functions_are_taken(api: httpx.Client, provider: Any) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
    for tools, choice, hit in (("tools", "tool_choice", False), ("functions", "function_call", True)):
        body = {"llm_configuration": {**configuration(), tools: [tool], choice: "required"}}
        assert api.post(PATH, json=body).json()["cache_hit"] is hit
    assert (provider.requests[0].body["tools"], provider.requests[0].body["tool_choice"]) == ([tool], "required")


def test_pareas_own_clients_may_send_what_later_versions_have(api: httpx.Client, provider: Any) -> None:
    body = {"llm_configuration": configuration(another="x")}
    body["llm_configuration"]["messages"][0]["version"] = 7
    answer = api.post(PATH, json=body, headers={"x-sdk-language": "typescript"})
    assert (answer.status_code, answer.json()["status"]) == (200, "success")
    assert provider.requests[0].messages == [{"role": "user", "content": "hi"}]
    assert api.post(PATH, json=body).status_code == 422


def test_an_unknown_field_of_a_message_is_refused_by_name(api: httpx.Client, provider: Any) -> None:
    body = {"llm_configuration": configuration()}
    body["llm_configuration"]["messages"][0]["contents"] = "lost"
    answer = api.post(PATH, json=body)
    assert answer.status_code == 422
    assert "contents" in answer.json()["detail"]
    assert provider.requests == []


def deploy(api: httpx.Client, content: str, **fields: Any) -> str:
    body = {"name": "d", "model": "gpt-4o", "messages": [{"content": content}], **fields}
    return str(api.post("/api/deployments", json=body).json()["deployment_id"])


def test_a_variable_without_a_value_is_marked_on_the_record(api: httpx.Client, provider: Any) -> None:
    deployment_id = deploy(api, "{{a}} {{b}} {{c}}")
    for inputs in ({"a": 1, "c": 2}, {"a": 1, "b": 2, "c": 3}, None):
        api.post(PATH, json={"deployment_id": deployment_id, "llm_inputs": inputs})
    complete(api, {"content": "what does {{x}} mean in Jinja?"})  # no template, so nothing is missing
    records = api.get("/api/records").json()["records"]
    missing = [(record.get("attributes") or {}).get("everycall.missing_variables") for record in reversed(records)]
    assert missing == [["b"], None, ["a", "b", "c"], None]
    assert provider.requests[0].messages[0]["content"] == "1 {{b}} 2"


def test_a_deployment_may_ask_for_values_as_pareas_service_wrote_them(api: httpx.Client, provider: Any) -> None:
    value = {"user": "O'Neil", "ok": True}
    for metadata in ({}, {"template_values": "python"}):
        deployment_id = deploy(api, "{{x}}", metadata=metadata)
        api.post(PATH, json={"deployment_id": deployment_id, "llm_inputs": {"x": value}})
    sent = [seen.messages[0]["content"] for seen in provider.requests]
    assert sent == ['{"user": "O\'Neil", "ok": true}', "{'user': \"O'Neil\", 'ok': True}"]
