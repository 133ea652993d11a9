"""The guard: catches everycall's own exceptions, so that none is raised into the user's program.

Every function that a user's program calls goes through it. An exception is counted, and logged at most once a minute
per place on the `everycall` logger: its type and its location in everycall, never its message, which may have content.
Only `Exception` is caught: a `KeyboardInterrupt` that arrives while everycall runs is meant for the program.
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
"""The number of failures of each guarded place. For tests and `everycall.stats()`."""
_warned_at: dict[str, float] = {}


def report(place: str, error: BaseException) -> None:
    """Count a caught exception and log it at most once a minute per place. Never raises."""
    failures[place] = failures.get(place, 0) + 1
    try:
        _log(place, error)
    except Exception:  # noqa: BLE001 - the program's logging handler failed, or the stack is full
        return


def _log(place: str, error: BaseException) -> None:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace is not None else "?"
    warn_once(
        place, "everycall failed in %s (%s at %s); your program is not affected", place, type(error).__name__, where
    )


def warn_once(key: str, message: str, *values: object) -> None:
    """Log a warning unless one with this key was logged within `limits.WARN_INTERVAL_S`."""
    now = time.monotonic()
    last = _warned_at.get(key)
    if last is None or now - last >= limits.WARN_INTERVAL_S:
        _warned_at[key] = now
        logger.warning(message, *values)


def guarded(function: Callable[P, R]) -> Callable[P, R | None]:
    """Decorate a function that a user's program calls: if it raises, count the failure and return None."""

    @functools.wraps(function)
    def inner(*args: P.args, **kwargs: P.kwargs) -> R | None:
        try:
            return function(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - the guard
            report(function.__qualname__, error)
            return None

    return inner
