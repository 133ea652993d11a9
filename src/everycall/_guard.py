"""The one place where everycall's own exceptions end.

Every function that a user's program calls goes through it. A caught exception is counted, and reported once a minute
per place on the `everycall` logger: its type and its place in everycall, never its message, which may hold content.
Only `Exception` is caught: a `KeyboardInterrupt` that arrives while everycall runs is the user's.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from everycall import limits

__all__ = ["failures", "guarded", "report", "warn_once"]

P = ParamSpec("P")
R = TypeVar("R")

logger = logging.getLogger("everycall")
failures: dict[str, int] = {}
"""How often each guarded place failed: `place -> count`. For tests and `everycall.stats()`."""
_told: dict[str, float] = {}


def report(place: str, error: BaseException) -> None:
    """Count a swallowed exception and tell of it at most once a minute per place. Never raises."""
    failures[place] = failures.get(place, 0) + 1
    try:
        _tell(place, error)
    except Exception:  # noqa: BLE001 - a logging handler of the user's, or no room left on the stack to tell it
        return


def _tell(place: str, error: BaseException) -> None:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace is not None else "?"
    warn_once(
        place, "everycall failed in %s (%s at %s); the program goes on, untouched", place, type(error).__name__, where
    )


def warn_once(key: str, message: str, *values: object) -> None:
    """Log a warning unless one with this key was logged within `limits.WARN_INTERVAL_S`."""
    now = time.monotonic()
    last = _told.get(key)
    if last is None or now - last >= limits.WARN_INTERVAL_S:
        _told[key] = now
        logger.warning(message, *values)


def guarded(function: Callable[P, R]) -> Callable[P, R | None]:
    """Decorate a function of ours that a user's program calls: its own exceptions become None and a count."""

    @functools.wraps(function)
    def inner(*args: P.args, **kwargs: P.kwargs) -> R | None:
        try:
            return function(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - the guard
            report(function.__qualname__, error)
            return None

    return inner
