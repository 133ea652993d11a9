"""Texts that arrive one by one, and everyone who follows them.

A broadcast is fed by one task. When its last follower goes away before the end, that task's work is cancelled and the
broadcast ends as abandoned. `idempotency.py` has one for each completion; `provider_calls.py` has one for each request
to a provider, which several completions may share.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import Any, Generic, TypeVar

from everycall import limits
from everycall.server.gateway.provider_response import ProviderError

__all__ = ["Abandoned", "Broadcast", "Follower"]

T = TypeVar("T")


class Abandoned(Exception):
    """All followers of a broadcast went away before its end."""


class Broadcast(Generic[T]):
    """Texts that arrive, and finally a result. For the tasks of one event loop."""

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.first_text_s: float | None = None
        self.texts: list[str] = []
        self.result: T | None = None
        self.error: BaseException | None = None
        self.ended = False
        self.abandoned = False
        """Whether all followers went away, or the server is stopping."""
        self._chars = 0
        self._changed = asyncio.Event()
        self._followers: list[Follower[T]] = []
        self._work: asyncio.Task[None] | None = None

    def add(self, text: str) -> None:
        """Add the next text. Raise `ProviderError` above `limits.STREAM_CHARS_MAX`."""
        self._chars += len(text)
        if self._chars > limits.STREAM_CHARS_MAX:
            raise ProviderError("TooLong", None, f"more than {limits.STREAM_CHARS_MAX} characters were streamed")
        if self.first_text_s is None:
            self.first_text_s = time.perf_counter() - self.started
        self.texts.append(text)
        self._wake_followers()

    def end(self, result: T | None, error: BaseException | None = None) -> None:
        """End with a result, or with an error that is raised to the followers."""
        self.result, self.error, self.ended = result, error, True
        self._wake_followers()

    def follow(self) -> Follower[T]:
        """Return a new follower, which starts at the first text."""
        follower = Follower(self)
        self._followers.append(follower)
        return follower

    @property
    def followers(self) -> Sequence[Follower[T]]:
        """The followers that have not gone away, in the order in which they came."""
        return self._followers

    async def run_until_abandoned(self, work: Coroutine[Any, Any, None]) -> None:
        """Do work that may be cancelled. Raise `Abandoned` once there are no followers left."""
        task = self._work = asyncio.create_task(work)
        if self.abandoned:
            task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            if self.abandoned and not _is_being_cancelled():
                raise Abandoned from None
            raise
        except Exception:
            self._work = None  # there may be more work: another provider is asked
            raise

    def abandon(self) -> None:
        """Cancel the work, unless it is done: nobody waits for it."""
        if self._work is None or self._work.cancel():
            self.abandoned = True

    async def change(self) -> None:
        """Wait for the next text or the end."""
        await self._changed.wait()

    def remove(self, follower: Follower[T]) -> None:
        """Remove a follower. When the last one goes, the work is cancelled."""
        self._followers.remove(follower)
        if not self._followers and not self.ended:
            self.abandon()

    def _wake_followers(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


class Follower(Generic[T]):
    """One reader of a broadcast: an iterator of its texts. Always `close` it."""

    def __init__(self, broadcast: Broadcast[T]) -> None:
        self._broadcast = broadcast
        self._next = 0
        self._closed = False

    async def first_text(self) -> None:
        """Wait for the first text or the end. Raise the error of a broadcast that ended without any text."""
        while not self._broadcast.texts and not self._broadcast.ended:
            await self._broadcast.change()
        if not self._broadcast.texts and self._broadcast.error is not None:
            raise self._broadcast.error

    async def finished(self) -> T | None:
        """Wait for the end and return the result. Raise the error of a broadcast that ended with one."""
        while not self._broadcast.ended:
            await self._broadcast.change()
        if self._broadcast.error is not None:
            raise self._broadcast.error
        return self._broadcast.result

    @property
    def result(self) -> T | None:
        """The result, once the broadcast has ended."""
        return self._broadcast.result

    @property
    def has_text(self) -> bool:
        """Whether there was a text."""
        return bool(self._broadcast.texts)

    @property
    def is_abandoned(self) -> bool:
        """Whether the broadcast was abandoned."""
        return self._broadcast.abandoned

    async def __aiter__(self) -> AsyncIterator[str]:
        async for text in self.texts():
            if text is not None:
                yield text

    async def texts(self, silence_s: float | None = None) -> AsyncIterator[str | None]:
        """Yield the texts as they arrive, and None whenever there was none for so many seconds."""
        broadcast = self._broadcast
        while True:
            while self._next < len(broadcast.texts):
                self._next += 1
                yield broadcast.texts[self._next - 1]
            if broadcast.ended:
                break
            try:
                async with asyncio.timeout(silence_s):
                    await broadcast.change()
            except TimeoutError:
                yield None
        if broadcast.error is not None:
            raise broadcast.error

    def close(self) -> None:
        """Stop following. May be called twice."""
        if not self._closed:
            self._closed = True
            self._broadcast.remove(self)


def _is_being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
