"""A streamed completion while it runs: the texts so far, who follows them, and how it ends. Made by `gateway.py`.

The run is a task of its own; callers follow it. When the last of them goes away before the end, the provider's request
is cancelled, and the run ends as abandoned.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine
from typing import Any

from everycall import limits
from everycall.server.gateway.answering import ProviderFailure
from everycall.server.gateway.request import CompletionAnswer

__all__ = ["Abandoned", "Follower", "StreamRun"]


class Abandoned(Exception):
    """All callers of a stream went away before its end."""


class StreamRun:
    """One streamed completion under way. For the tasks of one event loop."""

    def __init__(self, digest: str) -> None:
        self.digest = digest
        self.begun = time.perf_counter()
        self.first_text_s: float | None = None
        self.texts: list[str] = []
        self.answer: CompletionAnswer | None = None
        self.error: BaseException | None = None
        self.ended = False
        self._chars = 0
        self._changed = asyncio.Event()
        self._followers = 0
        self.left = False
        """Whether all followers went away, or the server stops: it will end as abandoned."""
        self._work: asyncio.Task[None] | None = None

    def add(self, text: str) -> None:
        """Take the next text. Raises `ProviderFailure` beyond `limits.STREAM_CHARS_MAX`."""
        self._chars += len(text)
        if self._chars > limits.STREAM_CHARS_MAX:
            raise ProviderFailure("TooLong", None, f"more than {limits.STREAM_CHARS_MAX} characters were streamed")
        if self.first_text_s is None:
            self.first_text_s = time.perf_counter() - self.begun
        self.texts.append(text)
        self._wake()

    def end(self, answer: CompletionAnswer | None, error: BaseException | None = None) -> None:
        """Say how it ended: with an answer, of which a failure is one, or with what is raised to the followers."""
        self.answer, self.error, self.ended = answer, error, True
        self._wake()

    def follow(self) -> Follower:
        """Return one more caller's view, from the first text on."""
        self._followers += 1
        return Follower(self)

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

    def leave(self) -> None:
        """Stop what can be cancelled, if it is not done: nobody waits for it."""
        if self._work is None or self._work.cancel():
            self.left = True

    async def change(self) -> None:
        """Wait for the next text or the end."""
        await self._changed.wait()

    def forget(self) -> None:
        """One follower less; the last one stops the run."""
        self._followers -= 1
        if self._followers == 0 and not self.ended:
            self.leave()

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


class Follower:
    """One caller's view of a run: an iterator of its texts. `close` it in any case."""

    def __init__(self, run: StreamRun) -> None:
        self._run = run
        self._next = 0
        self._closed = False

    async def begun(self) -> None:
        """Wait for the first text or the end. Raises what the run raised before any text."""
        while not self._run.texts and not self._run.ended:
            await self._run.change()
        if not self._run.texts and self._run.error is not None:
            raise self._run.error

    @property
    def answer(self) -> CompletionAnswer | None:
        """The whole answer, once it has ended."""
        return self._run.answer

    @property
    def is_begun(self) -> bool:
        """Whether there was a text."""
        return bool(self._run.texts)

    async def __aiter__(self) -> AsyncIterator[str]:
        run = self._run
        while True:
            while self._next < len(run.texts):
                self._next += 1
                yield run.texts[self._next - 1]
            if run.ended:
                break
            await run.change()
        if run.error is not None:
            raise run.error

    def close(self) -> None:
        """Go away. May be called twice."""
        if not self._closed:
            self._closed = True
            self._run.forget()


def _being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
