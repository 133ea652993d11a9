"""Numbers and times as the pages show them: with thousands separators and a suitable unit.

`rendering` registers them as template filters. Unknown (`None`) is always `DASH`, never 0.
"""

from __future__ import annotations

from datetime import UTC, datetime

__all__ = [
    "DASH",
    "absolute_time",
    "ago",
    "byte_size",
    "code_spans",
    "count",
    "duration",
    "iso_time",
    "money",
    "tick_label",
]

DASH = "—"
_NANOS = 1_000_000_000
_ABSURD = 1e15
"""Larger figures are shown as powers of ten, so that a wrong value does not break the layout."""
_YEAR_9999_NANOS = 253_402_300_799 * _NANOS


def count(value: float | None) -> str:
    """Return a whole number with thousands separators: `12,345`."""
    if value is None:
        return DASH
    if value >= _ABSURD:
        return f"{value:.3g}"
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,}"


def money(value: float | None) -> str:
    """Return US dollars: cents from one dollar up, else three significant digits, so that no price reads as 0."""
    if value is None:
        return DASH
    if value == 0:
        return "$0"
    if value >= _ABSURD:
        return f"${value:.3g}"
    if value >= 0.9995:
        return f"${value:,.2f}"
    if value < 1e-9:
        return "<$0.000000001"
    places = 2 - int(f"{value:e}".split("e")[1])
    return f"${value:.{places}f}".rstrip("0")


def duration(seconds: float | None) -> str:
    """Return a time span: `0.42 ms`, `4.2 ms`, `318 ms`, `2.47 s`, `3 m 05 s`, `2 h 07 m`."""
    if seconds is None:
        return DASH
    if seconds < 0.000005:
        return "0 ms"
    if seconds >= _ABSURD:
        return f"{seconds:.3g} s"
    if seconds < 0.00995:
        return f"{seconds * 1000:.{2 if seconds < 0.000995 else 1}f} ms"
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.2f} s" if seconds < 9.995 else f"{seconds:.1f} s"
    if seconds < 3599.5:
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes} m {rest:02d} s"
    hours, rest = divmod(round(seconds / 60), 60)
    return f"{hours:,} h {rest:02d} m"


def tick_label(seconds: float) -> str:
    """Return the label of a tick of the time axis, without unneeded digits: `0`, `250 ms`, `1.5 s`, `2 m`."""
    if seconds == 0:
        return "0"
    if seconds < 1:
        return f"{seconds * 1000:g} ms"
    if seconds < 60:
        return f"{seconds:g} s"
    return f"{seconds / 60:.3g} m" if seconds < 3600 else f"{seconds / 3600:.3g} h"


def byte_size(value: float | None) -> str:
    """Return a size: `512 bytes`, `1.5 KB`, `3.2 MB` (of 1,024)."""
    if value is None:
        return DASH
    if value < 1024:
        return f"{value:,.0f} bytes"
    for size, unit in ((1024, "KB"), (1024**2, "MB"), (1024**3, "GB")):
        if value < size * 1024:
            return f"{value / size:,.1f} {unit}"
    return f"{value / 1024**4:,.1f} TB"


def ago(unix_nano: int, now_nano: int) -> str:
    """Return how long ago a moment was: `now`, `42 s ago`, `5 min ago`, `3 h ago`, `12 d ago`."""
    if not unix_nano:
        return DASH
    seconds = (now_nano - unix_nano) / _NANOS
    if seconds < -5:
        return "in the future"
    if seconds < 5:
        return "now"
    for size, unit, until in ((1, "s", 60), (60, "min", 3600), (3600, "h", 86_400)):
        if seconds < until:
            return f"{seconds // size:.0f} {unit} ago"
    return f"{seconds // 86_400:,.0f} d ago"


def code_spans(text: str) -> list[tuple[str, bool]]:
    """Return the pieces of a message, each with whether it stood between backticks, which are left out.

    A backtick without a partner stays where it is.
    """
    pieces = text.split("`")
    if len(pieces) % 2 == 0:
        pieces[-2:] = ["`".join(pieces[-2:])]
    return [(piece, index % 2 == 1) for index, piece in enumerate(pieces) if piece]


def iso_time(unix_nano: int) -> str:
    """Return RFC 3339 in UTC with milliseconds, for machines; empty when the moment is not known."""
    if not 0 < unix_nano <= _YEAR_9999_NANOS:
        return ""
    moment = datetime.fromtimestamp(unix_nano // _NANOS, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{unix_nano // 1_000_000 % 1000:03d}Z"


def absolute_time(unix_nano: int) -> str:
    """Return a moment for people, `2026-09-12 14:03:07.250 UTC`."""
    iso = iso_time(unix_nano)
    return f"{iso[:10]} {iso[11:-1]} UTC" if iso else "not known"
