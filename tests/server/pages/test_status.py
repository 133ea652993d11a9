"""The status page: what the server is doing, and the balance of each client process, to its end."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from everycall import limits

PROGRAM = """
import everycall
@everycall.trace
def step(number):
    return number
for number in range(50):
    step(number)
"""
HTML = {"accept": "text/html"}


@pytest.mark.parametrize("project", ["default", "shop"])
def test_a_process_that_ended_has_nothing_spooled(
    server: Any, client: httpx.Client, tmp_path: Path, project: str
) -> None:
    """Its last report comes after its last batch, and so counts that as delivered, in the project of its records."""
    settings = {
        "EVERYCALL_ENDPOINT": server.address,
        "EVERYCALL_API_KEY": server.key,
        "EVERYCALL_PROJECT": project,
    }
    environment = {**os.environ, **settings}
    subprocess.run([sys.executable, "-c", PROGRAM], env=environment, cwd=tmp_path, check=True, timeout=120)
    (sheet,) = client.get("/status.json", params={"project": project}).json()["clients"]
    assert {name: sheet[name] for name in ("recorded", "delivered", "spooled", "dropped", "missing")} == {
        "recorded": 50,
        "delivered": 50,
        "spooled": 0,
        "dropped": {},
        "missing": 0,
    }


def test_the_state_of_the_store_is_shown(client: httpx.Client) -> None:
    client.post("/v1/records", content=b'{"inference_id":"a","trace_id":"t"}').raise_for_status()
    status = client.get("/status.json").json()
    store = status["store"]
    assert status["health"] == {"status": "ok"}
    assert store["queued"] == 0
    assert store["queue_limit"] == limits.WRITE_QUEUE_MAX
    assert min(store["database_bytes"], store["wal_bytes"], store["disk_free_bytes"]) > 1_000
    assert (store["slow_reads"], store["stopped_reads"], store["latest_slow_reads"]) == (0, 0, [])
    page = client.get("/status", headers=HTML).text
    for text in ("Writes waiting", "Database", "Write-ahead log", "Disk space left", "Slow queries", "works"):
        assert text in page
    assert "latest slow queries" not in page


def test_a_slow_query_is_listed_without_its_values(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SLOW_READ_S", 0.0)
    client.get("/api/records", params={"search": "a-secret-text"}).raise_for_status()
    monkeypatch.undo()
    store = client.get("/status.json").json()["store"]
    assert store["slow_reads"] >= 1
    slow = next(read for read in store["latest_slow_reads"] if "records" in read["statement"])
    assert slow["stopped"] is False
    assert slow["seconds"] >= 0
    page = client.get("/status", headers=HTML).text
    assert "The latest slow queries since the server started" in page
    assert "a-secret-text" not in page


def test_a_stopped_query_is_counted(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    for batch in range(4):  # 40 MB to search in
        lines = (f'{{"inference_id":"{batch}-{one}","trace_id":"t","content":"{"x" * 100_000}"}}' for one in range(100))
        assert client.post("/v1/records", content="\n".join(lines)).json()["committed"] == 100
    monkeypatch.setattr(limits, "QUERY_TIMEOUT_S", 0.0)
    monkeypatch.setattr(limits, "SLOW_READ_S", 0.0)
    assert client.get("/api/records", params={"search": "nowhere"}).status_code == 503
    monkeypatch.undo()
    store = client.get("/status.json").json()["store"]
    assert store["stopped_reads"] >= 1
    assert any(read["stopped"] for read in store["latest_slow_reads"])


def test_a_key_of_one_project_does_not_see_the_store(
    server: Any, client: httpx.Client, make_key: Callable[..., str]
) -> None:
    """Its size and its slow queries say something about other projects."""
    with httpx.Client(base_url=server.address, headers={"x-api-key": make_key("shop", "admin")}) as shop:
        status = shop.get("/status.json").json()
        assert (status["health"], status["store"]) == ({"status": "ok"}, None)
        page = shop.get("/status", headers=HTML)
    assert page.status_code == 200
    assert "Database" not in page.text
