"""The runs that are open now, by LangChain's run id: one map for all handlers of the process. Called by the handler.

It answers which call is a run's parent; `_current` answers with it which call is current in a user's code. Nothing is
attached to any context, so nothing leaks out of it or is detached in a wrong place.
"""

from __future__ import annotations

import atexit
import itertools
import os
import threading
from time import perf_counter_ns
from typing import Any, Final

from opentelemetry.context import Context

from everycall import limits
from everycall.integration import INHERIT, Call, Inherit, current

__all__ = ["RUNS", "Run", "Runs", "key"]

_LOOK_EVERY_NS: Final = 60_000_000_000
_OVERDUE_AT_ONCE: Final = 100


class Run:
    """One open run. A hidden run has no call of its own but its parent's.

    `children` are the keys of the open runs below, `said` is the text that was streamed so far.
    """

    hidden = False
    is_model = False
    said: list[str] | None = None

    def __init__(self, call: Call, parent: Run | None) -> None:
        self.call = call
        self.parent = parent
        self.children: dict[Any, None] = {}

    def hear(self, text: str) -> None:
        """Note the time of the first token, and the text in case the stream does not come to its end."""
        self.call.first_token()
        if self.said is None:
            self.said = [text]
        elif len(self.said) < limits.STREAM_CHUNKS_MAX:
            self.said.append(text)

    def text(self) -> str | None:
        """Return the text that was streamed so far; None when there is none, or more than is kept."""
        return "".join(self.said) or None if self.said and len(self.said) < limits.STREAM_CHUNKS_MAX else None

    def abandon(self) -> None:
        """End the call as left, with what a model said so far."""
        if not self.hidden:
            self.call.update(content=self.text())
            self.call.abandon()

    def parent_of_next(self, context: Context) -> Call | Inherit:
        """Return the parent for a run that LangChain puts below this one: this run's call, or what is open within it.

        What a user's code opened inside the step (`@trace`, `span()`, `context()`) is in OpenTelemetry's context; where
        that is the one of this run's start, nothing was opened. A call that is not below this run is not asked.
        """
        if context is self.call.begun_in:
            return self.call
        innermost = above = current()
        while above is not None and above is not self.call:
            above = above.above or above.around
        return self.call if innermost is None or above is None else INHERIT

    def is_below(self, above: Run) -> bool:
        """Tell whether LangChain puts this run below another."""
        parent = self.parent
        while parent is not None:
            if parent is above:
                return True
            parent = parent.parent
        return False


class Runs:
    """Open runs, at most `limits.RUNS_MAX`, none much older than `limits.RUN_AGE_MAX_S`; the others are abandoned.

    `by_key` is for reading, by `key(run_id)`. `models` counts the open runs of models by the call each was begun in.
    Each change of `by_key` is one step that needs no lock, in whatever thread.
    """

    __slots__ = ("_interrupted", "_lock", "_looked_at", "_watched", "by_key", "models")

    def __init__(self) -> None:
        self.by_key: dict[Any, Run] = {}
        self.models: dict[Call | None, int] = {}
        self._interrupted: dict[tuple[str, str], str] = {}  # session and graph to the trace that waits for its answer
        self._lock = threading.Lock()
        self._looked_at = -_LOOK_EVERY_NS
        self._watched = False

    def open(self, run_key: Any, run: Run) -> None:
        """Keep a run until `close`. Closes the oldest ones when there are too many, and now and then the overdue."""
        self.by_key[run_key] = run
        if run.parent is not None:
            run.parent.children[run_key] = None
        if run.is_model:
            begun_in = run.call.above or run.call.around
            with self._lock:
                self.models[begun_in] = self.models.get(begun_in, 0) + 1
        if len(self.by_key) > limits.RUNS_MAX or run.call.begun - self._looked_at >= _LOOK_EVERY_NS:
            self.drop_overdue()
            self._watch()

    def _watch(self) -> None:
        """See to what is open when the process ends or forks. Done after everycall's own: what is last runs first."""
        if not self._watched:
            self._watched = True
            atexit.register(self.abandon_all)
            if hasattr(os, "register_at_fork"):
                os.register_at_fork(after_in_child=self._forget)

    def drop_overdue(self) -> None:
        """Abandon the oldest runs beyond the bounds of number and age."""
        self._looked_at = now = perf_counter_ns()
        age_max = int(limits.RUN_AGE_MAX_S * 1e9)
        for run_key, oldest in list(itertools.islice(self.by_key.items(), _OVERDUE_AT_ONCE)):
            if len(self.by_key) <= limits.RUNS_MAX and now - oldest.call.begun <= age_max:
                break
            late = self.close(run_key)
            if late is not None:
                late.abandon()

    def close(self, run_key: Any) -> Run | None:
        """Take a run out, to be ended by the caller; None when it is not known, or was hidden."""
        run = self.by_key.pop(run_key, None)
        if run is None:
            return None
        if run.parent is not None:
            run.parent.children.pop(run_key, None)
        if run.is_model:
            begun_in = run.call.above or run.call.around
            with self._lock:
                left = self.models.pop(begun_in, 0) - 1
                if left > 0:
                    self.models[begun_in] = left
        return None if run.hidden else run

    def close_below(self, above: Run) -> list[Run]:
        """Take out the open runs below a run, to be ended by the caller."""
        below: list[Run] = []
        for run_key in list(above.children):
            run = self.by_key.get(run_key)
            if run is not None:
                below += self.close_below(run)
                closed = self.close(run_key)
                if closed is not None:
                    below.append(closed)
        return below

    def interrupt(self, run: Run) -> None:
        """Note that the graph in which a run stops, the outermost one, waits in its session to be resumed."""
        while run.parent is not None:
            run = run.parent
        call = run.call
        if call.session_id is not None:
            with self._lock:
                self._interrupted[call.session_id, call.name] = call.trace_id
                if len(self._interrupted) > limits.RUNS_MAX:
                    del self._interrupted[next(iter(self._interrupted))]

    def resume(self, session_id: str | None, name: str) -> str | None:
        """Return the trace in which this graph was interrupted, once; None when this process knows of none."""
        with self._lock:
            return self._interrupted.pop((session_id, name), None) if session_id is not None else None

    def abandon_all(self) -> None:
        """Close what is still open when the process ends, innermost first."""
        for run_key in reversed(list(self.by_key)):
            run = self.close(run_key)
            if run is not None:
                run.abandon()

    def _forget(self) -> None:
        """In a forked child: the runs are the parent's to end, and its lock may have been held."""
        self._lock = threading.Lock()
        self.by_key.clear()
        self.models.clear()


def key(run_id: Any) -> Any:
    """Return what a run is kept by: the number of its UUID, whose hash costs a tenth of the UUID's own."""
    return getattr(run_id, "int", run_id)


RUNS = Runs()
