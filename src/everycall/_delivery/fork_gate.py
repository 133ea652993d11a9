"""The fork gate: a fork waits until everycall's own threads have finished imports, name look-ups and TLS.

A forked child inherits the locks that other threads hold at that moment, and nothing in the child releases them. With
the locks of Python's imports, of OpenSSL or of the C library, the child hangs when it needs one. So everycall's threads
do such work inside the gate, and a fork waits until the gate is free. They wait for the network outside the gate.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from types import TracebackType

from everycall import limits

__all__ = ["ForkGate", "gate"]


class ForkGate:
    """A re-entrant lock that `os.fork` holds while it forks; use it as a context manager.

    Work in the gate is short, so a fork waits for it up to `limits.FORK_WAIT_MAX_S`. Name look-ups may wait for the
    network: for these, a fork waits only up to `limits.FORK_WAIT_S`.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._forks = threading.local()
        self._installed = False
        self.is_looking_up = False
        """Whether the work in the gate is a name look-up. The thread that does one sets it."""
        self.was_open = True
        """In a forked child: whether the gate was free when it was forked."""

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._lock.release()

    def install(self) -> None:
        """Make forks of this process wait for the gate. Do nothing without `os.fork`, or if called again."""
        if not self._installed and hasattr(os, "register_at_fork"):
            self._installed = True
            os.register_at_fork(
                before=self._before, after_in_parent=self._after_in_parent, after_in_child=self._after_in_child
            )

    def _before(self) -> None:
        self._forks.waited = False
        started = time.monotonic()
        while not (acquired := self._lock.acquire(timeout=limits.FORK_WAIT_S)):
            if self.is_looking_up or time.monotonic() - started >= limits.FORK_WAIT_MAX_S:
                break
        self._forks.waited = acquired

    def _after_in_parent(self) -> None:
        with contextlib.suppress(RuntimeError):  # the wait was given up: the lock is another thread's
            self._lock.release()  # even if a signal handler raised before the wait could be noted

    def _after_in_child(self) -> None:
        self.was_open = bool(self._forks.waited)
        self._lock = threading.RLock()
        self.is_looking_up = False


gate = ForkGate()
"""The one gate of the process."""
