"""Spool files that are damaged, truncated, deleted or foreign: losses are counted, and the rest is delivered."""

from __future__ import annotations

import os
import resource
import shutil
from pathlib import Path

import pytest

from everycall import limits
from everycall._delivery import folder
from everycall._delivery.segment import Segment, adopt, adoptable, read_lines
from everycall._delivery.spool import Spool
from everycall._ledger import Ledger

ENDPOINT = "http://127.0.0.1:7410"
LINES = [b'{"n":%d,"text":"%b"}' % (n, b"abc" * 10) for n in range(200)]


def make(root: Path) -> Spool:
    return Spool(root, ENDPOINT, "default", Ledger())


def folder_of(spool: Spool) -> Path:
    assert spool.directory is not None
    return spool.directory


def left_by_a_process(root: Path) -> Path:
    """Return the one segment, with `LINES`, of a process that has ended."""
    spool = make(root)
    for line in LINES:
        spool.append(line)
    spool.close()
    (path,) = folder_of(spool).glob("*.spool")
    return path


def read_all(segment: Segment) -> tuple[list[bytes], int]:
    """Return the lines of a segment and the number of damaged ones."""
    lines: list[bytes] = []
    damaged = 0
    while (chunk := segment.read(limits.BATCH_BYTES_MAX)) is not None:
        damaged += chunk.skipped
        for line in read_lines(chunk.data):
            if line is None:
                damaged += 1
            else:
                lines.append(line)
        segment.sent = chunk.end
    return lines, damaged


def drain(spool: Spool) -> list[bytes]:
    """Take everything as delivered and return it."""
    records: list[bytes] = []
    while (pending := spool.next_chunk()) is not None:
        segment, chunk = pending
        lines = [line for line in read_lines(chunk.data) if line is not None]
        records += lines
        spool.acknowledge(segment, chunk, len(lines), {})
    return records


def adopted(path: Path) -> Segment:
    segment = adopt(path)
    assert segment is not None
    return segment


# --- left by ended processes ---


def test_lines_after_a_zeroed_page_are_read(tmp_path: Path) -> None:
    """A page that came back as zeros costs the lines in it, and none after it."""
    path = left_by_a_process(tmp_path)
    data = bytearray(path.read_bytes())
    data[4_096:8_192] = bytes(4_096)
    path.write_bytes(data)
    segment = adopted(path)
    lines, damaged = read_all(segment)
    segment.release()
    missing = [line for line in LINES if line not in lines]
    assert lines == [line for line in LINES if line not in missing]
    assert len(missing) <= 4_096 // len(LINES[0]) + 2
    assert damaged == 2  # the rest of the line before the hole, and that of the line after it


@pytest.mark.parametrize("place", [0, 1_000, 5_000])
def test_a_megabyte_of_garbage_costs_what_it_covers(tmp_path: Path, place: int) -> None:
    """Garbage without a newline is skipped up to the next line."""
    path = left_by_a_process(tmp_path)
    data = path.read_bytes()
    end = data.index(b"\n", place) + 1 if place else 0
    path.write_bytes(data[:end] + b"\x07" * limits.MIB + b"\n" + data[end:])
    segment = adopted(path)
    lines, damaged = read_all(segment)
    segment.release()
    assert lines == LINES
    assert damaged == 1


def test_a_huge_file_without_a_newline_takes_little_memory(tmp_path: Path) -> None:
    """300 MB that hold no line: read in pieces, counted as one damaged stretch; the lines around it are read."""
    path = left_by_a_process(tmp_path)
    with path.open("r+b") as file:
        file.seek(0, os.SEEK_END)
        file.write(b"x")
        for _ in range(300):
            file.write(b"x" * limits.MIB)
        file.write(b"\n" + b"".join(path.read_bytes().split(b"\n")[0:1]) + b"\n")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    segment = adopted(path)
    assert segment.pending() == 202
    lines, damaged = read_all(segment)
    segment.release()
    assert lines == [*LINES, LINES[0]]
    assert damaged == 1
    grown_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown_kb * 1024 < 8 * limits.RECORD_BYTES_MAX


