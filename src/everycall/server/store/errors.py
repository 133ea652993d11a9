"""What a store raises. Routes turn these into answers (`server/problems.py`)."""

from __future__ import annotations

__all__ = ["NoEarlierVersion", "StoreBusy", "StoreError", "VersionConflict"]


class StoreError(Exception):
    """The store could not do what was asked; the message says why. Nothing was changed."""


class StoreBusy(StoreError):
    """The write queue is full or a read took too long; try again later (the API answers 503 with Retry-After)."""


class VersionConflict(StoreError):
    """Another version is served than the one that was expected: `active`, 0 for none."""

    def __init__(self, active: int) -> None:
        super().__init__(f"Version {active} is served now" if active else "No version is served now")
        self.active = active


class NoEarlierVersion(StoreError):
    """There is nothing to roll back to."""
