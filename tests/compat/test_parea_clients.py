"""The genuine `parea-ai` clients with a running server: programs work unchanged except for the URL."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.slow

SEED = "I want a Hello World program in Golang. Using the Fiber framework."
FOURTEEN = {
    "inference_id", "content", "latency", "input_tokens", "output_tokens", "total_tokens", "cost", "model", "provider",
    "cache_hit", "status", "error", "start_timestamp", "end_timestamp",
}  # fmt: skip


def record(api: httpx.Client, inference_id: str) -> dict[str, Any]:
    answer = api.get(f"/api/records/{inference_id}")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def names(tree: dict[str, Any]) -> list[Any]:
    """Return the names of a tree."""
    return [tree["trace_name"], *(names(child) for child in tree["children_logs"])]


def test_completions(run_program: Callable[..., Any], api: httpx.Client, provider: Any, deployment_id: str) -> None:
    long = "data: of an \N{OWL}\r\n" * 1_500
    provider.stream(pieces=[long])
    results = run_program("0.2.220", "completions", deployment_id)
    assert results["long"] == [long, long]  # its parser loses what does not arrive as one event in one piece
    provider.requests.pop(0)
    first, second = results["first"], results["second"]
    assert set(first) == FOURTEEN
    assert (first["content"], first["cache_hit"], first["total_tokens"]) == ("hello", False, 211)
    assert (second["content"], second["cache_hit"], second["cost"]) == ("hello", True, first["cost"])
    assert provider.requests[0].messages == [{"role": "user", "content": SEED}]
    assert provider.requests[0].body["temperature"] == 0.5  # the deployment's, not the client's default block
    assert record(api, first["inference_id"])["metadata"] == {"purpose": "testing"}

    own = next(request.body for request in provider.requests if request.body["model"] == "gpt-4o")
    assert own["temperature"] == 0.25
    assert own["messages"] == [{"role": "system", "content": "be brief"}, {"role": "user", "content": "Say hi"}]
    assert own["tools"][0]["function"]["name"] == "f"
    stored = record(api, results["own"]["inference_id"])
    assert (stored["target"], stored["tags"], stored["end_user_identifier"]) == ("hello", ["a"], "u-1")
    assert [one["score"] for one in stored["attributes"]["parea.scores"]] == [1.0, 1.0]

    assert (results["stream"], results["stream_again"]) == (["hello"], ["he", "ll", "o"])
    prompt = results["prompt"]
    assert (prompt["version_number"], prompt["model"], prompt["model_params"]) == (1.0, "gpt-3.5-turbo", {"temp": 0.5})
    assert prompt["prompt"]["messages"] == [{"role": "user", "content": SEED}]
    assert "{{x}}" in prompt["prompt"]["raw_messages"][0]["content"]

    log = results["log"]
    assert (log["feedback_score"], log["target"], log["output"]) == (0.75, "gold", "hello")
    assert log["inputs"] == {"x": "Golang", "y": "Fiber"}
    assert log["configuration"]["messages"] == [{"content": SEED, "role": "user"}]
    assert (log["parent_trace_id"], log["root_trace_id"]) == (log["trace_id"], log["trace_id"])

    around, inside = results["around"]
    assert names(results["tree"]) == ["around", ["inside"]]
    assert results["tree"]["children_logs"][0]["trace_id"] == inside
    assert record(api, inside)["trace_id"] == around

    asynchronous = results["asynchronous"]
    assert (asynchronous["answer"]["cache_hit"], asynchronous["texts"]) == (True, ["he", "ll", "o"])
    assert asynchronous["prompt"]["deployment_id"] == deployment_id


def test_tracing(run_program: Callable[..., Any], api: httpx.Client, provider: Any) -> None:
    results = run_program("0.2.220", "tracing")
    assert results["results"] == ["hello", "hello", 6, "Paris.", "failed"]
    trees = results["trees"]
    assert ["llm-openai"] in names(trees["answer"])
    answer, leaf = trees["answer"], trees["answer"]["children_logs"][0]
    assert (answer["inputs"], answer["output"], answer["tags"]) == ({"question": "hi"}, "hello", ["t"])
    assert (answer["session_id"], answer["end_user_identifier"]) == ("s-1", "u-9")
    assert (leaf["configuration"]["model"], leaf["configuration"]["provider"]) == ("gpt-3.5-turbo", "openai")
    assert leaf["configuration"]["model_params"]["temp"] == 0.5
    assert (leaf["input_tokens"], leaf["output_tokens"]) == (22, 189)
    assert leaf["cost"] > 0
    assert leaf["depth"] == 1
    assert results["scores"] == [{"name": "short", "score": 1.0, "reason": "counted"}]
    assert names(trees["claude"]) == ["ask_claude", ["llm-anthropic"]]
    assert trees["claude"]["children_logs"][0]["output"] == "hello"

    parent = trees["parent"]
    assert names(parent) == ["parent", ["child"], ["child"]]
    assert (parent["inputs"], parent["output"]) == ({}, None)
    assert sorted(child["output"] for child in parent["children_logs"]) == ["2", "4"]
    assert (trees["fails"]["status"], results["failed"]) == ("error", [results["ids"]["fails"]])
    assert "ValueError: boom" in trees["fails"]["error"]

    chained = trees["chained"]
    steps = ["ChatPromptTemplate", "GenericFakeChatModel", "StrOutputParser"]
    assert names(chained) == ["chained", ["RunnableSequence", *([step] for step in steps)]]
    (sequence,) = chained["children_logs"]
    model = sequence["children_logs"][1]
    assert (model["output"], model["total_tokens"]) == ("Paris.", 7)
    assert (model["session_id"], model["tags"], model["metadata"]) == ("s-2", ["lc"], {"a": "1"})
    assert results["tagged"] == [results["ids"]["answer"]]
    assert results["page"] == [1, 1, 1, 5]
    kinds = {one["name"]: one.get("kind", "chain") for one in api.get("/api/records").json()["records"]}
    assert (kinds["llm-openai"], kinds["answer"], kinds["StrOutputParser"]) == ("llm", "chain", "parser")


def test_experiments(run_program: Callable[..., Any], api: httpx.Client) -> None:
    results = run_program("0.2.220", "experiments")
    dataset = results["dataset"]
    assert (dataset["name"], sorted(dataset["column_names"])) == ("sums", ["deep", "x"])
    assert [case["target"] for case in dataset["test_cases"].values()] == ["2", "4", "6"]
    assert results["changed"] == [
        [{"x": "1+1"}, "two", ["math"]],
        [{"x": "2+2", "deep": '{"a": 1}'}, "4", []],
        [{"x": "3+3"}, "6", []],
        [{"x": "4+4"}, None, []],
    ]
    assert results["none"] is None
    assert results["avg"] == {"exact": 0.5}
    stats = results["stats"]["parent_trace_stats"]
    assert [[score["score"] for score in one["scores"]] for one in stats] in ([[1.0], [0.0]], [[0.0], [1.0]])
    assert all(one["latency"] is not None for one in stats)
    assert results["listed"] == [results["one"]]
    one = results["one"]
    assert (one["uuid"], one["run_name"], one["status"]) == (results["uuid"], "calm-owl", "completed")
    assert (one["num_samples"], one["metadata"]) == (2, {"team": "a"})
    pinned = {(stat["var1"], stat["operation"]): stat["value"] for stat in one["pinned_stats"]}
    assert pinned["exact", "mean"] == 0.5
    assert pinned["balance", "custom"] > 0
    assert [names(log) for log in results["logs"]] == [["double", ["inner"], ["exact"]]] * 2  # evaluations are logs too
    assert {log["target"] for log in results["logs"]} == {"2", "5"}
    assert {log["experiment_uuid"] for log in results["logs"]} == {results["uuid"]}


def test_the_oldest_client(
    run_program: Callable[..., Any], api: httpx.Client, provider: Any, deployment_id: str
) -> None:
    results = run_program("0.1.3", "oldest", deployment_id)
    first, second = results["first"], results["second"]
    assert set(first) == {*FOURTEEN, "trace_id"}
    assert (first["content"], first["trace_id"], first["cache_hit"], second["cache_hit"]) == (
        "hello", None, False, True,
    )  # fmt: skip
    assert first["inference_id"] != second["inference_id"]
    chain = api.get("/api/traces/T").json()["records"]
    assert [(one["inference_id"], one["name"]) for one in chain] == [
        (first["inference_id"], "step1"), (second["inference_id"], "step2"),
    ]  # fmt: skip
    assert provider.requests[1].body["temperature"] == 0.75
    assert results["prompt"]["prompt"]["messages"][0]["content"].startswith(
        "I want a Hello World program in Golang. Usin"
    )
    assert results["aprompt"]["model"] == "gpt-3.5-turbo"
    tree = api.get("/api/parea/v1/trace_log/T").json()
    assert (tree["feedback_score"], tree["children_logs"][0]["feedback_score"]) == (1.0, 0.5)
