"""The spool: append-only files between the traced program and the endpoint. Layer 2; calls append, the sender reads.

A line is a record's JSON, a tab, its CRC-32 in eight hex digits and a newline. One appending `write` puts it into the
page cache before the traced call returns: it survives the death of the process. Power loss is survived from the moment
the sender has synced it (`sync`, at most every `limits.SYNC_INTERVAL_S`, never on the caller's thread).

One process owns a segment: it holds an exclusive `flock` on it while it lives, and the kernel lets go when it dies,
however it dies. A segment that can be locked has no living owner: anybody who ships to the same endpoint may adopt it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import socket
import time
import zlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from everycall import _guard, limits
from everycall._ledger import Balance, Ledger
from everycall.errors import Loss

__all__ = ["Chunk", "Segment", "Spool", "adoptable", "read_lines", "spool_dir", "target_of"]

SUFFIX = ".spool"
TARGET_FILE = "target.json"
REFUSED_DIR = "refused"
_write, _crc32 = os.write, zlib.crc32
_CRC_TAIL = 10  # tab, eight digits, newline


def spool_dir(root: Path, endpoint: str, project: str) -> Path:
    """Return the folder of one destination: records for one endpoint and project never travel to another."""
    parts = urlsplit(endpoint)
    readable = re.sub(r"[^A-Za-z0-9.]+", "-", f"{parts.netloc}-{project}")[:80]
    digest = hashlib.sha256(f"{endpoint}\0{project}".encode()).hexdigest()[:12]
    return root / f"{readable}-{digest}"


def target_of(directory: Path) -> tuple[str, str] | None:
    """Return the (endpoint, project) of a spool folder, or None when its target file is missing or broken."""
    try:
        target = json.loads((directory / TARGET_FILE).read_text(encoding="utf-8"))
        return str(target["endpoint"]), str(target["project_name"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def read_lines(data: bytes) -> Iterator[bytes | None]:
    """Yield the records' JSON of complete lines; None for a line whose checksum does not match."""
    for line in data.split(b"\n"):
        if not line:
            continue
        body, tab, digits = line[: 1 - _CRC_TAIL], line[1 - _CRC_TAIL : 2 - _CRC_TAIL], line[2 - _CRC_TAIL :]
        try:
            good = tab == b"\t" and zlib.crc32(body) == int(digits, 16)
        except ValueError:
            good = False
        yield body if good else None


@dataclass(frozen=True, slots=True)
class Chunk:
    """A stretch of whole lines read from a segment, to be delivered as one batch."""

    data: bytes
    end: int


