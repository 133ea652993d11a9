"""Makes a record of a foreign span: which dialects read it, their precedence, and which attributes are kept."""

from __future__ import annotations

import hashlib
import re
from typing import Any, Final

from everycall import limits, semconv
from everycall.dialects import (
    frameworks,
    gen_ai,
    laminar,
    langfuse,
    langsmith,
    logfire,
    mlflow,
    openinference,
    openlit,
    plain,
    pydantic_ai,
    strands,
    traceloop,
    vercel,
)
from everycall.dialects.marks import DIALECT, HALF, OMIT, RESERVED, SPAN_NAME, omit_flags
from everycall.dialects.messages import answer_text
from everycall.dialects.reading import Reader, Reading, Source
from everycall.dialects.spans import STATUS_ERROR, Scope, Span
from everycall.dialects.values import is_empty
from everycall.record import Record, to_raw

__all__ = ["inference_id", "translate"]

_READERS: Final[tuple[Reader, ...]] = (
    plain.read_own,
    pydantic_ai.read,
    logfire.read,
    openlit.read,
    strands.read,
    langfuse.read,
    langsmith.read,
    mlflow.read,
    laminar.read,
    vercel.read,
    frameworks.read_adk,
    frameworks.read_anthropic,
    frameworks.read_microsoft,
    frameworks.read_haystack,
    traceloop.read,
    gen_ai.read_unless_read,
    openinference.read,
)
"""In order of precedence: a later reader only fills the fields that the earlier ones left open."""
_WHOLE: Final = ("langfuse", "langsmith", "mlflow")
"""Dialects whose own attributes are complete. Other vocabularies on their spans only repeat them."""
_SUMS: Final = (
    *("gen_ai.usage.", "llm.usage.", "llm.token_count.", "llm.cost.", "ai.usage.", "operation.cost"),
    *("mlflow.chat.tokenUsage", "langfuse.observation.usage_details", "langfuse.observation.cost_details"),
)
_CONTENT: Final = re.compile(
    r"gen_ai\.(input|output)\.messages|gen_ai\.system_instructions|gen_ai\.(prompt|completion)(\.\d|$)"
    r"|llm\.(input|output)_messages\.|(input|output)\.(value|mime_type)$|embedding\.embeddings\."
)
"""Attributes with content that the reading of another dialect already has."""


def inference_id(trace_id: str, span_id: str) -> str:
    """Return the id of a span's record: the same that everycall's own calls have."""
    return f"{trace_id}-{span_id}"


def translate(span: Span) -> Record:
    """Return the record of a span. Raises nothing for any attributes.

    Relations between spans (inheritance, duplicates, halves) are left to the store, which has all of them. Attributes
    named `everycall.*` say what to look for.
    """
    source = Source(span)
    reading = _read(source)
    _take_errors(span, reading)
    marks: dict[str, Any] = {}
    flags = omit_flags(span.attributes, span.scope.resource)
    if flags:
        marks[OMIT] = flags
    if reading.name_is_content and span.name:
        marks[SPAN_NAME] = _label(span.name)
    if reading.half is not None:
        digest = hashlib.sha256(reading.half.encode("utf-8", "surrogatepass")).hexdigest()
        at = span.end
        if reading.half_is_answer:
            at = span.start - int((source.number("duration") or 0) * 1e9)
        if reading.half.startswith("response "):  # a response id identifies the call without a time
            at = 0
        marks[HALF] = {"key": digest, "at": at, "answer": reading.half_is_answer}
    return _record(span, reading, source, marks)


def _read(source: Source) -> Reading:
    whole: Reading | None = None
    for reader in _READERS:
        reading = reader(source)
        if reading is None:
            continue
        if whole is None:
            whole = reading
        else:
            whole.dialect = whole.dialect or reading.dialect
            whole.unknown |= reading.unknown
            whole.fill(reading)
        if whole.dialect in _WHOLE:
            break
    if whole is None:
        return plain.read(source)
    plain.complete(whole, source)
    return whole


def _take_errors(span: Span, reading: Reading) -> None:
    """Set the error's class and text from the dialect's own fields, an event or the status."""
    reading.failed = span.status_code == STATUS_ERROR or bool(reading.failed)
    if not reading.failed:
        reading.error_type = reading.error = None
        return
    for event in span.events:
        if event.name not in ("exception", "gen_ai.client.operation.exception"):
            continue
        kind, message = event.attributes.get("exception.type"), event.attributes.get("exception.message")
        known_type = reading.error_type
        if (
            isinstance(kind, str)
            and kind != "Exception"
            and (known_type is None or kind.endswith(known_type) or known_type == "_OTHER")
        ):
            reading.error_type = kind
        if reading.error is None and isinstance(message, str) and message:
            reading.error = message
    if reading.error_type == "_OTHER":
        reading.error_type = None
    if reading.error is None:
        reading.error = span.status_message or None


