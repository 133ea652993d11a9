"""What providers call their token counts: one table a dialect, read by `usage`. Layer 0.

Names are those of the providers' own API references and client packages, of LangChain's `UsageMetadata`, and of the
semantic conventions of OpenTelemetry, OpenInference and Traceloop.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

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

__all__ = [
    "ANTHROPIC",
    "BEDROCK",
    "CACHED_FOR_5M",
    "GEMINI",
    "GEMINI_DETAILS",
    "INPUT",
    "LANGCHAIN",
    "OPENAI",
    "OTEL",
    "OTEL_PREFIXES",
    "OUTPUT",
    "PLAIN",
    "TOTAL",
    "VERCEL",
    "Dialect",
    "dialect_of",
]

INPUT: Final = "input"
OUTPUT: Final = "output"
TOTAL: Final = "total"
CACHED_FOR_5M: Final = "5m"
"""Tokens written to a cache for five minutes: with those for an hour they make `cache_write`."""
PLAIN: Final = ""
"""Of a name that is understood and adds nothing, such as the text among the tokens."""
_CACHED_FOR_12H: Final = "cache_write_12h"

Names = Mapping[str, str]


class Dialect(NamedTuple):
    """How one provider's report is read: names of counts, and those inside its objects of details.

    `exclusive` says that the input leaves out what was read from and written to the cache.
    """

    counts: Names
    details: Mapping[str, Names] = {}
    exclusive: bool = False


_OPENAI_IN: Final[Names] = {
    "cached_tokens": USAGE_CACHED,
    "cache_write_tokens": USAGE_CACHE_WRITE,
    "cache_creation_tokens": USAGE_CACHE_WRITE,
    "audio_tokens": USAGE_INPUT_AUDIO,
    "image_tokens": USAGE_INPUT_IMAGE,
    "video_tokens": USAGE_INPUT_VIDEO,
    "text_tokens": PLAIN,
}
_OPENAI_OUT: Final[Names] = {
    "reasoning_tokens": USAGE_REASONING,
    "audio_tokens": USAGE_OUTPUT_AUDIO,
    "image_tokens": USAGE_OUTPUT_IMAGE,
    "text_tokens": PLAIN,
    "accepted_prediction_tokens": PLAIN,  # billed as output, as the rejected ones are; both are in the sum
    "rejected_prediction_tokens": PLAIN,
}
_CACHE_KEPT: Final[Names] = {"ttl_12h_tokens": _CACHED_FOR_12H, "ttl_30m_tokens": PLAIN}
_CACHED_KINDS: Final[Names] = {
    "audio_tokens": USAGE_CACHED_AUDIO,
    "image_tokens": USAGE_CACHED_IMAGE,
    "text_tokens": PLAIN,
}
_ANTHROPIC_CACHE: Final[Names] = {
    "ephemeral_5m_input_tokens": CACHED_FOR_5M,
    "ephemeral_1h_input_tokens": USAGE_CACHE_WRITE_1H,
}

OPENAI: Final = Dialect(
    {
        "prompt_tokens": INPUT,
        "completion_tokens": OUTPUT,
        "input_tokens": INPUT,
        "output_tokens": OUTPUT,
        "total_tokens": TOTAL,
        "prompt_cache_hit_tokens": USAGE_CACHED,  # DeepSeek's
        "prompt_cache_miss_tokens": PLAIN,
        "cache_read_input_tokens": USAGE_CACHED,  # LiteLLM's, beside an inclusive prompt_tokens
        "cache_creation_input_tokens": USAGE_CACHE_WRITE,
        "num_search_queries": USAGE_WEB_SEARCHES,  # Perplexity's
    },
    {
        "prompt_tokens_details": _OPENAI_IN,
        "completion_tokens_details": _OPENAI_OUT,
        "input_tokens_details": _OPENAI_IN,
        "output_tokens_details": _OPENAI_OUT,
        "cached_tokens_details": _CACHED_KINDS,
        "cache_write_tokens_details": _CACHE_KEPT,
    },
)
ANTHROPIC: Final = Dialect(
    {
        "input_tokens": INPUT,
        "output_tokens": OUTPUT,
        "cache_read_input_tokens": USAGE_CACHED,
        "cache_creation_input_tokens": USAGE_CACHE_WRITE,
        "total_tokens": PLAIN,  # of compatible hosts, which differ in what they add up
    },
    {
        "cache_creation": _ANTHROPIC_CACHE,
        "output_tokens_details": {"thinking_tokens": USAGE_REASONING},
        "server_tool_use": {"web_search_requests": USAGE_WEB_SEARCHES},
    },
    exclusive=True,
)
LANGCHAIN: Final = Dialect(
    {"input_tokens": INPUT, "output_tokens": OUTPUT, "total_tokens": TOTAL},
    {
        "input_token_details": {
            **_OPENAI_IN,  # the names of OpenAI's Realtime API, whose report looks the same
            "cache_read": USAGE_CACHED,
            "cache_creation": USAGE_CACHE_WRITE,
            "audio": USAGE_INPUT_AUDIO,
            "image": USAGE_INPUT_IMAGE,
            "video": USAGE_INPUT_VIDEO,
            "text": PLAIN,
            **_ANTHROPIC_CACHE,
        },
        "output_token_details": {
            **_OPENAI_OUT,
            "reasoning": USAGE_REASONING,
            "audio": USAGE_OUTPUT_AUDIO,
            "image": USAGE_OUTPUT_IMAGE,
            "text": PLAIN,
        },
        "cached_tokens_details": _CACHED_KINDS,
    },
)
BEDROCK: Final = Dialect(
    {
        "inputTokens": INPUT,
        "outputTokens": OUTPUT,
        "cacheReadInputTokens": USAGE_CACHED,
        "cacheWriteInputTokens": USAGE_CACHE_WRITE,
        "cacheReadInputTokenCount": USAGE_CACHED,
        "cacheWriteInputTokenCount": USAGE_CACHE_WRITE,
        "totalTokens": PLAIN,
    },
    exclusive=True,
)
VERCEL: Final = Dialect(
    {
        "inputTokens": INPUT,
        "outputTokens": OUTPUT,
        "totalTokens": TOTAL,
        "cachedInputTokens": USAGE_CACHED,
        "reasoningTokens": USAGE_REASONING,
    },
    {
        "inputTokenDetails": {
            "noCacheTokens": PLAIN,
            "cacheReadTokens": USAGE_CACHED,
            "cacheWriteTokens": USAGE_CACHE_WRITE,
        },
        "outputTokenDetails": {"textTokens": PLAIN, "reasoningTokens": USAGE_REASONING},
    },
)
GEMINI: Final = Dialect(
    {
        "prompt_token_count": INPUT,
        "candidates_token_count": OUTPUT,
        "response_token_count": OUTPUT,
        "total_token_count": TOTAL,
        "cached_content_token_count": USAGE_CACHED,
        "thoughts_token_count": USAGE_REASONING,
        "tool_use_prompt_token_count": USAGE_TOOL_USE_PROMPT,
    }
)
_MODALITIES: Final[Mapping[str, Names]] = {
    "prompt_tokens_details": {
        "AUDIO": USAGE_INPUT_AUDIO,
        "IMAGE": USAGE_INPUT_IMAGE,
        "VIDEO": USAGE_INPUT_VIDEO,
    },
    "candidates_tokens_details": {
        "AUDIO": USAGE_OUTPUT_AUDIO,
        "IMAGE": USAGE_OUTPUT_IMAGE,
        "VIDEO": USAGE_OUTPUT_VIDEO,
    },
    "cache_tokens_details": {"AUDIO": USAGE_CACHED_AUDIO, "IMAGE": USAGE_CACHED_IMAGE},
    "tool_use_prompt_tokens_details": {},
}
GEMINI_DETAILS: Final = {**_MODALITIES, "response_tokens_details": _MODALITIES["candidates_tokens_details"]}
OTEL: Final = Dialect(
    {
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
        "anthropic.usage.cache_creation.ephemeral_5m_input_tokens": CACHED_FOR_5M,
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
            PLAIN,
        ),
    }
)
OTEL_PREFIXES: Final = ("gen_ai.usage.", "llm.usage.", "llm.token_count.", "ai.usage.", "anthropic.usage.")
_ANTHROPIC_SIGNS: Final = frozenset({"cache_creation_input_tokens", "cache_read_input_tokens", "cache_creation"})


def dialect_of(held: Mapping[str, Any]) -> Dialect:
    """Return the dialect of a report by the names that only it has."""
    if "prompt_tokens" in held:
        return OPENAI
    if "prompt_token_count" in held or "promptTokenCount" in held or "totalTokenCount" in held:
        return GEMINI
    if "total_token_count" in held or "candidates_token_count" in held:
        return GEMINI
    if "inputTokens" in held or "outputTokens" in held:
        vercel = VERCEL.counts.keys() - BEDROCK.counts.keys() | VERCEL.details.keys()
        return VERCEL if vercel & held.keys() else BEDROCK
    if "input_token_details" in held or "output_token_details" in held:
        return LANGCHAIN
    if "input_tokens" in held and _ANTHROPIC_SIGNS & held.keys():
        return ANTHROPIC
    if "output_tokens" in held and ("server_tool_use" in held or "inference_geo" in held):
        return ANTHROPIC
    if any(name.startswith(OTEL_PREFIXES) for name in held):
        return OTEL
    return OPENAI
