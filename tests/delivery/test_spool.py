"""The spool: appended records can be read back after any process dies; losses are counted by name."""

from __future__ import annotations

import os
import resource
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from everycall import limits
from everycall._delivery.folder import spool_dir, target_of
from everycall._delivery.segment import adoptable, create, read_lines
from everycall._delivery.spool import Spool
from everycall._ledger import Ledger
from everycall.errors import Loss

ENDPOINT = "http://127.0.0.1:7410"


def make(root: Path, **options: int) -> Spool:
    return Spool(root, ENDPOINT, "default", Ledger(), **options)


def folder_of(spool: Spool) -> Path:
    assert spool.directory is not None
    return spool.directory


def drain(spool: Spool) -> list[bytes]:
    """Take everything as delivered and return it."""
    records: list[bytes] = []
    while (next_chunk := spool.next_chunk()) is not None:
        segment, chunk = next_chunk
        lines = [line for line in read_lines(chunk.data) if line is not None]
        records += lines
        spool.acknowledge(segment, chunk, len(lines), {})
    return records


def balanced(spool: Spool) -> bool:
    sheet = spool.balance()
    return sheet.recorded == sheet.delivered + sheet.spooled + sheet.lost


def test_lines_are_read_back_complete_and_in_order(tmp_path: Path) -> None:
    """What is appended is read back byte for byte, oldest first, and the file is emptied by its receipts."""
    spool = make(tmp_path)
    lines = [b'{"n":%d}' % n for n in range(5_000)]
    for line in lines:
        spool.append(line)
    assert spool.balance().spooled == 5_000
    assert drain(spool) == lines
    assert spool.balance().spooled == 0
    assert set(b"".join(p.read_bytes() for p in folder_of(spool).glob("*.spool"))) <= {0}
    spool.close()
    assert list(folder_of(spool).glob("*.spool")) == []


def test_files_are_private_and_name_their_target(tmp_path: Path) -> None:
    """The folder is 0700, the files 0600, and the target file says where the records are bound for."""
    spool = make(tmp_path)
    spool.append(b"{}")
    assert oct(folder_of(spool).stat().st_mode & 0o777) == "0o700"
    assert {oct(p.stat().st_mode & 0o777) for p in folder_of(spool).iterdir()} == {"0o600"}
    assert target_of(folder_of(spool)) == (ENDPOINT, "default")
    assert spool_dir(tmp_path, ENDPOINT, "other") != folder_of(spool)
    spool.close()


def test_segments_of_a_running_process_are_not_adopted(tmp_path: Path) -> None:
    """A segment is adopted only when its owner is gone; then exactly once."""
    spool = make(tmp_path)
    spool.append(b'{"n":1}')
    assert list(adoptable(folder_of(spool))) == []
    spool.close()
    (adopted,) = adoptable(folder_of(spool))
    assert list(adoptable(folder_of(spool))) == []
    chunk = adopted.read(limits.BATCH_BYTES_MAX)
    assert chunk is not None
    assert list(read_lines(chunk.data)) == [b'{"n":1}']
    adopted.remove()
    adopted.release()


def test_an_incomplete_last_line_is_ignored(tmp_path: Path) -> None:
    """A write cut short by death leaves the lines before it readable, and itself unread."""
    spool = make(tmp_path)
    spool.append(b'{"n":1}')
    spool.append(b'{"n":2}')
    spool.close()
    (path,) = folder_of(spool).glob("*.spool")
    whole = path.read_bytes().rstrip(b"\0")
    path.write_bytes(whole[:-7] + bytes(100))
    (segment,) = adoptable(folder_of(spool))
    chunk = segment.read(limits.BATCH_BYTES_MAX)
    assert chunk is not None
    assert list(read_lines(chunk.data)) == [b'{"n":1}']
    segment.sent = chunk.end
    assert segment.read(limits.BATCH_BYTES_MAX) is None
    segment.release()


