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
    asked, answered = source.value(_ADK + "llm_request"), source.value(_ADK + "llm_response")
    if reading.kind is None and asked is not None:
        reading.kind = semconv.LLM
    if reading.kind == semconv.LLM:
        if reading.messages is None and isinstance(asked, dict):
            settings = asked.get("config")
            instruction = settings.get("system_instruction") if isinstance(settings, dict) else None
            reading.messages = chat_messages({"system_instruction": instruction, **asked})
        if reading.answer is None:
            reading.answer = chat_answer(answered)
        if isinstance(answered, dict):
            read_report(reading, answered.get("usage_metadata"))
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
    asked = source.value("haystack.component.input", "haystack.pipeline.input_data")
    answered = source.value("haystack.component.output", "haystack.pipeline.output_data")
    if reading.kind == semconv.LLM:
        reading.messages, reading.answer = chat_messages(asked), chat_answer(answered)
        _haystack_report(reading, answered)
    if reading.messages is None:
        reading.inputs = asked
    if reading.answer is None:
        reading.output = answered
    return reading


def _haystack_report(reading: Reading, answered: Any) -> None:
    """Read what the first reply says of itself; generators of texts have a list of it beside the replies."""
    answered = answered if isinstance(answered, dict) else {}
    reply = next(iter(items(answered.get("replies"))), None)
    about = reply.get("meta") if isinstance(reply, dict) else next(iter(items(answered.get("meta"))), None)
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
