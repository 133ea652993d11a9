"""Reading logs as Parea's clients do: a log with its tree, the filtered list, feedback, deployed prompts."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

BASE = "/api/parea/v1"
NOON = 1_790_000_000 * 10**9
TIME = "2026-09-21T14:13:{:02d}+00:00"


def post(client: httpx.Client, path: str, body: dict[str, Any], status: int = 200) -> Any:
    answer = client.post(BASE + path, json=body)
    assert answer.status_code == status, answer.text
    return answer.json()


def log(client: httpx.Client, own: str, parent: str | None = None, second: int = 0, **fields: Any) -> None:
    """Send a log as Parea's client does, with its nulls."""
    body = {
        "trace_id": own, "parent_trace_id": parent or own, "root_trace_id": "root", "trace_name": f"name of {own}",
        "start_timestamp": TIME.format(second), "end_timestamp": TIME.format(second + 1), "comments": None,
        "annotations": None, "configuration": {"model": None, "messages": None, "model_params": None}, "scores": [],
        "images": [], "children": ["x"], "tags": None, "metadata": None, "depth": 0, **fields,
    }  # fmt: skip
    post(client, "/trace_log", body)


def tree(client: httpx.Client, own: str) -> dict[str, Any]:
    answer = client.get(f"{BASE}/trace_log/{own}")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def names(logs: list[dict[str, Any]]) -> list[Any]:
    """Return the ids of a log and of the logs below it, as a tree."""
    return [[one["trace_id"], names(one["children_logs"])] if one["children_logs"] else one["trace_id"] for one in logs]


def send(client: httpx.Client, *records: dict[str, Any]) -> None:
    body = "\n".join(json.dumps(one) for one in records)
    assert client.post("/v1/records", content=body).json()["refused"] == []


NEVER_NULL = (
    "trace_id", "parent_trace_id", "root_trace_id", "start_timestamp", "comments", "images", "scores", "children_logs",
    "children", "annotations", "depth", "inputs", "tags", "cache_hit", "execution_order", "metadata",
)  # fmt: skip


def check(one: dict[str, Any]) -> None:
    """Check that a log and all logs below it have no null on which Parea's client fails."""
    assert [name for name in NEVER_NULL if one[name] is None] == []
    assert one["configuration"]["messages"] is not None
    assert one["configuration"]["model_params"] is not None
    assert all(isinstance(value, str) for value in one["inputs"].values())
    for child in one["children_logs"]:
        check(child)


def test_a_log_with_its_tree(client: httpx.Client) -> None:
    log(client, "leaf", "middle", 3, output="x")
    log(client, "second", "root", 4)
    log(client, "middle", "root", 2)
    log(client, "root", second=1, inputs={"n": 1, "deep": {"a": [1]}, "text": "t", "none": None}, output="done")
    root = tree(client, "root")
    check(root)
    assert names([root]) == [["root", [["middle", ["leaf"]], "second"]]]
    assert root["children"] == ["middle", "second"]
    assert root["inputs"] == {"n": "1", "deep": '{"a":[1]}', "text": "t", "none": ""}
    assert (root["start_timestamp"], root["output"]) == (TIME.format(1), "done")
    middle = root["children_logs"][0]
    assert (middle["depth"], middle["execution_order"], middle["parent_trace_id"]) == (1, 1, "root")
    assert names([tree(client, "middle")]) == [["middle", ["leaf"]]]


def test_stored_values_are_returned(client: httpx.Client) -> None:
    more: dict[str, Any] = {
        "scores": [{"name": "exact", "score": 1.0, "reason": "same"}, {"name": "broken"}, {"name": "n", "score": None}],
        "images": [{"url": "http://example.invalid/x.png", "caption": None}, {"caption": "none"}],
        "comments": [{"comment": "well", "user_id": "u", "created_at": "2026"}, {"comment": "half"}],
        "annotations": {"7": {"u": {"created_at": "2026", "user_id": "u", "score": 1.0}, "v": {}}, "x": {"u": {}}},
        "experiment_uuid": "e", "log_sample_rate": 0.5, "evaluation_metric_names": ["m"], "metadata": {"a": "b"},
        "tags": ["t"], "session_id": "s", "end_user_identifier": "u", "deployment_id": "p", "target": "gold",
    }  # fmt: skip
    log(client, "root", **more)
    root = tree(client, "root")
    check(root)
    same = (
        "experiment_uuid", "log_sample_rate", "evaluation_metric_names", "metadata", "tags", "session_id",
        "end_user_identifier", "deployment_id", "target",
    )  # fmt: skip
    assert {name: root[name] for name in same} == {name: more[name] for name in same}
    assert root["scores"] == more["scores"][:1]
    assert root["images"] == more["images"][:1]
    assert root["comments"] == more["comments"][:1]
    assert root["annotations"] == {"7": {"u": more["annotations"]["7"]["u"]}}


