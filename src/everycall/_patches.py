"""Replaces functions of other libraries' classes while everycall is enabled, and restores them exactly.

The hooks of threads and HTTP clients use it. Importing a module replaces nothing.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable
from typing import Any, Final

__all__ = ["Patches"]

AnyFunction = Callable[..., Any]
_ABSENT: Final = object()


class Patches:
    """A set of replaced functions.

    `undo` leaves a replacement in place if other code has wrapped it, because removing it would also remove the
    wrapper. `on` is then False, and the replacement does nothing until the next `replace`.
    """

    def __init__(self) -> None:
        self.on = False
        self._replacements: dict[tuple[type, str], tuple[AnyFunction, object]] = {}
        self._lock = threading.Lock()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._renew_lock)

    def _renew_lock(self) -> None:
        self._lock = threading.Lock()

    def replace(self, owner: type, name: str, make: Callable[[AnyFunction], AnyFunction]) -> None:
        """Replace a class's function with `make(original)`, unless that was done already. Set `on`."""
        with self._lock:
            self.on = True
            entry = self._replacements.get((owner, name))
            if entry is not None and _is_reached(entry[0], vars(owner).get(name)):
                return
            original: AnyFunction = getattr(owner, name)
            replacement = functools.wraps(original)(make(original))
            self._replacements[owner, name] = (replacement, vars(owner).get(name, _ABSENT))
            setattr(owner, name, replacement)

    def undo(self) -> None:
        """Restore the original functions, the same objects. Calling it again does nothing."""
        with self._lock:
            self.on = False
            for (owner, name), (replacement, before) in list(self._replacements.items()):
                if vars(owner).get(name) is not replacement:
                    continue
                if before is _ABSENT:
                    delattr(owner, name)
                else:
                    setattr(owner, name, before)
                del self._replacements[owner, name]


def _is_reached(replacement: AnyFunction, function: Any) -> bool:
    """Return whether a function is the replacement, or wraps it."""
    for _ in range(100):
        if function is replacement:
            return True
        function = getattr(function, "__wrapped__", None)
        if function is None:
            return False
    return False
