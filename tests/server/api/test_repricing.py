"""Repricing: the changes first, nothing written without `dry_run` off, bounded pages, and repeating changes nothing."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from everycall import limits
from everycall.server.options import DATABASE, ServerOptions
from everycall.server.runner import Server
from everycall.server.store.sqlite import SqliteStore

T0 = 1_780_000_000_000_000_000  # 2026-05-28
DAY = 86_400 * 10**9
OLD = '[[price]]\nmodel = "acme"\ninput = 2\noutput = 4\n'
NEW = '[[price]]\nmodel = "acme"\ninput = 3\noutput = 6\n\n[[price]]\nmodel = "later"\ninput = 1\noutput = 1\n'


def line(name: str, **fields: Any) -> dict[str, Any]:
    defaults = {"kind": "llm", "trace_id": "t", "model": "acme", "input_tokens": 1_000_000, "output_tokens": 0}
    return {"inference_id": name, "start_time_unix_nano": T0, **defaults, **fields}


LINES = [
    line("a"),
    line("b", start_time_unix_nano=T0 + DAY),
    line("new", model="later"),
    line("embedded", kind="embedding"),
    line("given", cost=9.0),
    line("told", cost=8.0, cost_source="provider"),
    line("hit", cache_hit=True),
    line("unknown", model="nobody-knows"),
    line("agent", kind="agent", cost=100.0),
    line("before", start_time_unix_nano=T0 - DAY),
    line("elsewhere", project_name="other"),
]


@pytest.fixture
def prices(tmp_path: Path) -> Path:
    """The file of own prices that the `server` fixture reads."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "prices.toml").write_text(OLD)
    return tmp_path / "data" / "prices.toml"


@pytest.fixture
def filled(prices: Path, client: httpx.Client) -> httpx.Client:
    """A client of a server that has `LINES`, priced by `OLD`; its prices are now `NEW`."""
    answer = client.post("/v1/records", content="\n".join(json.dumps(one) for one in LINES))
    assert answer.json()["committed"] == len(LINES)
    prices.write_text(NEW)
    return client


def costs(client: httpx.Client, project: str = "default") -> dict[str, tuple[float | None, str | None]]:
    records = client.get("/api/traces/t", params={"project": project}).json()["records"]
    return {one["inference_id"]: (one.get("cost"), one.get("cost_source")) for one in records}


def ask(client: httpx.Client, counts: tuple[str, ...] = ("changed", "records", "kept"), **body: Any) -> dict[str, Any]:
    """Request all pages; return the counts of models by name, and the number of records written."""
    models: dict[str, dict[str, Any]] = {}
    written_count, cursor = 0, None
    while True:
        body_sent = {"since": str(T0), **body, **({"cursor": cursor} if cursor else {})}
        answer = client.post("/api/reprice", json=body_sent)
        assert answer.status_code == 200, answer.text
        page = answer.json()
        for change in page["models"]:
            totals = models.setdefault(change["model"], dict.fromkeys(counts, 0))
            for name in totals:
                totals[name] += change[name]
        written_count, cursor = written_count + page["written"], page["next_cursor"]
        if cursor is None:
            return {"models": models, "written": written_count}


def test_a_dry_run_returns_changes_and_writes_nothing(filled: httpx.Client) -> None:
    before = costs(filled)
    result = ask(filled)
    assert result == {
        "models": {
            "acme": {"records": 6, "changed": 3, "kept": 3},
            "later": {"records": 1, "changed": 1, "kept": 0},
            "nobody-knows": {"records": 1, "changed": 0, "kept": 0},
        },
        "written": 0,
    }
    assert costs(filled) == before


def test_a_call_that_failed_without_tokens_is_not_unpriced(filled: httpx.Client) -> None:
    lines = [line("failed", model="lost", status="error"), line("unknown-2", model="lost")]
    for one in lines:
        del one["input_tokens"], one["output_tokens"]
    assert filled.post("/v1/records", content="\n".join(map(json.dumps, lines))).json()["committed"] == 2
    assert ask(filled, ("records", "unpriced"), model="lost")["models"] == {"lost": {"records": 2, "unpriced": 1}}


