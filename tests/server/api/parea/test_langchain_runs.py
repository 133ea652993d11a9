"""The runs of Parea's LangChain tracer: one record each, in one tree, in any order and with repetitions."""

from __future__ import annotations

import random
from typing import Any

import httpx
import pytest

BASE = "/api/parea/v1"


def run(own: str, run_type: str, start: int, **fields: Any) -> dict[str, Any]:
    return {
        "id": own,
        "name": f"name of {own}",
        "run_type": run_type,
        "start_time": f"2026-11-23T01:58:{start:02d}.250000+00:00",
        "end_time": f"2026-11-23T01:58:{start + 1:02d}.750000+00:00",
        "extra": {},
        "error": None,
        "serialized": {"lc": 1},
        "events": [],
        "inputs": {"q": "capital?"},
        "outputs": {"output": "Paris."},
        "reference_example_id": None,
        "tags": [f"seq:step:{start}"],
        "attachments": {},
        "child_runs": [],
        "session_name": "default",
        "session_id": None,
        "dotted_order": "x",
        "trace_id": "chain",
        **fields,
    }


PAREA = {
    "_parea_root_trace_id": "outer", "_session_id": "s", "_tags": ["lc"], "_metadata": {"a": 1},
    "_end_user_identifier": "u", "_deployment_id": None, "_log_sample_rate": 1.0, "project_uuid": "default",
}  # fmt: skip
LLM_RUN = run(
    "llm",
    "llm",
    2,
    inputs={"messages": [[{"lc": 1, "kwargs": {"content": "capital?", "type": "human"}}]]},
    extra={
        "invocation_params": {"model": "gpt-4o-mini", "temperature": 0.5, "_type": "x"},
        "metadata": {"ls_provider": "openai", "ls_model_name": "gpt-4o-mini", "team": "a"},
    },
    events=[{"name": "start"}, {"name": "new_token", "time": "2026-11-23T01:58:02.500000+00:00"}],
    outputs={
        "generations": [
            [
                {
                    "text": "Paris.",
                    "message": {
                        "kwargs": {
                            "content": "Paris.",
                            "usage_metadata": {"input_tokens": 1_000, "output_tokens": 100, "total_tokens": 1_100},
                            "response_metadata": {"model_name": "gpt-4o-mini-2024-07-18"},
                            "tool_calls": [],
                        }
                    },
                }
            ]
        ],
        "llm_output": None,
    },
)
PROMPT_RUN = run("prompt", "prompt", 1)
PARSER_RUN = run("parser", "parser", 4)
ROOT = run("chain", "chain", 0, parent_run_id=None, child_runs=[PROMPT_RUN, LLM_RUN, PARSER_RUN])
ALONE = [{**one, "parent_run_id": "chain", **PAREA} for one in (PROMPT_RUN, LLM_RUN, PARSER_RUN)]
SENT = [
    *ALONE,
    {**ROOT, **PAREA, "_parea_parent_trace_id": "step"},
    {**ROOT, **PAREA, "_parea_parent_trace_id": "step"},
]


def send(client: httpx.Client, body: dict[str, Any], status: int = 200) -> dict[str, Any]:
    answer = client.post(f"{BASE}/trace_log/langchain", json=body)
    assert answer.status_code == status, answer.text
    return dict(answer.json())


def records(client: httpx.Client) -> dict[str, dict[str, Any]]:
    return {one["inference_id"]: one for one in client.get("/api/records").json()["records"]}


@pytest.mark.parametrize("order", range(4))
def test_each_run_is_one_record(client: httpx.Client, order: int) -> None:
    """A chain of three steps is sent like this: each step alone, then twice the root with all steps inside."""
    bodies = SENT if order == 0 else random.Random(order).sample(SENT, len(SENT))
    for body in bodies:
        send(client, body)
    stored = records(client)
    assert {name: one.get("parent_id") for name, one in stored.items()} == {
        "chain": "step", "prompt": "chain", "llm": "chain", "parser": "chain",
    }  # fmt: skip
    assert {name: one.get("kind", "chain") for name, one in stored.items()} == {
        "chain": "chain", "prompt": "prompt", "llm": "llm", "parser": "parser",
    }  # fmt: skip
    for one in stored.values():
        assert (one["trace_id"], one["session_id"], one["end_user_identifier"]) == ("outer", "s", "u")
        assert (one["tags"], one["metadata"]["a"], one["scope"]) == (["lc"], 1, "parea.langchain")
    assert stored["chain"]["latency"] == 1.5
    assert (stored["chain"]["inputs"], stored["chain"]["output"]) == ({"q": "capital?"}, "Paris.")


