"""The errors of a store. Their messages are whole sentences: `server/problems.py` sends them to clients as they are."""

from __future__ import annotations

__all__ = ["NoEarlierVersion", "StoreBusy", "StoreError", "VersionConflict"]


class StoreError(Exception):
    """The store cannot do this; the message says why. Nothing was changed."""


class StoreBusy(StoreError):
    """The store cannot do this now, but may a moment later: the API answers 503 with Retry-After.

    The write queue is full, the disk is full, or a read took too long. Nothing was changed. `retry_after_s` is the time
    in seconds after which a client should try again.
    """

    def __init__(self, message: str, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class VersionConflict(StoreError):
    """The version that is served is not the expected one. `active` is the served version, 0 for none."""

    def __init__(self, active: int) -> None:
        super().__init__(f"Version {active} is served now" if active else "No version is served now")
        self.active = active


class NoEarlierVersion(StoreError):
    """There is nothing to roll back to."""
