"""Opening the database file: the lock that makes one process its owner, the checks, the migrations, the connections.

Called by `sqlite.SqliteStore`. A file that is not ours, is damaged or is newer than this code is left as it was found.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

from everycall import limits
from everycall.server.store.errors import StoreError

__all__ = ["FileLock", "about_file", "open_reader", "open_writer"]

APPLICATION_ID = 0x65636C6C
"""SQLite's `PRAGMA application_id` of our files ("ecll"): tells them from any other database."""
PAGE_BYTES = 8192
"""Of one database page: three records of 2.5 KB fit, where the default 4096 wastes a third of each."""
LOCK_WAIT_S = 5.0
"""SQLite's own wait for a lock. Only a foreign program (a backup, a shell) can hold one; our own readers never do."""

_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_UNUSABLE = frozenset(
    {
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_PROTOCOL,
        *_DAMAGED,
    }
)


def about_file(error: sqlite3.Error) -> bool:
    """Return whether an error is about the file as a whole (disk, permissions, damage), not about what was written."""
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and (code & 0xFF) in _UNUSABLE


class FileLock:
    """An exclusive lock beside the database (`<name>.lock`, flock), held from `take` to `release`.

    The kernel lets go when the owning process dies, however it dies, so that a lock never outlives its owner.
    """

    def __init__(self, database: Path) -> None:
        self._database = database
        self._path = database.with_name(database.name + ".lock")
        self._descriptor: int | None = None

    def take(self) -> None:
        """Become the owner. Raises `StoreError` that names the process which is."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            owner = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(descriptor)
            raise StoreError(
                f"{self._database} is in use by the process with pid {owner}. "
                "Stop that one, or give this one another data directory."
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._descriptor = descriptor

    def release(self) -> None:
        """Let go. The file stays: removing it would let two processes lock two files of the same name."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def open_writer(path: Path) -> sqlite3.Connection:
    """Open, check and migrate the database; returns the one connection that writes.

    Raises `StoreError` when it is damaged, no database, another program's, or newer than this code.
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
    """Open a connection that cannot write."""
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
                f"{path} is not a database or is damaged ({error}); it was left as it is. "
                "Restore it from a backup, or move it away to start with an empty one."
            ) from error
        raise StoreError(
            f"{path} cannot be opened: {error}. Check the directory's permissions and the disk."
        ) from error


def _check_ours(connection: sqlite3.Connection, path: Path) -> None:
    tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if tables and connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        raise StoreError(f"{path} is another program's database; it was left as it is. Name another file.")
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    newest = len(_migrations())
    if version > newest:
        raise StoreError(
            f"{path} was written by a newer everycall (schema {version}, this one knows {newest}). Upgrade everycall."
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
