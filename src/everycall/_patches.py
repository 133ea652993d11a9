"""Functions of other people's classes, replaced while everycall is switched on, and put back exactly.

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
    """A set of replaced functions. `on` is False once they are undone: a replacement left in place then does nothing.

    One is left in place where somebody wrapped it meanwhile: taking theirs away is not ours to do. It serves again
    after the next `replace`.
    """

    def __init__(self) -> None:
        self.on = False
        self._held: dict[tuple[type, str], tuple[AnyFunction, object]] = {}
        self._lock = threading.Lock()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._renew_lock)

    def _renew_lock(self) -> None:
        self._lock = threading.Lock()

    def replace(self, owner: type, name: str, make: Callable[[AnyFunction], AnyFunction]) -> None:
        """Put `make(original)` in the place of a class's function, unless it is there already. Sets `on`."""
        with self._lock:
            self.on = True
            held = self._held.get((owner, name))
            if held is not None and _is_reached(held[0], vars(owner).get(name)):
                return
            original: AnyFunction = getattr(owner, name)
            replacement = functools.wraps(original)(make(original))
            self._held[owner, name] = (replacement, vars(owner).get(name, _ABSENT))
            setattr(owner, name, replacement)

    def undo(self) -> None:
        """Put back what was there before, the very objects. Calling it again does nothing."""
        with self._lock:
            self.on = False
            for (owner, name), (replacement, before) in list(self._held.items()):
                if vars(owner).get(name) is not replacement:
                    continue
                if before is _ABSENT:
                    delattr(owner, name)
                else:
                    setattr(owner, name, before)
                del self._held[owner, name]


def _is_reached(replacement: AnyFunction, function: Any) -> bool:
    """Tell whether a function is the replacement, or wraps it."""
    for _ in range(100):
        if function is replacement:
            return True
        function = getattr(function, "__wrapped__", None)
        if function is None:
            return False
    return False
