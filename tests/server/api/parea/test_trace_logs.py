"""Parea's trace logs: logs in any order and form become records, with nothing lost or invented."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from everycall.server.times import read_timestamp, write_timestamp

BASE = "/api/parea/v1"
NOON = 1_790_000_000 * 10**9
DEFAULT_CONFIGURATION = {
    "model": None,
    "provider": None,
    "model_params": {"temp": 1.0, "top_p": 1.0, "frequency_penalty": 0.0, "presence_penalty": 0.0, "max_length": None},
    "messages": None,
    "history": None,
    "functions": None,
    "function_call": None,
}


def log(trace_id: str, **fields: Any) -> dict[str, Any]:
    """The 39 keys that the Python client sends for each log, nulls included."""
    return {
        "trace_id": trace_id,
        "parent_trace_id": trace_id,
        "root_trace_id": trace_id,
        "start_timestamp": "2026-09-21T14:13:20+00:00",
        "end_timestamp": "2026-09-21T14:13:21.500000+00:00",
        "latency": 1.5,
        "time_to_first_token": None,
        "trace_name": "answer",
        "inputs": {"question": "why"},
        "output": "because",
        "target": None,
        "configuration": DEFAULT_CONFIGURATION,
        "input_tokens": 0,
        "output_tokens": 0,
        "total_tokens": 0,
        "cost": 0.0,
        "status": "success",
        "error": None,
        "cache_hit": False,
        "deployment_id": None,
        "output_for_eval_metrics": "because",
        "evaluation_metric_names": None,
        "apply_eval_frac": 1.0,
        "log_sample_rate": 1.0,
        "feedback_score": None,
        "scores": [],
        "children": ["child"],
        "end_user_identifier": None,
        "session_id": None,
        "metadata": None,
        "tags": None,
        "experiment_uuid": None,
        "images": [],
        "comments": None,
        "annotations": None,
        "depth": 0,
        "execution_order": 0,
        "project_uuid": "default",
        "organization_id": None,
        **fields,
    }


LLM: dict[str, Any] = {
    "configuration": {
        **DEFAULT_CONFIGURATION,
        "model": "gpt-4o-mini",
        "provider": "openai",
        "messages": [{"role": "user"}],
    },
    "trace_name": "llm-openai",
    "input_tokens": 1_000,
    "output_tokens": 100,
    "total_tokens": 1_100,
}


def post(client: httpx.Client, body: dict[str, Any], status: int = 200) -> dict[str, Any]:
    answer = client.post(f"{BASE}/trace_log", json=body)
    assert answer.status_code == status, answer.text
    body_of_answer: dict[str, Any] = answer.json()
    return body_of_answer


def put(client: httpx.Client, trace_id: str, fields: dict[str, Any], **more: Any) -> None:
    answer = client.put(f"{BASE}/trace_log", json={"trace_id": trace_id, "field_name_to_value_map": fields, **more})
    assert answer.status_code == 200, answer.text


def record_of(client: httpx.Client, inference_id: str, project: str = "default") -> dict[str, Any]:
    answer = client.get(f"/api/records/{inference_id}", params={"project": project})
    assert answer.status_code == 200, answer.text
    record: dict[str, Any] = answer.json()
    return record


def test_a_log_of_a_function(client: httpx.Client) -> None:
    """Clients send defaults and zeros for unknown values; these are stored as unknown."""
    post(client, log("root"))
    assert record_of(client, "root") == {
        "inference_id": "root",
        "trace_id": "root",
        "trace_name": "answer",
        "name": "answer",
        "inputs": {"question": "why"},
        "output": "because",
        "latency": 1.5,
        "start_time_unix_nano": NOON,
        "end_time_unix_nano": NOON + 1_500_000_000,
        "scope": "parea",
        "kind": "chain",
        "status": "success",
        "project_name": "default",
    }


def test_a_log_of_a_model(client: httpx.Client) -> None:
    post(client, log("leaf", parent_trace_id="root", root_trace_id="root", depth=1, execution_order=2, **LLM))
    stored = record_of(client, "leaf")
    assert (stored["trace_id"], stored["parent_id"], stored["kind"]) == ("root", "root", "llm")
    assert (stored["model"], stored["provider"], stored["content"]) == ("gpt-4o-mini", "openai", "because")
    assert (stored["input_tokens"], stored["output_tokens"], stored["total_tokens"]) == (1_000, 100, 1_100)
    assert stored["llm_configuration"] == LLM["configuration"]
    assert stored["cache_hit"] is False
    assert stored["cost"] == pytest.approx(1_000 * 0.15e-6 + 100 * 0.6e-6)
    assert stored["cost_source"] == "genai-prices"
    assert stored["attributes"] == {"parea.depth": 1, "parea.execution_order": 2}
    assert "trace_name" not in stored
    assert "output" not in stored


def test_all_other_fields_are_stored(client: httpx.Client) -> None:
    more = {
        "scores": [{"name": "exact", "score": 1.0, "reason": None}],
        "feedback_score": 0.5,
        "images": [{"url": "http://example.invalid/x.png", "caption": None}],
        "comments": [{"comment": "well", "user_id": "u", "created_at": "2026"}],
        "annotations": {"1": {"u": {"score": 1.0}}},
        "experiment_uuid": "e-1",
        "evaluation_metric_names": ["m"],
        "apply_eval_frac": 0.5,
        "log_sample_rate": 0.25,
        "output_for_eval_metrics": "part",
        "something_new": {"x": 1},
    }
    plain = {
        "metadata": {"purpose": "testing"},
        "tags": ["a", "b"],
        "target": "gold",
        "session_id": "s",
        "end_user_identifier": "u",
        "deployment_id": "p",
        "time_to_first_token": 0.25,
    }
    post(client, log("root", **more, **plain))
    stored = record_of(client, "root")
    assert stored["attributes"] == {f"parea.{name}": value for name, value in more.items()}
    assert {name: stored[name] for name in plain} == plain


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"status": "error", "error": "Traceback: boom"}, ("error", "Traceback: boom")),
        ({"status": None, "error": "boom"}, ("error", "boom")),
        ({"status": "success", "error": "boom"}, ("error", "boom")),
        ({"status": "error", "error": None}, ("error", None)),
        ({"status": None, "error": None}, ("success", None)),
    ],
)
def test_statuses(client: httpx.Client, fields: dict[str, Any], expected: tuple[str, str | None]) -> None:
    """Null without an error is success; with an error text, the status is an error."""
    post(client, log("root", **fields))
    stored = record_of(client, "root")
    assert (stored.get("status", "success"), stored.get("error")) == expected


def test_money(client: httpx.Client) -> None:
    """The client's cost stays, a zero is unknown, and a hit in the client's cache costs nothing and saves its cost."""
    unknown = {**LLM, "configuration": {**LLM["configuration"], "model": "no-such-model"}}
    post(client, log("paid", **LLM, cost=0.5))
    post(client, log("hit", **LLM, cost=0.5, cache_hit=True))
    post(client, log("unknown", **unknown))
    post(client, log("uncounted", **{**LLM, "input_tokens": 0, "output_tokens": 0, "total_tokens": 0}))
    paid, hit, nothing, uncounted = (record_of(client, name) for name in ("paid", "hit", "unknown", "uncounted"))
    assert (paid["cost"], paid["cost_source"]) == (0.5, "client")
    assert (hit["cost"], hit["saved_cost"], hit["cache_hit"]) == (0.0, 0.5, True)
    assert "cost" not in nothing
    assert not {"cost", "input_tokens", "total_tokens"} & set(uncounted)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2024-05-30 13:48:34", 1_717_076_914_000_000_000),
        ("2023-07-24 18:05:17 ", 1_690_221_917_000_000_000),
        ("2024-01-15 10:11:12 UTC", 1_705_313_472_000_000_000),
        ("2024-01-15 10:11:12 EST", 1_705_331_472_000_000_000),
        ("2024-01-15 10:11:12 XYZ", 1_705_313_472_000_000_000),
        ("2024-05-30T13:48:34.123Z", 1_717_076_914_123_000_000),
        ("2026-11-22T22:05:28.257475+00:00", 1_795_385_128_257_475_000),
        ("2026-11-22T22:05:28+00:00", 1_795_385_128_000_000_000),
        ("2026-11-22T22:05:28+05:30", 1_795_365_328_000_000_000),
        ("2021-06-01T00:00:00Z", 1_622_505_600_000_000_000),
    ],
)
def test_every_format_of_a_time(client: httpx.Client, text: str, expected: int) -> None:
    """Equal times are equal, whichever client wrote them; the text of a named zone is kept too."""
    assert read_timestamp(text) == expected
    post(client, log("root", start_timestamp=text, end_timestamp=None, latency=2.0))
    stored = record_of(client, "root")
    assert stored["start_time_unix_nano"] == expected
    assert stored["end_time_unix_nano"] == expected + 2 * 10**9
    has_zone_name = text.endswith(("UTC", "EST", "XYZ"))
    assert stored.get("attributes") == ({"parea.start_timestamp": text} if has_zone_name else None)


@pytest.mark.parametrize(
    "text", ["", "now", "2024-13-01 00:00:00", "1", "2024-05-30", "1969-01-01 00:00:00", "x" * 500]
)
def test_an_invalid_time_is_unprocessable(client: httpx.Client, text: str) -> None:
    body = post(client, log("root", start_timestamp=text), 422)
    assert body["errors"][0]["loc"] == ["body"]
    assert "start_timestamp" in body["errors"][0]["msg"]


def test_times_are_written_as_the_seed_has_them() -> None:
    assert write_timestamp(1_690_221_917_999_999_999) == "2023-07-24 18:05:17"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b"{",
        b'{"trace_id":1,"start_timestamp":"2024-05-30 13:48:34"}',
        b'{"start_timestamp":"2024-05-30 13:48:34"}',
        b'{"trace_id":"a"}',
        b'{"trace_id":"a","start_timestamp":5}',
        b'{"trace_id":"a","start_timestamp":"2024-05-30 13:48:34","latency":"slow"}',
        b'{"trace_id":"a","start_timestamp":"2024-05-30 13:48:34","tags":"beta"}',
        b'{"trace_id":"a","start_timestamp":"2024-05-30 13:48:34","status":"fine"}',
        b'{"trace_id":"a","start_timestamp":"2024-05-30 13:48:34","inputs":' + b"[" * 5_000 + b"]" * 5_000 + b"}",
        b'{"trace_id":"a","start_timestamp":"2024-05-30 13:48:34","inputs":' + b"[" * 300 + b"]" * 300 + b"}",
        b'{"trace_id":"a","start_timestamp":"2024-05-30 13:48:34","project_uuid":7}',
    ],
)
def test_an_invalid_log_is_unprocessable(client: httpx.Client, body: bytes) -> None:
    answer = client.post(f"{BASE}/trace_log", content=body)
    assert answer.status_code == 422, answer.text
    assert answer.json()["errors"][0]["type"] == "value_error"
    assert client.get("/api/records").json()["records"] == []


def test_children_arrive_before_parents_and_everything_arrives_twice(client: httpx.Client) -> None:
    """Each log is one record, in the tree that the ids describe."""
    child = log("child", parent_trace_id="root", root_trace_id="root", **LLM)
    for body in (child, log("root"), child, log("root")):
        post(client, body)
    trace = client.get("/api/traces/root").json()
    assert {(one["inference_id"], one.get("parent_id")) for one in trace["records"]} == {
        ("root", None),
        ("child", "root"),
    }
    assert trace["trace"]["name"] == "answer"
    assert trace["trace"]["total_tokens"] == 1_100


def test_a_repeated_log_sets_its_fields_and_keeps_the_others(client: httpx.Client) -> None:
    post(client, log("root", metadata={"a": "1"}, scores=[{"name": "s", "score": 1.0}]))
    post(client, log("root", metadata=None, output=None, output_for_eval_metrics=None, feedback_score=0.5))
    stored = record_of(client, "root")
    assert stored["output"] == "because"
    assert stored["metadata"] == {"a": "1"}
    assert stored["attributes"] == {"parea.scores": [{"name": "s", "score": 1.0}], "parea.feedback_score": 0.5}


def test_an_update_after_the_log(client: httpx.Client) -> None:
    post(client, log("root", scores=[{"name": "s", "score": 1.0}]))
    put(client, "root", {"output": "later", "tags": ["x"], "feedback_score": 1.0, "status": "error", "error": "boom"})
    stored = record_of(client, "root")
    assert (stored["output"], stored["tags"], stored["status"], stored["error"]) == ("later", ["x"], "error", "boom")
    assert stored["attributes"] == {"parea.scores": [{"name": "s", "score": 1.0}], "parea.feedback_score": 1.0}
    assert stored["inputs"] == {"question": "why"}


def test_an_update_of_a_models_log(client: httpx.Client) -> None:
    """The output of a model call is its content, also if the update does not say that it is a model call."""
    post(client, log("leaf", **LLM, output=None))
    put(client, "leaf", {"output": "later", "cost": 0.75})
    stored = record_of(client, "leaf")
    assert (stored["content"], stored["cost"], stored["cost_source"]) == ("later", 0.75, "client")


def test_an_update_before_the_log(client: httpx.Client) -> None:
    """It is stored until its log arrives, whose nulls do not undo it."""
    put(client, "root", {"output": "late", "scores": [{"name": "s", "score": 1.0}]}, root_trace_id="root")
    put(client, "other", {"metadata": {"a": "1"}})
    post(client, log("root", output=None, output_for_eval_metrics=None, feedback_score=0.5))
    post(client, log("other", parent_trace_id="root", root_trace_id="root"))
    stored, other = record_of(client, "root"), record_of(client, "other")
    assert (stored["output"], stored["name"]) == ("late", "answer")
    assert stored["attributes"] == {"parea.scores": [{"name": "s", "score": 1.0}], "parea.feedback_score": 0.5}
    assert (other["metadata"], other["trace_id"]) == ({"a": "1"}, "root")
    assert len(client.get("/api/traces").json()["traces"]) == 1


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"trace_id": "a"},
        {"trace_id": "", "field_name_to_value_map": {}},
        {"trace_id": "a", "field_name_to_value_map": []},
        {"trace_id": "a", "field_name_to_value_map": {"latency": "slow"}},
        {"trace_id": "a", "field_name_to_value_map": {"start_timestamp": "now"}},
        {"trace_id": "a", "field_name_to_value_map": {"status": 7}},
    ],
)
def test_an_invalid_update_is_unprocessable(client: httpx.Client, body: dict[str, Any]) -> None:
    assert client.put(f"{BASE}/trace_log", json=body).status_code == 422


def test_projects(client: httpx.Client) -> None:
    """Every client requests its project first; the same name has the same id, and logs may use either."""
    first = client.post(f"{BASE}/project", json={"name": "beta"}).json()
    again = client.post(f"{BASE}/project", json={"name": "beta"}).json()
    assert set(first) == {"name", "uuid", "created_at", "was_created"}
    assert (first["name"], first["was_created"], again["was_created"]) == ("beta", True, False)
    assert first["uuid"] == again["uuid"] == str(uuid.UUID(first["uuid"]))
    post(client, log("by-uuid", project_uuid=first["uuid"]))
    post(client, log("by-name", project_uuid=None, project_name="beta"))
    post(client, log("by-nothing", project_uuid=""))
    put(client, "by-uuid", {"output": "patched"})
    assert record_of(client, "by-uuid", "beta")["output"] == "patched"
    assert record_of(client, "by-name", "beta")["project_name"] == "beta"
    assert record_of(client, "by-nothing")["project_name"] == "default"
    for body in ({}, {"name": ""}, {"name": 7}, {"name": "x" * 300}):
        assert client.post(f"{BASE}/project", json=body).status_code == 422


def test_a_project_key_works_only_in_its_project(
    server: Any, client: httpx.Client, make_key: Callable[..., str]
) -> None:
    """`default`, which every client requests by default, is the key's own project."""
    other = client.post(f"{BASE}/project", json={"name": "beta"}).json()["uuid"]
    with httpx.Client(base_url=server.address, headers={"x-api-key": make_key("alpha")}) as alpha:
        own = alpha.post(f"{BASE}/project", json={"name": "default"}).json()
        assert own["name"] == "alpha"
        assert alpha.post(f"{BASE}/project", json={"name": "beta"}).status_code == 403
        post(alpha, log("mine", project_uuid=own["uuid"]))
        post(alpha, log("also-mine", project_uuid="default"))
        post(alpha, log("theirs", project_uuid=other), 403)
        post(alpha, log("theirs", project_name="beta"), 403)
        assert len(alpha.get("/api/records").json()["records"]) == 2
    assert client.get("/api/records", params={"project": "beta"}).json()["records"] == []


def test_health(client: httpx.Client) -> None:
    """An object of strings, at the path with and without a slash at its end."""
    for path in (BASE, f"{BASE}/"):
        body = client.get(path).json()
        assert body["status"] == "ok"
        assert all(isinstance(value, str) for value in body.values())