@pytest.mark.parametrize("place", range(0, 60, 7))
def test_a_flipped_byte_is_detected(tmp_path: Path, place: int) -> None:
    """A line that was changed on disk is never passed on as if it were whole; its neighbours are."""
    lines = [b'{"n":1,"text":"aaaa"}', b'{"n":2,"text":"bbbb"}', b'{"n":3,"text":"cccc"}']
    spool = make(tmp_path)
    for line in lines:
        spool.append(line)
    spool.close()
    (path,) = folder_of(spool).glob("*.spool")
    data = bytearray(path.read_bytes().rstrip(b"\0"))
    data[place] ^= 0x01
    read_back = list(read_lines(bytes(data)))
    assert all(line is None or line in lines for line in read_back)
    assert sum(line in lines for line in read_back) >= 1
    assert None in read_back


def test_a_full_spool_deletes_and_counts_the_oldest_segment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The spool keeps within its bytes; what goes is whole, oldest first, and named."""
    monkeypatch.setattr(limits, "SEGMENT_BYTES", 10_000)
    spool = make(tmp_path, bytes_max=50_000)
    for n in range(2_000):
        spool.append(b'{"n":%d,"pad":"%b"}' % (n, b"x" * 80))
    assert sum(p.stat().st_size for p in folder_of(spool).glob("*.spool")) <= 50_000
    sheet = spool.balance()
    assert sheet.dropped.keys() == {"spool_full"}
    assert sheet.recorded == 2_000
    assert sheet.recorded == sheet.spooled + sheet.lost
    remaining = drain(spool)
    assert remaining[-1].startswith(b'{"n":1999,')
    assert len(remaining) == sheet.spooled
    spool.close()


def test_without_a_folder_records_are_kept_in_memory(tmp_path: Path) -> None:
    """A spool directory that cannot be made costs nothing but durability: lines reach the sender from memory."""
    blocked = tmp_path / "file"
    blocked.write_text("not a directory")
    spool = make(blocked)
    lines = [b'{"n":%d}' % n for n in range(100)]
    for line in lines:
        spool.append(line)
    assert spool.balance().spooled == 100
    assert drain(spool) == lines
    assert balanced(spool)
    spool.append(b"{}")
    spool.close()
    assert spool.balance().dropped == {"spool_unwritable": 1}
    assert balanced(spool)


def test_memory_without_a_folder_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With no disk and no endpoint, memory stays within its bound and the rest is counted."""
    monkeypatch.setattr(limits, "MEMORY_BYTES_MAX", 2_000)
    blocked = tmp_path / "file"
    blocked.write_text("")
    spool = make(blocked)
    for _ in range(100):
        spool.append(b"x" * 90)
    sheet = spool.balance()
    assert (sheet.recorded, sheet.spooled, sheet.dropped) == (100, 20, {"spool_unwritable": 80})


def test_a_full_disk(tmp_path: Path) -> None:
    """When a line does not fit on the disk it is held in memory, whole; what was written before stays readable."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    spool = make(tmp_path)
    spool.append(b'{"n":0}')
    block_count = 18
    resource.setrlimit(resource.RLIMIT_FSIZE, (block_count + 10, hard))
    try:
        lines = [b'{"n":%d,"pad":"%b"}' % (n, b"x" * 150_000) for n in range(1, 15)]
        for line in lines:
            spool.append(line)
        assert len(spool.memory) == 14
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    spool.append(b'{"n":99}')
    assert sorted(drain(spool)) == sorted([b'{"n":0}', *lines, b'{"n":99}'])
    assert balanced(spool)
    spool.close()


def test_segments_rotate_and_are_reused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines come out whole and once each through rotation, emptying and reuse; a line longer than a segment too."""
    monkeypatch.setattr(limits, "SEGMENT_BYTES", 4_096)
    spool = make(tmp_path)
    appended, drained = [], []
    for n in range(400):
        line = b'{"n":%d,"pad":"%b"}' % (n, b"x" * (n * 37 % 900 if n % 50 else 9_000))
        appended.append(line)
        spool.append(line)
        if n % 7 == 0:
            drained += drain(spool)
        assert balanced(spool)
    drained += drain(spool)
    assert drained == appended
    assert len(list(folder_of(spool).glob("*.spool"))) <= 3
    spool.close()
    assert list(folder_of(spool).glob("*.spool")) == []


