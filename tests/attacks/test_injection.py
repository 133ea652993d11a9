"""SQL in every parameter that reaches the database: it is treated as text, and the tables do not change."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from everycall.server.store.values import OPERATORS

PAREA = "/api/parea/v1"
OPENINGS = ["", "'", '"', "`", "')", "'))", '")', "%'", "\\'", "x' ", "1 ", "]", "a.b'", "\u02bc", "\uff07"]
REST = [
    " OR 1=1 --", " OR '1'='1", " AND 1=2 UNION SELECT body FROM bodies --", "; DROP TABLE records; --",
    "; DELETE FROM bodies WHERE 1; --",
    " UNION ALL SELECT digest,body,1,1 FROM api_keys --", " OR (SELECT count(*) FROM records) > 0 /*",
    "||(SELECT hex(body) FROM api_keys)||",
    "; ATTACH DATABASE '/tmp/everycall-pwned.db' AS p; --", " AND load_extension('/tmp/x.so') --",
    "; PRAGMA writable_schema=1; --",
    " OR randomblob(1000000000) IS NOT NULL --", " GLOB '*'", " ORDER BY 1000 --",
]  # fmt: skip
ODD = [
    "%",
    "_",
    "%%",
    "\\",
    "\x00",
    "*",
    "?",
    "?1",
    ":name",
    "@p",
    "$1",
    "NULL",
    "null",
    "true",
    "0x41",
    "1e999",
    "'",
    "''",
    '"',
    "`",
    "[",
    "--",
    "/*",
    ";",
]
CORPUS = [*(first + rest for first, rest in itertools.product(OPENINGS, REST)), *ODD]
FILTERS = {
    "/api/records": ["trace_id", "name", "trace_name", "kind", "model", "provider", "status", "end_user_identifier",
    "session_id", "deployment_id",
                     "tag", "cache_hit", "since", "until", "search", "limit", "cursor", "project"],
    "/api/traces": ["trace_name", "status", "end_user_identifier", "session_id", "tag", "since", "until", "search",
    "limit", "cursor", "project"],
    "/traces.json": ["status", "tag", "search", "since", "cursor", "end_user_identifier", "session_id", "trace_name",
    "project"],
    "/api/clients": ["project"],
    "/api/deployments": ["project"],
    "/status.json": ["project"],
}  # fmt: skip
FIELDS = [
    "trace_id",
    "metadata",
    "inputs",
    "latency",
    "tags",
    "feedback_score",
    "scores",
    "score:x",
    "annotation:a:b",
    "start_timestamp",
    "configuration",
]
EMPTY: dict[str, list[Any]] = {"records": [], "traces": [], "clients": [], "deployments": []}


@pytest.fixture(scope="module")
def stored(start_victim: Callable[..., Any]) -> Any:
    """A server with some of everything, and nothing that matches a text of the corpus."""
    server = start_victim()
    with server.client() as client:
        lines = [
            {"inference_id": f"r{n}", "trace_id": "t", "name": "plain", "tags": ["plain"], "metadata": {"k": "v"},
            "content": "word",
             "attributes": {"parea.scores": [{"name": "x", "score": 1}]}, "start_time_unix_nano": 1}
            for n in range(20)
        ]  # fmt: skip
        assert client.post("/v1/records", content="\n".join(map(json.dumps, lines))).json()["committed"] == 20
        client.post(f"{PAREA}/feedback", json={"trace_id": "r1", "score": 1})
        client.post(f"{PAREA}/collection", json={"name": "plain", "test_cases": [{"inputs": {"x": "y"}}]})
        client.post(f"{PAREA}/experiment", json={"name": "plain", "run_name": "plain"})
        client.post("/api/keys", json={"name": "plain"})
    return server


def test_there_are_two_hundred_texts() -> None:
    assert len(set(CORPUS)) >= 200


def rows_in(answer: httpx.Response) -> int:
    """Return the number of rows in a response."""
    body = answer.json()
    return sum(len(body[name]) for name in EMPTY if isinstance(body.get(name), list))


@pytest.mark.parametrize("path", FILTERS)
def test_filters_are_literal_text(stored: Any, path: str) -> None:
    """No row, or a 4xx, as for any text without a match."""
    before = stored.every_row()
    with stored.client() as client:
        assert rows_in(client.get(path)) >= 0
        for name in FILTERS[path]:
            for text in CORPUS:
                answer = client.get(path, params={name: text})
                assert answer.status_code in (200, 400), (name, text, answer.text)
                if answer.status_code == 200 and text.strip("\x00"):
                    # what a search looks for may be in a text; nothing else of these may match
                    assert rows_in(answer) == 0, (name, text, answer.text)
    assert stored.every_row() == before
    stored.is_well()


def test_parameter_names_are_not_columns(stored: Any) -> None:
    """An unknown parameter is an error, whatever its name."""
    with stored.client() as client:
        for text in CORPUS:
            for path in ("/api/records", "/api/traces"):
                assert client.get(path, params={text or "x": "1"}).status_code == 400
    stored.is_well()


def test_conditions_of_logs(stored: Any) -> None:
    """Fields, keys, operators and values of Parea's filters: 422 for unknown ones, and no row for the rest."""
    before = stored.every_row()
    with stored.client() as client:

        def listed(**condition: Any) -> Any:
            answer = client.post(f"{PAREA}/get_trace_logs", json=condition)
            assert answer.status_code in (200, 422), (condition, answer.text)
            return answer.json()["total"] if answer.status_code == 200 else None

        assert listed(filter_field="metadata", filter_key="k", filter_operator="equals", filter_value="v") == 20
        for number, text in enumerate(CORPUS):
            assert listed(filter_field=text, filter_value="x") in (None, 20 if not text else None)
            assert listed(filter_field="status", filter_operator=text or "x", filter_value="x") is None
            for field in (FIELDS[number % len(FIELDS)], FIELDS[(number * 7 + 3) % len(FIELDS)]):
                assert listed(filter_field=field, filter_operator="equals", filter_value=text) in (0, None), (
                    field,
                    text,
                )
                assert listed(
                    filter_field=field, filter_key=text or "x", filter_operator="equals", filter_value="v"
                ) in (0, None)
            operator = OPERATORS[number % len(OPERATORS)]
            assert listed(filter_field="metadata", filter_key=text, filter_operator=operator, filter_value=text) in (
                0,
                20,
                None,
            )
            assert listed(filter_field=f"score:{text}", filter_operator="exists") in (0, 20, None)
    assert stored.every_row() == before
    stored.is_well()


