"""Back-off and `Retry-After`, the same for the sender, the client and the gateway."""

from __future__ import annotations

import time
from email.utils import formatdate

import pytest

from everycall import limits
from everycall._retry import backoff_s, retry_after_s


@pytest.mark.parametrize("failures", [0, 1, 2, 3, 4, 5, 6, 10, 1_000_000])
def test_the_wait_doubles_up_to_its_bound(failures: int) -> None:
    """Between half and all of a doubling wait, and never beyond the longest."""
    longest = min(limits.BACKOFF_FIRST_S * 2 ** (min(max(failures, 1), 20) - 1), limits.BACKOFF_MAX_S)
    waits = [backoff_s(failures) for _ in range(200)]
    assert all(longest / 2 <= wait <= longest for wait in waits)
    assert len(set(waits)) > 100


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": ""}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": " 7 "}, 7.0),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "1e400"}, float("inf")),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "Wed, 99 Oct 2015 07:28:00 GMT"}, None),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({"retry-after-ms": "250"}, 0.25),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after-ms": "x", "retry-after": "9"}, 9.0),
    ],
)
def test_retry_after(headers: dict[str, str], seconds: float | None) -> None:
    """Seconds, milliseconds and dates are read; anything else says nothing."""
    assert retry_after_s(headers) == seconds


def test_retry_after_as_a_future_date() -> None:
    """A date is counted from now."""
    seconds = retry_after_s({"retry-after": formatdate(time.time() + 100, usegmt=True)})
    assert seconds is not None
    assert 90 < seconds <= 100


@pytest.mark.parametrize("off_by_s", [-86_400, 0, 86_400])
def test_a_date_counts_from_the_servers_clock(off_by_s: int) -> None:
    """What our clock says does not matter where the response says when it was sent."""
    sent_at = time.time() + off_by_s
    headers = {"date": formatdate(sent_at, usegmt=True), "retry-after": formatdate(sent_at + 60, usegmt=True)}
    assert retry_after_s(headers) == 60
