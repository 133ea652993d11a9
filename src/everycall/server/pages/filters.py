"""The filters of the list of traces: from the query of the URL to a `TraceQuery`, and back to chips and links.

Every parameter is optional. An invalid value is an error that says what it may be; so is an unknown parameter.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from everycall import limits
from everycall.semconv import ERROR, SUCCESS
from everycall.server.pages.addresses import with_query
from everycall.server.store.values import TraceQuery

__all__ = ["FIELDS", "RANGES", "Chip", "FilterError", "Filters", "read_filters", "unread_filters"]

_NANOS: Final = 1_000_000_000

FIELDS: Final[dict[str, str]] = {
    "search": "Search",
    "status": "Status",
    "trace_name": "Trace name",
    "end_user_identifier": "End user",
    "session_id": "Session",
    "tag": "Tag",
    "range": "Started within",
    "since": "Since",
    "until": "Until",
}
"""Parameter -> label, in the order of the form."""

_NOT_FILTERS: Final = ("project", "limit", "cursor")
"""The other parameters of the list."""

RANGES: Final[dict[str, tuple[str, int]]] = {
    "15m": ("last 15 minutes", 900),
    "1h": ("last hour", 3_600),
    "24h": ("last 24 hours", 86_400),
    "7d": ("last 7 days", 7 * 86_400),
    "30d": ("last 30 days", 30 * 86_400),
}
"""Value of `range` -> label and seconds."""


class FilterError(ValueError):
    """A query parameter is not valid; the message names it and says what it may be."""


@dataclass(frozen=True, slots=True)
class Chip:
    """One active filter as shown above the list; `href` is the list without it."""

    label: str
    value: str
    href: str


@dataclass(frozen=True, slots=True)
class Filters:
    """The filters of a list: `values` are the active ones as written in the URL, `query` is what the store gets."""

    values: dict[str, str]
    query: TraceQuery
    project: str | None

    def chips(self) -> list[Chip]:
        """Return the active filters, each with the link that removes it."""
        chips = []
        for name, value in self.values.items():
            others = {key: other for key, other in self.values.items() if key != name}
            label = RANGES[value][0] if name == "range" and value in RANGES else value
            chips.append(Chip(FIELDS[name], label, with_query("/traces", project=self.project, **others)))
        return chips

    def href(self, path: str = "/traces", **more: object) -> str:
        """Return a URL with these filters and `more`, which replaces filters of the same name."""
        limit = self.query.limit if self.query.limit != limits.PAGE_ROWS else None
        return with_query(path, **{"project": self.project, **self.values, "limit": limit, **more})


def unread_filters(parameters: Mapping[str, str], project: str | None) -> Filters:
    """Return the filters as they are written in the URL, some of which are not valid, with a query for nothing."""
    return Filters(_values(parameters), TraceQuery(), project)


def read_filters(parameters: Mapping[str, str], project: str | None, now_nano: int) -> Filters:
    """Read the query of `/traces`. Raise `FilterError`."""
    _refuse_unknown(parameters)
    values = _values(parameters)
    status = values.get("status")
    if status not in (None, SUCCESS, ERROR):
        raise FilterError(f"status may be {SUCCESS!r} or {ERROR!r}, not {status[:80]!r}")
    since = _moment("since", values.get("since"))
    if span := values.get("range"):
        if span not in RANGES:
            raise FilterError(f"range may be {', '.join(RANGES)}, not {span[:80]!r}; use since and until for another")
        start = now_nano - RANGES[span][1] * _NANOS
        since = start if since is None else max(since, start)
    query = TraceQuery(
        trace_name=values.get("trace_name"),
        status=status,
        end_user_identifier=values.get("end_user_identifier"),
        session_id=values.get("session_id"),
        tag=values.get("tag"),
        since=since,
        until=_moment("until", values.get("until")),
        search=values.get("search"),
        limit=_limit(parameters.get("limit", "")),
        cursor=parameters.get("cursor") or None,
    )
    return Filters(values, query, project)


def _refuse_unknown(parameters: Mapping[str, str]) -> None:
    """Raise `FilterError` for a parameter that the list does not have: without it the list would show too much."""
    names = [*FIELDS, *_NOT_FILTERS]
    for name in parameters:
        if name not in names:
            nearest = difflib.get_close_matches(name[:80], names, n=1)
            hint = f"did you mean {nearest[0]!r}?" if nearest else f"there are {', '.join(FIELDS)}"
            raise FilterError(f"There is no filter {name[:80]!r}; {hint}")


def _values(parameters: Mapping[str, str]) -> dict[str, str]:
    return {name: parameters[name].strip() for name in FIELDS if parameters.get(name, "").strip()}


def _limit(text: str) -> int:
    if not text:
        return limits.PAGE_ROWS
    if not re.fullmatch("[0-9]{1,9}", text) or not 1 <= int(text) <= limits.PAGE_ROWS_MAX:
        raise FilterError(f"limit may be 1 to {limits.PAGE_ROWS_MAX}, not {text[:80]!r}")
    return int(text)


def _moment(name: str, text: str | None) -> int | None:
    """Return nanoseconds since 1970 for ISO 8601 (UTC if it names no zone) or an integer. Raise `FilterError`."""
    if text is None:
        return None
    if re.fullmatch("[0-9]{12,19}", text):
        return int(text)
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return max(0, int(moment.timestamp()) * _NANOS + moment.microsecond * 1000)
    except (ValueError, OverflowError) as error:
        raise FilterError(f"{name} may be a time such as 2026-01-31T12:00 (UTC), not {text[:80]!r}") from error
