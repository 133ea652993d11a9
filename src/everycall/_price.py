"""What a call cost: tokens, model and provider in, US dollars out. Called by the chain of the SDK and by the gateway.

Layer 2. The prices are those of the `genai-prices` package, read from its bundled data and never from the network. It
is imported at the first priced call (about half a second of CPU, once); without it nothing has a price.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import msgspec

from everycall import limits
from everycall.record import Record
from everycall.semconv import (
    EMBEDDING,
    PRICED_KINDS,
    RERANKER,
    USAGE_CACHE_WRITE,
    USAGE_CACHED,
    USAGE_INPUT_AUDIO,
    USAGE_OUTPUT_AUDIO,
    USAGE_REASONING,
)

__all__ = ["SOURCE", "Price", "price", "price_record"]

SOURCE = "genai-prices"
"""The `cost_source` of a cost computed here."""

_INPUT_PARTS = ((USAGE_CACHED, "cache_read_mtok"), (USAGE_CACHE_WRITE, "cache_write_mtok"))
_INPUT_AUDIO = (USAGE_INPUT_AUDIO, "input_audio_mtok")
_OUTPUT_PARTS = ((USAGE_REASONING, "output_reasoning_mtok"), (USAGE_OUTPUT_AUDIO, "output_audio_mtok"))

# Names of providers in OpenTelemetry and Parea that the price list spells in its own way.
_PROVIDER_NAMES = {
    "azure.ai.openai": "azure",
    "azure.ai.inference": "azure",
    "azure_openai": "azure",
    "x_ai": "x-ai",
    "xai": "x-ai",
    "mistral_ai": "mistral",
    "moonshot_ai": "moonshotai",
}
_LEAKED_PROVIDER = re.compile(r"^BaseProvider\('.*'\)$")


@dataclass(frozen=True, slots=True)
class Price:
    """A cost in US dollars, where it comes from, and the version of the price list."""

    cost: float
    source: str
    version: str


@dataclass(frozen=True, slots=True)
class _Listed:
    """A model of the price list: how to read its prices at an instant, and the list's version."""

    prices_at: Callable[[datetime], Any]
    fixed: Any | None  # the prices, when they do not depend on the instant
    version: str


def price(
    model: str,
    provider: str | None,
    input_tokens: int,
    output_tokens: int,
    usage: Mapping[str, int],
    at_unix_nano: int,
) -> Price | None:
    """Return what these tokens cost at this instant (nanoseconds UTC; 0 is now), or None when it is not known.

    `input_tokens` includes the cached, cache-write and audio parts named in `usage`, `output_tokens` the reasoning and
    audio parts. A part without a price of its own costs what its whole costs. None, never 0, for an unknown model or
    provider, a missing price, and parts that exceed their whole. Does not raise.
    """
    listed = _listed(model, provider)
    if listed is None:
        return None
    try:
        prices = listed.fixed
        if prices is None:
            prices = listed.prices_at(
                datetime.fromtimestamp(at_unix_nano / 1e9, UTC) if at_unix_nano else datetime.now(UTC)
            )
        cost = _cost(prices, input_tokens, output_tokens, usage)
    except (ArithmeticError, AttributeError, LookupError, OSError, TypeError, ValueError):
        return None  # a price list of another shape: the price is not known
    return None if cost is None else Price(cost, SOURCE, listed.version)


def price_record(record: Record) -> Record:
    """Return the record with its cost, or the same record when it has one or its price cannot be known.

    A client's cache hit (cost 0) gets `saved_cost`: what its tokens would have cost.

    Only kinds in `semconv.PRICED_KINDS` are priced: the leaves where money is spent. Does not raise.
    """
    saved = record.cost == 0 and bool(record.cache_hit) and record.saved_cost is None  # a client's own cache answered
    if (record.cost is not None and not saved) or record.kind not in PRICED_KINDS:
        return record
    output_tokens = record.output_tokens
    if output_tokens is None and record.kind in (EMBEDDING, RERANKER):
        output_tokens = 0  # they answer with numbers, not with tokens
    if not record.model or record.input_tokens is None or output_tokens is None:
        return record
    found = price(
        record.model, record.provider, record.input_tokens, output_tokens, record.usage, record.start_time_unix_nano
    )
    if found is None:
        return record
    if saved:
        return msgspec.structs.replace(record, saved_cost=found.cost, price_version=found.version)
    return msgspec.structs.replace(record, cost=found.cost, cost_source=found.source, price_version=found.version)


@lru_cache(maxsize=limits.PRICED_MODELS_MAX)
def _listed(model: str, provider: str | None) -> _Listed | None:
    try:
        import genai_prices
        from genai_prices.data_snapshot import get_snapshot
    except ImportError:
        return None
    name = None if provider is None or _LEAKED_PROVIDER.match(provider) else provider.strip().lower()
    name = _PROVIDER_NAMES.get(name, name) if name else None
    try:
        _, found = get_snapshot().find_provider_model(model, None, name, None)
    except (LookupError, ValueError):
        return None
    fixed = None if isinstance(found.prices, list) else found.prices
    return _Listed(found.get_prices, fixed, genai_prices.__version__)


def _cost(prices: Any, input_tokens: int, output_tokens: int, usage: Mapping[str, int]) -> float | None:
    """Return the cost in US dollars, or None when a price needed is missing or the parts contradict the whole."""
    cached_audio = usage.get(USAGE_CACHED) and usage.get(USAGE_INPUT_AUDIO)
    if cached_audio and prices.cache_audio_read_mtok is not None:
        return None  # how many of the cached tokens are audio is not said
    spent_in = _side(prices, "input_mtok", (*_INPUT_PARTS, _INPUT_AUDIO), input_tokens, usage, input_tokens)
    spent_out = _side(prices, "output_mtok", _OUTPUT_PARTS, output_tokens, usage, input_tokens)
    if spent_in is None or spent_out is None:
        return None
    per_request = prices.requests_kcount
    total = (spent_in + spent_out) / 1_000_000 + (float(per_request) / 1_000 if per_request is not None else 0.0)
    return round(total, 12)


def _side(
    prices: Any, key: str, parts: tuple[tuple[str, str], ...], tokens: int, usage: Mapping[str, int], threshold: int
) -> float | None:
    """Return the cost of one direction in millionths of a dollar; `threshold` is the input that chooses the tier."""
    if not tokens:
        return 0.0
    whole = getattr(prices, key)
    if whole is None:
        return None
    total, rest = 0.0, tokens
    for part, part_key in parts:
        count = usage.get(part)
        if not count:
            continue
        own = getattr(prices, part_key)
        if own is not None:
            total += count * _rate(own, threshold)
            rest -= count
    return None if rest < 0 else total + rest * _rate(whole, threshold)


def _rate(listed: Any, threshold: int) -> float:
    """Return the rate of a price: itself, or that of the highest tier the input exceeds (all tokens pay it)."""
    tiers = getattr(listed, "tiers", None)
    if tiers is None:
        return float(listed)
    for tier in reversed(tiers):
        if threshold > tier.start:
            return float(tier.price)
    return float(listed.base)
