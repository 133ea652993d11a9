"""Records and traces: batches, queries and their pages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from everycall.record import Record

__all__ = [
    "OPERATORS",
    "ClientReport",
    "Commit",
    "Condition",
    "LogPage",
    "LogQuery",
    "RecordPage",
    "RecordQuery",
    "Refusal",
    "TracePage",
    "TraceQuery",
    "TraceSummary",
]


@dataclass(frozen=True, slots=True)
class Refusal:
    """A record that will never be stored: its index in the batch, its id if it has one, and the reason."""

    index: int
    inference_id: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class Commit:
    """The result of a commit. `committed` counts the records that were stored now or earlier."""

    committed: int
    refused: tuple[Refusal, ...] = ()


@dataclass(frozen=True, slots=True)
class ClientReport:
    """The counts of a client process, from the headers of its batch.

    `client` is `host:pid:start`. `balance` has the counts `recorded`, `delivered`, `spooled`, and `dropped` by reason.
    """

    client: str
    balance: Mapping[str, Any]
    seen_unix_nano: int = 0


@dataclass(frozen=True, slots=True)
class RecordQuery:
    """Filters of a list of records, newest first. A record has to match all filters that are not None.

    `since` (inclusive) and `until` (exclusive) bound the start time. `search` is a literal substring of `name`,
    `trace_name`, `content` or `inputs`. `cursor` is the `next_cursor` of the previous page.
    """

    trace_id: str | None = None
    name: str | None = None
    trace_name: str | None = None
    kind: str | None = None
    model: str | None = None
    provider: str | None = None
    status: str | None = None
    end_user_identifier: str | None = None
    session_id: str | None = None
    deployment_id: str | None = None
    tag: str | None = None
    cache_hit: bool | None = None
    since: int | None = None
    until: int | None = None
    search: str | None = None
    limit: int = 50
    cursor: str | None = None


@dataclass(frozen=True, slots=True)
class RecordPage:
    """A page of records. `next_cursor` is None on the last page."""

    records: tuple[Record, ...]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class TraceQuery:
    """Filters of a list of traces, those with the latest activity first. The fields are those of `RecordQuery`.

    `status` is "error" for traces with a failed record, "success" for traces without one.
    """

    trace_name: str | None = None
    status: str | None = None
    end_user_identifier: str | None = None
    session_id: str | None = None
    tag: str | None = None
    since: int | None = None
    until: int | None = None
    search: str | None = None
    limit: int = 50
    cursor: str | None = None


@dataclass(frozen=True, slots=True)
class TraceSummary:
    """The summary of a trace: sums over its model calls (`semconv.PRICED_KINDS`), and counts over all its records.

    `leaves` is the number of model calls that count. A call whose response is counted in another record
    (`Record.counted_in`) does not; `counted_elsewhere` is the number of those.
    `cost` is None if no leaf has a price; `unpriced` is the number of leaves without one, except those that failed and
    have no tokens. The token sums are None if no leaf has tokens, and `uncounted` is the number of leaves without.
    `name` is the name of the root: the earliest record without a stored parent. `duration` is in seconds, from the
    first start to the last end. `model` is the first model used, and `models` the number of models.
    """

    trace_id: str
    trace_name: str | None
    name: str
    project_name: str
    end_user_identifier: str | None
    session_id: str | None
    tags: tuple[str, ...]
    start_time_unix_nano: int
    end_time_unix_nano: int
    duration: float
    records: int
    leaves: int
    errors: int
    cache_hits: int
    input_tokens: int | None
    output_tokens: int | None
    total_tokens: int | None
    uncounted: int
    cost: float | None
    unpriced: int
    saved_cost: float | None
    model: str | None
    models: int
    counted_elsewhere: int = 0


@dataclass(frozen=True, slots=True)
class TracePage:
    """A page of traces. `next_cursor` is None on the last page."""

    traces: tuple[TraceSummary, ...]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition on a record: `paths` lead to values in its wire form, and `operator` compares them with `value`.

    A path goes into objects by key (`*` is every key), and into lists of objects such as `{"name": ..., "score": ...}`
    by name, to the score. `("feedback",)` is the score of the latest feedback. Two numbers compare as numbers, other
    values as text. A list matches if one of its elements does.

    The operators are those of `OPERATORS`. `like` finds text regardless of case, with `%` for any text. For `in` and
    `between`, `value` is a JSON list, or texts separated by commas.
    """

    paths: tuple[tuple[str, ...], ...]
    operator: str
    value: str | None = None


OPERATORS = (
    "equals", "not_equals", "like", "greater_than_or_equal", "less_than_or_equal", "greater_than", "less_than",
    "is_null", "exists", "in", "between",
)  # fmt: skip
"""The operators of a `Condition`."""


@dataclass(frozen=True, slots=True)
class LogQuery:
    """Filters of Parea's list of logs, newest first. A record has to match all filters that are not None.

    `trace_ids` limits the list to these traces. `roots` excludes records whose parent is stored. `since` bounds the
    start time. Parea's clients ask for pages by number, so this list has an `offset` instead of a cursor.
    """

    trace_ids: tuple[str, ...] | None = None
    roots: bool = False
    status: str | None = None
    since: int | None = None
    condition: Condition | None = None
    offset: int = 0
    limit: int = 50


@dataclass(frozen=True, slots=True)
class LogPage:
    """A page of records, and the total number of records that match."""

    records: tuple[Record, ...]
    total: int