def _record(span: Span, reading: Reading, source: Source, marks: dict[str, Any]) -> Record:
    kind = reading.kind or semconv.CHAIN
    priced = kind in semconv.PRICED_KINDS
    cost = reading.cost if priced and reading.cost is not None and reading.cost >= 0 else None
    configuration = _configuration(reading) if kind == semconv.LLM else None
    content, output = _answer(reading)
    attributes = {**_attributes(span, reading, source, priced), **marks}
    tokens = _tokens(reading) if priced else {}
    return Record(
        inference_id=inference_id(span.trace_id, span.span_id),
        trace_id=span.trace_id,
        trace_name=_label(reading.trace_name),
        parent_id=None if span.parent_id is None else inference_id(span.trace_id, span.parent_id),
        name=_label(reading.name or span.name) or "",
        kind=kind,
        end_user_identifier=_id(reading.user_id),
        session_id=_id(reading.session_id),
        deployment_id=_id(reading.deployment),
        llm_inputs=to_raw(_json(reading.variables)),
        llm_configuration=to_raw(_json(configuration)),
        inputs=to_raw(_json(_inputs(reading, kind))),
        content=content,
        output=to_raw(_json(output)),
        target=to_raw(_json(reading.target)),
        metadata=to_raw(_json(reading.metadata)),
        tags=[tag[: limits.NAME_CHARS_MAX] for tag in (reading.tags or [])[: limits.TAGS_MAX]],
        model=_label(reading.response_model or reading.request_model) if priced else None,
        provider=_label(reading.provider) if priced else None,
        **tokens,
        cost=cost,
        cost_source=None if cost is None else reading.dialect,
        status=semconv.ERROR if reading.failed else semconv.SUCCESS,
        error=_error_text(reading),
        error_type=_label(reading.error_type),
        latency=(span.end - span.start) / 1e9 if span.end >= span.start > 0 else None,
        time_to_first_token=_seconds(reading.time_to_first_token),
        start_time_unix_nano=span.start,
        end_time_unix_nano=max(span.end, 0),
        sdk=_sdk(span.scope),
        scope=_label(span.scope.name) or None,
        attributes=to_raw(_json(attributes)),
    )


def _configuration(reading: Reading) -> dict[str, Any] | None:
    configuration = {
        "model": reading.request_model,
        "provider": reading.provider,
        "model_params": reading.params,
        "messages": reading.messages,
        "functions": reading.tools,
        "function_call": reading.tool_choice,
    }
    return {name: value for name, value in configuration.items() if not is_empty(value)} or None


def _answer(reading: Reading) -> tuple[str | None, Any]:
    """Return the text of the answer and, if it has more than text, the whole answer."""
    if not reading.answer:
        return None, reading.output
    content = answer_text(reading.answer)
    first = reading.answer[0]
    if len(reading.answer) > 1:
        return content, reading.answer
    extra = {name for name, value in first.items() if not is_empty(value)} - {"role", "content"}
    if extra or not isinstance(first.get("content"), (str, type(None))):
        return content, first
    return content, reading.output


def _inputs(reading: Reading, kind: str) -> Any:
    if kind == semconv.LLM and reading.messages:
        return None
    return reading.inputs if not is_empty(reading.inputs) else reading.messages


def _tokens(reading: Reading) -> dict[str, Any]:
    total = reading.total_tokens
    if reading.input_tokens is not None and reading.output_tokens is not None:
        total = reading.input_tokens + reading.output_tokens  # the sender's sum may lack cached tokens
    elif reading.input_tokens is not None and total is None:
        total = reading.input_tokens if reading.kind == semconv.EMBEDDING else None
    return {
        "input_tokens": reading.input_tokens,
        "output_tokens": reading.output_tokens,
        "total_tokens": total,
        "usage": reading.usage or {},
    }


def _attributes(span: Span, reading: Reading, source: Source, priced: bool) -> dict[str, Any]:
    """Return what is kept unchanged: attributes that no field of the record holds, events, links, the resource.

    Sums of tokens and costs on a span that is not a model call stay attributes, because its record has no counts.
    """
    attributes = {
        name: value
        for name, value in span.attributes.items()
        if (name not in source.read or (not priced and name.startswith(_SUMS)))
        and name not in RESERVED
        and not _CONTENT.match(name)
    }
    attributes[DIALECT] = reading.dialect
    if reading.response_id:
        attributes[semconv.GEN_AI_RESPONSE_ID] = reading.response_id
    if reading.finish_reasons:
        attributes[semconv.GEN_AI_FINISH_REASONS] = reading.finish_reasons
    if reading.service_tier:
        attributes[semconv.OPENAI_SERVICE_TIER] = reading.service_tier
    events = [_event(event) for event in span.events if not event.name.startswith("gen_ai.")]
    if events:
        attributes["events"] = events[: limits.EVENTS_MAX]
    if span.links:
        attributes["links"] = list(span.links)
    if span.dropped_attributes:
        attributes["otel.dropped_attributes_count"] = span.dropped_attributes
    if span.scope.version:
        attributes["otel.scope.version"] = span.scope.version
    if span.scope.resource:
        attributes["resource"] = span.scope.resource
    return attributes


def _event(event: Any) -> dict[str, Any]:
    members = {"name": event.name, "time_unix_nano": event.time_unix_nano}
    return {**members, "attributes": event.attributes} if event.attributes else members


def _error_text(reading: Reading) -> str | None:
    if not reading.failed:
        return None
    return (reading.error or reading.error_type or "error")[: limits.ERROR_CHARS_MAX]


def _sdk(scope: Scope) -> str | None:
    """Return the sender's OpenTelemetry SDK, its language and version, from the resource."""
    name, version = scope.resource.get("telemetry.sdk.name"), scope.resource.get("telemetry.sdk.version")
    language = scope.resource.get("telemetry.sdk.language")
    if not isinstance(name, str):
        return None
    return _label(f"{name}{f'-{language}' if language else ''}{f'/{version}' if version else ''}")


def _label(value: str | None) -> str | None:
    if not isinstance(value, str) or not value:
        return None
    return value if len(value) <= limits.NAME_CHARS_MAX else value[: limits.NAME_CHARS_MAX - 1] + "…"


def _id(value: str | None) -> str | None:
    return value[: limits.ID_CHARS_MAX] if isinstance(value, str) and value else None


def _seconds(value: float | None) -> float | None:
    return value if value is not None and value >= 0 else None


def _json(value: Any) -> Any:
    """Return the value, or None for an empty one."""
    return None if is_empty(value) else value
