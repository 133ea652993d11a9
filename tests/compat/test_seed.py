"""The page that documents the original endpoint, as tests: one for each statement, in its order.

The page: `POST /api/parea/v1/completion`, a call of it in Python, an answer, the fields of the body, the fields of the
answer. What a test is named after is the page's own name for it; its docstring says in other words what the page says.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from everycall.client import Completion, Parea

PATH = "/api/parea/v1/completion"
PROMPT = "I want a Hello World program in {{x}}. Using the {{y}} framework."
FILLED = "I want a Hello World program in Golang. Using the Fiber framework."
EXAMPLE: dict[str, Any] = {
    "inference_id": "ush221-d23rfcasc-21cdsc",
    "content": "Sure! Here's a simple Hello World program...",
    "latency": 0.0,
    "input_tokens": 22,
    "output_tokens": 189,
    "total_tokens": 211,
    "cost": 0.0008,
    "model": "gpt-3.5-turbo-0613",
    "provider": "BaseProvider('gpt-3.5-turbo-0613')",
    "cache_hit": True,
    "status": "success",
    "error": None,
    "start_timestamp": "2023-07-24 18:05:17 ",
    "end_timestamp": "2023-07-24 18:05:17 ",
}
"""The answer that the page shows."""

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def deployment_id(api: httpx.Client) -> str:
    body = {
        "name": "hello world", "messages": [{"content": PROMPT}], "model": "gpt-3.5-turbo",
        "model_params": {"temp": 0.5, "max_length": 500},
        "functions": [{"name": "run", "parameters": {"type": "object", "properties": {}}}],
    }  # fmt: skip
    return str(api.post("/api/deployments", json=body).json()["deployment_id"])


@pytest.fixture
def call(api: httpx.Client, deployment_id: str, provider: Any) -> Callable[..., dict[str, Any]]:
    """Send the page's call with further fields (None takes one away) and return the answer."""
    provider.default.content = EXAMPLE["content"]

    def send(**fields: Any) -> dict[str, Any]:
        body = {
            "deployment_id": deployment_id,
            "llm_inputs": {"x": "Golang", "y": "Fiber"},
            "metadata": {"purpose": "testing"},
            **fields,
        }
        answer = api.post(PATH, json={name: value for name, value in body.items() if value is not None})
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    return send


def record(api: httpx.Client, answer: dict[str, Any]) -> dict[str, Any]:
    response = api.get(f"/api/records/{answer['inference_id']}")
    assert response.status_code == 200, response.text
    return dict(response.json())


def ids(api: httpx.Client, **query: Any) -> list[str]:
    return [one["inference_id"] for one in api.get("/api/records", params=query).json()["records"]]


# --- the endpoint, the call, the answer ---


def test_endpoint(api: httpx.Client) -> None:
    """It is a POST at this path; other methods are refused."""
    assert PATH == "/api/parea/v1/completion"
    assert api.post(PATH, json={}).status_code == 422
    assert api.get(PATH).status_code == 405


def test_sample_call(gateway_server: Any, provider: Any, deployment_id: str) -> None:
    """A client made with a key sends a Completion of a deployment, its inputs and metadata."""
    p = Parea(api_key=gateway_server.key, base_url=gateway_server.address)
    response = p.completion(
        Completion(
            deployment_id=deployment_id,
            llm_inputs={"x": "Golang", "y": "Fiber"},
            metadata={"purpose": "testing"},
        )
    )
    p.close()
    assert response.content == "hello"
    assert provider.requests[0].messages == [{"role": "user", "content": FILLED}]


def test_sample_answer(call: Any) -> None:
    """These keys, in this order, with values of these types; a cache hit is not a second call."""
    call()
    answer = call()
    assert list(answer) == list(EXAMPLE)
    assert {name: type(value) for name, value in answer.items()} == {n: type(v) for n, v in EXAMPLE.items()}
    same = ("content", "input_tokens", "output_tokens", "total_tokens", "model", "cache_hit", "status", "error")
    assert {name: answer[name] for name in same} == {name: EXAMPLE[name] for name in same}
    start, end = (datetime.fromisoformat(answer[f"{name}_timestamp"].strip()) for name in ("start", "end"))
    assert start <= end


