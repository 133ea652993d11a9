"""Langfuse's SDK, versions 4 and 5: `langfuse.observation.*`, `langfuse.trace.*`."""

from __future__ import annotations

from typing import Any, Final

from everycall import semconv
from everycall.dialects.kinds import kind_of
from everycall.dialects.messages import chat_answer, chat_messages, tool_definitions
from everycall.dialects.providers import provider_name
from everycall.dialects.reading import Reading, Source
from everycall.dialects.reports import read_report
from everycall.dialects.values import count, number, strings, text, unwrap, without_empty

__all__ = ["read"]

_OBSERVATION: Final = "langfuse.observation."
_INVENTED: Final = {
    "temperature": 1,
    "max_tokens": "Infinity",
    "top_p": 1,
    "frequency_penalty": 0,
    "presence_penalty": 0,
}
"""What its OpenAI drop-in writes for parameters that were not given."""
_BUCKETS: Final = {
    "input_cache_read": semconv.USAGE_CACHED,
    "input_cached_tokens": semconv.USAGE_CACHED,
    "cache_read_input_tokens": semconv.USAGE_CACHED,
    "input_cache_creation": semconv.USAGE_CACHE_WRITE,
    "cache_creation_input_tokens": semconv.USAGE_CACHE_WRITE,
    "input_audio": semconv.USAGE_INPUT_AUDIO,
    "input_audio_tokens": semconv.USAGE_INPUT_AUDIO,
    "output_reasoning": semconv.USAGE_REASONING,
    "output_reasoning_tokens": semconv.USAGE_REASONING,
    "output_audio": semconv.USAGE_OUTPUT_AUDIO,
    "output_audio_tokens": semconv.USAGE_OUTPUT_AUDIO,
}
_KEPT_ZERO: Final = frozenset({semconv.USAGE_CACHED, semconv.USAGE_REASONING, semconv.USAGE_CACHE_WRITE})


def read(source: Source) -> Reading | None:
    """Read a span of Langfuse's SDK."""
    if not source.has("langfuse."):
        return None
    reading = Reading(dialect="langfuse")
    reading.kind = kind_of(source.text("langfuse.observation.type"))
    reading.trace_name = source.text("langfuse.trace.name")
    reading.session_id = source.text("session.id", "langfuse.session.id")
    reading.user_id = source.text("user.id", "langfuse.user.id")
    reading.tags = strings(source.value("langfuse.trace.tags", "langfuse.tags")) or None
    reading.metadata = {
        **_metadata(source, "langfuse.trace.metadata"),
        **_metadata(source, "langfuse.observation.metadata"),
    } or None
    metadata = reading.metadata or {}
    reading.provider = provider_name(metadata.get("ls_provider"))
    if reading.session_id is None:
        reading.session_id = text(metadata.get("session_id"))
    if reading.user_id is None:
        reading.user_id = text(metadata.get("user_id"))
    reading.response_model = source.text("langfuse.observation.model.name")
    reading.request_model = text(metadata.get("ls_model_name"))
    reading.target = source.value("langfuse.experiment.item.expected_output")
    reading.deployment = source.text("langfuse.observation.prompt.name", "langfuse.prompt.name")
    _params(source, reading)
    _content(source, reading)
    if reading.kind in semconv.PRICED_KINDS:
        _tokens(reading, source.value("langfuse.observation.usage_details"))
        reading.cost = _cost(source.value("langfuse.observation.cost_details"))
    reading.failed = source.text("langfuse.observation.level") == "ERROR" or None
    if reading.failed:
        reading.error = source.text("langfuse.observation.status_message")
    reading.time_to_first_token = _first_token(source)
    return reading


def _metadata(source: Source, prefix: str) -> dict[str, Any]:
    """Return metadata by name; version 5 encodes each value as JSON, version 4 does not."""
    whole = source.value(prefix)
    members = {name: unwrap(value) for name, value in source.below(prefix + ".").items()}
    return {**(whole if isinstance(whole, dict) else {}), **members}


