"""Token counts in one convention: a provider's report of usage in, the fields of a record out. Layer 3, public.

Integrations call `usage_fields` (which `everycall.integration` has too), and so does the server for what arrives as it
left the provider. What the dialects call their counts is in `_usage_names`; nothing is guessed: what a report does not
say stays unknown.

The convention: `input_tokens` includes what was read from and written to a provider's cache and the results of its own
tools, `output_tokens` includes reasoning; `usage` has these parts. Anthropic and Bedrock leave the cache out of their
input, Gemini leaves thoughts out of its output: both are added here, once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, Final

from everycall._usage.names import (
    ANTHROPIC,
    BEDROCK,
    CACHED_FOR_5M,
    GEMINI,
    GEMINI_DETAILS,
    INPUT,
    OTEL,
    OTEL_PREFIXES,
    OUTPUT,
    PLAIN,
    TOTAL,
    Dialect,
    dialect_of,
)
from everycall._usage.reports import members
from everycall.semconv import (
    SERVICE_TIER,
    USAGE_CACHE_WRITE,
    USAGE_CACHE_WRITE_1H,
    USAGE_CACHED,
    USAGE_REASONING,
    USAGE_TOOL_USE_PROMPT,
    USAGE_UNPRICED,
)

__all__ = ["usage_fields"]

_COUNT_MAX: Final = 2**50
"""A count beyond it is none: sums of a few stay within what a record takes."""

_STANDARD: Final = frozenset({"", "auto", "default", "standard", "on_demand", "global", "not_available", "unspecified"})
_TELL_A_TIER: Final = frozenset(
    {"service_tier", "serviceTier", "speed", "traffic_type", "trafficType", "inference_geo", "input_token_details"}
)
_TIERS_OF_LANGCHAIN: Final = ("flex", "priority")
_BILLED_APART: Final = frozenset({"citation_tokens", "reasoning_tokens"})
"""Counts beside the sums that Perplexity bills on top of them although its total leaves them out."""


def usage_fields(report: Any) -> dict[str, Any]:
    """Return what a report of usage says, as fields of a record: `Call.update(**usage_fields(report))`.

    `report` is a provider's object or plain JSON: OpenAI (chat, Responses, Realtime, compatible hosts), Anthropic,
    Gemini (`usage_metadata`), Bedrock Converse, LangChain's `usage_metadata`, Vercel's AI SDK, or span attributes of
    OpenTelemetry, OpenInference and Traceloop by their whole names. The answer has `input_tokens`, `output_tokens` and
    `total_tokens` as far as they are known, `usage` with the parts that were told (0 too), and the attribute
    `everycall.service_tier` where the report names a tier that is not the standard one. Nothing known: `{}`.

    A count whose name is not known is not dropped. Inside an object of details, and among span attributes, it is a
    part and keeps its name. Beside the sums it is named `unpriced.<name>`, unless the total shows that the sums have
    it: the call then has no price rather than a wrong one. Does not raise.
    """
    held = members(report)
    if not held:
        return {}
    dialect = dialect_of(held)
    if dialect is GEMINI:
        held = {_snake(name): value for name, value in held.items()}
    found: dict[str, int] = {}
    unknown: dict[str, int] = {}
    for name, value in held.items():
        number = _count(value)
        if number is not None:
            target = dialect.counts.get(name)
            if target is None:
                if number and _is_of_tokens(name, dialect):
                    unknown[name] = number
            elif target:
                found.setdefault(target, number)
        elif value is not None:
            _details(name, value, dialect, found)
    if not found and not unknown:
        return {}
    return _fields(found, unknown, dialect.exclusive) | _tier(held)


def _details(name: str, value: Any, dialect: Dialect, found: dict[str, int]) -> None:
    """Read an object or list of details into `found`; a part of an unknown name keeps it."""
    if isinstance(value, list | tuple):
        if dialect is BEDROCK and name == "cacheDetails":
            for entry in map(members, value):
                _add(
                    found, USAGE_CACHE_WRITE_1H if entry.get("ttl") == "1h" else CACHED_FOR_5M, entry.get("inputTokens")
                )
        elif dialect is ANTHROPIC and name == "iterations":
            for entry in (one for one in map(members, value) if one.get("type") == "compaction"):
                for side in ("input_tokens", "output_tokens"):  # which the sums beside the list leave out
                    _add(found, f"{USAGE_UNPRICED}compaction_tokens", entry.get(side))
        elif dialect is GEMINI and name in GEMINI_DETAILS:
            for entry in ({_snake(key): part for key, part in members(one).items()} for one in value):
                modality = getattr(entry.get("modality"), "value", entry.get("modality"))
                _add(found, GEMINI_DETAILS[name].get(str(modality).upper(), PLAIN), entry.get("token_count"))
        return
    names = dialect.details.get(name)
    if names is None:
        return
    for part, inner in members(value).items():
        number = _count(inner)
        if number is None:
            if inner is not None:
                _details(part, inner, dialect, found)
            continue
        target = names.get(part)
        if target is None:
            for tier in _TIERS_OF_LANGCHAIN:  # LangChain: `flex_cache_read`, and `flex` for the rest
                part = PLAIN if part == tier else part.removeprefix(f"{tier}_")
            target = names.get(part)
        if target is None:
            if number and name != "server_tool_use" and part:
                found.setdefault(part, number)
        elif target:
            found.setdefault(target, number)


def _fields(found: dict[str, int], unknown: Mapping[str, int], exclusive: bool) -> dict[str, Any]:
    tokens_in, tokens_out, total = (found.pop(name, None) for name in (INPUT, OUTPUT, TOTAL))
    five, hour = found.pop(CACHED_FOR_5M, None), found.get(USAGE_CACHE_WRITE_1H)
    if five is not None or hour is not None:
        found[USAGE_CACHE_WRITE] = found.get(USAGE_CACHE_WRITE) or (five or 0) + (hour or 0)
    apart = (found.get(USAGE_CACHED) or 0) + (found.get(USAGE_CACHE_WRITE) or 0)
    if tokens_in is not None:
        if not exclusive and apart > tokens_in:
            exclusive, total = True, None  # an emitter that passed on Anthropic's own count
        tokens_in += (apart if exclusive else 0) + (found.get(USAGE_TOOL_USE_PROMPT) or 0)
    tokens_out, rest = _outputs(tokens_in, tokens_out, total, found.get(USAGE_REASONING))
    adds_up = total is not None and not rest and tokens_in is not None and tokens_out is not None
    for name, number in unknown.items():
        inside = name.startswith(OTEL_PREFIXES) or (adds_up and name not in _BILLED_APART)
        found[name if inside else f"{USAGE_UNPRICED}{name}"] = number
    if rest:
        found[f"{USAGE_UNPRICED}not_told"] = rest
    if (total is None or exclusive) and tokens_in is not None and tokens_out is not None:
        total = tokens_in + tokens_out
    fields = {"input_tokens": tokens_in, "output_tokens": tokens_out, "total_tokens": total, "usage": found}
    return {name: value for name, value in fields.items() if value is not None}


def _outputs(
    tokens_in: int | None, tokens_out: int | None, total: int | None, reasoning: int | None
) -> tuple[int | None, int]:
    """Return the output with its reasoning, and how many tokens the total has that neither side has.

    Gemini and xAI count reasoning beside the output; their totals show it. Gemini leaves out a count that is 0.
    """
    if total is None or tokens_in is None or total < tokens_in:
        return tokens_out, 0
    if tokens_out is None:
        return total - tokens_in, 0
    rest = total - tokens_in - tokens_out
    if rest > 0 and rest == reasoning:
        return tokens_out + rest, 0
    return tokens_out, max(rest, 0)


def _tier(held: Mapping[str, Any]) -> dict[str, str]:
    """Return the attribute of the tier that the report names: its service tier, Anthropic's speed or place."""
    if _TELL_A_TIER.isdisjoint(held):
        return {}
    named: Iterable[Any] = (held.get("service_tier"), held.get("serviceTier"), held.get("speed"), _traffic(held))
    for given in named:
        tier = str(getattr(given, "value", given) or "").lower().removeprefix("on_demand_")
        if tier not in _STANDARD:
            return {SERVICE_TIER: tier}
    place = held.get("inference_geo")
    if isinstance(place, str) and place.lower() not in _STANDARD:
        return {SERVICE_TIER: f"geo-{place.lower()}"}
    details = held.get("input_token_details")
    for tier in _TIERS_OF_LANGCHAIN:
        if isinstance(details, Mapping) and any(name == tier or name.startswith(f"{tier}_") for name in details):
            return {SERVICE_TIER: tier}
    return {}


def _traffic(held: Mapping[str, Any]) -> Any:
    return held.get("traffic_type") or held.get("trafficType")


def _is_of_tokens(name: str, dialect: Dialect) -> bool:
    if dialect is OTEL:
        return name.startswith(OTEL_PREFIXES) and "token" in name.lower()
    return "token" in name.lower()


def _add(found: dict[str, int], target: str, value: Any) -> None:
    number = _count(value)
    if target and number is not None:
        found[target] = found.get(target, 0) + number


def _count(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value <= _COUNT_MAX else None


@lru_cache(maxsize=1_024)
def _snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)