# --- the body ---


def test_trace_id(api: httpx.Client, call: Any) -> None:
    """It joins several logs to a chain."""
    chain = [call(trace_id="T1", cache=False)["inference_id"] for _ in range(2)]
    assert ids(api, trace_id="T1") == chain[::-1]
    assert api.get("/api/traces/T1").json()["trace"]["records"] == 2


def test_trace_name(api: httpx.Client, call: Any) -> None:
    """It names the trace, and logs are filtered by it."""
    own = call(trace_name="support")["inference_id"]
    call(trace_name="sales")
    assert ids(api, trace_name="support") == [own]


def test_end_user_identifier(api: httpx.Client, call: Any) -> None:
    """It names an end user, and logs are filtered by it."""
    own = call(end_user_identifier="u-7")["inference_id"]
    call(end_user_identifier="u-8")
    assert ids(api, end_user_identifier="u-7") == [own]


def test_deployment_id(api: httpx.Client, call: Any, provider: Any, deployment_id: str) -> None:
    """The deployed prompt's model, parameters and functions are fetched."""
    call()
    body = provider.requests[0].body
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("gpt-3.5-turbo", 0.5, 500)
    assert [tool["function"]["name"] for tool in body["tools"]] == ["run"]
    assert provider.requests[0].messages == [{"role": "user", "content": FILLED}]


def test_deployment_id_and_llm_configuration(call: Any, provider: Any) -> None:
    """Values in the configuration are used instead of the deployed prompt's."""
    messages = [{"role": "user", "content": "Only {{x}}"}]
    call(llm_configuration={"model": "gpt-4o", "model_params": {"temp": 0.9}, "messages": messages, "functions": []})
    body = provider.requests[0].body
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("gpt-4o", 0.9, 500)
    assert body["messages"] == [{"role": "user", "content": "Only Golang"}]
    assert "tools" not in body


def test_name(api: httpx.Client, call: Any) -> None:
    """It names this completion, and logs are filtered by it."""
    own = call(name="greeting", trace_name="support")["inference_id"]
    call(name="other")
    assert ids(api, name="greeting") == [own]
    assert ids(api, trace_name="support") == [own]


def test_project_name(api: httpx.Client, call: Any) -> None:
    """The project, `default` if it is missing."""
    answer = call()
    assert record(api, answer).get("project_name", "default") == "default"
    body = {"llm_configuration": {"model": "gpt-4o", "messages": [{"content": "hi"}]}, "project_name": "shop"}
    own = api.post(PATH, json=body).json()["inference_id"]
    assert ids(api, project="shop") == [own]
    assert own not in ids(api)


def test_llm_inputs(call: Any, provider: Any) -> None:
    """Its keys are the variables of the template; others have no effect, and a variable without a value stays."""
    call(llm_inputs={"x": "Golang", "z": "unused"})
    (message,) = provider.requests[0].messages
    assert message["content"] == "I want a Hello World program in Golang. Using the {{y}} framework."


def test_llm_configuration(call: Any, provider: Any) -> None:
    """A configuration without a deployment is a complete request."""
    configuration = {
        "model": "gpt-4o", "provider": "openai", "model_params": {"temp": 0.1, "top_p": 0.2, "max_length": 7},
        "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}],
        "functions": [{"name": "f", "parameters": {}}], "function_call": "auto",
    }  # fmt: skip
    call(deployment_id=None, llm_inputs=None, llm_configuration=configuration)
    body = provider.requests[0].body
    assert (body["model"], body["temperature"], body["top_p"], body["max_tokens"]) == ("gpt-4o", 0.1, 0.2, 7)
    assert body["messages"] == configuration["messages"]
    assert (body["tools"][0]["function"]["name"], body["tool_choice"]) == ("f", "auto")


