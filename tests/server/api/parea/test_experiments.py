"""Parea's experiments and datasets: storage, statistics, and isolation of projects."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

BASE = "/api/parea/v1"
TIME = "2026-09-21T14:13:{:02d}+00:00"


def post(client: httpx.Client, path: str, body: Any, status: int = 200) -> Any:
    answer = client.post(BASE + path, json=body)
    assert answer.status_code == status, answer.text
    return answer.json()


def log(client: httpx.Client, own: str, root: str, second: int, **fields: Any) -> None:
    body = {
        "trace_id": own, "parent_trace_id": root, "root_trace_id": root, "start_timestamp": TIME.format(second),
        "end_timestamp": TIME.format(second + 2), "latency": 2.0, "trace_name": own, **fields,
    }  # fmt: skip
    post(client, "/trace_log", body)


LLM = {"configuration": {"model": "m"}, "input_tokens": 10, "output_tokens": 5, "total_tokens": 15, "cost": 0.5}


@pytest.fixture
def project_uuid(client: httpx.Client) -> str:
    return str(post(client, "/project", {"name": "default"})["uuid"])


@pytest.fixture
def shop(client: httpx.Client, make_key: Callable[..., str]) -> Iterator[httpx.Client]:
    """A client with a key of another project."""
    with httpx.Client(base_url=client.base_url, headers={"x-api-key": make_key("shop")}) as opened:
        yield opened


def test_an_experiment_from_start_to_end(client: httpx.Client, project_uuid: str) -> None:
    body = {"name": "greeting", "run_name": "calm-owl", "metadata": {"Dataset": "d"}, "project_uuid": project_uuid}
    experiment = post(client, "/experiment", body)
    own = experiment["uuid"]
    assert (experiment["name"], experiment["run_name"], experiment["metadata"], experiment["is_public"]) == (
        "greeting", "calm-owl", {"Dataset": "d"}, False,
    )  # fmt: skip
    assert experiment["project_uuid"] == project_uuid
    exact = [{"name": "exact", "score": 1.0, "reason": "same"}]
    log(client, "leaf-1", "root-1", 1, experiment_uuid=own, **LLM)
    log(client, "root-1", "root-1", 1, experiment_uuid=own, scores=exact)
    log(client, "leaf-2", "root-2", 5, **{**LLM, "cost": 0.25})  # says no experiment, and is in a trace of one
    log(client, "root-2", "root-2", 5, experiment_uuid=own, scores=[{"name": "exact", "score": 0.0}], latency=4.0)
    log(client, "other", "other", 9, experiment_uuid="another")
    stats = {
        "parent_trace_stats": [
            {
                "trace_id": "root-1", "latency": 2.0, "input_tokens": 10, "output_tokens": 5, "total_tokens": 15,
                "cost": 0.5, "scores": exact,
            },
            {
                "trace_id": "root-2", "latency": 4.0, "input_tokens": 10, "output_tokens": 5, "total_tokens": 15,
                "cost": 0.25, "scores": [{"name": "exact", "score": 0.0, "reason": None}],
            },
        ]
    }  # fmt: skip
    assert client.get(f"{BASE}/experiment/{own}/stats").json() == stats
    ended = {"status": "completed", "dataset_level_stats": [{"name": "balance", "score": 0.75, "reason": None}]}
    assert post(client, f"/experiment/{own}/finished", ended) == stats
    (listed,) = post(client, "/experiments", {"experiment_uuids": [own]})
    assert (listed["status"], listed["num_samples"]) == ("completed", 2)
    pinned = {(one["var1"], one["operation"]): one["value"] for one in listed["pinned_stats"]}
    assert pinned == {
        ("latency", "mean"): 3.0, ("input_tokens", "mean"): 10, ("output_tokens", "mean"): 5,
        ("total_tokens", "mean"): 15, ("cost", "mean"): 0.375, ("exact", "mean"): 0.5, ("balance", "custom"): 0.75,
    }  # fmt: skip


def test_unknown_values_are_null(client: httpx.Client, project_uuid: str) -> None:
    own = post(client, "/experiment", {"name": "n", "run_name": "r", "project_uuid": project_uuid})["uuid"]
    log(client, "root", "root", 1, experiment_uuid=own, latency=None)
    (stats,) = client.get(f"{BASE}/experiment/{own}/stats").json()["parent_trace_stats"]
    assert stats == {
        "trace_id": "root", "latency": None, "input_tokens": None, "output_tokens": None, "total_tokens": None,
        "cost": None, "scores": [],
    }  # fmt: skip


def test_the_logs_of_an_experiment(client: httpx.Client, project_uuid: str) -> None:
    own = post(client, "/experiment", {"name": "n", "run_name": "r", "project_uuid": project_uuid})["uuid"]
    log(client, "root-2", "root-2", 5, experiment_uuid=own)
    log(client, "leaf", "root-1", 2, output="needle")
    log(client, "root-1", "root-1", 1, experiment_uuid=own)
    log(client, "apart", "apart", 2, output="needle")
    logs = post(client, f"/experiment/{own}/trace_logs", {"filter_field": None})
    assert [(one["trace_id"], one["children"]) for one in logs] == [("root-1", ["leaf"]), ("root-2", [])]
    needle = {"filter_field": "output", "filter_operator": "equals", "filter_value": "needle"}
    assert [one["trace_id"] for one in post(client, f"/experiment/{own}/trace_logs", needle)] == ["leaf"]


def test_an_experiment_of_many_traces_is_read_in_parts(
    client: httpx.Client, project_uuid: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from everycall import limits
    from everycall.server.api.parea import experiments

    own = post(client, "/experiment", {"name": "n", "run_name": "r", "project_uuid": project_uuid})["uuid"]
    for number in range(7):
        log(client, f"root-{number}", f"root-{number}", number, experiment_uuid=own)
        log(client, f"leaf-{number}", f"root-{number}", number, **LLM)
    monkeypatch.setattr(experiments, "TRACES_AT_ONCE", 3)
    monkeypatch.setattr(limits, "TRACE_RECORDS_MAX", 4)
    monkeypatch.setattr(limits, "PAGE_ROWS_MAX", 2)
    stats = client.get(f"{BASE}/experiment/{own}/stats").json()["parent_trace_stats"]
    assert [(one["trace_id"], one["total_tokens"]) for one in stats] == [(f"root-{n}", 15) for n in range(7)]


def test_experiments_are_filtered(client: httpx.Client, project_uuid: str) -> None:
    for name, run, metadata in [
        ("greeting", "a-1", {"k": "v"}),
        ("greeting", "b-2", {"k": "w"}),
        ("other", "a-3", None),
    ]:
        body = {"name": name, "run_name": run, "metadata": metadata, "project_uuid": project_uuid}
        post(client, "/experiment", body)

    def listed(**filters: Any) -> list[str]:
        return [one["run_name"] for one in post(client, "/experiments", filters)]

    assert listed() == ["a-3", "b-2", "a-1"]
    assert listed(experiment_name_filter="greet") == ["b-2", "a-1"]
    assert listed(run_name_filter="a-") == ["a-3", "a-1"]
    assert listed(metadata_filter={"k": "v"}) == ["a-1"]
    assert listed(metadata_filter={"k": "v"}, run_name_filter="b") == []
    assert listed(project_name="default", experiment_uuids=["none"]) == []
    assert listed(project_name="nothing here") == []
    existing = {"name": "greeting", "run_name": "a-1", "project_uuid": project_uuid}
    assert post(client, "/experiment", existing, 400)["field"] == "run_name"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/experiment", {"run_name": "r"}),
        ("/experiment", {"name": ""}),
        ("/experiment", {"name": "n", "run_name": "a/b"}),
        ("/experiment", {"name": "n", "metadata": {"a": 1}}),
        ("/experiments", {"experiment_uuids": "u"}),
        ("/experiment/OWN/finished", {"status": "perhaps"}),
        ("/experiment/OWN/finished", {"dataset_level_stats": [{"name": "n"}]}),
        ("/experiment/OWN/trace_logs", {"filter_field": "colour"}),
        ("/collection", {"test_cases": []}),
        ("/collection", {"name": "n", "test_cases": [{"inputs": []}]}),
        ("/testcases", {"test_cases": []}),
    ],
)
def test_invalid_bodies_are_refused(client: httpx.Client, project_uuid: str, path: str, body: Any) -> None:
    own = post(client, "/experiment", {"name": "n", "run_name": "r", "project_uuid": project_uuid})["uuid"]
    post(client, path.replace("OWN", own), body, 422)


CASES = [{"inputs": {"x": "1+1", "n": 2}, "target": "2", "tags": ["math"]}, {"inputs": {"x": "2+2"}, "target": 4}]


def test_a_dataset(client: httpx.Client) -> None:
    dataset = post(client, "/collection", {"id": None, "name": "sums", "column_names": ["x"], "test_cases": CASES})
    first, second = dataset["test_case_ids"]
    (third,) = post(client, "/testcases", {"id": dataset["id"], "name": None, "test_cases": [{"inputs": {"y": "z"}}]})
    stored = client.get(f"{BASE}/collection/sums").json()
    assert (stored["id"], stored["name"], stored["column_names"]) == (dataset["id"], "sums", ["x", "n", "y"])
    assert stored["test_cases"] == {
        str(first): {
            "id": first, "test_case_collection_id": dataset["id"], "inputs": {"x": "1+1", "n": "2"}, "target": "2",
            "tags": ["math"],
        },
        str(second): {
            "id": second, "test_case_collection_id": dataset["id"], "inputs": {"x": "2+2"}, "target": "4", "tags": [],
        },
        str(third): {
            "id": third, "test_case_collection_id": dataset["id"], "inputs": {"y": "z"}, "target": None, "tags": [],
        },
    }  # fmt: skip
    assert client.get(f"{BASE}/collection/{dataset['id']}").json() == stored
    update = f"/update_test_case/{dataset['id']}/{first}"
    post(client, update, {"inputs": None, "target": 2.5, "tags": None})
    post(client, update, {"inputs": {"x": "5/2"}, "target": None, "tags": []})
    changed = client.get(f"{BASE}/collection/sums").json()["test_cases"][str(first)]
    assert (changed["inputs"], changed["target"], changed["tags"]) == ({"x": "5/2"}, "2.5", [])


def test_a_dataset_is_created_once(client: httpx.Client) -> None:
    body = {"name": "sums", "test_cases": CASES}
    assert post(client, "/collection", body) == post(client, "/collection", body)
    assert post(client, "/collection", {**body, "test_cases": CASES[:1]}, 400)["field"] == "name"


def test_adding_cases_creates_the_dataset(client: httpx.Client) -> None:
    ids = post(client, "/testcases", {"name": "a b/c?", "test_cases": CASES})
    more = post(client, "/testcases", {"name": "a b/c?", "test_cases": CASES[:1]})
    dataset = client.get(f"{BASE}/collection/a%20b%2Fc%3F").json()
    assert [int(number) for number in dataset["test_cases"]] == [*ids, *more]


def test_missing_objects_are_not_found(client: httpx.Client) -> None:
    assert client.get(f"{BASE}/collection/none").json() is None
    assert client.get(f"{BASE}/collection/999999999999999999999").json() is None
    assert client.get(f"{BASE}/experiment/none/stats").status_code == 404
    post(client, "/experiment/none/finished", {}, 404)
    post(client, "/experiment/none/trace_logs", {}, 404)
    post(client, "/testcases", {"id": 7, "test_cases": []}, 404)
    for path in ("/update_test_case/7/7", "/update_test_case/x/7", f"/update_test_case/{10**30}/1"):
        post(client, path, {}, 404)


def test_projects_are_isolated(client: httpx.Client, shop: httpx.Client, project_uuid: str) -> None:
    own = post(client, "/experiment", {"name": "n", "run_name": "r", "project_uuid": project_uuid})["uuid"]
    dataset = post(client, "/collection", {"name": "sums", "test_cases": CASES})
    post(shop, "/experiment", {"name": "n", "run_name": "r", "project_uuid": project_uuid}, 403)
    theirs = post(shop, "/experiment", {"name": "n", "run_name": "r", "project_uuid": "default"})["uuid"]
    log(client, "a", "a", 1, experiment_uuid=own)
    log(shop, "b", "b", 1, experiment_uuid=own)
    assert [one["uuid"] for one in post(shop, "/experiments", {})] == [theirs]
    assert shop.get(f"{BASE}/experiment/{own}/stats").status_code == 404
    post(shop, f"/experiment/{own}/finished", {}, 404)
    post(shop, f"/experiment/{own}/trace_logs", {}, 404)
    stats = client.get(f"{BASE}/experiment/{own}/stats").json()["parent_trace_stats"]
    assert [one["trace_id"] for one in stats] == ["a"]
    assert shop.get(f"{BASE}/collection/sums").json() is None
    assert shop.get(f"{BASE}/collection/{dataset['id']}").json() is None
    post(shop, "/testcases", {"id": dataset["id"], "test_cases": CASES}, 404)
    post(shop, f"/update_test_case/{dataset['id']}/{dataset['test_case_ids'][0]}", {"target": "x"}, 404)
    post(shop, "/testcases", {"name": "sums", "test_cases": CASES[:1]})
    assert len(shop.get(f"{BASE}/collection/sums").json()["test_cases"]) == 1
    assert len(client.get(f"{BASE}/collection/sums").json()["test_cases"]) == 2
    assert client.get(f"{BASE}/experiment/{theirs}/stats").status_code == 200  # the local key sees all projects


def test_a_reader_changes_nothing(client: httpx.Client, make_key: Callable[..., str], project_uuid: str) -> None:
    own = post(client, "/experiment", {"name": "n", "run_name": "r", "project_uuid": project_uuid})["uuid"]
    dataset = post(client, "/collection", {"name": "sums", "test_cases": CASES})
    with httpx.Client(base_url=client.base_url, headers={"x-api-key": make_key("default", "read")}) as reader:
        for path in (
            "/experiment",
            f"/experiment/{own}/finished",
            "/collection",
            "/testcases",
            "/update_test_case/1/1",
        ):
            post(reader, path, {}, 403)
        assert reader.get(f"{BASE}/collection/sums").json()["id"] == dataset["id"]
        assert post(reader, "/experiments", {})[0]["uuid"] == own
