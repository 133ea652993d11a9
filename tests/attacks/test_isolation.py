"""Two projects: with a key of one, every request for an id of the other is answered as if it did not exist."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from everycall.record import Record, encode, to_raw

CANARY = "canary-of-beta"
BETA = "project-of-beta"
PAREA = "/api/parea/v1"
TIMES = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:\.\d+)?(?:\+00:00|Z)?")
MADE = re.compile(
    r"p-[\w-]{21}(?![\w-])|ek_[\w-]{43}|[0-9a-f]{64}|[0-9a-f]{32}-[0-9a-f]{16}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
)
COUNTED = re.compile(
    r'"(id|created_unix_nano|seen_unix_nano|cursor|next_cursor|latency|version|total|total_pages)":("[^"]*"|[\d.]+)'
)


def canaries(record_id: str, trace_id: str) -> Record:
    """A record of beta with a canary in every text field."""
    texts = {
        name: f"{CANARY} {name}"
        for name in (
            "name", "trace_name", "content", "model", "provider", "error", "error_type", "sdk", "scope", "cost_source",
            "price_version",
        )
    }  # fmt: skip
    values = {
        name: to_raw({f"{CANARY} {name}": [f"{CANARY} {name}"]})
        for name in ("llm_inputs", "llm_configuration", "inputs", "output", "target", "metadata", "attributes")
    }
    return Record(
        inference_id=record_id,
        trace_id=trace_id,
        project_name=BETA,
        kind="llm",
        status="error",
        end_user_identifier="user-of-beta",
        session_id="session-of-beta",
        tags=[f"{CANARY} tag"],
        usage={f"{CANARY} usage": 1},
        start_time_unix_nano=1_800_000_000_000_000_000,
        end_time_unix_nano=1_800_000_001_000_000_000,
        **texts,  # type: ignore[arg-type]
        **values,  # type: ignore[arg-type]
    )


def settle(beta: httpx.Client) -> dict[str, Any]:
    """Create one object of every kind for beta, each full of canaries; return their ids."""

    def post(path: str, body: Any) -> Any:
        answer = beta.post(path, json=body)
        assert answer.status_code in (200, 201), answer.text
        return answer.json()

    client = {"x-everycall-client": f"{CANARY}:1:2", "x-everycall-balance": '{"recorded":1}'}
    records = [encode(canaries(f"record-of-beta{n}", "trace-of-beta")) for n in ("", "-2")]
    assert beta.post("/v1/records", content=b"\n".join(records), headers=client).json()["committed"] == 2
    messages = [{"role": "system", "content": f"{CANARY} prompt"}, {"role": "user", "content": "{{x}}"}]
    deployed = post("/api/deployments", {"name": CANARY, "model": "gpt-4o", "messages": messages})
    apart = post("/api/deployments", {"name": f"{CANARY} apart", "model": "gpt-4o", "messages": messages})
    completion = {"llm_inputs": {"x": CANARY}, "deployment_id": deployed["deployment_id"]}
    assert post(f"{PAREA}/completion", completion)["content"] == f"{CANARY} answer"
    experiment = post(f"{PAREA}/experiment", {"name": CANARY, "run_name": CANARY, "metadata": {CANARY: CANARY}})
    log = {"trace_id": "log-of-beta", "start_timestamp": "2026-10-18T12:00:00Z", "experiment_uuid": experiment["uuid"]}
    scores = [{"name": CANARY, "score": 1, "reason": CANARY}]
    post(f"{PAREA}/trace_log", {**log, "trace_name": CANARY, "inputs": {"x": CANARY}, "scores": scores})
    post(f"{PAREA}/experiment/{experiment['uuid']}/finished", {"dataset_level_stats": [{"name": CANARY, "score": 1}]})
    post(f"{PAREA}/trace_log/langchain", {"id": "run-of-beta", "name": CANARY, "inputs": {"x": CANARY}})
    post(f"{PAREA}/feedback", {"inference_id": "record-of-beta", "score": 1, "comment": CANARY, "target": CANARY})
    case = {"inputs": {CANARY: CANARY}, "target": CANARY, "tags": [CANARY]}
    dataset = post(f"{PAREA}/collection", {"name": "dataset-of-beta", "test_cases": [case], "column_names": [CANARY]})
    key = post("/api/keys", {"name": CANARY, "project": BETA})
    cursor = beta.get("/api/records", params={"limit": 1}).json()["next_cursor"]
    assert CANARY in beta.get("/api/records").text
    return {
        "record": "record-of-beta",
        "trace": "trace-of-beta",
        "deployment": deployed["deployment_id"],
        "foreign_deployment": apart["deployment_id"],
        "session": "session-of-beta",
        "user": "user-of-beta",
        "text": "canary-of-beta",
        "cursor": cursor,
        "experiment": experiment["uuid"],
        "dataset": dataset["id"],
        "dataset_name": "dataset-of-beta",
        "case": dataset["test_case_ids"][0],
        "project": BETA,
        "project_uuid": post(f"{PAREA}/project", {"name": BETA})["uuid"],
        "key": key["id"],
    }


NOWHERE = {
    "record": "record-of-none",
    "trace": "trace-of-none",
    "deployment": "p-AAAAAAAAAAAAAAAAAAAAA",
    "foreign_deployment": "p-BBBBBBBBBBBBBBBBBBBBB",
    "session": "session-of-none",
    "user": "user-of-none",
    "text": "canary-of-none",
    "cursor": "cursor-of-none",
    "experiment": str(uuid.UUID(int=7)),
    "dataset": 999_999,
    "dataset_name": "dataset-of-none",
    "case": 999_999,
    "project": "project-of-none",
    "project_uuid": str(uuid.UUID(int=8)),
    "key": "0" * 64,
}


@pytest.fixture(scope="module")
def world(start_victim: Callable[..., Any], shared_provider: Any) -> tuple[Any, dict[str, Any]]:
    """A server with project beta full of canaries, and project alpha."""
    shared_provider.default.content = f"{CANARY} answer"
    openai = {"kind": "openai", "base_url": shared_provider.base_url, "api_key": "sk-fake"}
    server = start_victim(providers={"openai": openai})
    with server.client(server.make_key(BETA, "admin")) as beta:
        ids = settle(beta)
    shared_provider.default.content = "an answer for alpha"
    return server, ids


def plain(answer: httpx.Response, ids: dict[str, Any]) -> str:
    """Return a response without the requested ids, and without what differs in each response."""
    text = "\n".join([str(answer.status_code), answer.headers.get("content-type", ""), answer.text])
    for kind in sorted(ids, key=lambda kind: -len(str(ids[kind]))):
        if isinstance(ids[kind], str):
            text = text.replace(ids[kind], f"<{kind}>")
    return COUNTED.sub(r"\1", MADE.sub("<made>", TIMES.sub("<time>", text)))


def of_beta(server: Any) -> dict[str, list[tuple[Any, ...]]]:
    """Return every row of beta."""
    [(own,)] = server.rows("SELECT id FROM projects WHERE name = ?", BETA)
    own_ids = {}
    for (table,) in server.rows("SELECT name FROM sqlite_schema WHERE type = 'table'"):
        columns = [column[1] for column in server.rows(f"PRAGMA table_info('{table}')")]
        if "project" in columns:
            own_ids[table] = server.rows(f'SELECT * FROM "{table}" WHERE project = ?', own)
    own_ids["bodies"] = server.rows(
        "SELECT bodies.* FROM bodies JOIN records ON records.id = bodies.record WHERE records.project = ?", own
    )
    own_ids["test_cases"] = server.rows(
        "SELECT test_cases.* FROM test_cases JOIN datasets ON datasets.id = dataset WHERE datasets.project = ?", own
    )
    return own_ids


def test_beta_has_an_object_of_every_kind(world: tuple[Any, dict[str, Any]]) -> None:
    """Check the test itself: beta's own key sees the canaries."""
    server, _ = world
    rows = of_beta(server)
    for table in ("records", "bodies", "traces", "record_tags", "clients", "deployments", "responses", "api_keys",
                  "feedback", "experiments", "datasets", "test_cases"):  # fmt: skip
        assert rows[table], table
        assert table in ("datasets", "feedback") or any(
            CANARY in str(value) or isinstance(value, int) for row in rows[table] for value in row
        )


