"""The balance sheet: how many records were recorded, delivered, spooled and dropped. The spool and the sender keep it.

recorded = delivered + spooled + dropped, at any moment. `recorded` and `spooled` are counted from the spool's files,
`delivered` from the endpoint's receipts, `dropped` from losses. The equation can fail, so a test that checks it means
something.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from everycall.errors import Loss

__all__ = ["Balance", "Flushed", "Ledger"]


@dataclass(frozen=True, slots=True)
class Balance:
    """What `everycall.stats()` returns: counts of this process's records.

    recorded = delivered + spooled + sum(dropped).
    """

    recorded: int
    delivered: int
    spooled: int
    dropped: dict[str, int] = field(default_factory=dict)
    adopted: int = 0
    """Records of ended processes that this one delivered; not part of the equation."""
    adopted_dropped: dict[str, int] = field(default_factory=dict)
    """Records of ended processes that this one found damaged, had refused, or deleted for the spool's bound."""

    @property
    def lost(self) -> int:
        """The number of records that will never arrive."""
        return sum(self.dropped.values())

    def __add__(self, other: Balance) -> Balance:
        """Return the sheet of both."""
        return Balance(
            self.recorded + other.recorded,
            self.delivered + other.delivered,
            self.spooled + other.spooled,
            dict(Counter(self.dropped) + Counter(other.dropped)),
            self.adopted + other.adopted,
            dict(Counter(self.adopted_dropped) + Counter(other.adopted_dropped)),
        )


@dataclass(frozen=True, slots=True)
class Flushed:
    """What `everycall.flush()` returns: the counts at its end. `spooled == 0` means that nothing is left to deliver."""

    delivered: int
    spooled: int
    dropped: int


class Ledger:
    """The counters behind the balance sheet.

    The lock is re-entrant because a signal handler or a finalizer may record a call at any point.
    """

    __slots__ = ("adopted", "adopted_dropped", "delivered", "dropped", "lock", "unspooled")

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.delivered = 0
        self.adopted = 0
        self.adopted_dropped: dict[str, int] = {}
        self.unspooled = 0  # records that were lost before they reached a file; part of `recorded`
        self.dropped: dict[str, int] = {}

    def drop(self, loss: Loss, count: int = 1, *, was_spooled: bool = True) -> None:
        """Count lost records. Pass `was_spooled=False` for records that never reached the spool."""
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

    def adopt(self, delivered: int, losses: Mapping[Loss, int]) -> None:
        """Count what happened to records that ended processes had left."""
        with self.lock:
            self.adopted += delivered
            for loss, count in losses.items():
                self.adopted_dropped[loss.value] = self.adopted_dropped.get(loss.value, 0) + count
