"""The service tier in a usage report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from everycall._usage import langchain
from everycall.semconv import SERVICE_TIER, STANDARD_SERVICE_TIERS

__all__ = ["tier_attribute"]

_SERVICE_TIER_NAMES: Final = ("service_tier", "serviceTier")
_TRAFFIC_NAMES: Final = ("traffic_type", "trafficType")
_NAMES: Final = frozenset({*_SERVICE_TIER_NAMES, *_TRAFFIC_NAMES, "speed", "inference_geo", "input_token_details"})


def tier_attribute(report: Mapping[str, Any]) -> dict[str, str]:
    """Return the record's attribute for the service tier in a report; an empty dictionary for the standard tier.

    The tier is the service tier, Anthropic's speed (`fast`) or Gemini's traffic type. Otherwise it is the region where
    Anthropic ran the model (`geo-us`), which has separate prices too, or the tier in LangChain's detail names.
    """
    if _NAMES.isdisjoint(report):
        return {}
    for name in (*_SERVICE_TIER_NAMES, "speed", *_TRAFFIC_NAMES):
        tier = _word(report.get(name)).removeprefix("on_demand_")
        if tier not in STANDARD_SERVICE_TIERS:
            return {SERVICE_TIER: tier}
    place = _word(report.get("inference_geo"))
    if place not in STANDARD_SERVICE_TIERS:
        return {SERVICE_TIER: f"geo-{place}"}
    tier_of_details = langchain.tier_in(report)
    return {SERVICE_TIER: tier_of_details} if tier_of_details else {}


def _word(value: Any) -> str:
    """Return a text, or the text of an enum's member, in lower case; empty for anything else."""
    text = getattr(value, "value", value)
    return text.lower() if isinstance(text, str) else ""
