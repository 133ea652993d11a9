"""From a provider's report of usage to the cost that the server stores: every case of `golden/usage.toml`."""

from __future__ import annotations

import importlib
import json
import re
import tomllib
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest

from everycall.usage import usage_fields

GOLDEN = Path(__file__).parent / "golden"
CASES: list[dict[str, Any]] = tomllib.loads((GOLDEN / "usage.toml").read_text(encoding="utf-8"))["case"]
AT = datetime(2026, 6, 1, tzinfo=UTC)
TERM = re.compile(r"(\d+) [a-z ]+ at (\d+\.\d+)( a thousand)?")
each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: re.sub(r"\W+", "-", case["name"]).strip("-"))


def test_case_names_are_unique() -> None:
    assert len({case["name"] for case in CASES}) == len(CASES)


@each_case
def test_a_report_becomes_fields(case: dict[str, Any]) -> None:
    """Both as plain JSON and as the object of the provider's own package."""
    report = json.loads(case["report"])
    provider = case["provider"] if case.get("told") else None
    response = json.loads(case["response"]) if "response" in case else None
    assert usage_fields(report, provider=provider, response=response) == case["fields"]
    if "type" in case:
        module, _, name = case["type"].rpartition(".")
        parsed = getattr(importlib.import_module(module), name).model_validate(report)
        fields = usage_fields(parsed, provider=provider, response=response)
        assert {**fields, "usage": _nonzero(fields)} == {**case["fields"], "usage": _nonzero(case["fields"])}


def _nonzero(fields: dict[str, Any]) -> dict[str, int]:
    """Return the parts above zero: some packages fill in a 0 for what the report left out."""
    return {name: count for name, count in fields["usage"].items() if count}


@each_case
def test_the_written_arithmetic_gives_the_cost(case: dict[str, Any]) -> None:
    if "unpriced" in case:
        assert "cost" not in case
        assert "sum" not in case
        return
    if case.get("charged"):
        assert "sum" not in case
        assert (Decimal(repr(case["fields"]["cost"])), case["fields"]["cost_source"]) == (
            Decimal(case["cost"]),
            "provider",
        )
        return
    total = Decimal(0)
    terms = case["sum"].split(" + ")
    for term in terms:
        match = TERM.fullmatch(term)
        assert match is not None, term
        total += int(match[1]) * Decimal(match[2]) / (1_000 if match[3] else 1_000_000)
    assert total == Decimal(case["cost"])
    assert sum(int(term.split()[0]) for term in terms if "thousand" not in term) == (
        case["fields"]["input_tokens"] + case["fields"]["output_tokens"]
    )


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, dict[str, Any]]]:
    """Return all cases by name as the server has them: sent over HTTP, priced, stored, read back."""
    from everycall.server.options import ServerOptions
    from everycall.server.runner import Server

    folder = tmp_path_factory.mktemp("golden")
    options = ServerOptions(folder, port=0, local_key="golden-local-key", prices=GOLDEN / "prices.toml")
    with Server(options) as server, httpx.Client(base_url=server.address, headers={"x-api-key": server.key}) as client:
        lines = [json.dumps(_record(number, case)) for number, case in enumerate(CASES)]
        answer = client.post("/v1/records", content="\n".join(lines))
        assert answer.json() == {"committed": len(CASES), "refused": [], "refused_count": 0}
        records = client.get("/api/traces/golden").json()["records"]
        by_id = {record["inference_id"]: record for record in records}
        yield {case["name"]: by_id[f"case-{number}"] for number, case in enumerate(CASES)}


def _record(number: int, case: dict[str, Any]) -> dict[str, Any]:
    fields = dict(case["fields"])
    tier = fields.pop("everycall.service_tier", None)
    attributes = {"everycall.service_tier": tier} if tier else {}
    if "tier" in case:
        attributes["openai.response.service_tier"] = case["tier"]
    start = int(case.get("at", AT).timestamp()) * 10**9
    return {
        "inference_id": f"case-{number}",
        "trace_id": "golden",
        "kind": case.get("kind", "llm"),
        "model": case["model"],
        "provider": case.get("provider"),
        "start_time_unix_nano": start,
        "attributes": attributes,
        **fields,
    }


@each_case
@pytest.mark.process
def test_the_server_stores_exactly_that_cost(stored: dict[str, dict[str, Any]], case: dict[str, Any]) -> None:
    import genai_prices

    record = stored[case["name"]]
    if "unpriced" in case:
        assert "cost" not in record
        assert record["cost_source"] == f"unpriced: {case['unpriced']}"
        assert "price_version" not in record
        return
    assert Decimal(repr(record["cost"])) == Decimal(case["cost"])
    if case.get("charged"):
        assert (record["cost_source"], record.get("price_version")) == ("provider", None)
        return
    listed = ("genai-prices", genai_prices.__version__)
    assert (record["cost_source"], record["price_version"]) == (
        listed if case.get("list") else ("prices.toml", "golden-1")
    )
