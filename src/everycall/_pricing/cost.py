"""Computes a call's cost in US dollars from rates and what it used, or says why the cost is unknown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from everycall._pricing.rates import INPUT, OUTPUT, REQUESTS, Rate, Rates, Tiered
from everycall.semconv import (
    USAGE_CACHE_WRITE,
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

__all__ = ["Consumption", "Price", "Unpriced", "cost_of"]

_INPUT_PARTS: Final = (USAGE_CACHED, USAGE_INPUT_AUDIO, USAGE_INPUT_IMAGE, USAGE_INPUT_VIDEO, USAGE_TOOL_USE_PROMPT)
_OUTPUT_PARTS: Final = (USAGE_REASONING, USAGE_OUTPUT_AUDIO, USAGE_OUTPUT_IMAGE, USAGE_OUTPUT_VIDEO)
_CACHED_PARTS: Final = ((USAGE_INPUT_AUDIO, USAGE_CACHED_AUDIO), (USAGE_INPUT_IMAGE, USAGE_CACHED_IMAGE))
"""Parts of the input, each with the name of those of its tokens that were cached."""
_CACHE_LIFETIMES: Final = f"{USAGE_CACHE_WRITE}_"
"""Prefix of the parts with a longer cache lifetime, such as `cache_write_1h`. Each needs its own rate."""
_EXCESS: Final = "the parts exceed the whole"


@dataclass(frozen=True, slots=True)
class Consumption:
    """What a call used. Counts are those of a record; `at_unix_nano` 0 is now; `tier` None is the standard one."""

    model: str
    provider: str | None
    input_tokens: int
    output_tokens: int
    usage: Mapping[str, int]
    at_unix_nano: int = 0
    tier: str | None = None


@dataclass(frozen=True, slots=True)
class Price:
    """A cost in US dollars, its `cost_source`, and the version of the prices."""

    cost: float
    source: str
    version: str


@dataclass(frozen=True, slots=True)
class Unpriced:
    """Why a call has no price, in a few words for people."""

    reason: str


def cost_of(rates: Rates, consumption: Consumption) -> float | Unpriced:
    """Return the cost in US dollars, or why it is unknown.

    A part of the tokens without its own rate costs what its whole costs, except parts with a longer cache lifetime.
    """
    usage = consumption.usage
    for part, cached_part in _CACHED_PARTS:
        overlap = usage.get(part, 0) and usage.get(USAGE_CACHED, 0) and part in rates and USAGE_CACHED in rates
        if overlap and cached_part not in usage:
            return Unpriced(f"not told how much of {part} was cached")
    sides = (
        (INPUT, consumption.input_tokens, dict(_input_parts(rates, usage))),
        (OUTPUT, consumption.output_tokens, {part: usage.get(part, 0) for part in _OUTPUT_PARTS if part in rates}),
    )
    millionths = 0.0
    for whole, tokens, parts in sides:
        side = _side(rates, whole, tokens, parts, consumption.input_tokens)
        if isinstance(side, Unpriced):
            return side
        millionths += side
    thousandths = _flat(rates.get(REQUESTS))
    for kind in (USAGE_WEB_SEARCHES, USAGE_FILE_SEARCHES):
        searches = usage.get(kind, 0)
        if searches:
            if kind not in rates:
                return Unpriced(f"no price of {kind}")
            thousandths += searches * _flat(rates[kind])
    return round(millionths / 1_000_000 + thousandths / 1_000, 12)


def _input_parts(rates: Rates, usage: Mapping[str, int]) -> Iterator[tuple[str, int]]:
    """Yield the parts of the input that have their own rates, so that each token is paid for once."""
    counts = {part: usage.get(part, 0) for part in _INPUT_PARTS if part in rates}
    for part, cached_part in _CACHED_PARTS:
        both = usage.get(cached_part, 0)
        if both and USAGE_CACHED in counts and (cached_part in rates or part in counts):
            if part in counts:
                counts[part] -= both
            if cached_part in rates:  # without such a rate, a cached audio token costs as much as any cached token
                counts[USAGE_CACHED] -= both
                yield cached_part, both
    yield from counts.items()
    if USAGE_CACHE_WRITE in rates:
        lifetimes = {name: count for name, count in usage.items() if count and name.startswith(_CACHE_LIFETIMES)}
        yield USAGE_CACHE_WRITE, usage.get(USAGE_CACHE_WRITE, 0) - sum(lifetimes.values())
        yield from lifetimes.items()


def _side(rates: Rates, whole: str, tokens: int, parts: Mapping[str, int], input_tokens: int) -> float | Unpriced:
    """Return the cost of the input or the output, in millionths of a dollar."""
    total, rest = 0.0, tokens
    for part, count in parts.items():
        if count < 0:
            return Unpriced(_EXCESS)
        if count:
            if part not in rates:
                return Unpriced(f"no price of {part}"[:50])
            total += count * _rate(rates[part], input_tokens)
            rest -= count
    if rest < 0:
        return Unpriced(_EXCESS)
    if rest and whole not in rates:
        return Unpriced(f"no price of {whole} tokens")
    return total + (rest * _rate(rates[whole], input_tokens) if rest else 0.0)


def _rate(rate: Rate, input_tokens: int) -> float:
    return rate.at(input_tokens) if isinstance(rate, Tiered) else rate


def _flat(rate: Rate | None) -> float:
    """Return a rate per thousand, which does not depend on the length of the input."""
    if rate is None:
        return 0.0
    return rate.base if isinstance(rate, Tiered) else rate
