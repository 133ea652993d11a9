"""The reports of OpenAI (chat, Responses, Realtime), Azure, and hosts that speak OpenAI's protocol.

Their sums include all parts. Names are those of the API references; hosts' own names are marked.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from everycall._usage.counts import IGNORED, INPUT, OUTPUT, TOTAL, Counts, Names
from everycall._usage.reports import members
from everycall.semconv import (
    USAGE_CACHE_WRITE,
    USAGE_CACHED,
    USAGE_CACHED_AUDIO,
    USAGE_CACHED_IMAGE,
    USAGE_INPUT_AUDIO,
    USAGE_INPUT_IMAGE,
    USAGE_INPUT_VIDEO,
    USAGE_OUTPUT_AUDIO,
    USAGE_OUTPUT_IMAGE,
    USAGE_REASONING,
    USAGE_WEB_SEARCHES,
)

__all__ = ["CACHED_DETAILS", "INPUT_DETAILS", "OUTPUT_DETAILS", "read"]

INPUT_DETAILS: Final[Names] = {
    "cached_tokens": USAGE_CACHED,
    "cache_write_tokens": USAGE_CACHE_WRITE,
    "cache_creation_tokens": USAGE_CACHE_WRITE,
    "audio_tokens": USAGE_INPUT_AUDIO,
    "image_tokens": USAGE_INPUT_IMAGE,
    "video_tokens": USAGE_INPUT_VIDEO,
    "text_tokens": IGNORED,
}
OUTPUT_DETAILS: Final[Names] = {
    "reasoning_tokens": USAGE_REASONING,
    "audio_tokens": USAGE_OUTPUT_AUDIO,
    "image_tokens": USAGE_OUTPUT_IMAGE,
    "text_tokens": IGNORED,
    "accepted_prediction_tokens": IGNORED,  # billed as output, as the rejected ones are; both are in the sum
    "rejected_prediction_tokens": IGNORED,
}
CACHED_DETAILS: Final[Names] = {
    "audio_tokens": USAGE_CACHED_AUDIO,
    "image_tokens": USAGE_CACHED_IMAGE,
    "text_tokens": IGNORED,
}
_NAMES: Final[Names] = {
    "prompt_tokens": INPUT,
    "completion_tokens": OUTPUT,
    "input_tokens": INPUT,
    "output_tokens": OUTPUT,
    "total_tokens": TOTAL,
    "prompt_cache_hit_tokens": USAGE_CACHED,  # DeepSeek
    "prompt_cache_miss_tokens": IGNORED,
    "cache_read_input_tokens": USAGE_CACHED,  # LiteLLM, beside a prompt_tokens that includes it
    "cache_creation_input_tokens": USAGE_CACHE_WRITE,
    "num_search_queries": USAGE_WEB_SEARCHES,  # Perplexity
}
_DETAILS: Final[Mapping[str, Names]] = {
    "prompt_tokens_details": INPUT_DETAILS,
    "completion_tokens_details": OUTPUT_DETAILS,
    "input_tokens_details": INPUT_DETAILS,
    "output_tokens_details": OUTPUT_DETAILS,
}
_NESTED: Final[Mapping[str, Names]] = {
    "cached_tokens_details": CACHED_DETAILS,
    "cache_write_tokens_details": {"ttl_12h_tokens": "cache_write_12h", "ttl_30m_tokens": IGNORED},
}


def read(report: Mapping[str, Any]) -> Counts:
    """Return the counts of a report, those of the objects of details included."""
    counts = Counts()
    counts.read(report, _NAMES)
    for name, names in _DETAILS.items():
        details = members(report.get(name))
        if details:
            counts.read_details(details, names)
            for nested in _NESTED.keys() & details.keys():
                counts.read_details(details[nested], _NESTED[nested])
    for name in _NESTED.keys() & report.keys():
        counts.read_details(report[name], _NESTED[name])
    return counts
