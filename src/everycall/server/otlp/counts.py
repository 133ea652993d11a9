"""How much arrived by OTLP since the process started, for `/metrics`."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["OtlpCounts"]


@dataclass(slots=True)
class OtlpCounts:
    """Counts of one process. `rejected` are spans and log records that were refused in requests that were accepted."""

    spans: int = 0
    log_records: int = 0
    metric_points: int = 0
    rejected: int = 0
