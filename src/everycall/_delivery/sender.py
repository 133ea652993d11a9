"""The sender: one daemon thread that ships the spool and makes sure of its receipts. Layer 4; the runtime owns it.

At least once: a line leaves the spool only after its receipt. *Unreachable* keeps everything and backs off; *refused*
moves the line to `refused/` and counts it. Its own work is hidden from other people's instrumentation.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

from opentelemetry import context as otel_context

from everycall import _guard, limits
from everycall._capture.processors import encode_within
from everycall._delivery.fork_gate import gate
from everycall._delivery.receipt import Committed, Refused, TooLarge, Unreachable
from everycall._delivery.segment import Chunk, Segment, adoptable, read_lines
from everycall._delivery.spool import REFUSED_DIR, Spool
from everycall._delivery.transport import Transport
from everycall._ledger import Balance
from everycall._retry import backoff_s
from everycall.errors import Loss
from everycall.record import decode

__all__ = ["Outcome", "Sender", "Stuck", "deliver", "ship_segment"]

Outcome = tuple[int, dict[Loss, int]]
"""What became of some lines: how many were delivered, and how many were lost for which reason."""


class Stuck(Exception):
    def __init__(self, receipt: Unreachable) -> None:
        super().__init__(receipt.reason)
        self.receipt = receipt


class _Flag:
    """An event that may be set while it is being set: by a signal handler or a finalizer that makes calls, or flushes.

    `threading.Event` is not: what interrupts its `set`, and sets it, waits for itself for ever.
    """

    __slots__ = ("_changed", "_on")

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.RLock())
        self._on = False

    def is_set(self) -> bool:
        return self._on

    def set(self) -> None:
        with self._changed:
            self._on = True
            self._changed.notify_all()

    def clear(self) -> None:
        with self._changed:
            self._on = False

    def wait(self, timeout_s: float) -> bool:
        with self._changed:
            return self._changed.wait_for(self.is_set, timeout_s)


class Sender:
    """Ships one spool. `wake`, `flush` and `stop` may be called from any thread; the work is done in its own."""

    def __init__(self, spool: Spool, transport: Callable[[], Transport], key: Callable[[], str | None]) -> None:
        self._spool = spool
        self._make_transport = transport
        self._key = key
        self._wake = _Flag()
        self._progress = threading.Condition()
        self._hurry = _Flag()  # somebody waits for what is spooled to be gone
        self._stopping = False
        self._rounds = 0  # how often an attempt or a look at an empty spool has ended
        self._thread: threading.Thread | None = None
        self._transport: Transport | None = None
        self._start_lock = threading.Lock()
        self._synced_at = self._adopted_at = 0.0
        self._unreported = False  # whether a batch was delivered since the endpoint was sent the balance
        self.idle = True
        self.alive = False
        self.last_failure: str | None = None

    # --- from any thread ---

    def wake(self) -> None:
        """Say that there is work. Starts the thread when it has not been started, or has died."""
        self.idle = False
        if not self.alive:
            self._start()
        self._wake.set()

    def _start(self) -> None:
        if not self._start_lock.acquire(blocking=False):
            return
        try:
            if self.alive or self._stopping:
                return
            transport = self._transport = self._make_transport()  # here, not in the thread: it imports what it needs
            thread = threading.Thread(target=self._run, args=(transport,), name="everycall-sender", daemon=True)
            self.alive = True
            thread.start()
            self._thread = thread
        except RuntimeError:  # the interpreter is going down: what is spooled stays spooled
            self.alive = False
        finally:
            self._start_lock.release()

    def flush(self, timeout_s: float) -> bool:
        """Try to deliver all that is spooled now; returns in time whether it was."""
        deadline = time.monotonic() + timeout_s
        if not self._spool.has_pending():
            return True
        before = self._rounds
        self._hurry.set()
        self.wake()
        with self._progress:
            while self._spool.has_pending():
                left = deadline - time.monotonic()
                if left <= 0 or not self.alive:
                    break
                if self._rounds != before:
                    before = self._rounds
                    self._hurry.set()
                    self._wake.set()
                self._progress.wait(min(left, 0.25))
        self._hurry.clear()
        return not self._spool.has_pending()

    def stop(self, timeout_s: float) -> None:
        """Ask the thread to end and wait for it, at most this long; it may still be waiting for an answer."""
        self._stopping = True
        self._hurry.set()
        self._wake.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout_s)

    def release_in_child(self) -> None:
        """In a forked child: close the inherited connection, unless the parent was using it at that moment."""
        if self._transport is not None and gate.was_open:
            self._transport.release_in_child()

    # --- the thread ---

    def _run(self, transport: Transport) -> None:
        with contextlib.suppress(Exception):
            suppressed = otel_context.set_value("suppress_instrumentation", True)
            otel_context.attach(otel_context.set_value("suppress_http_instrumentation", True, suppressed))
        failures = 0
        try:
            while not self._stopping:
                try:
                    busy = self._round(transport)
                    failures = 0
                except Stuck as stuck:
                    failures += 1
                    self._tell(stuck.receipt)
                    self._turned()
                    self._wait(_wait_s(failures, stuck.receipt), until_hurry=True)
                    continue
                except Exception as error:  # noqa: BLE001 - the sender's guard: it must go on
                    _guard.report("sender", error)
                    self._wait(1.0, until_hurry=False)
                    continue
                self._turned()
                if not busy:
                    self._rest(transport)
            self._report(transport)
        finally:
            self.alive = False
            transport.close()
            self._turned()

    def _round(self, transport: Transport) -> bool:
        """Deliver one chunk; returns whether there was one. Raises `Stuck` when the endpoint cannot be reached."""
        found = self._spool.next_chunk()
        if found is None:
            self._adopt(transport)
            return False
        segment, chunk = found
        try:
            delivered, dropped = deliver(chunk, transport, self._key(), self._spool.balance(), self._spool.directory)
        except Stuck:
            self._sync()
            raise
        self._spool.acknowledge(segment, chunk, delivered, dropped)
        self._unreported = True
        self.last_failure = None
        return True

    def _report(self, transport: Transport) -> None:
        """Send the balance without records: the one sent with the last batch counts that batch as spooled."""
        if self._unreported and self.last_failure is None:
            self._unreported = False
            transport.send((), self._key(), self._spool.balance(), limits.REPORT_TIMEOUT_S)

    def _rest(self, transport: Transport) -> None:
        """Sleep until there is work; then wait a little for company. Report the balance when there is none."""
        self._wake.clear()
        self.idle = True
        if not self._spool.has_pending() and not self._wake.wait(limits.IDLE_POLL_S):
            self._report(transport)
        self.idle = False
        self._hurry.wait(limits.BATCH_DELAY_S)

    def _wait(self, seconds: float, *, until_hurry: bool) -> None:
        deadline = time.monotonic() + seconds
        self.idle = False
        while not self._stopping and (left := deadline - time.monotonic()) > 0:
            self._wake.clear()
            if until_hurry and self._hurry.is_set():
                self._hurry.clear()
                return
            self._wake.wait(min(left, 0.25))
            self._sync()

    def _turned(self) -> None:
        with self._progress:
            self._rounds += 1
            self._progress.notify_all()

    def _sync(self) -> None:
        now = time.monotonic()
        if now - self._synced_at >= limits.SYNC_INTERVAL_S:
            self._synced_at = now
            self._spool.sync()

    def _adopt(self, transport: Transport) -> None:
        """Look now and then for spools of dead processes that were bound for the same place, and ship them."""
        now = time.monotonic()
        if self._adopted_at and now - self._adopted_at < limits.ADOPT_INTERVAL_S:
            return
        self._adopted_at = now
        for segment in adoptable(self._spool.directory, self._spool.own_paths()):
            delivered, _ = ship_segment(segment, transport, self._key(), self._spool.balance(), self._spool.directory)
            with self._spool.ledger.lock:
                self._spool.ledger.adopted += delivered
            if self._stopping or self._spool.has_pending():
                self._adopted_at = 0.0
                return

    def _tell(self, receipt: Unreachable) -> None:
        self.last_failure = receipt.reason
        with gate:  # a child forked while this thread writes to standard error would wait for that for ever
            _guard.warn_once(
                "unauthorised" if receipt.unauthorised else "unreachable",
                "everycall cannot deliver to %s: %s. Records are kept in %s and sent when it can",
                self._spool.endpoint,
                receipt.reason,
                self._spool.directory,
            )


def _wait_s(failures: int, receipt: Unreachable) -> float:
    """Return how long to wait before the next attempt: what the endpoint asked for, else the back-off."""
    if receipt.retry_after_s is None:
        return backoff_s(failures)
    return receipt.retry_after_s + random.random() * 0.1  # noqa: S311 - jitter


def deliver(chunk: Chunk, transport: Transport, key: str | None, balance: Balance, directory: Path) -> Outcome:
    """Ship a chunk's lines; returns what became of them. Raises `Stuck` when the endpoint cannot be reached.

    A line whose checksum is wrong is a `Loss.SPOOL_CORRUPT`. 413 splits the batch; a single record that is too large is
    cut and sent again. Another 4xx is answered line by line, so that one bad record never takes its neighbours along.
    """
    good = [line for line in read_lines(chunk.data) if line is not None]
    corrupt = chunk.data.count(b"\n") - len(good)
    dropped: dict[Loss, int] = {}
    if corrupt > 0:
        dropped[Loss.SPOOL_CORRUPT] = corrupt
        _guard.warn_once("corrupt", "everycall found %d damaged lines in its spool in %s", corrupt, directory)
    delivered = 0
    pending = [good] if good else []
    while pending:
        lines = pending.pop()
        receipt = transport.send(lines, key, balance)
        if isinstance(receipt, Unreachable):
            raise Stuck(receipt)
        if isinstance(receipt, Committed):
            for index, reason in receipt.refused.items():
                _keep_refused(directory, lines[index], reason)
            delivered += len(lines) - len(receipt.refused)
            _add(dropped, Loss.REFUSED, len(receipt.refused))
        elif len(lines) > 1:
            half = len(lines) // 2
            pending += [lines[half:], lines[:half]]
        elif isinstance(receipt, TooLarge) and (smaller := _smaller(lines[0])) is not None:
            pending.append([smaller])
        else:
            reason = receipt.reason if isinstance(receipt, Refused) else "too large even when cut"
            _keep_refused(directory, lines[0], reason)
            _add(dropped, Loss.REFUSED, 1)
    return delivered, dropped


def _add(dropped: dict[Loss, int], loss: Loss, count: int) -> None:
    if count:
        dropped[loss] = dropped.get(loss, 0) + count


def _smaller(line: bytes) -> bytes | None:
    """Return a record's JSON cut to a quarter; None when it is small already."""
    if len(line) < limits.SMALL_RECORD_BYTES:
        return None
    cut = encode_within(decode(line), max(len(line) // 4, limits.SMALL_RECORD_BYTES))
    return cut if len(cut) < len(line) else None


def _keep_refused(directory: Path, line: bytes, reason: str) -> None:
    """Put a refused record aside, with the reason, where a person can look at it; bounded in bytes."""
    folder = directory / REFUSED_DIR
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        path = folder / f"{time.strftime('%Y-%m-%d', time.gmtime())}.jsonl"
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(fd).st_size < limits.REFUSED_BYTES_MAX:
                os.write(fd, b'{"reason":%b,"record":%b}\n' % (json.dumps(reason).encode(), line))
        finally:
            os.close(fd)
    except OSError as error:
        _guard.report("refused", error)
    # An endpoint's words may repeat the record: they are in the file, and not in a log.
    _guard.warn_once("refused", "everycall's endpoint refused a record; it is kept, with the reason, in %s", folder)


def ship_segment(segment: Segment, transport: Transport, key: str | None, balance: Balance, directory: Path) -> Outcome:
    """Deliver a segment of a dead process whole, then delete it. Raises `Stuck` and leaves it when it cannot."""
    delivered, dropped = 0, dict[Loss, int]()
    try:
        while (chunk := segment.read(limits.BATCH_BYTES_MAX)) is not None:
            some, lost = deliver(chunk, transport, key, balance, directory)
            segment.sent = chunk.end
            delivered += some
            for loss, count in lost.items():
                _add(dropped, loss, count)
        segment.remove()  # a torn last line is left out: the call that wrote it never returned
    finally:
        segment.release()
    return delivered, dropped
