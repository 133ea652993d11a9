"""Log records of the GenAI conventions as partial records of calls. A call's span arrives separately, in any order."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from everycall import semconv
from everycall.dialects import gen_ai
from everycall.dialects.join import with_log_events
from everycall.dialects.marks import HALF, LOG_EVENTS, OMIT, PARTIAL, omit_flags
from everycall.dialects.spans import LogEvent, Span
from everycall.dialects.translate import translate
from everycall.record import ABSENT, Record, to_json, to_raw

__all__ = ["is_of_a_call", "response_key", "translate_logs"]

_MESSAGES: Final = ("gen_ai.choice", "gen_ai.content.prompt", "gen_ai.content.completion")
_ERRORS: Final = ("gen_ai.client.operation.exception", "exception")


def is_of_a_call(log: LogEvent) -> bool:
    """Return whether a log record describes a call: an event of the conventions with a span or a response id."""
    is_event = log.name == gen_ai.DETAILS_EVENT or log.name in (*_MESSAGES, *_ERRORS) or log.name.endswith(".message")
    if not is_event or not log.name.startswith(("gen_ai.", "exception")):
        return False
    return (log.trace_id is not None and log.span_id is not None) or _response_id(log) is not None


def response_key(scope_name: str, response_id: str) -> str:
    """Return the key that joins a log record without a span to its span: a hash of the scope and the answer's id."""
    return hashlib.sha256(f"response {scope_name} {response_id}".encode("utf-8", "surrogatepass")).hexdigest()


def translate_logs(logs: Iterable[LogEvent]) -> list[Record]:
    """Return a partial record for each call that log records describe. Those of one span become one record."""
    by_span: dict[tuple[str, str], list[LogEvent]] = {}
    loose: list[LogEvent] = []
    for log in logs:
        if log.trace_id is not None and log.span_id is not None:
            by_span.setdefault((log.trace_id, log.span_id), []).append(log)
        else:
            loose.append(log)
    parts = [_part(trace_id, span_id, entries) for (trace_id, span_id), entries in by_span.items()]
    for log in loose:
        response_id = _response_id(log) or ""
        digest = response_key(log.scope.name, response_id)
        record = _part(digest[:32], digest[32:48], [log])
        attributes = {**(to_json(record.attributes) or {}), HALF: {"key": digest, "at": 0, "answer": True}}
        parts.append(msgspec.structs.replace(record, attributes=to_raw(attributes)))
    return parts


def _response_id(log: LogEvent) -> str | None:
    response_id = log.attributes.get(semconv.GEN_AI_RESPONSE_ID)
    return response_id if isinstance(response_id, str) and response_id else None


def _part(trace_id: str, span_id: str, logs: list[LogEvent]) -> Record:
    """Return the partial record of one span's log records, without a name and times."""
    attributes: dict[str, Any] = {}
    events: list[dict[str, Any]] = []
    for log in logs:
        if log.name == gen_ai.DETAILS_EVENT:
            attributes.update(log.attributes)
            if isinstance(log.body, dict):
                attributes.update(log.body)
        elif log.name in _ERRORS:
            attributes.update({k: v for k, v in log.attributes.items() if k.startswith("exception.")})
        else:
            members = {**log.attributes, **(log.body if isinstance(log.body, dict) else {"content": log.body})}
            members = {name: value for name, value in members.items() if name not in ("event.name", "gen_ai.system")}
            events.append({"name": log.name, "time": log.time_unix_nano, "said": members})
    span = Span(trace_id, span_id, None, "", logs[0].scope, attributes=attributes)
    record = translate(span)
    marked = to_json(record.attributes) or {}
    marked.pop("resource", None)
    marked.pop("otel.scope.version", None)
    marked[PARTIAL] = True
    flags = omit_flags(*(log.attributes for log in logs), logs[0].scope.resource)
    if flags:
        marked[OMIT] = flags
    if events:
        marked[LOG_EVENTS] = sorted(events, key=lambda event: event["time"])
    error = error_type = None
    if "exception.type" in attributes:
        error = str(attributes.get("exception.message") or "") or None
        error_type = str(attributes["exception.type"])
    counts: dict[str, Any] = {}
    if span.scope.name.startswith("openlit"):  # some counts are guesses, and only the span shows which
        counts = {"input_tokens": None, "output_tokens": None, "total_tokens": None, "usage": {}, "cost": None}
    return with_log_events(
        msgspec.structs.replace(
            record,
            **counts,
            kind=semconv.LLM if events and record.kind == semconv.CHAIN else record.kind,
            inputs=record.inputs if record.kind != semconv.LLM else ABSENT,
            status=semconv.SUCCESS if error_type is None else semconv.ERROR,
            error=error,
            error_type=error_type,
            latency=None,
            start_time_unix_nano=0,
            end_time_unix_nano=0,
            attributes=to_raw(marked),
        )
    )
