"""The answers that OTLP asks for, in the request's encoding: partial success, or `google.rpc.Status`."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from everycall.server.otlp.requests import JSON

__all__ = ["REJECTED_FIELDS", "status", "success"]

REJECTED_FIELDS: Final[dict[str, tuple[Any, str, str]]] = {
    "traces": (ExportTraceServiceResponse, "rejected_spans", "rejectedSpans"),
    "logs": (ExportLogsServiceResponse, "rejected_log_records", "rejectedLogRecords"),
    "metrics": (ExportMetricsServiceResponse, "rejected_data_points", "rejectedDataPoints"),
}
_CODES: Final = {400: 3, 401: 16, 403: 7, 404: 5, 408: 4, 413: 8, 415: 3, 429: 8, 500: 13, 503: 14}
"""HTTP status -> gRPC status code."""


def success(signal: str, media_type: str, rejected: int = 0, message: str = "") -> bytes:
    """Return the body of a 200: empty if everything was stored, else how many were rejected and why."""
    message_class, field, name = REJECTED_FIELDS[signal]
    if media_type == JSON:
        body: dict[str, Any] = {}
        if rejected or message:
            body["partialSuccess"] = {name: str(rejected), "errorMessage": message}
        return msgspec.json.encode(body)
    response = message_class()
    if rejected or message:
        setattr(response.partial_success, field, rejected)
        response.partial_success.error_message = message
    return bytes(response.SerializeToString())


def status(http_status: int, message: str, media_type: str) -> bytes:
    """Return the body of an error."""
    code = _CODES.get(http_status, 2)
    if media_type == JSON:
        return msgspec.json.encode({"code": code, "message": message})
    return bytes(Status(code=code, message=message).SerializeToString())