def test_a_record_of_any_origin(client: httpx.Client) -> None:
    messages = [
        {"role": "developer", "content": None},
        {"role": "Role.user", "content": [{"type": "text", "text": "hi"}]},
        {"role": "alien", "content": "x"},
        "bare",
    ]
    send(
        client,
        {"inference_id": "a-1", "trace_id": "a", "name": "plan", "inputs": ["x"], "output": {"y": 1}},
        {
            "inference_id": "a-2", "trace_id": "a", "parent_id": "a-1", "kind": "llm", "content": "hello", "cost": 0.5,
            "llm_configuration": {"model": "gpt-4o", "messages": messages}, "llm_inputs": {"q": 1}, "model": "gpt-4o-1",
            "start_time_unix_nano": NOON + 1, "target": {"z": 1}, "input_tokens": 3,
        },
        {"inference_id": "a-3", "trace_id": "a", "start_time_unix_nano": NOON + 2},
    )  # fmt: skip
    log = tree(client, "a-1")
    check(log)
    assert names([log]) == [["a-1", ["a-2"]]]
    assert (log["inputs"], log["output"]) == ({"input": '["x"]'}, '{"y":1}')
    leaf = log["children_logs"][0]
    assert [one["role"] for one in leaf["configuration"]["messages"]] == ["system", "user", "user", "user"]
    assert [one["content"] for one in leaf["configuration"]["messages"]] == [
        "", '[{"type":"text","text":"hi"}]', "x", "bare",
    ]  # fmt: skip
    assert (leaf["output"], leaf["target"], leaf["cost"], leaf["output_tokens"]) == ("hello", '{"z":1}', 0.5, None)
    assert names([tree(client, "a")]) == [["a-1", ["a-2", "a-3"]]]


def test_cycles_and_deep_chains(client: httpx.Client) -> None:
    ring = [{"inference_id": f"r{n}", "trace_id": "ring", "parent_id": f"r{(n + 1) % 3}"} for n in range(3)]
    deep = [
        {
            "inference_id": f"d{n}",
            "trace_id": "deep",
            "parent_id": f"d{n - 1}" if n else None,
            "start_time_unix_nano": n,
        }
        for n in range(500)
    ]
    send(client, *ring, *deep)
    assert json.dumps(names([tree(client, "r0")])).count("r") == 3
    assert tree(client, "ring")["trace_id"] in ("r0", "r1", "r2")
    logs, log_count, levels = [tree(client, "deep")], 0, 0
    while logs:
        log_count += len(logs)
        levels += 1
        logs = [child for one in logs for child in one["children_logs"]]
    assert log_count == 500
    assert levels <= 62


