"""What the OTLP routes of one server share: how much arrived, for `/metrics`, and how much is read at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from everycall import limits

__all__ = ["OtlpCounts"]


class OtlpCounts:
    """Counts since the process started, and the turns of requests that are being read.

    `rejected` are spans and log records that were refused in requests that were accepted.
    """

    def __init__(self) -> None:
        self.spans = 0
        self.log_records = 0
        self.metric_points = 0
        self.rejected = 0
        self._reading = 0
        self._freed = asyncio.Condition()

    @asynccontextmanager
    async def turn(self, size: int) -> AsyncIterator[None]:
        """Wait until a body of this many bytes may be read: a read one takes several times as much memory.

        Bodies up to `limits.OTLP_READING_BYTES_MAX` together are read at once, and a larger one alone.
        """
        async with self._freed:
            await self._freed.wait_for(
                lambda: not self._reading or self._reading + size <= limits.OTLP_READING_BYTES_MAX
            )
            self._reading += size
        try:
            yield
        finally:
            self._reading -= size
            async with self._freed:
                self._freed.notify_all()
