"""Reading records and traces: filters, cursors, ids with any characters, and the errors of each."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from everycall import limits
from everycall.server.api.query import parse_query, parse_time
from everycall.server.problems import ProblemError
from everycall.server.store.values import RecordQuery, TraceQuery

SECOND = 10**9
NOON = 1_790_000_000 * SECOND
STRANGE_IDS = [
    "order-42", "a/b", "/lead", "trail/", "//", "a//b", "..", "a/../b", "50%", "%2F", "a?b=c", "a#b", "a b", "ü/東京",
    'q"uote', "new\nline", "semi;colon", "plus+", "x" * 500, "?", ".json", "a.json",
]  # fmt: skip


def send(client: httpx.Client, *records: dict[str, Any]) -> None:
    body = b"\n".join(json.dumps({"trace_id": "t", **one}).encode() for one in records)
    answer = client.post("/v1/records", content=body).json()
    assert (answer["committed"], answer["refused"]) == (len(records), [])


def ids(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [record["inference_id"] for record in answer.json()["records"]]


@pytest.fixture
def stored(client: httpx.Client) -> httpx.Client:
    """Three records of two traces, a second apart."""
    send(
        client,
        {
            "inference_id": "a",
            "trace_id": "t-1",
            "trace_name": "support",
            "name": "answer",
            "start_time_unix_nano": NOON,
            "end_time_unix_nano": NOON + SECOND,
            "end_user_identifier": "u-1",
            "session_id": "s-1",
            "tags": ["beta", "gold"],
        },
        {
            "inference_id": "b",
            "trace_id": "t-1",
            "parent_id": "a",
            "name": "chat",
            "kind": "llm",
            "model": "m-1",
            "provider": "openai",
            "deployment_id": "p-1",
            "content": "the 100% answer",
            "cache_hit": True,
            "input_tokens": 10,
            "output_tokens": 5,
            "total_tokens": 15,
            "cost": 0.25,
            "start_time_unix_nano": NOON + SECOND // 2,
            "end_time_unix_nano": NOON + SECOND,
        },
        {
            "inference_id": "c",
            "trace_id": "t-2",
            "name": "search",
            "kind": "tool",
            "status": "error",
            "error": "boom",
            "start_time_unix_nano": NOON + 2 * SECOND,
            "end_time_unix_nano": NOON + 3 * SECOND,
        },
    )
    return client


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, ["c", "b", "a"]),
        ({"trace_id": "t-1"}, ["b", "a"]),
        ({"name": "chat"}, ["b"]),
        ({"trace_name": "support"}, ["a"]),
        ({"kind": "tool"}, ["c"]),
        ({"model": "m-1"}, ["b"]),
        ({"provider": "openai"}, ["b"]),
        ({"status": "error"}, ["c"]),
        ({"status": "success"}, ["b", "a"]),
        ({"end_user_identifier": "u-1"}, ["a"]),
        ({"session_id": "s-1"}, ["a"]),
        ({"deployment_id": "p-1"}, ["b"]),
        ({"tag": "gold"}, ["a"]),
        ({"cache_hit": "true"}, ["b"]),
        ({"since": str(NOON + SECOND // 2)}, ["c", "b"]),
        ({"until": str(NOON + SECOND // 2)}, ["a"]),
        ({"since": "2026-09-21T14:13:22Z"}, ["c"]),
        ({"since": "2026-09-21T16:13:22+02:00", "until": "2026-09-22"}, ["c"]),
        ({"search": "100% answer"}, ["b"]),
        ({"search": "100_ answer"}, []),
        ({"limit": "1"}, ["c"]),
        ({"trace_id": "t-1", "kind": "llm"}, ["b"]),
        ({"name": ""}, ["c", "b", "a"]),
        ({"project": "default"}, ["c", "b", "a"]),
        ({"project": "other"}, []),
        ({"name": "' OR 1=1 --"}, []),
    ],
)
def test_filters_of_records(stored: httpx.Client, filters: dict[str, str], expected: list[str]) -> None:
    """Each filter by its name; all of them must match; newest first."""
    assert ids(stored.get("/api/records", params=filters)) == expected


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, ["t-2", "t-1"]),
        ({"status": "error"}, ["t-2"]),
        ({"status": "success"}, ["t-1"]),
        ({"trace_name": "support"}, ["t-1"]),
        ({"end_user_identifier": "u-1"}, ["t-1"]),
        ({"session_id": "s-1"}, ["t-1"]),
        ({"tag": "beta"}, ["t-1"]),
        ({"limit": "1"}, ["t-2"]),
        ({"project": "other"}, []),
    ],
)
def test_filters_of_traces(stored: httpx.Client, filters: dict[str, str], expected: list[str]) -> None:
    answer = stored.get("/api/traces", params=filters)
    assert [trace["trace_id"] for trace in answer.json()["traces"]] == expected


@pytest.mark.parametrize("path", ["/api/records", "/api/traces"])
@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("colour=red", "There is no filter 'colour'. There are: "),
        ("status=fine", "status must be success or error"),
        ("since=yesterday", "since must be a time"),
        ("until=1960-01-01", "until must be a time"),
        ("since=99999999999999999999", "since must be a time"),
        ("limit=0", "limit must be a whole number"),
        ("limit=1001", "limit must be a whole number"),
        ("limit=ten", "limit must be a whole number"),
        ("status=error&status=error", "status appears 2 times"),
        ("cursor=made-up", "cursor"),
        (f"search={'x' * 3000}", "at most 2048 characters"),
    ],
)
def test_an_invalid_filter_is_an_error(client: httpx.Client, path: str, query: str, says: str) -> None:
    """It is never ignored, or the reader would take another list for the requested one."""
    answer = client.get(f"{path}?{query}")
    assert answer.status_code == 400
    assert says in answer.json()["detail"]


def test_an_invalid_boolean_is_an_error(client: httpx.Client) -> None:
    assert "true or false" in client.get("/api/records?cache_hit=maybe").json()["detail"]


def test_pages_of_records_miss_no_record(client: httpx.Client) -> None:
    """For any page size, also among records with the same time."""
    names = [f"r-{number:02}" for number in range(23)]
    send(
        client,
        *({"inference_id": name, "start_time_unix_nano": NOON + number // 5} for number, name in enumerate(names)),
    )
    for size in (1, 5, 22, 23, 24):
        all_ids: list[str] = []
        cursor = None
        while True:
            answer = client.get("/api/records", params={"limit": size, **({"cursor": cursor} if cursor else {})})
            all_ids += ids(answer)
            cursor = answer.json()["next_cursor"]
            if cursor is None:
                break
        assert sorted(all_ids) == names


def test_one_trace(stored: httpx.Client) -> None:
    """Its sums, and its records, oldest first."""
    body = stored.get("/api/traces/t-1").json()
    assert [record["inference_id"] for record in body["records"]] == ["a", "b"]
    assert body["next_cursor"] is None
    trace = body["trace"]
    assert trace == stored.get("/api/traces", params={"trace_name": "support"}).json()["traces"][0]
    assert (trace["records"], trace["leaves"], trace["errors"], trace["cache_hits"]) == (2, 1, 0, 1)
    assert (trace["input_tokens"], trace["total_tokens"], trace["cost"], trace["unpriced"]) == (10, 15, 0.25, 0)
    assert (trace["name"], trace["trace_name"], trace["duration"]) == ("answer", "support", 1.0)
    assert trace["tags"] == ["beta", "gold"]
    assert stored.get("/api/traces/t-2").json()["trace"]["cost"] is None


def test_ids_may_have_any_character(client: httpx.Client) -> None:
    """A trace id is any text that a user chose; percent-encoded once, it is found."""
    send(client, *({"inference_id": f"r:{one}", "trace_id": one} for one in STRANGE_IDS))
    for one in STRANGE_IDS:
        encoded = quote(one, safe="").replace(".", "%2E")
        trace = client.get(f"/api/traces/{encoded}")
        assert trace.status_code == 200, one
        assert trace.json()["trace"]["trace_id"] == one
        assert [record["inference_id"] for record in trace.json()["records"]] == [f"r:{one}"]
        record = client.get(f"/api/records/{quote(f'r:{one}', safe='')}")
        assert record.status_code == 200, one
        assert record.json()["trace_id"] == one


def test_what_does_not_exist_is_not_found(client: httpx.Client) -> None:
    for path in ("/api/records/nope", "/api/traces/nope", "/api/records/a/b", "/api/traces/%FF", "/api/traces/%2F"):
        answer = client.get(path)
        assert answer.status_code == 404, path
        assert answer.json()["type"] == "urn:everycall:error:not_found"


def test_unknown_parameters_are_errors(stored: httpx.Client) -> None:
    assert stored.get("/api/records/a?colour=red").status_code == 400
    assert stored.get("/api/traces/t-1?limit=3").status_code == 400
    assert stored.get("/api/clients?limit=3").status_code == 400
    assert stored.get("/api/traces/t-1?cursor=made-up").status_code == 400


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("1790000000000000001", 1_790_000_000_000_000_001),
        ("2026-09-21T14:13:20Z", NOON),
        ("2026-09-21T14:13:20.000000001Z", NOON + 1),
        ("2026-09-21t14:13:20z", NOON),
        ("2026-09-21 14:13:20", NOON),
        ("2026-09-21T14:13:20-05:30", NOON + (5 * 3600 + 1800) * SECOND),
        ("2026-09-21T14:13", NOON - 20 * SECOND),
        ("2026-09-21", NOON - (14 * 3600 + 13 * 60 + 20) * SECOND),
        ("2026-09-21T16:13:20 02:00", NOON),
    ],
)
def test_times(text: str, expected: int) -> None:
    """RFC 3339 or nanoseconds; a `+` that became a space in the query string is accepted."""
    assert parse_time("since", text) == expected


@pytest.mark.parametrize("text", ["", "now", "-1", "2026-13-01", "2026-02-30T00:00:00Z", "1969-12-31", "9" * 30, "٣"])
def test_an_invalid_time_is_an_error(text: str) -> None:
    with pytest.raises(ProblemError, match="since must be a time"):
        parse_time("since", text)


def test_queries_have_the_documented_defaults() -> None:
    assert parse_query(RecordQuery, {}) == RecordQuery(limit=limits.PAGE_ROWS)
    assert parse_query(TraceQuery, {"tag": ["a"], "limit": ["7"]}) == TraceQuery(tag="a", limit=7)
