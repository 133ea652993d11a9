"""The readers: a few threads, each with a read-only connection. Every read has a time limit.

Readers see the last commit. With SQLite's write-ahead log, readers and the writer never wait for each other.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

from everycall import limits
from everycall.server.store.bulk import SEPARATOR
from everycall.server.store.errors import StoreBusy, StoreError
from everycall.server.store.faults import RETRY_AFTER_S, Faults, about_file, fault_of
from everycall.server.store.values import SlowRead

__all__ = ["Read", "Readers", "SlowReads"]

T = TypeVar("T")
STATEMENT_CHARS_MAX = 200
"""Of a slow statement, shown to operators."""


class Read:
    """A read in progress: runs statements until it is done or stopped. Any thread may stop it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._stopped = False
        self.statement = ""
        """The last statement it ran, without its values."""

    @property
    def is_stopped(self) -> bool:
        """Whether it was interrupted, or will not start."""
        return self._stopped

    def one(self, statement: str, values: Sequence[Any] | Mapping[str, Any] = ()) -> tuple[Any, ...] | None:
        """Return the first row of a statement, or None. Raise `StoreBusy` if the read was stopped."""
        if self._stopped or self._connection is None:
            raise _too_slow()
        self.statement = statement
        row: tuple[Any, ...] | None = self._connection.execute(statement, values).fetchone()
        return row

    def texts(self, statement: str, values: Sequence[Any] | Mapping[str, Any] = ()) -> list[bytes]:
        """Return the JSON texts that a statement joined in its first column with `bulk.SEPARATOR`."""
        row = self.one(statement, values)
        return row[0].split(SEPARATOR) if row is not None and row[0] is not None else []

    def stop(self) -> None:
        """Interrupt the statement that is running, and run no further one."""
        with self._lock:
            self._stopped = True
            if self._connection is not None:
                self._connection.interrupt()

    def run(self, connection: sqlite3.Connection, work: Callable[[Read], T], faults: Faults) -> T:
        """Call `work` in one snapshot of the database and return its result. Report damage of the file to `faults`."""
        with self._lock:
            if self._stopped:
                raise _too_slow()
            self._connection = connection
        try:
            connection.execute("BEGIN")
            return work(self)
        except sqlite3.DatabaseError as error:
            if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_INTERRUPT:
                raise _too_slow() from None
            if about_file(error):
                fault = fault_of(error)
                if fault.reason == "database_damaged":
                    faults.report(fault)
                raise StoreBusy(f"The database cannot be read. {fault.detail}", RETRY_AFTER_S) from error
            raise StoreBusy(f"The database cannot be read now: {error}. Try again later.") from error
        except (UnicodeEncodeError, OverflowError) as error:
            raise StoreError(f"No record can have a value that was asked for: {error}.") from error
        finally:
            with self._lock:
                self._connection = None
            if connection.in_transaction:
                with suppress(sqlite3.DatabaseError):
                    connection.execute("ROLLBACK")


class SlowReads:
    """The reads that took longer than `limits.SLOW_READ_S`: how many, and the latest ones. For one event loop."""

    def __init__(self) -> None:
        self.count = 0
        self.stopped = 0
        self._latest: deque[SlowRead] = deque(maxlen=limits.SLOW_READS_MAX)

    def add(self, read: Read, seconds: float) -> None:
        """Take note of a read that ended, if it was slow."""
        if seconds < limits.SLOW_READ_S:
            return
        self.count += 1
        self.stopped += read.is_stopped
        statement = " ".join(read.statement.split())[:STATEMENT_CHARS_MAX]
        self._latest.append(SlowRead(time.time_ns(), seconds, statement, read.is_stopped))

    def latest(self) -> tuple[SlowRead, ...]:
        """Return the latest slow reads, the most recent first."""
        return tuple(reversed(self._latest))


class Readers:
    """Runs up to `limits.STORE_READERS` reads at a time. Others wait, and the wait counts towards their time limit."""

    def __init__(self, connect: Callable[[], sqlite3.Connection], faults: Faults | None = None) -> None:
        self._faults = faults or Faults()
        self.slow_reads = SlowReads()
        self._idle: queue.SimpleQueue[sqlite3.Connection] = queue.SimpleQueue()
        for _ in range(limits.STORE_READERS):
            self._idle.put(connect())
        self._threads = ThreadPoolExecutor(limits.STORE_READERS, thread_name_prefix="everycall-read")

    async def run(self, work: Callable[[Read], T]) -> T:
        """Call `work` in a reader thread and return its result. Raise `StoreBusy` after `limits.QUERY_TIMEOUT_S`."""
        loop = asyncio.get_running_loop()
        read = Read()
        started = loop.time()
        timer = loop.call_later(limits.QUERY_TIMEOUT_S, read.stop)
        try:
            return await loop.run_in_executor(self._threads, self._work, read, work)
        except asyncio.CancelledError:
            read.stop()
            raise
        finally:
            timer.cancel()
            self.slow_reads.add(read, loop.time() - started)

    def close(self) -> None:
        """Finish the reads in progress and close the connections."""
        self._threads.shutdown(wait=True)
        while not self._idle.empty():
            self._idle.get().close()

    def _work(self, read: Read, work: Callable[[Read], T]) -> T:
        connection = self._idle.get()
        try:
            return read.run(connection, work, self._faults)
        finally:
            self._idle.put(connection)


def _too_slow() -> StoreBusy:
    return StoreBusy(
        f"This read took more than {limits.QUERY_TIMEOUT_S:g} s and was stopped. "
        "Narrow it, for example with since and until, or try again later."
    )
