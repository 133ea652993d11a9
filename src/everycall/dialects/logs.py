"""Log records of the GenAI conventions: what they say of a call whose span comes on its own, before or after them."""

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
    """Return what joins a log record without a span to its span: who sent it, and the answer's id."""
    return hashlib.sha256(f"response {scope_name} {response_id}".encode("utf-8", "surrogatepass")).hexdigest()


def translate_logs(logs: Iterable[LogEvent]) -> list[Record]:
    """Return a partial record for each call that log records speak of; those of one span are one."""
    found: dict[tuple[str, str], list[LogEvent]] = {}
    loose: list[LogEvent] = []
    for log in logs:
        if log.trace_id is not None and log.span_id is not None:
            found.setdefault((log.trace_id, log.span_id), []).append(log)
        else:
            loose.append(log)
    parts = [_part(trace_id, span_id, entries) for (trace_id, span_id), entries in found.items()]
    for log in loose:
        response_id = _response_id(log) or ""
        digest = response_key(log.scope.name, response_id)
        record = _part(digest[:32], digest[32:48], [log])
        kept = {**(to_json(record.attributes) or {}), HALF: {"key": digest, "at": 0, "answer": True}}
        parts.append(msgspec.structs.replace(record, attributes=to_raw(kept)))
    return parts


def _response_id(log: LogEvent) -> str | None:
    found = log.attributes.get(semconv.GEN_AI_RESPONSE_ID)
    return found if isinstance(found, str) and found else None


def _part(trace_id: str, span_id: str, logs: list[LogEvent]) -> Record:
    """Return the record of the log records of one span: no name, no times, only what they say."""
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
            said = {**log.attributes, **(log.body if isinstance(log.body, dict) else {"content": log.body})}
            said = {name: value for name, value in said.items() if name not in ("event.name", "gen_ai.system")}
            events.append({"name": log.name, "time": log.time_unix_nano, "said": said})
    span = Span(trace_id, span_id, None, "", logs[0].scope, attributes=attributes)
    record = translate(span)
    kept = to_json(record.attributes) or {}
    kept.pop("resource", None)
    kept.pop("otel.scope.version", None)
    kept[PARTIAL] = True
    flags = omit_flags(*(log.attributes for log in logs), logs[0].scope.resource)
    if flags:
        kept[OMIT] = flags
    if events:
        kept[LOG_EVENTS] = sorted(events, key=lambda event: event["time"])
    failed = "exception.type" in attributes
    counts: dict[str, Any] = {}
    if span.scope.name.startswith("openlit"):  # the span tells which of its counts are guesses; a log record does not
        counts = {"input_tokens": None, "output_tokens": None, "total_tokens": None, "usage": {}, "cost": None}
    return with_log_events(
        msgspec.structs.replace(
            record,
            **counts,
            kind=semconv.LLM if events and record.kind == semconv.CHAIN else record.kind,
            inputs=record.inputs if record.kind != semconv.LLM else ABSENT,
            status=semconv.ERROR if failed else semconv.SUCCESS,
            error=str(attributes.get("exception.message") or "") or None if failed else None,
            error_type=str(attributes.get("exception.type")) if failed else None,
            latency=None,
            start_time_unix_nano=0,
            end_time_unix_nano=0,
            attributes=to_raw(kept),
        )
    )