def test_it_writes_what_changes_and_nothing_else(filled: httpx.Client) -> None:
    before, summary = costs(filled), filled.get("/api/traces/t").json()["trace"]
    assert before["new"] == (None, "unpriced: provider not told")
    assert ask(filled, dry_run=False)["written"] == 4
    assert costs(filled) == {
        **before,
        "a": (3.0, "prices.toml"),
        "b": (3.0, "prices.toml"),
        "embedded": (3.0, "prices.toml"),
        "new": (1.0, "prices.toml"),
    }
    trace = filled.get("/api/traces/t").json()["trace"]
    assert trace["cost"] == summary["cost"] + 3 * 1.0 + 1.0
    assert trace["unpriced"] == summary["unpriced"] - 1
    assert costs(filled, "other")["elsewhere"] == (2.0, "prices.toml")
    again = ask(filled, dry_run=False)
    assert again["written"] == 0
    assert all(model["changed"] == 0 for model in again["models"].values())


def test_a_new_price_list_does_not_change_old_records(filled: httpx.Client) -> None:
    """When the server reads the new prices, they apply to new records; a record that is sent again keeps its price."""
    ask(filled)
    filled.post("/v1/records", content="\n".join(json.dumps(one) for one in (LINES[0], line("fresh"))))
    new_costs = costs(filled)
    assert (new_costs["a"][0], new_costs["fresh"][0]) == (2.0, 3.0)
    versions = {one["inference_id"]: one["price_version"] for one in filled.get("/api/records").json()["records"]
                if one["inference_id"] in ("a", "fresh")}  # fmt: skip
    assert versions["a"] != versions["fresh"]


@pytest.mark.parametrize(
    ("body", "changed"),
    [
        ({"until": str(T0 + DAY)}, ["a", "embedded", "new"]),
        ({"since": "2026-05-29T00:00:00Z"}, ["b"]),
        ({"model": "later"}, ["new"]),
        ({"project": "other"}, []),
    ],
    ids=str,
)
def test_only_matching_records_are_repriced(filled: httpx.Client, body: dict[str, Any], changed: list[str]) -> None:
    before = costs(filled)
    ask(filled, dry_run=False, **body)
    assert sorted(name for name, cost in costs(filled).items() if cost != before[name]) == changed
    assert costs(filled, "other")["elsewhere"][0] == (3.0 if "project" in body else 2.0)


def test_pages_are_bounded_and_complete(filled: httpx.Client, prices: Path) -> None:
    """More records than a page has: several responses, with each record once."""
    many = limits.PAGE_ROWS_MAX + 5
    lines = [
        line(f"many-{number}", trace_id=f"m{number % 7}", start_time_unix_nano=T0 + number) for number in range(many)
    ]
    filled.post("/v1/records", content="\n".join(json.dumps(one) for one in lines))
    first = filled.post("/api/reprice", json={"since": str(T0), "dry_run": False}).json()
    assert first["next_cursor"] is not None
    prices.write_text(NEW.replace("input = 3", "input = 5"))
    result = ask(filled, dry_run=False)
    assert result["models"]["acme"]["records"] == many + 6
    assert result["written"] == many + 4  # and the embedding once more, `new` for the first time


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({}, 422, "missing required field 'since'"),
        ({"since": "yesterday"}, 400, "since must be a time"),
        ({"since": "2026-01-01", "colour": 1}, 422, "unknown field 'colour'"),
        ({"since": "2026-01-01", "cursor": "x"}, 400, "cursor"),
        ({"since": "2026-01-01", "cursor": "llm:x"}, 400, "cursor"),
    ],
    ids=str,
)
def test_an_invalid_request_is_refused(client: httpx.Client, body: dict[str, Any], status: int, message: str) -> None:
    answer = client.post("/api/reprice", json=body)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert message in answer.json()["detail"]


def test_only_an_admin_may_reprice_and_only_its_project(filled: httpx.Client, make_key: Callable[..., str]) -> None:
    write, admin = make_key("default", "write"), make_key("other", "admin")
    assert filled.post("/api/reprice", json={"since": "0"}, headers={"x-api-key": write}).status_code == 403
    mine = filled.post("/api/reprice", json={"since": "0", "dry_run": False}, headers={"x-api-key": admin}).json()
    while mine["next_cursor"]:
        body = {"since": "0", "dry_run": False, "cursor": mine["next_cursor"]}
        mine = filled.post("/api/reprice", json=body, headers={"x-api-key": admin}).json()
    assert costs(filled)["a"][0] == 2.0
    assert costs(filled, "other")["elsewhere"][0] == 3.0