def _params(source: Source, reading: Reading) -> None:
    params = source.value("langfuse.observation.model.parameters")
    if not isinstance(params, dict):
        return
    explicit = {k: v for k, v in params.items() if not (k in _INVENTED and v == _INVENTED[k])}
    tier = explicit.pop("service_tier", None)
    if isinstance(tier, str):
        reading.service_tier = tier
    reading.params = without_empty(explicit) or None
    if len(explicit) != len(params):
        source.read.discard("langfuse.observation.model.parameters")


def _content(source: Source, reading: Reading) -> None:
    input_value, output_value = source.value("langfuse.observation.input"), source.value("langfuse.observation.output")
    if reading.kind != semconv.LLM:
        reading.inputs, reading.output = input_value, output_value
        if reading.kind == semconv.TOOL and isinstance(output_value, dict) and "tool_call_id" in output_value:
            reading.output = output_value.get("content")
        return
    if isinstance(input_value, dict) and "tools" in input_value:
        reading.tools = tool_definitions(input_value["tools"])
    if isinstance(input_value, list):  # its LangChain handler puts tools among the messages
        tools = [entry["content"] for entry in input_value if _is_tool(entry)]
        input_value = [entry for entry in input_value if not _is_tool(entry)]
        reading.tools = tool_definitions(tools)
    reading.messages = chat_messages(input_value)
    reading.answer = chat_answer(output_value)
    if reading.messages is None:
        reading.inputs = input_value
    if reading.answer is None:
        reading.output = output_value


def _is_tool(entry: Any) -> bool:
    content = entry.get("content") if isinstance(entry, dict) else None
    return isinstance(content, dict) and content.get("type") == "function" and "function" in content


def _tokens(reading: Reading, details: Any) -> None:
    """Read token counts, which have one of three shapes.

    The OpenAI drop-in passes on the provider's report. The LangChain handler, and users who set counts themselves,
    write buckets that exclude each other. If `total` is the sum of `input` and `output`, these two include the others.
    """
    if not isinstance(details, dict):
        return
    if not {"input", "output"} & details.keys():
        read_report(reading, details)
        return
    parts: dict[str, int] = {}
    sums = {"input": count(details.get("input")), "output": count(details.get("output"))}
    total = count(details.get("total"))
    is_inclusive = total is not None and total == sum(side or 0 for side in sums.values())
    for name, value in details.items():
        tokens = count(value)
        side = _side(name)
        if tokens is None or side is None:
            continue
        part = str(_BUCKETS.get(name, name))
        if tokens or part in _KEPT_ZERO:
            parts[part] = tokens
        if not is_inclusive:
            sums[side] = (sums[side] or 0) + tokens
    reading.input_tokens, reading.output_tokens = sums["input"], sums["output"]
    reading.total_tokens = total
    reading.usage = parts or None


def _side(name: str) -> str | None:
    """Return the side of the call that a bucket belongs to, by the rule of Langfuse's server; None for the sums."""
    if name in ("input", "output", "total"):
        return None
    return next((side for side in ("input", "output") if side in name), None)


def _cost(details: Any) -> float | None:
    """Return the cost that the sender reports, or None. It writes 0 for an unknown cost."""
    if not isinstance(details, dict):
        return None
    total = number(details.get("total"))
    if total is None:
        parts = [part for value in details.values() if (part := number(value)) is not None]
        total = sum(parts) if parts else None
    return total or None


def _first_token(source: Source) -> float | None:
    """Return the seconds until the first token arrived."""
    from datetime import UTC, datetime

    timestamp = source.text("langfuse.observation.completion_start_time")
    if timestamp is None or not source.span.start:
        return None
    try:
        at = datetime.fromisoformat(timestamp)
    except ValueError:
        return None
    if at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    seconds = at.timestamp() - source.span.start / 1e9
    return seconds if seconds >= 0 else None
