"""The runs in progress, by LangChain's run id: one map for all handlers of the process.

It tells a run's parent, and with `_current` which call is current in a user's code. Nothing is attached to any context,
so nothing can leak from one or be detached in the wrong place.
"""

from __future__ import annotations

import atexit
import itertools
import os
import threading
from collections.abc import Mapping
from time import perf_counter_ns
from typing import Any, Final

from opentelemetry.context import Context

from everycall import limits
from everycall.integration import INHERIT, Inherit, OwnedCall, current

__all__ = ["RUNS", "Run", "Runs", "key"]

_CHECK_INTERVAL_NS: Final = 60_000_000_000
_PIECES: Final = ("text", "reasoning", "args", "data")
"""The members of a content block that come in pieces."""
_OVERDUE_BATCH: Final = 100
"""How many of the oldest runs are looked at in one check."""


class Run:
    """One run in progress. A hidden run has no call of its own, but its parent's.

    `children` are the keys of the runs in progress below it. Of a stream, `texts` are the texts so far, `blocks` the
    content blocks by index if LangChain reports them, and `pieces` what has come of their members.
    """

    is_hidden = False
    is_model = False
    texts: list[str] | None = None
    blocks: dict[Any, dict[str, Any]] | None = None
    pieces: dict[tuple[Any, str], list[str]] | None = None

    def __init__(self, call: OwnedCall, parent: Run | None) -> None:
        self.call = call
        self.parent = parent
        self.children: dict[Any, None] = {}

    @classmethod
    def hidden_below(cls, parent: Run) -> Run:
        """Return a run that LangChain hides: what runs below it is recorded below its parent."""
        run = cls(parent.call, parent)
        run.is_hidden = True
        return run

    def add_text(self, text: str) -> None:
        """Note the time of the first token, and keep the text in case the stream does not finish."""
        self.call.first_token()
        if self.texts is None:
            self.texts = [text]
        elif len(self.texts) < limits.STREAM_CHUNKS_MAX:
            self.texts.append(text)

    def text(self) -> str | None:
        """Return the text that was streamed so far; None if there is none, or more than was kept."""
        if not self.texts or len(self.texts) >= limits.STREAM_CHUNKS_MAX:
            return None
        return "".join(self.texts) or None

    def begin_block(self, index: Any, block: Mapping[str, Any]) -> None:
        """Keep the start of a content block: its type, and the id and the name of a tool's call."""
        if self.blocks is None or self.pieces is None:
            self.blocks, self.pieces = {}, {}
        if len(self.blocks) < limits.STREAM_CHUNKS_MAX:
            self.blocks[index] = dict(block)

    def add_to_block(self, index: Any, delta: Mapping[str, Any]) -> None:
        """Add the next piece of a content block: of a text, of reasoning, or of a tool's arguments."""
        self.add_text(str(delta.get("text") or ""))
        if self.pieces is None or self.texts is None or len(self.texts) >= limits.STREAM_CHUNKS_MAX:
            return
        for name in _PIECES:
            if isinstance(piece := delta.get(name), str):
                self.pieces.setdefault((index, name), []).append(piece)

    def partial_fields(self) -> dict[str, Any]:
        """Return what a model has said so far, for `Call.update`: the text, and blocks if there is more than text."""
        fields: dict[str, Any] = {"content": self.text()}
        if self.blocks and self.pieces and any(block.get("type") != "text" for block in self.blocks.values()):
            blocks = {index: dict(block) for index, block in self.blocks.items()}
            for (index, name), pieces in self.pieces.items():
                if index in blocks:
                    blocks[index][name] = "".join(pieces)
            fields["output"] = {"role": "assistant", "content": list(blocks.values())}
        return fields

    def abandon(self) -> None:
        """End the call as abandoned, with what a model has said so far."""
        if not self.is_hidden:
            self.call.set_fields(**self.partial_fields())
            self.call.abandon()

    def parent_of_next(self, context: Context) -> OwnedCall | Inherit:
        """Return the parent of a run that LangChain puts below this one: this run's call, or one open inside it.

        A user's code may have opened a call inside the step (`@trace`, `span()`, `context()`): it is then in
        OpenTelemetry's context, which is no longer that of this run's start. A call elsewhere is not used.
        """
        if context is self.call.begun_in:
            return self.call
        innermost = above = current()
        while above is not None and above is not self.call:
            above = above.above or above.around
        return self.call if innermost is None or above is None else INHERIT

    def is_below(self, above: Run) -> bool:
        """Return whether LangChain puts this run below another."""
        parent = self.parent
        while parent is not None:
            if parent is above:
                return True
            parent = parent.parent
        return False


