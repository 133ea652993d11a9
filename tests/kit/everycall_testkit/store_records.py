"""Records and queries for the tests of stores."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from everycall.record import Cut, Record, encode, to_raw
from everycall.server.store.base import Store
from everycall.server.store.sqlite import SqliteStore
from everycall.server.store.values import (
    RecordQuery,
    TraceQuery,
)

STORES: dict[str, Callable[[Path], Store]] = {"sqlite": lambda folder: SqliteStore(folder / "everycall.db")}
"""Each kind of store by name, as a function of a directory."""
P = "default"


SECOND = 10**9


NOON = 1_700_000_000 * SECOND


def record_query(**filters: Any) -> RecordQuery:
    return RecordQuery(**filters)


def trace_query(**filters: Any) -> TraceQuery:
    return TraceQuery(**filters)


def call(number: int, trace: str = "t", **fields: Any) -> Record:
    """A record that starts `number` seconds after noon and lasts half a second."""
    start = NOON + number * SECOND
    times = {"start_time_unix_nano": start, "end_time_unix_nano": start + SECOND // 2}
    return Record(**{"inference_id": f"r{number}", "trace_id": trace, "name": f"call {number}", **times, **fields})


FULL: dict[str, Any] = {
    "inference_id": "full",
    "trace_id": "order-42",
    "trace_name": "support \u0000 desk",
    "parent_id": "root",
    "name": "naïve 🦉 \x00\x1e\x1f \\ \" ' % _",
    "kind": "llm",
    "end_user_identifier": "u\x00-7",
    "session_id": "s-1",
    "deployment_id": "p-1",
    "llm_inputs": to_raw({"x": "Golang"}),
    "llm_configuration": to_raw({"model": "gpt-4o", "messages": [{"role": "user", "content": "{{x}}"}]}),
    "inputs": to_raw({"big": 123456789012345678901234567890, "deep": json.loads("[" * 60 + "]" * 60), "\x00": 1.5e300}),
    "content": "line one\nline two\x00\x1e end",
    "output": to_raw([{"tool": "look_up", "arguments": {}}]),
    "target": to_raw("gold"),
    "metadata": to_raw({"purpose": "testing"}),
    "tags": ["beta", "α", "nul\x00"],
    "model": "gpt-4o",
    "provider": "openai",
    "input_tokens": 2**53,
    "output_tokens": 0,
    "total_tokens": 2**53,
    "usage": {"cached": 3, "reasoning": 4},
    "cost": 0.1,
    "cost_source": "genai-prices",
    "price_version": "2026-01-01",
    "cache": True,
    "cache_hit": False,
    "saved_cost": 0.0,
    "status": "error",
    "error": "ValueError: no\nTraceback",
    "error_type": "builtins.ValueError",
    "latency": 0.25,
    "time_to_first_token": 0.125,
    "start_time_unix_nano": 2**63 - 2,
    "end_time_unix_nano": 2**63 - 1,
    "omitted": ["inputs"],
    "truncated": {"content": Cut(bytes=10, kept=5, sha256="00")},
    "sdk": "everycall-python/0.1.0",
    "scope": "everycall",
    "attributes": to_raw({"exception.type": "ValueError"}),
}


OTHER: dict[str, Any] = {
    "trace_id": "order-43",
    "trace_name": "sales",
    "parent_id": "another",
    "name": "renamed",
    "kind": "embedding",
    "end_user_identifier": "u-8",
    "session_id": "s-2",
    "deployment_id": "p-2",
    "llm_inputs": to_raw({"y": "Fiber"}),
    "llm_configuration": to_raw({"model": "gpt-5"}),
    "inputs": to_raw([1, 2, {"a": None}]),
    "content": "other",
    "output": to_raw(False),
    "target": to_raw({"score": 1}),
    "metadata": to_raw({"score": "0.5"}),
    "tags": ["gamma"],
    "model": "text-embedding-3",
    "provider": "azure",
    "input_tokens": 7,
    "output_tokens": 8,
    "total_tokens": 15,
    "usage": {"cached": 1},
    "cost": 0.2,
    "cost_source": "client",
    "price_version": "2026-02-02",
    "cache": False,
    "cache_hit": True,
    "saved_cost": 0.3,
    "status": "success",
    "error": "other",
    "error_type": "cancelled",
    "latency": 1.0,
    "time_to_first_token": 0.5,
    "start_time_unix_nano": NOON,
    "end_time_unix_nano": NOON + SECOND,
    "omitted": ["outputs"],
    "truncated": {"inputs": Cut(kept=1)},
    "sdk": "other/1",
    "scope": "other",
    "attributes": to_raw({"a": [1]}),
}


WHOLE: dict[str, Any] = {**FULL, "omitted": []}


"""A record without omitted content."""


def plain(value: Any) -> Any:
    """A field's value as plain JSON."""
    return json.loads(encode(Record(inference_id="i", trace_id="t", truncated=value)))["truncated"]
