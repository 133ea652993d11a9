"""What keeps a store from storing: a full disk, a deleted or damaged database, a lock, an I/O error.

The writer and the readers report errors here; health, the status page and the metrics read the present fault. A fault
is logged once when it begins and once when it ends. Thread-safe.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from everycall import limits
from everycall.server.store.errors import StoreBusy
from everycall.server.store.values import Fault

__all__ = ["RETRY_AFTER_S", "DatabaseFile", "Faults", "FaultyFile", "about_file", "fault_of", "unwritable_reason"]

logger = logging.getLogger("everycall.server.store")

REPEAT_S = 60.0
"""A fault that comes and goes is logged at most this often."""
RETRY_AFTER_S = 5
PROBE_BYTES = 4 * limits.MIB
"""Free space that a store needs after a full disk: with less, the next large batch fails again."""

_KEPT = "Clients keep their records and send them again."
TEXTS = {
    "disk_full": (
        "The disk is full, or a quota or file size limit is reached. Free some space; a restart is not needed."
    ),
    "database_missing": (
        "The database file was deleted, moved or replaced while the server was running. Restart the server."
    ),
    "database_damaged": (
        "The database file is damaged. Stop the server, restore the file from a backup (or move it away), and restart."
    ),
    "database_locked": "Another program has locked the database. Find it and close it.",
    "locks_unsupported": (
        "The file system of the data directory does not support locks. Move the data directory to a local disk."
    ),
    "read_only": "The database is read-only. Check the permissions of the data directory and how its disk is mounted.",
    "io_error": "The database cannot be read or written. Check the disk.",
}
"""What is wrong and what the operator can do, by reason."""

_REASONS = {
    sqlite3.SQLITE_FULL: "disk_full",
    sqlite3.SQLITE_CORRUPT: "database_damaged",
    sqlite3.SQLITE_NOTADB: "database_damaged",
    sqlite3.SQLITE_BUSY: "database_locked",
    sqlite3.SQLITE_LOCKED: "database_locked",
    sqlite3.SQLITE_PROTOCOL: "locks_unsupported",
    sqlite3.SQLITE_READONLY: "read_only",
    sqlite3.SQLITE_PERM: "read_only",
    sqlite3.SQLITE_CANTOPEN: "io_error",
    sqlite3.SQLITE_IOERR: "io_error",
    sqlite3.SQLITE_NOMEM: "io_error",
}
"""By SQLite's primary result code."""
_EXTENDED_REASONS = {
    sqlite3.SQLITE_IOERR_LOCK: "locks_unsupported",
    sqlite3.SQLITE_IOERR_RDLOCK: "locks_unsupported",
    sqlite3.SQLITE_IOERR_CHECKRESERVEDLOCK: "locks_unsupported",
    sqlite3.SQLITE_READONLY_DBMOVED: "database_missing",
    sqlite3.SQLITE_IOERR_VNODE: "database_missing",
}
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_NO_LOCKS = frozenset({errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS})
_PERMANENT = frozenset({"database_damaged"})
"""Faults that a successful write does not disprove: other pages of the file are still damaged."""


class FaultyFile(Exception):
    """The database file is not what it was. The message is the reason, a key of `TEXTS`."""


def about_file(error: Exception) -> bool:
    """Return whether an error is about the database file as a whole, not about what was written or read."""
    if isinstance(error, FaultyFile):
        return True
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and (code & 0xFF) in _REASONS


def fault_of(error: Exception, path: Path | None = None) -> Fault:
    """Return the fault that an error about the file shows. `path` is the database, to find out what the disk lacks."""
    if isinstance(error, FaultyFile):
        reason = str(error)
    else:
        code: int = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_IOERR)
        reason = _EXTENDED_REASONS.get(code) or _REASONS.get(code & 0xFF, "io_error")
        if reason in ("io_error", "database_locked") and path is not None:
            reason = unwritable_reason(path) or reason  # SQLite says "locked" where locks are not supported
    return Fault(reason, TEXTS[reason], time.time_ns())