def test_a_spool_is_adopted(tmp_path: Path) -> None:
    """What a process left is read by the next."""
    spool = make(tmp_path)
    for n in range(3_000):
        spool.append(b'{"n":%d}' % n)
    spool.close()
    lines: list[bytes | None] = []
    for segment in adoptable(folder_of(spool)):
        while (chunk := segment.read(10_000)) is not None:
            lines += read_lines(chunk.data)
            segment.sent = chunk.end
        segment.release()
    assert lines == [b'{"n":%d}' % n for n in range(3_000)]


def test_a_child_does_not_use_its_parents_files(tmp_path: Path) -> None:
    """After a fork the child's closing of inherited files neither unlocks nor changes the parent's spool."""
    spool = make(tmp_path)
    spool.append(b'{"n":1}')
    pid = os.fork()
    if pid == 0:
        spool.abandon_in_child()
        os._exit(0)
    os.waitpid(pid, 0)
    assert list(adoptable(folder_of(spool))) == []
    spool.append(b'{"n":2}')
    assert drain(spool) == [b'{"n":1}', b'{"n":2}']
    spool.close()


def test_lines_of_many_threads_are_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Appends of many threads, through many rotations and a sender at work, come out whole and once each."""
    monkeypatch.setattr(limits, "SEGMENT_BYTES", 20_000)
    spool = make(tmp_path)
    drained: list[bytes] = []
    done = threading.Event()

    def write(thread: int) -> None:
        for n in range(500):
            spool.append(b'{"t":%d,"n":%d}' % (thread, n))

    def read() -> None:
        while not done.is_set():
            drained.extend(drain(spool))
            assert balanced(spool)

    threads = [threading.Thread(target=write, args=(t,)) for t in range(8)]
    reader = threading.Thread(target=read)
    for thread in (*threads, reader):
        thread.start()
    for thread in threads:
        thread.join()
    done.set()
    reader.join()
    drained += drain(spool)
    assert sorted(drained) == sorted(b'{"t":%d,"n":%d}' % (t, n) for t in range(8) for n in range(500))
    spool.close()


steps = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(1, 400)),
        st.tuples(st.just("deliver"), st.integers(0, 3)),
        st.tuples(st.just("refuse"), st.integers(0, 3)),
        st.tuples(st.just("break"), st.just(0)),
        st.tuples(st.just("mend"), st.just(0)),
    ),
    max_size=60,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=steps)
def test_the_balance_sheet_is_correct_after_every_step(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, steps: list[tuple[str, int]]
) -> None:
    """recorded = delivered + spooled + dropped, whatever is appended, delivered, refused, dropped or unwritable."""
    monkeypatch.setattr(limits, "SEGMENT_BYTES", 700)
    monkeypatch.setattr(limits, "BATCH_BYTES_MAX", 500)
    monkeypatch.setattr(limits, "MEMORY_BYTES_MAX", 800)
    spool = make(tmp_path_factory.mktemp("spool"), bytes_max=4_000)
    appended = 0
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        for step, size in steps:
            if step == "append":
                spool.append(b"x" * size)
                appended += 1
            elif step == "break":
                resource.setrlimit(resource.RLIMIT_FSIZE, (64, hard))
            elif step == "mend":
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            elif (next_chunk := spool.next_chunk()) is not None:
                segment, chunk = next_chunk
                lines = chunk.data.count(b"\n")
                loss_count = min(size, lines) if step == "refuse" else 0
                spool.acknowledge(segment, chunk, lines - loss_count, {Loss.REFUSED: loss_count} if loss_count else {})
            sheet = spool.balance()
            assert sheet.recorded == appended
            assert sheet.recorded == sheet.delivered + sheet.spooled + sheet.lost
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        spool.close()
    assert balanced(spool) or spool.balance().spooled == 0


def test_a_segment_returns_only_complete_lines(tmp_path: Path) -> None:
    """A line longer than a batch is still read whole, alone."""
    directory = tmp_path / "d"
    directory.mkdir()
    segment = create(directory, 1)
    long = b"x" * 5_000 + b"\n"
    segment.append(long)
    segment.append(b"short\n")
    chunk = segment.read(100)
    assert chunk is not None
    assert chunk.data.startswith(long)
    segment.remove()
    segment.release()
