"""How many completions a key may request in a minute. Called by the routes, before a body is read."""

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
    """The requests of each key in the last minute. In memory: a restart forgets them.

    Within any 60 seconds at most `requests_per_minute` are admitted. Refused ones do not count.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._times: dict[str, deque[float]] = {}

    def enter(self, key: ApiKey | None) -> None:
        """Count one request. Raise `ProblemError` 429 `rate_limited`, with Retry-After, above the key's limit."""
        limit = None if key is None else key.limits.requests_per_minute
        if key is None or limit is None:
            return
        now = self._clock()
        times = self._times.setdefault(key.digest, deque())
        while times and times[0] <= now - WINDOW_S:
            times.popleft()
        if len(times) >= limit:
            # Until this one leaves the window. There may be more than the limit, if it was lowered meanwhile.
            wait_s = max(1, math.ceil(times[len(times) - limit] + WINDOW_S - now))
            raise problem(
                "rate_limited",
                429,
                "Too many completions in a minute",
                f"The key {key.name!r} may request {limit} completions a minute. Try again in {wait_s} s, or raise the "
                "limit with everycall key set --requests-per-minute.",
                headers={"retry-after": str(wait_s)},
                limit=limit,
                retry_after_s=wait_s,
            )
        times.append(now)
