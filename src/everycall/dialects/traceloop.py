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
    elif kind is not None:  # the operation of LangChain's chains is "invoke_agent" too
        reading.kind = kind_of(kind)
    reading.name = source.text("traceloop.entity.name")
    reading.trace_name = source.text("traceloop.workflow.name")
    properties = {name: unwrap(value) for name, value in source.below(_PROPERTIES).items()}
    reading.user_id = text(properties.pop("user_id", None))
    reading.session_id = first(text(properties.pop("session_id", None)), text(properties.pop("thread_id", None)))
    reading.metadata = properties or None
    input_value, output_value = source.value("traceloop.entity.input"), source.value("traceloop.entity.output")
    source.read.update(name for name in ("gen_ai.task.input", "gen_ai.task.output") if name in source.attributes)
    reading.inputs, reading.output = _argument(input_value), _result(output_value)
    if reading.kind == semconv.TOOL:
        source.read.update(
            name for name in ("gen_ai.tool.call.arguments", "gen_ai.tool.call.result") if name in source.attributes
        )
        reading.inputs = first(reading.inputs, _argument(unwrap(source.peek("gen_ai.tool.call.arguments"))))
        reading.output = first(reading.output, _result(unwrap(source.peek("gen_ai.tool.call.result"))))
    elif reading.kind == semconv.RETRIEVER and isinstance(reading.output, dict) and "documents" in reading.output:
        reading.output = reading.output["documents"]
    if isinstance(input_value, dict) and isinstance(input_value.get("tags"), list):
        tags = [tag for tag in input_value["tags"] if isinstance(tag, str) and not tag.startswith("seq:step:")]
        reading.tags = tags or None
    reading.variables = source.value("traceloop.prompt.template_variables")
    reading.deployment = source.text("traceloop.prompt.key")
    return reading


def _argument(value: Any) -> Any:
    """Return the inputs, without the tags and metadata that LangChain's callbacks wrap them in."""
    if isinstance(value, dict):
        for name in ("inputs", "query"):
            if name in value and "kwargs" in value:
                return value[name]
    return value


def _result(value: Any) -> Any:
    """Return the output without its wrapping: the content of a tool message."""
    if isinstance(value, dict):
        for name in ("outputs", "output"):
            if name in value and set(value) <= {name, "kwargs", "tags"}:
                value = value[name]
                break
    if isinstance(value, dict) and value.get("lc") and isinstance(value.get("kwargs"), dict):
        return first(value["kwargs"].get("content"), value["kwargs"])
    return value
