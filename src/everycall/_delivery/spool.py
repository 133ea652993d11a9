"""The spool: append-only files between the traced program and the endpoint. Layer 2; calls append, the sender reads.

`append` returns when the line is in the page cache: it survives the death of the process. Power loss is survived from
the moment the sender has synced it (`sync`, at most every `limits.SYNC_INTERVAL_S`, never on the caller's thread).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import socket
import time
import zlib
from collections import deque
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from everycall import _guard, limits
from everycall._delivery.segment import Chunk, Segment, create
from everycall._ledger import Balance, Ledger
from everycall.errors import Loss

__all__ = ["Spool", "spool_dir", "target_of"]

TARGET_FILE = "target.json"
REFUSED_DIR = "refused"
_crc32 = zlib.crc32
_PAGE = 4_096


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


def _no_segment(_: bytes) -> None:
    raise ValueError("no segment yet")


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
        self._gone: list[Segment] = []
        self._spare: Segment | None = None
        self._write: Callable[[bytes], object] = _no_segment
        self._write_long: Callable[[bytes], object] = _no_segment
        self._sequence = 0
        self._turning = False
        self._retry_at = 0.0

    # --- the caller's side ---

    def append(self, line: bytes) -> None:
        """Take one record's JSON. When this returns, it survives the death of the process (or is counted as lost)."""
        data = b"%b\t%08x\n" % (line, _crc32(line))
        with self._lock:
            try:
                if len(data) < _PAGE:
                    self._write(data)
                else:
                    self._write_long(data)
            except (ValueError, OSError) as error:
                self._append_elsewhere(data, error)

    def _append_elsewhere(self, data: bytes, error: Exception) -> None:
        """Append to a fresh segment, or failing that hold the line in memory. Called under the lock."""
        if isinstance(error, OSError):
            self._unwritable(error)
        elif self._turn(len(data)):
            try:
                self._write(data)
                return
            except (ValueError, OSError) as again:
                if isinstance(again, OSError):
                    self._unwritable(again)
        self._hold(data)

    def _turn(self, room: int) -> bool:
        """Begin the next segment. Called under the lock; a call made by a finalizer meanwhile is held in memory."""
        if self._turning or time.monotonic() < self._retry_at:
            return False
        self._turning = True
        try:
            if self.current is None:
                self._prepare()
            fresh = self._spare if self._spare is not None and room <= limits.SEGMENT_BYTES else None
            if fresh is not None:
                self._spare = None
            else:
                self._sequence += 1
                fresh = create(self.directory, self._sequence, room)
        except OSError as error:
            self._unwritable(error)
            return False
        finally:
            self._turning = False
        if self.current is not None:
            self.full.append(self.current)
            self.current.seal()
        self._make_current(fresh)
        self._keep_within_bound()
        return True

    def _make_current(self, segment: Segment | None) -> None:
        self.current = segment
        self._write = segment.write if segment is not None else _no_segment
        self._write_long = segment.write_long if segment is not None else _no_segment

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
            if segment.sent < segment.size:
                return True
            self._emptied += segment.lines()
            if segment is not self.current:
                self.full.remove(segment)
                segment.remove()
                segment.release()
                return True
            spare, self._spare = self._spare, None
            self._make_current(spare)
        self._recycle(segment)
        return True

    def _recycle(self, segment: Segment) -> None:
        """Keep one emptied segment for reuse; emptied outside the lock, for that takes its time."""
        segment.empty()
        with self._lock:
            if self.current is None:
                self._make_current(segment)
            elif self._spare is None:
                self._spare = segment
            else:
                segment.remove()
                segment.release()

    def sync(self) -> None:
        """Put what has no receipt yet on stable storage. Only the sender's thread calls this."""
        with self._lock:
            dirty = [s for s in self._segments() if s.synced != s.size]
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
            return frozenset(s.path for s in (*self._segments(), self._spare) if s is not None)

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
            if self._spare is not None:
                self._spare.remove()
                self._spare.release()
                self._spare = None
            self.full.clear()
            self._make_current(None)
            self.ledger.drop(Loss.SPOOL_UNWRITABLE, len(self.memory))
            self.memory.clear()
            self._memory_bytes = 0

    def abandon_in_child(self) -> None:
        """After a fork, in the child: let go of the parent's files without touching what is in them.

        Takes no lock: the thread that held it may not exist here.
        """
        for segment in (*self.full, *self._gone, self.current, self._spare):
            if segment is not None:
                segment.release()
        self._make_current(None)
