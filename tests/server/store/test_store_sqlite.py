"""The SQLite store beyond the contract: one owner, damaged and newer files, kills, full disks, query plans."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from everycall import limits
from everycall.record import Record, to_raw
from everycall.server.store.errors import StoreBusy, StoreError
from everycall.server.store.opening import open_reader, open_writer
from everycall.server.store.readers import Readers
from everycall.server.store.sqlite import SqliteStore
from everycall.server.store.values import RecordQuery, TraceQuery
from everycall.server.store.writer import Batch, Change, Writer

P = "default"


def call(number: int, **fields: Any) -> Record:
    return Record(**{"inference_id": f"r{number}", "trace_id": "t", "start_time_unix_nano": number + 1, **fields})


def record_query(**filters: Any) -> RecordQuery:
    return RecordQuery(**filters)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "everycall.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteStore]:
    opened = SqliteStore(path)
    await opened.open()
    yield opened
    await opened.close()


@pytest.mark.parametrize("known", [19, 20], ids=["the first schema", "before failed calls were counted"])
async def test_failed_calls_of_an_older_file_are_not_unpriced(path: Path, known: int) -> None:
    """The states of its traces are completed, and stay right when a record changes."""
    store = SqliteStore(path)
    await store.open()
    failed, priced = call(1, kind="llm", status="error"), call(2, kind="llm", cost=0.5)
    late = call(3, kind="llm", status="error", output_tokens=4)
    await store.commit(P, [failed, priced, late, call(4, kind="agent", status="error")])
    await store.close()
    connection = sqlite3.connect(path)
    (state,) = connection.execute("SELECT state FROM traces").fetchone()
    state = json.dumps(json.loads(state)[:known]).encode()
    connection.execute("UPDATE traces SET state = ?", (state,))
    connection.execute("PRAGMA user_version = 6")
    connection.commit()
    connection.close()
    await (store := SqliteStore(path)).open()
    summary = await store.trace_summary(P, "t")
    assert summary is not None
    assert (summary.leaves, summary.errors, summary.unpriced, summary.counted_elsewhere) == (3, 3, 1, 0)
    await store.commit(P, [call(1, kind="llm", cost=0.25)])
    summary = await store.trace_summary(P, "t")
    assert summary is not None
    assert (summary.cost, summary.unpriced) == (0.75, 1)
    await store.close()


async def test_records_survive_a_restart(path: Path) -> None:
    for number in range(3):
        store = SqliteStore(path)
        await store.open()
        await store.commit(P, [call(number)])
        page = await store.records(P, RecordQuery(limit=1))
        if number:
            assert page.next_cursor is not None
            assert len((await store.records(P, RecordQuery(limit=9, cursor=page.next_cursor))).records) == number
        await store.close()
        await store.close()
    assert not path.with_name("everycall.db-wal").exists()  # closed means all is in the one file


async def test_commits_are_synced_and_files_are_private(store: SqliteStore, path: Path) -> None:
    await store.commit(P, [call(1)])
    assert store._writer is not None
    pragmas = {
        name: store._writer._connection.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("synchronous", "journal_mode")
    }
    assert pragmas == {"synchronous": 2, "journal_mode": "wal"}
    for file in path.parent.iterdir():
        assert file.stat().st_mode & 0o077 == 0, file
    assert path.parent.stat().st_mode & 0o077 == 0


async def test_a_closed_store_raises(path: Path) -> None:
    store = SqliteStore(path)
    with pytest.raises(StoreBusy):
        await store.commit(P, [call(1)])
    await store.open()
    await store.close()
    for attempt in (store.commit(P, [call(1)]), store.records(P, RecordQuery()), store.keys()):
        with pytest.raises(StoreBusy):
            await attempt


async def test_queued_jobs_are_written_before_closing(path: Path) -> None:
    store = SqliteStore(path)
    await store.open()
    commits = [asyncio.create_task(store.commit(P, [call(number)])) for number in range(50)]
    await asyncio.sleep(0)
    await store.close()
    await asyncio.gather(*commits)
    await store.open()
    assert len((await store.records(P, RecordQuery(limit=100))).records) == 50
    await store.close()


async def test_the_error_for_a_second_owner_names_the_first(store: SqliteStore, path: Path) -> None:
    await store.commit(P, [call(1)])
    with pytest.raises(StoreError, match=rf"pid {os.getpid()}\. Stop that one"):
        await SqliteStore(path).open()
    script = (
        "import asyncio, sys, pathlib\n"
        "from everycall.server.store.sqlite import SqliteStore\n"
        "asyncio.run(SqliteStore(pathlib.Path(sys.argv[1])).open())\n"
    )
    child = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True)
    assert child.returncode != 0
    assert f"in use by the process with pid {os.getpid()}" in child.stderr
    await store.commit(P, [call(2)])
    await store.close()
    again = SqliteStore(path)
    await again.open()
    assert len((await again.records(P, RecordQuery())).records) == 2
    await again.close()


@pytest.mark.parametrize("damage", ["text", "page", "cut", "foreign", "newer"])
async def test_a_file_that_cannot_be_used_is_not_changed(path: Path, damage: str) -> None:
    store = SqliteStore(path)
    await store.open()
    await store.commit(P, [call(number, content="x" * 1000) for number in range(100)])
    await store.close()
    if damage == "text":
        path.write_bytes(b"these are somebody's notes\n" * 1000)
        message = "not a database or is damaged"
    elif damage == "page":
        whole = path.read_bytes()
        path.write_bytes(whole[:100] + b"\xff" * 4000 + whole[4100:])
        message = "not a database or is damaged"
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:20_000])
        message = "not a database or is damaged"
    elif damage == "foreign":
        path.unlink()
        other = sqlite3.connect(path)
        other.execute("CREATE TABLE notes (text)")
        other.commit()
        other.close()
        message = "another program's database"
    else:
        newer = sqlite3.connect(path)
        newer.execute("PRAGMA user_version = 999")
        newer.close()
        message = "newer everycall .schema 999.*Upgrade"
    before = path.read_bytes()
    with pytest.raises(StoreError, match=message):
        await SqliteStore(path).open()
    assert path.read_bytes() == before


async def test_a_directory_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be used"):
        await SqliteStore(tmp_path / "file" / "everycall.db").open()


async def test_a_record_that_the_database_refuses_is_refused_alone(store: SqliteStore, path: Path) -> None:
    other = sqlite3.connect(path)
    other.execute(
        "CREATE TRIGGER t BEFORE INSERT ON records WHEN NEW.name = 'boom' BEGIN SELECT RAISE(ABORT, 'no room'); END"
    )
    other.commit()
    other.close()
    batches = [
        [call(10 * batch + i, name="boom" if (batch, i) == (3, 4) else "fine") for i in range(10)] for batch in range(6)
    ]
    commits = await asyncio.gather(*(store.commit(P, batch) for batch in batches))
    assert [commit.committed for commit in commits] == [10, 10, 10, 9, 10, 10]
    (refusal,) = commits[3].refused
    assert (refusal.index, refusal.inference_id) == (4, "r34")
    assert "no room" in refusal.reason
    summary = await store.trace_summary(P, "t")
    assert summary is not None
    assert summary.records == 59


async def test_a_change_that_fails_fails_alone(store: SqliteStore) -> None:
    await store.commit(P, [call(1)])
    results = await asyncio.gather(
        store.merge(P, "r1", {"content": "set"}),
        store.merge(P, "r1", {"cost": "much"}),
        store.commit(P, [call(2)]),
        store.cache(P, "k", b"body"),
        return_exceptions=True,
    )
    assert [type(result).__name__ for result in results] == ["NoneType", "StoreError", "Commit", "NoneType"]
    record = await store.record(P, "r1")
    assert record is not None
    assert record.content == "set"
    assert await store.cached(P, "k", 60) is not None


def test_a_full_disk_is_a_temporary_error(path: Path) -> None:
    path.parent.mkdir()
    connection = open_writer(path)
    writer = Writer(connection)
    writer.start()
    try:
        writer.put(Batch(P, [call(1)], None)).result()
        connection.execute(f"PRAGMA max_page_count = {connection.execute('PRAGMA page_count').fetchone()[0] + 2}")
        big = [call(number, content="x" * 100_000) for number in range(2, 6)]
        with pytest.raises(StoreBusy, match="full"):
            writer.put(Batch(P, big, None)).result()
        connection.execute("PRAGMA max_page_count = 1000000")
        assert writer.put(Batch(P, big, None)).result().committed == 4
    finally:
        writer.close()
    check = sqlite3.connect(path)
    assert check.execute("SELECT count(*) FROM records").fetchone() == (5,)
    check.close()


def test_the_queue_is_bounded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "WRITE_QUEUE_MAX", 3)
    path.parent.mkdir()
    writer = Writer(open_writer(path))
    writer.start()
    release, entered = threading.Event(), threading.Event()

    def block(*_: object) -> bool:
        entered.set()
        return release.wait(30)

    try:
        blocked = writer.put(Change(block))
        assert entered.wait(30)
        waiting = [writer.put(Batch(P, [call(number)], None)) for number in range(3)]
        with pytest.raises(StoreBusy, match="3 batches wait"):
            writer.put(Batch(P, [call(9)], None))
        release.set()
        assert blocked.result() is True
        assert [done.result().committed for done in waiting] == [1, 1, 1]
        assert writer.put(Batch(P, [call(10)], None)).result().committed == 1
    finally:
        release.set()
        writer.close()


def test_a_defect_in_one_write_does_not_stop_the_writer(path: Path) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    path.parent.mkdir()
    writer = Writer(open_writer(path))
    jobs = [writer.put(job) for job in (Batch(P, [call(1)], None), Change(broken), Batch(P, [call(2)], None))]
    writer.start()
    assert jobs[0].result().committed == jobs[2].result().committed == 1
    with pytest.raises(ZeroDivisionError):
        jobs[1].result()
    writer.close()


async def test_an_endless_read_is_stopped(store: SqliteStore, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    endless = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c"
    readers = Readers(lambda: open_reader(path))
    monkeypatch.setattr(limits, "QUERY_TIMEOUT_S", 0.1)
    try:
        reads = [readers.run(lambda read: read.one(endless)) for _ in range(limits.STORE_READERS + 2)]
        answers = await asyncio.gather(*reads, return_exceptions=True)
        assert all(isinstance(answer, StoreBusy) for answer in answers)
        monkeypatch.setattr(limits, "QUERY_TIMEOUT_S", 60.0)
        given_up = asyncio.create_task(readers.run(lambda read: read.one(endless)))
        await asyncio.sleep(0.05)
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up
        assert await readers.run(lambda read: read.one("SELECT 1")) == (1,)
    finally:
        readers.close()  # returns only because the read that was given up has ended


async def test_readers_cannot_write(store: SqliteStore, path: Path) -> None:
    reader = open_reader(path)
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader.execute("DELETE FROM records")
    reader.close()


async def test_lists_use_their_indexes(store: SqliteStore, path: Path) -> None:
    """No list with a default page sorts or scans a whole table, whatever the filter."""
    await store.commit(P, [call(1, tags=["a"])])
    explained: list[tuple[str, list[str]]] = []
    for filters in (
        {},
        {"trace_id": "t"},
        {"name": "x"},
        {"trace_name": "x"},
        {"model": "x"},
        {"status": "error"},
        {"end_user_identifier": "x"},
        {"session_id": "x"},
        {"deployment_id": "x"},
        {"tag": "x"},
        {"since": 1, "until": 5},
    ):
        for method, query in (("records", RecordQuery), ("traces", TraceQuery)):
            if set(filters) <= set(query.__dataclass_fields__):
                explained.append((f"{method} {filters}", await explain(store, method, query(**filters))))
    for label, plan in explained:
        assert not [step for step in plan if "TEMP B-TREE" in step], (label, plan)
        assert any("USING" in step and ("INDEX" in step or "PRIMARY KEY" in step) for step in plan), (label, plan)
        assert not [step for step in plan if step in TABLE_SCANS], (label, plan)


TABLE_SCANS = {f"SCAN {table}" for table in ("r", "t", "g", "b", "records", "traces")}


async def explain(store: SqliteStore, method: str, query: Any) -> list[str]:
    """Return the query plan of a list's first statement."""
    steps: list[str] = []

    class Spy:
        def __init__(self, read: Any) -> None:
            self.read = read

        def one(self, statement: str, values: Any = ()) -> Any:
            if not steps:
                connection = self.read._connection
                steps.extend(row[3] for row in connection.execute("EXPLAIN QUERY PLAN " + statement, values))
            return self.read.one(statement, values)

        def texts(self, statement: str, values: Any = ()) -> Any:
            return self.read.texts(statement, values)

    assert store._readers is not None
    assert store._queries is not None
    queries = store._queries
    await store._readers.run(lambda read: getattr(queries, method)(Spy(read), P, query))
    return steps


