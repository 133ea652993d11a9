"""Retries of one provider within a deadline, and the notes about a provider that failed. Called by `executor.py`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from everycall import limits
from everycall._retry import backoff_s
from everycall.server.gateway.provider_response import ProviderError

__all__ = ["Deadline", "FailedAttempt", "with_retries"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class FailedAttempt:
    """A provider that failed or could not be asked, before another one was. `error` has no secret and no prompt."""

    provider: str
    model: str
    error: str
    tries: int
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """Return the attempt as a record's attribute has it."""
        return {
            "provider": self.provider,
            "model": self.model,
            "error": self.error,
            "tries": self.tries,
            "seconds": round(self.seconds, 6),
        }


class Deadline:
    """The time limit of a completion, in seconds from now."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._until = time.monotonic() + seconds

    @property
    def left_s(self) -> float:
        """The seconds left, at least 0."""
        return max(0.0, self._until - time.monotonic())


async def with_retries(
    ask: Callable[[asyncio.Timeout], Awaitable[T]],
    deadline: Deadline,
    *,
    wait_max_s: float,
    may_retry: Callable[[], bool] = lambda: True,
) -> T:
    """Return the result of `ask`. After a transient error, ask again up to `limits.PROVIDER_RETRIES` times.

    The wait in between is what the provider asks for (Retry-After), else it grows and has jitter. There is no further
    try if the wait is longer than `wait_max_s` or than the time left. `ask` is given its time-out, which it may
    reschedule. Raise the last `ProviderError`.
    """
    tries = 0
    while True:
        tries += 1
        try:
            return await _within(ask, deadline)
        except ProviderError as error:
            error.tries = tries
            wait_s = error.retry_after_s
            if wait_s is None:
                wait_s = backoff_s(tries + 1)
            if not error.is_transient or tries > limits.PROVIDER_RETRIES or not may_retry():
                raise
            if wait_s > wait_max_s or wait_s >= deadline.left_s:
                raise
        await asyncio.sleep(wait_s)


async def _within(ask: Callable[[asyncio.Timeout], Awaitable[T]], deadline: Deadline) -> T:
    timeout = asyncio.timeout(deadline.left_s)
    try:
        async with timeout:
            return await ask(timeout)
    except TimeoutError:
        if not timeout.expired():
            raise
        detail = f"no answer within the {deadline.seconds:g} s that a completion may take"
        raise ProviderError("DeadlineExceeded", None, detail, is_transient=True) from None