def test_a_run_of_a_model(client: httpx.Client) -> None:
    send(client, ALONE[1])
    stored = records(client)["llm"]
    assert (stored["content"], stored["model"], stored["provider"]) == ("Paris.", "gpt-4o-mini-2024-07-18", "openai")
    assert (stored["input_tokens"], stored["output_tokens"], stored["total_tokens"]) == (1_000, 100, 1_100)
    assert stored["cost"] == pytest.approx(1_000 * 0.15e-6 + 100 * 0.6e-6)
    assert stored["llm_configuration"] == {
        "model": "gpt-4o-mini", "provider": "openai", "model_params": {"temp": 0.5},
        "messages": [{"role": "human", "content": "capital?"}], "functions": None,
    }  # fmt: skip
    assert stored["metadata"] == {"team": "a", "a": 1}
    assert stored["time_to_first_token"] == 0.25
    log = client.get(f"{BASE}/trace_log/llm").json()
    assert log["configuration"]["messages"] == [{"role": "user", "content": "capital?"}]


def test_a_chain_alone_is_a_trace_of_its_own(client: httpx.Client) -> None:
    send(client, {**ROOT, **PAREA, "_parea_root_trace_id": None, "_parea_parent_trace_id": None})
    stored = records(client)
    assert {one["trace_id"] for one in stored.values()} == {"chain"}
    assert "parent_id" not in stored["chain"]
    assert stored["chain"]["trace_name"] == "name of chain"


def test_a_chain_inside_a_log_is_below_it(client: httpx.Client) -> None:
    for body in SENT:
        send(client, body)
    for own, parent in (("step", "outer"), ("outer", "outer")):
        log = {
            "trace_id": own,
            "parent_trace_id": parent,
            "root_trace_id": "outer",
            "start_timestamp": "2026-11-23 01:58:00",
        }
        assert client.post(f"{BASE}/trace_log", json=log).status_code == 200
    tree = client.get(f"{BASE}/trace_log/outer").json()
    (step,) = tree["children_logs"]
    (chain,) = step["children_logs"]
    assert [one["trace_id"] for one in chain["children_logs"]] == ["prompt", "llm", "parser"]


def test_a_run_that_failed(client: httpx.Client) -> None:
    failed = run("t", "tool", 1, error="ValueError('no')Traceback (most recent call last)", outputs=None)
    send(client, {**failed, **PAREA, "_log_sample_rate": 0.5, "experiment_uuid": "e"})
    stored = records(client)["t"]
    assert (stored["status"], stored["error_type"], stored["kind"]) == ("error", "ValueError", "tool")
    assert stored["attributes"] == {"parea.experiment_uuid": "e", "parea.log_sample_rate": 0.5}


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"id": None}, "id is required"),
        ({"id": 7}, "id must be text"),
        ({"start_time": "noon"}, "start_time is not a time"),
        ({"start_time": 7}, "start_time must be a time such as"),
        ({"child_runs": [{"name": "no id"}]}, "id is required"),
        ({"_session_id": ["s"]}, "_session_id must be text"),
    ],
)
def test_an_invalid_run_is_refused(client: httpx.Client, fields: dict[str, Any], says: str) -> None:
    assert says.casefold() in send(client, {**ROOT, **fields}, 422)["detail"].casefold()
    assert records(client) == {}


@pytest.mark.parametrize("name", ["extra", "outputs", "inputs", "events", "child_runs", "tags", "_metadata", "_tags"])
@pytest.mark.parametrize("value", [None, [], {}, "text", 7, [[]], [None]])
def test_unexpected_shapes_are_stored(client: httpx.Client, name: str, value: Any) -> None:
    send(client, {**LLM_RUN, **PAREA, name: value})
    assert list(records(client)) == ["llm"]
    assert client.get(f"{BASE}/trace_log/llm").status_code == 200


def test_runs_are_bounded(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    from everycall import limits

    monkeypatch.setattr(limits, "TRACE_RECORDS_MAX", 3)
    assert "more than 3 runs" in send(client, {**ROOT, **PAREA}, 422)["detail"].casefold()