def test_invalid_prices_are_refused_and_the_old_ones_kept(filled: httpx.Client, prices: Path) -> None:
    prices.write_text('[[price]]\nmodel = "acme"\ninputs = 1\n')
    answer = filled.post("/api/reprice", json={"since": "0"})
    assert answer.status_code == 422
    assert answer.json()["type"] == "urn:everycall:error:unusable_prices"
    assert "price 1 (acme): unknown key 'inputs'" in answer.json()["detail"]
    filled.post("/v1/records", content=json.dumps(line("still")))
    assert costs(filled)["still"][0] == 2.0


# --- the command ---


def reprice(*arguments: str, endpoint: str = "http://127.0.0.1:9") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "everycall", "reprice", *arguments],
        env={**os.environ, "EVERYCALL_ENDPOINT": endpoint, "COLUMNS": "120"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_command_with_a_running_server(filled: httpx.Client, server: Server) -> None:
    before = costs(filled)
    since = ("--since", "2026-05-01")
    dry = reprice(*since, "--dry-run", endpoint=server.address)
    assert (dry.returncode, dry.stderr) == (0, "")
    cells = [[cell.strip() for cell in row.split("│")[1:-1]] for row in dry.stdout.splitlines() if "│" in row]
    assert cells == [
        ["model", "provider", "records", "changed", "cost", "new cost", "gained", "lost", "unpriced"],
        ["acme", "—", "8", "5", "$27.000000", "$32.000000", "0", "0", "0"],
        ["later", "—", "1", "1", "—", "$1.000000", "1", "0", "0"],
        ["total", "—", "10", "6", "$27.000000", "$33.000000", "1", "0", "1"],
    ]
    assert "Nothing was written: this is a dry run." in dry.stdout
    assert "Records that came with their own cost, which is kept: 3." in dry.stdout
    finished = reprice(*since, endpoint=server.address)
    assert (finished.returncode, costs(filled)) == (1, before)
    assert finished.stderr == "everycall: nothing was written: add --yes to write the new cost of 6 records\n"
    done = reprice(*since, "--yes", "--project", "default", endpoint=server.address)
    assert (done.returncode, done.stderr, done.stdout.splitlines()[-1]) == (0, "", "Wrote the cost of 5 records.")
    assert (costs(filled)["a"][0], costs(filled, "other")["elsewhere"][0]) == (3.0, 2.0)
    assert "Nothing changes." in reprice(*since, "--project", "default", endpoint=server.address).stdout


def test_the_command_with_the_store_of_a_stopped_server(tmp_path: Path) -> None:
    """It opens the store itself; if a server uses the store, it says so and changes nothing."""
    data = tmp_path / "data"
    data.mkdir()
    (data / "prices.toml").write_text(OLD)
    with Server(ServerOptions(data, port=0, local_key="reprice-local-key")) as running:
        headers = {"x-api-key": running.key}
        httpx.post(f"{running.address}/v1/records", content=json.dumps(line("a")), headers=headers)
        (data / "prices.toml").write_text(NEW)
        finished = reprice("--since", "2026-01-01", "--data", str(data), "--yes")
        assert finished.returncode == 1
        assert "cannot use the records in" in finished.stderr
    done = reprice("--since", "2026-01-01", "--data", str(data), "--yes")
    assert (done.returncode, done.stderr, done.stdout.splitlines()[-1]) == (0, "", "Wrote the cost of 1 record.")

    async def stored() -> float | None:
        store = SqliteStore(data / DATABASE)
        await store.open()
        try:
            record = await store.record("default", "a")
            return None if record is None else record.cost
        finally:
            await store.close()

    assert asyncio.run(stored()) == 3.0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "required: --since"),
        (["--since", "soon"], 2, "--since must be a time: RFC 3339"),
        (["--since", "2026-01-01"], 1, "no server is running at http://127.0.0.1:9"),
        (["--since", "2026-01-01", "--data", "nowhere"], 1, "there are no records in"),
    ],
    ids=str,
)
def test_the_command_explains_an_error_in_one_line(arguments: list[str], code: int, message: str) -> None:
    done = reprice(*arguments)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (code, "", 1)
    assert message in done.stderr
