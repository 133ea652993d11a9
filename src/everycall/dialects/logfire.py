"""Logfire: the GenAI conventions with lists as JSON strings, readable names in `logfire.msg`, streams in two spans."""

from __future__ import annotations

from typing import Any, Final

from everycall import semconv
from everycall.dialects import gen_ai
from everycall.dialects.reading import Reading, Source
from everycall.dialects.values import count, first, strings, text

__all__ = ["read"]

_OWN: Final = frozenset(
    {
        *("logfire.msg", "logfire.msg_template", "logfire.json_schema", "logfire.span_type", "logfire.level_num"),
        *("logfire.tags", "logfire.scrubbed", "logfire.exception.fingerprint", "logfire.pending_parent_id"),
        *("code.filepath", "code.function", "code.lineno", "code.file.path", "code.function.name", "code.line.number"),
        *("request_data", "response_data", "async", "duration", "return", "user_id", "session_id", "operation.cost"),
    }
)
_SCRUBBED: Final = "[Scrubbed due to"


def read(source: Source) -> Reading | None:
    """Read a span of Logfire's, or one to which its SDK added attributes."""
    if not source.has("logfire.") and not source.span.scope.name.startswith("logfire"):
        return None
    is_model_call = source.peek("gen_ai.request.model") is not None
    reading = (gen_ai.read(source) if is_model_call else None) or Reading()
    reading.dialect = "logfire"
    reading.name = source.text("logfire.msg")
    reading.name_is_content = (reading.name is not None and reading.name != source.span.name) or None
    reading.tags = [tag for tag in strings(source.value("logfire.tags")) if tag != "LLM"] or None
    reading.user_id = first(reading.user_id, source.text("user_id"))
    reading.session_id = first(reading.session_id, _unscrubbed(source))
    if not is_model_call:
        _step(source, reading)
        return reading
    reading.cost = source.number("operation.cost") or None
    report = source.value("gen_ai.usage.raw")
    report = report if isinstance(report, dict) else {}
    details = first(report.get("completion_tokens_details"), report.get("output_tokens_details"))
    reasoning = count(details.get("reasoning_tokens")) if isinstance(details, dict) else None
    if reasoning is not None:
        reading.usage = {semconv.USAGE_REASONING: reasoning, **(reading.usage or {})}
    _stream_halves(source, reading)
    return reading


def _unscrubbed(source: Source) -> str | None:
    session = text(source.peek("session_id"))
    if session is None or session.startswith(_SCRUBBED):
        return None
    source.read.add("session_id")
    return session


def _step(source: Source, reading: Reading) -> None:
    """Read a span of the user's own: its attributes are the arguments of the function or message."""
    if source.text("logfire.span_type") == "log":
        reading.kind = None
    else:
        reading.kind = semconv.CHAIN
    arguments: dict[str, Any] = {}
    if not source.has("gen_ai.") and not source.has("http."):
        arguments = {n: value for n, value in source.attributes.items() if n not in _OWN and "." not in n}
    reading.inputs = arguments or None
    reading.output = source.value("return")
    source.read.update(arguments)


def _stream_halves(source: Source, reading: Reading) -> None:
    """Set what joins the two spans of a stream: the request, and the log with the answer that follows it.

    They share only their scope, model and messages. The request's span ended at the log's start minus its `duration`.
    """
    input_messages = source.peek("gen_ai.input.messages")
    if not isinstance(input_messages, str):
        return
    key = f"{source.span.scope.name} {source.peek('gen_ai.request.model')} {input_messages}"
    if source.peek("logfire.span_type") == "log":
        reading.half, reading.half_is_answer = key, True
        reading.name = reading.name_is_content = None
    elif reading.answer is None and reading.response_id is None and source.span.status_code != 2:
        reading.half = key
