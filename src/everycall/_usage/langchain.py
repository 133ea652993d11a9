"""LangChain's `usage_metadata`, whose sums include all parts. OpenAI's Realtime report has the same two names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from everycall._usage import openai
from everycall._usage.anthropic import CACHE_LIFETIMES
from everycall._usage.counts import IGNORED, INPUT, OUTPUT, TOTAL, Counts, Names
from everycall._usage.reports import members
from everycall.semconv import (
    USAGE_CACHE_WRITE,
    USAGE_CACHED,
    USAGE_INPUT_AUDIO,
    USAGE_INPUT_IMAGE,
    USAGE_INPUT_VIDEO,
    USAGE_OUTPUT_AUDIO,
    USAGE_OUTPUT_IMAGE,
    USAGE_REASONING,
)

__all__ = ["TIERS", "is_langchain", "read", "tier_in"]

TIERS: Final = ("flex", "priority")
"""Service tiers that LangChain puts in front of the names of details: `flex_cache_read`, and `flex` for the rest."""

_NAMES: Final[Names] = {"input_tokens": INPUT, "output_tokens": OUTPUT, "total_tokens": TOTAL}
_INPUT: Final[Names] = {
    **openai.INPUT_DETAILS,
    "cache_read": USAGE_CACHED,
    "cache_creation": USAGE_CACHE_WRITE,
    "audio": USAGE_INPUT_AUDIO,
    "image": USAGE_INPUT_IMAGE,
    "video": USAGE_INPUT_VIDEO,
    "text": IGNORED,
    **CACHE_LIFETIMES,
}
_OUTPUT: Final[Names] = {
    **openai.OUTPUT_DETAILS,
    "reasoning": USAGE_REASONING,
    "audio": USAGE_OUTPUT_AUDIO,
    "image": USAGE_OUTPUT_IMAGE,
    "text": IGNORED,
}


def _with_tiers(names: Names) -> Names:
    in_tiers = {f"{tier}_{name}": ours for tier in TIERS for name, ours in names.items()}
    return {**names, **in_tiers, **dict.fromkeys(TIERS, IGNORED)}


_INPUT_DETAILS: Final = _with_tiers(_INPUT)
_OUTPUT_DETAILS: Final = _with_tiers(_OUTPUT)


def is_langchain(report: Mapping[str, Any]) -> bool:
    """Return whether a report has LangChain's objects of details."""
    return "input_token_details" in report or "output_token_details" in report


def read(report: Mapping[str, Any]) -> Counts:
    """Return the counts of a report. A name with a tier as prefix counts that tier's tokens."""
    counts = Counts()
    counts.read(report, _NAMES)
    details = members(report.get("input_token_details"))
    if details:
        counts.read_details(details, _INPUT_DETAILS)
        if "cached_tokens_details" in details:
            counts.read_details(details["cached_tokens_details"], openai.CACHED_DETAILS)
    counts.read_details(report.get("output_token_details"), _OUTPUT_DETAILS)
    return counts


def tier_in(report: Mapping[str, Any]) -> str | None:
    """Return the service tier in the names of the input's details, or None for the standard tier."""
    details = report.get("input_token_details")
    if isinstance(details, Mapping):
        for tier in TIERS:
            if any(isinstance(name, str) and (name == tier or name.startswith(f"{tier}_")) for name in details):
                return tier
    return None