class Segment:
    """One file of the spool. `sent` is how far receipts have come.

    How far it is written is always asked of the file: an exception that strikes between a write and our note of it
    (a `KeyboardInterrupt` may) must not lose sight of a line.
    """

    __slots__ = ("_counted", "_fd", "_lines", "dirty", "path", "received", "sent")

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self._fd = fd
        self.sent = 0
        self.received = 0  # lines that have their receipt, or their loss
        self.dirty = True
        self._counted = 0
        self._lines = 0

    @classmethod
    def create(cls, directory: Path, sequence: int) -> Segment:
        """Make a new file, locked to this process. Raises `OSError`."""
        path = directory / f"{time.time_ns():020d}-{os.getpid()}-{sequence}{SUFFIX}"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            raise
        return cls(path, fd)

    @classmethod
    def adopt(cls, path: Path) -> Segment | None:
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
        return cls(path, fd)

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return os.fstat(self._fd).st_size

    def append(self, line: bytes) -> int:
        """Write one line; returns its length. Raises `OSError` when it was not written whole (and takes it back)."""
        written = _write(self._fd, line)
        self.dirty = True
        if written != len(line):
            os.ftruncate(self._fd, self.size - written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return written

    def read(self, bytes_max: int) -> Chunk | None:
        """Return whole lines from `sent` on, about `bytes_max` of them (at least one); None when there are none."""
        left = self.size - self.sent
        want, data, end = bytes_max, b"", 0
        while left > 0 and not end:
            data = os.pread(self._fd, min(want, left), self.sent)
            end = data.rfind(b"\n") + 1
            if len(data) >= left or not data:
                break
            want *= 4
        if not end:
            return None
        lines = data[:end]
        if lines.count(b"\n") > limits.BATCH_RECORDS_MAX:
            end = 0
            for _ in range(limits.BATCH_RECORDS_MAX):
                end = lines.index(b"\n", end) + 1
            lines = lines[:end]
        return Chunk(lines, self.sent + end)

    def lines(self) -> int:
        """Count the whole lines in the file."""
        end = self.size
        while self._counted < end:
            data = os.pread(self._fd, min(limits.MIB, end - self._counted), self._counted)
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
        self.dirty = False
        _sync(self._fd)

    def empty(self) -> None:
        """Forget all lines: each has its receipt."""
        os.ftruncate(self._fd, 0)
        self.sent = self.received = self._counted = self._lines = 0
        self.dirty = False

    def remove(self) -> None:
        """Delete the file; it stays readable until `release`."""
        self.path.unlink(missing_ok=True)

    def release(self) -> None:
        """Let go of the file and its lock."""
        os.close(self._fd)


class Spool:
    """The spool of one process for one destination: a current segment, full ones, and a memory of last resort.

    `append` never raises for want of disk: while the folder cannot be written, up to `limits.MEMORY_BYTES_MAX` of lines
    are held in memory for the sender; beyond that, and at exit, they are counted as `Loss.SPOOL_UNWRITABLE`.
    """

    def __init__(
        self, root: Path, endpoint: str, project: str, ledger: Ledger, bytes_max: int = limits.SPOOL_BYTES_MAX
    ) -> None:
        self.directory = spool_dir(root, endpoint, project)
        self.endpoint = endpoint
        self.project = project
        self.ledger = ledger
        self._lock = ledger.lock
        self.bytes_max = bytes_max
        self.client = f"{socket.gethostname()}:{os.getpid()}:{time.time_ns() // 1_000_000}"
        self.current: Segment | None = None
        self.full: deque[Segment] = deque()
        self.memory: deque[bytes] = deque()
        self._memory_bytes = 0
        self._held = 0  # lines that ever were in memory
        self._emptied = 0  # lines of segments that are emptied or gone
        self._written = 0  # bytes of the current segment, about
        self._gone: list[Segment] = []
        self._sequence = 0
        self._turning = False
        self._retry_at = 0.0

    # --- the caller's side ---

    def append(self, line: bytes) -> None:
        """Take one record's JSON. When this returns, it survives the death of the process (or is counted as lost)."""
        data = b"%b\t%08x\n" % (line, _crc32(line))
        with self._lock:
            segment = self.current
            if segment is None or self._written >= limits.SEGMENT_BYTES:
                segment = self._turn()
            if segment is not None:
                try:
                    self._written += segment.append(data)
                    return
                except OSError as error:
                    self._unwritable(error)
            self._hold(data)

    def _turn(self) -> Segment | None:
        """Begin the next segment. Called under the lock; a call made by a finalizer meanwhile uses the old one."""
        if self._turning or time.monotonic() < self._retry_at:
            return self.current
        self._turning = True
        try:
            if self.current is None:
                self._prepare()
            self._sequence += 1
            fresh = Segment.create(self.directory, self._sequence)
        except OSError as error:
            self._unwritable(error)
            return self.current
        finally:
            self._turning = False
        if self.current is not None:
            self.full.append(self.current)
        self.current = fresh
        self._written = 0
        self._keep_within_bound()
        return fresh

    def _prepare(self) -> None:
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        target = self.directory / TARGET_FILE
        if not target.exists():
            part = target.with_suffix(f".{os.getpid()}.part")
            part.write_text(json.dumps({"endpoint": self.endpoint, "project_name": self.project}), encoding="utf-8")
            part.chmod(0o600)
            part.replace(target)

    def _unwritable(self, error: OSError) -> None:
        self._retry_at = time.monotonic() + 1.0
        _guard.warn_once(
            "spool",
            "everycall cannot write its spool in %s (%s); records are held in memory and sent from there",
            self.directory,
            error.strerror or type(error).__name__,
        )

    def _hold(self, data: bytes) -> None:
        if self._memory_bytes + len(data) > limits.MEMORY_BYTES_MAX:
            self.ledger.drop(Loss.SPOOL_UNWRITABLE, was_spooled=False)
            return
        self.memory.append(data)
        self._held += 1
        self._memory_bytes += len(data)

    def _keep_within_bound(self) -> None:
        while self.full and (len(self.full) + 1) * limits.SEGMENT_BYTES > self.bytes_max:
            oldest = self.full.popleft()
            lost = oldest.pending()
            self._emptied += oldest.lines()
            oldest.remove()
            self._gone.append(oldest)  # the sender may be reading it: it closes it
            self.ledger.drop(Loss.SPOOL_FULL, lost)
            _guard.warn_once(
                "spool_full", "everycall's spool reached %d bytes: its oldest %d records are gone", self.bytes_max, lost
            )

    # --- the sender's side ---

    def next_chunk(self) -> tuple[Segment | None, Chunk] | None:
        """Return the oldest lines without a receipt, and where they are (None: the memory). None when all have one.

        Only the sender's thread calls this and `acknowledge`; it reads outside the lock, so callers never wait for it.
        """
        with self._lock:
            segments = self._segments()
            gone, self._gone = self._gone, []
            held = list(self.memory)
        for segment in gone:
            segment.release()
        for segment in segments:
            chunk = segment.read(limits.BATCH_BYTES_MAX)
            if chunk is not None:
                return segment, chunk
        if not held:
            return None
        size, count = 0, 0
        for line in held[: limits.BATCH_RECORDS_MAX]:
            if count and size + len(line) > limits.BATCH_BYTES_MAX:
                break
            count, size = count + 1, size + len(line)
        return None, Chunk(b"".join(held[:count]), count)

    def acknowledge(self, segment: Segment | None, chunk: Chunk, delivered: int, dropped: dict[Loss, int]) -> bool:
        """Take note that a chunk's lines have their receipt or their loss, in one step for the balance sheet.

        Returns False when the segment was dropped meanwhile (its lines are counted as lost already).
        """
        with self._lock:
            if segment is not None and segment not in self._segments():
                return False
            self.ledger.deliver(delivered)
            for loss, count in dropped.items():
                self.ledger.drop(loss, count)
            if segment is None:
                for _ in range(min(chunk.end, len(self.memory))):
                    self._memory_bytes -= len(self.memory.popleft())
                return True
            segment.sent = chunk.end
            segment.received += chunk.data.count(b"\n")
            if segment.sent >= segment.size:
                self._emptied += segment.lines()
                if segment is self.current:
                    segment.empty()
                    self._written = 0
                else:
                    self.full.remove(segment)
                    segment.remove()
                    segment.release()
            return True

    def sync(self) -> None:
        """Put what has no receipt yet on stable storage. Only the sender's thread calls this."""
        with self._lock:
            dirty = [s for s in self._segments() if s.dirty]
        for segment in dirty:
            with contextlib.suppress(OSError):
                segment.sync()

    def _segments(self) -> list[Segment]:
        return [*self.full, self.current] if self.current is not None else list(self.full)

    def balance(self) -> Balance:
        """Return the balance sheet, exact now: `recorded` and `spooled` are counted from the files and the memory."""
        with self._lock:
            segments = self._segments()
            return Balance(
                recorded=self._emptied + sum(s.lines() for s in segments) + self._held + self.ledger.unspooled,
                delivered=self.ledger.delivered,
                spooled=sum(s.pending() for s in segments) + len(self.memory),
                dropped=dict(self.ledger.dropped),
                adopted=self.ledger.adopted,
            )

    def has_pending(self) -> bool:
        """Tell cheaply whether anything waits for a receipt."""
        with self._lock:
            return bool(self.memory) or any(s.sent < s.size for s in self._segments())

    def own_paths(self) -> frozenset[Path]:
        """Return the files of this process, which it must not adopt."""
        with self._lock:
            return frozenset(s.path for s in self._segments())

    def close(self) -> None:
        """Let go: what has its receipt is deleted, the rest stays for the next process. Memory that is left is lost."""
        with self._lock:
            for segment in self._segments():
                self._emptied += segment.lines()
                if segment.sent >= segment.size:
                    segment.remove()
                else:
                    with contextlib.suppress(OSError):
                        segment.sync()
                segment.release()
            self.full.clear()
            self.current = None
            self.ledger.drop(Loss.SPOOL_UNWRITABLE, len(self.memory))
            self.memory.clear()
            self._memory_bytes = 0

    def abandon_in_child(self) -> None:
        """After a fork, in the child: let go of the parent's files without touching what is in them.

        Takes no lock: the thread that held it may not exist here.
        """
        for segment in (*self.full, *self._gone, self.current):
            if segment is not None:
                segment.release()
        self.current = None


def _sync(fd: int) -> None:
    getattr(os, "fdatasync", os.fsync)(fd)


def adoptable(directory: Path, own: frozenset[Path] = frozenset()) -> Iterator[Segment]:
    """Yield the segments of a folder that have no living owner, oldest first, each now locked to this process."""
    try:
        paths = sorted(p for p in directory.iterdir() if p.name.endswith(SUFFIX) and p not in own)
    except OSError:
        return
    for path in paths:
        segment = Segment.adopt(path)
        if segment is not None:
            yield segment
