"""Joins two records of one call: a span and its log events, the halves of a stream, a client below a framework.

Pure functions. The order in which the two arrived does not matter, and joining the same part again changes nothing.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import Raw

from everycall import semconv
from everycall.dialects.gen_ai import event_messages
from everycall.dialects.marks import LOG_EVENTS, OMIT, PARTIAL, joined_flags
from everycall.dialects.messages import answer_text
from everycall.dialects.spans import Event
from everycall.dialects.values import is_empty
from everycall.record import ABSENT, Record, to_json, to_raw

__all__ = ["is_partial", "join", "join_halves", "with_log_events"]

_OF_ANSWER: Final = (
    *("model", "content", "output", "input_tokens", "output_tokens", "total_tokens", "cost", "cost_source"),
)
_OBJECTS: Final = ("llm_configuration", "metadata", "attributes")
_OF_PLACE: Final = frozenset(
    {
        *("inference_id", "trace_id", "parent_id", "name", "kind", "project_name", "start_time_unix_nano", "scope"),
        *("end_time_unix_nano", "latency", "status", "counted_in", "sdk", "attributes", "omitted", "truncated"),
    }
)
"""Fields that say where and when a call took place, or that are joined by their own rules."""


def is_partial(record: Record) -> bool:
    """Return whether only log events of the record's span have arrived so far."""
    return record.attributes is not ABSENT and PARTIAL.encode() in bytes(record.attributes)


def join(base: Record, part: Record) -> Record:
    """Return `base` with the fields that only `part` has.

    Objects are joined member by member, log events are sorted by time, and messages from log events are read again from
    all of them. If `part` failed, so did the call.
    """
    changes: dict[str, Any] = {}
    for name in Record.__struct_fields__:
        if name in _OF_PLACE:
            continue
        value, more = getattr(base, name), getattr(part, name)
        if name in _OBJECTS:
            joined = _joined(value, more)
            if joined is not value:
                changes[name] = joined
        elif name == "usage":
            if more and more.keys() - value.keys():
                changes[name] = {**more, **value}
        elif _is_absent(value) and not _is_absent(more):
            changes[name] = more
    if base.kind == semconv.CHAIN and part.kind != semconv.CHAIN and is_partial(base):
        changes["kind"] = part.kind
    if part.status == semconv.ERROR != base.status:
        changes.update(status=semconv.ERROR, error=base.error or part.error)
    changes.update(_attributes(base, part))
    if not changes:
        return base
    return with_log_events(msgspec.structs.replace(base, **changes))


def join_halves(request: Record, answer: Record) -> Record:
    """Return the request's record with the answer, which its sender put into a separate span.

    The model, tokens, content and cost are the answer's. The call ended when the answer's span started.
    """
    fields = {
        name: value
        for name in (
            "model",
            "content",
            "output",
            "input_tokens",
            "output_tokens",
            "total_tokens",
            "cost",
            "cost_source",
        )
        if not _is_absent(value := getattr(answer, name))
    }
    whole = join(msgspec.structs.replace(request, **fields), answer)
    end = max(answer.start_time_unix_nano, request.end_time_unix_nano)
    return msgspec.structs.replace(
        whole, end_time_unix_nano=end, latency=(end - request.start_time_unix_nano) / 1e9, counted_in=None
    )


def with_log_events(record: Record) -> Record:
    """Return the record with the messages, tools and answer read from its log events, if it has any."""
    if record.attributes is ABSENT or LOG_EVENTS.encode() not in bytes(record.attributes):
        return record
    entries = (to_json(record.attributes) or {}).get(LOG_EVENTS)
    if not isinstance(entries, list):
        return record
    events = [Event(entry["name"], entry["time"], entry["said"]) for entry in entries if _is_log_event(entry)]
    messages, answer, tools = event_messages(events)
    configuration = to_json(record.llm_configuration) or {}
    changes: dict[str, Any] = {}
    fields = {"messages": messages, "functions": tools}
    new = {name: value for name, value in fields.items() if value}
    if new and {**configuration, **new} != configuration:
        changes["llm_configuration"] = to_raw({**configuration, **new})
    if answer:
        changes["content"] = answer_text(answer)
        if len(answer) > 1 or any(not is_empty(v) for k, v in answer[0].items() if k not in ("role", "content")):
            changes["output"] = to_raw(answer if len(answer) > 1 else answer[0])
    return msgspec.structs.replace(record, **changes) if changes else record


def _joined(value: Raw, more: Raw) -> Raw:
    if more is ABSENT or bytes(more) == b"null":
        return value
    if value is ABSENT or bytes(value) == b"null":
        return more
    one, other = to_json(value), to_json(more)
    if not isinstance(one, dict) or not isinstance(other, dict) or not other.keys() - one.keys():
        return value
    return to_raw({**other, **one})


def _attributes(base: Record, part: Record) -> dict[str, Any]:
    """Return the attributes of both, with log events by time. The result is partial only if both are."""
    one, other = to_json(base.attributes) or {}, to_json(part.attributes) or {}
    if not isinstance(one, dict) or not isinstance(other, dict):
        return {}
    joined = {**other, **one}
    if OMIT in one and OMIT in other:
        joined[OMIT] = joined_flags((one[OMIT], other[OMIT]))
    events = _by_time(one.get(LOG_EVENTS), other.get(LOG_EVENTS))
    if events:
        joined[LOG_EVENTS] = events
    if not (PARTIAL in one and PARTIAL in other):
        joined.pop(PARTIAL, None)
    return {"attributes": to_raw(joined)} if joined != one else {}


def _by_time(one: Any, other: Any) -> list[Any]:
    entries = {
        msgspec.json.encode(entry): entry
        for entries in (one, other)
        if isinstance(entries, list)
        for entry in entries
        if _is_log_event(entry)
    }
    return sorted(entries.values(), key=lambda entry: int(entry["time"]))


def _is_log_event(entry: Any) -> bool:
    """Return whether an entry of `LOG_EVENTS` has the form that `logs` writes. A sender may set the attribute too."""
    return (
        isinstance(entry, dict)
        and isinstance(entry.get("name"), str)
        and isinstance(entry.get("time"), int)
        and isinstance(entry.get("said"), dict)
    )


def _is_absent(value: Any) -> bool:
    return (
        value is None
        or value is ABSENT
        or value in ("", [], {})
        or (isinstance(value, Raw) and bytes(value) == b"null")
    )