def test_a_tree_that_is_too_large_is_413(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    from everycall import limits

    send(client, *({"inference_id": f"r{n}", "trace_id": "big"} for n in range(5)))
    monkeypatch.setattr(limits, "TRACE_RECORDS_MAX", 3)
    answer = client.get(f"{BASE}/trace_log/r0")
    assert (answer.status_code, answer.json()["records_max"]) == (413, 3)


def test_a_log_of_another_project_is_like_an_unknown_one(client: httpx.Client, make_key: Callable[..., str]) -> None:
    key = make_key("shop", "write")
    shop = httpx.Client(base_url=client.base_url, headers={"x-api-key": key})
    with shop:
        post(shop, "/trace_log", {"trace_id": "mine", "start_timestamp": TIME.format(1)})
        log(client, "yours")
        assert tree(shop, "mine")["trace_id"] == "mine"
        assert tree(client, "mine")["project_name"] == "shop"  # the local key sees all projects
        unknown, others = (shop.get(f"{BASE}/trace_log/{name}") for name in ("none", "yours"))
        assert (unknown.status_code, unknown.content) == (others.status_code, others.content) == (404, unknown.content)
        assert [one["trace_id"] for one in post(shop, "/get_trace_logs", {"project_name": "default"})["results"]] == [
            "mine"
        ]
        assert shop.post(f"{BASE}/get_trace_logs", json={"project_name": "other"}).status_code == 403


def listed(client: httpx.Client, **body: Any) -> list[Any]:
    return names(post(client, "/get_trace_logs", {"project_name": "default", **body})["results"])


def test_the_list_of_logs(client: httpx.Client) -> None:
    for number in range(5):
        log(client, f"log{number}", second=number, root_trace_id=f"log{number}")
    log(client, "child", "log2", 7, root_trace_id="log2", output="needle", cost=0.25)
    assert listed(client) == ["log4", "log3", ["log2", ["child"]], "log1", "log0"]
    page = post(client, "/get_trace_logs", {"project_name": "default", "page": 2, "page_size": 2})
    assert names(page["results"]) == [["log2", ["child"]], "log1"]
    del page["results"]
    assert page == {"total": 5, "page": 2, "total_pages": 3, "page_size": 2}
    assert listed(client, filter_field="output", filter_operator="like", filter_value="NEED") == ["child"]
    assert listed(client, filter_field="cost", filter_operator="greater_than", filter_value=0.2) == ["child"]
    assert listed(client, page=9) == []


def test_every_field_can_be_filtered(client: httpx.Client) -> None:
    log(
        client, "root", metadata={"purpose": "testing"}, tags=["beta"], end_user_identifier="u", session_id="s",
        deployment_id="p", experiment_uuid="e", inputs={"q": "why"}, output="because", target="gold", error="boom",
        status="error", scores=[{"name": "exact", "score": 0.5}], latency=2.5,
        annotations={"7": {"u": {"created_at": "2026", "user_id": "u", "score": 1.0}}},
    )  # fmt: skip
    log(client, "other", second=30, root_trace_id="other")
    post(client, "/feedback", {"trace_id": "root", "score": 0.75})
    for field, key, operator, value in [
        ("metadata", "purpose", "equals", "testing"),
        ("tags", None, "equals", "beta"),
        ("end_user_identifier", None, "equals", "u"),
        ("session_id", None, "in", "r,s"),
        ("deployment_id", None, "exists", None),
        ("experiment_uuid", None, "equals", "e"),
        ("inputs", "q", "like", "WH%"),
        ("output", None, None, "because"),
        ("target", None, "equals", "gold"),
        ("error", None, "exists", None),
        ("status", None, "not_equals", "success"),
        ("score:exact", None, "less_than", "0.6"),
        ("scores", "exact", "equals", "0.5"),
        ("annotation:human:7", None, "equals", "1"),
        ("latency", None, "between", "[2, 3]"),
        ("trace_name", None, "equals", "name of root"),
        ("trace_id", None, "equals", "root"),
        ("root_trace_id", None, "equals", "root"),
        ("feedback_score", None, "greater_than", "0.7"),
        ("start_timestamp", None, "less_than", "2026-09-21T14:13:30Z"),
    ]:
        assert listed(
            client, filter_field=field, filter_key=key, filter_operator=operator, filter_value=value
        ) == ["root"], (field, operator)  # fmt: skip
    assert listed(client, status="error") == ["root"]
    assert listed(client, status="success") == ["other"]


def test_the_time_range(client: httpx.Client) -> None:
    import time

    now = time.time_ns()
    ages = {"new": 60, "hours": 2 * 3600, "days": 3 * 86400, "months": 60 * 86400}
    send(
        client,
        *(
            {"inference_id": name, "trace_id": name, "start_time_unix_nano": now - age * 10**9}
            for name, age in ages.items()
        ),
    )
    assert listed(client, time_range="1h") == ["new"]
    assert listed(client, time_range="24h") == ["new", "hours"]
    assert listed(client, time_range="7d") == ["new", "hours", "days"]
    assert listed(client, time_range="na") == ["new", "hours", "days", "months"]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"filter_field": "colour"}, "filter_field must be one of annotations"),
        ({"filter_field": "cost", "filter_operator": "resembles"}, "equals, not_equals"),
        ({"filter_field": "start_timestamp", "filter_value": "yesterday"}, "filter_value is not a time"),
        ({"status": "maybe"}, "success or error"),
        ({"time_range": "2w"}, "time_range must be one of na, 1h"),
        ({"page": 0}, "page"),
        ({"page_size": 100_001}, "page_size"),
        ({"filter_value": [1]}, "filter_value"),
    ],
)
def test_an_invalid_filter_is_refused(client: httpx.Client, body: dict[str, Any], says: str) -> None:
    answer = client.post(f"{BASE}/get_trace_logs", json={"project_name": "default", **body})
    assert answer.status_code == 422
    assert says.casefold() in answer.json()["detail"].casefold()


def test_feedback(client: httpx.Client) -> None:
    log(client, "root")
    assert tree(client, "root")["feedback_score"] is None
    post(client, "/feedback", {"trace_id": "root", "score": 1, "name": None, "target": None, "comment": None})
    post(client, "/feedback", {"trace_id": "root", "score": 0.5, "target": "gold", "comment": "not quite"})
    root = tree(client, "root")
    assert (root["feedback_score"], root["target"]) == (0.5, "gold")
    assert [one["comment"] for one in root["comments"]] == ["not quite"]