class Runs:
    """Runs in progress: at most `limits.RUNS_MAX`, not much older than `limits.RUN_AGE_MAX_S`; others are abandoned.

    `by_key` is for reading, by `key(run_id)`. `models` has the number of models in progress, by the call in which each
    began. Each change of `by_key` is one step that needs no lock in any thread.
    """

    __slots__ = ("_checked_ns", "_interrupted", "_is_watching", "_lock", "by_key", "models")

    def __init__(self) -> None:
        self.by_key: dict[Any, Run] = {}
        self.models: dict[OwnedCall | None, int] = {}
        self._interrupted: dict[tuple[str, str], str] = {}  # session and graph, with the trace that waits for an answer
        self._lock = threading.Lock()
        self._checked_ns = -_CHECK_INTERVAL_NS
        self._is_watching = False

    def open(self, run_key: Any, run: Run) -> None:
        """Keep a run until `close`. Abandons the oldest ones if there are too many, and overdue ones now and then."""
        self.by_key[run_key] = run
        if run.parent is not None:
            run.parent.children[run_key] = None
        if run.is_model:
            parent = run.call.above or run.call.around
            with self._lock:
                self.models[parent] = self.models.get(parent, 0) + 1
        if len(self.by_key) > limits.RUNS_MAX or run.call.begun - self._checked_ns >= _CHECK_INTERVAL_NS:
            self.drop_overdue()
            self._watch()

    def _watch(self) -> None:
        """Prepare for the end or a fork of the process. Registered after everycall's own handlers, so it runs first."""
        if not self._is_watching:
            self._is_watching = True
            atexit.register(self.abandon_all)
            if hasattr(os, "register_at_fork"):
                os.register_at_fork(after_in_child=self._forget)

    def drop_overdue(self) -> None:
        """Abandon the oldest runs that exceed the bounds of number and age."""
        self._checked_ns = now = perf_counter_ns()
        age_max = int(limits.RUN_AGE_MAX_S * 1e9)
        for run_key, oldest in list(itertools.islice(self.by_key.items(), _OVERDUE_BATCH)):
            if len(self.by_key) <= limits.RUNS_MAX and now - oldest.call.begun <= age_max:
                break
            overdue = self.close(run_key)
            if overdue is not None:
                overdue.abandon()

    def close(self, run_key: Any) -> Run | None:
        """Remove a run and return it, for the caller to end; None if it is unknown or hidden."""
        run = self.by_key.pop(run_key, None)
        if run is None:
            return None
        if run.parent is not None:
            run.parent.children.pop(run_key, None)
        if run.is_model:
            parent = run.call.above or run.call.around
            with self._lock:
                remaining = self.models.pop(parent, 0) - 1
                if remaining > 0:
                    self.models[parent] = remaining
        return None if run.is_hidden else run

    def close_below(self, above: Run) -> list[Run]:
        """Remove the runs in progress below a run and return them, for the caller to end."""
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
        """Note that the outermost graph around a run waits in its session to be resumed."""
        while run.parent is not None:
            run = run.parent
        call = run.call
        if call.session_id is not None:
            with self._lock:
                self._interrupted[call.session_id, call.name] = call.trace_id
                if len(self._interrupted) > limits.RUNS_MAX:
                    del self._interrupted[next(iter(self._interrupted))]

    def resume(self, session_id: str | None, name: str) -> str | None:
        """Return, once, the trace in which a graph was interrupted; None if this process knows of none."""
        with self._lock:
            return self._interrupted.pop((session_id, name), None) if session_id is not None else None

    def abandon_all(self) -> None:
        """Abandon all runs when the process ends, innermost first."""
        for run_key in reversed(list(self.by_key)):
            run = self.close(run_key)
            if run is not None:
                run.abandon()

    def _forget(self) -> None:
        """Forget all runs in a forked child: the parent ends them, and may have held the lock."""
        self._lock = threading.Lock()
        self.by_key.clear()
        self.models.clear()


def key(run_id: Any) -> Any:
    """Return the key of a run: the number of its UUID, which hashes in a tenth of the time of the UUID."""
    return getattr(run_id, "int", run_id)


RUNS = Runs()