async def test_a_long_trace_costs_no_more_per_batch(store: SqliteStore) -> None:
    """The work of a batch, in rows that SQLite visits, does not grow with its trace."""
    assert store._writer is not None
    connection = store._writer._connection
    work: list[int] = []
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    connection.set_progress_handler(count, 100)
    for batch in range(40):
        steps = 0
        parents = {"parent_id": "r0"} if batch else {}
        await store.commit(P, [call(100 * batch + i, **parents, kind="llm", cost=0.1) for i in range(100)])
        work.append(steps)
    connection.set_progress_handler(None, 0)
    assert sum(work[-10:]) < 2 * sum(work[1:11])


@pytest.mark.parametrize("depth", [1, 3])
async def test_a_late_root_labels_its_trace_in_few_statements(store: SqliteStore, depth: int) -> None:
    """Labels reach stored spans of others in statements of many rows, and in work that grows as the trace does."""
    assert store._writer is not None
    connection = store._writer._connection
    statements: list[str] = []
    steps: list[int] = []

    def count() -> int:
        steps[-1] += 1
        return 0

    works = {}
    for size in (600, 2400):
        attributes = to_raw({"everycall.dialect": "gen_ai"})
        trace = {"trace_id": f"t{size}", "attributes": attributes}
        ids = [f"{size}-{number}" for number in range(size)]
        spans = [
            call(number, **trace, inference_id=key, parent_id=ids[number - 1] if number % depth else f"{size}-root")
            for number, key in enumerate(ids)
        ]
        await store.commit(P, spans)
        labels = {"session_id": f"s{size}", "end_user_identifier": "ada", "tags": ["late"]}
        root = call(0, **trace, **labels, inference_id=f"{size}-root", kind="agent")
        statements.clear()
        steps.append(0)
        connection.set_trace_callback(statements.append)
        connection.set_progress_handler(count, 100)
        await store.commit(P, [root])
        connection.set_progress_handler(None, 0)
        connection.set_trace_callback(None)
        works[size] = (len(statements), steps[-1])
        page = await store.records(P, record_query(session_id=f"s{size}", limit=limits.PAGE_ROWS_MAX))
        assert len(page.records) == min(limits.PAGE_ROWS_MAX, size + 1)
        for key in (ids[0], ids[size // 2], ids[-1]):
            record = await store.record(P, key)
            assert record is not None
            assert (record.session_id, record.end_user_identifier, record.tags) == (f"s{size}", "ada", ["late"])
        stored = connection.execute(
            "SELECT count(*), sum(r.size = length(b.body)), sum(b.body ->> 'session_id' = r.session) FROM records r"
            " JOIN bodies b ON b.record = r.id WHERE r.session = ?",
            (f"s{size}",),
        ).fetchone()
        assert stored == (size + 1, size + 1, size + 1)
        tagged = "SELECT count(*) FROM record_tags JOIN records ON id = record WHERE session = ?"
        assert connection.execute(tagged, (f"s{size}",)).fetchone()[0] == size + 1
    assert works[2400][0] < 2400 / 5
    assert works[2400][1] < 8 * works[600][1]


CHILD = """
import asyncio, sys, pathlib, random
from everycall.record import Record
from everycall.server.store.sqlite import SqliteStore

async def main():
    store = SqliteStore(pathlib.Path(sys.argv[1]))
    await store.open()
    tag = sys.argv[2]
    async def write(task):
        number = 0
        while True:
            ids = [f"{tag}-{task}-{number + i}" for i in range(random.randint(1, 40))]
            number += len(ids)
            common = {"trace_id": f"{tag}-{task}", "name": "n" * 300, "kind": "llm", "cost": 0.5}
            records = [Record(inference_id=i, start_time_unix_nano=1, **common) for i in ids]
            commit = await store.commit("default", records)
            assert commit.committed == len(ids)
            print(*ids, flush=True)
    await asyncio.gather(*(write(task) for task in range(4)))

asyncio.run(main())
"""


async def test_acknowledged_records_survive_kills(path: Path) -> None:
    """A process that commits is killed ten times at random moments; every record it reported as committed is stored."""
    rng = random.Random(7)
    acknowledged: set[str] = set()
    for round_ in range(10):
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(path), str(round_)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert child.stdout is not None
        assert child.stderr is not None
        lines = [child.stdout.readline() for _ in range(rng.randint(1, 60))]
        child.send_signal(signal.SIGKILL)
        rest = child.stdout.read()
        errors = child.stderr.read().decode()
        child.stdout.close()
        child.stderr.close()
        assert child.wait() == -signal.SIGKILL, errors
        whole = b"".join(lines) + rest
        # A line that the kill cut off was not read by anybody: what counts is what ends in a newline.
        acknowledged.update(whole[: whole.rfind(b"\n") + 1].decode().split())
    assert len(acknowledged) > 100
    store = SqliteStore(path)
    await store.open()
    stored: list[str] = []
    cursor = None
    while True:
        page = await store.records(P, RecordQuery(limit=1000, cursor=cursor))
        stored += [record.inference_id for record in page.records]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert len(stored) == len(set(stored))
    assert acknowledged <= set(stored)
    traces = (await store.traces(P, TraceQuery(limit=1000))).traces
    assert sum(trace.records for trace in traces) == len(stored)
    assert all(trace.cost == 0.5 * trace.records for trace in traces)
    await store.close()
    check = sqlite3.connect(path)
    assert check.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    check.close()


async def test_hostile_filters_change_nothing(store: SqliteStore, path: Path) -> None:
    await store.commit(P, [call(1, tags=["a"], inputs=to_raw({"a": 1}))])
    hostile = [
        "'; DROP TABLE records; --",
        '" OR ""="',
        "1) OR (1=1",
        "?1",
        ":name",
        "\\",
        "%",
        "x' UNION SELECT body FROM bodies --",
    ]
    for text in hostile:
        for name in ("trace_id", "name", "kind", "status", "tag", "search", "session_id"):
            query = record_query(**{name: text})
            assert (await store.records(P, query)).records == ()
        assert await store.trace_summary(P, text) is None
        assert await store.record(text, text) is None
        assert await store.deployment(text, text) is None
        assert await store.cached(text, text, 60) is None
    check = sqlite3.connect(path)
    assert check.execute("SELECT count(*) FROM records").fetchone() == (1,)
    check.close()
