"""Opening the database file: the lock that allows one process to use it, the checks, the migrations, the connections.

Called by `sqlite.SqliteStore`. A file that belongs to another program, is damaged, or is newer is not changed.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

from everycall import limits
from everycall.server.store.errors import StoreError
from everycall.server.store.faults import fault_of

__all__ = ["FileLock", "open_reader", "open_writer"]

APPLICATION_ID = 0x65636C6C
"""SQLite's `PRAGMA application_id` of our files ("ecll"), which tells them apart from other databases."""
PAGE_BYTES = 8192
"""Size of a database page: it fits three records of 2.5 KB. A page of 4096 fits one and wastes a third."""
LOCK_WAIT_S = 5.0
"""How long SQLite waits for a lock. Only another program (a backup, a shell) can hold one; our readers do not."""

_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_IN_USE = frozenset({errno.EWOULDBLOCK, errno.EACCES})


class FileLock:
    """An exclusive lock on a file beside the database (`<name>.lock`), held from `take` to `release`.

    The kernel releases it when the process dies, however it dies.
    """

    def __init__(self, database: Path) -> None:
        self._database = database
        self._path = database.with_name(database.name + ".lock")
        self._descriptor: int | None = None

    def take(self) -> None:
        """Take the lock. Raise `StoreError` if another process has it (with its pid), or locks are not supported."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(descriptor)
            if error.errno in _IN_USE:
                raise StoreError(
                    f"{self._database} is in use by the process with pid {owner}. "
                    "Stop that one, or give this one another data directory."
                ) from None
            name = errno.errorcode.get(error.errno or 0, str(error.errno))
            raise StoreError(
                f"{self._path} cannot be locked: {error.strerror} ({name}). "
                "The file system may not support locks, as some network file systems do not. "
                "Put the data directory on a local disk."
            ) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._descriptor = descriptor

    def release(self) -> None:
        """Release the lock. The file stays: without it, two processes could lock two files of the same name."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def open_writer(path: Path) -> sqlite3.Connection:
    """Open, check and migrate the database file, created if needed; return the connection that writes.

    Raise `StoreError` if the file is damaged, not a database, another program's, or newer than this code.
    """
    if not path.exists():
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    with _explained(path):
        connection = sqlite3.connect(
            path, timeout=LOCK_WAIT_S, isolation_level=None, check_same_thread=False, cached_statements=256
        )
        try:
            _check_ours(connection, path)
            connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA foreign_keys = OFF")
            connection.execute("PRAGMA secure_delete = ON")  # omitted content that was stored goes from the file too
            page_bytes = connection.execute("PRAGMA page_size").fetchone()[0]
            connection.execute(f"PRAGMA wal_autocheckpoint = {limits.WAL_BYTES_MAX // page_bytes}")
            connection.execute(f"PRAGMA journal_size_limit = {limits.WAL_BYTES_MAX}")
            connection.execute(f"PRAGMA cache_size = -{limits.WRITER_CACHE_BYTES // limits.KIB}")
            _migrate(connection)
        except BaseException:
            connection.close()
            raise
    return connection


def open_reader(path: Path) -> sqlite3.Connection:
    """Open a read-only connection."""
    with _explained(path):
        connection = sqlite3.connect(
            path.absolute().as_uri() + "?mode=ro",
            uri=True,
            timeout=LOCK_WAIT_S,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=128,
        )
        connection.execute("PRAGMA query_only = ON")
        connection.execute(f"PRAGMA cache_size = -{limits.READER_CACHE_BYTES // limits.KIB}")
    return connection


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        if (getattr(error, "sqlite_errorcode", 0) & 0xFF) in _DAMAGED:
            raise StoreError(
                f"{path} is not a database or is damaged ({error}). It was not changed. "
                "Restore it from a backup, or move it away to start with an empty database."
            ) from error
        fault = fault_of(error, path)
        if fault.reason != "io_error":
            raise StoreError(f"{path} cannot be opened ({error}). {fault.detail}") from error
        raise StoreError(
            f"{path} cannot be opened: {error}. Check the directory's permissions and the disk."
        ) from error


def _check_ours(connection: sqlite3.Connection, path: Path) -> None:
    tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if tables and connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        raise StoreError(f"{path} is another program's database. It was not changed. Use another data directory.")
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    newest = len(_migrations())
    if version > newest:
        raise StoreError(
            f"{path} was written by a newer everycall (schema {version}; this version knows {newest}). "
            "Upgrade everycall."
        )


def _migrations() -> list[str]:
    folder = resources.files("everycall.server.store") / "schema"
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".sql")), key=lambda file: file.name)
    return [file.read_text("utf-8") for file in files]


def _migrate(connection: sqlite3.Connection) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    for number, script in enumerate(_migrations()[version:], start=version + 1):
        marks = f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {number};"
        try:
            connection.executescript(f"BEGIN IMMEDIATE; {script}\n{marks} COMMIT;")
        except sqlite3.Error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