@pytest.mark.parametrize("role", ["read", "write", "admin"])
def test_every_route_with_every_id_of_another_project(
    world: tuple[Any, dict[str, Any]], surface: Any, role: str
) -> None:
    """The same response, byte for byte, as for an unknown id; no canary in it; and nothing of beta changes."""
    server, ids = world
    before = of_beta(server)
    alpha_there, alpha_nowhere = (server.make_key(f"alpha-{role}-{name}", role) for name in ("there", "nowhere"))
    own = {"there": f"alpha-{role}-there", "nowhere": f"alpha-{role}-nowhere"}
    with server.client(alpha_there) as there, server.client(alpha_nowhere) as nowhere:
        for ask in surface.ASKS:
            method, address, body = ask.filled(ids)
            response = there.request(method, address, content=body, headers=ask.headers())
            method, other, body = ask.filled(NOWHERE)
            unknown = nowhere.request(method, other, content=body, headers=ask.headers())
            text = plain(response, ids).replace(own["there"], "own")
            expected = plain(unknown, NOWHERE).replace(own["nowhere"], "own")
            assert text == expected, (method, address, other)
            if "<text>" not in str(ask):
                assert CANARY not in response.text, (method, address)
            assert response.status_code < 500
    assert of_beta(server) == before
    server.is_well()


