"""The runs that are open now, by LangChain's run id: one map for all handlers of the process. Called by the handler.

It answers two questions: which call is a run's parent, and which call is current in a piece of a user's code that
LangChain is running. Nothing is attached to any context, so nothing leaks out of it or is detached in a wrong place.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections import OrderedDict
from typing import Any

from langchain_core.runnables.config import var_child_runnable_config
from opentelemetry.context import Context

from everycall import limits
from everycall.instrument import INHERIT, Call, Inherit, current, register_parent_lookup

__all__ = ["RUNS", "Run", "Runs", "current_call", "key", "register"]


class Run:
    """One open run. A hidden run has no call of its own but its parent's.

    `context` is OpenTelemetry's where the run was started; `said` is the text that was streamed so far.
    """

    __slots__ = ("call", "context", "hidden", "open_children", "parent", "said", "started")

    def __init__(self, call: Call, parent: Run | None, context: Context, *, hidden: bool = False) -> None:
        self.call = call
        self.parent = parent
        self.context = context
        self.hidden = hidden
        self.open_children = 0
        self.started = time.monotonic()
        self.said: list[str] | None = None

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
        if context is self.context:
            return self.call
        innermost = above = current()
        while above is not None and above is not self.call:
            above = above.above
        return self.call if innermost is None or above is None else INHERIT


class Runs:
    """Open runs, at most `limits.RUNS_MAX`, none much older than `limits.RUN_AGE_MAX_S`; the others are abandoned.

    `by_key` is for reading, by `key(run_id)`.
    """

    __slots__ = ("_interrupted", "_lock", "_look_at", "_watched", "by_key")

    def __init__(self) -> None:
        self.by_key: OrderedDict[Any, Run] = OrderedDict()
        self._interrupted: OrderedDict[str, str] = OrderedDict()  # a session to the trace that waits for its answer
        self._lock = threading.Lock()
        self._look_at = 0.0
        self._watched = False

    def open(self, run_key: Any, run: Run) -> None:
        """Keep a run until `close`. Closes the oldest ones when there are too many, and now and then the overdue."""
        with self._lock:
            self.by_key[run_key] = run
            if run.parent is not None:
                run.parent.open_children += 1
        if len(self.by_key) > limits.RUNS_MAX or run.started >= self._look_at:
            self.drop_overdue()
        if not self._watched:
            self._watched = True
            # After the first call has set up everycall's own: what is registered last runs first.
            atexit.register(self.abandon_all)
            if hasattr(os, "register_at_fork"):
                os.register_at_fork(after_in_child=self._forget)

    def drop_overdue(self) -> None:
        """Abandon the oldest runs beyond the bounds of number and age."""
        now = time.monotonic()
        self._look_at = now + max(limits.RUN_AGE_MAX_S / 60, 1.0)
        overdue: list[Run] = []
        with self._lock:
            while self.by_key:
                run_key, oldest = next(iter(self.by_key.items()))
                if len(self.by_key) <= limits.RUNS_MAX and now - oldest.started <= limits.RUN_AGE_MAX_S:
                    break
                overdue.append(self._take(run_key))
        for late in overdue:
            late.abandon()

    def close(self, run_key: Any) -> Run | None:
        """Take a run out, to be ended by the caller; None when it is not known, or was hidden."""
        with self._lock:
            run = self._take(run_key) if run_key in self.by_key else None
        return None if run is None or run.hidden else run

    def close_below(self, above: Run) -> list[Run]:
        """Take out the open runs below a run, to be ended by the caller."""
        with self._lock:
            below = [self._take(k) for k in [k for k, run in self.by_key.items() if _is_below(run, above)]]
        return [run for run in below if not run.hidden]

    def interrupt(self, call: Call) -> None:
        """Note that a session's trace waits to be resumed."""
        if call.session_id is not None:
            with self._lock:
                self._interrupted[call.session_id] = call.trace_id
                if len(self._interrupted) > limits.RUNS_MAX:
                    self._interrupted.popitem(last=False)

    def resume(self, session_id: str | None) -> str | None:
        """Return the trace that was interrupted in this session, once; None when this process knows of none."""
        with self._lock:
            return self._interrupted.pop(session_id, None) if session_id is not None else None

    def abandon_all(self) -> None:
        """Close what is still open when the process ends, innermost first."""
        with self._lock:
            left = list(self.by_key.values())
            self.by_key.clear()
        for run in reversed(left):
            run.abandon()

    def _take(self, run_key: Any) -> Run:
        run = self.by_key.pop(run_key)
        if run.parent is not None:
            run.parent.open_children -= 1
        return run

    def _forget(self) -> None:
        """In a forked child: the runs are the parent's to end, and its lock may have been held."""
        self._lock = threading.Lock()
        self.by_key.clear()


def key(run_id: Any) -> Any:
    """Return what a run is kept by: the number of its UUID, whose hash costs a tenth of the UUID's own."""
    return getattr(run_id, "int", run_id)


def _is_below(run: Run, above: Run) -> bool:
    parent = run.parent
    while parent is not None:
        if parent is above:
            return True
        parent = parent.parent
    return False


RUNS = Runs()
_registered = False


def register() -> None:
    """Let calls opened inside a run find it, from now on. Called when the first handler is made."""
    global _registered
    if not _registered:
        _registered = True
        register_parent_lookup(current_call)


def current_call() -> Call | None:
    """Return the call of the run whose code is running here; None outside of runs, and of runs not recorded.

    LangChain sets its context variable for the code of each step and copies it to its tasks and threads.
    """
    config = var_child_runnable_config.get()
    if config is None:
        return None
    run = RUNS.by_key.get(key(getattr(config.get("callbacks"), "parent_run_id", None)))
    return None if run is None else run.call
