"""Error texts: complete sentences that are true for the request."""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest

from everycall import limits

REQUESTS = [
    ("GET", "/api/records?cursor=x", 400),
    ("GET", "/api/records?limit=0", 400),
    ("GET", "/api/records/none", 404),
    ("GET", "/api/nothing", 404),
    ("PUT", "/api/records", 405),
    ("GET", "/api/repricing?cursor=x", None),
]


def texts(answer: httpx.Response) -> list[str]:
    problem = answer.json()
    return [problem["title"], problem["detail"]]


def assert_sentences(detail: str) -> None:
    assert detail[0].isupper() or detail.split()[0].isidentifier()
    assert detail.endswith((".", "everycall key create"))
    assert not re.search(r"\.\.|\. \.|\.;|`|  ", detail), detail


@pytest.mark.parametrize(("method", "path", "status"), REQUESTS)
def test_details_are_sentences(client: httpx.Client, method: str, path: str, status: int | None) -> None:
    answer = client.request(method, path)
    assert status is None or answer.status_code == status
    assert_sentences(texts(answer)[1])


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/parea/v1/completion", {"llm_configuration": {"model_params": {"temp": "hot"}}}),
        ("/api/parea/v1/completion", {"llm_configuration": {"model_params": {"top_logprobs": 1}}}),
        ("/api/deployments", {"name": 1}),
        ("/api/keys", {"name": "n", "role": "owner"}),
    ],
)
def test_a_wrong_body_is_answered_in_sentences(client: httpx.Client, path: str, body: dict[str, Any]) -> None:
    answer = client.post(path, json=body)
    assert answer.status_code in (400, 422)
    assert_sentences(answer.json()["detail"])


def test_the_reason_of_a_refused_record_has_no_markup(client: httpx.Client) -> None:
    refused = client.post("/v1/records", content=b'{"inference_id":"a","trace_id":"t","name":7}').json()["refused"]
    assert refused
    assert "`" not in str(refused)


def test_a_read_that_takes_too_long_says_nothing_about_storing(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    for batch in range(4):  # 40 MB to search in
        lines = (f'{{"inference_id":"{batch}-{one}","trace_id":"t","content":"{"x" * 100_000}"}}' for one in range(100))
        assert client.post("/v1/records", content="\n".join(lines)).json()["committed"] == 100
    with monkeypatch.context() as slow:
        slow.setattr(limits, "QUERY_TIMEOUT_S", 0.0)
        answer = client.get("/api/records", params={"search": "nowhere"})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    detail = answer.json()["detail"]
    assert_sentences(detail)
    assert "stored" not in detail
    assert "since and until" in detail


def test_a_write_that_cannot_wait_says_that_nothing_was_stored(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as full:
        full.setattr(limits, "WRITE_QUEUE_MAX", 0)
        answer = client.post("/v1/records", content=b'{"inference_id":"a","trace_id":"t"}')
    assert answer.status_code == 503
    assert answer.json()["detail"] == "0 batches wait to be written. Nothing was stored; try again in a moment."


def test_the_error_for_a_wrong_key_says_how_to_get_one(server: object) -> None:
    with httpx.Client(base_url=server.address, headers={"x-api-key": "ek_wrong"}) as stranger:  # type: ignore[attr-defined]
        answer = stranger.get("/api/records")
    assert answer.status_code == 401
    assert_sentences(answer.json()["detail"])
