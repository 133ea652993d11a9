"""The spool: append-only files between the traced program and the endpoint. Calls append, the sender reads.

`append` returns when the line is in the page cache, where it survives the end of the process. It survives a power
failure once the sender has synced it (at most `limits.SYNC_INTERVAL_S` later, never on the caller's thread).
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable
from pathlib import Path

from everycall import _guard, limits
from everycall._delivery import folder
from everycall._delivery.memory import Memory
from everycall._delivery.segment import Chunk, Segment, create
from everycall._ledger import Balance, Ledger
from everycall.errors import Loss

__all__ = ["Spool", "client_name"]

_crc32, _write = zlib.crc32, os.write


def client_name() -> str:
    """Return this process's name for the endpoint: `host:pid:start in milliseconds`."""
    host = socket.gethostname().encode("ascii", "replace").decode("ascii")
    return f"{host}:{os.getpid()}:{time.time_ns() // 1_000_000}"


class Spool:
    """The spool of one process for one destination: a current segment, full ones, and the memory.

    While the folder cannot be written, up to `limits.MEMORY_BYTES_MAX` of lines are held in memory for the sender.
    Beyond that, and when the spool is closed, they are counted as `Loss.SPOOL_UNWRITABLE`. `root` is None if there can
    be no files at all.
    """

    def __init__(
        self, root: Path | None, endpoint: str, project: str, ledger: Ledger, bytes_max: int = limits.SPOOL_BYTES_MAX
    ) -> None:
        self.root = root
        self._directories = folder.spool_dirs(root, endpoint, project) if root is not None else []
        self.directory = self._directories[0] if self._directories else None
        """The folder of its segments, or None if all lines are held in memory."""
        self.endpoint = endpoint
        self.project = project
        self.ledger = ledger
        self.bytes_max = bytes_max
        self.client = client_name()
        self.current: Segment | None = None
        self.full: deque[Segment] = deque()
        self.memory = Memory()
        self.is_closed = False
        self.wake: Callable[[], None] | None = None
        """Called after an append. The sender sets it while it sleeps."""
        self.redirect: Callable[[bytes], object] = self._drop_late
        self._lock = ledger.lock
        self._left = -1  # bytes until the current segment is full
        self._finished_lines = 0  # lines of segments that are emptied or gone
        self._dropped: list[Segment] = []
        self._spare: Segment | None = None
        self._sequence = 0
        self._is_rotating = self._has_prepared = False
        self._retry_at = 0.0
        self.kept = 0
        """Once it is closed: the number of records left in files, for the next process."""

    # --- the caller's side ---

    def append(self, line: bytes) -> None:
        """Add one record's JSON. When this returns, it survives the end of the process, or is counted as lost.

        The line of a call that ends after the spool was closed is passed to `redirect`.
        """
        data = line + b"\t%08x\n" % _crc32(line)
        size = len(data)
        is_late = False
        with self._lock:
            segment = self.current
            self._left -= size
            if self._left >= 0 and segment is not None:
                segment.written += 1
                try:
                    count = _write(segment.fd, data)
                    if count != size:
                        segment.take_back(count)
                except OSError as error:
                    segment.written -= 1
                    self._left += size
                    self._warn_unwritable(error)
                    self._keep_in_memory(data)
            elif self.is_closed:
                is_late = True
            else:
                self._append_to_next(data)
        if is_late:
            self.redirect(line)
        elif self.wake is not None:
            self.wake()

    def _drop_late(self, line: bytes) -> None:  # noqa: ARG002 - nobody takes it
        self.ledger.drop(Loss.SPOOL_UNWRITABLE, was_spooled=False)

    def _append_to_next(self, data: bytes) -> None:
        """Append to a new segment, or keep the line in memory if there can be none. Called under the lock."""
        if self._rotate(len(data)) and self.current is not None:
            try:
                self.current.append(data)
            except OSError as error:
                self._warn_unwritable(error)
            else:
                self._left -= len(data)
                return
        self._keep_in_memory(data)

    def _rotate(self, size: int) -> bool:
        """Start the next segment, for at least `size` bytes. Called under the lock.

        Return False if that fails, or if a finalizer calls it while it runs.
        """
        if self._is_rotating or time.monotonic() < self._retry_at:
            return False
        self._is_rotating = True
        try:
            if self._spare is not None:
                segment, self._spare = self._spare, None
            else:
                segment = self._create()
        except OSError as error:
            self._warn_unwritable(error)
            return False
        finally:
            self._is_rotating = False
        if self.current is not None:
            self.full.append(self.current)
        self._make_current(segment, size)
        self._keep_within_bound()
        return True

    def _make_current(self, segment: Segment | None, size: int = 0) -> None:
        self.current = segment
        self._left = max(limits.SEGMENT_BYTES, size) if segment is not None else -1

    def _create(self) -> Segment:
        """Create a segment in the first folder that can be used. Raise `OSError` if none can."""
        failure: OSError | None = None
        for directory in self._directories:
            self._sequence += 1
            try:
                folder.prepare(directory, self.endpoint, self.project)
                segment = create(directory, self._sequence)
            except OSError as error:
                failure = failure or error
                continue
            self.directory = directory
            self._has_prepared = True
            return segment
        raise failure or OSError("there is no directory for it")

    def _warn_unwritable(self, error: OSError) -> None:
        self._retry_at = time.monotonic() + 1.0
        _guard.warn_once(
            "spool",
            "everycall cannot write its spool in %s (%s); records are held in memory and sent from there",
            self.directory,
            error.strerror or type(error).__name__,
        )

    def _keep_in_memory(self, data: bytes) -> None:
        if not self.memory.append(data):
            self.ledger.drop(Loss.SPOOL_UNWRITABLE, was_spooled=False)

    def _keep_within_bound(self) -> None:
        while self.full and (len(self.full) + 1) * limits.SEGMENT_BYTES > self.bytes_max:
            oldest = self.full.popleft()
            lost = oldest.pending()
            self._finished_lines += oldest.lines()
            oldest.remove()
            self._dropped.append(oldest)  # the sender may be reading it, so the sender closes it
            self.ledger.drop(Loss.SPOOL_FULL, lost)
            _guard.warn_once(
                "spool_full",
                "everycall's spool reached %d bytes: its oldest %d records are lost",
                self.bytes_max,
                lost,
            )

    # --- the sender's side ---

    def next_chunk(self) -> tuple[Segment | None, Chunk] | None:
        """Return the oldest lines without a receipt, and their segment (None for the memory). None if all have one.

        Only the sender's thread calls this and `acknowledge`. It reads outside the lock, so that calls do not wait.
        """
        with self._lock:
            segments = self._segments()
            dropped, self._dropped = self._dropped, []
            in_memory = self.memory.chunk()
        for segment in dropped:
            segment.release()
        for segment in segments:
            chunk = segment.read(limits.BATCH_BYTES_MAX)
            if chunk is not None:
                return segment, chunk
        return (None, in_memory) if in_memory is not None else None

    def acknowledge(self, segment: Segment | None, chunk: Chunk, delivered: int, dropped: dict[Loss, int]) -> bool:
        """Note that a chunk's lines have their receipt or are lost, in one step for the balance sheet.

        Return False if the segment was dropped meanwhile: its lines are counted as lost already.
        """
        with self._lock:
            if segment is not None and segment not in self._segments():
                return False
            self.ledger.deliver(delivered)
            if segment is None:
                self._count_losses(dropped)
                self.memory.discard(chunk.end)
                return True
            self._note_receipts(segment, chunk, delivered, dropped)
            if segment.sent < segment.size:
                return True
            self._finished_lines += segment.lines()
            is_reusable = self._spare is None and not segment.is_damaged
            if segment is self.current:
                spare, self._spare = self._spare, None
                self._make_current(spare)
            else:
                self.full.remove(segment)
        if is_reusable and not segment.is_deleted():
            self._recycle(segment)
        else:
            segment.remove()
            segment.release()
        return True

    def _note_receipts(self, segment: Segment, chunk: Chunk, delivered: int, losses: dict[Loss, int]) -> None:
        segment.sent = chunk.end
        if not segment.is_damaged:
            segment.received += chunk.count
        else:  # what was cut out of the file cannot be counted there: it is missing at the end
            losses = {loss: count for loss, count in losses.items() if loss is not Loss.SPOOL_CORRUPT}
            segment.received += delivered + sum(losses.values())
        self._count_losses(losses)
        if segment.sent >= segment.size:
            self.ledger.drop(Loss.SPOOL_CORRUPT, segment.pending())
            segment.received = segment.lines()

    def _count_losses(self, losses: dict[Loss, int]) -> None:
        for loss, count in losses.items():
            self.ledger.drop(loss, count)

    def _recycle(self, segment: Segment) -> None:
        """Keep one emptied segment for reuse. It is emptied outside the lock, because that takes a while."""
        segment.empty()
        with self._lock:
            if self.is_closed or (self.current is not None and self._spare is not None):
                segment.remove()
                segment.release()
            elif self.current is None:
                self._make_current(segment)
            else:
                self._spare = segment

    def check(self) -> None:
        """Write the lines of deleted segments to new ones. Only the sender calls this."""
        with self._lock:
            for segment in self._segments():
                if segment.is_deleted():
                    self._restore(segment)
            if self._spare is not None and self._spare.is_deleted():
                self._spare.release()
                self._spare = None

    def _restore(self, segment: Segment) -> bool:
        try:
            segment.move_to(self._create())
        except OSError as error:
            self._warn_unwritable(error)
            return False
        return True

    def sync(self) -> None:
        """Flush the lines without a receipt to stable storage. Only the sender's thread calls this."""
        with self._lock:
            changed = [segment for segment in self._segments() if segment.synced != segment.size]
        for segment in changed:
            with contextlib.suppress(OSError):
                segment.sync()

    # --- from any thread ---

    def _segments(self) -> list[Segment]:
        return [*self.full, self.current] if self.current is not None else list(self.full)

    def balance(self) -> Balance:
        """Return the balance sheet: `recorded` and `spooled` are counted from the files and the memory."""
        with self._lock:
            segments = self._segments()
            lines = self._finished_lines + sum(segment.lines() for segment in segments)
            return Balance(
                recorded=lines + self.memory.taken + self.ledger.unspooled,
                delivered=self.ledger.delivered,
                spooled=self.kept + sum(segment.pending() for segment in segments) + len(self.memory),
                dropped=dict(self.ledger.dropped),
                adopted=self.ledger.adopted,
                adopted_dropped=dict(self.ledger.adopted_dropped),
            )

    def has_pending(self) -> bool:
        """Return whether anything waits for a receipt. Cheap: it reads no line."""
        with self._lock:
            return len(self.memory) > 0 or any(segment.sent < segment.size for segment in self._segments())

    def own_paths(self) -> frozenset[Path]:
        """Return the files of this process, which it must not adopt."""
        with self._lock:
            return frozenset(segment.path for segment in (*self._segments(), self._spare) if segment is not None)

    def owner(self) -> int | None:
        """Return the id of the folder's owner; None if there is no folder."""
        try:
            return None if self.directory is None else self.directory.lstat().st_uid
        except OSError:
            return None

    def owns_directory(self) -> bool:
        """Return whether the folder belongs to this user, so that segments left in it may be delivered."""
        return self._has_prepared or self.owner() == os.geteuid()

    def close_if_drained(self) -> bool:
        """Close the spool if every line has its receipt. Return whether it was closed."""
        with self._lock:
            if self.has_pending():
                return False
            self.close()
            return True

    def close(self) -> None:
        """Delete what has its receipt, and leave the rest to the next process. Lines in memory are counted as lost.

        `kept` counts the records left in files, so the balance sheet still adds up.
        """
        with self._lock:
            if self.is_closed:
                return
            self.is_closed = True
            segments = self._segments()
            for segment in segments:
                is_deleted = segment.is_deleted()
                self._finished_lines += segment.lines()
                if segment.sent >= segment.size:
                    segment.remove()
                else:
                    self.kept += self._leave(segment, is_deleted)
                segment.release()
            if self._spare is not None:
                self._spare.remove()
                self._spare.release()
                self._spare = None
            self.full.clear()
            self._make_current(None)
            self.ledger.drop(Loss.SPOOL_UNWRITABLE, len(self.memory))
            self.memory.clear()

    def _leave(self, segment: Segment, is_deleted: bool) -> int:
        """Prepare a segment for its next owner. Return how many lines it has; missing lines are counted as lost."""
        pending = segment.pending()
        if is_deleted and not self._restore(segment):
            self.ledger.drop(Loss.SPOOL_UNWRITABLE, pending)
            return 0
        remaining = segment.count_lines(segment.sent, segment.size)
        self.ledger.drop(Loss.SPOOL_CORRUPT, pending - remaining)
        with contextlib.suppress(OSError):
            segment.discard_sent()
            segment.trim()
        return remaining

    def abandon_in_child(self) -> None:
        """In a forked child: close the parent's files without changing them.

        It creates new locks and takes none: the thread that holds one may not exist in the child.
        """
        self._lock = self.ledger.lock = threading.RLock()
        self.is_closed = True
        for segment in (*self.full, *self._dropped, self.current, self._spare):
            if segment is not None:
                segment.release()
        self.full.clear()
        self.memory.clear()
        self._make_current(None)
