"""One file of the spool. Layer 2; the spool appends to its own, the sender and `everycall ship` read and adopt others'.

A line is a record's JSON, a tab, its CRC-32 in eight hex digits and a newline; the lines end at the file's end or at
the first zero byte. One process owns a segment: it holds an exclusive `flock` on it while it lives, and the kernel
lets go when it dies, however it dies. A segment that can be locked has no living owner.

A segment is a mapped file whose blocks are reserved when it is made: appending is a copy into the page cache, which
survives the death of the process as a `write` does and costs a tenth of one. Where blocks cannot be reserved for good
(network and copy-on-write file systems), writing to a mapping could kill the program: there each line is a `write`.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from everycall import limits

__all__ = ["SUFFIX", "Chunk", "Segment", "adopt", "adoptable", "create", "read_lines"]

SUFFIX = ".spool"
_CRC_TAIL = 10  # tab, eight digits, newline
_MAPPABLE = frozenset({"ext2", "ext3", "ext4", "xfs", "tmpfs", "overlay", "f2fs"})
"""File systems that keep reserved blocks reserved, so that a store to a mapping always finds its place."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A stretch of whole lines read from a segment, to be delivered as one batch; `end` is where it ends."""

    data: bytes
    end: int


def read_lines(data: bytes) -> Iterator[bytes | None]:
    """Yield the records' JSON of complete lines; None for a line whose checksum does not match."""
    for line in data.split(b"\n"):
        if line:
            body = line[: 1 - _CRC_TAIL]
            yield body if line[1 - _CRC_TAIL :] == b"\t%08x" % zlib.crc32(body) else None


class Segment:
    """A file written with one `write` a line; also one that was adopted.

    `sent` is how far receipts have come, `received` how many lines have theirs. How far it is written is asked of the
    file: an exception between a write and our note of it (a `KeyboardInterrupt` may be) must not lose sight of a line.
    """

    __slots__ = ("_counted", "_fd", "_lines", "path", "received", "sent", "synced", "write", "write_long")

    write: Callable[[bytes], object]
    """Append one line. Raises `ValueError` when the segment is full, `OSError` when it could not be written whole."""

    write_long: Callable[[bytes], object]
    """The same, for a line of several pages."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self._fd = fd
        self.sent = self.received = self.synced = 0
        self._counted = self._lines = 0
        self.write = self.write_long = self._write

    def _write(self, line: bytes) -> None:
        if self.size + len(line) > limits.SEGMENT_BYTES and self.size:
            raise ValueError("full")
        written = os.write(self._fd, line)
        if written != len(line):
            os.ftruncate(self._fd, self.size - written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    @property
    def size(self) -> int:
        """Bytes of lines so far."""
        return os.fstat(self._fd).st_size

    def _get(self, start: int, end: int) -> bytes:
        """Return bytes of the file, up to the first zero."""
        data = os.pread(self._fd, end - start, start)
        zero = data.find(b"\0")
        return data if zero < 0 else data[:zero]

    def read(self, bytes_max: int) -> Chunk | None:
        """Return whole lines from `sent` on, about `bytes_max` of them (at least one); None when there are none."""
        size, want = self.size, bytes_max
        while True:
            stop = min(self.sent + want, size)
            data = self._get(self.sent, stop) if stop > self.sent else b""
            end = data.rfind(b"\n") + 1
            if end or stop >= size or len(data) < stop - self.sent:
                break
            want *= 4
        if not end:
            return None
        if data.count(b"\n", 0, end) > limits.BATCH_RECORDS_MAX:
            end = 0
            for _ in range(limits.BATCH_RECORDS_MAX):
                end = data.index(b"\n", end) + 1
        return Chunk(data[:end], self.sent + end)

    def lines(self) -> int:
        """Count the whole lines in the file."""
        end = self.size
        while self._counted < end:
            data = self._get(self._counted, min(self._counted + limits.MIB, end))
            if not data:
                break
            self._lines += data.count(b"\n")
            self._counted += len(data)
        return self._lines

    def pending(self) -> int:
        """Count the whole lines that have no receipt yet."""
        return self.lines() - self.received

    def sync(self) -> None:
        """Put what is written on stable storage."""
        size = self.size
        getattr(os, "fdatasync", os.fsync)(self._fd)
        self.synced = size

    def empty(self) -> None:
        """Forget all lines: each has its receipt."""
        os.ftruncate(self._fd, 0)
        self._restart()

    def _restart(self) -> None:
        self.sent = self.received = self.synced = self._counted = self._lines = 0

    def seal(self) -> None:
        """No line will be added any more: give up what only appending needs."""

    def remove(self) -> None:
        """Delete the file; it stays readable until `release`."""
        self.path.unlink(missing_ok=True)

    def release(self) -> None:
        """Let go of the file and its lock."""
        os.close(self._fd)


class MappedSegment(Segment):
    """A file of reserved blocks, mapped: a line is a copy into the page cache. Its size is the mapping's position."""

    __slots__ = ("_end", "_map", "_touched")

    def __init__(self, path: Path, fd: int, mapping: mmap.mmap) -> None:
        super().__init__(path, fd)
        self._map = mapping
        self._end: int | None = None  # set when it is sealed
        self._touched = 0  # how far it was ever written: what is beyond costs a page fault for each page
        self.write = mapping.write
        self.write_long = self._write_long

    def _write_long(self, line: bytes) -> None:
        """Append a line of several pages: by a `write` where each page would fault, by a copy where none does."""
        start = self._map.tell()
        end = start + len(line)
        if end <= self._touched or end > len(self._map):
            self._map.write(line)
            return
        written = os.pwrite(self._fd, line, start)
        if written != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._map.seek(end)

    @property
    def size(self) -> int:
        """Bytes of lines so far."""
        return self._map.tell() if self._end is None else self._end

    def _get(self, start: int, end: int) -> bytes:
        if self._end is None:
            try:
                return self._map[start:end]
            except ValueError:  # sealed by the caller's thread this instant
                pass
        return super()._get(start, end)

    def seal(self) -> None:
        """Unmap it: a full segment waits on disk, not in the memory of the program."""
        if self._end is None:
            self._end = self._map.tell()
            self._map.close()

    def empty(self) -> None:
        """Forget all lines: each has its receipt. They are overwritten, not only forgotten. Not once it is sealed."""
        used = self.size
        self._touched = max(self._touched, used)
        self._map[:used] = bytes(used)
        self._map.seek(0)
        self._restart()

    def release(self) -> None:
        """Let go of the mapping, the file and its lock."""
        self._map.close()
        super().release()


