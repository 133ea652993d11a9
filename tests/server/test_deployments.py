"""Deployments over HTTP: made, versioned, read, kept apart by project."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from everycall import limits

BODY: dict[str, Any] = {
    "name": "hello",
    "messages": [{"role": "user", "content": "Hello {{x}}"}],
    "model": "gpt-3.5-turbo",
    "model_params": {"temp": 0.5, "top_p": None},
}


def test_a_deployment_is_made_and_read(client: httpx.Client) -> None:
    made = client.post("/api/deployments", json=BODY)
    assert made.status_code == 200
    found = made.json()
    assert re.fullmatch(r"p-[A-Za-z0-9_-]{21}", found["deployment_id"])
    assert found["created_unix_nano"] > 0
    assert {name: found[name] for name in found if name not in ("deployment_id", "created_unix_nano")} == {
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
    }
    assert client.get(f"/api/deployments/{found['deployment_id']}").json() == found
    assert client.get("/api/deployments").json() == {"deployments": [found]}


def test_versions(client: httpx.Client) -> None:
    first = client.post("/api/deployments", json=BODY).json()
    path = f"/api/deployments/{first['deployment_id']}"
    same = client.post("/api/deployments", json={**BODY, "deployment_id": first["deployment_id"]}).json()
    changed = {**BODY, "deployment_id": first["deployment_id"], "model": "local-model", "provider": "Local"}
    second = client.post("/api/deployments", json=changed).json()
    assert (same["version"], second["version"], second["provider"]) == (1, 2, "local")
    assert client.get(path).json() == second
    assert client.get(path, params={"version": 1}).json()["model"] == "gpt-3.5-turbo"
    assert client.get(path, params={"version": 3}).status_code == 404
    assert client.get(path, params={"version": "x"}).status_code == 400
    assert len(client.get("/api/deployments").json()["deployments"]) == 1


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"name": ""}, "name"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "boss", "content": ""}]}, "messages[0].role"),
        ({"messages": [{"content": "x" * (limits.TEMPLATE_CHARS_MAX + 1)}]}, "messages[0].content"),
        ({"model": None}, "model"),
        ({"model_params": {"temp": "x"}}, "model_params.temp"),
        ({"functions": [{"parameters": {}}]}, "functions[0]"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_wrong_field_is_named(client: httpx.Client, changed: dict[str, Any], field: str) -> None:
    answer = client.post("/api/deployments", json={**BODY, **changed})
    assert (answer.status_code, answer.json()["field"]) == (422, field)
    assert client.get("/api/deployments").json() == {"deployments": []}


def test_a_version_of_nothing_is_404(client: httpx.Client) -> None:
    answer = client.post("/api/deployments", json={**BODY, "deployment_id": "p-none"})
    assert (answer.status_code, answer.json()["type"]) == (404, "urn:everycall:error:unknown_deployment")
    assert client.get("/api/deployments/p-none").status_code == 404


def test_projects_do_not_see_each_other(server: Any, client: httpx.Client, make_key: Callable[..., str]) -> None:
    found = client.post("/api/deployments", json={**BODY, "project_name": "alpha"}).json()
    path = f"{server.address}/api/deployments/{found['deployment_id']}"
    alpha, beta, reader = make_key("alpha"), make_key("beta"), make_key("alpha", "read")
    assert httpx.get(path, headers={"x-api-key": alpha}).json() == found
    assert httpx.get(path, headers={"x-api-key": beta}).status_code == 404
    assert httpx.get(path).status_code == 401
    assert httpx.post(f"{server.address}/api/deployments", json=BODY, headers={"x-api-key": reader}).status_code == 403
    assert client.get("/api/deployments").json() == {"deployments": []}
    completion = {"deployment_id": found["deployment_id"]}
    foreign = httpx.post(f"{server.address}/api/parea/v1/completion", json=completion, headers={"x-api-key": beta})
    assert foreign.status_code == 404
