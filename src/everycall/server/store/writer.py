"""The writer: the one thread that changes the database, and its queue. What waits together is committed together.

Called by `sqlite.SqliteStore`. A job's future is resolved after `COMMIT` (with `synchronous=FULL`) has returned.
Records are checked before they are written (`rows.prepare`), so that a bad one is refused without touching its
neighbours. Should SQLite object all the same, the joined batches are tried again one by one, and a batch that fails
alone record by record, each in a savepoint.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from everycall import limits
from everycall._pricing.price_book import PriceBook
from everycall.record import Record
from everycall.server.store.catalog import put_client
from everycall.server.store.errors import StoreBusy, StoreError
from everycall.server.store.ingest import Ingest
from everycall.server.store.opening import about_file
from everycall.server.store.rows import Row, Unstorable, prepare
from everycall.server.store.spending import spend
from everycall.server.store.values import ClientReport, Commit, Expense, Refusal

__all__ = ["Batch", "Change", "Writer"]


@dataclass(slots=True, eq=False)
class Batch:
    """Records of one request. `rows` and `places` (their indices) are set by the writer."""

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
        key = getattr(self.records[place], "inference_id", None)
        self.refused.append(Refusal(place, key if isinstance(key, str) else None, reason))


@dataclass(slots=True, eq=False)
class Change:
    """Any other write: a function of the connection, whose result is the answer. It may raise `StoreError`."""

    apply: Callable[[Ingest, sqlite3.Connection], Any]
    done: Future[Any] = field(default_factory=Future)


Job = Batch | Change


class Writer:
    """Owns the writing connection from `start` to `close`."""

    def __init__(self, connection: sqlite3.Connection, prices: PriceBook | None = None) -> None:
        self._connection = connection
        self._prices = prices
        self._ingest = Ingest(connection, prices)
        self._waiting: deque[Job] = deque()
        self._wake = threading.Condition()
        self._closing = False
        self._company = False
        self._thread = threading.Thread(target=self._run, name="everycall-write", daemon=True)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def put(self, job: Job) -> Future[Any]:
        """Queue a job. Raises `StoreBusy` when `limits.WRITE_QUEUE_MAX` wait already, or the store is closing."""
        with self._wake:
            if self._closing:
                raise StoreBusy("The server is stopping. Nothing was stored; send this again after its restart.")
            if len(self._waiting) >= limits.WRITE_QUEUE_MAX:
                raise StoreBusy(
                    f"{len(self._waiting)} batches wait to be written. Nothing was stored; try again in a moment."
                )
            self._waiting.append(job)
            self._wake.notify()
        return job.done

    def close(self) -> None:
        """Write what waits, move the log into the database and close the connection."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()
        try:
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.Error:
            pass  # the log stays and is read at the next start
        finally:
            self._connection.close()

    def _run(self) -> None:
        while jobs := self._gather():
            self._company = len(jobs) > 1
            self._commit([job for job in jobs if job.done.set_running_or_notify_cancel()])

    def _gather(self) -> list[Job]:
        """Return the jobs of the next transaction; none when the store is closed and all is written.

        Only where jobs came together last time does the first one wait, `limits.COMMIT_DELAY_S`, for the others: a
        single sender never waits.
        """
        jobs: list[Job] = []
        count = 0
        deadline: float | None = None
        with self._wake:
            while True:
                while self._waiting and count < limits.COMMIT_RECORDS_MAX:
                    job = self._waiting.popleft()
                    jobs.append(job)
                    count += len(job.records) if isinstance(job, Batch) else 1
                if jobs:
                    if count >= limits.COMMIT_RECORDS_MAX or self._closing or not self._company:
                        return jobs
                    now = time.monotonic()
                    deadline = deadline or now + limits.COMMIT_DELAY_S
                    if now >= deadline:
                        return jobs
                    self._wake.wait(deadline - now)
                elif self._closing:
                    return []
                else:
                    self._wake.wait()

    def _commit(self, jobs: list[Job]) -> None:
        """Do the jobs in one transaction and answer them."""
        for job in jobs:
            if isinstance(job, Batch) and not job.prepared:
                _prepare(job, self._prices)
        answers: list[tuple[Job, Any]] = []
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            answers = self._work(jobs)
            self._connection.execute("COMMIT")
        except Exception as error:  # noqa: BLE001 - the one guard of this thread: a defect must not stop all writing
            self._undo()
            self._recover(jobs, error)
            return
        for job, answer in answers:
            if isinstance(answer, StoreError):
                job.done.set_exception(answer)
            else:
                job.done.set_result(answer)

    def _recover(self, jobs: list[Job], error: Exception) -> None:
        """Do again apart what failed together, or answer with the failure."""
        if isinstance(error, sqlite3.Error) and about_file(error):
            _fail(jobs, _unwritable(error))
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
        answers: list[tuple[Job, Any]] = []
        batches = [job for job in jobs if isinstance(job, Batch)]
        for project in dict.fromkeys(batch.project for batch in batches):
            rows = [row for batch in batches if batch.project == project for row in batch.rows]
            if rows:
                self._ingest.write(project, rows)
        for batch in batches:
            self._report(batch)
            answers.append((batch, _answer(batch)))
        answers.extend((job, self._change(job)) for job in jobs if isinstance(job, Change))
        return answers

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
        """Write a batch that SQLite refused as a whole, without the records that it refuses."""
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
                    batch.refuse(place, f"the database refuses it: {error}")
                self._connection.execute("RELEASE record")
            self._report(batch)
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._undo()
            _fail([batch], _unwritable(error))
            return
        batch.done.set_result(_answer(batch))

    def _undo(self) -> None:
        try:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            self._ingest.forget()
        except sqlite3.Error:
            pass  # the file cannot be read now; what is in memory only ever numbers new rows, and a clash is an error


def _prepare(batch: Batch, prices: PriceBook | None) -> None:
    batch.prepared = True
    for place, record in enumerate(batch.records):
        try:
            batch.rows.append(prepare(batch.project, record, prices))
            batch.places.append(place)
        except Unstorable as error:
            batch.refuse(place, str(error))


def _answer(batch: Batch) -> Commit:
    refused = sorted(batch.refused, key=lambda refusal: refusal.index)
    return Commit(len(batch.records) - len(refused), tuple(refused))


def _unwritable(error: sqlite3.Error) -> StoreBusy:
    """A full disk is no reason for clients to give up their records: they keep them and come again."""
    return StoreBusy(f"The database cannot be written: {error}. Nothing was stored; check the disk, then try again.")


def _fail(jobs: list[Job], error: Exception) -> None:
    for job in jobs:
        job.done.set_exception(error)
