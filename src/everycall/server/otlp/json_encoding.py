"""OTLP requests in JSON: lowerCamelCase names, ids in hex, enums as numbers, 64-bit numbers as numbers or strings.

Each part is decoded on its own, so a span with wrong types is rejected alone. Unknown members are ignored, and `null`
is the same as leaving a member out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

import msgspec
from msgspec import Raw

from everycall.dialects import Event, LogEvent, Scope, Span
from everycall.server.otlp.json_values import any_value, attributes_of, hex_id, member, unsigned
from everycall.server.otlp.requests import Batch, Undecodable, checked_span, scope_of, too_many, within_bounds

__all__ = ["read_logs", "read_metrics", "read_traces"]

_NULL: Final = Raw(b"null")
_BRACKET_OR_STRING: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[\[\]{}]', re.DOTALL)
_SURROGATE: Final = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")
_ESCAPE: Final = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|" + _SURROGATE.pattern + rb"|\\."
)
"""A pair of surrogates, a lone one, or any other escape."""
_LEVELS_MAX: Final = 500
"""The levels of nesting up to which a body is decoded whole. The decoder fails at about twice as many."""
_WRONG: Final = (ValueError, TypeError, AttributeError, RecursionError)
_STATUS_CODES: Final = {"STATUS_CODE_UNSET": 0, "STATUS_CODE_OK": 1, "STATUS_CODE_ERROR": 2}


class _Request(msgspec.Struct, rename="camel"):
    resource_spans: Raw = _NULL
    resource_logs: Raw = _NULL
    resource_metrics: Raw = _NULL


class _Resourced(msgspec.Struct, rename="camel"):
    resource: Raw = _NULL
    scope_spans: Raw = _NULL
    scope_logs: Raw = _NULL
    scope_metrics: Raw = _NULL


class _Scoped(msgspec.Struct, rename="camel"):
    scope: Raw = _NULL
    spans: Raw = _NULL
    log_records: Raw = _NULL
    metrics: Raw = _NULL


_REQUESTS: Final = {
    "spans": ("ExportTraceServiceRequest", "spans"),
    "logs": ("ExportLogsServiceRequest", "log_records"),
    "metrics": ("ExportMetricsServiceRequest", "metrics"),
}
"""Group of entries -> the request's name, and the member of a scope that lists the entries."""
_request = msgspec.json.Decoder(_Request)
_resourced = msgspec.json.Decoder(_Resourced)
_scoped = msgspec.json.Decoder(_Scoped)
_list = msgspec.json.Decoder(list[Raw] | None)
_any = msgspec.json.Decoder()


def read_traces(body: bytes, arrived: int, batch: Batch) -> Iterator[Span]:
    """Yield the spans of an `ExportTraceServiceRequest`; `batch` notes those that are rejected.

    `arrived` stands for times that were not sent (Unix nanoseconds). Raise `Undecodable` if the body is something else.
    """
    for scope, raw in _entries(body, "spans", batch):
        message = _object(raw, "a span", batch)
        if message is None:
            continue
        try:
            span = _span(scope, message, arrived, batch)
        except _WRONG as error:
            batch.reject(f"a span cannot be read: {_why(error)}")
        else:
            yield span


def read_logs(body: bytes) -> Batch:
    """Read an `ExportLogsServiceRequest`. Raise `Undecodable` if the body is something else."""
    batch = Batch()
    for scope, raw in _entries(body, "logs", batch):
        message = _object(raw, "a log record", batch)
        if message is None:
            continue
        try:
            batch.logs.append(_log(scope, message))
        except _WRONG as error:
            batch.reject(f"a log record cannot be read: {_why(error)}")
    return batch


def read_metrics(body: bytes) -> Batch:
    """Count the data points of an `ExportMetricsServiceRequest`. Raise `Undecodable` if the body is something else."""
    batch = Batch()
    for _, raw in _entries(body, "metrics", batch):
        metric = _object(raw, "a metric", batch) or {}
        batch.points += sum(
            len(data["dataPoints"])
            for data in metric.values()
            if isinstance(data, dict) and isinstance(data.get("dataPoints"), list)
        )
    return batch


