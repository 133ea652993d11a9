"""OpenTelemetry's GenAI conventions, in the three generations that are in use at once.

Up to 1.36: `gen_ai.system`, `gen_ai.prompt.N.*`, one event for each message. From 1.37: `gen_ai.provider.name`,
`gen_ai.input.messages`. Since the conventions have a repository of their own: `cache_write`, `gen_ai.retrieval.*`. Also
the attributes that instrumentations of these conventions add under their own names.
"""

from __future__ import annotations

from typing import Any, Final

from everycall import semconv
from everycall.dialects.kinds import OPERATIONS, kind_of
from everycall.dialects.messages import chat_answer, chat_messages, tool_definitions
from everycall.dialects.providers import provider_name
from everycall.dialects.reading import Reading, Source
from everycall.dialects.spans import Event
from everycall.dialects.values import first, is_empty, strings, unwrap

__all__ = ["event_messages", "read", "read_unless_read", "token_counts"]

_REQUEST: Final = "gen_ai.request."
_NOT_PARAMS: Final = frozenset({"model", "base_url", "structured_output_schema"})
_PARAM_NAMES: Final = {"choice.count": "n", "encoding_formats": "encoding_formats"}
INPUT_TOKENS: Final = ("gen_ai.usage.input_tokens", "gen_ai.usage.prompt_tokens", "llm.usage.prompt_tokens")
OUTPUT_TOKENS: Final = (
    "gen_ai.usage.output_tokens",
    "gen_ai.usage.completion_tokens",
    "llm.usage.completion_tokens",
)
_TOTAL_TOKENS: Final = ("gen_ai.usage.total_tokens", "llm.usage.total_tokens")
_PARTS: Final = {
    semconv.USAGE_CACHED: (
        "gen_ai.usage.cache_read.input_tokens",
        "gen_ai.usage.cache_read_input_tokens",
        "gen_ai.usage.input_tokens.cached",
        "gen_ai.usage.input_cached_tokens",
        "gen_ai.usage.details.cached_tokens",
        "gen_ai.usage.details.cache_read_input_tokens",
        "gen_ai.usage.details.cache_read_tokens",
    ),
    semconv.USAGE_CACHE_WRITE: (
        "gen_ai.usage.cache_write.input_tokens",
        "gen_ai.usage.cache_creation.input_tokens",
        "gen_ai.usage.cache_write_input_tokens",
        "gen_ai.usage.cache_creation_input_tokens",
        "gen_ai.usage.details.cache_write_tokens",
        "gen_ai.usage.details.cache_creation_input_tokens",
    ),
    semconv.USAGE_CACHE_WRITE_1H: ("anthropic.usage.cache_creation.ephemeral_1h_input_tokens",),
    semconv.USAGE_REASONING: (
        "gen_ai.usage.reasoning.output_tokens",
        "gen_ai.usage.reasoning_tokens",
        "gen_ai.usage.output_tokens.reasoning",
        "gen_ai.usage.details.reasoning_tokens",
        "llm.usage.reasoning_tokens",
    ),
    semconv.USAGE_INPUT_AUDIO: ("gen_ai.usage.audio.input_tokens",),
    semconv.USAGE_INPUT_IMAGE: ("gen_ai.usage.image.input_tokens",),
    semconv.USAGE_OUTPUT_AUDIO: ("gen_ai.usage.audio.output_tokens",),
    semconv.USAGE_OUTPUT_IMAGE: ("gen_ai.usage.image.output_tokens",),
}
_PART_NAMES: Final = frozenset(name for names in _PARTS.values() for name in names)
DETAILS_EVENT: Final = "gen_ai.client.inference.operation.details"
_MESSAGE_EVENTS: Final = {
    "gen_ai.system.message": "system",
    "gen_ai.user.message": "user",
    "gen_ai.assistant.message": "assistant",
    "gen_ai.tool.message": "tool",
}


def read(source: Source) -> Reading | None:
    """Read a span that has any attribute or event of the conventions."""
    if not source.has("gen_ai.") and not any(event.name.startswith("gen_ai.") for event in source.span.events):
        return None
    source.gen_ai_is_read = True
    reading = Reading(dialect="gen_ai")
    operation = source.text("gen_ai.operation.name")
    reading.kind = _kind(source, operation)
    reading.name = _name(source, operation)
    reading.provider = provider_name(source.value("gen_ai.provider.name", "gen_ai.system"))
    reading.request_model = source.text("gen_ai.request.model")
    reading.response_model = source.text("gen_ai.response.model")
    reading.params = _params(source)
    token_counts(source, reading)
    reading.response_id = source.text("gen_ai.response.id")
    reading.finish_reasons = strings(source.value("gen_ai.response.finish_reasons")) or None
    reading.service_tier = source.text(
        "openai.response.service_tier",
        "gen_ai.openai.response.service_tier",
        "gen_ai.response.service_tier",
        "anthropic.response.service_tier",
    )
    reading.time_to_first_token = source.number("gen_ai.response.time_to_first_chunk")
    reading.cost = _cost(source)
    reading.session_id = source.text("gen_ai.conversation.id", "session.id")
    reading.user_id = source.text("user.id", "enduser.id", "enduser.pseudo.id", "gen_ai.user")
    reading.error_type = source.text("error.type")
    reading.variables = source.below("gen_ai.prompt.variable.") or None
    reading.deployment = source.text("gen_ai.prompt.name")
    _content(source, reading)
    _tool_and_retrieval(source, reading)
    return reading


