"""The store's contract: what every store keeps, promises and answers. `store` never imports `api` or `pages`.

Promises, held by `tests/server/test_store_contract.py` for every implementation:

* **Durable before answered.** When `commit` returns, what it counts as committed is on stable storage (for SQLite:
  `COMMIT` with `synchronous=FULL`).
* **Idempotent.** `(project_name, inference_id)` is unique. The same record again changes nothing and counts as
  committed. A different record under a stored id merges: a field that is given replaces the stored one, a field that
  is absent keeps it (clients send a call again with scores, and patches before the call itself).
* **Isolated.** Every method that takes `project` sees that project alone; there is no query across projects.
* **One bad record never fails its batch.** What cannot be stored is refused by index and reason.
* **Bounded.** Every read has a row bound (`limits.PAGE_ROWS_MAX`, `limits.TRACE_RECORDS_MAX`) and a time bound
  (`limits.QUERY_TIMEOUT_S`, then `StoreBusy`).
* **Unknown is None.** A sum over records of which some have no price says how many have none; `None` when none has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from everycall.record import Record

__all__ = [
    "ApiKey",
    "CachedResponse",
    "ClientReport",
    "Commit",
    "Condition",
    "Dataset",
    "DatasetCase",
    "Deployment",
    "Experiment",
    "Feedback",
    "LogPage",
    "LogQuery",
    "RecordPage",
    "RecordQuery",
    "Refusal",
    "Store",
    "StoreBusy",
    "StoreError",
    "TracePage",
    "TraceQuery",
    "TraceSummary",
]


class StoreError(Exception):
    """The store could not do what was asked; the message says why. Nothing was changed."""


class StoreBusy(StoreError):
    """The write queue is full or a read took too long; try again later (the API answers 503 with Retry-After)."""


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


@dataclass(frozen=True, slots=True)
class TracePage:
    """A page of traces. `next_cursor` is None on the last page."""

    traces: tuple[TraceSummary, ...]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class Deployment:
    """One immutable version of a deployed prompt. `version` counts from 1; `active` marks the one that is served."""

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


@dataclass(frozen=True, slots=True)
class CachedResponse:
    """A provider's answer kept for reuse; `body` is JSON. Never holds what an omit flag covers."""

    body: bytes
    created_unix_nano: int


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as stored: never itself, only the SHA-256 of it. `role` is read, write or admin."""

    digest: str
    name: str
    project_name: str
    role: str
    created_unix_nano: int
    revoked_unix_nano: int | None = None


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


class Store(Protocol):
    """Where the server keeps records. All methods are coroutines, safe to call from many tasks at once."""

    async def open(self) -> None:
        """Create or migrate what is there. Raises `StoreError` when another process owns it or it is newer than us."""
        ...

    async def close(self) -> None:
        """Finish the writes under way and let go."""
        ...

    async def commit(self, project: str, records: Sequence[Record], client: ClientReport | None = None) -> Commit:
        """Store a batch; returns after it is durable. Raises `StoreBusy` (nothing stored) when the queue is full."""
        ...

    async def merge(self, project: str, inference_id: str, fields: Mapping[str, Any]) -> None:
        """Set fields (names of `Record`, plain JSON values) of a record that may not have come yet."""
        ...

    async def record(self, project: str, inference_id: str) -> Record | None:
        """Return one record, or None."""
        ...

    async def records(self, project: str, query: RecordQuery) -> RecordPage:
        """Return a page of records, newest first. Raises `StoreError` for a cursor it did not make."""
        ...

    async def trace(self, project: str, trace_id: str, cursor: str | None = None) -> RecordPage:
        """Return one trace's records, oldest first, at most `limits.TRACE_RECORDS_MAX` a page."""
        ...

    async def trace_summary(self, project: str, trace_id: str) -> TraceSummary | None:
        """Return one trace's sums, or None when it has no record."""
        ...

    async def traces(self, project: str, query: TraceQuery) -> TracePage:
        """Return a page of traces, newest activity first. Raises `StoreError` for a cursor it did not make."""
        ...

    async def trees(self, project: str, trace_ids: Sequence[str], cursor: str | None = None) -> RecordPage:
        """Return all records of these traces, oldest first, at most `limits.TRACE_RECORDS_MAX` a page."""
        ...

    async def logs(self, project: str, query: LogQuery) -> LogPage:
        """Return a page of records by its number. Raises `StoreError` for an operator that there is not."""
        ...

    async def clients(self, project: str) -> Sequence[ClientReport]:
        """Return the latest balance sheet of each client process, the most recently seen first."""
        ...

    async def projects(self) -> Sequence[str]:
        """Return the names of all projects that have a record, deployment, key, experiment or dataset."""
        ...

    async def put_deployment(self, deployment: Deployment) -> Deployment:
        """Store the next version (its `version` is set here) and make it active; returns it as stored.

        The same content as the active version stores nothing and returns that version.
        """
        ...

    async def deployment(self, project: str, deployment_id: str, version: int | None = None) -> Deployment | None:
        """Return the active version, or the one asked for; None when there is none."""
        ...

    async def deployments(self, project: str) -> Sequence[Deployment]:
        """Return the active versions, by name."""
        ...

    async def cached(self, project: str, key: str, max_age_s: float) -> CachedResponse | None:
        """Return a stored response that is not older than `max_age_s`, or None."""
        ...

    async def cache(self, project: str, key: str, body: bytes) -> None:
        """Keep a response; beyond `limits.CACHE_BYTES_MAX` the least recently used of the project go."""
        ...

    async def clear_cache(self, project: str) -> int:
        """Forget all stored responses of a project; returns how many there were."""
        ...

    async def put_key(self, key: ApiKey) -> None:
        """Store a key, or replace the one with the same digest (to revoke it)."""
        ...

    async def keys(self) -> Sequence[ApiKey]:
        """Return all keys, revoked ones included."""
        ...

    async def put_feedback(self, project: str, feedback: Feedback) -> None:
        """Keep a feedback, the latest `limits.FEEDBACK_MAX` of a record.

        One that says the same as the record's latest stores nothing: clients send again what got no answer.
        """
        ...

    async def feedback(self, project: str, inference_ids: Sequence[str]) -> Mapping[str, Sequence[Feedback]]:
        """Return the feedback of these records, the latest last; records without any are left out."""
        ...

    async def put_experiment(self, experiment: Experiment) -> bool:
        """Store an experiment, or replace the one with its `uuid`.

        Returns False, and stores nothing, when another one of the project has this name and run name.
        """
        ...

    async def experiment(self, project: str, uuid: str) -> Experiment | None:
        """Return one experiment, or None."""
        ...

    async def experiments(self, project: str) -> Sequence[Experiment]:
        """Return the experiments of a project, the latest first, at most `limits.EXPERIMENTS_MAX`."""
        ...

    async def experiment_traces(self, project: str, uuid: str, after: str = "") -> Sequence[str]:
        """Return the ids of the traces that have a record of an experiment, in order, those after `after`.

        At most `limits.PAGE_ROWS_MAX`; the last one, given as `after`, continues.
        """
        ...

    async def put_dataset(self, dataset: Dataset) -> Dataset | None:
        """Store a new dataset with its cases and return it with their ids. None when the project has that name.

        Raises `StoreError` for more than `limits.DATASET_CASES_MAX` cases or `limits.DATASET_BYTES_MAX` of them.
        """
        ...

    async def add_cases(self, project: str, dataset_id: int, cases: Sequence[DatasetCase]) -> Sequence[int] | None:
        """Add cases to a dataset and return their ids; None when the project has no such dataset.

        Raises `StoreError` as `put_dataset` does.
        """
        ...

    async def update_case(self, project: str, dataset_id: int, case: DatasetCase) -> bool:
        """Replace the case with `case.id`. Returns whether the dataset has it."""
        ...

    async def dataset(self, project: str, key: int | str) -> Dataset | None:
        """Return a dataset with its cases, by its id or its name; None when the project has none."""
        ...
