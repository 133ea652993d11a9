"""The recorder: where a finished call's draft passes the chain and enters the spool. Layer 3; calls use it.

One recorder is active in a process. It is made by the first traced call from the environment, or by `everycall.init`,
through the factory that the runtime installs; so importing everycall has no effect.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from everycall import _chain, _guard
from everycall._ledger import Ledger
from everycall.errors import Loss
from everycall.settings import OMIT_INPUTS, OMIT_OUTPUTS, Settings

__all__ = ["Recorder", "Sink", "activate", "active", "on_demand"]


class Sink(Protocol):
    """Where a record's line goes. `append` returns when the line is safe; it must not raise."""

    def append(self, line: bytes) -> None:
        """Take one record's JSON."""
        ...


class Recorder:
    """Settings, chain and sink of one process."""

    __slots__ = ("_sink", "ledger", "mask", "omit", "project_name", "sample_rate", "settings")

    def __init__(self, settings: Settings, sink: Sink, ledger: Ledger) -> None:
        self.settings = settings
        self.omit = settings.omit
        self.mask = settings.mask
        self.project_name = settings.project_name
        self.sample_rate = settings.sample_rate
        self.ledger = ledger
        self._sink = sink

    def record(self, draft: _chain.Draft, omit: int, declared: tuple[object, list[str]]) -> None:
        """Pass a finished call's draft through omit, mask and limit, and append it. Never raises."""
        try:
            if omit & (OMIT_INPUTS | OMIT_OUTPUTS):
                _chain.omit(draft, omit, declared[0], declared[1])  # type: ignore[arg-type]
            if self.mask is not None:
                _chain.mask_fields(draft, self.mask)
                _chain.limit(draft)
            draft["project_name"] = self.project_name
            line = _chain.encode_within(draft)
        except Exception as error:  # noqa: BLE001 - a record that cannot be built is a named loss, not an exception
            _guard.report("record", error)
            self.ledger.drop(Loss.CAPTURE_FAILED, was_spooled=False)
            return
        self._sink.append(line)


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
