"""OpenInference (Arize Phoenix, and the frameworks it instruments): `llm.*`, `input.value`, `openinference.*`."""

from __future__ import annotations

from typing import Any, Final

from everycall import semconv
from everycall.dialects.kinds import OPENINFERENCE
from everycall.dialects.messages import chat_answer, chat_messages, tool_definitions
from everycall.dialects.providers import provider_name
from everycall.dialects.reading import Reading, Source
from everycall.dialects.reports import include_cached
from everycall.dialects.values import first, strings, text, without_empty

__all__ = ["read"]

_COUNTS: Final = "llm.token_count."
_PARTS: Final = {
    semconv.USAGE_CACHED: ("prompt_details.cache_read", "prompt_details.cache_input"),
    semconv.USAGE_CACHE_WRITE: ("prompt_details.cache_write",),
    semconv.USAGE_INPUT_AUDIO: ("prompt_details.audio",),
    semconv.USAGE_REASONING: ("completion_details.reasoning",),
    semconv.USAGE_OUTPUT_AUDIO: ("completion_details.audio",),
}
_PRICED_PARTS: Final = frozenset({semconv.USAGE_CACHED, semconv.USAGE_REASONING, semconv.USAGE_CACHE_WRITE})
_NOT_PARAMS: Final = frozenset(
    {
        *("model", "model_name", "messages", "input", "tools", "base_url", "_type", "id", "created_at", "instructions"),
        *("metadata", "object", "output", "status", "usage", "error", "system_instruction", "class_name", "contents"),
        *("context_window", "is_chat_model", "is_function_calling_model", "system_role", "num_output"),
    }
)


def read(source: Source) -> Reading | None:
    """Read a span that has a kind, messages or a value in this vocabulary, or a scope of OpenInference."""
    has_value = any(name in source.attributes for name in ("openinference.span.kind", "input.value", "output.value"))
    has_scope = source.span.scope.name.startswith("openinference.")
    if not (has_value or has_scope or source.has("llm.") or source.has("embedding.")):
        return None
    reading = Reading(dialect="openinference")
    reading.kind = OPENINFERENCE.get((source.text("openinference.span.kind") or "").upper())
    reading.name = source.text("tool.name", "agent.name") if reading.kind in (semconv.TOOL, semconv.AGENT) else None
    input_value, output_value = source.value("input.value"), source.value("output.value")
    params = source.value("llm.invocation_parameters", "embedding.invocation_parameters")
    params = params if isinstance(params, dict) else {}
    reading.provider = provider_name(source.value("llm.provider", "llm.system"))
    _models(source, reading, params, input_value)
    reading.params = without_empty({k: v for k, v in params.items() if k not in _NOT_PARAMS}) or None
    reading.messages = chat_messages(source.tree("llm.input_messages."))
    reading.answer = chat_answer(source.tree("llm.output_messages."))
    if reading.answer is not None and not any(len(message) > 1 and _has_content(message) for message in reading.answer):
        reading.answer = None
    _completion(source, reading)
    tools = source.tree("llm.tools.")
    reading.tools = tool_definitions(tools) if tools else None
    if isinstance(input_value, dict) and reading.kind == semconv.LLM:
        reading.messages = reading.messages or chat_messages(input_value)
    if isinstance(output_value, dict):
        reading.response_id = text(first(output_value.get("id"), output_value.get("response_id")))
        if reading.kind == semconv.LLM and reading.answer is None:
            reading.answer = chat_answer(output_value)
    _counts(source, reading)
    reading.cost = source.number("llm.cost.total")
    reading.finish_reasons = strings(source.value("llm.finish_reason")) or None
    _values(source, reading, input_value, output_value)
    metadata = source.value("metadata")
    reading.metadata = metadata if isinstance(metadata, dict) else None
    reading.session_id = first(source.text("session.id"), text((reading.metadata or {}).get("session_id")))
    reading.user_id = first(source.text("user.id"), text((reading.metadata or {}).get("user_id")))
    reading.tags = strings(source.value("tag.tags")) or None
    reading.variables = source.value("llm.prompt_template.variables")
    return reading


def _completion(source: Source, reading: Reading) -> None:
    """Read prompts and choices of the older completions API."""
    if reading.messages is None and source.has("llm.prompts."):
        reading.messages = chat_messages(_texts(source, "llm.prompts.", "prompt"))
    if reading.answer is None and source.has("llm.choices."):
        reading.answer = chat_answer([{"content": text} for text in _texts(source, "llm.choices.", "completion")])


def _texts(source: Source, prefix: str, member: str) -> list[str]:
    entries = source.tree(prefix)
    members = [entry.get(member) for entry in entries if isinstance(entry, dict)]
    texts = [entry.get("text") for entry in members if isinstance(entry, dict)]
    return [text for text in texts if isinstance(text, str)]


def _has_content(message: dict[str, Any]) -> bool:
    return any(value is not None for name, value in message.items() if name != "role")


def _models(source: Source, reading: Reading, params: dict[str, Any], input_value: Any) -> None:
    """Read the models. `llm.model_name` is the answer's model; a failed call does not have it."""
    body = input_value if isinstance(input_value, dict) else {}
    reading.response_model = source.text("llm.response.model_name", "llm.model_name", "embedding.model_name")
    reading.request_model = first(
        source.text("llm.request.model_name"),
        text(params.get("model")),
        text(params.get("model_name")),
        text(body.get("model")),
    )
    if reading.request_model is None:
        reading.request_model = source.text("reranker.model_name")


def _embedded_text(input_value: Any) -> Any:
    """Return the text to embed from an embedder's arguments."""
    if isinstance(input_value, dict):
        return first(*(input_value.get(name) for name in ("text", "query", "input", "texts"))) or input_value
    return input_value


def _counts(source: Source, reading: Reading) -> None:
    usage = {}
    for part, names in _PARTS.items():
        tokens = source.count(*(_COUNTS + name for name in names))
        if tokens or (tokens is not None and part in _PRICED_PARTS):
            usage[part] = tokens
    reading.input_tokens = source.count(_COUNTS + "prompt")
    reading.output_tokens = source.count(_COUNTS + "completion")
    reading.total_tokens = source.count(_COUNTS + "total")
    reading.usage = usage or None
    include_cached(reading)


def _values(source: Source, reading: Reading, input_value: Any, output_value: Any) -> None:
    """Read the inputs and the output of a span that is not a model call."""
    if reading.kind == semconv.LLM:
        return
    reading.inputs, reading.output = input_value, output_value
    if reading.kind == semconv.EMBEDDING:
        entries = source.tree("embedding.embeddings.")
        vectors = [e["embedding"] for e in entries if isinstance(e, dict) and isinstance(e.get("embedding"), dict)]
        texts = [vector["text"] for vector in vectors if "text" in vector]
        reading.inputs = (texts[0] if len(texts) == 1 else texts) or _embedded_text(input_value)
        sizes = [len(v["vector"]) for v in vectors if isinstance(v.get("vector"), list)]
        reading.output = {"embeddings": len(sizes), "dimensions": sizes[0]} if sizes else None
    elif reading.kind in (semconv.RETRIEVER, semconv.RERANKER):
        reading.inputs = first(input_value, source.value("reranker.query"))
        documents = source.tree("retrieval.documents.") or source.tree("reranker.output_documents.")
        if documents:
            reading.output = [first(d.get("document"), d) for d in documents if isinstance(d, dict)]
