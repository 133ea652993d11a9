"""Lines that could not be written to a file, held in memory up to a bound. Part of the spool, under its lock."""

from __future__ import annotations

from collections import deque

from everycall import limits
from everycall._delivery.segment import Chunk

__all__ = ["Memory"]


class Memory:
    """A queue of lines of at most `limits.MEMORY_BYTES_MAX`. Its length is the number of lines."""

    __slots__ = ("_bytes", "_lines", "taken")

    def __init__(self) -> None:
        self._lines: deque[bytes] = deque()
        self._bytes = 0
        self.taken = 0
        """How many lines were ever added."""

    def __len__(self) -> int:
        """Return how many lines it holds."""
        return len(self._lines)

    def append(self, line: bytes) -> bool:
        """Add a line. Return False if it does not fit."""
        if self._bytes + len(line) > limits.MEMORY_BYTES_MAX:
            return False
        self._lines.append(line)
        self._bytes += len(line)
        self.taken += 1
        return True

    def chunk(self) -> Chunk | None:
        """Return the oldest lines as one batch, or None if there are none. Its `end` is the number of lines."""
        batch: list[bytes] = []
        size = 0
        for line in self._lines:
            size += len(line)
            if batch and (size > limits.BATCH_BYTES_MAX or len(batch) == limits.BATCH_RECORDS_MAX):
                break
            batch.append(line)
        return Chunk(b"".join(batch), len(batch), len(batch)) if batch else None

    def discard(self, count: int) -> None:
        """Remove the `count` oldest lines, or fewer if the queue was cleared meanwhile."""
        for _ in range(min(count, len(self._lines))):
            self._bytes -= len(self._lines.popleft())

    def clear(self) -> None:
        """Remove all lines."""
        self._lines.clear()
        self._bytes = 0
