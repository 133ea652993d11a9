"""Token counts in one convention: takes a provider's report of usage, returns the fields of a record.

Integrations call `usage_fields` (also available as `everycall.integration.usage_fields`), and so does the server for
reports that reach it as the provider sent them. `everycall._usage` has a reader for each provider's report. Nothing is
guessed: what a report does not say stays unknown.

The convention: `input_tokens` includes what was read from and written to the provider's cache and the results of its
own tools; `output_tokens` includes reasoning; `usage` has these parts. Anthropic and Bedrock leave the cache out of
their input, Gemini leaves thoughts out of its output. Both are added here, once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from everycall._usage import anthropic, bedrock, gemini, langchain, openai, span_attributes, vercel
from everycall._usage.charges import charge
from everycall._usage.counts import Counts
from everycall._usage.reports import members
from everycall._usage.tiers import tier_attribute
from everycall.semconv import COST_OF_PROVIDER

__all__ = ["usage_fields"]


def usage_fields(report: Any, *, provider: str | None = None, response: Any = None) -> dict[str, Any]:
    """Return what a report of usage says, as fields of a record: `call.update(**usage_fields(report))`.

    `report` is a provider's object or plain JSON: OpenAI (chat, Responses, Realtime, compatible hosts), Anthropic,
    Gemini (`usage_metadata`), Bedrock Converse, LangChain's `usage_metadata`, Vercel's AI SDK, or span attributes of
    OpenTelemetry, OpenInference and Traceloop by their whole names. Optional context: `provider` as a record names it,
    and `response`, the response that the report is part of. OpenAI's Responses API tells its searches there, and Gemini
    on OpenAI's protocol leaves thoughts out of its output.

    The result has `input_tokens`, `output_tokens` and `total_tokens` as far as they are known, `usage` with the parts
    that the report names (including those that are 0), and the attribute `everycall.service_tier` if the report names a
    tier that is not the standard one. If the report states what the provider charged, that is `cost`, in US dollars,
    with the `cost_source` "provider". The result is empty if the report says none of this.

    No count is dropped because its name is unknown. Inside an object of details, and among span attributes, such a
    count is a part and keeps its name. Beside the sums it is named `unpriced.<name>`, unless the total shows that the
    sums include it: the call then has no price rather than a wrong one. Does not raise.
    """
    snake_case = members(report)
    if not snake_case:
        return {}
    counts = _read(snake_case)
    whole = members(response) if response is not None else {}
    if "tool_usage" in whole or "output" in whole:
        openai.read_tools(whole, counts)
    if whole or provider is not None:
        counts.rest_is_reasoning = gemini.is_of_google(provider, whole.get("model"))
    fields = counts.fields() | tier_attribute(snake_case)
    cost = charge(snake_case)
    if cost is not None:
        fields["cost"], fields["cost_source"] = cost, COST_OF_PROVIDER
    return fields


def _read(report: Mapping[str, Any]) -> Counts:
    """Return the counts of a report, read by the reader whose provider's names it has."""
    if "prompt_tokens" in report:
        return openai.read(report)
    if gemini.is_gemini(report):
        return gemini.read(report)
    if "inputTokens" in report or "outputTokens" in report:
        return vercel.read(report) if vercel.is_vercel(report) else bedrock.read(report)
    if langchain.is_langchain(report):
        return langchain.read(report)
    if anthropic.is_anthropic(report):
        return anthropic.read(report)
    if span_attributes.has_usage_attributes(report):
        return span_attributes.read(report)
    return openai.read(report)
