"""The writer: the only thread that changes the database, and its queue. Jobs that wait together share a transaction.

Called by `sqlite.SqliteStore`. A job's future is resolved after `COMMIT` (with `synchronous=FULL`) has returned and the
database file was found to be still in its place.
Records are checked before they are written (`rows.prepare`), so a bad one is refused without affecting others. If
SQLite still refuses something, the jobs are tried again one by one, and a batch that fails alone is tried record by
record, each in a savepoint.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from everycall import limits
from everycall._pricing.price_book import PriceBook
from everycall.record import Record
from everycall.server.store.catalog import put_client
from everycall.server.store.errors import StoreBusy, StoreError
from everycall.server.store.faults import DatabaseFile, Faults, FaultyFile, about_file, fault_of, unwritable_reason
from everycall.server.store.ingest import Ingest
from everycall.server.store.opening import LOCK_WAIT_S
from everycall.server.store.rows import Row, Unstorable, prepare
from everycall.server.store.spending import spend
from everycall.server.store.values import ClientReport, Commit, Expense, Refusal

__all__ = ["Batch", "Change", "Writer"]


@dataclass(slots=True, eq=False)
class Batch:
    """The records of one request. The writer sets `rows`, and `places`: their indices in `records`."""

    project: str
    records: Sequence[Record]
    client: ClientReport | None
    expense: Expense | None = None
    done: Future[Any] = field(default_factory=Future)
    rows: list[Row] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)
    prepared: bool = False

    def refuse(self, place: int, reason: str) -> None:
        """Note that a record will not be stored."""
        inference_id = getattr(self.records[place], "inference_id", None)
        self.refused.append(Refusal(place, inference_id if isinstance(inference_id, str) else None, reason))


@dataclass(slots=True, eq=False)
class Change:
    """Any other write: a function that changes the database. Its result is the job's; it may raise `StoreError`."""

    apply: Callable[[Ingest, sqlite3.Connection], Any]
    done: Future[Any] = field(default_factory=Future)


Job = Batch | Change