@pytest.mark.parametrize("metadata", [{"purpose": "testing"}, {"n": 1, "deep": {"a": [True, None]}}, {}], ids=str)
def test_metadata(api: httpx.Client, call: Any, metadata: dict[str, Any]) -> None:
    """Any other data to record."""
    assert record(api, call(metadata=metadata)).get("metadata", {}) == metadata


@pytest.mark.parametrize("name", ["taget", "target"])
def test_taget(api: httpx.Client, call: Any, name: str) -> None:
    """The expected answer; in the page's spelling and in the correct one."""
    assert record(api, call(**{name: "gold"}))["target"] == "gold"


def test_tags(api: httpx.Client, call: Any) -> None:
    """Tags of this completion."""
    answer = call(tags=["beta", "demo"])
    assert record(api, answer)["tags"] == ["beta", "demo"]
    assert ids(api, tag="demo") == [answer["inference_id"]]


def test_cache(call: Any, provider: Any) -> None:
    """On by default; if off, nothing is taken from the cache."""
    assert [call()["cache_hit"], call()["cache_hit"], call(cache=True)["cache_hit"]] == [False, True, True]
    assert call(cache=False)["cache_hit"] is False
    assert len(provider.requests) == 2


@pytest.mark.parametrize(
    ("fields", "hit"),
    [
        ({"llm_inputs": {"x": "Rust", "y": "Fiber"}}, False),
        ({"llm_configuration": {"model": "gpt-4o"}}, False),
        ({"llm_configuration": {"model_params": {"temp": 0.6}}}, False),
        (
            {"metadata": {"another": "one"}, "tags": ["t"], "name": "n", "trace_id": "t", "end_user_identifier": "u"},
            True,
        ),
    ],
    ids=["inputs", "model", "parameter", "none of both"],
)
def test_cache_is_based_on_inputs_and_configuration(call: Any, fields: dict[str, Any], hit: bool) -> None:
    """Two requests are the same if their inputs and configuration are; nothing else matters."""
    call()
    assert call(**fields)["cache_hit"] is hit


SECRETS = {"deployment_id": None, "llm_inputs": {"x": "CANARY-X"}}
CONFIGURATION = {"model": "gpt-4o", "messages": [{"content": "CANARY-IN {{x}}"}]}


def stored(folder: Path) -> str:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file()).decode(errors="ignore")


def test_log_omit_inputs(api: httpx.Client, call: Any, provider: Any, tmp_path: Path) -> None:
    """Off by default; if on, `llm_inputs` and `llm_configuration` are stored nowhere."""
    stored_record = record(api, call(llm_configuration=CONFIGURATION, **SECRETS, cache=False))
    assert (stored_record["llm_inputs"], stored_record["llm_configuration"]["messages"][0]["content"]) == (
        {"x": "CANARY-X"}, "CANARY-IN CANARY-X",
    )  # fmt: skip
    provider.default.content = "plain"
    own = {"messages": [{"content": "SECRET {{x}}"}], "model": "gpt-4o"}
    answer = call(deployment_id=None, llm_inputs={"x": "SECRET"}, llm_configuration=own, log_omit_inputs=True)
    stored_again = record(api, answer)
    assert not {"llm_inputs", "llm_configuration"} & set(stored_again)
    assert (stored_again["content"], stored_again["model"], stored_again["total_tokens"]) == (
        "plain",
        "gpt-4o-2024-08-06",
        211,
    )
    assert "SECRET" not in stored(tmp_path)


