"""The values a store takes and returns: batches, queries, pages, deployments, keys, feedback, datasets.

All are frozen. Times are integers: nanoseconds since 1970 in UTC.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from everycall.record import Record

__all__ = [
    "NO_LIMITS",
    "OPERATORS",
    "Activation",
    "ApiKey",
    "CachedResponse",
    "ClientReport",
    "Commit",
    "Condition",
    "Dataset",
    "DatasetCase",
    "Deployment",
    "DeploymentUse",
    "DeploymentVersion",
    "Expense",
    "Experiment",
    "Fault",
    "Feedback",
    "KeyLimits",
    "LogPage",
    "LogQuery",
    "RecordPage",
    "RecordQuery",
    "Refusal",
    "SlowRead",
    "Spent",
    "StoreState",
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
class Fault:
    """What keeps a store from storing records: a short `reason` such as "disk_full", and a `detail` in sentences."""

    reason: str
    detail: str
    since_unix_nano: int


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
    `cost` is None if no leaf has a price; `unpriced` is the number of leaves without one. The same holds for the token
    sums and `uncounted`. `name` is the name of the root: the earliest record without a stored parent. `duration` is in
    seconds, from the first start to the last end. `model` is the first model used, and `models` the number of models.
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
class Deployment:
    """One immutable version of a deployed prompt. `version` counts from 1; `active` is true for the served version.

    `messages` are objects `{"role": ..., "content": ...}` with `{{variables}}`. `fallbacks` are the models to try when
    this one fails, in order: `{"model": ..., "provider": ...}`. `created_by` is the name of the key that created it.
    """

    deployment_id: str
    version: int
    project_name: str
    name: str
    messages: tuple[Mapping[str, Any], ...]
    model: str
    provider: str
    model_params: Mapping[str, Any] = field(default_factory=dict)
    functions: tuple[Mapping[str, Any], ...] = ()
    function_call: str | Mapping[str, str] | None = None
    created_unix_nano: int = 0
    active: bool = True
    description: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    fallbacks: tuple[Mapping[str, Any], ...] = ()
    created_by: str = ""


@dataclass(frozen=True, slots=True)
class DeploymentVersion:
    """A version of a deployment in a list, without its content."""

    version: int
    active: bool
    name: str
    model: str
    provider: str
    created_unix_nano: int
    created_by: str | None = None


@dataclass(frozen=True, slots=True)
class Activation:
    """When a version began to be served, and the name of the key that did it. Version 0: no version was served.

    `roll_back_to` is the version that a roll-back from this one serves, or None.
    """

    version: int
    unix_nano: int
    by: str
    roll_back_to: int | None


@dataclass(frozen=True, slots=True)
class DeploymentUse:
    """How a deployment was used since a time, from its latest records. `whole` is true if these are all of them.

    `cost` is the sum over the latest `costed` records, None if none of them has a cost; `unpriced` is the number of
    those without one. `last_unix_nano` is the time of the latest call ever.
    """

    completions: int
    errors: int
    cost: float | None
    unpriced: int
    costed: int
    last_unix_nano: int | None
    whole: bool


@dataclass(frozen=True, slots=True)
class CachedResponse:
    """A provider's response, stored for reuse. `body` is JSON. It never contains omitted content."""

    body: bytes
    created_unix_nano: int


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """The limits of a key for completions; None is no limit.

    `unpriced` tells what to do with models without a known price under a budget: "allow" (count them separately) or
    "refuse".
    """

    budget_usd_per_day: float | None = None
    requests_per_minute: int | None = None
    unpriced: str = "allow"


NO_LIMITS = KeyLimits()


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as stored, with its SHA-256 instead of its secret. `role` is "read", "write" or "admin"."""

    digest: str
    name: str
    project_name: str
    role: str
    created_unix_nano: int
    revoked_unix_nano: int | None = None
    limits: KeyLimits = NO_LIMITS


@dataclass(frozen=True, slots=True)
class Spent:
    """The spending of a key on completions: US dollars, and the number of completions, with and without a price."""

    cost: float = 0.0
    completions: int = 0
    unpriced: int = 0

    def plus(self, other: Spent) -> Spent:
        """Return the sum of both."""
        return Spent(self.cost + other.cost, self.completions + other.completions, self.unpriced + other.unpriced)


@dataclass(frozen=True, slots=True)
class Expense:
    """What a key spent on a day. `key` is its digest; `day` is counted from 1970 in UTC."""

    key: str
    day: int
    amount: Spent


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


@dataclass(frozen=True, slots=True)
class SlowRead:
    """A read that took longer than `limits.SLOW_READ_S`, waiting for a reader included.

    `statement` is the start of the last statement that it ran, which has no values in it. `stopped`: it was interrupted
    at `limits.QUERY_TIMEOUT_S`.
    """

    unix_nano: int
    seconds: float
    statement: str
    stopped: bool


@dataclass(frozen=True, slots=True)
class StoreState:
    """What a store is doing, for operators. Sizes are bytes; None where the store does not know.

    `queued` counts the writes that wait, of which `queue_limit` may wait. `slow_reads` counts reads since the store was
    opened, `latest_slow_reads` has the latest ones, the most recent first.
    """

    queued: int
    queue_limit: int
    database_bytes: int | None
    wal_bytes: int | None
    disk_free_bytes: int | None
    slow_reads: int
    stopped_reads: int
    latest_slow_reads: tuple[SlowRead, ...]


@dataclass(frozen=True, slots=True)
class Feedback:
    """Feedback on a record, which may arrive later than the feedback. `score` is from 0 to 1."""

    inference_id: str
    score: float
    name: str | None = None
    target: str | None = None
    comment: str | None = None
    created_unix_nano: int = 0


@dataclass(frozen=True, slots=True)
class Experiment:
    """One run of an experiment. `statistics` and `samples` are set when it finishes.

    Its records have its `uuid` in their attribute `parea.experiment_uuid`.
    """

    uuid: str
    project_name: str
    name: str
    run_name: str
    status: str = "pending"
    metadata: Mapping[str, str] | None = None
    is_public: bool = False
    created_unix_nano: int = 0
    statistics: tuple[Mapping[str, Any], ...] = ()
    samples: int | None = None


@dataclass(frozen=True, slots=True)
class DatasetCase:
    """A test case of a dataset. The store sets `id`."""

    inputs: Mapping[str, str]
    target: str | None = None
    tags: tuple[str, ...] = ()
    id: int = 0


@dataclass(frozen=True, slots=True)
class Dataset:
    """A named collection of test cases. The store sets `id` and the times."""

    name: str
    project_name: str
    columns: tuple[str, ...] = ()
    cases: tuple[DatasetCase, ...] = ()
    id: int = 0
    created_unix_nano: int = 0
    updated_unix_nano: int = 0
