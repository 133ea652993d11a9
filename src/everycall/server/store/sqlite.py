"""The embedded store: `base.Store` over one SQLite file, with one writer thread and a few reader threads.

`everycall serve` creates it; the routes and pages use it through the `Store` protocol.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from everycall import limits
from everycall._pricing.price_book import PriceBook
from everycall.record import Record
from everycall.server.store import catalog, evaluation, spending
from everycall.server.store import deployments as deployed
from everycall.server.store import logs as log_list
from everycall.server.store.database import Database
from everycall.server.store.errors import StoreError
from everycall.server.store.ingest import Ingest
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
from everycall.server.store.writer import Batch, Change

__all__ = ["SqliteStore"]

T = TypeVar("T")


class SqliteStore(Database):
    """A store in the database file `path`. SQLite's `-wal` and `-shm` files and a lock file are beside it.

    Creates the directory if needed. `base.Store` documents the methods. Sets `record.project_name` to the project a
    record is stored under, and prices what it commits if it has `prices`. If the disk is full or the file cannot be
    written, a commit raises `StoreBusy`, so clients keep their records.
    """

    def __init__(self, path: Path, prices: PriceBook | None = None) -> None:
        super().__init__(path, prices)
        self._cache_uses: dict[tuple[str, str], int] = {}

    async def commit(
        self,
        project: str,
        records: Sequence[Record],
        client: ClientReport | None = None,
        expense: Expense | None = None,
    ) -> Commit:
        """Store a batch and the spending it caused; return after the commit is durable."""
        try:
            project.encode()
        except UnicodeEncodeError as error:
            raise StoreError(f"The project's name is not Unicode text: {error}.") from error
        if not records and client is None and expense is None:
            return Commit(0)
        commit: Commit = await self._write(Batch(project, records, client, expense))
        return commit

    async def report(self, project: str, client: ClientReport, *, everywhere: bool = False) -> None:
        """Store a client's report that came without records, in one project or in all where it has reported."""

        def put(ingest: Ingest, connection: sqlite3.Connection) -> None:
            projects = catalog.projects_of_client(connection, client.client) if everywhere else []
            for number in projects or [ingest.project(project)]:
                catalog.put_client(connection, number, client)

        await self._write(Change(put))

    async def merge(self, project: str, inference_id: str, fields: Mapping[str, Any]) -> None:
        """Set fields of a record, now or when it arrives; None removes a field.

        Until the record arrives, no read shows them.
        """
        await self._write(Change(lambda ingest, _: ingest.patch(project, inference_id, fields)))

    async def reprice(self, project: str, inference_ids: Sequence[str]) -> int:
        """Price these records again, all in one transaction; return how many changed."""
        count: int = await self._write(Change(lambda ingest, _: ingest.reprice(project, inference_ids)))
        return count

    async def record(self, project: str, inference_id: str) -> Record | None:
        """Return the record with this id, or None."""
        return await self._query(lambda queries, read: queries.record(read, project, inference_id))

    async def records(self, project: str, query: RecordQuery) -> RecordPage:
        """Return a page of records, newest first: at most `limits.PAGE_BYTES_MAX`, but at least one record."""
        return await self._query(lambda queries, read: queries.records(read, project, query))

    async def trace(self, project: str, trace_id: str, cursor: str | None = None) -> RecordPage:
        """Return the records of one trace, oldest first, in pages as `records` does."""
        return await self._query(lambda queries, read: queries.trace(read, project, trace_id, cursor))

    async def trace_summary(self, project: str, trace_id: str) -> TraceSummary | None:
        """Return the summary of one trace, or None."""
        return await self._query(lambda queries, read: queries.trace_summary(read, project, trace_id))

    async def traces(self, project: str, query: TraceQuery) -> TracePage:
        """Return a page of traces, those with the latest activity first.

        The activity of a trace is the latest start or end of its records. `search` matches a trace if it matches one
        of its records, as in `RecordQuery`.
        """
        return await self._query(lambda queries, read: queries.traces(read, project, query))

    async def trees(self, project: str, trace_ids: Sequence[str], cursor: str | None = None) -> RecordPage:
        """Return all records of these traces, oldest first, in pages as `records` does."""
        return await self._query(lambda queries, read: queries.trees(read, project, trace_ids, cursor))

    async def logs(self, project: str, query: LogQuery) -> LogPage:
        """Return a page of records by its offset, newest first."""
        return await self._read(lambda read: log_list.logs(read, project, query))

    async def clients(self, project: str) -> Sequence[ClientReport]:
        """Return the latest report of each client process, the most recent first."""
        return await self._read(lambda read: catalog.clients(read, project))

    async def projects(self) -> Sequence[str]:
        """Return the names of all projects that have anything stored, sorted."""
        return await self._read(catalog.projects)

    async def put_deployment(
        self, deployment: Deployment, *, activate: bool = True, expected: int | None = None, dry_run: bool = False
    ) -> Deployment:
        """Store a new version, unless one with the same content exists; serve it if `activate`."""

        def put(ingest: Ingest, connection: sqlite3.Connection) -> Deployment:
            project = ingest.project(deployment.project_name)
            connection.execute("SAVEPOINT deployment")
            try:
                return deployed.put_deployment(connection, project, deployment, activate=activate, expected=expected)
            finally:
                if dry_run:
                    connection.execute("ROLLBACK TO deployment")
                connection.execute("RELEASE deployment")

        stored: Deployment = await self._write(Change(put))
        return stored

    async def deployment(self, project: str, deployment_id: str, version: int | None = None) -> Deployment | None:
        """Return a version, or the served one if `version` is None."""
        return await self._read(lambda read: deployed.deployment(read, project, deployment_id, version))

    async def deployments(
        self,
        project: str,
        *,
        active: bool = True,
        after: tuple[str, str] | None = None,
        limit: int = limits.PAGE_ROWS,
    ) -> Sequence[Deployment]:
        """Return the served versions by name and id, or the newest versions of deployments that are not served."""
        return await self._read(
            lambda read: deployed.deployments(read, project, active=active, after=after, limit=limit)
        )

    async def deployment_versions(
        self, project: str, deployment_id: str, *, before: int | None = None, limit: int = limits.PAGE_ROWS
    ) -> Sequence[DeploymentVersion]:
        """Return the versions of a deployment, the newest first."""
        return await self._read(lambda read: deployed.versions(read, project, deployment_id, before, limit))

    async def deployment_activations(
        self, project: str, deployment_id: str, *, limit: int = limits.PAGE_ROWS
    ) -> Sequence[Activation]:
        """Return which version was served from when on, the latest first."""
        return await self._read(lambda read: deployed.activations(read, project, deployment_id, limit))

    async def deployment_uses(
        self, project: str, deployment_ids: Sequence[str], since: int
    ) -> Mapping[str, DeploymentUse]:
        """Return how these deployments were used since a time, from their latest records."""
        return await self._read(lambda read: deployed.uses(read, project, deployment_ids, since))

    async def activate_deployment(
        self, project: str, deployment_id: str, version: int, *, by: str = "", expected: int | None = None
    ) -> Deployment | None:
        """Serve a version; 0 serves none."""

        def activate(ingest: Ingest, connection: sqlite3.Connection) -> Deployment | None:
            number = ingest.project(project)
            return deployed.activate(connection, number, deployment_id, version, by=by, expected=expected)

        stored: Deployment | None = await self._write(Change(activate))
        return stored

    async def roll_back_deployment(
        self, project: str, deployment_id: str, *, by: str = "", expected: int | None = None
    ) -> Deployment | None:
        """Serve the previously served version."""

        def roll_back(ingest: Ingest, connection: sqlite3.Connection) -> Deployment | None:
            number = ingest.project(project)
            return deployed.roll_back(connection, number, deployment_id, by=by, expected=expected)

        stored: Deployment | None = await self._write(Change(roll_back))
        return stored

    async def cached(self, project: str, key: str, max_age_s: float) -> CachedResponse | None:
        """Return the stored response with this key if it is recent enough, and note its use for the next eviction."""
        response = await self._read(lambda read: catalog.cached(read, project, key, max_age_s))
        if response is not None:
            self._cache_uses.pop((project, key), None)
            self._cache_uses[project, key] = time.time_ns()
            if len(self._cache_uses) > limits.CACHE_USES_MAX:
                del self._cache_uses[next(iter(self._cache_uses))]
        return response

    async def cache(self, project: str, key: str, body: bytes) -> None:
        """Store a response, unless it is larger than `limits.CACHE_BYTES_MAX`."""
        uses, self._cache_uses = self._cache_uses, {}
        await self._write(
            Change(
                lambda ingest, connection: catalog.put_response(connection, ingest.project(project), key, body, uses)
            )
        )

    async def clear_cache(self, project: str) -> int:
        """Delete all stored responses of a project; return how many there were."""
        count: int = await self._write(
            Change(lambda ingest, connection: catalog.clear_cache(connection, ingest.project(project)))
        )
        return count

    async def put_key(self, key: ApiKey) -> None:
        """Store a key, or replace the one with the same digest."""
        await self._write(
            Change(lambda ingest, connection: catalog.put_key(connection, ingest.project(key.project_name), key))
        )

    async def keys(self) -> Sequence[ApiKey]:
        """Return all keys, including revoked ones, the oldest first."""
        return await self._read(catalog.keys)

    async def spend(self, expense: Expense) -> None:
        """Add an amount to the spending of a key on a day."""
        await self._write(Change(lambda _, connection: spending.spend(connection, expense)))

    async def spent(self, day: int) -> Mapping[str, Spent]:
        """Return the spending of each key on a day."""
        return await self._read(lambda read: spending.spent(read, day))

    async def end_session(self, session: str, expires: int) -> None:
        """Remember that a browser session was ended."""
        await self._write(Change(lambda _, connection: catalog.end_session(connection, session, expires)))

    async def ended_sessions(self) -> Mapping[str, int]:
        """Return the ended sessions, with the time at which each would have expired."""
        return await self._read(catalog.ended_sessions)

    async def put_feedback(self, project: str, feedback: Feedback) -> None:
        """Store feedback, unless it equals the record's latest."""
        await self._write(
            Change(lambda ingest, connection: evaluation.put_feedback(connection, ingest.project(project), feedback))
        )

    async def feedback(self, project: str, inference_ids: Sequence[str]) -> Mapping[str, Sequence[Feedback]]:
        """Return the feedback on records, the latest last."""
        return await self._read(lambda read: evaluation.feedback(read, project, inference_ids))

    async def put_experiment(self, experiment: Experiment) -> bool:
        """Store an experiment, or replace the one with the same `uuid`; return False if its names are taken."""

        def put(ingest: Ingest, connection: sqlite3.Connection) -> bool:
            return evaluation.put_experiment(connection, ingest.project(experiment.project_name), experiment)

        stored: bool = await self._write(Change(put))
        return stored

    async def experiment(self, project: str, uuid: str) -> Experiment | None:
        """Return the experiment with this `uuid`, or None."""
        return await self._read(lambda read: evaluation.experiment(read, project, uuid))

    async def experiments(self, project: str) -> Sequence[Experiment]:
        """Return the experiments of a project, the latest first."""
        return await self._read(lambda read: evaluation.experiments(read, project))

    async def experiment_traces(self, project: str, uuid: str, after: str = "") -> Sequence[str]:
        """Return the ids of the traces with a record of an experiment, sorted."""
        return await self._read(lambda read: evaluation.experiment_traces(read, project, uuid, after))

    async def put_dataset(self, dataset: Dataset) -> Dataset | None:
        """Store a new dataset with its cases; return None if its name is taken."""

        def put(ingest: Ingest, connection: sqlite3.Connection) -> Dataset | None:
            return evaluation.put_dataset(connection, ingest.project(dataset.project_name), dataset)

        stored: Dataset | None = await self._write(Change(put))
        return stored

    async def add_cases(self, project: str, dataset_id: int, cases: Sequence[DatasetCase]) -> Sequence[int] | None:
        """Add cases to a dataset; return None if the project has no such dataset."""

        def add(ingest: Ingest, connection: sqlite3.Connection) -> list[int] | None:
            return evaluation.add_cases(connection, ingest.project(project), dataset_id, cases)

        ids: Sequence[int] | None = await self._write(Change(add))
        return ids

    async def update_case(self, project: str, dataset_id: int, case: DatasetCase) -> bool:
        """Replace a case of a dataset; return False if it does not exist."""

        def update(ingest: Ingest, connection: sqlite3.Connection) -> bool:
            return evaluation.update_case(connection, ingest.project(project), dataset_id, case)

        exists: bool = await self._write(Change(update))
        return exists

    async def dataset(self, project: str, key: int | str) -> Dataset | None:
        """Return the dataset with this id or name, with its cases."""
        return await self._read(lambda read: evaluation.dataset(read, project, key))
