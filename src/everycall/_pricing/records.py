"""Reads from a record what its price depends on."""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from everycall._pricing.cost import Consumption, Unpriced
from everycall.record import ABSENT, Record
from everycall.semconv import EMBEDDING, ERROR, PRICED_KINDS, RERANKER

__all__ = ["UNPRICED", "basis", "consumption", "failed_without_usage", "unpriced_reason"]

UNPRICED: Final = "unpriced: "
"""Prefix of the `cost_source` of a record whose cost is unknown; the reason follows."""

_TIER_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{0,32}")
_UNNAMED_TIER: Final = "of-another-name"
"""Replaces a tier that is not a plain name, so that a caller's text does not appear in the reason."""

_attributes = msgspec.json.Decoder(dict[str, msgspec.Raw])


def consumption(record: Record) -> Consumption | Unpriced:
    """Return what the record's call used, or why that is unknown."""
    output_tokens = record.output_tokens
    if output_tokens is None and record.kind in (EMBEDDING, RERANKER):
        output_tokens = 0  # their output is numbers, not tokens
    if not record.model:
        return Unpriced("no model")
    if record.input_tokens is None or output_tokens is None:
        return Unpriced("no token counts")
    return Consumption(
        record.model,
        record.provider,
        record.input_tokens,
        output_tokens,
        record.usage,
        record.start_time_unix_nano,
        _tier(record),
    )


def basis(record: Record) -> tuple[Any, ...]:
    """Return everything that a price depends on. Records with the same basis have the same price."""
    return (
        record.kind,
        record.model,
        record.provider,
        record.input_tokens,
        record.output_tokens,
        record.usage,
        record.start_time_unix_nano,
        record.cache_hit,
        _tier(record),
    )


def failed_without_usage(record: Record) -> bool:
    """Return whether a call failed with neither tokens nor a cost: it is not counted as unpriced."""
    figures = (record.cost, record.input_tokens, record.output_tokens, record.total_tokens)
    return record.status == ERROR and all(figure is None for figure in figures)


def unpriced_reason(record: Record) -> str | None:
    """Return why an inference call has no cost, in words for people; None if it has one or is no inference call."""
    if record.cost is not None or record.kind not in PRICED_KINDS:
        return None
    source = record.cost_source or ""
    return source.removeprefix(UNPRICED) if source.startswith(UNPRICED) else "no reason was kept"


def _tier(record: Record) -> str | None:
    """Return the service tier in the record's attributes: the response's, or else the request's."""
    attributes = record.attributes
    if attributes is ABSENT or b"service_tier" not in bytes(attributes):
        return None
    try:
        raw = _attributes.decode(attributes)
        tiers = {name: msgspec.json.decode(raw[name]) for name in raw if name.endswith("service_tier")}
    except (msgspec.MsgspecError, RecursionError):
        return None
    for of_request in (False, True):
        for name, tier in tiers.items():
            if isinstance(tier, str) and (".request." in name) is of_request:
                return tier if _TIER_NAME.fullmatch(tier) else _UNNAMED_TIER
    return None