@pytest.mark.parametrize(
    "filling", [b"\n", b"\0\n", b"ab\n", b"\0x"], ids=["newlines", "blank", "short lines", "holes"]
)
def test_millions_of_damaged_lines_take_little_memory_and_few_reads(tmp_path: Path, filling: bytes) -> None:
    """4 MB of the shortest lines: the lines around them are read, and each block of the file a few times at most."""
    path = left_by_a_process(tmp_path)
    data = path.read_bytes()
    path.write_bytes(data + filling * (4 * limits.MIB // len(filling)) + b"\n" + data)
    segment = adopted(path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    requested = 0
    pread = os.pread

    def counted(fd: int, count: int, start: int) -> bytes:
        nonlocal requested
        requested += count
        return pread(fd, count, start)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "pread", counted)
        lines, damaged = read_all(segment)
    segment.release()
    assert lines == LINES * 2
    assert damaged > 0
    assert requested < 16 * path.stat().st_size
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < 8 * limits.RECORD_BYTES_MAX


def test_delivered_lines_of_an_adopted_segment_are_not_sent_again(tmp_path: Path) -> None:
    """A process that is killed while it delivers another's segment leaves the rest of it."""
    path = left_by_a_process(tmp_path)
    first = adopted(path)
    chunk = first.read(1_000)
    assert chunk is not None
    delivered = [line for line in read_lines(chunk.data) if line is not None]
    first.sent = chunk.end
    first.discard_sent()
    first.release()
    second = adopted(path)
    lines, damaged = read_all(second)
    second.release()
    assert lines == LINES[len(delivered) :]
    assert damaged == 0


# --- of a running process ---


@pytest.mark.parametrize("cut", [0, 1, 4_000, 4_096, 8_000])
def test_a_segment_that_is_truncated(tmp_path: Path, cut: int) -> None:
    """What was cut off is counted as damaged, exactly; what is left and what comes after is delivered."""
    spool = make(tmp_path)
    for line in LINES[:150]:
        spool.append(line)
    (path,) = folder_of(spool).glob("*.spool")
    os.truncate(path, cut)
    for line in LINES[150:]:
        spool.append(line)
    drained = drain(spool)
    assert drained[-50:] == LINES[150:]
    assert drained[:-50] == LINES[: len(drained) - 50]
    balance = spool.balance()
    assert (balance.recorded, balance.delivered, balance.spooled) == (200, len(drained), 0)
    assert balance.dropped == {"spool_corrupt": 200 - len(drained)}
    spool.close()
    assert spool.balance() == balance


@pytest.mark.parametrize("later", [0, 50])
def test_a_segment_that_is_truncated_at_the_end(tmp_path: Path, later: int) -> None:
    """Cut and closed before anything was read: the sheet says how much is left for the next process."""
    spool = make(tmp_path)
    for line in LINES[: 200 - later]:
        spool.append(line)
    (path,) = folder_of(spool).glob("*.spool")
    os.truncate(path, 5_000)
    for line in LINES[200 - later :]:
        spool.append(line)
    spool.close()
    balance = spool.balance()
    segment = adopted(path)
    lines, _ = read_all(segment)
    segment.release()
    assert lines == LINES[: len(lines) - later] + LINES[200 - later :]
    assert (balance.recorded, balance.spooled) == (200, len(lines))
    assert balance.dropped == {"spool_corrupt": 200 - len(lines)}


@pytest.mark.parametrize("what", ["file", "folder", "root"])
def test_a_segment_that_is_deleted(tmp_path: Path, what: str) -> None:
    """It is made again with all that has no receipt, so that the next process finds it."""
    root = tmp_path / "root"
    spool = make(root)
    for line in LINES[:100]:
        spool.append(line)
    (path,) = folder_of(spool).glob("*.spool")
    if what == "file":
        path.unlink()
    else:
        shutil.rmtree(folder_of(spool) if what == "folder" else root)
    spool.check()
    for line in LINES[100:]:
        spool.append(line)
    spool.close()
    assert spool.balance().spooled == 200
    (segment,) = adoptable(folder_of(spool))
    assert read_all(segment) == (LINES, 0)
    segment.release()


def test_a_folder_that_is_deleted_before_the_end(tmp_path: Path) -> None:
    """Nobody noticed before the spool is closed: it is made again then."""
    spool = make(tmp_path / "root")
    for line in LINES:
        spool.append(line)
    shutil.rmtree(tmp_path / "root")
    spool.close()
    assert spool.balance().spooled == 200
    (segment,) = adoptable(folder_of(spool))
    assert read_all(segment) == (LINES, 0)
    segment.release()


def test_a_folder_that_cannot_be_created_again(tmp_path: Path) -> None:
    """The sheet does not say that records are kept when they are gone."""
    spool = make(tmp_path / "root")
    for line in LINES:
        spool.append(line)
    shutil.rmtree(tmp_path / "root")
    (tmp_path / "root").write_text("a file now")
    spool.close()
    balance = spool.balance()
    assert (balance.recorded, balance.spooled) == (200, 0)
    assert balance.dropped == {"spool_unwritable": 200}


# --- planted by others ---


def test_a_link_in_place_of_refused_is_not_followed(tmp_path: Path) -> None:
    """Neither the folder of refused records nor a file in it is followed when it is a link."""
    spool = make(tmp_path)
    spool.append(LINES[0])
    victim = tmp_path / "victim"
    victim.mkdir()
    refused = folder_of(spool) / folder.REFUSED_DIR
    refused.symlink_to(victim)
    with pytest.raises(OSError, match=r".*"):
        folder.keep_refused(folder_of(spool), b"line\n")
    assert list(victim.iterdir()) == []
    refused.unlink()
    folder.keep_refused(folder_of(spool), b"line\n")
    (name,) = (path.name for path in refused.iterdir())
    (refused / name).unlink()
    target = tmp_path / "target"
    target.write_bytes(b"before")
    for plant in (os.symlink, os.link):
        plant(target, refused / name)
        with pytest.raises(OSError, match=r".*"):
            folder.keep_refused(folder_of(spool), b"line\n")
        (refused / name).unlink()
    assert target.read_bytes() == b"before"
    spool.close()


def test_links_among_the_segments_are_ignored(tmp_path: Path) -> None:
    """A link, a pipe and a folder that are named as segments are neither read nor deleted."""
    spool = make(tmp_path)
    spool.append(LINES[0])
    target = tmp_path / "target.spool"
    target.write_bytes(b"secret\n")
    (folder_of(spool) / "0-link.spool").symlink_to(target)
    os.link(target, folder_of(spool) / "1-second-name.spool")
    os.mkfifo(folder_of(spool) / "2-pipe.spool")
    (folder_of(spool) / "3-folder.spool").mkdir()
    assert list(adoptable(folder_of(spool))) == []
    assert target.read_bytes() == b"secret\n"
    spool.close()


def test_a_link_in_place_of_the_folder_is_not_used(tmp_path: Path) -> None:
    """Somebody who knows the folder's name puts a link there: another name is used."""
    victim = tmp_path / "victim"
    victim.mkdir()
    root = tmp_path / "root"
    root.mkdir()
    first = folder.spool_dirs(root, ENDPOINT, "default")[0]
    first.symlink_to(victim)
    spool = make(root)
    spool.append(LINES[0])
    assert folder_of(spool) == folder.spool_dirs(root, ENDPOINT, "default")[1]
    assert list(victim.iterdir()) == []
    spool.close()
    assert spool.balance().spooled == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of other users")
def test_a_folder_of_another_user_is_not_used(tmp_path: Path) -> None:
    """A folder that another user created under our name, with a segment in it, is not used."""
    first = folder.spool_dirs(tmp_path, ENDPOINT, "default")[0]
    first.mkdir()
    os.chown(first, 12_345, 12_345)
    foreign = first / "00000000000000000000-1-1.spool"
    foreign.write_bytes(b"theirs\n")
    os.chown(foreign, 12_345, 12_345)
    spool = make(tmp_path)
    assert not spool.owns_directory()
    spool.append(LINES[0])
    assert folder_of(spool) == folder.spool_dirs(tmp_path, ENDPOINT, "default")[1]
    assert [path.name for path in first.iterdir()] == [foreign.name]
    spool.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_two_users_share_a_root(tmp_path: Path) -> None:
    """Each has a separate folder, which the other cannot read."""
    os.chmod(tmp_path, 0o1777)
    for above in tmp_path.parents[:3]:
        if above.stat().st_mode & 0o077 == 0:
            os.chmod(above, 0o711)
    spool = make(tmp_path)
    spool.append(LINES[0])
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.setgid(12_345)
            os.setuid(12_345)
            own = make(tmp_path)
            own.append(LINES[1])
            code = 0 if own.balance().spooled == 1 and own.directory != spool.directory and not own.memory else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    folders = sorted(path.name for path in tmp_path.iterdir())
    assert len(folders) == 2
    assert {(tmp_path / name).stat().st_mode & 0o777 for name in folders} == {0o700}
    spool.close()


def test_refused_records_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest day goes first; today's file stops at the bound."""
    monkeypatch.setattr(limits, "REFUSED_BYTES_MAX", 1_000)
    refused = tmp_path / folder.REFUSED_DIR
    refused.mkdir()
    (refused / "2020-01-01.jsonl").write_bytes(b"x" * 600)
    (refused / "2020-01-02.jsonl").write_bytes(b"x" * 300)
    folder.keep_refused(tmp_path, b"y" * 199 + b"\n")
    assert sorted(path.name for path in refused.iterdir())[0] == "2020-01-02.jsonl"
    for _ in range(20):
        folder.keep_refused(tmp_path, b"y" * 199 + b"\n")
    assert sum(path.stat().st_size for path in refused.iterdir()) == 1_000
