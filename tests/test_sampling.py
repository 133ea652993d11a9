"""Sampling: the SDK and the server decide alike, for a trace as a whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import everycall
from everycall import span, trace
from everycall.sampling import is_sampled
from everycall.settings import Settings
from everycall.testing import capture_records

NAMED = [f"order-{number}" for number in range(1_000)]


@trace
def child(name: str) -> str:
    return name


def test_the_sdk_and_the_server_sample_the_same_traces() -> None:
    """1 000 named traces at one half: every record of a trace is there exactly when `is_sampled` says so."""
    with capture_records(Settings(sample_rate=0.5)) as records:
        for name in NAMED:
            with everycall.context(trace_id=name), span("root"):
                child(name)
    recorded = {record.trace_id for record in records}
    assert recorded == {name for name in NAMED if is_sampled(name, 0.5)}
    assert all(sum(record.trace_id == name for record in records) == 2 for name in recorded)
    assert 400 < len(recorded) < 600


def test_completions_of_the_server_are_sampled_by_the_same_rule(gateway_server: Any, tmp_path: Path) -> None:
    """The gateway records a completion of a named trace exactly when the SDK records that trace."""
    import httpx

    with httpx.Client(base_url=gateway_server.address, headers={"x-api-key": gateway_server.key}, timeout=30) as client:
        for name in NAMED[:40]:
            body = {
                "trace_id": name,
                "log_sample_rate": 0.5,
                "llm_configuration": {"model": "gpt-4o", "messages": [{"role": "user", "content": name}]},
            }
            assert client.post("/api/parea/v1/completion", json=body).status_code == 200
        stored = {one["trace_id"] for one in client.get("/api/records", params={"limit": 200}).json()["records"]}
    assert stored == {name for name in NAMED[:40] if is_sampled(name, 0.5)}


def test_an_id_and_its_hex_digits_have_the_same_decision() -> None:
    """A UUID, its hex digits and a hashed name: what the wire carries says the same as what the user gave."""
    from everycall.sampling import trace_id_hex

    for name in (*NAMED, "5B8EFFF7-9803-8103-D269-B633813FC60C"):
        for rate in (0.0, 0.25, 0.5, 0.99):
            assert is_sampled(name, rate) == is_sampled(trace_id_hex(name), rate)
    assert is_sampled("any", None)
    assert is_sampled("any", 1.0)