def test_ids_in_paths_and_bodies(stored: Any) -> None:
    """404, null or an empty list; and what is stored under such a name is returned under it."""
    before = stored.every_row()
    with stored.client() as client:
        for text in CORPUS[::2]:
            quoted = "".join(f"%{byte:02X}" for byte in text.encode()) or "%20"
            for place in (
                "/api/records/{}",
                "/api/traces/{}",
                f"{PAREA}/trace_log/{{}}",
                f"{PAREA}/experiment/{{}}/stats",
                "/api/deployments/{}",
            ):
                assert client.get(place.replace("{}", quoted)).status_code in (400, 404), (place, text)
            assert client.get(f"{PAREA}/collection/{quoted}").json() is None
            response = client.post(
                f"{PAREA}/experiments", json={"experiment_uuids": [text], "metadata_filter": {text: text}}
            )
            assert response.json() == []
            assert client.post(f"{PAREA}/deployed-prompt", json={"deployment_id": text or "x"}).status_code == 404
    assert stored.every_row() == before
    with stored.client() as client:
        for number, text in enumerate(CORPUS):
            name = f"{text}{number}"
            line = {
                "inference_id": name,
                "trace_id": name,
                "name": name,
                "tags": [name],
                "project_name": "injected",
                "session_id": name,
            }
            assert client.post("/v1/records", content=json.dumps(line)).json()["committed"] == 1
        for number, text in enumerate(CORPUS):
            name = f"{text}{number}"
            for filters in ({"tag": name}, {"session_id": name}, {"trace_id": name}):
                rows = client.get("/api/records", params={**filters, "project": "injected"}).json()["records"]
                assert [row["inference_id"] for row in rows] == [name]
    assert len(stored.rows("SELECT 1 FROM records")) == 20 + len(CORPUS)
    assert len(stored.rows("SELECT 1 FROM api_keys")) == 1
    stored.is_well()
