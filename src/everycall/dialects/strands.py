"""Strands Agents: the GenAI conventions with content in span events, in the shape of Bedrock's messages."""

from __future__ import annotations

from everycall import semconv
from everycall.dialects import gen_ai
from everycall.dialects.messages import answer_text
from everycall.dialects.reading import Reading, Source
from everycall.dialects.values import first, unwrap

__all__ = ["read"]


def read(source: Source) -> Reading | None:
    """Read a span of Strands' tracer. The time to the first token is in milliseconds; the provider is "strands"."""
    if not source.span.scope.name.startswith("strands"):
        return None
    reading = gen_ai.read(source)
    if reading is None:
        return None
    reading.dialect = "strands"
    milliseconds = source.number("gen_ai.server.time_to_first_token")
    reading.time_to_first_token = milliseconds / 1_000 if milliseconds is not None else None
    if reading.kind == semconv.TOOL:
        _tool(source, reading)
    elif reading.kind in (semconv.AGENT, semconv.CHAIN) and isinstance(reading.output, list):
        reading.output = first(answer_text(reading.output), reading.output)
    return reading


def _tool(source: Source, reading: Reading) -> None:
    for event in source.span.events:
        if event.name == "gen_ai.tool.message":
            reading.inputs = unwrap(event.attributes.get("content"))
        elif event.name == "gen_ai.choice":
            message = unwrap(event.attributes.get("message"))
            parts = message if isinstance(message, list) else []
            texts = [part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str)]
            reading.output = "".join(texts) if texts and len(texts) == len(parts) else message
    reading.messages = reading.answer = None