def test_feedback_before_its_log(client: httpx.Client) -> None:
    post(client, "/feedback", {"inference_id": "late", "trace_id": "chain", "score": 0.25})
    assert client.get(f"{BASE}/trace_log/late").status_code == 404
    log(client, "late")
    assert tree(client, "late")["feedback_score"] == 0.25


def test_feedback_on_a_trace_belongs_to_its_first_log(client: httpx.Client) -> None:
    send(
        client,
        {"inference_id": "c-1", "trace_id": "chain", "start_time_unix_nano": NOON},
        {"inference_id": "c-2", "trace_id": "chain", "start_time_unix_nano": NOON + 1},
    )
    assert post(client, "/feedback", {"trace_id": "chain", "score": 1})["trace_id"] == "c-1"
    assert (tree(client, "c-1")["feedback_score"], tree(client, "c-2")["feedback_score"]) == (1.0, None)


@pytest.mark.parametrize("score", [2, -0.1, "good", None])
def test_invalid_feedback_is_refused(client: httpx.Client, score: Any) -> None:
    assert client.post(f"{BASE}/feedback", json={"trace_id": "x", "score": score}).status_code == 422
    assert client.post(f"{BASE}/feedback", json={"score": 1}).status_code == 422


def test_projects_do_not_see_each_others_feedback(client: httpx.Client, make_key: Callable[..., str]) -> None:
    log(client, "root")
    answer = httpx.post(
        f"{client.base_url}{BASE}/feedback",
        json={"trace_id": "root", "score": 0},
        headers={"x-api-key": make_key("shop")},
    )
    assert answer.status_code == 200
    assert tree(client, "root")["feedback_score"] is None
    reader = {"x-api-key": make_key("default", "read")}
    assert httpx.post(f"{client.base_url}{BASE}/feedback", json={}, headers=reader).status_code == 403


@pytest.fixture
def deployment_id(client: httpx.Client) -> str:
    body = {
        "name": "hello", "messages": [{"role": "system", "content": "Use {{y}}"}, {"content": "A program in {{x}}"}],
        "model": "gpt-4o-mini", "model_params": {"temp": 0.5}, "functions": [{"name": "f"}],
        "function_call": {"name": "f"},
    }  # fmt: skip
    return str(client.post("/api/deployments", json=body).json()["deployment_id"])


def test_a_deployed_prompt(client: httpx.Client, deployment_id: str) -> None:
    body = {"deployment_id": deployment_id, "llm_inputs": {"x": "Golang"}}
    headers = {"x-sdk-version": "0.2.220"}
    answer = client.post(f"{BASE}/deployed-prompt", json=body, headers=headers).json()
    raw = [{"role": "system", "content": "Use {{y}}"}, {"role": "user", "content": "A program in {{x}}"}]
    assert answer == {
        "deployment_id": deployment_id,
        "version_number": 1,
        "name": "hello",
        "functions": ['{"name":"f"}'],
        "function_call": '{"name":"f"}',
        "prompt": {
            "raw_messages": raw,
            "messages": [raw[0], {"role": "user", "content": "A program in Golang"}],
            "inputs": {"x": "Golang"},
        },
        "model": "gpt-4o-mini",
        "provider": "openai",
        "model_params": {"temp": 0.5},
    }
    plain = client.post(f"{BASE}/deployed-prompt", json={"deployment_id": deployment_id}, headers=headers).json()
    assert plain["prompt"] == {"raw_messages": raw, "messages": raw, "inputs": None}


def test_the_oldest_clients_get_no_unknown_field(client: httpx.Client, deployment_id: str) -> None:
    answer = client.post(f"{BASE}/deployed-prompt", json={"deployment_id": deployment_id})
    assert "version_number" not in answer.json()
    other = client.post(
        f"{BASE}/deployed-prompt", json={"deployment_id": deployment_id}, headers={"user-agent": "curl"}
    )
    assert other.json()["version_number"] == 1


def test_an_unknown_prompt_is_404(client: httpx.Client, make_key: Callable[..., str], deployment_id: str) -> None:
    answer = client.post(f"{BASE}/deployed-prompt", json={"deployment_id": "p-none"})
    assert (answer.status_code, answer.json()["field"]) == (404, "deployment_id")
    assert client.post(f"{BASE}/deployed-prompt", json={}).status_code == 422
    shop = {"x-api-key": make_key("shop", "read")}
    others = httpx.post(f"{client.base_url}{BASE}/deployed-prompt", json={"deployment_id": deployment_id}, headers=shop)
    assert (others.status_code, others.content) == (404, answer.content)
