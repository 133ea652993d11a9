"""How long to wait before a retry: a server's `Retry-After`, or the back-off without one.

Pure functions, used by the sender, the `Parea` client and the gateway.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping

from everycall import limits

__all__ = ["backoff_s", "retry_after_s"]


def backoff_s(failures: int) -> float:
    """Return how long to wait after this many failures in a row, in seconds.

    The wait doubles from `limits.BACKOFF_FIRST_S` up to `limits.BACKOFF_MAX_S`. It is random between half of that and
    all of it, so that many clients of one server do not come back at the same time.
    """
    longest_s: float = min(limits.BACKOFF_FIRST_S * 2 ** min(max(failures, 1) - 1, 16), limits.BACKOFF_MAX_S)
    return longest_s * random.uniform(0.5, 1.0)  # noqa: S311 - jitter


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Return how long a response asks the client to wait, in seconds; None if it does not say so.

    Reads `Retry-After` in both of its forms, seconds and a date (RFC 9110, 10.2.3), and `retry-after-ms`, which some
    providers send. A date counts from the time at which the server sent it (`Date`), so its clock and ours may differ.
    Names of headers are lower case, or `headers` ignores case. The result may be infinite; the caller bounds it.
    """
    for name, unit_s in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name) or "") * unit_s
        except ValueError:
            continue
        if seconds >= 0:
            return seconds
    until = _unix_time(headers.get("retry-after"))
    if until is None:
        return None
    sent_at = _unix_time(headers.get("date"))
    return max(0.0, until - (time.time() if sent_at is None else sent_at))


def _unix_time(date: str | None) -> float | None:
    """Return an HTTP date as seconds since 1970; None for any other text."""
    from email.utils import parsedate_to_datetime  # slow to import, and dates are rare

    try:
        return parsedate_to_datetime(date or "").timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
