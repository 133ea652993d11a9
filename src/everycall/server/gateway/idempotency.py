"""Answers for repeated requests whose record cannot give them again: outputs left out, no record at all, or not yet
stored. In memory, bounded, gone with the process. Called by `gateway/gateway.py`.
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
    """An answer already paid for, the digest of its request, and its record while that is not stored."""

    answer: CompletionResponse
    digest: str
    unstored: Record | None = None


class RecentResponses:
    """The latest answers by (project, inference_id), within `limits.ANSWERS_KEPT_MAX` and `..._BYTES_MAX`."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, str], RecentResponse] = OrderedDict()
        self._size = 0

    def get(self, key: tuple[str, str]) -> RecentResponse | None:
        """Return what is kept for this request, or None."""
        return self._kept.get(key)

    def put(self, key: tuple[str, str], kept: RecentResponse) -> None:
        """Keep an answer; the oldest go when there are too many or they are too large together."""
        self.drop(key)
        self._kept[key] = kept
        self._size += _size(kept)
        while self._kept and (len(self._kept) > limits.ANSWERS_KEPT_MAX or self._size > limits.ANSWERS_KEPT_BYTES_MAX):
            _, oldest = self._kept.popitem(last=False)
            self._size -= _size(oldest)

    def drop(self, key: tuple[str, str]) -> None:
        """Forget one answer."""
        if (kept := self._kept.pop(key, None)) is not None:
            self._size -= _size(kept)


def _size(kept: RecentResponse) -> int:
    record = 0 if kept.unstored is None else limits.FIELD_BYTES_MAX  # held for seconds; an estimate will do
    return 4 * len(kept.answer.content) + record
