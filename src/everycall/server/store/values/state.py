"""The state of a store: its fault, its queue and sizes, its slow reads."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "Fault",
    "SlowRead",
    "StoreState",
]


@dataclass(frozen=True, slots=True)
class Fault:
    """What keeps a store from storing records: a short `reason` such as "disk_full", and a `detail` in sentences."""

    reason: str
    detail: str
    since_unix_nano: int


@dataclass(frozen=True, slots=True)
class SlowRead:
    """A read that took longer than `limits.SLOW_READ_S`, waiting for a reader included.

    `statement` is the start of the last statement that it ran, which has no values in it. `stopped`: it was interrupted
    at `limits.QUERY_TIMEOUT_S`.
    """

    unix_nano: int
    seconds: float
    statement: str
    stopped: bool


@dataclass(frozen=True, slots=True)
class StoreState:
    """What a store is doing, for operators. Sizes are bytes; None where the store does not know.

    `queued` counts the writes that wait, of which `queue_limit` may wait. `slow_reads` counts reads since the store was
    opened, `latest_slow_reads` has the latest ones, the most recent first.
    """

    queued: int
    queue_limit: int
    database_bytes: int | None
    wal_bytes: int | None
    disk_free_bytes: int | None
    slow_reads: int
    stopped_reads: int
    latest_slow_reads: tuple[SlowRead, ...]
