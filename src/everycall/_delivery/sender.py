"""The sender: one daemon thread that delivers the spool and waits for its receipts. The runtime owns it.

Delivery is at least once: a line leaves the spool only after its receipt. If the endpoint is unreachable, everything is
kept and the sender backs off. A refused line goes to `refused/` and is counted. Other instrumentation does not record
this thread's requests.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from opentelemetry import context as otel_context

from everycall import _guard, limits
from everycall._delivery.batch import Stuck, deliver, ship_segments
from everycall._delivery.bound import keep_within
from everycall._delivery.flag import Flag
from everycall._delivery.fork_gate import gate
from everycall._delivery.receipt import Unreachable
from everycall._delivery.segment import Segment, adopt, segment_paths
from everycall._delivery.spool import Spool
from everycall._delivery.transport import Transport
from everycall._retry import backoff_s
from everycall.errors import Loss

__all__ = ["Sender"]


class Sender:
    """Delivers one spool in its own thread. `wake`, `flush` and `stop` may be called from any thread."""

    def __init__(self, spool: Spool, make_transport: Callable[[], Transport], key: Callable[[], str | None]) -> None:
        self._spool = spool
        self._make_transport = make_transport
        self._key = key
        self._wake = Flag()
        self._expedite = Flag()  # set while a flush waits: the sender then does not wait for more lines
        self._retry_now = False  # make one attempt without waiting for the back-off
        self._progress = threading.Condition()
        self._flushes = 0
        self._is_stopping = False
        self._is_retired = False
        self._is_swept = True  # no flush waits for the segments of ended processes
        self._is_reported = True  # the endpoint has the balance that counts the last batch as delivered
        self._reports_now = False  # a flush waits for that report
        self._since = f"{time.time_ns():020d}"  # names of segments created later sort after it
        self._failures = 0
        self._failing_since = self._failed_at = 0.0
        self._is_unauthorised = False
        self._is_sending = False
        self._retry_at = 0.0  # while it backs off: when the next attempt is due
        self._thread: threading.Thread | None = None
        self._transport: Transport | None = None
        self._start_lock = threading.Lock()
        self._synced_at = self._checked_at = self._adopt_at = self._bound_at = 0.0
        self.is_alive = False
        self.last_failure: str | None = None
        """Why the last attempt failed; None once one succeeded."""
        spool.wake = self.wake

    # --- from any thread ---

    @property
    def problem(self) -> str | None:
        """Why records are not delivered yet: the last failure, or an unfinished attempt. None if unknown."""
        return self.last_failure or ("no answer in time" if self._is_sending else None)

    def wake(self) -> None:
        """Notify the thread that there is work. Start it if it does not run."""
        if not self.is_alive:
            self._start()
        if self.is_alive:
            self._spool.wake = None
        self._wake.set()

    def _start(self) -> None:
        if not self._start_lock.acquire(blocking=False):
            return
        try:
            if self.is_alive or self._is_stopping:
                return
            transport = self._transport = self._make_transport()  # here, not in the thread: it imports what it needs
            thread = threading.Thread(target=self._run, args=(transport,), name="everycall-sender", daemon=True)
            self.is_alive = True
            thread.start()
            self._thread = thread
        except RuntimeError:  # the interpreter is ending: what is spooled stays spooled
            self.is_alive = False
        finally:
            self._start_lock.release()

    def flush(self, timeout_s: float, *, is_last: bool = False) -> bool:
        """Try to deliver all that is spooled now. Return whether that succeeded, at the latest after `timeout_s`.

        The first attempt is made at once; after a failure the back-off applies, as without a flush. With `is_last`, the
        segments of this process's ended children are delivered too, and the method returns early if no attempt would be
        made within the time-out.
        """
        deadline = time.monotonic() + timeout_s
        self._is_swept = not (is_last and self._has_orphans())
        self._reports_now = is_last
        if self._is_done():
            return True
        self._retry_now = True
        self._flushes += 1
        self._expedite.set()
        self.wake()
        try:
            with self._progress:
                while not self._is_done() and self.is_alive:
                    left_s = deadline - time.monotonic()
                    if left_s <= 0 or (is_last and not self._retry_now and self._retry_at > deadline):
                        break
                    self._progress.wait(min(left_s, 0.25))
        finally:
            self._flushes -= 1
            if self._flushes <= 0:
                self._expedite.clear()
        return not self._spool.has_pending()

    def _is_done(self) -> bool:
        return self._is_swept and not self._spool.has_pending() and (self._is_reported or not self._reports_now)

    def _has_orphans(self) -> bool:
        """Return whether there are segments of other processes that were created after this one began to record."""
        own = f"-{os.getpid()}-"
        return any(path.name >= self._since and own not in path.name for path in self._foreign_paths())

    def deliver_here(self, timeout_s: float) -> None:
        """Deliver on the calling thread, if no thread can be started any more. Return within the time-out."""
        transport = self._make_transport()
        transport.until = time.monotonic() + timeout_s
        try:
            while self._spool.has_pending() and time.monotonic() < transport.until:
                self._deliver_chunk(transport)
        except Stuck as stuck:
            self._note_failure(stuck.receipt)
        finally:
            transport.close()

    def retire(self) -> None:
        """Deliver what is spooled, however long it takes, then close the spool and end."""
        self._is_retired = True
        if not self._spool.close_if_drained():
            self.wake()
        elif self.is_alive:
            self.stop(0)

    def stop(self, timeout_s: float) -> None:
        """Cancel what the thread is waiting for, and wait at most `timeout_s` for the thread to end."""
        self._is_stopping = True
        if self._transport is not None:
            self._transport.cancel()
        self._expedite.set()
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
        try:
            while not self._is_stopping:
                self._step(transport)
            if self._spool.has_pending():
                self._spool.sync()
        finally:
            self.is_alive = False
            self._spool.wake = self.wake
            transport.close()
            self._note_progress()

    def _step(self, transport: Transport) -> None:
        """Deliver one chunk, adopt segments if that is due, then wait for further work."""
        self._retry_now = False
        try:
            self._check()
            is_busy = self._deliver_chunk(transport)
            self._adopt(transport)
            if self._reports_now and not self._spool.has_pending():
                self._report(transport)
        except Stuck as stuck:
            self._note_failure(stuck.receipt)
            self._sync()
            self._keep_within_bound()
            self._back_off(stuck.receipt)
        except Exception as error:  # noqa: BLE001 - the sender's guard: it must go on
            _guard.report("sender", error)
            self._failed_at = time.monotonic()
            self._sleep_until(self._failed_at + 1.0)
        else:
            self._note_progress()
            if self._is_retired and self._spool.close_if_drained():
                self._is_stopping = True
            elif not is_busy:
                self._rest(transport)

    def _deliver_chunk(self, transport: Transport) -> bool:
        """Deliver the oldest chunk; return whether there was one. Raise `Stuck` if the endpoint cannot be reached."""
        pending = self._spool.next_chunk()
        if pending is None:
            return False
        segment, chunk = pending
        self._is_sending = True
        delivered, losses = deliver(chunk, transport, self._key(), self._spool.balance(), self._spool.directory)
        self._is_sending = False
        self._spool.acknowledge(segment, chunk, delivered, losses)
        self._is_reported = False
        self._failures = 0
        self.last_failure = None
        return True

    def _report(self, transport: Transport) -> None:
        """Send the balance without records: the one sent with the last batch counts that batch as spooled."""
        if not self._is_reported:
            transport.send((), self._key(), self._spool.balance(), limits.REPORT_TIMEOUT_S)
            self._is_reported = True  # also if it failed: the records are delivered, and the next batch reports again

    def _rest(self, transport: Transport) -> None:
        """Report the balance if idle, and sleep until there is work. Then wait briefly for more, to share a request."""
        self._wake.clear()  # before looking: what is set from now on ends the wait
        self._spool.wake = self.wake
        if self._is_done() and not self._is_stopping and not self._wake.wait(limits.IDLE_POLL_S):
            self._report(transport)
        self._spool.wake = None
        self._expedite.wait(limits.BATCH_DELAY_S)

    def _back_off(self, receipt: Unreachable) -> None:
        """Wait before the next attempt: as long as the endpoint asked for, else longer after each failure."""
        if receipt.retry_after_s is None:
            wait_s = backoff_s(self._failures)
        else:
            wait_s = receipt.retry_after_s + random.random() * 0.1  # noqa: S311 - jitter
        self._retry_at = self._failed_at + wait_s
        self._note_progress()
        self._sleep_until(self._retry_at)
        self._retry_at = 0.0

    def _sleep_until(self, until: float) -> None:
        """Wait, unless stopping. A flush ends the wait, but not within `limits.BACKOFF_FIRST_S` of the last failure."""
        earliest = self._failed_at + limits.BACKOFF_FIRST_S
        while (left_s := until - time.monotonic()) > 0:
            self._wake.clear()
            if self._is_stopping:
                return
            if self._retry_now:
                left_s = min(left_s, earliest - time.monotonic())
                if left_s <= 0:
                    return
            self._wake.wait(min(left_s, 0.25))
            self._check()
            self._sync()

    def _note_progress(self) -> None:
        with self._progress:
            self._progress.notify_all()

    def _note_failure(self, receipt: Unreachable) -> None:
        now = time.monotonic()
        self._is_sending = False
        self._failures += 1
        self._failed_at = now
        if self._failures == 1:
            self._failing_since = now
        if self._is_stopping:  # cancelled: an earlier reason is more useful
            self.last_failure = self.last_failure or "no answer in time"
            return
        if receipt.unauthorised or not (self._is_unauthorised and receipt.status == 429):
            self._is_unauthorised = receipt.unauthorised
            self.last_failure = receipt.reason  # unless it is the 429 after too many attempts with a wrong key
        if now - self._failing_since >= limits.OUTAGE_WARN_S:
            self._warn()

    def _warn(self) -> None:
        with gate:  # a child forked while this thread holds the lock of standard error would hang
            _guard.warn_once(
                "unauthorised" if self._is_unauthorised else "unreachable",
                "everycall cannot deliver to %s: %s. Records are kept in %s and sent when it can",
                self._spool.endpoint,
                self.last_failure,
                self._spool.directory or "memory",
            )

    def _check(self) -> None:
        now = time.monotonic()
        if now - self._checked_at >= limits.SPOOL_CHECK_S:
            self._checked_at = now
            self._spool.check()

    def _keep_within_bound(self) -> None:
        """Apply the bounds of the whole spool directory, if that is due."""
        started = time.monotonic()
        root, owner = self._spool.root, self._spool.owner()
        if root is None or owner is None or started < self._bound_at:
            return
        lost = keep_within(root, owner, limits.SPOOL_BYTES_MAX, limits.SPOOL_FILES_MAX)
        self._bound_at = started + max(limits.BOUND_INTERVAL_S, 50 * (time.monotonic() - started))
        if lost:
            self._spool.ledger.adopt(0, {Loss.SPOOL_FULL: lost})
            with gate:
                _guard.warn_once(
                    "spool_full", "everycall's spool directory %s is full: its oldest %d records are lost", root, lost
                )

    def _sync(self) -> None:
        now = time.monotonic()
        if now - self._synced_at >= limits.SYNC_INTERVAL_S:
            self._synced_at = now
            self._spool.sync()

    def _foreign_paths(self) -> list[Path]:
        directory = self._spool.directory
        if directory is None or not self._spool.owns_directory():
            return []
        return segment_paths(directory, self._spool.own_paths())

    def _adopt(self, transport: Transport) -> None:
        """Deliver the segments that ended processes left for this destination. Failures do not delay its own lines."""
        if self._is_swept and time.monotonic() < self._adopt_at:
            return
        segments = self._orphans("" if self._is_swept else self._since)  # at exit, only those of its children
        scan_s = 0.0
        while True:
            started = time.thread_time()
            group = list(itertools.islice(segments, limits.ADOPT_FILES_MAX))
            scan_s += time.thread_time() - started
            if not group:
                break
            try:
                outcome = ship_segments(group, transport, self._key(), self._spool.balance(), self._spool.directory)
            except Stuck as stuck:
                self._spool.ledger.adopt(*stuck.outcome)
                self._adopt_at = time.monotonic() + backoff_s(3)
                self._is_swept = True
                if not self._spool.has_pending():
                    self._note_failure(stuck.receipt)
                return
            self._spool.ledger.adopt(*outcome)
            if self._is_stopping or self._spool.has_pending():
                return  # the rest comes after the own records
        self._keep_within_bound()
        self._is_swept = True
        # With many processes, scanning all their files takes at most 2 % of a core.
        self._adopt_at = time.monotonic() + max(limits.ADOPT_INTERVAL_S, 50 * scan_s)

    def _orphans(self, since: str) -> Iterator[Segment]:
        """Yield the segments that ended processes left, from the time `since` on, oldest first."""
        for path in self._foreign_paths():
            segment = adopt(path) if path.name >= since else None
            if segment is not None:
                yield segment
