"""A database file while it is open: its lock, its writer thread and its reader threads. `SqliteStore` builds on it."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

from everycall import limits
from everycall._pricing.price_book import PriceBook
from everycall.server.store import logs as log_list
from everycall.server.store.cursors import Cursors
from everycall.server.store.errors import StoreBusy, StoreError
from everycall.server.store.faults import DatabaseFile, Faults
from everycall.server.store.opening import FileLock, open_reader, open_writer
from everycall.server.store.queries import Queries, add_functions
from everycall.server.store.readers import Read, Readers
from everycall.server.store.values import Fault, StoreState
from everycall.server.store.writer import Batch, Change, Writer

__all__ = ["Database"]

T = TypeVar("T")


class Database:
    """The database file `path`, with one thread that writes and a few that read. `prices` price what is written."""

    def __init__(self, path: Path, prices: PriceBook | None = None) -> None:
        self._path = path
        self._prices = prices
        self._lock = FileLock(path)
        self._faults = Faults()
        self._file: DatabaseFile | None = None
        self._writer: Writer | None = None
        self._readers: Readers | None = None
        self._queries: Queries | None = None

    async def open(self) -> None:
        """Open the file; create or migrate it if needed.

        Raise `StoreError` if it is in use, damaged, inaccessible, another program's, or from a newer version.
        """
        if self._writer is None:
            await asyncio.to_thread(self._open)

    async def close(self) -> None:
        """Finish the writes in progress, move the write-ahead log into the file and close it. May be called twice."""
        writer, readers = self._writer, self._readers
        self._writer = self._readers = None
        if writer is not None and readers is not None:
            await asyncio.to_thread(self._close, writer, readers)

    @property
    def fault(self) -> Fault | None:
        """What keeps the store from storing records now, or None."""
        return self._faults.present

    async def state(self) -> StoreState:
        """Return the length of the write queue, sizes on the disk, and slow reads."""
        writer, readers = self._writer, self._readers
        if writer is None or readers is None:
            raise StoreBusy("The server is starting or stopping. Try again in a moment.")
        database, wal, free = await asyncio.to_thread(self._sizes)
        slow_reads = readers.slow_reads
        return StoreState(
            queued=writer.queued,
            queue_limit=limits.WRITE_QUEUE_MAX,
            database_bytes=database,
            wal_bytes=wal,
            disk_free_bytes=free,
            slow_reads=slow_reads.count,
            stopped_reads=slow_reads.stopped,
            latest_slow_reads=slow_reads.latest(),
        )

    def _sizes(self) -> tuple[int | None, int | None, int | None]:
        """Return the bytes of the database, of its write-ahead log, and free on its disk; None for what is unknown."""
        sizes: list[int | None] = []
        for path in (self._path, self._path.with_name(f"{self._path.name}-wal")):
            try:
                sizes.append(path.stat().st_size)
            except OSError:
                sizes.append(None)
        try:
            free = shutil.disk_usage(self._path.parent).free
        except OSError:
            free = None
        return sizes[0], sizes[1], free

    def _open(self) -> None:
        with ExitStack() as undo:
            try:
                self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._lock.take()
                undo.callback(self._lock.release)
                file = DatabaseFile(self._path)  # before SQLite opens it
                undo.callback(file.close)
            except OSError as error:
                raise StoreError(f"{self._path.parent} cannot be used: {error}. Use another data directory.") from error
            connection = open_writer(self._path)
            undo.callback(connection.close)
            file.check()  # remembers the write-ahead log, which exists now
            secret = connection.execute("SELECT value FROM meta WHERE name = 'cursor_secret'").fetchone()[0]
            writer = Writer(connection, self._prices, file, self._faults)
            self._readers = Readers(self._connect, self._faults)
            undo.pop_all()
        self._queries = Queries(Cursors(secret))
        self._file = file
        self._writer = writer
        writer.start()

    def _connect(self) -> sqlite3.Connection:
        connection = open_reader(self._path)
        add_functions(connection)
        log_list.add_log_functions(connection)
        return connection

    def _close(self, writer: Writer, readers: Readers) -> None:
        try:
            readers.close()
            writer.close()
        finally:
            if self._file is not None:
                self._file.close()
            self._lock.release()

    async def _write(self, job: Batch | Change) -> Any:
        """Queue a job for the writer; return its result when it is committed."""
        if self._writer is None:
            raise StoreBusy("The server is starting or stopping. Try again in a moment.")
        return await asyncio.wrap_future(self._writer.put(job))

    async def _read(self, work: Callable[[Read], T]) -> T:
        """Call `work` in a reader thread; return its result."""
        if self._readers is None:
            raise StoreBusy("The server is starting or stopping. Try again in a moment.")
        return await self._readers.run(work)

    async def _query(self, work: Callable[[Queries, Read], T]) -> T:
        """Call `work` with the queries in a reader thread; return its result."""
        queries = self._queries
        if queries is None:
            raise StoreBusy("The server is starting or stopping. Try again in a moment.")
        return await self._read(lambda read: work(queries, read))
