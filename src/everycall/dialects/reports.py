"""Usage reports in a provider's own shape, which some senders pass on. Read by `everycall.usage`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from everycall.dialects.reading import Reading
from everycall.usage import usage_fields

__all__ = ["include_cached", "read_report"]

_CACHED = ("cached", "cache_write")


def read_report(reading: Reading, report: Any) -> None:
    """Fill the counts that a reading lacks from a provider's usage report (OpenAI, Anthropic, Gemini and others)."""
    if not isinstance(report, Mapping):
        return
    fields = usage_fields(report)
    for name in ("input_tokens", "output_tokens", "total_tokens"):
        if getattr(reading, name) is None:
            setattr(reading, name, fields.get(name))
    reading.usage = {**fields.get("usage", {}), **(reading.usage or {})} or None


def include_cached(reading: Reading) -> None:
    """Add the cached tokens to the input tokens if these exclude them: if there are more cached than input tokens."""
    cached = sum((reading.usage or {}).get(part, 0) for part in _CACHED)
    if reading.input_tokens is not None and cached > reading.input_tokens:
        reading.input_tokens += cached
