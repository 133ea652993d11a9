"""Usage in span attributes: OpenTelemetry's GenAI conventions (old and new), OpenInference and Traceloop.

By convention, their sums include all parts, so a count with an unknown name is a part.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from everycall._usage.counts import CACHE_WRITE_5M, IGNORED, INPUT, OUTPUT, TOTAL, Counts, Names
from everycall.semconv import (
    USAGE_CACHE_WRITE,
    USAGE_CACHE_WRITE_1H,
    USAGE_CACHED,
    USAGE_CACHED_AUDIO,
    USAGE_CACHED_IMAGE,
    USAGE_INPUT_AUDIO,
    USAGE_INPUT_IMAGE,
    USAGE_OUTPUT_AUDIO,
    USAGE_OUTPUT_IMAGE,
    USAGE_REASONING,
)

__all__ = ["has_usage_attributes", "read"]

_PREFIXES: Final = ("gen_ai.usage.", "llm.usage.", "llm.token_count.", "ai.usage.", "anthropic.usage.")
_NAMES: Final[Names] = {
    **dict.fromkeys(
        (
            "gen_ai.usage.input_tokens",
            "gen_ai.usage.prompt_tokens",
            "llm.usage.prompt_tokens",
            "llm.token_count.prompt",
            "ai.usage.inputTokens",
            "ai.usage.promptTokens",
        ),
        INPUT,
    ),
    **dict.fromkeys(
        (
            "gen_ai.usage.output_tokens",
            "gen_ai.usage.completion_tokens",
            "llm.usage.completion_tokens",
            "llm.token_count.completion",
            "ai.usage.outputTokens",
            "ai.usage.completionTokens",
        ),
        OUTPUT,
    ),
    **dict.fromkeys(
        (
            "gen_ai.usage.total_tokens",
            "llm.usage.total_tokens",
            "llm.token_count.total",
            "ai.usage.totalTokens",
            "ai.usage.tokens",
        ),
        TOTAL,
    ),
    **dict.fromkeys(
        (
            "gen_ai.usage.cache_read.input_tokens",
            "gen_ai.usage.cache_read_input_tokens",
            "gen_ai.usage.input_cached_tokens",
            "gen_ai.usage.details.cache_read_tokens",
            "gen_ai.usage.details.cache_read_input_tokens",
            "gen_ai.usage.details.cached_tokens",
            "llm.token_count.prompt_details.cache_read",
            "llm.token_count.prompt_details.cache_input",
            "ai.usage.cachedInputTokens",
            "ai.usage.inputTokenDetails.cacheReadTokens",
        ),
        USAGE_CACHED,
    ),
    **dict.fromkeys(
        (
            "gen_ai.usage.cache_write.input_tokens",
            "gen_ai.usage.cache_creation.input_tokens",
            "gen_ai.usage.cache_creation_input_tokens",
            "gen_ai.usage.details.cache_write_tokens",
            "gen_ai.usage.details.cache_creation_input_tokens",
            "llm.token_count.prompt_details.cache_write",
            "ai.usage.inputTokenDetails.cacheWriteTokens",
        ),
        USAGE_CACHE_WRITE,
    ),
    **dict.fromkeys(
        (
            "gen_ai.usage.reasoning.output_tokens",
            "gen_ai.usage.reasoning_tokens",
            "gen_ai.usage.details.reasoning_tokens",
            "llm.usage.reasoning_tokens",
            "llm.token_count.completion_details.reasoning",
            "ai.usage.reasoningTokens",
            "ai.usage.outputTokenDetails.reasoningTokens",
        ),
        USAGE_REASONING,
    ),
    "anthropic.usage.cache_creation.ephemeral_5m_input_tokens": CACHE_WRITE_5M,
    "anthropic.usage.cache_creation.ephemeral_1h_input_tokens": USAGE_CACHE_WRITE_1H,
    "gen_ai.usage.audio.input_tokens": USAGE_INPUT_AUDIO,
    "gen_ai.usage.image.input_tokens": USAGE_INPUT_IMAGE,
    "gen_ai.usage.audio.output_tokens": USAGE_OUTPUT_AUDIO,
    "gen_ai.usage.image.output_tokens": USAGE_OUTPUT_IMAGE,
    "gen_ai.usage.audio.cache_read.input_tokens": USAGE_CACHED_AUDIO,
    "gen_ai.usage.image.cache_read.input_tokens": USAGE_CACHED_IMAGE,
    "llm.token_count.prompt_details.audio": USAGE_INPUT_AUDIO,
    "llm.token_count.completion_details.audio": USAGE_OUTPUT_AUDIO,
    **dict.fromkeys(
        (
            "gen_ai.usage.text.input_tokens",
            "gen_ai.usage.text.output_tokens",
            "gen_ai.usage.text.cache_read.input_tokens",
            "ai.usage.inputTokenDetails.noCacheTokens",
            "ai.usage.outputTokenDetails.textTokens",
        ),
        IGNORED,
    ),
}


def has_usage_attributes(attributes: Mapping[str, Any]) -> bool:
    """Return whether a mapping has span attributes of usage."""
    return any(isinstance(name, str) and name.startswith(_PREFIXES) for name in attributes)


def read(attributes: Mapping[str, Any]) -> Counts:
    """Return the counts among a span's attributes; all other attributes are ignored."""
    counts = Counts(names_are_whole=True)
    usage = {name: value for name, value in attributes.items() if isinstance(name, str) and name.startswith(_PREFIXES)}
    counts.read(usage, _NAMES)
    return counts