def read_unless_read(source: Source) -> Reading | None:
    """Read a span, unless another reader has called `read` for it and corrected the result."""
    return None if source.gen_ai_is_read else read(source)


def _kind(source: Source, operation: str | None) -> str | None:
    """Return the kind: from the operation, else from attributes that only such a span has, or a request type."""
    kind = OPERATIONS.get(operation or "")
    if kind is not None:
        return kind
    if source.peek("gen_ai.tool.name"):
        return semconv.TOOL
    if not source.peek("gen_ai.request.model"):
        return None
    if operation is None:
        return kind_of(source.text("llm.request.type")) or semconv.LLM
    is_call = any(source.peek(name) is not None for name in (*OUTPUT_TOKENS, "gen_ai.output.messages"))
    return semconv.LLM if is_call else None


def _cost(source: Source) -> float | None:
    """Return the cost in US dollars, or None. Senders write 0 for a model without a price, so 0 counts as None."""
    if (source.text("gen_ai.usage.cost.currency") or "USD").upper() != "USD":
        return None
    return source.number("gen_ai.usage.cost.amount", "gen_ai.usage.cost", "gen_ai.cost.total_cost") or None


def _name(source: Source, operation: str | None) -> str | None:
    if operation in ("execute_tool", "tool_call") or source.peek("gen_ai.tool.name"):
        return source.text("gen_ai.tool.name")
    if operation in ("invoke_agent", "create_agent", "invoke_workflow"):
        return source.text("gen_ai.workflow.name", "gen_ai.agent.name")
    return None


def _params(source: Source) -> dict[str, Any] | None:
    params: dict[str, Any] = {}
    for name, value in source.attributes.items():
        if not name.startswith(_REQUEST):
            continue
        parameter = name[len(_REQUEST) :]
        if parameter in _NOT_PARAMS or is_empty(value) or (parameter == "stream" and value is False):
            continue
        params[_PARAM_NAMES.get(parameter, parameter)] = unwrap(value)
        source.read.add(name)
    if source.value("gen_ai.is_streaming", "llm.is_streaming") is True:
        params["stream"] = True
    return params or None


def token_counts(source: Source, reading: Reading) -> None:
    """Read token counts. If more tokens were cached than the input has, the input excludes them: add them to it."""
    usage = {}
    if not _PART_NAMES.isdisjoint(source.attributes):
        usage = {part: count for part, names in _PARTS.items() if (count := source.count(*names)) is not None}
    tokens = source.count(*INPUT_TOKENS)
    cached = usage.get(semconv.USAGE_CACHED, 0) + usage.get(semconv.USAGE_CACHE_WRITE, 0)
    if tokens is not None and cached > tokens:
        tokens += cached
    reading.input_tokens = tokens
    reading.output_tokens = source.count(*OUTPUT_TOKENS)
    reading.total_tokens = source.count(*_TOTAL_TOKENS)
    reading.usage = usage or None


def _content(source: Source, reading: Reading) -> None:
    """Read the messages, the answer and the tools: from attributes, then events, then the oldest attributes."""
    messages = chat_messages(source.value("gen_ai.input.messages"))
    system = chat_messages(source.value("gen_ai.system_instructions"), "system")
    if system and not (messages and messages[0]["role"] == "system"):
        messages = [*_as_system(system), *(messages or [])]
    outputs = source.value("gen_ai.output.messages")
    answer = chat_answer(outputs)
    if messages is None and answer is None and source.span.events:
        messages, answer, reading.tools = event_messages(source.span.events)
        choices = [event for event in source.span.events if event.name == "gen_ai.choice"]
        reasons = strings([choice.attributes.get("finish_reason") for choice in choices])
        reading.finish_reasons = reading.finish_reasons or reasons or None
    if source.has("gen_ai.prompt.0"):
        older = chat_messages(_numbered(source, "gen_ai.prompt."))
        if older and (messages is None or len(older) > len(messages)):  # Laminar: the newer names lack the instructions
            messages = older
    if answer is None and source.has("gen_ai.completion."):
        choices = _numbered(source, "gen_ai.completion.")
        answer = chat_answer(choices)
        reading.finish_reasons = reading.finish_reasons or _finish_reasons(choices)
    reading.messages, reading.answer = messages, answer
    if reading.finish_reasons is None:
        reading.finish_reasons = _finish_reasons(outputs)
    reading.tools = tool_definitions(source.value("gen_ai.tool.definitions", "llm.request.functions")) or reading.tools
    if reading.tools is None and source.has("llm.request.functions."):
        reading.tools = tool_definitions(_numbered(source, "llm.request.functions."))


