"""Rates: what a model's tokens, searches and requests cost, by our names. Read from the price list or a user's file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from everycall.semconv import (
    USAGE_CACHE_WRITE,
    USAGE_CACHE_WRITE_1H,
    USAGE_CACHED,
    USAGE_CACHED_AUDIO,
    USAGE_CACHED_IMAGE,
    USAGE_FILE_SEARCHES,
    USAGE_INPUT_AUDIO,
    USAGE_INPUT_IMAGE,
    USAGE_INPUT_VIDEO,
    USAGE_OUTPUT_AUDIO,
    USAGE_OUTPUT_IMAGE,
    USAGE_OUTPUT_VIDEO,
    USAGE_REASONING,
    USAGE_TOOL_USE_PROMPT,
    USAGE_WEB_SEARCHES,
)

__all__ = ["INPUT", "OUTPUT", "PER_MILLION", "PER_THOUSAND", "REQUESTS", "Rate", "Rates", "Tiered"]

INPUT: Final = "input"
OUTPUT: Final = "output"
REQUESTS: Final = "requests"

PER_MILLION: Final = (
    INPUT,
    OUTPUT,
    USAGE_CACHED,
    USAGE_CACHE_WRITE,
    USAGE_CACHE_WRITE_1H,
    USAGE_REASONING,
    USAGE_INPUT_AUDIO,
    USAGE_OUTPUT_AUDIO,
    USAGE_CACHED_AUDIO,
    USAGE_INPUT_IMAGE,
    USAGE_OUTPUT_IMAGE,
    USAGE_CACHED_IMAGE,
    USAGE_INPUT_VIDEO,
    USAGE_OUTPUT_VIDEO,
    USAGE_TOOL_USE_PROMPT,
)
"""Names of rates in US dollars per million tokens."""
PER_THOUSAND: Final = (USAGE_WEB_SEARCHES, USAGE_FILE_SEARCHES, REQUESTS)
"""Names of rates in US dollars per thousand searches or requests."""


@dataclass(frozen=True, slots=True)
class Tiered:
    """A rate that depends on the length of the input.

    `tiers` are pairs of a number of input tokens and a rate, in rising order. The last one whose tokens the input
    exceeds is paid for all tokens; `base` if the input exceeds none.
    """

    base: float
    tiers: tuple[tuple[int, float], ...]

    def at(self, input_tokens: int) -> float:
        """Return the rate for an input of this length."""
        return next((rate for start, rate in reversed(self.tiers) if input_tokens > start), self.base)


Rate = float | Tiered
Rates = Mapping[str, Rate]
"""Rates by name, of `PER_MILLION` and `PER_THOUSAND`."""
