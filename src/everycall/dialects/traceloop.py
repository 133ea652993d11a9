"""Traceloop's OpenLLMetry: `traceloop.*` beside the GenAI conventions."""

from __future__ import annotations

from typing import Any

from everycall import semconv
from everycall.dialects.kinds import kind_of
from everycall.dialects.reading import Reading, Source
from everycall.dialects.values import first, text, unwrap

__all__ = ["read"]

_PROPERTIES = "traceloop.association.properties."


def read(source: Source) -> Reading | None:
    """Read a span that has any attribute of Traceloop's."""
    if not source.has("traceloop."):
        return None
    reading = Reading(dialect="traceloop")
    operation = source.peek("gen_ai.operation.name")
    kind = source.text("traceloop.span.kind")
    if kind == "tool" or operation == "execute_tool":
        reading.kind = semconv.TOOL
    elif operation == "vector_db_retrieve":
        reading.kind = semconv.RETRIEVER
    elif kind is not None:  # LangChain's chains are "invoke_agent" to it
        reading.kind = kind_of(kind)
    reading.name = source.text("traceloop.entity.name")
    reading.trace_name = source.text("traceloop.workflow.name")
    properties = {name: unwrap(value) for name, value in source.below(_PROPERTIES).items()}
    reading.user_id = text(properties.pop("user_id", None))
    reading.session_id = first(text(properties.pop("session_id", None)), text(properties.pop("thread_id", None)))
    reading.metadata = properties or None
    asked, answered = source.value("traceloop.entity.input"), source.value("traceloop.entity.output")
    source.read.update(name for name in ("gen_ai.task.input", "gen_ai.task.output") if name in source.attributes)
    reading.inputs, reading.output = _argument(asked), _result(answered)
    if reading.kind == semconv.TOOL:
        source.read.update(
            name for name in ("gen_ai.tool.call.arguments", "gen_ai.tool.call.result") if name in source.attributes
        )
        reading.inputs = first(reading.inputs, _argument(unwrap(source.peek("gen_ai.tool.call.arguments"))))
        reading.output = first(reading.output, _result(unwrap(source.peek("gen_ai.tool.call.result"))))
    elif reading.kind == semconv.RETRIEVER and isinstance(reading.output, dict) and "documents" in reading.output:
        reading.output = reading.output["documents"]
    if isinstance(asked, dict) and isinstance(asked.get("tags"), list):
        tags = [tag for tag in asked["tags"] if isinstance(tag, str) and not tag.startswith("seq:step:")]
        reading.tags = tags or None
    reading.variables = source.value("traceloop.prompt.template_variables")
    reading.deployment = source.text("traceloop.prompt.key")
    return reading


def _argument(asked: Any) -> Any:
    """Return what went in: LangChain's callbacks wrap it with tags and metadata."""
    if isinstance(asked, dict):
        for name in ("inputs", "query"):
            if name in asked and "kwargs" in asked:
                return asked[name]
    return asked


def _result(answered: Any) -> Any:
    """Return what came out: of a tool message its content."""
    if isinstance(answered, dict):
        for name in ("outputs", "output"):
            if name in answered and set(answered) <= {name, "kwargs", "tags"}:
                answered = answered[name]
                break
    if isinstance(answered, dict) and answered.get("lc") and isinstance(answered.get("kwargs"), dict):
        return first(answered["kwargs"].get("content"), answered["kwargs"])
    return answered
