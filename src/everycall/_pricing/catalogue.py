"""The price list: the rates of a model at a provider, from the bundled data of `genai-prices`, never the network.

`price_book` calls it. The package is imported at the first look-up.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

from everycall import limits
from everycall._pricing.cost import Unpriced
from everycall._pricing.model_names import candidates, host_of, is_free, unlisted_region
from everycall._pricing.providers import list_id, normalized
from everycall._pricing.rates import INPUT, OUTPUT, REQUESTS, Rate, Rates, Tiered
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

__all__ = ["FreeModel", "ListedModel", "listed", "unnamed_models"]

_RATE_NAMES: Final = {
    "input_mtok": INPUT,
    "output_mtok": OUTPUT,
    "cache_read_mtok": USAGE_CACHED,
    "cache_write_mtok": USAGE_CACHE_WRITE,
    "cache_write_1h_mtok": USAGE_CACHE_WRITE_1H,
    "input_audio_mtok": USAGE_INPUT_AUDIO,
    "input_image_mtok": USAGE_INPUT_IMAGE,
    "input_video_mtok": USAGE_INPUT_VIDEO,
    "input_tool_mtok": USAGE_TOOL_USE_PROMPT,
    "cache_audio_read_mtok": USAGE_CACHED_AUDIO,
    "cache_image_read_mtok": USAGE_CACHED_IMAGE,
    "output_reasoning_mtok": USAGE_REASONING,
    "output_audio_mtok": USAGE_OUTPUT_AUDIO,
    "output_image_mtok": USAGE_OUTPUT_IMAGE,
    "output_video_mtok": USAGE_OUTPUT_VIDEO,
    "web_searches_kcount": USAGE_WEB_SEARCHES,
    "storage_searches_kcount": USAGE_FILE_SEARCHES,
    "requests_kcount": REQUESTS,
}
"""The list's names of rates, with ours."""
_VENDORS: Final = (
    (re.compile(r"(?:gpt-(?!oss)|chatgpt-|o[134](?:-|$)|text-embedding-(?:3|ada)|gpt-image|computer-use)"), "openai"),
    (re.compile(r"claude-"), "anthropic"),
    (re.compile(r"gemini-"), "google"),
    (re.compile(r"grok-[3-9]"), "x-ai"),
)
"""Names of models that only one vendor serves, with the provider to assume if the record has none."""
_HOST_MARKS: Final = re.compile(r"[:/@]")
"""Characters in names of a host's own catalogue (`gpt-oss:20b`, `openai/gpt-4o`, `ft:gpt-4o:acme::x`)."""


class ListedModel:
    """A model of the price list at one provider: its rates at a moment, in a service tier."""

    def __init__(self, provider: Any, model: Any, version: str) -> None:
        self.version = version
        self.model = model
        # The list may lend a provider another one's prices. Their tiers are not this provider's.
        is_own = any(own is model for own in provider.models)
        self._variants = tuple(model.price_variants or ()) if is_own else ()
        self._undated = None if isinstance(model.prices, list) else _rates(model.prices)

    def at(self, unix_nano: int, tier: str) -> Rates | None:
        """Return the rates at a moment (0 is now); None if the list has none of this tier then."""
        if not tier and self._undated is not None:
            return self._undated
        moment = datetime.fromtimestamp(unix_nano / 1e9, UTC) if unix_nano else datetime.now(UTC)
        if not tier:
            return _rates(self.model.get_prices(moment))
        for context in ({"service_tier": tier}, {"processing": tier}, {"speed": tier}):
            for variant in self._variants:
                if variant.when == context and (variant.constraint is None or variant.constraint.active(moment)):
                    return _rates(self.model.get_prices(moment, context))
        return None


class FreeModel:
    """A model that costs nothing by its name, at any time and in any service tier. Its host's searches may cost."""

    def __init__(self, version: str) -> None:
        self.version = version

    def at(self, unix_nano: int, tier: str) -> Rates:  # noqa: ARG002 - as of `ListedModel`
        """Return rates of 0."""
        return {INPUT: 0.0, OUTPUT: 0.0}


@lru_cache(maxsize=limits.PRICED_MODELS_MAX)
def listed(model: str, provider: str | None) -> ListedModel | FreeModel | Unpriced:
    """Return a model of the price list, by its name and provider as in a record. The result is cached.

    Without a provider, only names that a single vendor serves are looked up: open weights have a different price at
    every host, and none on one's own machine.
    """
    try:
        import genai_prices
        from genai_prices.data_snapshot import get_snapshot
    except ImportError:
        return Unpriced("no price list is installed")
    snapshot, version = get_snapshot(), genai_prices.__version__
    provider, name = normalized(provider), model
    if provider == "litellm" and "/" in name:
        provider, _, name = name.partition("/")
    if provider is None:
        name = next(candidates(name, ""))
        provider = next((vendor for pattern, vendor in _VENDORS if pattern.match(name.lower())), None)
        if provider is None or _HOST_MARKS.search(name):
            return Unpriced("provider not told")
    name, provider_id = host_of(name, list_id(provider))
    host = next((one for one in snapshot.providers if one.id == provider_id), None)
    if host is None:
        return Unpriced("unknown provider")
    region = unlisted_region(name, provider_id)
    if region is not None:
        return Unpriced(f"no price of region {region}")
    for candidate in candidates(name, provider_id):
        if is_free(candidate, provider_id):
            return FreeModel(version)
        entry = host.find_model(candidate, all_providers=snapshot.providers)
        if entry is not None:
            return ListedModel(host, entry, version)
    return Unpriced("unknown model")


def unnamed_models() -> list[str]:
    """Return the models of the list, as `provider: model`, that `listed` finds by none of the names in the list.

    These are the model's id, and the texts that the list compares names with. `scripts/prices` prints them.
    """
    from genai_prices.data_snapshot import get_snapshot

    def finds(provider: Any, model: Any, name: str) -> bool:
        result = listed(name, provider.id)
        return isinstance(result, FreeModel) or (isinstance(result, ListedModel) and result.model is model)

    return [
        f"{provider.id}: {model.id}"
        for provider in get_snapshot().providers
        for model in provider.models
        if not any(finds(provider, model, name) for name in (model.id, *_names_in(model.match)))
    ]


def _names_in(clause: Any) -> Iterator[str]:
    """Yield the strings with which a clause of the list compares names."""
    for value in vars(clause).values():
        if isinstance(value, str):
            yield value
        else:
            for inner in value if isinstance(value, list) else ():
                yield from _names_in(inner)


def _rates(prices: Any) -> Rates:
    """Return the list's prices of a model, under our names."""
    return {
        _RATE_NAMES[key]: _rate(price)
        for key, price in prices.__dict__.items()
        if price is not None and key in _RATE_NAMES
    }


def _rate(price: Any) -> Rate:
    tiers = getattr(price, "tiers", None)
    if tiers is None:
        return float(price)
    return Tiered(float(price.base), tuple((tier.start, float(tier.price)) for tier in tiers))
