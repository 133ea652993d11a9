"""The balance sheet: what was recorded, delivered, spooled and dropped. Layer 1; the spool and the sender write it.

recorded = delivered + spooled + dropped, at any moment. `recorded` counts lines when they are appended (or could not
be), `delivered` counts receipts, `dropped` counts losses by their names, and `spooled` is counted from the files: so
the equation can fail, and a test that watches it means something.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from everycall.errors import Loss

__all__ = ["Balance", "Flushed", "Ledger"]


@dataclass(frozen=True, slots=True)
class Balance:
    """`everycall.stats()`: counts of this process's records. recorded = delivered + spooled + sum(dropped)."""

    recorded: int
    delivered: int
    spooled: int
    dropped: dict[str, int] = field(default_factory=dict)
    adopted: int = 0
    """Records of dead processes that this one delivered; not part of the equation."""

    @property
    def lost(self) -> int:
        """All that will never arrive."""
        return sum(self.dropped.values())


@dataclass(frozen=True, slots=True)
class Flushed:
    """`everycall.flush()`: what was true when it returned. `spooled == 0` means that all was delivered or dropped."""

    delivered: int
    spooled: int
    dropped: int


class Ledger:
    """Counters under one lock, re-entrant: a signal handler or a finalizer may record a call at any point."""

    __slots__ = ("adopted", "delivered", "dropped", "lock", "unspooled")

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.delivered = 0
        self.adopted = 0
        self.unspooled = 0  # records that never became a line: part of `recorded` that no file shows
        self.dropped: dict[str, int] = {}

    def drop(self, loss: Loss, count: int = 1, *, was_spooled: bool = True) -> None:
        """Count a loss. `was_spooled=False` for a record that never reached the spool: it counts as recorded here."""
        if count <= 0:
            return
        with self.lock:
            self.dropped[loss.value] = self.dropped.get(loss.value, 0) + count
            if not was_spooled:
                self.unspooled += count

    def deliver(self, count: int) -> None:
        """Count records that the endpoint has committed."""
        with self.lock:
            self.delivered += count
