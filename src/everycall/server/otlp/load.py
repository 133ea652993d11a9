"""State that the OTLP routes of one server share: counts for `/metrics`, and limits on the bodies in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from litestar.types import Scope

from everycall import limits
from everycall.server.problems import problem
from everycall.server.security import header

__all__ = ["OtlpLoad"]

_COMPRESSED = 8
"""The assumed ratio of a compressed body's size to its compressed size."""


class OtlpLoad:
    """Counts since the process started, and turns for the bodies that are received and read.

    `rejected` are spans and log records that were refused in requests that were accepted.
    """

    def __init__(self) -> None:
        self.spans = 0
        self.log_records = 0
        self.metric_points = 0
        self.rejected = 0
        self._receiving = _Turns(limits.OTLP_RECEIVING_BYTES_MAX)
        self._reading = _Turns(limits.OTLP_READING_BYTES_MAX)

    @asynccontextmanager
    async def receive(self, scope: Scope) -> AsyncIterator[None]:
        """If the request's body is large, wait until it may be received. Nothing of it is read before.

        Raise `ProblemError` 503 after `limits.OTLP_WAIT_S`, before the sender gives up.
        """
        size = _declared(scope)
        async with AsyncExitStack() as stack:
            if size >= limits.MIB:
                try:
                    async with asyncio.timeout(limits.OTLP_WAIT_S):
                        await stack.enter_async_context(self._receiving.turn(size))
                except TimeoutError:
                    detail = "Other large bodies are being read. Nothing was stored; try again in a moment."
                    raise problem("busy", 503, "Busy", detail, headers={"retry-after": "1"}) from None
            yield

    @asynccontextmanager
    async def read(self, size: int) -> AsyncIterator[None]:
        """Wait until a body of this many bytes may be parsed, which takes several times as much memory."""
        async with self._reading.turn(size):
            yield


class _Turns:
    """Admits up to `most` bytes at once. A larger body is admitted alone."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._bytes = 0
        self._freed = asyncio.Condition()

    @asynccontextmanager
    async def turn(self, size: int) -> AsyncIterator[None]:
        """Wait for a turn of this many bytes; it ends with the block."""
        async with self._freed:
            await self._freed.wait_for(lambda: not self._bytes or self._bytes + size <= self._most)
            self._bytes += size
        try:
            yield
        finally:
            self._bytes -= size
            async with self._freed:
                self._freed.notify_all()


def _declared(scope: Scope) -> int:
    """Return the size of a body as estimated from the request's headers."""
    length = header(scope, b"content-length")
    if length is None or not length.isdigit():
        return limits.BODY_WIRE_BYTES_MAX
    is_compressed = (header(scope, b"content-encoding") or "identity").strip().lower() != "identity"
    size = int(length) * (_COMPRESSED if is_compressed else 1)
    return min(size, limits.BODY_BYTES_MAX)
