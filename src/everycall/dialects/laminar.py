"""Laminar (lmnr): `lmnr.*`, with messages in the providers' own shapes under the conventions' names."""

from __future__ import annotations

from everycall import semconv
from everycall.dialects import gen_ai
from everycall.dialects.kinds import kind_of
from everycall.dialects.reading import Reading, Source
from everycall.dialects.values import strings, text, unwrap

__all__ = ["read"]

_PROPERTIES = "lmnr.association.properties."


def read(source: Source) -> Reading | None:
    """Read a span of Laminar's tracer. Its type for embeddings is "LLM" too, so the span's name decides."""
    if not source.has("lmnr."):
        return None
    kind = kind_of(source.text("lmnr.span.type"))
    reading = gen_ai.read(source) if kind == semconv.LLM else None
    reading = reading or Reading()
    reading.dialect = "laminar"
    reading.kind = semconv.EMBEDDING if kind == semconv.LLM and source.span.name.endswith("embeddings") else kind
    if reading.kind == semconv.EMBEDDING:
        texts = [message["content"] for message in reading.messages or [] if "content" in message]
        reading.inputs, reading.messages = texts[0] if len(texts) == 1 else texts or None, None
        reading.output_tokens = None
    elif reading.kind != semconv.LLM:
        reading.inputs, reading.output = source.value("lmnr.span.input"), source.value("lmnr.span.output")
    members = {name: unwrap(value) for name, value in source.below(_PROPERTIES).items()}
    reading.user_id = text(members.get("user_id"))
    reading.session_id = text(members.get("session_id"))
    reading.tags = strings(members.get("tags")) or None
    metadata = {
        name.removeprefix("metadata."): value for name, value in members.items() if name.startswith("metadata.")
    }
    reading.metadata = metadata or None
    return reading
