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
from typing import Any, Protocol

from everycall import limits
from everycall.record import Record
from everycall.server.store.values import (
    Activation,
    ApiKey,
    CachedResponse,
    ClientReport,
    Commit,
    Dataset,
    DatasetCase,
    Deployment,
    DeploymentUse,
    DeploymentVersion,
    Expense,
    Experiment,
    Feedback,
    LogPage,
    LogQuery,
    RecordPage,
    RecordQuery,
    Spent,
    TracePage,
    TraceQuery,
    TraceSummary,
)

__all__ = ["Store"]


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
