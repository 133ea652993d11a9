"""OpenLIT: the GenAI conventions, with made-up values for parameters and counts that it does not know."""

from __future__ import annotations

from typing import Final

from everycall import semconv
from everycall.dialects import gen_ai
from everycall.dialects.reading import Reading, Source

__all__ = ["read"]

_INVENTED: Final = {
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 1.0,
    "seed": 0,
    "frequency_penalty": 0.0,
    "presence_penalty": 0.0,
    "max_tokens": -1,
}
"""The values that it writes for parameters that the caller did not set."""


def read(source: Source) -> Reading | None:
    """Read a span of OpenLIT's.

    Anthropic's input tokens exclude cached ones. The numbers do not show that, so the scope decides. A cost of 0 means
    a model without a price, and only a stream has a time to the first token.
    """
    scope = source.span.scope.name
    if not scope.startswith("openlit"):
        return None
    reading = gen_ai.read(source) or Reading()
    reading.dialect = "openlit"
    if reading.kind is None and source.span.name.startswith("chat "):  # Anthropic's errors have no attribute at all
        reading.kind, reading.request_model = semconv.LLM, source.span.name.removeprefix("chat ") or None
        if scope.endswith(".anthropic"):
            reading.provider = "anthropic"
    params = {k: v for k, v in (reading.params or {}).items() if not (k in _INVENTED and v == _INVENTED[k])}
    source.read -= {f"gen_ai.request.{name}" for name in (reading.params or {}) if name not in params}
    reading.params = params or None
    reading.cost = source.number("gen_ai.usage.cost") or None
    if reading.response_id is not None:  # the log records of a stream name no span, only the answer
        reading.half = f"response {scope} {reading.response_id}"
    is_stream = source.peek("gen_ai.request.stream") is True
    if is_stream:
        reading.time_to_first_token = source.number("gen_ai.server.time_to_first_token")
    if scope.endswith(".anthropic"):
        _add_cached(reading, is_stream)
    elif is_stream and semconv.USAGE_CACHED not in (reading.usage or {}):  # no usage was reported: it counted words
        reading.input_tokens = reading.output_tokens = reading.total_tokens = None
        guesses = {"input_tokens", "output_tokens", "total_tokens"}
        source.read.difference_update(f"gen_ai.usage.{name}" for name in guesses)
        reading.unknown |= guesses
    if reading.cost is None:
        reading.unknown |= {"cost"}
    return reading


def _add_cached(reading: Reading, is_stream: bool) -> None:
    parts = reading.usage or {}
    cached = parts.get(semconv.USAGE_CACHED, 0) + parts.get(semconv.USAGE_CACHE_WRITE, 0)
    if reading.input_tokens is not None and cached <= reading.input_tokens:  # else `gen_ai` has added them
        reading.input_tokens += cached
    if is_stream and not cached:  # it loses the cached tokens of streams, so the sum is unknown
        missing = (semconv.USAGE_CACHED, semconv.USAGE_CACHE_WRITE)
        reading.usage = {part: tokens for part, tokens in parts.items() if part not in missing} or None
        reading.input_tokens = None
        reading.unknown |= {"input_tokens", "total_tokens", "usage"}
    reading.total_tokens = None
