"""Responses for repeated requests whose record cannot answer them: outputs left out, no record, or not yet stored.

In memory, bounded, and lost with the process. Written by `completion_log.py`, read by `idempotency.py`.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from everycall import limits
from everycall.record import Record
from everycall.server.gateway.request import CompletionResponse

__all__ = ["RecentResponse", "RecentResponses"]


@dataclass(frozen=True, slots=True)
class RecentResponse:
    """A response that is paid for, the digest of its request, and its record as long as that is not stored."""

    response: CompletionResponse
    digest: str
    unstored: Record | None = None


class RecentResponses:
    """The latest responses by (project, inference_id), within `ANSWERS_KEPT_MAX` and `ANSWERS_KEPT_BYTES_MAX`."""

    def __init__(self) -> None:
        self._entries: OrderedDict[tuple[str, str], RecentResponse] = OrderedDict()
        self._size = 0

    def get(self, key: tuple[str, str]) -> RecentResponse | None:
        """Return the entry of a request, or None."""
        return self._entries.get(key)

    def put(self, key: tuple[str, str], entry: RecentResponse) -> None:
        """Add an entry. The oldest ones are removed when there are too many, or when they are too large together."""
        self.drop(key)
        self._entries[key] = entry
        self._size += _size(entry)
        while self._entries and (
            len(self._entries) > limits.ANSWERS_KEPT_MAX or self._size > limits.ANSWERS_KEPT_BYTES_MAX
        ):
            _, oldest = self._entries.popitem(last=False)
            self._size -= _size(oldest)

    def drop(self, key: tuple[str, str]) -> None:
        """Remove the entry of a request, if there is one."""
        if (entry := self._entries.pop(key, None)) is not None:
            self._size -= _size(entry)


def _size(entry: RecentResponse) -> int:
    # An unstored record stays for seconds, so an estimate is good enough.
    record = 0 if entry.unstored is None else limits.FIELD_BYTES_MAX
    return 4 * len(entry.response.content) + record