def create(directory: Path, sequence: int, room: int) -> Segment:
    """Make a new segment with room for a line of `room` bytes, locked to this process. Raises `OSError`."""
    path = directory / f"{time.time_ns():020d}-{os.getpid()}-{sequence}{SUFFIX}"
    part = path.with_suffix(".part")  # by this name nobody adopts it before it is locked
    fd = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        part.rename(path)
        if not _can_map(directory):
            fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_APPEND)
            return Segment(path, fd)
        size = max(limits.SEGMENT_BYTES, room)
        os.posix_fallocate(fd, 0, size)
        return MappedSegment(path, fd, mmap.mmap(fd, size))
    except OSError:
        part.unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        os.close(fd)
        raise


def adopt(path: Path) -> Segment | None:
    """Take over a segment whose owner is dead; None while it lives or when the file is gone."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(fd).st_nlink == 0:
            raise OSError("it was removed meanwhile")
    except OSError:
        os.close(fd)
        return None
    return Segment(path, fd)


def adoptable(directory: Path, own: frozenset[Path] = frozenset()) -> Iterator[Segment]:
    """Yield the segments of a folder that have no living owner, oldest first, each now locked to this process."""
    try:
        paths = sorted(p for p in directory.iterdir() if p.name.endswith(SUFFIX) and p not in own)
    except OSError:
        return
    for path in paths:
        segment = adopt(path)
        if segment is not None:
            yield segment


_mappable: dict[Path, bool] = {}


def _can_map(directory: Path) -> bool:
    """Tell whether a directory's file system keeps reserved blocks; looked up once per directory."""
    found = _mappable.get(directory)
    if found is None:
        found = _mappable[directory] = hasattr(os, "posix_fallocate") and _file_system(directory) in _MAPPABLE
    return found


def _file_system(directory: Path) -> str | None:
    """Return the type of the file system that holds a directory, from /proc/self/mountinfo (Linux); else None."""
    try:
        device = directory.stat().st_dev
        wanted = f"{os.major(device)}:{os.minor(device)}"
        with Path("/proc/self/mountinfo").open(encoding="utf-8", errors="replace") as table:
            for line in table:
                before, _, after = line.partition(" - ")
                if before.split(" ", 3)[2] == wanted:
                    return after.split(" ", 1)[0]
    except (OSError, IndexError):
        return None
    return None
