"""`Counts`: what a provider's reader collects from one report, and how that becomes the fields of a record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from everycall._usage.reports import members
from everycall.semconv import (
    USAGE_CACHE_WRITE,
    USAGE_CACHE_WRITE_1H,
    USAGE_CACHED,
    USAGE_REASONING,
    USAGE_TOOL_USE_PROMPT,
    USAGE_UNPRICED,
)

__all__ = ["CACHE_WRITE_5M", "IGNORED", "INPUT", "OUTPUT", "TOTAL", "Counts", "Names"]

Names = Mapping[str, str]
"""A provider's names of counts, each with ours."""

INPUT: Final = "input"
OUTPUT: Final = "output"
TOTAL: Final = "total"
CACHE_WRITE_5M: Final = "5m"
"""Tokens written to a cache for five minutes. Together with those for an hour they are `cache_write`."""
IGNORED: Final = ""
"""Our name of a count that is not kept separately, such as the text among the input tokens."""

_COUNT_MAX: Final = 2**50
"""Larger counts are ignored, so that a sum of several still fits into a record."""
_BESIDE_THE_TOTAL: Final = frozenset({"citation_tokens", "reasoning_tokens"})
"""Perplexity bills these counts on top of the sums, and leaves them out of its total."""


class Counts:
    """The token counts of one report, under our names.

    `parts` has the sums (`INPUT`, `OUTPUT`, `TOTAL`) and their parts. `unknown` has counts with unknown names.
    `cache_beside_input`: the input excludes the tokens read from and written to the cache. `names_are_whole`: counts
    with unknown names are parts of the sums. `rest_is_reasoning`: tokens that only the total includes are reasoning.
    """

    __slots__ = ("cache_beside_input", "names_are_whole", "parts", "rest_is_reasoning", "unknown")

    def __init__(self, *, cache_beside_input: bool = False, names_are_whole: bool = False) -> None:
        self.parts: dict[str, int] = {}
        self.unknown: dict[str, int] = {}
        self.cache_beside_input = cache_beside_input
        self.names_are_whole = names_are_whole
        self.rest_is_reasoning = False

    def read(self, report: Mapping[str, Any], names: Names) -> None:
        """Read the counts of a report. Token counts of unknown names become `unknown`."""
        for name, value in report.items():
            number = _count(value)
            if number is None:
                continue
            ours = names.get(name)
            if ours:
                self.parts.setdefault(ours, number)
            elif ours is None and number and isinstance(name, str) and "token" in name.lower():
                self.unknown[name] = number

    def read_details(self, details: Any, names: Names) -> None:
        """Read an object of details. A count of an unknown name is a part of the sum and keeps its name."""
        for name, value in members(details).items():
            number = _count(value)
            if number is None:
                continue
            ours = names.get(name)
            if ours is None and number and isinstance(name, str):
                ours = name
            if ours:
                self.parts.setdefault(ours, number)

    def add(self, ours: str, value: Any) -> None:
        """Add one count to a part. Anything that is not a count is ignored."""
        number = _count(value)
        if ours and number is not None:
            self.parts[ours] = self.parts.get(ours, 0) + number

    def fields(self) -> dict[str, Any]:
        """Return `input_tokens`, `output_tokens` and `total_tokens` as far as they are known, and `usage`.

        Return an empty dictionary if the report had no count. This removes the sums from `parts`, so call it once.
        """
        parts = self.parts
        if not parts and not self.unknown:
            return {}
        input_tokens, output_tokens, total = (parts.pop(name, None) for name in (INPUT, OUTPUT, TOTAL))
        self._sum_cache_writes()
        if input_tokens is not None:
            cache = (parts.get(USAGE_CACHED) or 0) + (parts.get(USAGE_CACHE_WRITE) or 0)
            if cache > input_tokens and not self.cache_beside_input:
                # A library passed on Anthropic's count under a name that means the whole input elsewhere.
                self.cache_beside_input, total = True, None
            input_tokens += (cache if self.cache_beside_input else 0) + (parts.get(USAGE_TOOL_USE_PROMPT) or 0)
        output_tokens, missing = _whole_output(input_tokens, output_tokens, total, parts.get(USAGE_REASONING))
        if missing and self.rest_is_reasoning and output_tokens is not None and not parts.get(USAGE_REASONING):
            parts[USAGE_REASONING], output_tokens, missing = missing, output_tokens + missing, 0
        sums_are_known = input_tokens is not None and output_tokens is not None
        self._name_unknown(total_matches=total is not None and sums_are_known and not missing)
        if missing:
            parts[f"{USAGE_UNPRICED}not_told"] = missing
        if input_tokens is not None and output_tokens is not None and (total is None or self.cache_beside_input):
            total = input_tokens + output_tokens
        fields = {"input_tokens": input_tokens, "output_tokens": output_tokens, "total_tokens": total, "usage": parts}
        return {name: value for name, value in fields.items() if value is not None}

    def _sum_cache_writes(self) -> None:
        """Set `cache_write` to the sum over its lifetimes, unless the report has that sum."""
        parts = self.parts
        five_minutes, hour = parts.pop(CACHE_WRITE_5M, None), parts.get(USAGE_CACHE_WRITE_1H)
        if five_minutes is not None or hour is not None:
            parts[USAGE_CACHE_WRITE] = parts.get(USAGE_CACHE_WRITE) or (five_minutes or 0) + (hour or 0)

    def _name_unknown(self, *, total_matches: bool) -> None:
        """Add each unknown count to the parts, as unpriced unless the sums are known to include it."""
        for name, number in self.unknown.items():
            in_the_sums = self.names_are_whole or (total_matches and name not in _BESIDE_THE_TOTAL)
            self.parts[name if in_the_sums else f"{USAGE_UNPRICED}{name}"] = number


def _whole_output(
    input_tokens: int | None, output_tokens: int | None, total: int | None, reasoning: int | None
) -> tuple[int | None, int]:
    """Return the output including its reasoning, and how many tokens of the total are in neither sum.

    Gemini and xAI count reasoning beside the output, which their totals show. Gemini leaves out a count of 0.
    """
    if total is None or input_tokens is None or total < input_tokens:
        return output_tokens, 0
    if output_tokens is None:
        return total - input_tokens, 0
    missing = total - input_tokens - output_tokens
    if missing > 0 and missing == reasoning:
        return output_tokens + missing, 0
    return output_tokens, max(missing, 0)


def _count(value: Any) -> int | None:
    """Return a token count, or None for anything else. A bool is not a count."""
    return value if type(value) is int and 0 <= value <= _COUNT_MAX else None
