"""How many completions a key may ask for in a minute. Called by the routes, before a body is read."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable

from everycall.server.problems import problem
from everycall.server.store.values import ApiKey

__all__ = ["Rates"]

WINDOW_S = 60.0


class Rates:
    """The requests of each key in the last minute. In memory: after a restart each key begins anew.

    Within any 60 seconds at most `requests_per_minute` are let in. Those that are not do not count.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: dict[str, deque[float]] = {}

    def enter(self, key: ApiKey | None) -> None:
        """Count one request. Raises `ProblemError` 429 `rate_limited`, with Retry-After, beyond the key's limit."""
        most = None if key is None else key.limits.requests_per_minute
        if key is None or most is None:
            return
        now = self._clock()
        seen = self._seen.setdefault(key.digest, deque())
        while seen and seen[0] <= now - WINDOW_S:
            seen.popleft()
        if len(seen) >= most:
            # the one that has to leave the window first, were the limit lowered meanwhile
            wait_s = max(1, math.ceil(seen[len(seen) - most] + WINDOW_S - now))
            raise problem(
                "rate_limited",
                429,
                "Too many completions in a minute",
                f"The key {key.name!r} may ask for {most} completions a minute. Try again in {wait_s} s, or raise the "
                "limit with everycall key set --requests-per-minute.",
                headers={"retry-after": str(wait_s)},
                limit=most,
                retry_after_s=wait_s,
            )
        seen.append(now)
