"""Parsing and formatting timestamps in all the forms that Parea's clients have used.

Parea's API documents `2023-07-24 18:05:17 ` with a trailing space. Its Python clients sent local time without a zone,
then with a zone's name (`2024-01-15 10:11:12 EST`), then ISO 8601 with `+00:00`. Its TypeScript client sends ISO 8601
with milliseconds and `Z`.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

__all__ = ["read_timestamp", "write_timestamp"]

_FORM = re.compile(
    r"(?P<day>\d{4}-\d\d-\d\d)[ Tt](?P<clock>\d\d:\d\d:\d\d)(?:[.,](?P<fraction>\d{1,9})\d*)?"
    r" ?(?P<zone>[Zz]|[+-]\d\d:?\d\d|[A-Za-z]{2,5})?"
)
_NAMED_HOURS = {
    "EST": -5, "EDT": -4, "CST": -6, "CDT": -5, "MST": -7, "MDT": -6, "PST": -8, "PDT": -7, "AKST": -9, "AKDT": -8,
    "HST": -10, "BST": 1, "WEST": 1, "CET": 1, "CEST": 2, "EET": 2, "EEST": 3, "MSK": 3, "JST": 9, "KST": 9, "SGT": 8,
    "HKT": 8, "AEST": 10, "AEDT": 11, "NZST": 12, "NZDT": 13,
}  # fmt: skip
"""Zone names as Python's `%Z` writes them. Other names, and names of two zones, are read as UTC."""


def read_timestamp(text: str) -> int:
    """Return a timestamp as nanoseconds since 1970 in UTC. Without a zone it is UTC.

    Raise `ValueError` if the text is not a timestamp, or before 1970.
    """
    match = _FORM.fullmatch(text.strip())
    if match is None:
        raise ValueError("not a timestamp such as 2024-05-30T13:48:34+00:00")
    moment = datetime.fromisoformat(f"{match['day']}T{match['clock']}+00:00") - datetime(1970, 1, 1, tzinfo=UTC)
    seconds = int((moment - _offset(match["zone"] or "Z")).total_seconds())
    if seconds < 0:
        raise ValueError("the timestamp is before 1970")
    return seconds * 10**9 + int((match["fraction"] or "").ljust(9, "0"))


def write_timestamp(unix_nano: int) -> str:
    """Return a timestamp as Parea's API documents it: `YYYY-MM-DD HH:MM:SS`, UTC."""
    return datetime.fromtimestamp(unix_nano // 10**9, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _offset(zone: str) -> timedelta:
    if zone[0] in "+-":
        offset = timedelta(hours=int(zone[1:3]), minutes=int(zone[-2:]))
        return -offset if zone[0] == "-" else offset
    return timedelta(hours=_NAMED_HOURS.get(zone.upper(), 0))
