"""An event that a signal handler may set at any point, even while the same thread is setting it."""

from __future__ import annotations

import threading

__all__ = ["Flag"]


class Flag:
    """As `threading.Event`, whose `set` would wait for itself when what interrupts it sets the event too."""

    __slots__ = ("_changed", "_is_set")

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.RLock())
        self._is_set = False

    def is_set(self) -> bool:
        """Return whether it is set."""
        return self._is_set

    def set(self) -> None:
        """Set it, and let everybody go on who waits."""
        with self._changed:
            self._is_set = True
            self._changed.notify_all()

    def clear(self) -> None:
        """Clear it."""
        with self._changed:
            self._is_set = False

    def wait(self, timeout_s: float) -> bool:
        """Wait until it is set, at most this long; return whether it is."""
        with self._changed:
            return self._changed.wait_for(self.is_set, timeout_s)
