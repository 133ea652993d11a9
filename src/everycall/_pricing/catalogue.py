"""The price list: the rates of a model at a provider, from the bundled data of `genai-prices`. Layer 2.

Called by `_price`, and by nobody else. The package is imported at the first look-up, never before.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

from everycall import limits
from everycall._pricing.custom import INPUT, OUTPUT, REQUESTS, Rate, Rates, Tiered
from everycall.semconv import (
    USAGE_CACHE_WRITE,
    USAGE_CACHE_WRITE_1H,
    USAGE_CACHED,
    USAGE_CACHED_AUDIO,
    USAGE_CACHED_IMAGE,
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

__all__ = ["Listed", "Unpriced", "listed", "spelt", "told"]

_LISTED_RATES: Final = {
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
    "requests_kcount": REQUESTS,
}
_PROVIDERS: Final = {
    "azure.ai.openai": "azure",
    "azure.ai.inference": "azure",
    "az.ai.openai": "azure",
    "az.ai.inference": "azure",
    "azure_openai": "azure",
    "azure-openai": "azure",
    "azureopenai": "azure",
    "azure_ai": "azure",
    "aws.bedrock": "aws",
    "bedrock": "aws",
    "amazon_bedrock": "aws",
    "amazon-bedrock": "aws",
    "gcp.gemini": "google",
    "gcp.vertex_ai": "google",
    "gcp.gen_ai": "google",
    "gemini": "google",
    "google_genai": "google",
    "google_vertexai": "google",
    "vertex_ai": "google",
    "vertexai": "google",
    "x_ai": "x-ai",
    "xai": "x-ai",
    "mistral_ai": "mistral",
    "mistralai": "mistral",
    "moonshot_ai": "moonshotai",
    "moonshot": "moonshotai",
    "together_ai": "together",
    "together-ai": "together",
    "fireworks_ai": "fireworks",
    "fireworks-ai": "fireworks",
}
"""Names of providers in OpenTelemetry, LangChain and Parea that the price list spells in its own way."""
_VENDORS: Final = (
    (re.compile(r"(?:gpt-(?!oss)|chatgpt-|o[134](?:-|$)|text-embedding-(?:3|ada)|gpt-image|computer-use)"), "openai"),
    (re.compile(r"claude-"), "anthropic"),
    (re.compile(r"gemini-"), "google"),
    (re.compile(r"grok-[3-9]"), "x-ai"),
)
"""Names of models whose weights nobody else has: they tell who answers, where the provider is not told."""
_ELSEWHERE: Final = re.compile(r"[:/@]")
"""In a name, a sign of another host's catalogue (`gpt-oss:20b`, `openai/gpt-4o`, `ft:gpt-4o:acme::x`)."""
_APIS: Final = frozenset({"chat", "responses", "completion", "messages", "embedding", "generative-ai"})
"""Parts of a provider that Vercel's AI SDK names beside it, as in `openai.responses`."""
_LEAKED_PROVIDER: Final = re.compile(r"^BaseProvider\('.*'\)$")


@dataclass(frozen=True, slots=True)
class Unpriced:
    """Why a call has no price, in a few words for people."""

    reason: str


def told(provider: str | None) -> str | None:
    """Return a provider's name as it was told; None for what is no name."""
    if provider is None or _LEAKED_PROVIDER.match(provider):
        return None
    name = provider.strip().lower()
    return None if name in ("", "langchain") else name


def spelt(provider: str) -> str:
    """Return a provider's name (as `told` gives it) as the price list spells it."""
    whole, _, api = provider.rpartition(".")
    name = whole if api in _APIS else provider
    return _PROVIDERS.get(name, name)


class Listed:
    """A model of the price list, at the provider that was asked: its rates at an instant, in a tier."""

    def __init__(self, provider: Any, model: Any, version: str) -> None:
        self.version = version
        self._model = model
        own = any(one is model for one in provider.models)  # prices lent by another provider have no tiers here
        self._variants = tuple(model.price_variants or ()) if own else ()
        self._fixed = None if isinstance(model.prices, list) else _rates(model.prices)

    def at(self, unix_nano: int, tier: str) -> Rates | None:
        """Return the rates at a moment (0 is now); None when there are none of this tier then."""
        if not tier and self._fixed is not None:
            return self._fixed
        moment = datetime.fromtimestamp(unix_nano / 1e9, UTC) if unix_nano else datetime.now(UTC)
        if not tier:
            return _rates(self._model.get_prices(moment))
        for context in ({"service_tier": tier}, {"processing": tier}, {"speed": tier}):
            for variant in self._variants:
                if variant.when == context and (variant.constraint is None or variant.constraint.active(moment)):
                    return _rates(self._model.get_prices(moment, context))
        return None


@lru_cache(maxsize=limits.PRICED_MODELS_MAX)
def listed(model: str, provider: str | None) -> Listed | Unpriced:
    """Return a model as the list has it, at a provider as a record names it. Looked up once and kept.

    Without a provider only a name that one vendor alone serves is found: the same open weights cost something else
    at every host, and nothing at home. A provider is found by its id in the list or a known other name of it.
    """
    try:
        import genai_prices
        from genai_prices.data_snapshot import get_snapshot
    except ImportError:
        return Unpriced("no price list is installed")
    snapshot = get_snapshot()
    provider = None if provider is None else told(provider)
    name = model.removeprefix("models/").rpartition("/")[2] if model.startswith(("arn:", "models/")) else model
    if provider == "litellm" and "/" in name:
        provider, _, name = name.partition("/")
    if provider is None:
        vendor = next((vendor for pattern, vendor in _VENDORS if pattern.match(name.lower())), None)
        if vendor is None or _ELSEWHERE.search(name):
            return Unpriced("provider not told")
        provider = vendor
    wanted = spelt(provider)
    found = next((one for one in snapshot.providers if one.id == wanted), None)
    if found is None:
        return Unpriced("unknown provider")
    priced = found.find_model(name, all_providers=snapshot.providers)
    return Unpriced("unknown model") if priced is None else Listed(found, priced, genai_prices.__version__)


def _rates(prices: Any) -> Rates:
    """Return the list's prices of a model by our names."""
    return {
        _LISTED_RATES[key]: _as_rate(price)
        for key, price in prices.__dict__.items()
        if price is not None and key in _LISTED_RATES
    }


def _as_rate(price: Any) -> Rate:
    tiers = getattr(price, "tiers", None)
    if tiers is None:
        return float(price)
    return Tiered(float(price.base), tuple((tier.start, float(tier.price)) for tier in tiers))
