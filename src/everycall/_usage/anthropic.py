"""Anthropic's usage reports. Their input excludes the tokens read from and written to the cache."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from everycall._usage.counts import CACHE_WRITE_5M, IGNORED, INPUT, OUTPUT, Counts, Names
from everycall._usage.reports import members
from everycall.semconv import (
    USAGE_CACHE_WRITE,
    USAGE_CACHE_WRITE_1H,
    USAGE_CACHED,
    USAGE_REASONING,
    USAGE_UNPRICED,
    USAGE_WEB_SEARCHES,
)

__all__ = ["CACHE_LIFETIMES", "is_anthropic", "read"]

CACHE_LIFETIMES: Final[Names] = {
    "ephemeral_5m_input_tokens": CACHE_WRITE_5M,
    "ephemeral_1h_input_tokens": USAGE_CACHE_WRITE_1H,
}
_NAMES: Final[Names] = {
    "input_tokens": INPUT,
    "output_tokens": OUTPUT,
    "cache_read_input_tokens": USAGE_CACHED,
    "cache_creation_input_tokens": USAGE_CACHE_WRITE,
    "total_tokens": IGNORED,  # sent by compatible hosts, which differ in what they add up
}
_CACHE_SUMS: Final = ("cache_creation_input_tokens", "cache_read_input_tokens")
_CACHE_NAMES: Final = frozenset({*_CACHE_SUMS, "cache_creation"})
_OTHER_NAMES: Final = frozenset({"server_tool_use", "inference_geo"})


def is_anthropic(report: Mapping[str, Any]) -> bool:
    """Return whether a report has names that only Anthropic uses."""
    if "input_tokens" in report and not _CACHE_NAMES.isdisjoint(report):
        return True
    return "output_tokens" in report and not _OTHER_NAMES.isdisjoint(report)


def read(report: Mapping[str, Any]) -> Counts:
    """Return the counts of a report, including web searches, which are billed separately."""
    counts = Counts(cache_beside_input=True)
    counts.read(report, _NAMES)
    counts.read_details(report.get("cache_creation"), CACHE_LIFETIMES)
    counts.read_details(report.get("output_tokens_details"), {"thinking_tokens": USAGE_REASONING})
    counts.add(USAGE_WEB_SEARCHES, members(report.get("server_tool_use")).get("web_search_requests"))
    _read_iterations(report.get("iterations"), counts)
    return counts


def _read_iterations(iterations: Any, counts: Counts) -> None:
    """Add the tokens of iterations that the sums exclude: compactions, and calls of other models."""
    if not isinstance(iterations, list | tuple):
        return
    for iteration in map(members, iterations):
        kind = iteration.get("type")
        if isinstance(kind, str) and kind != "message":
            for name in ("input_tokens", "output_tokens", *_CACHE_SUMS):
                counts.add(f"{USAGE_UNPRICED}{kind}_tokens", iteration.get(name) or None)
