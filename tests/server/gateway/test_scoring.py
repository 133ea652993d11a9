"""`target`: the scores that a completion's record gets, and when it gets none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from everycall.server.gateway.scoring import score

PATH = "/api/parea/v1/completion"
PROMPT = {"model": "gpt-3.5-turbo", "messages": [{"content": "hi"}]}


@pytest.fixture
def api(gateway_server: Any) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=gateway_server.address, headers={"x-api-key": gateway_server.key}, timeout=30) as opened:
        yield opened


@pytest.mark.parametrize(
    ("content", "target", "exact", "similarity"),
    [
        ("Paris", "Paris", 1.0, 1.0),
        (" Paris\n", "Paris", 1.0, 1.0),
        ("Paris", "paris", 0.0, 0.8),
        ("Paris", "Bern", 0.0, 0.222222),
        ("abc", "xyz", 0.0, 0.0),
        ("", "x", 0.0, 0.0),
        ("\N{OWL}", "\N{OWL}", 1.0, 1.0),
    ],
)
def test_scores(content: str, target: str, exact: float, similarity: float) -> None:
    assert score(content, target) == [
        {"name": "exact_match", "score": exact},
        {"name": "similarity", "score": pytest.approx(similarity)},
    ]


def test_long_texts_are_compared_exactly_only() -> None:
    assert score("x" * 20_001, "x" * 20_001) == [{"name": "exact_match", "score": 1.0}]


def record(api: httpx.Client, **body: Any) -> dict[str, Any]:
    inference_id = api.post(PATH, json={"llm_configuration": PROMPT, **body}).json()["inference_id"]
    return dict(api.get(f"/api/records/{inference_id}").json())


@pytest.mark.parametrize("name", ["target", "taget"])
def test_the_record_has_them(api: httpx.Client, name: str) -> None:
    first = record(api, **{name: "hello"})
    hit = record(api, **{name: "hullo"})
    assert first["attributes"]["parea.scores"] == [
        {"name": "exact_match", "score": 1.0},
        {"name": "similarity", "score": 1.0},
    ]
    assert [one["score"] for one in hit["attributes"]["parea.scores"]] == [0.0, 0.8]
    shown = api.get(f"/api/parea/v1/trace_log/{first['inference_id']}").json()
    assert [(one["name"], one["score"]) for one in shown["scores"]] == [("exact_match", 1.0), ("similarity", 1.0)]
    found = api.post(
        "/api/parea/v1/get_trace_logs",
        json={
            "project_name": "default", "filter_field": "score:similarity", "filter_operator": "less_than",
            "filter_value": "0.9",
        },
    ).json()  # fmt: skip
    assert [one["trace_id"] for one in found["results"]] == [hit["inference_id"]]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"target": ""},
        {"target": "hello", "log_omit_outputs": True},
        {"target": "hello", "log_omit_inputs": True},
    ],
    ids=str,
)
def test_there_are_none(api: httpx.Client, body: dict[str, Any]) -> None:
    assert "parea.scores" not in record(api, **body).get("attributes", {})


def test_a_failure_has_none(api: httpx.Client, provider: Any) -> None:
    provider.reply(status=400)
    assert "attributes" not in record(api, target="hello")
