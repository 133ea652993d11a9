"""An event that a signal handler may set at any point, even while the same thread is setting it."""

from __future__ import annotations

import threading

__all__ = ["Flag"]


class Flag:
    """Like `threading.Event`, whose `set` would deadlock if a signal handler interrupts it and sets the event too."""

    __slots__ = ("_changed", "_is_set")

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.RLock())
        self._is_set = False

    def is_set(self) -> bool:
        """Return whether it is set."""
        return self._is_set

    def set(self) -> None:
        """Set it, and wake all waiting threads."""
        with self._changed:
            self._is_set = True
            self._changed.notify_all()

    def clear(self) -> None:
        """Clear it."""
        with self._changed:
            self._is_set = False

    def wait(self, timeout_s: float) -> bool:
        """Wait until it is set, at most `timeout_s`; return whether it is set."""
        with self._changed:
            return self._changed.wait_for(self.is_set, timeout_s)
