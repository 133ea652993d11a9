"""The health of a running server: for `/healthz`, the status page and `/metrics`."""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Iterator
from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from everycall.server.services import Services

__all__ = ["Health", "health_of", "metrics"]

STARTED = time.monotonic()


class Health(msgspec.Struct, frozen=True):
    """Whether the server does all of its work. `degraded`: it runs and answers reads, but cannot store records.

    `reason` is a short name such as "disk_full", and `detail` says what is wrong and what to do about it.
    """

    status: Literal["ok", "degraded"]
    reason: str | UnsetType = UNSET
    detail: str | UnsetType = UNSET


def health_of(services: Services) -> Health:
    """Return the present health. It reads no file and asks no provider."""
    fault = services.store.fault
    return Health("ok") if fault is None else Health("degraded", fault.reason, fault.detail)


def metrics(services: Services) -> str:
    """Return the metrics of this process in the text format of Prometheus (version 0.0.4)."""
    return "".join(f"{line}\n" for line in _lines(services))


def _lines(services: Services) -> Iterator[str]:
    fault = services.store.fault
    connections = services.connections
    version = importlib.metadata.version("everycall")
    yield from _metric("info", "gauge", "The version that runs", 1, f'{{version="{version}"}}')
    yield from _metric("uptime_seconds", "gauge", "Time since the process started", f"{time.monotonic() - STARTED:.0f}")
    yield from _metric("degraded", "gauge", "1 if records cannot be stored", int(fault is not None))
    if fault is not None:
        labels = f'{{reason="{fault.reason}"}}'
        yield from _metric("degraded_reason", "gauge", "Why records cannot be stored", 1, labels)
    yield from _metric("connections", "gauge", "Open connections", len(connections))
    yield from _metric("connections_limit", "gauge", "Connections that may be open", connections.most)
    text = "Idle connections closed to make room for others"
    yield from _metric("connections_displaced_total", "counter", text, connections.displaced)
    text = "Connections refused because all others were busy"
    yield from _metric("connections_refused_total", "counter", text, connections.refused)
    counts = services.otlp
    yield from _metric("otlp_spans_total", "counter", "Spans accepted by OTLP", counts.spans)
    yield from _metric("otlp_log_records_total", "counter", "Log records accepted by OTLP", counts.log_records)
    text = "Data points of metrics accepted by OTLP and not stored"
    yield from _metric("otlp_metric_points_total", "counter", text, counts.metric_points)
    text = "Spans and log records rejected in OTLP requests that were accepted"
    yield from _metric("otlp_rejected_total", "counter", text, counts.rejected)


def _metric(name: str, kind: str, text: str, value: float | str, labels: str = "") -> Iterator[str]:
    yield f"# HELP everycall_{name} {text}."
    yield f"# TYPE everycall_{name} {kind}"
    yield f"everycall_{name}{labels} {value}"
