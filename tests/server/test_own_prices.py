"""Own prices apply to everything with a cost on a server: responses, cache, store. Each server has its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from everycall.server.options import ServerOptions
from everycall.server.runner import Server

OWN = """
version = "own-1"

[[price]]
model = "gpt-3.5-turbo*"
provider = "openai"
input = 1000
output = 1000
requests = 7
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """The file that `gateway_server` reads at its start; use this fixture before it."""
    (tmp_path / "gateway-data").mkdir()
    path = tmp_path / "gateway-data" / "prices.toml"
    path.write_text(OWN)
    return path


def test_a_completion_costs_what_the_file_says(own: Path, gateway_server: Any) -> None:
    """The response, its record and the savings of the cache agree; the source is the file."""
    headers = {"x-api-key": gateway_server.key}
    with httpx.Client(base_url=gateway_server.address, headers=headers, timeout=30) as client:
        body = {"llm_configuration": {"model": "gpt-3.5-turbo", "messages": [{"role": "user", "content": "hi"}]}}
        first_response = client.post("/api/parea/v1/completion", json=body).json()
        expected = round(first_response["total_tokens"] / 1000 + 0.007, 12)
        assert first_response["total_tokens"] > 0
        assert first_response["cost"] == expected
        hit = client.post("/api/parea/v1/completion", json=body).json()
        assert hit["cache_hit"] is True
        records = {one["inference_id"]: one for one in client.get("/api/records").json()["records"]}
    first, second = records[first_response["inference_id"]], records[hit["inference_id"]]
    prices = [first[name] for name in ("cost", "cost_source", "price_version")]
    assert prices == [expected, "prices.toml", "own-1"]
    assert (second["cost"], second["cost_source"], second["saved_cost"]) == (0.0, "cache", expected)


def test_two_servers_in_one_process_have_separate_prices(tmp_path: Path) -> None:
    line = {
        "inference_id": "i",
        "trace_id": "t",
        "kind": "llm",
        "model": "m",
        "input_tokens": 10**6,
        "output_tokens": 0,
    }
    costs = []
    for rate in (1, 2):
        (tmp_path / f"{rate}.toml").write_text(f'[[price]]\nmodel = "m"\ninput = {rate}\n')
    options = [
        ServerOptions(tmp_path / f"data{n}", port=0, local_key="own-prices-local-key", prices=tmp_path / f"{n}.toml")
        for n in (1, 2)
    ]
    with Server(options[0]) as first, Server(options[1]) as second:
        for server in (first, second, first):
            headers = {"x-api-key": server.key}
            httpx.post(f"{server.address}/v1/records", content=json.dumps(line), headers=headers)
            record = httpx.get(f"{server.address}/api/records/i", headers=headers).json()
            costs.append((record["cost"], record["cost_source"]))
    assert costs == [(1.0, "1.toml"), (2.0, "2.toml"), (1.0, "1.toml")]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("prices.toml", "[[price]]\nmodel = 'm'\nfee = 1\n", "price 1 (m): unknown key 'fee'"),
        ("gone.toml", None, "gone.toml is not there"),
        ("prices.csv", "", "its name must end in .toml"),
    ],
)
def test_serve_does_not_start_with_prices_it_cannot_use(
    tmp_path: Path, name: str, text: str | None, message: str
) -> None:
    """One line that names the file, and exit code 2."""
    if text is not None:
        (tmp_path / name).write_text(text)
    command = [sys.executable, "-m", "everycall", "serve", "--port", "0", "--data", str(tmp_path / "data")]
    done = subprocess.run(
        [*command, "--prices", str(tmp_path / name)], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert message in done.stderr
