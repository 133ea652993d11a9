"""Recorded OTLP requests of real senders, what happened when they were recorded, and the comparison of records with it.

`tests/dialects/corpus/` has a folder a sender: the bodies it sent (`NN-SCENARIO.traces.pb`, `.logs.pb`), `truth.json`
with what the program did, and `carried.json` with the facts that were found anywhere in the bodies.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import httpx

__all__ = [
    "FIELDS",
    "SENDERS",
    "Check",
    "Scenario",
    "checks",
    "media_type",
    "post",
    "records_of",
    "scenarios",
    "signal",
]

CORPUS = Path(__file__).parents[2] / "dialects" / "corpus"
SENDERS = sorted(folder.name for folder in CORPUS.iterdir() if folder.is_dir())
FIELDS = {
    "kind": "kind",
    "provider": "provider",
    "request_model": "request model",
    "response_model": "response model",
    "model_params": "parameters",
    "messages": "messages",
    "tools": "tools",
    "content": "answer",
    "tool_calls": "tool calls",
    "finish_reason": "finish reason",
    "input_tokens": "input tokens",
    "cache_read_tokens": "cached",
    "cache_write_tokens": "cache write",
    "output_tokens": "output tokens",
    "reasoning_tokens": "reasoning",
    "total_tokens": "total tokens",
    "inputs": "embedded text",
    "status": "status",
    "error_type": "error type",
    "error_contains": "error text",
    "cost": "cost",
    "session_id": "session",
    "user_id": "user",
    "tags": "tags",
}
"""Field of the truth -> what the table calls it."""
PRICED = ("llm", "embedding")


@dataclass(frozen=True, slots=True)
class Scenario:
    """One scenario of one sender: its request bodies in the order they were sent, and the calls that happened."""

    sender: str
    name: str
    files: tuple[Path, ...]
    calls: tuple[dict[str, Any], ...]
    spans: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Check:
    """One field of one call: what the record says (`found`), what happened (`truth`), and whether they agree."""

    sender: str
    scenario: str
    field: str
    truth: Any
    found: Any
    right: bool


@cache
def scenarios(sender: str) -> tuple[Scenario, ...]:
    """Return a sender's scenarios whose calls are told one by one."""
    folder = CORPUS / sender
    truth = json.loads((folder / "truth.json").read_text(encoding="utf-8"))
    return tuple(
        Scenario(
            sender,
            name,
            tuple(folder / file for file in told["files"]),
            tuple(told["calls"]),
            told.get("spans") or {},
        )
        for name, told in truth["scenarios"].items()
        if isinstance(told["calls"], list)
    )


def signal(file: Path) -> str:
    """Return which of OTLP's signals a body is: `traces` or `logs`."""
    return "logs" if ".logs." in file.name else "traces"


def media_type(file: Path) -> str:
    """Return the encoding of a body."""
    return "application/json" if file.suffix == ".json" else "application/x-protobuf"


def post(client: httpx.Client, project: str, file: Path) -> httpx.Response:
    """Send one recorded body to a server, for a project."""
    headers = {"content-type": media_type(file), "x-everycall-project": project}
    return client.post(f"/v1/{signal(file)}", content=file.read_bytes(), headers=headers)


def records_of(client: httpx.Client, project: str) -> list[dict[str, Any]]:
    """Return the calls to models that a project's records count, in the order in which they started."""
    records = client.get("/api/records", params={"project": project, "limit": 200}).json()["records"]
    leaves = [one for one in records if one.get("kind") in PRICED and one.get("counted_in") is None]
    return sorted(leaves, key=lambda one: one.get("start_time_unix_nano", 0))


def checks(scenario: Scenario, records: list[dict[str, Any]]) -> Iterator[Check]:
    """Compare the records of a scenario with its calls, field by field."""
    for call, record in zip(scenario.calls, records, strict=False):
        for field, truth in {**call, **_labels(scenario)}.items():
            if field not in FIELDS:
                continue
            found, right = _compared(field, truth, record)
            yield Check(scenario.sender, scenario.name, field, truth, found, right)


def _labels(scenario: Scenario) -> dict[str, Any]:
    return {name: value for name in ("session_id", "user_id", "tags") if (value := scenario.spans.get(name))}


def _compared(field: str, truth: Any, record: dict[str, Any]) -> tuple[Any, bool]:
    configuration = record.get("llm_configuration") or {}
    usage = record.get("usage") or {}
    simple = {
        "kind": record.get("kind", "chain"),
        "provider": record.get("provider"),
        "request_model": configuration.get("model") if configuration else record.get("model"),
        "response_model": record.get("model"),
        "content": record.get("content"),
        "input_tokens": record.get("input_tokens"),
        "output_tokens": record.get("output_tokens"),
        "total_tokens": record.get("total_tokens"),
        "cache_read_tokens": usage.get("cached"),
        "cache_write_tokens": usage.get("cache_write"),
        "reasoning_tokens": usage.get("reasoning"),
        "status": record.get("status", "success"),
        "error_type": record.get("error_type"),
        "inputs": record.get("inputs"),
        "session_id": record.get("session_id"),
        "user_id": record.get("end_user_identifier"),
    }
    if field in simple:
        found = simple[field]
        return found, found == truth or (field == "response_model" and truth is None)
    if field == "messages":
        found = [_message(message) for message in configuration.get("messages") or ()]
        return found, isinstance(truth, str) or found == [_message(message) for message in truth]
    if field == "tool_calls":
        output = record.get("output")
        answer = output[0] if isinstance(output, list) and output else output
        found = [_call(call) for call in (answer or {}).get("tool_calls", ())] if isinstance(answer, dict) else []
        return found, found == [_call(call) for call in truth]
    if field == "tools":
        found = configuration.get("functions") or []
        if isinstance(truth, str):
            return found, True
        names = [tool if isinstance(tool, str) else tool["name"] for tool in truth]
        return found, [tool.get("name") for tool in found] == names and all(tool.get("parameters") for tool in found)
    if field == "model_params":
        found = configuration.get("model_params") or {}
        sizes = [found[key] for key in ("max_tokens", "max_completion_tokens", "max_output_tokens") if key in found]
        told = {"temperature": found.get("temperature"), "max_tokens": sizes[0] if sizes else None}
        return found, all(told.get(name) == value for name, value in truth.items())
    if field == "finish_reason":
        found = (record.get("attributes") or {}).get("gen_ai.response.finish_reasons")
        return found, bool(found)  # each provider and sender has its own words
    if field == "error_contains":
        return record.get("error"), truth in (record.get("error") or "")
    if field == "cost":
        return record.get("cost"), record.get("cost") is not None and abs(record["cost"] - truth) < 1e-9
    if isinstance(truth, dict):  # MLflow's tags have names
        found = {name: value for name, value in (record.get("metadata") or {}).items() if name in truth}
        return found, found == truth
    return sorted(record.get("tags") or ()), sorted(record.get("tags") or ()) == sorted(truth)


def _message(message: dict[str, Any]) -> dict[str, Any]:
    content = message.get("content")
    if message.get("role") == "tool" and isinstance(content, str):
        with suppress(ValueError):
            content = json.loads(content)  # senders write the same JSON with and without spaces
    calls = [_call(call) for call in message.get("tool_calls") or ()]
    return {"role": message.get("role"), "content": content, "tool_calls": calls}


def _call(call: dict[str, Any]) -> tuple[str, Any]:
    function = call.get("function", call)
    return function["name"], function["arguments"]
