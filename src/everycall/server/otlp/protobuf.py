"""OTLP requests in protobuf: the generated classes, and a hand-written converter, ten times as fast as the generic one.

If a request cannot be parsed as a whole, its spans are parsed one by one: those that fail are rejected.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Iterator
from typing import Any, Final

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span as SpanMessage

from everycall import limits
from everycall.dialects import Event, LogEvent, Scope, Span
from everycall.server.otlp.requests import Batch, Undecodable, bounded, checked_span, scope_of, too_many, within_bounds

__all__ = ["read_logs", "read_metrics", "read_traces"]

_LENGTH_DELIMITED: Final = 2
_FIXED: Final = {1: 8, 5: 4}


def read_traces(body: bytes, arrived: int, batch: Batch) -> Iterator[Span]:
    """Yield the spans of an `ExportTraceServiceRequest`; `batch` notes those that are rejected.

    `arrived` stands for times that were not sent (Unix nanoseconds). Raise `Undecodable` if no span can be read.
    """
    request = ExportTraceServiceRequest()
    try:
        request.ParseFromString(body)
    except (DecodeError, RecursionError) as error:
        is_readable = False
        for scope, raw in _taken_apart(body, batch):
            for span in _raw_span(batch, scope, raw, arrived):
                is_readable = True
                yield span
        if not is_readable:
            raise Undecodable(f"the body is not an ExportTraceServiceRequest in protobuf: {_plain(error)}") from None
        return
    del body
    for resource_spans in request.resource_spans:
        resource = _attributes(resource_spans.resource.attributes)[0]
        for scope_spans in resource_spans.scope_spans:
            scope = _scope(scope_spans.scope, resource)
            for message in scope_spans.spans:
                yield from _checked(batch, scope, message, arrived)


def read_logs(body: bytes) -> Batch:
    """Read an `ExportLogsServiceRequest`. Raise `Undecodable` if no log record can be read."""
    batch = Batch()
    request = ExportLogsServiceRequest()
    try:
        request.ParseFromString(body)
    except (DecodeError, RecursionError) as error:
        for scope, raw in _taken_apart(body, batch):
            message = LogRecord()
            try:
                message.ParseFromString(raw)
            except (DecodeError, RecursionError) as broken:
                batch.reject(f"a log record cannot be read: {_plain(broken)}")
                continue
            batch.logs.append(_log(scope, message))
        if not batch.logs:
            raise Undecodable(f"the body is not an ExportLogsServiceRequest in protobuf: {_plain(error)}") from None
        return batch
    for resource_logs in request.resource_logs:
        resource = _attributes(resource_logs.resource.attributes)[0]
        for scope_logs in resource_logs.scope_logs:
            scope = _scope(scope_logs.scope, resource)
            batch.logs.extend(_log(scope, message) for message in scope_logs.log_records)
    return batch


def read_metrics(body: bytes) -> Batch:
    """Count the data points of an `ExportMetricsServiceRequest`. Raise `Undecodable` if the body is something else."""
    request = ExportMetricsServiceRequest()
    try:
        request.ParseFromString(body)
    except (DecodeError, RecursionError) as error:
        raise Undecodable(f"the body is not an ExportMetricsServiceRequest in protobuf: {_plain(error)}") from None
    points = 0
    for resource_metrics in request.resource_metrics:
        for scope_metrics in resource_metrics.scope_metrics:
            for metric in scope_metrics.metrics:
                kind = metric.WhichOneof("data")
                points += len(getattr(metric, kind).data_points) if kind is not None else 0
    return Batch(points=points)


def _checked(batch: Batch, scope: Scope, message: SpanMessage, arrived: int) -> Iterable[Span]:
    """Return a span as a tuple of one, or an empty tuple if it is rejected."""
    try:
        return (_span(scope, message, arrived, batch),)
    except ValueError as error:
        batch.reject(str(error))
        return ()


def _raw_span(batch: Batch, scope: Scope, raw: bytes, arrived: int) -> Iterable[Span]:
    message = SpanMessage()
    try:
        message.ParseFromString(raw)
    except (DecodeError, RecursionError) as error:
        batch.reject(f"a span cannot be read: {_plain(error)}")
        return ()
    return _checked(batch, scope, message, arrived)


def _span(scope: Scope, message: SpanMessage, arrived: int, batch: Batch) -> Span:
    attributes, dropped = _attributes(message.attributes)
    if dropped:
        batch.warn(too_many(len(attributes) + dropped))
    start, end = within_bounds(message.start_time_unix_nano, message.end_time_unix_nano, arrived)

    def build(trace_id: str, span_id: str, parent_id: str | None) -> Span:
        return Span(
            trace_id,
            span_id,
            parent_id,
            message.name,
            scope,
            start,
            end,
            attributes,
            tuple(Event(e.name, e.time_unix_nano, _attributes(e.attributes)[0]) for e in message.events),
            tuple(
                {"trace_id": link.trace_id.hex(), "span_id": link.span_id.hex(), **_attributes(link.attributes)[0]}
                for link in message.links
            ),
            message.status.code,
            message.status.message,
            message.dropped_attributes_count + dropped,
        )

    return checked_span(message.trace_id.hex(), message.span_id.hex(), message.parent_span_id.hex(), build)


def _log(scope: Scope, message: LogRecord) -> LogEvent:
    attributes = _attributes(message.attributes)[0]
    name = message.event_name or attributes.get("event.name")
    return LogEvent(
        name if isinstance(name, str) else "",
        scope,
        message.trace_id.hex() if len(message.trace_id) == 16 and any(message.trace_id) else None,
        message.span_id.hex() if len(message.span_id) == 8 and any(message.span_id) else None,
        message.time_unix_nano or message.observed_time_unix_nano,
        _value(message.body),
        attributes,
    )


def _scope(scope: InstrumentationScope, resource: dict[str, Any]) -> Scope:
    return scope_of(scope.name, scope.version, _attributes(scope.attributes)[0], resource)


def _attributes(pairs: Any) -> tuple[dict[str, Any], int]:
    if len(pairs) > limits.OTLP_ATTRIBUTES_MAX:
        return bounded((pair.key, pair.value.string_value or _value(pair.value)) for pair in pairs)
    attributes = {}
    for pair in pairs:
        value = pair.value
        attributes[pair.key[: limits.NAME_CHARS_MAX]] = value.string_value or _value(value)
    return attributes, 0


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind is None:
        return None
    content = getattr(value, kind)
    if kind == "array_value":
        return [item.string_value or _value(item) for item in content.values]
    if kind == "kvlist_value":
        return {pair.key: pair.value.string_value or _value(pair.value) for pair in content.values}
    if kind == "bytes_value":
        return base64.b64encode(content).decode()
    if kind == "double_value" and not math.isfinite(content):  # JSON has no numbers for them
        if math.isnan(content):
            return "NaN"
        return "Infinity" if content > 0 else "-Infinity"
    return content


def _taken_apart(body: bytes, batch: Batch) -> Iterator[tuple[Scope, bytes]]:
    """Yield each whole span (or log record) of a request as bytes, with its scope; reject the rest.

    Fields have the same numbers in requests of spans and of log records: 1 is the resource or scope, 2 its contents.
    """
    for resource_spans in _fields(memoryview(body), 1, partial=True):
        resource: dict[str, Any] = {}
        for raw in _fields(resource_spans, 1):
            message = Resource()
            if _parsed(message, raw, "a resource", batch):
                resource = _attributes(message.attributes)[0]
        for scope_spans in _fields(resource_spans, 2, partial=True):
            scope = Scope(resource=resource)
            for raw in _fields(scope_spans, 1):
                scope_message = InstrumentationScope()
                if _parsed(scope_message, raw, "a scope", batch):
                    scope = _scope(scope_message, resource)
            for raw in _fields(scope_spans, 2):
                yield scope, bytes(raw)
    if not batch.rejected:  # every whole span could be read
        batch.reject("the body is cut off or damaged after the last span that could be read")


def _parsed(message: Resource | InstrumentationScope, raw: memoryview, name: str, batch: Batch) -> bool:
    try:
        message.ParseFromString(bytes(raw))
    except (DecodeError, RecursionError) as error:
        batch.warn(f"{name} cannot be read and is left out: {_plain(error)}")
        return False
    return True


def _fields(data: memoryview, number: int, *, partial: bool = False) -> Iterator[memoryview]:
    """Yield the length-delimited fields with this number, up to where the bytes are cut off or damaged.

    With `partial`, also yield the beginning of a field that is cut off.
    """
    position = 0
    try:
        while position < len(data):
            tag, position = _varint(data, position)
            field, wire = tag >> 3, tag & 7
            if wire == _LENGTH_DELIMITED:
                length, position = _varint(data, position)
                if field == number and (partial or position + length <= len(data)):
                    yield data[position : position + length]
                position += length
            elif wire == 0:
                _, position = _varint(data, position)
            elif wire in _FIXED:
                position += _FIXED[wire]
            else:
                return
    except (ValueError, IndexError):
        return


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 70:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise ValueError("not a varint")


def _plain(error: Exception) -> str:
    """Return the parser's error as a message for the sender."""
    text = str(error)
    if isinstance(error, RecursionError) or "MaxDepth" in text:
        return "a value is nested too deep; send it as a JSON string"
    if "UTF-8" in text:
        return "a string is not UTF-8"
    return "it is cut off or damaged"
