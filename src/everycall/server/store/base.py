"""The store's contract: what every store keeps, promises and answers. `store` never imports `api` or `pages`.

Promises, held by `tests/server/store/test_store_contract.py` for every implementation:

* **Durable before answered.** When `commit` returns, what it counts as committed is on stable storage (for SQLite:
  `COMMIT` with `synchronous=FULL`).
* **Idempotent.** `(project_name, inference_id)` is unique. The same record again changes nothing and counts as
  committed. A different record under a stored id merges: a field that is given replaces the stored one, a field that
  is absent keeps it (clients send a call again with scores, and patches before the call itself).
* **Isolated.** Every method that takes `project` sees that project alone; there is no query across projects.
* **One bad record never fails its batch.** What cannot be stored is refused by index and reason.
* **Bounded.** Every read has a row bound (`limits.PAGE_ROWS_MAX`, `limits.TRACE_RECORDS_MAX`) and a time bound
  (`limits.QUERY_TIMEOUT_S`, then `StoreBusy`).
* **Priced once.** A store that was given prices prices what it commits; a merge that changes the tokens prices again.
* **Counted once.** Of records of one trace with the same answer's id, one counts, whatever their order of arrival
  (`answers.counted_in`); the others say which (`Record.counted_in`).
* **Unknown is None.** A sum over records of which some have no price says how many have none; `None` when none has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from everycall import limits
from everycall.record import Record

__all__ = [
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
    "NoEarlierVersion",
    "RecordPage",
    "RecordQuery",
    "Refusal",
    "Spent",
    "Store",
    "StoreBusy",
    "StoreError",
    "TracePage",
    "TraceQuery",
    "TraceSummary",
    "VersionConflict",
]


class StoreError(Exception):
    """The store could not do what was asked; the message says why. Nothing was changed."""


class StoreBusy(StoreError):
    """The write queue is full or a read took too long; try again later (the API answers 503 with Retry-After)."""


class VersionConflict(StoreError):
    """Another version is served than the one that was expected: `active`, 0 for none."""

    def __init__(self, active: int) -> None:
        super().__init__(f"Version {active} is served now" if active else "No version is served now")
        self.active = active


class NoEarlierVersion(StoreError):
    """There is nothing to roll back to."""


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


class Store(Protocol):
    """Where the server keeps records. All methods are coroutines, safe to call from many tasks at once."""

    async def open(self) -> None:
        """Create or migrate what is there. Raises `StoreError` when another process owns it or it is newer than us."""
        ...

    async def close(self) -> None:
        """Finish the writes under way and let go."""
        ...

    async def commit(
        self,
        project: str,
        records: Sequence[Record],
        client: ClientReport | None = None,
        expense: Expense | None = None,
    ) -> Commit:
        """Store a batch, and with it what was spent on it; returns after it is durable.

        Raises `StoreBusy` (nothing stored) when the queue is full.
        """
        ...

    async def merge(self, project: str, inference_id: str, fields: Mapping[str, Any]) -> None:
        """Set fields (names of `Record`, plain JSON values) of a record that may not have come yet."""
        ...

    async def reprice(self, project: str, inference_ids: Sequence[str]) -> int:
        """Find the cost of these records again by the prices now; returns how many changed.

        A cost that was given stays as it is. A store without prices changes nothing.
        """
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

    async def put_deployment(
        self, deployment: Deployment, *, activate: bool = True, expected: int | None = None, dry_run: bool = False
    ) -> Deployment:
        """Store the next version (its `version` is set here) and serve it when `activate`; returns it as stored.

        With `dry_run` it returns the same and stores nothing. A content that a version has already makes none: that
        version is returned, and served when `activate`.
        Raises `VersionConflict` when `expected` is given and another version is served (0: none), and `StoreError`
        for more than `limits.DEPLOYMENT_BYTES_MAX`. Of two changes at once, one sees the other's.
        """
        ...

    async def deployment(self, project: str, deployment_id: str, version: int | None = None) -> Deployment | None:
        """Return the version that is served, or the one asked for; None when there is none."""
        ...

    async def deployments(
        self,
        project: str,
        *,
        active: bool = True,
        after: tuple[str, str] | None = None,
        limit: int = limits.PAGE_ROWS,
    ) -> Sequence[Deployment]:
        """Return the served versions by name and id, or the newest of deployments of which none is served.

        `after` is the name and id of the last one of the page before.
        """
        ...

    async def deployment_versions(
        self, project: str, deployment_id: str, *, before: int | None = None, limit: int = limits.PAGE_ROWS
    ) -> Sequence[DeploymentVersion]:
        """Return the versions of a deployment, the newest first, those below `before`."""
        ...

    async def deployment_activations(
        self, project: str, deployment_id: str, *, limit: int = limits.PAGE_ROWS
    ) -> Sequence[Activation]:
        """Return what was served from when on, the latest first."""
        ...

    async def deployment_uses(
        self, project: str, deployment_ids: Sequence[str], since: int
    ) -> Mapping[str, DeploymentUse]:
        """Return how these were used since a moment, from at most `limits.DEPLOYMENT_USES_MAX` records of each.

        Their costs are of at most `limits.DEPLOYMENT_COSTS_MAX` records, shared evenly among them.
        """
        ...

    async def activate_deployment(
        self, project: str, deployment_id: str, version: int, *, by: str = "", expected: int | None = None
    ) -> Deployment | None:
        """Serve a version and return it; 0 serves none, and returns the newest. None: there is no such version.

        What is served already stays, without a note. Raises `VersionConflict` as `put_deployment` does.
        """
        ...

    async def roll_back_deployment(
        self, project: str, deployment_id: str, *, by: str = "", expected: int | None = None
    ) -> Deployment | None:
        """Serve the version that was served before this one; again, the one before that. None: no such deployment.

        Raises `NoEarlierVersion`, and `VersionConflict` as `put_deployment` does.
        """
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

    async def spend(self, expense: Expense) -> None:
        """Add to what a key spent in a day; durable when it returns."""
        ...

    async def spent(self, day: int) -> Mapping[str, Spent]:
        """Return what each key spent in a day."""
        ...

    async def end_session(self, session: str, expires: int) -> None:
        """Note that a browser's session was ended, until it would have ended by itself (seconds since 1970)."""
        ...

    async def ended_sessions(self) -> Mapping[str, int]:
        """Return the sessions that were ended, with the second when each would have ended by itself."""
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