def _as_system(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return instructions, which are parts without a role, as one system message."""
    texts = [message["content"] for message in messages if isinstance(message.get("content"), str)]
    if len(texts) == len(messages):
        return [{"role": "system", "content": "\n".join(texts)}]
    return [{**message, "role": "system"} for message in messages]


def _numbered(source: Source, prefix: str) -> Any:
    tree = source.tree(prefix)
    if isinstance(tree, dict):
        tree = [value for name, value in sorted(tree.items()) if name.isdigit()]
    return tree


def _finish_reasons(value: Any) -> list[str] | None:
    messages = unwrap(value)
    if not isinstance(messages, list):
        return None
    reasons = [message.get("finish_reason") for message in messages if isinstance(message, dict)]
    return [reason for reason in reasons if isinstance(reason, str) and reason] or None


def event_messages(
    events: tuple[Event, ...] | list[Event],
) -> tuple[list[dict[str, Any]] | None, list[dict[str, Any]] | None, list[Any] | None]:
    """Return the messages, the answer and the tools in the events of a span, or in log records read as events."""
    messages: list[dict[str, Any]] = []
    answer: list[dict[str, Any]] = []
    tools: list[Any] = []
    for event in events:
        attributes = event.attributes
        if event.name in _MESSAGE_EVENTS:
            messages.extend(chat_messages(_event_message(attributes, _MESSAGE_EVENTS[event.name])) or [])
        elif event.name == "gen_ai.choice":
            answer.extend(chat_answer([_choice(attributes)]) or [])
        elif event.name == "gen_ai.content.prompt":
            messages.extend(chat_messages(first(attributes.get("gen_ai.prompt"), attributes.get("prompt"))) or [])
        elif event.name == "gen_ai.content.completion":
            answer.extend(chat_answer(first(attributes.get("gen_ai.completion"), attributes.get("completion"))) or [])
        elif event.name == DETAILS_EVENT:
            prompt = chat_messages(attributes.get("gen_ai.input.messages"))
            system = chat_messages(attributes.get("gen_ai.system_instructions"), "system")
            if system and not (prompt and prompt[0]["role"] == "system"):
                messages = [*_as_system(system), *messages]
            messages.extend(prompt or [])
            answer.extend(chat_answer(attributes.get("gen_ai.output.messages")) or [])
            tools.extend(tool_definitions(attributes.get("gen_ai.tool.definitions")) or [])
    return messages or None, answer or None, tools or None


def _event_message(attributes: dict[str, Any], role: str) -> dict[str, Any]:
    """Return the message of an event, from its attributes or its body. The body may lack the role."""
    content = unwrap(attributes.get("content"))
    if isinstance(content, dict) and ("content" in content or "role" in content):
        return {"role": role, **content}
    if not isinstance(content, list):  # the text of a tool's result may be JSON: it stays the text
        content = attributes.get("content")
    return {**attributes, "role": role, "content": content}


def _choice(attributes: dict[str, Any]) -> dict[str, Any]:
    message = unwrap(attributes.get("message"))
    calls = attributes.get("tool_calls")
    if not isinstance(message, dict):
        return {"role": "assistant", "content": message, "tool_calls": calls}
    choice = {"role": "assistant", **message}
    if calls:
        choice["tool_calls"] = calls
    return choice


def _tool_and_retrieval(source: Source, reading: Reading) -> None:
    if reading.kind == semconv.TOOL:
        reading.inputs = source.value("gen_ai.tool.call.arguments")
        reading.output = source.value("gen_ai.tool.call.result")
    elif reading.kind == semconv.RETRIEVER:
        reading.inputs = source.value("gen_ai.retrieval.query.text", "gen_ai.memory.query.text")
        reading.output = source.value("gen_ai.retrieval.documents", "gen_ai.memory.records")
    elif reading.kind == semconv.EMBEDDING:
        texts = [message["content"] for message in reading.messages or [] if "content" in message]
        reading.messages = None
        reading.inputs = texts[0] if len(texts) == 1 else texts or None
        size = source.count("gen_ai.embeddings.dimension.count")
        reading.output = {"dimensions": size} if size is not None else None
    elif reading.kind in (semconv.AGENT, semconv.CHAIN):
        reading.inputs, reading.output = reading.messages, reading.answer
        reading.messages = reading.answer = None
