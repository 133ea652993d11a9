"""Faults of the store: their reasons, their texts, and one log line each."""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
from pathlib import Path

import pytest

from everycall.server.store.errors import StoreError
from everycall.server.store.faults import TEXTS, DatabaseFile, Faults, FaultyFile, about_file, fault_of
from everycall.server.store.opening import open_writer
from everycall.server.store.sqlite import SqliteStore


def error(code: int) -> sqlite3.OperationalError:
    sqlite_error = sqlite3.OperationalError("as SQLite says it")
    sqlite_error.sqlite_errorcode = code
    return sqlite_error


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (sqlite3.SQLITE_FULL, "disk_full"),
        (sqlite3.SQLITE_CORRUPT, "database_damaged"),
        (sqlite3.SQLITE_CORRUPT_INDEX, "database_damaged"),
        (sqlite3.SQLITE_NOTADB, "database_damaged"),
        (sqlite3.SQLITE_BUSY, "database_locked"),
        (sqlite3.SQLITE_BUSY_SNAPSHOT, "database_locked"),
        (sqlite3.SQLITE_IOERR_LOCK, "locks_unsupported"),
        (sqlite3.SQLITE_IOERR_WRITE, "io_error"),
        (sqlite3.SQLITE_READONLY, "read_only"),
        (sqlite3.SQLITE_READONLY_DBMOVED, "database_missing"),
    ],
)
def test_errors_are_told_apart(code: int, reason: str) -> None:
    assert about_file(error(code))
    fault = fault_of(error(code))
    assert (fault.reason, fault.detail) == (reason, TEXTS[reason])


@pytest.mark.parametrize("code", [sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_TOOBIG])
def test_an_error_of_one_record_is_not_a_fault(code: int) -> None:
    assert not about_file(error(code))
    assert not about_file(ValueError())


def test_texts_are_sentences() -> None:
    for text in TEXTS.values():
        assert text[0].isupper()
        assert text.endswith(".")
        assert "`" not in text


def test_a_fault_is_logged_when_it_begins_and_when_it_ends(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    faults = Faults(clock=lambda: now)
    for _ in range(100):
        busy = faults.report(fault_of(error(sqlite3.SQLITE_FULL)))
    assert "Nothing was stored. Clients keep their records" in str(busy)
    assert faults.present
    assert len(caplog.messages) == 1
    faults.clear()
    faults.clear()
    assert not faults.present
    assert len(caplog.messages) == 2
    for _ in range(100):  # it comes and goes: nothing more within the minute
        faults.report(fault_of(error(sqlite3.SQLITE_FULL)))
        faults.clear()
    assert len(caplog.messages) == 2
    now = 61.0
    faults.report(fault_of(error(sqlite3.SQLITE_FULL)))
    assert len(caplog.messages) == 3


def test_damage_stays_until_the_restart() -> None:
    """A successful write does not prove that the other pages of the file are intact."""
    faults = Faults()
    faults.report(fault_of(error(sqlite3.SQLITE_CORRUPT)))
    faults.clear()
    faults.report(fault_of(error(sqlite3.SQLITE_FULL)))
    assert faults.present is not None
    assert faults.present.reason == "database_damaged"


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
async def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """The error names the cause; it is not reported as another process that uses the database."""

    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(StoreError, match=rf"cannot be locked: .*{errno.errorcode[number]}.*local disk") as raised:
        await SqliteStore(tmp_path / "everycall.db").open()
    assert "pid" not in str(raised.value)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_locking_errors_without_lock_support_are_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """SQLite takes ENOLCK for a lock of another program; the probe finds out."""
    path = tmp_path / "everycall.db"
    assert fault_of(error(sqlite3.SQLITE_BUSY), path).reason == "database_locked"

    def lockf(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "lockf", lockf)
    assert fault_of(error(sqlite3.SQLITE_BUSY), path).reason == "locks_unsupported"
    assert list(tmp_path.iterdir()) == []  # the probe is gone


def test_a_check_of_the_file_keeps_its_descriptors_open(tmp_path: Path) -> None:
    """Closing one would drop SQLite's locks (POSIX), and another program could write."""
    path = tmp_path / "everycall.db"
    file = DatabaseFile(path)
    connection = open_writer(path)
    connection.execute("BEGIN IMMEDIATE")
    for _ in range(3):
        file.check()
    other = sqlite3.connect(path, timeout=0)
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        other.execute("BEGIN IMMEDIATE")
    other.close()
    connection.execute("ROLLBACK")
    connection.close()
    file.close()


def test_a_growing_and_a_shrinking_database_are_whole(tmp_path: Path) -> None:
    """VACUUM makes the file smaller, which is not damage."""
    path = tmp_path / "everycall.db"
    file = DatabaseFile(path)
    connection = open_writer(path)
    file.check()
    for number in range(50):
        connection.execute("INSERT INTO bodies VALUES (?, ?)", (number, os.urandom(100_000)))
        file.check()
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    file.check()
    size = path.stat().st_size
    connection.execute("DELETE FROM bodies")
    other = sqlite3.connect(path)
    other.execute("VACUUM")
    other.close()
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert path.stat().st_size < size // 2
    file.check()
    os.truncate(path, 20_000)
    with pytest.raises(FaultyFile, match="database_damaged"):
        file.check()
    connection.close()
    file.close()
