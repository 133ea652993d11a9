"""One file of the spool. A spool appends to its own; the sender and `everycall ship` adopt those of ended processes.

A line is a record's JSON, a tab, the JSON's CRC-32 in eight hex digits, and a newline. Zero bytes between lines are
skipped: they are delivered lines that were overwritten, or holes where another process cut the file.

A process holds an exclusive `flock` on its segments. The kernel releases it when the process ends for any reason, so a
segment that can be locked has no owner.

Each line is one `write`, which costs the caller about a microsecond more than copying it into a mapped file would (a
plain call takes seven). But a mapped file kills the program (SIGBUS) if another process shortens it, and no check
helps: the file can be cut between the check and the copy.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from everycall import limits
from everycall._delivery.folder import SUFFIX, create_file, open_file, opened

with contextlib.suppress(ImportError):  # without it, `folder.is_supported` is false and there are no segments
    import fcntl

__all__ = ["Chunk", "Segment", "adopt", "adoptable", "create", "read_lines", "segment_paths"]

_CRC_TAIL = 10  # tab, eight digits, newline
_LINE_BYTES_MAX = 2 * limits.RECORD_BYTES_MAX
_BLOCK = limits.MIB
_READ_BYTES_MIN = 16_384
_PARTS = re.compile(rb"[^\0]+")


@dataclass(frozen=True, slots=True)
class Chunk:
    """Whole lines read from a segment, to be delivered as one batch. `end` is their end in the file, in bytes.

    `count` is how many lines `data` has, damaged ones included; `skipped` counts stretches of the file that hold no
    line and are not in `data`.
    """

    data: bytes
    end: int
    count: int = 0
    skipped: int = 0


def read_lines(data: bytes) -> Iterator[bytes | None]:
    """Return the JSON of each complete line, and None for each damaged line or damaged part of one."""
    return map(_record_of, data.split(b"\n")[:-1]) if b"\0" not in data else _read_with_holes(data)


def _read_with_holes(data: bytes) -> Iterator[bytes | None]:
    for line in data.split(b"\n")[:-1]:
        if b"\0" not in line:
            yield _record_of(line)
        else:
            is_blank = True
            for part in _PARTS.finditer(line):  # one by one: there may be millions
                is_blank = False
                yield _record_of(part[0])
            if is_blank:
                yield None


def _record_of(line: bytes) -> bytes | None:
    body = line[: 1 - _CRC_TAIL]
    return body if line[1 - _CRC_TAIL :] == b"\t%08x" % zlib.crc32(body) else None


class Segment:
    """An open, locked file of the spool.

    `sent` is the position up to which lines have a receipt, `received` the number of these lines. The end of the lines
    is the file's position, which the kernel moves with each write, so that a `KeyboardInterrupt` right after a write
    cannot lose a line. `written` counts appended lines, in case another process damages the file.
    """

    __slots__ = (
        "_adopted_size", "_counted_to", "_lines", "_read_bytes", "fd", "is_damaged", "path", "received", "sent",
        "synced", "written",
    )  # fmt: skip

    def __init__(self, path: Path, fd: int, adopted_size: int | None = None) -> None:
        self.path = path
        self.fd = fd
        self._adopted_size = adopted_size
        self.is_damaged = False
        """Whether another process has cut or overwritten it. Only noted for a process's own segments."""
        self.sent = self.received = self.synced = self.written = 0
        self._counted_to = self._lines = 0
        self._read_bytes = limits.BATCH_BYTES_MAX  # less where lines are short: a chunk has a bounded number of them

    @property
    def _is_own(self) -> bool:
        return self._adopted_size is None

    # --- writing ---

    def append(self, line: bytes) -> None:
        """Append one line. Raise `OSError` if it could not be written whole; no part of it is left then."""
        count = os.write(self.fd, line)
        if count != len(line):
            self.take_back(count)
        self.written += 1

    def take_back(self, count: int) -> None:
        """Cut off the last `count` bytes, the part of a line that fitted on the disk. Always raises `OSError`."""
        os.ftruncate(self.fd, os.lseek(self.fd, -count, os.SEEK_CUR))
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    @property
    def size(self) -> int:
        """The end of the lines, in bytes."""
        if self._adopted_size is not None:
            return self._adopted_size
        return os.lseek(self.fd, 0, os.SEEK_CUR)

    def sync(self) -> None:
        """Flush the written lines to stable storage."""
        size = self.size
        getattr(os, "fdatasync", os.fsync)(self.fd)
        self.synced = size

    def discard_sent(self, start: int = 0) -> None:
        """Overwrite the lines from `start` that have a receipt, so that the file's next owner does not send them."""
        for position in range(start, self.sent, _BLOCK):
            os.pwrite(self.fd, bytes(min(_BLOCK, self.sent - position)), position)

    def empty(self) -> None:
        """Overwrite all lines, each of which has a receipt, and begin again at the file's start."""
        self.discard_sent()
        os.lseek(self.fd, 0, os.SEEK_SET)
        self.sent = self.received = self.synced = self.written = 0
        self._counted_to = self._lines = 0

    # --- reading ---

    def read(self, bytes_max: int) -> Chunk | None:
        """Return whole lines from `sent` on, about `bytes_max` of them (at least one); None if there are none.

        Holds at most `2 * limits.RECORD_BYTES_MAX` bytes, whatever is in the file.
        """
        size = written_to = self.size
        start, wanted = self.sent, min(bytes_max, self._read_bytes)
        self._read_bytes = limits.BATCH_BYTES_MAX
        while start < size:
            requested = min(wanted, size - start)
            data = os.pread(self.fd, requested, start)
            if len(data) < requested:  # somebody cut the file
                size = start + len(data)
                self.is_damaged |= self._is_own
            end = data.rfind(b"\n") + 1
            if not data.strip(b"\0\n"):
                start += len(data)
                self.is_damaged |= self._is_own
                if end:
                    return Chunk(b"", start, skipped=1)
            elif end:
                return self._chunk(data, start, end)
            elif start + len(data) >= size:
                break  # a torn last line: the call that wrote it never returned
            elif wanted < _LINE_BYTES_MAX:
                wanted *= 4
            else:
                self.is_damaged |= self._is_own
                return Chunk(b"", self._after_next_newline(start + len(data), size), skipped=1)
        if self._is_own and self.sent < written_to:
            self.is_damaged = True
            return Chunk(b"", written_to)
        return None

    def _chunk(self, data: bytes, start: int, end: int) -> Chunk:
        count = data.count(b"\n", 0, end)
        if count > limits.BATCH_RECORDS_MAX:
            end, count = 0, limits.BATCH_RECORDS_MAX
            for _ in range(limits.BATCH_RECORDS_MAX):
                end = data.index(b"\n", end) + 1
            self._read_bytes = max(4 * end, _READ_BYTES_MIN)
        data = data[:end]
        if self._is_own and b"\0" in data:
            self.is_damaged = True
        return Chunk(data, start + end, count)

    def _after_next_newline(self, start: int, size: int) -> int:
        while start < size:
            data = os.pread(self.fd, min(_BLOCK, size - start), start)
            end = data.find(b"\n") + 1
            if end or not data:
                return start + end if end else size
            start += len(data)
        return size

    def lines(self) -> int:
        """Return how many lines were written."""
        if not self.is_damaged:
            size = self.size
            self._lines += self.count_lines(self._counted_to, size)
            self._counted_to = size
        return self.written if self.is_damaged else self._lines

    def count_lines(self, start: int, end: int) -> int:
        """Return how many lines end between two positions; note whether a process's own file has holes there."""
        count = 0
        while start < end:
            data = os.pread(self.fd, min(_BLOCK, end - start), start)
            if not data:
                break
            count += data.count(b"\n")
            start += len(data)
            self.is_damaged |= self._is_own and b"\0" in data
        return count

    def pending(self) -> int:
        """Return how many lines have no receipt yet."""
        return self.lines() - self.received

    # --- the file ---

    def is_deleted(self) -> bool:
        """Return whether the file was deleted. Also note whether another process has cut it."""
        status = os.fstat(self.fd)
        if self._is_own and status.st_size < self.size:
            self.is_damaged = True
        return status.st_nlink == 0

    def move_to(self, new: Segment) -> None:
        """Move the lines without a receipt to the file of `new`, an empty segment, which is released."""
        size = self.size
        try:
            for position in range(self.sent, size, _BLOCK):
                os.pwrite(new.fd, os.pread(self.fd, min(_BLOCK, size - position), position), position)
            os.lseek(new.fd, size, os.SEEK_SET)
            os.dup2(new.fd, self.fd, inheritable=False)
        except OSError:
            new.remove()
            raise
        finally:
            new.release()
        self.path = new.path

    def trim(self) -> None:
        """Cut the file after its last line. Only for a process's own segment."""
        os.ftruncate(self.fd, self.size)

    def remove(self) -> None:
        """Delete the file; it stays readable until `release`."""
        with contextlib.suppress(OSError), opened(self.path.parent) as folder:
            os.unlink(self.path.name, dir_fd=folder)

    def release(self) -> None:
        """Close the file, which drops its lock. May be called again."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


def create(directory: Path, sequence: int) -> Segment:
    """Create a segment, locked to this process. Raise `OSError` if that fails."""
    name = f"{time.time_ns():020d}-{os.getpid()}-{sequence}{SUFFIX}"
    part = f"{name}.part"  # no process adopts a file with this name, so it can be locked first
    with opened(directory) as folder:
        fd = create_file(folder, part)
        try:
            _lock(fd)
            os.rename(part, name, src_dir_fd=folder, dst_dir_fd=folder)
        except OSError:
            os.close(fd)
            os.unlink(part, dir_fd=folder)
            raise
    return Segment(directory / name, fd)


def adopt(path: Path) -> Segment | None:
    """Take over a segment whose owner has ended. Return None if it still runs, or if the file is gone or not ours."""
    try:
        with opened(path.parent) as folder:
            fd = open_file(folder, path.name, os.O_RDWR)
    except OSError:
        return None
    try:
        _lock(fd)
        status = os.fstat(fd)
        if status.st_nlink == 0:
            raise FileNotFoundError(errno.ENOENT, "another process has delivered it")
    except OSError:
        os.close(fd)
        return None
    return Segment(path, fd, status.st_size)


def segment_paths(directory: Path, own: frozenset[Path] = frozenset()) -> list[Path]:
    """Return the paths of a folder's segments except `own`, oldest first; an empty list if it cannot be read."""
    try:
        return sorted(path for path in directory.iterdir() if path.name.endswith(SUFFIX) and path not in own)
    except OSError:
        return []


def adoptable(directory: Path, own: frozenset[Path] = frozenset()) -> Iterator[Segment]:
    """Yield the segments of a folder without a running owner, oldest first, each locked by this process."""
    for path in segment_paths(directory, own):
        segment = adopt(path)
        if segment is not None:
            yield segment


def _lock(fd: int) -> None:
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
