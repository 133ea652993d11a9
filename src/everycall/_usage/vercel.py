"""The `usage` of Vercel's AI SDK, whose sums include all parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from everycall._usage.counts import IGNORED, INPUT, OUTPUT, TOTAL, Counts, Names
from everycall.semconv import USAGE_CACHE_WRITE, USAGE_CACHED, USAGE_REASONING

__all__ = ["is_vercel", "read"]

_NAMES: Final[Names] = {
    "inputTokens": INPUT,
    "outputTokens": OUTPUT,
    "totalTokens": TOTAL,
    "cachedInputTokens": USAGE_CACHED,
    "reasoningTokens": USAGE_REASONING,
}
_INPUT_DETAILS: Final[Names] = {
    "noCacheTokens": IGNORED,
    "cacheReadTokens": USAGE_CACHED,
    "cacheWriteTokens": USAGE_CACHE_WRITE,
}
_OUTPUT_DETAILS: Final[Names] = {"textTokens": IGNORED, "reasoningTokens": USAGE_REASONING}
_SIGNS: Final = frozenset({"cachedInputTokens", "reasoningTokens", "inputTokenDetails", "outputTokenDetails"})


def is_vercel(report: Mapping[str, Any]) -> bool:
    """Return whether a report with `inputTokens` or `outputTokens` is Vercel's, not Bedrock's.

    A report without details could be either. It is read as Bedrock's, with the same result.
    """
    return not _SIGNS.isdisjoint(report)


def read(report: Mapping[str, Any]) -> Counts:
    """Return the counts of a report."""
    counts = Counts()
    counts.read(report, _NAMES)
    counts.read_details(report.get("inputTokenDetails"), _INPUT_DETAILS)
    counts.read_details(report.get("outputTokenDetails"), _OUTPUT_DETAILS)
    return counts