def _entries(body: bytes, signal: str, batch: Batch) -> Iterator[tuple[Scope, Raw]]:
    """Yield each span, log record or metric of a request as JSON, with its scope."""
    request_name, name = _REQUESTS[signal]
    request = _decode(body, request_name, batch)
    try:
        resources = _list.decode(getattr(request, f"resource_{signal}")) or []
    except msgspec.MsgspecError:
        raise Undecodable(f"the body is not an {request_name}: resource{signal.capitalize()} must be a list") from None
    for raw_resource in resources:
        resourced = _struct(raw_resource, _resourced, f"an entry of resource{signal.capitalize()}", batch)
        resource = _named_attributes(_parsed(resourced.resource, "a resource", batch), "a resource", batch)
        for raw_scope in _listed(resourced, f"scope_{signal}", batch):
            scoped = _struct(raw_scope, _scoped, f"an entry of scope{signal.capitalize()}", batch)
            scope = _scope(_parsed(scoped.scope, "a scope", batch), resource, batch)
            for raw in _listed(scoped, name, batch):
                yield scope, raw


def _decode(body: bytes, request_name: str, batch: Batch) -> _Request:
    """Return a request, without the parts that the decoder cannot read. Raise `Undecodable` if it is something else."""
    reason = ""
    for _ in range(3):
        try:
            return _request.decode(body)
        except RecursionError as error:
            reason, readable = _plain(error), _without_deep_values(body)
        except (msgspec.MsgspecError, UnicodeError) as error:
            reason, readable = _plain(error), _without_lone_surrogates(body, batch)
        if readable == body:
            break
        body = readable
    raise Undecodable(f"the body is not an {request_name} in JSON: {reason}")


def _without_lone_surrogates(body: bytes, batch: Batch) -> bytes:
    """Return a body with U+FFFD for each lone surrogate. JavaScript writes them where it cuts text in a character."""
    if _SURROGATE.search(body) is None:
        return body
    readable = _ESCAPE.sub(lambda match: b"\\ufffd" if _SURROGATE.fullmatch(match[0]) else match[0], body)
    if readable != body:
        batch.warn("half characters (lone surrogates) were replaced by U+FFFD")
    return readable


def _without_deep_values(body: bytes) -> bytes:
    """Return a body with `null` for each value that is nested deeper than `_LEVELS_MAX` levels.

    The decoder can then read the rest. A span with such a value is rejected anyway, because its own limit is lower.
    """
    pieces: list[bytes] = []
    depth = end = start = 0
    for match in _BRACKET_OR_STRING.finditer(body):
        character = body[match.start()]
        if character in b"[{":
            depth += 1
            if depth == _LEVELS_MAX + 1:
                start = match.start()
        elif character in b"]}":
            if depth == _LEVELS_MAX + 1:
                pieces += (body[end:start], b"null")
                end = match.end()
            depth -= 1
    pieces.append(body[end:])
    return b"".join(pieces)


def _struct(raw: Raw, decoder: msgspec.json.Decoder[Any], name: str, batch: Batch) -> Any:
    """Return a decoded struct. If it has the wrong type, reject it and return an empty one."""
    try:
        return decoder.decode(raw)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        if bytes(raw) != b"null":
            batch.reject(f"{name} cannot be read: {_plain(error)}")
        return decoder.decode(b"{}")


def _listed(struct: msgspec.Struct, member: str, batch: Batch) -> list[Raw]:
    try:
        return _list.decode(getattr(struct, member)) or []
    except (msgspec.MsgspecError, RecursionError):
        batch.reject(f"{_camel(member)} must be a list")
        return []


def _camel(name: str) -> str:
    first, *words = name.split("_")
    return first + "".join(word.capitalize() for word in words)


def _parsed(raw: Raw, name: str, batch: Batch) -> dict[str, Any]:
    """Return a resource or scope; an empty one, with a warning, if it has the wrong type."""
    try:
        value = _any.decode(raw)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        batch.warn(f"{name} cannot be read and is left out: {_plain(error)}")
        return {}
    if not isinstance(value, dict | None):
        batch.warn(f"{name} must be an object and is left out")
        return {}
    return value or {}


