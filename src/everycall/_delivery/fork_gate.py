"""What a fork waits for: imports, name look-ups and TLS of everycall's own threads.

A forked child inherits every lock that another thread holds at that moment, and nobody releases it there. Python's
import locks, OpenSSL's and the C library's are such locks: a child that needs one hangs. So everycall's threads do what
takes them inside the gate, and a fork waits until the gate is free. Waiting for the network happens outside the gate.
"""

from __future__ import annotations

import os
import threading
from types import TracebackType

from everycall import limits

__all__ = ["ForkGate", "gate"]


class ForkGate:
    """A re-entrant lock that `os.fork` holds while it forks; use it as a context manager.

    The wait of a fork is bounded by `limits.FORK_WAIT_S`. Work in the gate must not wait for the network, name look-ups
    excepted: these cannot be split.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._forks = threading.local()
        self._installed = False
        self.was_open = True
        """In a forked child: whether nothing was in the gate when it was forked."""

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._lock.release()

    def install(self) -> None:
        """Have forks of this process wait for the gate. Does nothing where there is no fork, or when called again."""
        if not self._installed and hasattr(os, "register_at_fork"):
            self._installed = True
            os.register_at_fork(
                before=self._before, after_in_parent=self._after_in_parent, after_in_child=self._after_in_child
            )

    def _before(self) -> None:
        self._forks.waited = self._lock.acquire(timeout=limits.FORK_WAIT_S)

    def _after_in_parent(self) -> None:
        if self._forks.waited:
            self._lock.release()

    def _after_in_child(self) -> None:
        self.was_open = bool(self._forks.waited)
        self._lock = threading.RLock()


gate = ForkGate()
"""The one gate of the process."""
