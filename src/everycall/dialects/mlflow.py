"""MLflow's tracing: every attribute is JSON; `mlflow.spanInputs` and `mlflow.spanOutputs` hold requests and answers."""

from __future__ import annotations

from typing import Any, Final

from everycall import semconv
from everycall.dialects.kinds import kind_of
from everycall.dialects.messages import chat_answer, chat_messages, tool_definitions
from everycall.dialects.providers import provider_name
from everycall.dialects.reading import Reading, Source
from everycall.dialects.reports import include_cached, read_report
from everycall.dialects.values import count, first, number, strings, text, unwrap, without_empty

__all__ = ["read"]

_NOT_PARAMS: Final = frozenset(
    {"model", "messages", "input", "tools", "tool_choice", "system", "instructions", "contents", "stream_options"}
)
_USAGE: Final = {
    "cache_read_input_tokens": semconv.USAGE_CACHED,
    "cache_creation_input_tokens": semconv.USAGE_CACHE_WRITE,
}


def read(source: Source) -> Reading | None:
    """Read a span of MLflow's."""
    if not source.has("mlflow."):
        return None
    reading = Reading(dialect="mlflow")
    reading.kind = kind_of(source.text("mlflow.spanType")) or semconv.CHAIN
    input_value, output_value = source.value("mlflow.spanInputs"), source.value("mlflow.spanOutputs")
    reading.provider = provider_name(first(source.value("mlflow.llm.provider"), source.value("mlflow.message.format")))
    reading.trace_name = source.text("mlflow.traceName")
    reading.user_id = source.text("mlflow.trace.user")
    reading.session_id = source.text("mlflow.trace.session")
    tags = source.below("mlflow.traceTag.")
    reading.tags = [text(value) or str(value) for value in tags.values()] or None
    reading.metadata = tags or None
    if reading.kind == semconv.LLM:
        _model_call(source, reading, input_value, output_value)
    elif reading.kind == semconv.EMBEDDING:
        body = input_value if isinstance(input_value, dict) else {}
        reading.request_model = text(body.get("model"))
        reading.response_model = text(unwrap(source.value("mlflow.llm.model")))
        reading.inputs = body.get("input", input_value)
        _usage(source, reading, output_value)
    else:
        reading.inputs, reading.output = input_value, output_value
        reading.params = None
    cost = source.value("mlflow.llm.cost")
    total = number(cost.get("total_cost")) if isinstance(cost, dict) else number(cost)
    reading.cost = total or None
    return reading


def _model_call(source: Source, reading: Reading, request: Any, response: Any) -> None:
    body = request if isinstance(request, dict) else {}
    reading.request_model = first(text(body.get("model")), source.text("model"))
    reading.response_model = text(unwrap(source.value("mlflow.llm.model")))
    reading.messages = chat_messages(request)
    reading.params = without_empty({k: v for k, v in body.items() if k not in _NOT_PARAMS and v is not False})
    for name in body:  # each parameter is also a separate attribute
        if name in source.attributes:
            source.read.add(name)
    reading.tools = tool_definitions(first(source.value("mlflow.chat.tools"), body.get("tools")))
    reading.tool_choice = body.get("tool_choice")
    reading.answer = chat_answer(response)
    if isinstance(response, dict):
        reading.response_id = text(response.get("id"))
        choices = [choice for choice in response.get("choices") or () if isinstance(choice, dict)]
        reasons = [choice.get("finish_reason") for choice in choices] or [response.get("stop_reason")]
        reading.finish_reasons = strings(reasons) or None
        reading.response_model = first(reading.response_model, text(response.get("model")))
    _usage(source, reading, response)


def _usage(source: Source, reading: Reading, response: Any) -> None:
    """Read token counts, which are inclusive in `mlflow.chat.tokenUsage`. Reasoning is only in the answer's report."""
    tokens = source.value("mlflow.chat.tokenUsage")
    report = response.get("usage") if isinstance(response, dict) else None
    report = report if isinstance(report, dict) else {}
    if isinstance(tokens, dict):
        reading.input_tokens = count(tokens.get("input_tokens"))
        reading.output_tokens = count(tokens.get("output_tokens")) if reading.kind == semconv.LLM else None
        reading.total_tokens = count(tokens.get("total_tokens"))
        reading.usage = {part: n for key, part in _USAGE.items() if (n := count(tokens.get(key))) is not None}
        include_cached(reading)
    elif report:
        read_report(reading, report)
        reading.output_tokens = reading.output_tokens if reading.kind == semconv.LLM else None
    details = first(report.get("completion_tokens_details"), report.get("output_tokens_details"))
    reasoning = count(details.get("reasoning_tokens")) if isinstance(details, dict) else None
    if reasoning is not None:
        reading.usage = {**(reading.usage or {}), semconv.USAGE_REASONING: reasoning}
    cache_write = count(report.get("cache_creation_input_tokens"))
    if cache_write is not None:
        reading.usage = {semconv.USAGE_CACHE_WRITE: cache_write, **(reading.usage or {})}
    reading.usage = reading.usage or None