def _named_attributes(message: dict[str, Any], name: str, batch: Batch) -> dict[str, Any]:
    try:
        return attributes_of(message.get("attributes"))[0]
    except _WRONG as error:
        batch.warn(f"the attributes of {name} cannot be read and are left out: {_why(error)}")
        return {}


def _scope(message: dict[str, Any], resource: dict[str, Any], batch: Batch) -> Scope:
    name, version = message.get("name"), message.get("version")
    attributes = _named_attributes(message, "a scope", batch)
    name, version = (text if isinstance(text, str) else "" for text in (name, version))
    return scope_of(name, version, attributes, resource)


def _object(raw: Raw, name: str, batch: Batch) -> dict[str, Any] | None:
    try:
        value = _any.decode(raw)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        batch.reject(f"{name} cannot be read: {_plain(error)}")
        return None
    if not isinstance(value, dict):
        batch.reject(f"{name} must be an object")
        return None
    return value


def _why(error: Exception) -> str:
    if isinstance(error, AttributeError):
        return "a part of it has the wrong type"
    return _plain(error)


def _plain(error: Exception) -> str:
    """Return a decoder's error as a message for the sender."""
    if isinstance(error, RecursionError):
        return "it is nested too deep"
    return "it is not UTF-8" if isinstance(error, UnicodeError) else str(error).replace("`", "")


def _span(scope: Scope, message: dict[str, Any], arrived: int, batch: Batch) -> Span:
    attributes, dropped = attributes_of(message.get("attributes"))
    if dropped:
        batch.warn(too_many(len(attributes) + dropped))
    times = (
        unsigned(message.get("startTimeUnixNano"), "startTimeUnixNano"),
        unsigned(message.get("endTimeUnixNano"), "endTimeUnixNano"),
    )
    start, end = within_bounds(*times, arrived)
    status = member(message, "status", dict)
    events, links = member(message, "events", list), member(message, "links", list)
    code = status.get("code") or 0
    code = _STATUS_CODES.get(code, code) if isinstance(code, str) else code
    if not isinstance(code, int):
        raise TypeError("status.code must be 0, 1 or 2")
    trace_id, span_id, parent_id = (hex_id(message.get(key), key) for key in ("traceId", "spanId", "parentSpanId"))
    dropped += unsigned(message.get("droppedAttributesCount"), "droppedAttributesCount")

    def build(trace_id: str, span_id: str, parent_id: str | None) -> Span:
        return Span(
            trace_id,
            span_id,
            parent_id,
            member(message, "name", str),
            scope,
            start,
            end,
            attributes,
            tuple(map(_event, events)),
            tuple(map(_link, links)),
            code,
            member(status, "message", str),
            dropped,
        )

    return checked_span(trace_id, span_id, parent_id, build)


def _event(event: Any) -> Event:
    if not isinstance(event, dict):
        raise TypeError("an event must be an object")
    time = unsigned(event.get("timeUnixNano"), "an event's timeUnixNano")
    return Event(member(event, "name", str), time, attributes_of(event.get("attributes"))[0])


def _link(link: Any) -> dict[str, Any]:
    if not isinstance(link, dict):
        raise TypeError("a link must be an object")
    ids = {"trace_id": hex_id(link.get("traceId"), "traceId"), "span_id": hex_id(link.get("spanId"), "spanId")}
    return {**ids, **attributes_of(link.get("attributes"))[0]}


def _log(scope: Scope, message: dict[str, Any]) -> LogEvent:
    attributes = attributes_of(message.get("attributes"))[0]
    name = message.get("eventName") or attributes.get("event.name")
    trace_id, span_id = hex_id(message.get("traceId"), "traceId"), hex_id(message.get("spanId"), "spanId")
    time = unsigned(message.get("timeUnixNano"), "timeUnixNano")
    observed = unsigned(message.get("observedTimeUnixNano"), "observedTimeUnixNano")
    return LogEvent(
        name if isinstance(name, str) else "",
        scope,
        trace_id if len(trace_id) == 32 and trace_id.strip("0") else None,
        span_id if len(span_id) == 16 and span_id.strip("0") else None,
        time or observed,
        any_value(message.get("body")),
        attributes,
    )
