"""Frameworks that add little to the GenAI conventions: Google's ADK, AutoGen, Microsoft's agent framework, Haystack,
and the client of Anthropic, which traces itself."""

from __future__ import annotations

from typing import Any, Final

from everycall import semconv
from everycall.dialects import gen_ai
from everycall.dialects.messages import chat_answer, chat_messages
from everycall.dialects.reading import Reading, Source
from everycall.dialects.reports import read_report
from everycall.dialects.values import first, items, strings, text

__all__ = ["read_adk", "read_anthropic", "read_haystack", "read_microsoft"]

_ADK: Final = "gcp.vertex.agent."


def read_adk(source: Source) -> Reading | None:
    """Read a span of Google's Agent Development Kit; older versions have requests and answers under its own names."""
    if source.span.scope.name != "gcp.vertex.agent" and not source.has(_ADK):
        return None
    reading = gen_ai.read(source) or Reading()
    reading.dialect = "google-adk"
    reading.session_id = first(reading.session_id, source.text(_ADK + "session_id"))
    request, response = source.value(_ADK + "llm_request"), source.value(_ADK + "llm_response")
    if reading.kind is None and request is not None:
        reading.kind = semconv.LLM
    if reading.kind == semconv.LLM:
        if reading.messages is None and isinstance(request, dict):
            settings = request.get("config")
            instruction = settings.get("system_instruction") if isinstance(settings, dict) else None
            reading.messages = chat_messages({"system_instruction": instruction, **request})
        if reading.answer is None:
            reading.answer = chat_answer(response)
        if isinstance(response, dict):
            read_report(reading, response.get("usage_metadata"))
    elif reading.kind == semconv.TOOL:
        reading.inputs = first(reading.inputs, source.value(_ADK + "tool_call_args"))
        reading.output = first(reading.output, source.value(_ADK + "tool_response"))
    return reading


def read_microsoft(source: Source) -> Reading | None:
    """Read a span of AutoGen or of Microsoft's agent framework."""
    scope = source.span.scope.name
    if not scope.startswith(("autogen", "agent_framework", "Microsoft.Agents", "Experimental.Microsoft.Extensions.AI")):
        return None
    reading = gen_ai.read(source) or Reading()
    reading.dialect = "autogen" if scope.startswith("autogen") else "microsoft-agent-framework"
    return reading


def read_haystack(source: Source) -> Reading | None:
    """Read a span of Haystack's own tracer."""
    if not source.has("haystack."):
        return None
    reading = Reading(dialect="haystack")
    component = source.text("haystack.component.type") or ""
    reading.kind = semconv.CHAIN
    for word, kind in (("Generator", semconv.LLM), ("Embedder", semconv.EMBEDDING), ("Retriever", semconv.RETRIEVER)):
        if word in component:
            reading.kind = kind
    reading.name = source.text("haystack.component.name")
    reading.request_model = source.text("haystack.model")
    input_value = source.value("haystack.component.input", "haystack.pipeline.input_data")
    output_value = source.value("haystack.component.output", "haystack.pipeline.output_data")
    if reading.kind == semconv.LLM:
        reading.messages, reading.answer = chat_messages(input_value), chat_answer(output_value)
        _haystack_report(reading, output_value)
    if reading.messages is None:
        reading.inputs = input_value
    if reading.answer is None:
        reading.output = output_value
    return reading


def _haystack_report(reading: Reading, output_value: Any) -> None:
    """Read the metadata of the first reply. Text generators have a list of metadata beside the replies."""
    output_value = output_value if isinstance(output_value, dict) else {}
    reply = next(iter(items(output_value.get("replies"))), None)
    about = reply.get("meta") if isinstance(reply, dict) else next(iter(items(output_value.get("meta"))), None)
    if isinstance(about, dict):
        reading.response_model = text(about.get("model"))
        reading.finish_reasons = strings([about.get("finish_reason")]) or None
        read_report(reading, about.get("usage"))


def read_anthropic(source: Source) -> Reading | None:
    """Read a span that Anthropic's client makes itself, from version 2."""
    if source.span.scope.name != "com.anthropic.sdk.python":
        return None
    reading = gen_ai.read(source)
    if reading is None:
        return None
    reading.dialect = "anthropic"
    stop = source.text("anthropic.message.stop_reason")
    if reading.finish_reasons is None and stop is not None:
        reading.finish_reasons = [stop]
    return reading
