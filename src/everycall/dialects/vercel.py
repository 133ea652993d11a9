"""Vercel's AI SDK: `ai.*` up to version 6; version 7 uses the GenAI conventions, with additions."""

from __future__ import annotations

from typing import Any, Final

from everycall import semconv
from everycall.dialects import gen_ai
from everycall.dialects.messages import chat_answer, chat_messages, tool_definitions
from everycall.dialects.providers import provider_name
from everycall.dialects.reading import Reading, Source
from everycall.dialects.reports import include_cached
from everycall.dialects.values import is_empty, items, strings, text, unwrap, without_empty

__all__ = ["read"]

_METADATA: Final = "ai.telemetry.metadata."
_CONTEXT: Final = "ai.settings.context."
_SETTINGS: Final = {
    "maxOutputTokens": "max_tokens",
    "maxTokens": "max_tokens",
    "temperature": "temperature",
    "topP": "top_p",
    "topK": "top_k",
    "frequencyPenalty": "frequency_penalty",
    "presencePenalty": "presence_penalty",
    "stopSequences": "stop_sequences",
    "seed": "seed",
}
_ANSWERS: Final = ("ai.response.text", "ai.result.text", "ai.response.object", "ai.result.object")
_CALLS: Final = ("doGenerate", "doStream")
_REASONS: Final = ("ai.response.finishReason", "ai.finishReason")
_PARTS: Final = {
    semconv.USAGE_CACHED: ("ai.usage.inputTokenDetails.cacheReadTokens", "ai.usage.cachedInputTokens"),
    semconv.USAGE_CACHE_WRITE: ("ai.usage.inputTokenDetails.cacheWriteTokens",),
    semconv.USAGE_REASONING: ("ai.usage.outputTokenDetails.reasoningTokens", "ai.usage.reasoningTokens"),
}


def read(source: Source) -> Reading | None:
    """Read a span of the AI SDK, of either form."""
    scope = source.span.scope.name
    if scope == "gen_ai" or (source.has("gen_ai.") and not source.peek("ai.operationId") and source.has("ai.")):
        return _version_7(source)
    if not source.has("ai.") or not source.peek("ai.operationId"):
        return None
    reading = Reading(dialect="vercel-ai")
    operation = source.text("ai.operationId") or ""
    reading.kind = _kind(operation)
    reading.trace_name = source.text("ai.telemetry.functionId", "resource.name")
    source.read.update(name for name in ("resource.name", "operation.name") if name in source.attributes)
    _labels(source, reading, _METADATA)
    if reading.kind == semconv.TOOL:
        reading.name = source.text("ai.toolCall.name")
        reading.inputs = source.value("ai.toolCall.args", "ai.toolCall.input")
        reading.output = source.value("ai.toolCall.result", "ai.toolCall.output")
        return reading
    reading.provider = provider_name(source.value("ai.model.provider", "gen_ai.system"))
    reading.request_model = source.text("ai.model.id", "gen_ai.request.model")
    if reading.kind == semconv.LLM:
        _model_call(source, reading)
    elif reading.kind == semconv.EMBEDDING:
        values = items(source.value("ai.values", "ai.value"))
        texts = [unwrap(value) for value in values] or [source.value("ai.value")]
        reading.inputs = texts[0] if len(texts) == 1 else texts
        vectors = [unwrap(vector) for vector in items(source.value("ai.embeddings"))]
        sizes = [len(vector) for vector in vectors if isinstance(vector, list)]
        reading.output = {"embeddings": len(sizes), "dimensions": sizes[0]} if sizes else None
        reading.input_tokens = source.count("ai.usage.tokens")
        reading.response_model = reading.request_model
    else:
        reading.inputs = source.value("ai.prompt", "ai.value", "ai.values")
        reading.output = source.value(*_ANSWERS)
        source.read.update(name for name in ("ai.embedding", "ai.embeddings") if name in source.attributes)
    return reading


