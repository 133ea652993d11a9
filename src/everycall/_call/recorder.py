"""The recorder: the settings of the process, and the sink that its records go to.

One recorder is active in a process. `everycall.init` makes it, or the first traced call does, from the environment.
Both use the factory that the runtime installs, so importing everycall has no effect.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from everycall._ledger import Ledger
from everycall.settings import Settings

__all__ = ["Recorder", "Sink", "activate", "active", "on_demand"]


class Sink(Protocol):
    """Where a record's line goes. `append` returns when the line is safe; it must not raise."""

    def append(self, line: bytes) -> None:
        """Take one record's JSON."""
        ...


class Recorder:
    """Settings and sink of one process, as calls need them. `append` is the sink's."""

    __slots__ = ("append", "ledger", "mask", "omit", "project_name", "sample_rate", "settings")

    def __init__(self, settings: Settings, sink: Sink, ledger: Ledger) -> None:
        self.settings = settings
        self.omit = settings.omit
        self.mask = settings.mask
        self.project_name = settings.project_name
        self.sample_rate = settings.sample_rate
        self.ledger = ledger
        self.append: Callable[[bytes], None] = sink.append


_active: Recorder | None = None
_make: Callable[[], Recorder | None] | None = None


def active() -> Recorder | None:
    """Return the active recorder, making it at the first need; None when recording is switched off."""
    return _active if _active is not None or _make is None else _make()


def activate(recorder: Recorder | None) -> Recorder | None:
    """Make a recorder the active one (None: none until the next need); returns the one before."""
    global _active
    before, _active = _active, recorder
    return before


def on_demand(make: Callable[[], Recorder | None]) -> None:
    """Install what makes a recorder at the first need. It is expected to `activate` it too."""
    global _make
    _make = make