class Writer:
    """Owns the writing connection from `start` to `close`.

    `file` is the database's file on the disk, checked before and after each commit; `faults` is told what keeps the
    writer from writing. While there is a fault and nothing to write, the writer tries every `limits.PROBE_INTERVAL_S`
    whether it is over.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        prices: PriceBook | None = None,
        file: DatabaseFile | None = None,
        faults: Faults | None = None,
    ) -> None:
        self._connection = connection
        self._prices = prices
        self._file = file
        self._faults = faults or Faults()
        path = connection.execute("PRAGMA database_list").fetchone()[2]
        self._path = Path(path) if path else None
        self._ingest = Ingest(connection, prices)
        self._queue: deque[Job] = deque()
        self._wake = threading.Condition()
        self._closing = False
        self._is_shared = False
        self._probed_at = 0.0
        self._thread = threading.Thread(target=self._run, name="everycall-write", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def put(self, job: Job) -> Future[Any]:
        """Queue a job. Raise `StoreBusy` if `limits.WRITE_QUEUE_MAX` jobs are waiting, or the store is closing."""
        with self._wake:
            if self._closing:
                raise StoreBusy("The server is stopping. Nothing was stored; send this again after its restart.")
            if len(self._queue) >= limits.WRITE_QUEUE_MAX:
                raise StoreBusy(
                    f"{len(self._queue)} batches wait to be written. Nothing was stored; try again in a moment."
                )
            self._queue.append(job)
            self._wake.notify()
        return job.done

    @property
    def queued(self) -> int:
        """The number of jobs that wait."""
        return len(self._queue)

    def close(self) -> None:
        """Write what is queued, move the write-ahead log into the database and close the connection."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()
        try:
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.Error:
            pass  # the log stays, and is read at the next start
        finally:
            self._connection.close()

    def _run(self) -> None:
        while True:
            jobs = self._gather()
            if jobs:
                self._is_shared = len(jobs) > 1
                self._commit([job for job in jobs if job.done.set_running_or_notify_cancel()])
            elif self._closing:
                return
            else:
                self._probe()

    def _probe(self) -> None:
        """Find out whether a fault is over: try to write something."""
        self._commit([Change(_touch)])

    def _clear_fault(self) -> None:
        """Clear the fault after a commit; after a full disk, once there is space for more than a small record."""
        fault = self._faults.present
        if fault is None:
            return
        if fault.reason == "disk_full" and self._path is not None:
            now = time.monotonic()
            if now - self._probed_at < limits.PROBE_INTERVAL_S:
                return
            self._probed_at = now
            if unwritable_reason(self._path) is not None:
                return
        self._faults.clear()

    def _gather(self) -> list[Job]:
        """Return the jobs of the next transaction; none when the store is closed, or there is something to try again.

        If the last transaction had several jobs, wait `limits.COMMIT_DELAY_S` for others to join the first one, or
        `limits.COMMIT_DELAY_SINGLE_S` if none of them is a batch: somebody waits for each single record, as for that of
        a completion. A single sender never waits.
        """
        jobs: list[Job] = []
        count = 0
        deadline: float | None = None
        with self._wake:
            while True:
                while self._queue and count < limits.COMMIT_RECORDS_MAX:
                    job = self._queue.popleft()
                    jobs.append(job)
                    count += len(job.records) if isinstance(job, Batch) else 1
                if jobs:
                    if count >= limits.COMMIT_RECORDS_MAX or self._closing or not self._is_shared:
                        return jobs
                    now = time.monotonic()
                    if deadline is None:
                        deadline = now + (limits.COMMIT_DELAY_S if _has_batch(jobs) else limits.COMMIT_DELAY_SINGLE_S)
                    if now >= deadline:
                        return jobs
                    self._wake.wait(deadline - now)
                elif self._closing:
                    return []
                elif self._faults.present is None and not self._ingest.scrub:
                    self._wake.wait()
                elif not self._wake.wait(limits.PROBE_INTERVAL_S):
                    return []

    def _commit(self, jobs: list[Job]) -> None:
        """Do the jobs in one transaction and resolve their futures."""
        for job in jobs:
            if isinstance(job, Batch) and not job.prepared:
                _prepare(job, self._prices)
        results: list[tuple[Job, Any]] = []
        try:
            self._check_file()
            self._connection.execute("BEGIN IMMEDIATE")
            results = self._work(jobs)
            self._connection.execute("COMMIT")
            self._check_file()
            self._scrub()
        except Exception as error:  # noqa: BLE001 - the one guard of this thread: a defect must not stop all writing
            self._undo()
            self._recover(jobs, error)
            return
        self._clear_fault()
        for job, result in results:
            if isinstance(result, StoreError):
                job.done.set_exception(result)
            else:
                job.done.set_result(result)

    def _check_file(self) -> None:
        """Raise `FaultyFile` if the database was deleted, replaced or cut: what is committed there would be lost."""
        if self._file is not None:
            self._file.check()

    def _scrub(self) -> None:
        """Move the write-ahead log into the database and empty it, if it has content that a flag left out since.

        A reader can keep the log in use; then it is tried again after the next commit, or after a while.
        """
        if not self._ingest.scrub:
            return
        self._connection.execute(f"PRAGMA busy_timeout = {int(limits.SCRUB_WAIT_S * 1000)}")
        try:
            busy = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        finally:
            self._connection.execute(f"PRAGMA busy_timeout = {int(LOCK_WAIT_S * 1000)}")
        self._ingest.scrub = bool(busy)

    def _recover(self, jobs: list[Job], error: Exception) -> None:
        """Try again one by one the jobs that failed together, or fail them."""
        if about_file(error):
            _fail(jobs, self._faults.report(fault_of(error, self._path)))
        elif len(jobs) > 1:
            for job in jobs:
                self._commit([job])
        elif isinstance(jobs[0], Batch) and isinstance(error, sqlite3.Error):
            self._commit_singly(jobs[0])
        elif isinstance(error, (sqlite3.Error, UnicodeEncodeError, OverflowError)):
            _fail(jobs, StoreError(f"This cannot be stored: {error}."))
        else:
            _fail(jobs, error)

    def _work(self, jobs: list[Job]) -> list[tuple[Job, Any]]:
        results: list[tuple[Job, Any]] = []
        batches = [job for job in jobs if isinstance(job, Batch)]
        for project in dict.fromkeys(batch.project for batch in batches):
            rows = [row for batch in batches if batch.project == project for row in batch.rows]
            if rows:
                self._ingest.write(project, rows)
        for batch in batches:
            self._report(batch)
            results.append((batch, _commit_of(batch)))
        results.extend((job, self._change(job)) for job in jobs if isinstance(job, Change))
        return results

    def _report(self, batch: Batch) -> None:
        if batch.client is not None:
            put_client(self._connection, self._ingest.project(batch.project), batch.client)
        if batch.expense is not None:
            spend(self._connection, batch.expense)

    def _change(self, change: Change) -> Any:
        self._connection.execute("SAVEPOINT change")
        try:
            return change.apply(self._ingest, self._connection)
        except StoreError as error:
            self._connection.execute("ROLLBACK TO change")
            self._ingest.forget()
            return error
        finally:
            if self._connection.in_transaction:
                self._connection.execute("RELEASE change")

    def _commit_singly(self, batch: Batch) -> None:
        """Write a batch that SQLite refused, without the records that it refuses."""
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            for place, row in zip(batch.places, batch.rows, strict=True):
                self._connection.execute("SAVEPOINT record")
                try:
                    self._ingest.write(batch.project, [row])
                except sqlite3.Error as error:
                    if about_file(error):
                        raise
                    self._connection.execute("ROLLBACK TO record")
                    self._ingest.forget()
                    batch.refuse(place, f"the database refused the record: {error}")
                self._connection.execute("RELEASE record")
            self._report(batch)
            self._connection.execute("COMMIT")
            self._check_file()
            self._scrub()
        except (sqlite3.Error, FaultyFile) as error:
            self._undo()
            _fail([batch], self._faults.report(fault_of(error, self._path)))
            return
        self._clear_fault()
        batch.done.set_result(_commit_of(batch))

    def _undo(self) -> None:
        try:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            self._ingest.forget()
        except sqlite3.Error:
            pass  # the file cannot be read now; numbers that are out of date lead to an error, not to a wrong row


def _prepare(batch: Batch, prices: PriceBook | None) -> None:
    batch.prepared = True
    for place, record in enumerate(batch.records):
        try:
            batch.rows.append(prepare(batch.project, record, prices))
            batch.places.append(place)
        except Unstorable as error:
            batch.refuse(place, str(error))


def _has_batch(jobs: Sequence[Job]) -> bool:
    return any(isinstance(job, Batch) and len(job.records) > 1 for job in jobs)


def _commit_of(batch: Batch) -> Commit:
    refused = sorted(batch.refused, key=lambda refusal: refusal.index)
    return Commit(len(batch.records) - len(refused), tuple(refused))


def _touch(_: Ingest, connection: sqlite3.Connection) -> None:
    connection.execute("INSERT OR REPLACE INTO meta (name, value) VALUES ('probe', ?)", (time.time_ns(),))


def _fail(jobs: list[Job], error: Exception) -> None:
    for job in jobs:
        job.done.set_exception(error)
