"""The usage reports of Bedrock's Converse API. Their input excludes cached tokens, as Anthropic's does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from everycall._usage.counts import CACHE_WRITE_5M, IGNORED, INPUT, OUTPUT, Counts, Names
from everycall._usage.reports import members
from everycall.semconv import USAGE_CACHE_WRITE, USAGE_CACHE_WRITE_1H, USAGE_CACHED

__all__ = ["NAMES", "read"]

NAMES: Final[Names] = {
    "inputTokens": INPUT,
    "outputTokens": OUTPUT,
    "cacheReadInputTokens": USAGE_CACHED,
    "cacheWriteInputTokens": USAGE_CACHE_WRITE,
    "cacheReadInputTokenCount": USAGE_CACHED,
    "cacheWriteInputTokenCount": USAGE_CACHE_WRITE,
    "totalTokens": IGNORED,
}


def read(report: Mapping[str, Any]) -> Counts:
    """Return the counts of a report, with the tokens written to the cache by lifetime."""
    counts = Counts(cache_beside_input=True)
    counts.read(report, NAMES)
    details = report.get("cacheDetails")
    if isinstance(details, list | tuple):
        for entry in map(members, details):
            lifetime = USAGE_CACHE_WRITE_1H if entry.get("ttl") == "1h" else CACHE_WRITE_5M
            counts.add(lifetime, entry.get("inputTokens"))
    return counts
