"""Deployments over HTTP: creating, versions, activation, roll-back, archiving, differences, reading, isolation."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest

from everycall import limits
from everycall.server.options import DATABASE, ServerOptions
from everycall.server.runner import Server

BODY: dict[str, Any] = {
    "name": "hello",
    "messages": [{"role": "user", "content": "Hello {{x}}"}],
    "model": "gpt-3.5-turbo",
    "model_params": {"temp": 0.5, "top_p": None},
}


def said(content: str, **fields: Any) -> dict[str, Any]:
    """Return a body with one message."""
    return {**BODY, "messages": [{"role": "user", "content": content}], **fields}


@pytest.fixture
def put(client: httpx.Client) -> Callable[..., dict[str, Any]]:
    """Put a deployment with the id `hello` and return the answer: `put(body, status=200, **query)`."""

    def putting(body: dict[str, Any], status: int = 200, deployment_id: str = "hello", **query: str) -> dict[str, Any]:
        answer = client.put(f"/api/deployments/{deployment_id}", json=body, params=query)
        assert answer.status_code == status, answer.text
        return dict(answer.json())

    return putting


def served(client: httpx.Client, deployment_id: str = "hello") -> int | None:
    answer = client.get(f"/api/deployments/{deployment_id}")
    return int(answer.json()["version"]) if answer.status_code == 200 else None


def history(client: httpx.Client, deployment_id: str = "hello") -> list[tuple[int, int | None]]:
    """Return the served versions, the latest first, each with the version that a roll-back led to then."""
    activations = client.get(f"/api/deployments/{deployment_id}/activations").json()["activations"]
    return [(one["version"], one["roll_back_to"]) for one in activations]


# --- made and read ---


def test_a_deployment_is_created_and_read(client: httpx.Client) -> None:
    response = client.post("/api/deployments", json=BODY)
    assert response.status_code == 200
    deployment = response.json()
    assert re.fullmatch(r"p-[A-Za-z0-9_-]{21}", deployment["deployment_id"])
    assert deployment["created_unix_nano"] > 0
    assert {name: deployment[name] for name in deployment if name not in ("deployment_id", "created_unix_nano")} == {
        "version": 1,
        "project_name": "default",
        "name": "hello",
        "messages": [{"role": "user", "content": "Hello {{x}}"}],
        "model": "gpt-3.5-turbo",
        "provider": "openai",
        "model_params": {"temp": 0.5},
        "functions": [],
        "function_call": None,
        "active": True,
        "description": "",
        "metadata": {},
        "fallbacks": [],
        "created_by": "local",
    }
    assert client.get(f"/api/deployments/{deployment['deployment_id']}").json() == deployment
    assert client.get("/api/deployments").json() == {"deployments": [deployment], "next_cursor": None}


def test_all_fields_are_returned(client: httpx.Client, put: Callable[..., dict[str, Any]]) -> None:
    fields = {
        **BODY,
        "description": "greets",
        "metadata": {"team": "support", "nested": [1, None]},
        "fallbacks": [{"model": "claude-3-5-haiku-latest"}, {"model": "llama", "provider": "Local"}],
        "functions": [{"name": "look_up", "parameters": {"type": "object"}}],
        "function_call": {"name": "look_up"},
        "model_params": {"temp": 0.5, "response_format": {"type": "json_object"}},
    }
    put(fields)
    stored = client.get("/api/deployments/hello").json()
    assert stored["fallbacks"] == [
        {"model": "claude-3-5-haiku-latest", "provider": "anthropic"},
        {"model": "llama", "provider": "local"},
    ]
    for name in ("description", "metadata", "functions", "function_call", "model_params"):
        assert stored[name] == fields[name], name


def test_versions_never_change(client: httpx.Client) -> None:
    first = client.post("/api/deployments", json=BODY).json()
    path = f"/api/deployments/{first['deployment_id']}"
    same = client.post("/api/deployments", json={**BODY, "deployment_id": first["deployment_id"]}).json()
    changed = {**BODY, "deployment_id": first["deployment_id"], "model": "local-model", "provider": "Local"}
    second = client.post("/api/deployments", json=changed).json()
    assert (same["version"], second["version"], second["provider"]) == (1, 2, "local")
    assert client.get(path).json() == second
    assert client.get(path, params={"version": 1}).json() == {**first, "active": False}
    assert client.get(path, params={"version": 3}).status_code == 404
    assert client.get(path, params={"version": "x"}).status_code == 400
    assert len(client.get("/api/deployments").json()["deployments"]) == 1


def test_content_of_an_old_version_serves_that_version_again(
    client: httpx.Client, put: Callable[..., dict[str, Any]]
) -> None:
    """So reverting a file in a repository serves the earlier version, not a copy of it."""
    first = put(said("one"))
    assert (first["outcome"], first["deployment"]["version"]) == ("created", 1)
    assert put(said("two"))["outcome"] == "changed"
    again = put(said("two"))
    assert (again["outcome"], again["deployment"]["version"], again["diff"]["changes"]) == ("unchanged", 2, [])
    back = put(said("one"))
    assert (back["outcome"], back["deployment"]) == ("activated", first["deployment"])
    assert len(client.get("/api/deployments/hello/versions").json()["versions"]) == 2
    assert history(client) == [(1, 2), (2, 1), (1, None)]


def test_a_dry_run_says_what_would_be_done_and_does_nothing(
    client: httpx.Client, put: Callable[..., dict[str, Any]]
) -> None:
    would = put(said("one"), dry_run="true")
    assert (would["outcome"], would["deployment"]["version"]) == ("created", 1)
    assert client.get("/api/deployments/hello").status_code == 404
    assert client.get("/api/deployments/hello/versions").status_code == 404
    put(said("one"))
    put(said("two"))
    would = put(said("three\nlines", model="gpt-4o"), dry_run="true")
    assert would["outcome"] == "changed"
    assert would["diff"]["changes"] == [
        {"field": "model", "change": "changed", "before": "gpt-3.5-turbo", "after": "gpt-4o"},
        {"field": "messages[0].content", "change": "changed", "before": "two", "after": "three\nlines"},
    ]
    assert put(said("one"), dry_run="true")["outcome"] == "activated"
    assert put(said("two"), dry_run="true")["outcome"] == "unchanged"
    assert (served(client), history(client)) == (2, [(2, 1), (1, None)])
    put(said("two"), status=400, dry_run="yes")


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"name": ""}, "name"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "boss", "content": ""}]}, "messages[0].role"),
        ({"messages": [{"content": "x" * (limits.TEMPLATE_CHARS_MAX + 1)}]}, "messages[0].content"),
        ({"model": None}, "model"),
        ({"model_params": {"temp": "x"}}, "model_params.temp"),
        ({"model_params": {"canary-temperature": 1}}, "model_params"),
        ({"functions": [{"parameters": {}}]}, "functions[0]"),
        ({"fallbacks": [{"provider": "openai"}]}, "fallbacks[0]"),
        ({"fallbacks": [{"model": "m"}] * (limits.FALLBACKS_MAX + 1)}, "fallbacks"),
        ({"canary-models": "x"}, ""),
        ({"deployment_id": "other"}, "deployment_id"),
        ({"expected_version": -1}, "expected_version"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_wrong_field_is_named(
    client: httpx.Client, put: Callable[..., dict[str, Any]], changed: dict[str, Any], field: str
) -> None:
    """The name of an unknown field is not repeated: it may be content."""
    answer = put({**BODY, **changed}, 422)
    assert answer["field"] == field
    assert "canary" not in str(answer)
    assert client.get("/api/deployments").json() == {"deployments": [], "next_cursor": None}


@pytest.mark.parametrize("wrong", ["-x", "a.b", "a b", "new", "x" * 129, "é", "p%2Fq"])
def test_an_id_has_only_allowed_characters(client: httpx.Client, wrong: str) -> None:
    assert client.put(f"/api/deployments/{wrong}", json=BODY).status_code in (404, 405, 422)
    assert client.get("/api/deployments").json()["deployments"] == []


def test_a_deployment_that_is_too_large_is_refused(put: Callable[..., dict[str, Any]]) -> None:
    message = {"role": "user", "content": "x" * limits.TEMPLATE_CHARS_MAX}
    answer = put({**BODY, "messages": [message] * 9}, 400)
    assert "bytes" in answer["detail"]


def test_an_unknown_deployment_is_404(client: httpx.Client) -> None:
    answer = client.post("/api/deployments", json={**BODY, "deployment_id": "p-none"})
    assert (answer.status_code, answer.json()["type"]) == (404, "urn:everycall:error:unknown_deployment")
    for path in ("", "/versions", "/activations", "/diff"):
        assert client.get(f"/api/deployments/p-none{path}").status_code == 404, path
    for path in ("/activate", "/roll-back", "/archive"):
        assert (
            client.post(
                f"/api/deployments/p-none{path}", json={"version": 1} if path == "/activate" else {}
            ).status_code
            == 404
        )


# --- which version is served ---


def test_a_version_is_created_without_being_served(client: httpx.Client, put: Callable[..., dict[str, Any]]) -> None:
    put(said("one"))
    response = put(said("two", activate=False))
    assert (response["outcome"], response["deployment"]["version"], response["deployment"]["active"]) == (
        "changed",
        2,
        False,
    )
    assert served(client) == 1
    assert put(said("two", activate=False))["outcome"] == "unchanged"
    assert put(said("two"))["outcome"] == "activated"
    assert served(client) == 2


def test_activating_and_rolling_back(client: httpx.Client, put: Callable[..., dict[str, Any]]) -> None:
    """Rolling back twice goes further back, never forward."""
    for text in ("one", "two", "three"):
        put(said(text))
    back = "/api/deployments/hello/roll-back"
    assert client.post(back).json()["version"] == 2
    assert client.post(back, json={}).json()["version"] == 1
    none = client.post(back)
    assert (none.status_code, none.json()["type"]) == (409, "urn:everycall:error:no_earlier_version")
    assert served(client) == 1
    on = client.post("/api/deployments/hello/activate", json={"version": 3})
    assert (on.json()["version"], on.json()["active"]) == (3, True)
    assert client.post("/api/deployments/hello/activate", json={"version": 3}).status_code == 200  # changes nothing
    assert history(client) == [(3, 1), (1, None), (2, 1), (3, 2), (2, 1), (1, None)]
    assert client.post(back).json()["version"] == 1
    for wrong in ({"version": 0}, {"version": 4}, {"version": "2"}, {}, {"version": 2, "canary": 1}):
        answer = client.post("/api/deployments/hello/activate", json=wrong)
        assert answer.status_code in (404, 422)
        assert "canary" not in answer.text
    assert client.post("/api/deployments/hello/activate", content=b"{").status_code == 400


def test_the_history_says_who_and_when(
    server: Any, client: httpx.Client, put: Callable[..., dict[str, Any]], make_key: Callable[..., str]
) -> None:
    put(said("one"))
    response = httpx.put(
        f"{server.address}/api/deployments/hello", json=said("two"), headers={"x-api-key": make_key("default")}
    )
    assert response.json()["deployment"]["created_by"] == "default write"
    client.post("/api/deployments/hello/roll-back")
    activations = client.get("/api/deployments/hello/activations").json()["activations"]
    assert [one["by"] for one in activations] == ["local", "default write", "local"]
    times = [one["unix_nano"] for one in activations]
    assert times == sorted(times, reverse=True)
    versions = client.get("/api/deployments/hello/versions").json()["versions"]
    assert [(one["version"], one["active"], one["created_by"]) for one in versions] == [
        (2, False, "default write"),
        (1, True, "local"),
    ]


def test_a_change_that_expects_another_version_does_nothing(
    client: httpx.Client, put: Callable[..., dict[str, Any]]
) -> None:
    put(said("one", expected_version=0))
    put(said("two", expected_version=1))
    late = put(said("three", expected_version=1), 409)
    assert (late["type"], late["active_version"]) == ("urn:everycall:error:version_conflict", 2)
    for path, body in (("activate", {"version": 1}), ("roll-back", {}), ("archive", {})):
        answer = client.post(f"/api/deployments/hello/{path}", json={**body, "expected_version": 1})
        assert (answer.status_code, answer.json()["active_version"]) == (409, 2), path
    put(said("new"), 200, "fresh")
    put(said("newer", expected_version=0), 409, "fresh")
    assert len(client.get("/api/deployments/hello/versions").json()["versions"]) == 2
    assert client.post("/api/deployments/hello/roll-back", json={"expected_version": 2}).json()["version"] == 1


def test_concurrent_activations_happen_one_after_the_other(
    server: Any, client: httpx.Client, put: Callable[..., dict[str, Any]]
) -> None:
    """One version is served at any time, only one of those who expect the same version wins, and none is lost."""
    for number in range(1, 9):
        put(said(f"version {number}"))

    def expecting(number: int) -> int:
        body = {"version": number, "expected_version": 8}
        return client.post("/api/deployments/hello/activate", json=body).status_code

    with ThreadPoolExecutor(7) as pool:
        assert sorted(pool.map(expecting, range(1, 8))) == [200] + [409] * 6

    def activating(number: int) -> int:
        body = {"version": number % 8 + 1}
        return client.post("/api/deployments/hello/activate", json=body).status_code

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(activating, range(40))) == {200}
    versions = client.get("/api/deployments/hello/versions").json()["versions"]
    assert [one["version"] for one in versions if one["active"]] == [served(client)]
    line = client.get("/api/deployments/hello/activations", params={"limit": 1000}).json()["activations"]
    assert line[0]["version"] == served(client)
    for later, earlier in pairwise(line):
        assert later["roll_back_to"] == earlier["version"] != later["version"]


def test_concurrent_requests_create_a_deployment_once(client: httpx.Client) -> None:
    def putting(_: int) -> str:
        return str(client.put("/api/deployments/hello", json=BODY).json()["deployment"]["version"])

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(putting, range(16))) == {"1"}
    assert history(client) == [(1, None)]


# --- archived ---


def test_an_archived_deployment_is_not_served_until_it_is_activated(
    gateway_server: Any, provider: Any, make_key: Callable[..., str]
) -> None:
    with httpx.Client(base_url=gateway_server.address, headers={"x-api-key": gateway_server.key}) as client:
        for text in ("one {{x}}", "two {{x}}"):
            client.put("/api/deployments/hello", json=said(text)).raise_for_status()
        archived = client.post("/api/deployments/hello/archive")
        assert (archived.status_code, archived.json()["version"], archived.json()["active"]) == (200, 2, False)
        assert client.post("/api/deployments/hello/archive").status_code == 200
        assert client.get("/api/deployments").json()["deployments"] == []
        inactive = client.get("/api/deployments", params={"active": "false"}).json()["deployments"]
        assert [(one["deployment_id"], one["version"], one["active"]) for one in inactive] == [("hello", 2, False)]
        completion = {"deployment_id": "hello", "llm_inputs": {"x": "1"}, "inference_id": "i-1"}
        for path, body in (
            ("/api/parea/v1/completion", completion),
            ("/api/parea/v1/completion/stream", completion),
            ("/api/parea/v1/deployed-prompt", {"deployment_id": "hello"}),
        ):
            answer = client.post(path, json=body)
            assert (answer.status_code, answer.json()["type"]) == (410, "urn:everycall:error:inactive_deployment"), path
        assert client.get("/api/deployments/hello").status_code == 410
        assert client.get("/api/deployments/hello", params={"version": 2}).status_code == 200
        assert provider.requests == []
        assert client.post("/api/deployments/hello/roll-back").json()["version"] == 2
        assert client.post("/api/parea/v1/completion", json=completion).json()["status"] == "success"
        assert provider.requests[0].messages == [{"role": "user", "content": "two 1"}]
        assert history(client) == [(2, 1), (0, 2), (2, 1), (1, None)]


def test_a_deployment_that_was_never_served_is_410(client: httpx.Client, put: Callable[..., dict[str, Any]]) -> None:
    put(said("one", activate=False))
    answer = client.post("/api/parea/v1/completion", json={"deployment_id": "hello"})
    assert answer.status_code == 410
    assert client.post("/api/deployments/hello/roll-back").status_code == 409
    assert client.post("/api/deployments/hello/archive").status_code == 200
    assert history(client) == []


# --- compared ---


def test_two_versions_are_compared(client: httpx.Client, put: Callable[..., dict[str, Any]]) -> None:
    text = "\n".join(f"line {number}" for number in range(1, 31))
    put(said(text, functions=[{"name": "old"}]))
    put(said(text.replace("line 15", "another"), model_params={"temp": 1, "max_length": 9}, metadata={"team": "b"}))
    comparison = client.get("/api/deployments/hello/diff").json()
    assert (comparison["from"], comparison["to"]) == (1, 2)
    assert [(one["field"], one["change"]) for one in comparison["changes"]] == [
        ("model_params.temp", "changed"),
        ("model_params.max_length", "added"),
        ("messages[0].content", "changed"),
        ("functions[0]", "removed"),
        ("metadata.team", "added"),
    ]
    assert comparison["changes"][1] == {
        "field": "model_params.max_length",
        "change": "added",
        "before": None,
        "after": 9,
    }
    lines = comparison["unified"].splitlines()
    assert lines[:2] == ["--- hello version 1", "+++ hello version 2"]
    assert "-  line 15" in lines
    assert "+  another" in lines
    assert "   line 14" in lines
    assert "   line 2" not in lines
    backwards = client.get("/api/deployments/hello/diff", params={"from": 2, "to": 1}).json()
    assert "+  line 15" in backwards["unified"].splitlines()
    same = client.get("/api/deployments/hello/diff", params={"from": 2, "to": 2}).json()
    assert (same["changes"], same["unified"]) == ([], "")
    whole = client.get("/api/deployments/hello/diff", params={"from": 0, "to": 1}).json()
    assert whole["from"] == 0
    assert {one["change"] for one in whole["changes"]} == {"added"}
    for wrong in ({"from": 3}, {"to": 3}, {"from": 9, "to": 1}):
        assert client.get("/api/deployments/hello/diff", params=wrong).status_code == 404
    assert client.get("/api/deployments/hello/diff", params={"from": "x"}).status_code == 400


# --- listed ---


def test_lists_come_in_pages(client: httpx.Client, put: Callable[..., dict[str, Any]]) -> None:
    for number in range(7):
        put(said("one", name=f"name {number % 3}"), 200, f"id-{number}")
    names: list[tuple[str, str]] = []
    cursor: str | None = ""
    while cursor is not None:
        page = client.get("/api/deployments", params={"limit": 3, "cursor": cursor}).json()
        assert len(page["deployments"]) <= 3
        names += [(one["name"], one["deployment_id"]) for one in page["deployments"]]
        cursor = page["next_cursor"]
    assert names == sorted(names)
    assert len(names) == 7
    for wrong in (
        {"limit": 0},
        {"limit": limits.PAGE_ROWS + 1},
        {"cursor": "x"},
        {"cursor": "W10="},
        {"active": "x"},
    ):
        assert client.get("/api/deployments", params=wrong).status_code == 400, wrong
    for number in range(5):
        put(said(f"{number}"), 200, "id-0")
    first = client.get("/api/deployments/id-0/versions", params={"limit": 4}).json()
    assert [one["version"] for one in first["versions"]] == [6, 5, 4, 3]
    rest = client.get("/api/deployments/id-0/versions", params={"cursor": first["next_cursor"]}).json()
    assert ([one["version"] for one in rest["versions"]], rest["next_cursor"]) == ([2, 1], None)
    assert len(client.get("/api/deployments/id-0/activations", params={"limit": 2}).json()["activations"]) == 2


# --- who may ---


def test_projects_do_not_see_each_other(server: Any, client: httpx.Client, make_key: Callable[..., str]) -> None:
    deployment = client.post("/api/deployments", json={**BODY, "project_name": "alpha"}).json()
    deployment_id = deployment["deployment_id"]
    path = f"{server.address}/api/deployments/{deployment_id}"
    alpha, beta, reader = make_key("alpha"), make_key("beta"), make_key("alpha", "read")
    assert httpx.get(path, headers={"x-api-key": alpha}).json() == deployment
    for part in ("", "/versions", "/activations", "/diff"):
        assert httpx.get(path + part, headers={"x-api-key": reader}).status_code == 200
        assert httpx.get(path + part, headers={"x-api-key": beta}).status_code == 404
        assert httpx.get(path + part).status_code == 401
    for part in ("/activate", "/roll-back", "/archive"):
        body = {"version": 1} if part == "/activate" else {}
        assert httpx.post(path + part, json=body, headers={"x-api-key": beta}).status_code == 404
        assert httpx.post(path + part, json=body, headers={"x-api-key": reader}).status_code == 403
        assert httpx.post(path + part, json=body).status_code == 401
    assert httpx.put(path, json=BODY, headers={"x-api-key": reader}).status_code == 403
    assert httpx.post(f"{server.address}/api/deployments", json=BODY, headers={"x-api-key": reader}).status_code == 403
    mine = httpx.put(path, json=said("mine"), headers={"x-api-key": beta}).json()  # the same id, in another project
    assert (mine["outcome"], mine["deployment"]["project_name"]) == ("created", "beta")
    assert httpx.get(path, headers={"x-api-key": alpha}).json() == deployment
    assert client.get("/api/deployments").json()["deployments"] == []
    completion = {"deployment_id": "alpha-only"}
    foreign = httpx.post(f"{server.address}/api/parea/v1/completion", json=completion, headers={"x-api-key": beta})
    assert foreign.status_code == 404


# --- kept ---


def test_activations_survive_a_restart(tmp_path: Path) -> None:
    options = ServerOptions(data_dir=tmp_path / "data", port=0)
    for expected in (None, 1):
        with (
            Server(options) as server,
            httpx.Client(base_url=server.address, headers={"x-api-key": server.key}) as client,
        ):
            if expected is None:
                for text in ("one", "two"):
                    client.put("/api/deployments/hello", json=said(text)).raise_for_status()
                client.post("/api/deployments/hello/roll-back").raise_for_status()
            assert (served(client), history(client)) == (1, [(1, None), (2, 1), (1, None)])


def test_deployments_of_an_older_database_are_migrated(tmp_path: Path) -> None:
    """Versions from before there was a history were served when they were created, and none is created twice."""
    options = ServerOptions(data_dir=tmp_path / "data", port=0)
    with Server(options) as server, httpx.Client(base_url=server.address, headers={"x-api-key": server.key}) as client:
        for text in ("one", "two"):
            client.put("/api/deployments/hello", json=said(text)).raise_for_status()
    scripts = sorted((Path(__file__).parents[3] / "src/everycall/server/store/schema").glob("*.sql"))
    number = [script.name for script in scripts].index("0004_deployments.sql")
    with sqlite3.connect(options.data_dir / DATABASE) as database:
        database.executescript(
            "DROP TABLE activations; DROP TABLE ended_sessions; DROP INDEX deployments_digest;"
            " DROP INDEX deployments_served; ALTER TABLE deployments DROP COLUMN digest;"
        )
        database.executescript(scripts[number].read_text())
        assert database.execute("SELECT count(digest) FROM deployments").fetchone() == (0,)
    database.close()
    with Server(options) as server, httpx.Client(base_url=server.address, headers={"x-api-key": server.key}) as client:
        assert (served(client), history(client)) == (2, [(2, 1), (1, None)])
        assert client.put("/api/deployments/hello", json=said("one")).json()["outcome"] == "activated"
