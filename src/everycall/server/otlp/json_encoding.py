"""OTLP requests in JSON: lowerCamelCase names, ids in hex, enums as numbers, 64-bit numbers as text or number.

Each span is decoded on its own: one of the wrong types is rejected alone. Unknown members are ignored.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import Raw

from everycall import limits
from everycall.dialects import Event, LogEvent, Scope, Span
from everycall.server.otlp.requests import Batch, Undecodable, bounded, checked_span, scope_of, within_bounds

__all__ = ["read_logs", "read_metrics", "read_traces"]


class _Scoped(msgspec.Struct, rename="camel"):
    scope: Raw = Raw(b"{}")
    spans: list[Raw] = []
    log_records: list[Raw] = []
    metrics: list[Raw] = []


class _Resourced(msgspec.Struct, rename="camel"):
    resource: Raw = Raw(b"{}")
    scope_spans: list[_Scoped] = []
    scope_logs: list[_Scoped] = []
    scope_metrics: list[_Scoped] = []


class _Request(msgspec.Struct, rename="camel"):
    resource_spans: list[_Resourced] = []
    resource_logs: list[_Resourced] = []
    resource_metrics: list[_Resourced] = []


_request = msgspec.json.Decoder(_Request)
_any = msgspec.json.Decoder()


def read_traces(body: bytes, arrived: int) -> Batch:
    """Read an `ExportTraceServiceRequest`. Raises `Undecodable` for what is not one."""
    batch = Batch()
    for resourced in _decode(body, "ExportTraceServiceRequest").resource_spans:
        for scope, scoped in _scopes(resourced, resourced.scope_spans, batch):
            for raw in scoped.spans:
                message = _object(raw, "a span", batch)
                if message is not None:
                    _keep(batch, scope, message, arrived)
    return batch


def read_logs(body: bytes) -> Batch:
    """Read an `ExportLogsServiceRequest`. Raises `Undecodable` for what is not one."""
    batch = Batch()
    for resourced in _decode(body, "ExportLogsServiceRequest").resource_logs:
        for scope, scoped in _scopes(resourced, resourced.scope_logs, batch):
            for raw in scoped.log_records:
                message = _object(raw, "a log record", batch)
                if message is None:
                    continue
                try:
                    batch.logs.append(_log(scope, message))
                except (ValueError, TypeError, AttributeError, RecursionError) as error:
                    batch.reject(f"a log record cannot be read: {_why(error)}")
    return batch


def read_metrics(body: bytes) -> Batch:
    """Count the data points of an `ExportMetricsServiceRequest`. Raises `Undecodable` for what is not one."""
    batch = Batch()
    for resourced in _decode(body, "ExportMetricsServiceRequest").resource_metrics:
        for scoped in resourced.scope_metrics:
            for raw in scoped.metrics:
                metric = _object(raw, "a metric", batch) or {}
                batch.points += sum(
                    len(data["dataPoints"])
                    for data in metric.values()
                    if isinstance(data, dict) and isinstance(data.get("dataPoints"), list)
                )
    return batch


def _decode(body: bytes, what: str) -> _Request:
    try:
        return _request.decode(body)
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise Undecodable(f"the body is no {what} in JSON: {error}") from None
    except RecursionError:
        raise Undecodable(f"the body is no {what}: it is nested too deep") from None


def _scopes(resourced: _Resourced, scoped: list[_Scoped], batch: Batch) -> Iterator[tuple[Scope, _Scoped]]:
    resource = _attributes((_object(resourced.resource, "a resource", batch) or {}).get("attributes"))[0]
    for one in scoped:
        scope = _object(one.scope, "a scope", batch) or {}
        name, version = scope.get("name"), scope.get("version")
        attributes = _attributes(scope.get("attributes"))[0]
        yield (
            scope_of(
                name if isinstance(name, str) else "", version if isinstance(version, str) else "", attributes, resource
            ),
            one,
        )


def _object(raw: Raw, what: str, batch: Batch) -> dict[str, Any] | None:
    try:
        value = _any.decode(raw)
    except (msgspec.MsgspecError, UnicodeError) as error:
        batch.reject(f"{what} cannot be read: {error}")
        return None
    except RecursionError:
        batch.reject(f"{what} is nested too deep")
        return None
    if not isinstance(value, dict):
        batch.reject(f"{what} must be an object")
        return None
    return value


def _keep(batch: Batch, scope: Scope, message: dict[str, Any], arrived: int) -> None:
    try:
        batch.spans.append(_span(scope, message, arrived))
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        batch.reject(f"a span cannot be read: {_why(error)}")


def _why(error: Exception) -> str:
    return "it is nested too deep" if isinstance(error, RecursionError) else str(error)


def _span(scope: Scope, message: dict[str, Any], arrived: int) -> Span:
    attributes, dropped = _attributes(message.get("attributes"))
    times = (
        _whole(message.get("startTimeUnixNano"), "startTimeUnixNano"),
        _whole(message.get("endTimeUnixNano"), "endTimeUnixNano"),
    )
    start, end = within_bounds(*times, arrived)
    status = message.get("status") or {}
    name = message.get("name", "")
    if not isinstance(name, str) or not isinstance(status, dict):
        raise TypeError("name must be a text and status an object")
    code = status.get("code", 0)
    if not isinstance(code, int):
        raise TypeError("status.code must be a number")

    def build(trace_id: str, span_id: str, parent_id: str | None) -> Span:
        return Span(
            trace_id,
            span_id,
            parent_id,
            name,
            scope,
            start,
            end,
            attributes,
            tuple(_event(event) for event in message.get("events") or ()),
            tuple(_link(link) for link in message.get("links") or ()),
            code,
            str(status.get("message") or ""),
            _whole(message.get("droppedAttributesCount"), "droppedAttributesCount") + dropped,
        )

    trace_id, span_id, parent_id = (_hex(message.get(key), key) for key in ("traceId", "spanId", "parentSpanId"))
    return checked_span(trace_id, span_id, parent_id, build)


def _event(event: dict[str, Any]) -> Event:
    return Event(
        str(event.get("name") or ""),
        _whole(event.get("timeUnixNano"), "timeUnixNano"),
        _attributes(event.get("attributes"))[0],
    )


def _link(link: dict[str, Any]) -> dict[str, Any]:
    return {"trace_id": link.get("traceId"), "span_id": link.get("spanId"), **_attributes(link.get("attributes"))[0]}


def _log(scope: Scope, message: dict[str, Any]) -> LogEvent:
    attributes = _attributes(message.get("attributes"))[0]
    name = message.get("eventName") or attributes.get("event.name")
    trace_id, span_id = _hex(message.get("traceId"), "traceId"), _hex(message.get("spanId"), "spanId")
    at = _whole(message.get("timeUnixNano"), "timeUnixNano") or _whole(message.get("observedTimeUnixNano"), "time")
    return LogEvent(
        name if isinstance(name, str) else "",
        scope,
        trace_id if len(trace_id) == 32 and trace_id.strip("0") else None,
        span_id if len(span_id) == 16 and span_id.strip("0") else None,
        at,
        _value(message.get("body")),
        attributes,
    )


def _hex(value: Any, name: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a text of hex digits")
    lower = value.lower()
    bytes.fromhex(lower)
    return lower


def _whole(value: Any, name: str) -> int:
    if value is None or value == "":
        return 0
    if isinstance(value, bool) or not isinstance(value, (int, str, float)):
        raise TypeError(f"{name} must be a whole number, as a number or a text")
    return max(int(value), 0)


def _attributes(pairs: Any) -> tuple[dict[str, Any], int]:
    if pairs is None:
        return {}, 0
    if not isinstance(pairs, list):
        raise TypeError("attributes must be a list of keys and values")
    return bounded(
        (str(pair["key"]), _value(pair.get("value"))) for pair in pairs if isinstance(pair, dict) and "key" in pair
    )


def _value(value: Any, depth: int = 0) -> Any:
    if not isinstance(value, dict) or depth > limits.NESTING_MAX:
        return None
    for kind, found in value.items():
        if kind == "intValue":
            return int(found)
        if kind in ("stringValue", "boolValue", "bytesValue"):
            return found
        if kind == "doubleValue":
            return _double(found)
        if kind == "arrayValue":
            return [_value(item, depth + 1) for item in (found or {}).get("values") or ()]
        if kind == "kvlistValue":
            return {
                str(pair["key"]): _value(pair.get("value"), depth + 1) for pair in (found or {}).get("values") or ()
            }
    return None


def _double(value: Any) -> Any:
    """Return a double; not-a-number and infinity, which JSON writes as text, stay the text."""
    return value if isinstance(value, (int, float, str)) else None
