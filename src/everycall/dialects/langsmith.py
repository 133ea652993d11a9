"""LangSmith's OpenTelemetry export: `langsmith.*`, with requests in `gen_ai.prompt`, answers in `gen_ai.completion`."""

from __future__ import annotations

import re
from typing import Any, Final

from everycall import semconv
from everycall.dialects import gen_ai
from everycall.dialects.kinds import kind_of
from everycall.dialects.messages import chat_answer, chat_messages, tool_definitions
from everycall.dialects.providers import provider_name
from everycall.dialects.reading import Reading, Source
from everycall.dialects.values import count, first, number, python_literal, strings, text, unwrap, without_empty

__all__ = ["read"]

_METADATA: Final = "langsmith.metadata."
_NOT_PARAMS: Final = frozenset({"model", "messages", "input", "tools", "tool_choice", "stream_options", "instructions"})
_ABOUT_MODEL: Final = ("ls_", "lc_", "LANGSMITH_", "LANGCHAIN_")
_TRACEBACK_ERROR: Final = re.compile(
    r"^([A-Za-z_][\w.]*(?:Error|Exception|Interrupt|Exit|Warning)): ?(.*)$", re.MULTILINE
)
_REPR_ERROR: Final = re.compile(r"^([A-Za-z_]\w*)\((['\"])(.*?)\2,?\)", re.DOTALL)


def read(source: Source) -> Reading | None:
    """Read a span of LangSmith's."""
    if not source.has("langsmith.") and source.span.scope.name != "langsmith":
        return None
    reading = Reading(dialect="langsmith")
    reading.kind = kind_of(source.text("langsmith.span.kind"))  # before the operation: a prompt's is "chat"
    reading.name = source.text("langsmith.trace.name")
    metadata = {name: unwrap(value) for name, value in source.below(_METADATA).items()}
    usage_metadata = metadata.pop("usage_metadata", None)
    reading.session_id = next(
        (value for key in ("session_id", "thread_id", "conversation_id") if (value := text(metadata.pop(key, None)))),
        None,
    )
    reading.user_id = text(metadata.pop("user_id", None))
    reading.provider = first(provider_name(source.value("gen_ai.system")), provider_name(metadata.get("ls_provider")))
    remaining = {k: v for k, v in metadata.items() if not k.startswith(("LANGSMITH_", "LANGCHAIN_"))}
    if reading.kind == semconv.LLM:
        reading.request_model = first(source.text("gen_ai.request.model"), text(metadata.get("ls_model_name")))
        invocation = unwrap(metadata.get("ls_invocation_params"))
        reading.params = without_empty(
            {
                "temperature": metadata.get("ls_temperature"),
                "max_tokens": metadata.get("ls_max_tokens"),
                **(invocation if isinstance(invocation, dict) else {}),
            }
        )
        reading.response_model = source.text("gen_ai.response.model")
        reading.response_id = source.text("gen_ai.response.id")
        reading.finish_reasons = strings(source.value("gen_ai.response.finish_reasons")) or None
        reading.service_tier = source.text("gen_ai.response.service_tier")
        _model_call(source, reading, usage_metadata)
    else:
        reading.inputs, reading.output = source.value("gen_ai.prompt"), _output(source.value("gen_ai.completion"))
        reading.unknown = frozenset({"provider", "request_model"})
    reading.metadata = {k: v for k, v in remaining.items() if not k.startswith(_ABOUT_MODEL)} or None
    tags = strings(source.value("langsmith.span.tags"))
    reading.tags = sorted(tag for tag in tags if not tag.startswith("seq:step:")) or None
    _error(source, reading)
    return reading


def _model_call(source: Source, reading: Reading, usage: Any) -> None:
    request, response = source.value("gen_ai.prompt"), source.value("gen_ai.completion")
    reading.messages = chat_messages(request)
    if isinstance(request, dict):
        body = {k: v for k, v in request.items() if k not in _NOT_PARAMS}
        reading.params = {**(reading.params or {}), **without_empty(body)}
        reading.tools = tool_definitions(first(source.value("gen_ai.tool.definitions"), request.get("tools")))
        reading.tool_choice = request.get("tool_choice")
    if response != {"output": None}:
        reading.answer = chat_answer(response)
        if isinstance(response, dict):
            _langchain_answer(response, reading)
    gen_ai.token_counts(source, reading)
    details = usage if isinstance(usage, dict) else {}
    input_details = first(
        details.get("input_token_details"), python_literal(source.value("gen_ai.usage.input_token_details"))
    )
    output_details = first(
        details.get("output_token_details"), python_literal(source.value("gen_ai.usage.output_token_details"))
    )
    parts = {
        semconv.USAGE_CACHED: (input_details, "cache_read"),
        semconv.USAGE_CACHE_WRITE: (input_details, "cache_creation"),
        semconv.USAGE_REASONING: (output_details, "reasoning"),
    }
    counts = {
        part: n
        for part, (group, key) in parts.items()
        if isinstance(group, dict) and (n := count(group.get(key))) is not None
    }
    reading.usage = {**counts, **(reading.usage or {})} or None
    reading.input_tokens = first(reading.input_tokens, count(details.get("input_tokens")))
    reading.output_tokens = first(reading.output_tokens, count(details.get("output_tokens")))
    reading.cost = number(details.get("total_cost")) or None


def _langchain_answer(response: dict[str, Any], reading: Reading) -> None:
    """Read the answer's model and id from LangChain's result, if no attribute has them."""
    entries = response.get("generations")
    while isinstance(entries, list) and entries:
        entries = entries[0]
    message = entries.get("message") if isinstance(entries, dict) else None
    fields = message.get("kwargs") if isinstance(message, dict) and isinstance(message.get("kwargs"), dict) else None
    about = fields.get("response_metadata") if isinstance(fields, dict) else None
    if isinstance(about, dict):
        reading.response_model = first(reading.response_model, text(about.get("model_name")), text(about.get("model")))
        reading.response_id = first(reading.response_id, text(about.get("id")))
        reading.finish_reasons = reading.finish_reasons or strings([about.get("finish_reason")]) or None


def _output(value: Any) -> Any:
    return value["output"] if isinstance(value, dict) and set(value) == {"output"} else value


def _error(source: Source, reading: Reading) -> None:
    """Read the error from an event whose message is the exception's repr followed by its traceback."""
    for event in source.span.events:
        message = event.attributes.get("exception.message")
        if event.name != "exception" or not isinstance(message, str):
            continue
        lines = list(_TRACEBACK_ERROR.finditer(message))
        if lines:
            reading.error_type, reading.error = lines[-1].group(1), lines[-1].group(2) or None
        elif (match := _REPR_ERROR.match(message)) is not None:
            reading.error_type, reading.error = match.group(1), match.group(3)