def unwritable_reason(path: Path) -> str | None:
    """Lock a file beside a database and reserve `PROBE_BYTES` as far out as its files reach.

    Return why that fails, or None. SQLite reports a quota and a limit of file size as "disk I/O error", and missing
    support of locks as "locked"; the system says which it is.
    """
    probe = path.with_name(f"{path.name}.probe")
    try:
        descriptor = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.posix_fallocate(descriptor, max(_size(path), _size(_log_of(path))), PROBE_BYTES)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno in _FULL:
            return "disk_full"
        if error.errno in _NO_LOCKS:
            return "locks_unsupported"
        return "read_only" if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM) else "io_error"
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)
    return None


class Faults:
    """The present fault of one store, or None."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._fault: Fault | None = None
        self._logged: dict[str, float] = {}
        self._is_logged = False

    @property
    def present(self) -> Fault | None:
        """The fault that keeps the store from storing now."""
        return self._fault

    def report(self, fault: Fault) -> StoreBusy:
        """Note a fault and return the error for those who wait for the store."""
        with self._lock:
            before = self._fault
            if before is None or (before.reason != fault.reason and before.reason not in _PERMANENT):
                self._fault = fault
                self._log(fault)
            elif before.reason in _PERMANENT:
                fault = before
        return StoreBusy(f"{fault.detail} Nothing was stored. {_KEPT}", RETRY_AFTER_S)

    def clear(self) -> None:
        """Note that the store stores again."""
        fault = self._fault
        if fault is None or fault.reason in _PERMANENT:
            return
        with self._lock:
            self._fault = None
            if self._is_logged:
                seconds = (time.time_ns() - fault.since_unix_nano) / 1e9
                logger.warning("Records are stored again, after %.0f s (%s).", seconds, fault.reason)
            self._is_logged = False

    def _log(self, fault: Fault) -> None:
        now = self._clock()
        last = self._logged.get(fault.reason)
        self._is_logged = last is None or now - last >= REPEAT_S
        if self._is_logged:
            self._logged[fault.reason] = now
            logger.error("Records cannot be stored. %s %s", fault.detail, _KEPT)


class DatabaseFile:
    """The files of a database, held open to see whether they are still the ones on the disk. Created if needed.

    SQLite goes on writing to a file that was deleted or replaced; what it commits there is lost at the next start.
    Open it before SQLite opens the file and close it after: closing any descriptor of a file drops all locks that the
    process has on it (POSIX).
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        stat = os.fstat(self._descriptor)
        self._file = (stat.st_dev, stat.st_ino)
        self._log_path = _log_of(path)
        self._log: tuple[int, int] | None = None
        self._was_written = False

    def check(self) -> None:
        """Raise `FaultyFile` unless the database and its log are the files that were opened, and look whole."""
        try:
            stat = self._path.stat()
        except OSError:
            raise FaultyFile("database_missing") from None
        if (stat.st_dev, stat.st_ino) != self._file:
            raise FaultyFile("database_missing")
        self._check_log()
        self._check_header(stat.st_size)

    def _check_log(self) -> None:
        try:
            stat = self._log_path.stat()
        except OSError:
            if self._log is not None:
                raise FaultyFile("database_missing") from None
            return  # not created yet
        if self._log is None:
            self._log = (stat.st_dev, stat.st_ino)
        elif (stat.st_dev, stat.st_ino) != self._log:
            raise FaultyFile("database_missing")

    def _check_header(self, size: int) -> None:
        """Compare the size with the number of pages in the header (SQLite's file format, 1.3)."""
        header = os.pread(self._descriptor, 100, 0)
        if not header and not self._was_written:
            return  # everything is still in the log
        if not header.startswith(b"SQLite format 3\0") or len(header) < 100:
            raise FaultyFile("database_damaged")
        self._was_written = True
        page_bytes = int.from_bytes(header[16:18], "big")
        page_bytes = 65_536 if page_bytes == 1 else page_bytes
        pages = int.from_bytes(header[28:32], "big")
        # half is left out of the comparison: a checkpoint may be under way
        if header[24:28] == header[92:96] and size < pages * page_bytes // 2:
            raise FaultyFile("database_damaged")

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._descriptor)


def _log_of(path: Path) -> Path:
    return path.with_name(path.name + "-wal")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
