"""Texts that come one by one, and who follows them. Made by `gateway.py` for each streamed completion, and by
`outcomes.py` for each answer of a provider, which several completions may share.

A broadcast is fed by a task of its own. When the last of its followers goes away before the end, that task's work is
cancelled, and the broadcast ends as abandoned.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import Any, Generic, TypeVar

from everycall import limits
from everycall.server.gateway.provider_response import ProviderError
from everycall.server.gateway.request import CompletionResponse

__all__ = ["Abandoned", "Broadcast", "Follower", "StreamRun"]

T = TypeVar("T")


class Abandoned(Exception):
    """All followers of a broadcast went away before its end."""


class Broadcast(Generic[T]):
    """Texts under way, and at the end a result. For the tasks of one event loop."""

    def __init__(self) -> None:
        self.begun = time.perf_counter()
        self.first_text_s: float | None = None
        self.texts: list[str] = []
        self.result: T | None = None
        self.error: BaseException | None = None
        self.ended = False
        self.left = False
        """Whether all followers went away, or the server stops: it will end as abandoned."""
        self._chars = 0
        self._changed = asyncio.Event()
        self._followers: list[Follower[T]] = []
        self._work: asyncio.Task[None] | None = None

    def add(self, text: str) -> None:
        """Take the next text. Raises `ProviderError` beyond `limits.STREAM_CHARS_MAX`."""
        self._chars += len(text)
        if self._chars > limits.STREAM_CHARS_MAX:
            raise ProviderError("TooLong", None, f"more than {limits.STREAM_CHARS_MAX} characters were streamed")
        if self.first_text_s is None:
            self.first_text_s = time.perf_counter() - self.begun
        self.texts.append(text)
        self._wake()

    def end(self, result: T | None, error: BaseException | None = None) -> None:
        """Say how it ended: with a result, or with what is raised to the followers."""
        self.result, self.error, self.ended = result, error, True
        self._wake()

    def follow(self) -> Follower[T]:
        """Return one more view, from the first text on."""
        follower = Follower(self)
        self._followers.append(follower)
        return follower

    @property
    def followers(self) -> Sequence[Follower[T]]:
        """Those that have not gone away, in the order in which they came."""
        return self._followers

    async def until_left(self, work: Coroutine[Any, Any, None]) -> None:
        """Do what can be cancelled. Raises `Abandoned` once nobody follows any more."""
        task = self._work = asyncio.create_task(work)
        if self.left:
            task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            if self.left and not _being_cancelled():
                raise Abandoned from None
            raise
        except Exception:
            self._work = None  # there may be more to do: another provider is asked
            raise

    def leave(self) -> None:
        """Stop what can be cancelled, if it is not done: nobody waits for it."""
        if self._work is None or self._work.cancel():
            self.left = True

    async def change(self) -> None:
        """Wait for the next text or the end."""
        await self._changed.wait()

    def forget(self, follower: Follower[T]) -> None:
        """One follower less; the last one stops the work."""
        self._followers.remove(follower)
        if not self._followers and not self.ended:
            self.leave()

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


class StreamRun(Broadcast[CompletionResponse]):
    """One streamed completion; those who sent its `inference_id` follow it. `digest` is of its request."""

    def __init__(self, digest: str) -> None:
        super().__init__()
        self.digest = digest


class Follower(Generic[T]):
    """One view of a broadcast: an iterator of its texts. `close` it in any case."""

    def __init__(self, followed: Broadcast[T]) -> None:
        self._followed = followed
        self._next = 0
        self._closed = False

    async def begun(self) -> None:
        """Wait for the first text or the end. Raises what was raised before any text."""
        while not self._followed.texts and not self._followed.ended:
            await self._followed.change()
        if not self._followed.texts and self._followed.error is not None:
            raise self._followed.error

    @property
    def answer(self) -> T | None:
        """The result, once it has ended."""
        return self._followed.result

    @property
    def is_begun(self) -> bool:
        """Whether there was a text."""
        return bool(self._followed.texts)

    async def __aiter__(self) -> AsyncIterator[str]:
        followed = self._followed
        while True:
            while self._next < len(followed.texts):
                self._next += 1
                yield followed.texts[self._next - 1]
            if followed.ended:
                break
            await followed.change()
        if followed.error is not None:
            raise followed.error

    def close(self) -> None:
        """Go away. May be called twice."""
        if not self._closed:
            self._closed = True
            self._followed.forget(self)


def _being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
