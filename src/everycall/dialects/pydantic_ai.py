"""pydantic-ai, instrumentation versions 1 to 6: the GenAI conventions and its own attributes."""

from __future__ import annotations

from typing import Any

from everycall import semconv
from everycall.dialects import gen_ai
from everycall.dialects.messages import chat_messages
from everycall.dialects.reading import Reading, Source
from everycall.dialects.spans import Event
from everycall.dialects.values import first, unwrap

__all__ = ["read"]


def read(source: Source) -> Reading | None:
    """Read a span of pydantic-ai's own scope."""
    if source.span.scope.name != "pydantic-ai":
        return None
    reading = gen_ai.read(source) or Reading()
    reading.dialect = "pydantic-ai"
    reading.session_id, reading.unknown = None, frozenset({"session_id"})  # each run has a new one
    reading.cost = source.number("operation.cost") or None
    if reading.kind is None and source.span.name in ("running tool", "running tools", "agent run"):
        reading.kind = {"running tool": semconv.TOOL, "agent run": semconv.AGENT}.get(source.span.name, semconv.CHAIN)
    if reading.kind == semconv.TOOL:
        reading.inputs = first(reading.inputs, source.value("tool_arguments"))
        reading.output = first(reading.output, source.value("tool_response"))
    elif reading.kind == semconv.AGENT:
        reading.name = source.text("gen_ai.agent.name", "agent_name")
        _agent(source, reading)
    elif reading.kind == semconv.LLM:
        _first_version(source, reading)
    return reading


def _agent(source: Source, reading: Reading) -> None:
    """Read an agent's run: the prompt, up to the user's last message, and the answer.

    The run's model calls have the same messages in their own records. They stay an attribute here if there are more
    than a prompt and an answer.
    """
    history = chat_messages(source.value("pydantic_ai.all_messages", "all_messages_events")) or []
    prompt_length = max((place + 1 for place, message in enumerate(history) if message["role"] == "user"), default=0)
    reading.inputs = history[:prompt_length] or None
    reading.output = first(source.value("final_result"), history[prompt_length:])
    if len(history) > prompt_length + 1:
        source.read -= {"pydantic_ai.all_messages", "all_messages_events"}


def _first_version(source: Source, reading: Reading) -> None:
    """Read the messages of version 1: an attribute with a list of the conventions' older events."""
    entries = source.value("events")
    if reading.messages is not None or not isinstance(entries, list):
        return
    events = [_event(entry) for entry in entries if isinstance(entry, dict)]
    reading.messages, reading.answer, _ = gen_ai.event_messages(events)
    parameters = source.value("model_request_parameters")
    if isinstance(parameters, dict) and reading.tools is None:
        reading.tools = unwrap(parameters.get("function_tools")) or None


def _event(entry: dict[str, Any]) -> Event:
    name = entry.get("event.name")
    if not isinstance(name, str):
        name = "gen_ai.choice" if "message" in entry else f"gen_ai.{entry.get('role', 'user')}.message"
    hidden = ("event.name", "gen_ai.system", "gen_ai.message.index", "index")
    return Event(name, attributes={key: value for key, value in entry.items() if key not in hidden})
