"""Gemini's and Vertex AI's `usageMetadata`, in the spelling of their JSON or of Google's Python package.

Thoughts are not among the candidates' tokens: they are added to the output. What the provider's own tools put into the
prompt is added to the input.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from everycall._usage.counts import IGNORED, INPUT, OUTPUT, TOTAL, Counts, Names
from everycall._usage.reports import members
from everycall.semconv import (
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
)

__all__ = ["is_gemini", "is_of_google", "read"]

_NAMES: Final[Names] = {
    "prompt_token_count": INPUT,
    "candidates_token_count": OUTPUT,
    "response_token_count": OUTPUT,
    "total_token_count": TOTAL,
    "cached_content_token_count": USAGE_CACHED,
    "thoughts_token_count": USAGE_REASONING,
    "tool_use_prompt_token_count": USAGE_TOOL_USE_PROMPT,
}
_OUTPUT_MODALITIES: Final[Names] = {
    "AUDIO": USAGE_OUTPUT_AUDIO,
    "IMAGE": USAGE_OUTPUT_IMAGE,
    "VIDEO": USAGE_OUTPUT_VIDEO,
}
_MODALITIES: Final[Mapping[str, Names]] = {
    "prompt_tokens_details": {"AUDIO": USAGE_INPUT_AUDIO, "IMAGE": USAGE_INPUT_IMAGE, "VIDEO": USAGE_INPUT_VIDEO},
    "candidates_tokens_details": _OUTPUT_MODALITIES,
    "response_tokens_details": _OUTPUT_MODALITIES,
    "cache_tokens_details": {"AUDIO": USAGE_CACHED_AUDIO, "IMAGE": USAGE_CACHED_IMAGE},
}
_SIGNS: Final = frozenset(
    {
        "prompt_token_count",
        "promptTokenCount",
        "candidates_token_count",
        "candidatesTokenCount",
        "thoughts_token_count",
        "thoughtsTokenCount",
        "total_token_count",
        "totalTokenCount",
    }
)
_PROVIDERS: Final = frozenset({"gcp.gemini", "gcp.vertex_ai", "gcp.gen_ai", "gemini", "google", "vertex_ai"})


def is_gemini(report: Mapping[str, Any]) -> bool:
    """Return whether a report has names that only Gemini uses."""
    return not _SIGNS.isdisjoint(report)


def is_of_google(provider: str | None, model: Any) -> bool:
    """Return whether a Gemini model made a response. Its output count has no thoughts, on OpenAI's protocol too."""
    return provider in _PROVIDERS or (isinstance(model, str) and model.rpartition("/")[2].startswith("gemini-"))


def read(report: Mapping[str, Any]) -> Counts:
    """Return the counts of a report, with its tokens by modality."""
    snake_case = _in_snake_case(report)
    counts = Counts()
    counts.read(snake_case, _NAMES)
    for name, modalities in _MODALITIES.items():
        details = snake_case.get(name)
        if isinstance(details, list | tuple):
            for entry in details:
                entry = _in_snake_case(members(entry))
                modality = getattr(entry.get("modality"), "value", entry.get("modality"))
                counts.add(modalities.get(str(modality).upper(), IGNORED), entry.get("token_count"))
    if USAGE_REASONING in counts.parts and not counts.parts.keys() >= {INPUT, TOTAL}:
        counts.add(OUTPUT, counts.parts[USAGE_REASONING])  # otherwise `Counts` compares the sums with the total
    return counts


def _in_snake_case(report: Mapping[str, Any]) -> dict[str, Any]:
    return {_snake_case(name): value for name, value in report.items()}


@lru_cache(maxsize=1_024)
def _snake_case(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)
