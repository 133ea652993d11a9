"""OTLP requests of our own: a span or a trace in either encoding, and the responses read back."""

from __future__ import annotations

import json
import time
from typing import Any

import httpx
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

__all__ = ["JSON", "PROTOBUF", "export", "log_json", "partial_success", "send", "span_json", "status_of", "to_protobuf"]

JSON = "application/json"
PROTOBUF = "application/x-protobuf"


def value_json(value: Any) -> dict[str, Any]:
    """Return a value as OTLP's `AnyValue` in JSON."""
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    if isinstance(value, float):
        return {"doubleValue": value}
    if isinstance(value, list):
        return {"arrayValue": {"values": [value_json(item) for item in value]}}
    if isinstance(value, dict):
        return {"kvlistValue": {"values": attributes_json(value)}}
    return {"stringValue": value}


def attributes_json(attributes: dict[str, Any]) -> list[dict[str, Any]]:
    """Return attributes as OTLP's list of keys and values."""
    return [{"key": name, "value": value_json(value)} for name, value in attributes.items()]


def span_json(span: str, trace: str = "a1", parent: str | None = None, **members: Any) -> dict[str, Any]:
    """Return a span in JSON. Ids are filled up with zeros; `attributes` are plain values; other members as they are."""
    start = time.time_ns()
    return {
        "traceId": trace.ljust(32, "0"),
        "spanId": span.ljust(16, "0"),
        **({} if parent is None else {"parentSpanId": parent.ljust(16, "0")}),
        "name": f"span {span}",
        "startTimeUnixNano": str(start),
        "endTimeUnixNano": str(start + 1_000_000),
        **members,
        "attributes": attributes_json(members.get("attributes", {})),
    }


def log_json(name: str, span: str, trace: str = "a1", body: Any = None, **attributes: Any) -> dict[str, Any]:
    """Return a log record in JSON, of the span with this id."""
    return {
        "eventName": name,
        "traceId": trace.ljust(32, "0"),
        "spanId": span.ljust(16, "0"),
        "timeUnixNano": str(time.time_ns()),
        "body": None if body is None else value_json(body),
        "attributes": attributes_json(attributes),
    }


def export(
    *entries: dict[str, Any], scope: str = "test", logs: bool = False, resource: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Return an export request of spans, or of log records."""
    group, name = ("Logs", "logRecords") if logs else ("Spans", "spans")
    return {
        f"resource{group}": [
            {
                "resource": {"attributes": attributes_json(resource or {})},
                f"scope{group}": [{"scope": {"name": scope, "version": "1"}, name: list(entries)}],
            }
        ]
    }


def to_protobuf(request: dict[str, Any]) -> ExportTraceServiceRequest:
    """Return an export request of spans as a protobuf message."""
    message = ExportTraceServiceRequest()
    for resource_spans in request["resourceSpans"]:
        group = message.resource_spans.add()
        _set_attributes(group.resource, resource_spans["resource"]["attributes"])
        for scope_spans in resource_spans["scopeSpans"]:
            scoped = group.scope_spans.add()
            scoped.scope.name, scoped.scope.version = scope_spans["scope"]["name"], scope_spans["scope"]["version"]
            for span in scope_spans["spans"]:
                added = scoped.spans.add(
                    trace_id=bytes.fromhex(span["traceId"]),
                    span_id=bytes.fromhex(span["spanId"]),
                    parent_span_id=bytes.fromhex(span.get("parentSpanId", "")),
                    name=span["name"],
                    start_time_unix_nano=int(span["startTimeUnixNano"]),
                    end_time_unix_nano=int(span["endTimeUnixNano"]),
                )
                _set_attributes(added, span["attributes"])
    return message


def _set_attributes(message: Any, attributes: list[dict[str, Any]]) -> None:
    for pair in attributes:
        _set_value(message.attributes.add(key=pair["key"]).value, pair["value"])


def _set_value(message: Any, value: dict[str, Any]) -> None:
    (kind, content), *_ = value.items()
    if kind == "arrayValue":
        message.array_value.SetInParent()
        for item in content["values"]:
            _set_value(message.array_value.values.add(), item)
    elif kind == "kvlistValue":
        message.kvlist_value.SetInParent()
        for pair in content["values"]:
            _set_value(message.kvlist_value.values.add(key=pair["key"]).value, pair["value"])
    elif kind == "intValue":
        message.int_value = int(content)
    else:
        setattr(message, kind.replace("Value", "_value"), content)


def send(client: httpx.Client, body: Any, path: str = "/v1/traces", **headers: str) -> httpx.Response:
    """Send a body: an object as JSON, a message or bytes as protobuf."""
    if isinstance(body, dict | list):
        content, kind = json.dumps(body).encode(), JSON
    else:
        content, kind = body if isinstance(body, bytes) else body.SerializeToString(), PROTOBUF
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.post(path, content=content, headers={"content-type": kind, **named})


def partial_success(response: httpx.Response) -> tuple[int, str]:
    """Return how many spans a response says were rejected, and its message."""
    assert response.status_code == 200, response.text
    if response.headers["content-type"] == JSON:
        told = response.json().get("partialSuccess", {})
        return int(told.get("rejectedSpans", 0)), told.get("errorMessage", "")
    message = ExportTraceServiceResponse.FromString(response.content).partial_success
    return message.rejected_spans, message.error_message


def status_of(response: httpx.Response, kind: str) -> tuple[int, str]:
    """Return the `google.rpc.Status` of an error: code and message. It must be in the encoding `kind`."""
    assert response.headers["content-type"] == kind
    if kind == JSON:
        told = response.json()
        assert set(told) == {"code", "message"}
        return told["code"], told["message"]
    status = Status.FromString(response.content)
    return status.code, status.message
