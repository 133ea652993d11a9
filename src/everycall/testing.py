"""For tests of programs that use everycall: capture records in memory, with predictable ids and times.

`everycall.pytest_plugin` makes a fixture of it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager

from everycall._call import call, context
from everycall._call import recorder as _recorder
from everycall._ledger import Ledger
from everycall._propagation import threads
from everycall.record import Record, decode
from everycall.settings import Settings

__all__ = ["capture_records", "deterministic"]


class _List:
    def __init__(self, records: list[Record]) -> None:
        self._records = records

    def append(self, line: bytes) -> None:
        self._records.append(decode(line))


@contextmanager
def capture_records(settings: Settings | None = None) -> Iterator[list[Record]]:
    """Collect the records of all calls that end inside the block, after the whole chain; nothing is spooled or sent.

    `settings` sets omit flags, mask, project or sample rate as `everycall.init` would.
    """
    records: list[Record] = []
    recorder = _recorder.Recorder(settings or Settings(), _List(records), Ledger())
    before, threads_before = _recorder.activate(recorder), threads.is_installed()
    if recorder.settings.propagate_threads:
        threads.install()
    try:
        yield records
    finally:
        _recorder.activate(before)
        if not threads_before:
            threads.uninstall()


@contextmanager
def deterministic(start_time_unix_nano: int = 1_700_000_000_000_000_000, tick_s: float = 1.0) -> Iterator[None]:
    """Make ids count up from 1 and both clocks tick by `tick_s` at each look, so that whole records can be compared."""
    numbers, ticks = itertools.count(1), itertools.count()
    step = int(tick_s * 1e9)
    saved = (context.new_ids, call._clock, call._monotonic)
    context.new_ids = lambda: (f"{next(numbers):032x}", f"{next(numbers):016x}")
    call._clock = lambda: start_time_unix_nano + next(ticks) * step
    call._monotonic = lambda: next(ticks) * step
    try:
        yield
    finally:
        context.new_ids, call._clock, call._monotonic = saved
