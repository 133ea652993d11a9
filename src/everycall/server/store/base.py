"""The protocol of a store: where the server keeps records. Its values are in `values`, its errors in `errors`.

Every implementation makes these promises; the tests in `tests/server/store/` check them:

* **Durable before acknowledged.** When `commit` returns, the records it counts as committed are on stable storage (for
  SQLite: `COMMIT` with `synchronous=FULL`).
* **Idempotent.** `(project_name, inference_id)` is unique. Storing the same record again changes nothing and counts as
  committed. A different record with a stored id is merged into it: its fields replace the stored ones, and fields it
  lacks are kept. Clients send a call again with scores, and updates before the call itself.
* **Isolated.** A method with a `project` argument sees that project alone. There is no query across projects.
* **One bad record never fails its batch.** A record that cannot be stored is refused with its index and the reason.
* **Bounded.** Every read is bounded in rows (`limits.PAGE_ROWS_MAX`, `limits.TRACE_RECORDS_MAX`) and in time
  (`limits.QUERY_TIMEOUT_S`, then `StoreBusy`).
* **Priced once.** A store with prices prices the records it commits. A merge that changes the tokens prices again.
* **Counted once.** If several records of a trace have the same response id, one of them counts, whatever their order
  of arrival (`answers.counted_in`). The others name it (`Record.counted_in`).
* **Unknown is None.** A sum over records says how many of them have no price, and is None if none has one.
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
    Fault,
    Feedback,
    LogPage,
    LogQuery,
    RecordPage,
    RecordQuery,
    Spent,
    StoreState,
    TracePage,
    TraceQuery,
    TraceSummary,
)

__all__ = ["Store"]


class Store(Protocol):
    """Where the server keeps records. All methods are coroutines, and many tasks may call them at once.

    Every method may raise `StoreBusy`. A method that writes returns when the change is durable.
    """

    async def open(self) -> None:
        """Open the store; create or migrate it if needed.

        Raise `StoreError` if another process uses it, or a newer version of everycall wrote it.
        """
        ...

    async def close(self) -> None:
        """Finish the writes in progress and close the store."""
        ...

    @property
    def fault(self) -> Fault | None:
        """What keeps the store from storing records now, or None. Reads may still work."""
        ...

    async def commit(
        self,
        project: str,
        records: Sequence[Record],
        client: ClientReport | None = None,
        expense: Expense | None = None,
    ) -> Commit:
        """Store a batch of records, with the report of the client that sent it and the spending it caused.

        Return after the commit is durable. Raise `StoreBusy` if the write queue or the disk is full; nothing is stored
        then.
        """
        ...

    async def report(self, project: str, client: ClientReport, *, everywhere: bool = False) -> None:
        """Store a client's report that came without records.

        With `everywhere`, it replaces the client's reports in all projects; `project` is used if there are none.
        """
        ...

    async def merge(self, project: str, inference_id: str, fields: Mapping[str, Any]) -> None:
        """Set fields of a record, now or when it arrives. `fields` maps names of `Record` to plain JSON values.

        These values win over every copy of the record that is committed before or after; None removes a field.
        """
        ...

    async def reprice(self, project: str, inference_ids: Sequence[str]) -> int:
        """Price these records again with the current prices; return how many changed.

        A cost that the client sent is kept. A store without prices changes nothing.
        """
        ...

    async def record(self, project: str, inference_id: str) -> Record | None:
        """Return the record with this id, or None."""
        ...

    async def records(self, project: str, query: RecordQuery) -> RecordPage:
        """Return a page of records, newest first. Raise `StoreError` for an invalid cursor."""
        ...

    async def trace(self, project: str, trace_id: str, cursor: str | None = None) -> RecordPage:
        """Return the records of one trace, oldest first, at most `limits.TRACE_RECORDS_MAX` a page."""
        ...

    async def trace_summary(self, project: str, trace_id: str) -> TraceSummary | None:
        """Return the summary of one trace, or None if it has no record."""
        ...

    async def traces(self, project: str, query: TraceQuery) -> TracePage:
        """Return a page of traces, those with the latest activity first. Raise `StoreError` for an invalid cursor."""
        ...

    async def trees(self, project: str, trace_ids: Sequence[str], cursor: str | None = None) -> RecordPage:
        """Return all records of these traces, oldest first, at most `limits.TRACE_RECORDS_MAX` a page."""
        ...

    async def logs(self, project: str, query: LogQuery) -> LogPage:
        """Return a page of records by its offset. Raise `StoreError` for an unknown operator."""
        ...

    async def state(self) -> StoreState:
        """Return how busy and how large the store is. It is cheap: no table is read."""
        ...

    async def clients(self, project: str) -> Sequence[ClientReport]:
        """Return the latest report of each client process, the most recent first."""
        ...

    async def projects(self) -> Sequence[str]:
        """Return the names of all projects that have a record, deployment, key, experiment or dataset."""
        ...

    async def put_deployment(
        self, deployment: Deployment, *, activate: bool = True, expected: int | None = None, dry_run: bool = False
    ) -> Deployment:
        """Store a new version and return it as stored, with the `version` it was given. Serve it if `activate`.

        If a version with the same content exists, return (and serve) that one and store nothing. With `dry_run`, return
        the same and change nothing. Concurrent changes are applied one after the other.

        Raise `VersionConflict` if `expected` is not the version that is served (0: none is), and `StoreError` for more
        than `limits.DEPLOYMENT_BYTES_MAX`.
        """
        ...

    async def deployment(self, project: str, deployment_id: str, version: int | None = None) -> Deployment | None:
        """Return a version, or the one that is served if `version` is None. Return None if it does not exist."""
        ...

    async def deployments(
        self,
        project: str,
        *,
        active: bool = True,
        after: tuple[str, str] | None = None,
        limit: int = limits.PAGE_ROWS,
    ) -> Sequence[Deployment]:
        """Return the served versions, sorted by name and id.

        With `active=False`, return the newest version of each deployment of which no version is served.
        `after` is the name and the id of the last deployment of the previous page.
        """
        ...

    async def deployment_versions(
        self, project: str, deployment_id: str, *, before: int | None = None, limit: int = limits.PAGE_ROWS
    ) -> Sequence[DeploymentVersion]:
        """Return the versions of a deployment that are lower than `before`, the newest first."""
        ...

    async def deployment_activations(
        self, project: str, deployment_id: str, *, limit: int = limits.PAGE_ROWS
    ) -> Sequence[Activation]:
        """Return which version was served from when on, the latest first."""
        ...

    async def deployment_uses(
        self, project: str, deployment_ids: Sequence[str], since: int
    ) -> Mapping[str, DeploymentUse]:
        """Return how these deployments were used since a time, from at most `limits.DEPLOYMENT_USES_MAX` records each.

        The costs are those of at most `limits.DEPLOYMENT_COSTS_MAX` records, divided evenly among the deployments.
        """
        ...

    async def activate_deployment(
        self, project: str, deployment_id: str, version: int, *, by: str = "", expected: int | None = None
    ) -> Deployment | None:
        """Serve a version and return it; None if it does not exist. Version 0 serves none and returns the newest.

        If the version is served already, nothing changes. Raise `VersionConflict` as `put_deployment` does.
        """
        ...

    async def roll_back_deployment(
        self, project: str, deployment_id: str, *, by: str = "", expected: int | None = None
    ) -> Deployment | None:
        """Serve the previously served version and return it; None if there is no such deployment.

        Each further call goes back one more. Raise `NoEarlierVersion` if there is none, and `VersionConflict` as
        `put_deployment` does.
        """
        ...

    async def cached(self, project: str, key: str, max_age_s: float) -> CachedResponse | None:
        """Return the stored response with this key if it is at most `max_age_s` seconds old, else None."""
        ...

    async def cache(self, project: str, key: str, body: bytes) -> None:
        """Store a response. Beyond `limits.CACHE_BYTES_MAX`, the project's least recently used ones are deleted."""
        ...

    async def clear_cache(self, project: str) -> int:
        """Delete all stored responses of a project; return how many there were."""
        ...

    async def put_key(self, key: ApiKey) -> None:
        """Store a key, or replace the one with the same digest."""
        ...

    async def keys(self) -> Sequence[ApiKey]:
        """Return all keys, including revoked ones."""
        ...

    async def spend(self, expense: Expense) -> None:
        """Add an amount to the spending of a key on a day."""
        ...

    async def spent(self, day: int) -> Mapping[str, Spent]:
        """Return the spending of each key on a day (counted from 1970 in UTC), by the key's digest."""
        ...

    async def end_session(self, session: str, expires: int) -> None:
        """Remember that a browser session was ended, until it would have expired (`expires`, seconds since 1970)."""
        ...

    async def ended_sessions(self) -> Mapping[str, int]:
        """Return the ended sessions, with the time at which each would have expired."""
        ...

    async def put_feedback(self, project: str, feedback: Feedback) -> None:
        """Store feedback on a record; the latest `limits.FEEDBACK_MAX` are kept.

        Feedback that equals the record's latest is not stored: clients repeat a request that got no response.
        """
        ...

    async def feedback(self, project: str, inference_ids: Sequence[str]) -> Mapping[str, Sequence[Feedback]]:
        """Return the feedback on these records, the latest last, without records that have none."""
        ...

    async def put_experiment(self, experiment: Experiment) -> bool:
        """Store an experiment, or replace the one with the same `uuid`.

        Return False and store nothing if another experiment of the project has this name and run name.
        """
        ...

    async def experiment(self, project: str, uuid: str) -> Experiment | None:
        """Return the experiment with this `uuid`, or None."""
        ...

    async def experiments(self, project: str) -> Sequence[Experiment]:
        """Return at most `limits.EXPERIMENTS_MAX` experiments of a project, the latest first."""
        ...

    async def experiment_traces(self, project: str, uuid: str, after: str = "") -> Sequence[str]:
        """Return the ids of the traces with a record of an experiment, sorted, at most `limits.PAGE_ROWS_MAX`.

        `after` is the last id of the previous page.
        """
        ...

    async def put_dataset(self, dataset: Dataset) -> Dataset | None:
        """Store a new dataset with its cases and return it with their ids. Return None if the name is taken.

        Raise `StoreError` for more than `limits.DATASET_CASES_MAX` cases or `limits.DATASET_BYTES_MAX` bytes.
        """
        ...

    async def add_cases(self, project: str, dataset_id: int, cases: Sequence[DatasetCase]) -> Sequence[int] | None:
        """Add cases to a dataset and return their ids; None if the project has no such dataset.

        Raise `StoreError` as `put_dataset` does.
        """
        ...

    async def update_case(self, project: str, dataset_id: int, case: DatasetCase) -> bool:
        """Replace the case with `case.id`. Return False if the dataset has no such case."""
        ...

    async def dataset(self, project: str, key: int | str) -> Dataset | None:
        """Return the dataset with this id or name, with its cases; None if the project has no such dataset."""
        ...
