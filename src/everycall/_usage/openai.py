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
    USAGE_FILE_SEARCHES,
    USAGE_INPUT_AUDIO,
    USAGE_INPUT_IMAGE,
    USAGE_INPUT_VIDEO,
    USAGE_OUTPUT_AUDIO,
    USAGE_OUTPUT_IMAGE,
    USAGE_REASONING,
    USAGE_UNPRICED,
    USAGE_WEB_SEARCHES,
)

__all__ = ["CACHED_DETAILS", "INPUT_DETAILS", "OUTPUT_DETAILS", "read", "read_tools"]

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
    "cached_tokens": USAGE_CACHED,  # Moonshot, Together
    "num_cached_tokens": USAGE_CACHED,  # Mistral
    "cache_read_input_tokens": USAGE_CACHED,  # LiteLLM, beside a prompt_tokens that includes it
    "cache_creation_input_tokens": USAGE_CACHE_WRITE,
    "num_search_queries": USAGE_WEB_SEARCHES,  # Perplexity
}
_SEARCHES: Final[Names] = {  # OpenRouter
    "web_search_requests": USAGE_WEB_SEARCHES,
    "tool_calls_requested": IGNORED,
    "tool_calls_executed": IGNORED,
}
_DETAILS: Final[Mapping[str, Names]] = {
    "prompt_tokens_details": INPUT_DETAILS,
    "completion_tokens_details": OUTPUT_DETAILS,
    "input_tokens_details": INPUT_DETAILS,
    "output_tokens_details": OUTPUT_DETAILS,
    "server_tool_use_details": _SEARCHES,
    "server_tool_use": _SEARCHES,
}
_NESTED: Final[Mapping[str, Names]] = {
    "cached_tokens_details": CACHED_DETAILS,
    "cache_write_tokens_details": {"ttl_12h_tokens": "cache_write_12h", "ttl_30m_tokens": IGNORED},
}
_SEARCH_TOOLS: Final = {"web_search": USAGE_WEB_SEARCHES, "file_search": USAGE_FILE_SEARCHES}
_BILLED_CALLS: Final = {"web_search": "web_search", "file_search": "file_search", "image_generation": "image_gen"}
"""Tools whose calls are billed separately, each with its name in `tool_usage`."""


def read(report: Mapping[str, Any]) -> Counts:
    """Return the counts of a report, including those in its detail objects."""
    counts = Counts()
    counts.read(report, _NAMES)
    for name, names in _DETAILS.items():
        if name in report and (details := members(report[name])):
            counts.read_details(details, names)
            _read_nested(details, counts)
    _read_nested(report, counts)
    return counts


def _read_nested(report: Mapping[str, Any], counts: Counts) -> None:
    for name, names in _NESTED.items():
        if name in report:
            counts.read_details(report[name], names)


def read_tools(response: Mapping[str, Any], counts: Counts) -> None:
    """Add what OpenAI bills for its own tools in a response of the Responses API: searches and generated images.

    `tool_usage` has the counts. In responses without it, the calls in `output` are counted.
    """
    tool_usage = members(response.get("tool_usage"))
    for tool, report in tool_usage.items():
        numbers = members(report)
        counts.add(_SEARCH_TOOLS.get(tool, f"{USAGE_UNPRICED}{tool}_requests"), numbers.get("num_requests") or None)
        counts.add(f"{USAGE_UNPRICED}{tool}_tokens", numbers.get("total_tokens") or None)
    output = response.get("output")
    if isinstance(output, list | tuple):
        for item in map(members, output):
            tool = str(item.get("type")).removesuffix("_call")
            if tool in _BILLED_CALLS and _BILLED_CALLS[tool] not in tool_usage and _is_billed(item):
                counts.add(_SEARCH_TOOLS.get(tool, f"{USAGE_UNPRICED}{tool}"), 1)


def _is_billed(item: Mapping[str, Any]) -> bool:
    """Return whether a tool call is billed: it did not fail, and if it is a web search call, its action is a search."""
    action = members(item.get("action")).get("type", "search")
    return item.get("status") != "failed" and (action == "search" or item.get("type") != "web_search_call")