def _kind(operation: str) -> str:
    """Return the kind. The outer `ai.generateText` repeats the sums of its model calls, so it is an agent."""
    last = operation.rpartition(".")[2]
    if last in _CALLS:
        return semconv.LLM
    if last == "doEmbed":
        return semconv.EMBEDDING
    if last == "doRerank":
        return semconv.RERANKER
    if last == "toolCall":
        return semconv.TOOL
    return semconv.AGENT if last.startswith(("generate", "stream")) else semconv.CHAIN


def _labels(source: Source, reading: Reading, prefix: str) -> None:
    members = {name: unwrap(value) for name, value in source.below(prefix).items()}
    reading.user_id = text(members.pop("userId", None)) or text(members.pop("user_id", None))
    reading.session_id = text(members.pop("sessionId", None)) or text(members.pop("session_id", None))
    reading.tags = strings(members.pop("tags", None)) or None
    reading.metadata = members or None


def _model_call(source: Source, reading: Reading) -> None:
    settings = source.below("ai.settings.")
    params = {name: settings[key] for key, name in _SETTINGS.items() if key in settings}
    if "stream" in str(source.peek("ai.operationId")).lower():
        params["stream"] = True
    reading.params = without_empty(params)
    source.read.update(name for name in source.attributes if name.startswith("gen_ai.request."))
    reading.messages = chat_messages(source.value("ai.prompt.messages", "ai.prompt"))
    reading.tools = tool_definitions(source.value("ai.prompt.tools"))
    reading.tool_choice = source.value("ai.prompt.toolChoice")
    answer = {
        "role": "assistant",
        "content": next((value for name in _ANSWERS if not is_empty(value := source.peek(name))), None),
        "tool_calls": source.value("ai.response.toolCalls", "ai.result.toolCalls"),
        "reasoning": source.value("ai.response.reasoning"),
    }
    source.read.update(name for name in _ANSWERS if name in source.attributes)
    if any(value for name, value in answer.items() if name != "role"):
        reading.answer = chat_answer([answer])
    reading.response_id = source.text("ai.response.id", "gen_ai.response.id")
    reading.response_model = source.text("ai.response.model", "gen_ai.response.model")
    reading.finish_reasons = strings(source.value("gen_ai.response.finish_reasons", *_REASONS)) or None
    source.read.update(name for name in (*_REASONS, "gen_ai.response.id") if name in source.attributes)
    _counts(source, reading)
    milliseconds = source.number("ai.response.msToFirstChunk", "ai.stream.msToFirstChunk")
    reading.time_to_first_token = milliseconds / 1_000 if milliseconds is not None else None


def _counts(source: Source, reading: Reading) -> None:
    reading.input_tokens = source.count("ai.usage.inputTokens", "ai.usage.promptTokens", *gen_ai.INPUT_TOKENS)
    reading.output_tokens = source.count("ai.usage.outputTokens", "ai.usage.completionTokens", *gen_ai.OUTPUT_TOKENS)
    reading.total_tokens = source.count("ai.usage.totalTokens")
    parts = {part: n for part, names in _PARTS.items() if (n := source.count(*names)) is not None}
    reading.usage = parts or None
    include_cached(reading)
    source.read.update(name for name in source.attributes if name.startswith("ai.usage."))


def _version_7(source: Source) -> Reading | None:
    reading = gen_ai.read(source)
    if reading is None:
        return None
    reading.dialect = "vercel-ai"
    if source.has("ai.usage.") and reading.kind == semconv.LLM:
        parts: dict[str, Any] = {part: n for part, names in _PARTS.items() if (n := source.count(*names)) is not None}
        reading.usage = {**parts, **(reading.usage or {})} or None
    if source.has(_CONTEXT):
        labels = Reading()
        _labels(source, labels, _CONTEXT)
        reading.fill(labels)
    status = source.count("http.response.status_code")
    if status is not None:
        source.read.discard("http.response.status_code")
    return reading