def test_alpha_stores_under_ids_of_beta(world: tuple[Any, dict[str, Any]]) -> None:
    """Ids belong to their project: the same id in two projects is two objects."""
    server, ids = world
    before = of_beta(server)
    with server.client(server.make_key("alpha", "admin")) as alpha:
        line = {"inference_id": ids["record"], "trace_id": ids["trace"], "content": "of alpha"}
        assert alpha.post("/v1/records", content=json.dumps(line)).json()["committed"] == 1
        patch = {"trace_id": ids["record"], "field_name_to_value_map": {"output": "patched by alpha"}}
        assert alpha.put(f"{PAREA}/trace_log", json=patch).status_code == 200
        score = {"inference_id": ids["record"], "score": 0.5, "comment": "of alpha"}
        assert alpha.post(f"{PAREA}/feedback", json=score).status_code == 200
        assert alpha.post(f"{PAREA}/collection", json={"name": ids["dataset_name"]}).status_code == 200
        for path in (
            f"/api/records/{ids['record']}",
            f"/api/traces/{ids['trace']}",
            f"{PAREA}/trace_log/{ids['trace']}",
        ):
            answer = alpha.get(path)
            assert "of alpha" in answer.text
            assert CANARY not in answer.text
        assert alpha.get(f"{PAREA}/collection/{ids['dataset_name']}").json()["test_cases"] == {}
    assert of_beta(server) == before


def test_a_cached_response_is_used_only_in_its_project(world: tuple[Any, dict[str, Any]], shared_provider: Any) -> None:
    """The same request by another project calls the provider again; clearing one cache keeps the other."""
    server, _ = world
    request = {"llm_configuration": {"model": "gpt-4o", "messages": [{"role": "user", "content": "the same"}]}}
    with (
        server.client(server.make_key(BETA, "write")) as beta,
        server.client(server.make_key("gamma", "write")) as gamma,
    ):
        shared_provider.reply(content=f"{CANARY} cached")
        assert not beta.post(f"{PAREA}/completion", json=request).json()["cache_hit"]
        answer = gamma.post(f"{PAREA}/completion", json=request)
        assert answer.json()["cache_hit"] is False
        assert CANARY not in answer.text
        assert gamma.delete("/api/cache").json() == {"cleared": 1}
        assert beta.post(f"{PAREA}/completion", json=request).json()["cache_hit"] is True


def test_a_session_sees_only_the_project_of_its_key(world: tuple[Any, dict[str, Any]], surface: Any) -> None:
    """A browser that logged in with a project's key sees the pages of that project only."""
    server, ids = world
    with httpx.Client(base_url=server.address) as browser:
        assert browser.post("/login", data={"key": server.make_key("alpha", "admin")}).status_code == 303
        for ask in surface.ASKS:
            if ask.method == "GET":
                _, address, _ = ask.filled(ids)
                if "<text>" not in str(ask):
                    assert CANARY not in browser.get(address, headers=ask.headers()).text, address
