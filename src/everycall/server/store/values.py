"""The values that go into a store and come out of it: batches, queries, pages, deployments, keys, evaluation.

All are frozen. Times are integers, nanoseconds since 1970 in UTC, unless a field says otherwise.
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
    "Feedback",
    "KeyLimits",
    "LogPage",
    "LogQuery",
    "RecordPage",
    "RecordQuery",
    "Refusal",
    "Spent",
    "TracePage",
    "TraceQuery",
    "TraceSummary",
]


@dataclass(frozen=True, slots=True)
class Refusal:
    """A record that will never be stored: its place in the batch, its id where it has one, and why."""

    index: int
    inference_id: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class Commit:
    """What became of a batch: `committed` counts records stored now or already there."""

    committed: int
    refused: tuple[Refusal, ...] = ()


@dataclass(frozen=True, slots=True)
class ClientReport:
    """A client process's own counts, from the headers of its batch.

    `client` is `host:pid:start`; `balance` has recorded, delivered, spooled and dropped (by reason).
    """

    client: str
    balance: Mapping[str, Any]
    seen_unix_nano: int = 0


@dataclass(frozen=True, slots=True)
class RecordQuery:
    """Filters of a list of records; those given all apply. Newest first.

    `cursor` is the opaque `next_cursor` of the page before. `since`/`until` are nanoseconds on the start time,
    inclusive/exclusive. `search` is a literal substring of name, trace_name, content or inputs (no pattern language).
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
    """Filters of a list of traces; those given all apply. Newest activity first. Fields as in `RecordQuery`.

    `status` is `error` for traces with at least one failed record, `success` for traces with none.
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
    """One trace as a row: sums over its inference leaves (`semconv.PRICED_KINDS`), counts over all its records.

    A call whose answer another record counts (`Record.counted_in`) is no leaf; `counted_elsewhere` counts these.
    `cost` is None when no leaf has a price; `unpriced` counts the leaves without one. Likewise for the token sums and
    `uncounted`. `name` is the root record's name (the one without a stored parent that started first). `duration` is
    seconds from the first start to the last end. `model` is the leaves' model, the first by time; `models` counts them.
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
    """One immutable version of a deployed prompt. `version` counts from 1; `active` marks the one that is served.

    `fallbacks` are further models for when this one fails, in their order: {"model": ..., "provider": ...}.
    `created_by` is the name of the key that made it.
    """

    deployment_id: str
    version: int
    project_name: str
    name: str
    messages: tuple[Mapping[str, Any], ...]  # {"role": ..., "content": ...} with {{variables}}
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
    """A version as a row of a list, without its content."""

    version: int
    active: bool
    name: str
    model: str
    provider: str
    created_unix_nano: int
    created_by: str | None = None


@dataclass(frozen=True, slots=True)
class Activation:
    """From when on a version was served, and by whose key; version 0: from when on none was.

    `roll_back_to` is the version that a roll-back led to while this one was served; None: to none.
    """

    version: int
    unix_nano: int
    by: str
    roll_back_to: int | None


@dataclass(frozen=True, slots=True)
class DeploymentUse:
    """How a deployment was used since a moment, from its latest records; `whole` says that these are all.

    `cost` is of the latest `costed` of them: None when none of these has one, `unpriced` counts those without.
    `last_unix_nano` is the latest call ever.
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
    """A provider's answer kept for reuse; `body` is JSON. Never holds what an omit flag covers."""

    body: bytes
    created_unix_nano: int


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """What a key may do with completions; None is no limit.

    `unpriced` says what becomes of models without a known price under a budget: "allow" (they are counted apart) or
    "refuse".
    """

    budget_usd_per_day: float | None = None
    requests_per_minute: int | None = None
    unpriced: str = "allow"


NO_LIMITS = KeyLimits()


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as stored: never itself, only the SHA-256 of it. `role` is read, write or admin."""

    digest: str
    name: str
    project_name: str
    role: str
    created_unix_nano: int
    revoked_unix_nano: int | None = None
    limits: KeyLimits = NO_LIMITS


@dataclass(frozen=True, slots=True)
class Spent:
    """What a key spent on completions: US dollars, of how many, of which so many had no known price (and no cost)."""

    cost: float = 0.0
    completions: int = 0
    unpriced: int = 0

    def plus(self, other: Spent) -> Spent:
        """Return the sum."""
        return Spent(self.cost + other.cost, self.completions + other.completions, self.unpriced + other.unpriced)


@dataclass(frozen=True, slots=True)
class Expense:
    """What a key (its digest) spent in a day, counted from 1970 in UTC."""

    key: str
    day: int
    amount: Spent


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition on a record: `paths` lead to values in its wire form, `operator` compares these with `value`.

    A path goes into objects by key (`*` is every key) and into lists of named objects (`{"name": ..., "score": ...}`)
    by name, to the score. `("feedback",)` is the score of the latest feedback. Values compare as numbers where both
    are, else as text; of a list, one element is enough. Operators: equals, not_equals, like (text within, case aside;
    `%` is any text), greater_than, greater_than_or_equal, less_than, less_than_or_equal, is_null, exists, in and
    between (`value` is a JSON list, or texts with commas between).
    """

    paths: tuple[tuple[str, ...], ...]
    operator: str
    value: str | None = None


OPERATORS = (
    "equals", "not_equals", "like", "greater_than_or_equal", "less_than_or_equal", "greater_than", "less_than",
    "is_null", "exists", "in", "between",
)  # fmt: skip
"""Of a `Condition`."""


@dataclass(frozen=True, slots=True)
class LogQuery:
    """Filters of a list of logs, newest first; those given all apply.

    `trace_ids` are the traces to look in, all when left out. `roots` leaves out records whose parent is stored. `since`
    is nanoseconds on the start time. A page is found by number (`offset` records are passed over), because that is how
    this list is asked for.
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
    """A page of records, and how many there are in all."""

    records: tuple[Record, ...]
    total: int


@dataclass(frozen=True, slots=True)
class Feedback:
    """What somebody thinks of a record, which may not have come yet. `score` is from 0 to 1."""

    inference_id: str
    score: float
    name: str | None = None
    target: str | None = None
    comment: str | None = None
    created_unix_nano: int = 0


@dataclass(frozen=True, slots=True)
class Experiment:
    """One run of an experiment. `statistics` and `samples` are set when it is finished.

    Its records are those with its `uuid` in their attribute `parea.experiment_uuid`.
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
    """One case of a dataset. `id` is set by the store, unique in it."""

    inputs: Mapping[str, str]
    target: str | None = None
    tags: tuple[str, ...] = ()
    id: int = 0


@dataclass(frozen=True, slots=True)
class Dataset:
    """A named collection of test cases. `id` and the times are set by the store."""

    name: str
    project_name: str
    columns: tuple[str, ...] = ()
    cases: tuple[DatasetCase, ...] = ()
    id: int = 0
    created_unix_nano: int = 0
    updated_unix_nano: int = 0