def test_log_omit_outputs(api: httpx.Client, call: Any, provider: Any, tmp_path: Path) -> None:
    """Off by default; if on, the answer is returned and stored nowhere."""
    assert record(api, call())["content"] == EXAMPLE["content"]
    provider.default.content = "SECRET"
    answer = call(llm_inputs={"x": "Rust", "y": "Rocket"}, log_omit_outputs=True)
    assert answer["content"] == "SECRET"
    stored_record = record(api, answer)
    assert ("content" in stored_record, stored_record["llm_inputs"]["x"], stored_record["total_tokens"]) == (
        False,
        "Rust",
        211,
    )
    assert "SECRET" not in stored(tmp_path)


def test_log_omit(api: httpx.Client, call: Any, provider: Any, tmp_path: Path) -> None:
    """Off by default; if on, the completion is not logged."""
    provider.default.content = "SECRET"
    answer = call(llm_inputs={"x": "SECRET", "y": "SECRET"}, log_omit=True)
    assert answer["content"] == "SECRET"
    assert api.get(f"/api/records/{answer['inference_id']}").status_code == 404
    assert ids(api) == []
    assert "SECRET" not in stored(tmp_path)
    own = call()["inference_id"]
    assert ids(api) == [own]


# --- the answer ---


def test_inference_id(api: httpx.Client, call: Any) -> None:
    """It names one log."""
    own = [call()["inference_id"] for _ in range(3)]
    assert len(set(own)) == 3
    assert [record(api, {"inference_id": one})["inference_id"] for one in own] == own


def test_content(call: Any) -> None:
    """What the model answered."""
    assert call()["content"] == EXAMPLE["content"]


def test_latency(call: Any, provider: Any) -> None:
    """Seconds that the request took."""
    hold = threading.Event()
    provider.reply(hold=hold)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(call)
        assert provider.arrived.acquire(timeout=30)
        time.sleep(0.2)
        hold.set()
        assert answer.result()["latency"] >= 0.2


@pytest.mark.parametrize("name", ["input_tokens", "output_tokens", "total_tokens"])
def test_tokens(call: Any, name: str) -> None:
    """Tokens of the prompt, of the answer, and their sum."""
    answer = call()
    assert answer[name] == EXAMPLE[name]
    assert answer["total_tokens"] == answer["input_tokens"] + answer["output_tokens"]


def test_cost(call: Any) -> None:
    """US dollars: 22 tokens at 1.5 and 189 at 2 per million. The page's example has the price of a larger context."""
    assert call()["cost"] == pytest.approx((22 * 1.5 + 189 * 2.0) / 1e6)


def test_model(call: Any) -> None:
    """The model that answered, by its dated name."""
    assert call()["model"] == EXAMPLE["model"]


def test_provider(call: Any) -> None:
    """One of the supported providers. The page's example has the name of a Python object, which is not one."""
    assert call()["provider"] in ("openai", "anthropic", "azure")


def test_cache_hit(api: httpx.Client, call: Any) -> None:
    """Whether the answer came from the cache."""
    answers = [call(), call()]
    assert [answer["cache_hit"] for answer in answers] == [False, True]
    assert [record(api, answer)["cache_hit"] for answer in answers] == [False, True]


def test_status(call: Any, provider: Any) -> None:
    """`success` or `error`."""
    provider.reply(status=400, error="no")
    assert [call()["status"], call()["status"]] == ["error", "success"]


@pytest.mark.parametrize("name", ["start_timestamp", "end_timestamp"])
def test_timestamps(call: Any, name: str) -> None:
    """The start and the end, in this format, UTC."""
    before = datetime.now(UTC).replace(microsecond=0, tzinfo=None)
    text = call()[name]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ?", text)
    assert before <= datetime.fromisoformat(text.strip()) <= datetime.now(UTC).replace(tzinfo=None)


def test_error(call: Any, provider: Any) -> None:
    """The error, if there was one."""
    provider.reply(status=400, error="the prompt is too long")
    answer = call()
    assert "the prompt is too long" in answer["error"]
    assert (answer["content"], answer["total_tokens"], answer["cost"]) == ("", 0, 0.0)
    assert call()["error"] is None
