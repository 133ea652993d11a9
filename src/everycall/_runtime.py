"""One process's recording, put together and taken apart: `init`, `flush`, `stats`, `shutdown`.

Recording begins with `everycall.init` or the first traced call. A forked child has its own, and the exit of the process
ends it within a bound.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from everycall import _guard
from everycall._call import recorder as _recorder
from everycall._call.recorder import Recorder
from everycall._delivery import transport
from everycall._delivery.fork_gate import ForkGate, gate
from everycall._delivery.pipeline import Pipeline
from everycall._ledger import Balance, Flushed
from everycall._propagation import threads
from everycall.errors import ConfigurationError
from everycall.settings import Mask, Settings, is_disabled

__all__ = ["flush", "init", "shutdown", "stats"]

EMPTY = Balance(recorded=0, delivered=0, spooled=0)

_lock = ForkGate()  # held for moments only: calls that end late take it too
_current: Pipeline | None = None
_earlier: list[Pipeline] = []  # of an earlier `init`, or of calls that ended after a `shutdown`
_finished: Balance = EMPTY  # the sheet of pipelines that are closed and gone
_is_shut_down = _has_failed = _has_hooks = False
_exit_left_s: float | None = None  # during the exit: what is left of its time
_has_told = False
_undo: list[Callable[[], None]] = []


def init(
    *,
    endpoint: str | None = None,
    api_key: str | None = None,
    project_name: str | None = None,
    spool_dir: str | Path | None = None,
    log_omit: bool = False,
    log_omit_inputs: bool = False,
    log_omit_outputs: bool = False,
    mask: Mask | None = None,
    sample_rate: float | None = None,
    exit_timeout_s: float | None = None,
    propagate_threads: bool | None = None,
    propagate_to: Iterable[str] | None = None,
) -> None:
    """Set where and how calls are recorded; optional, the first traced call does it from the environment.

    `endpoint` is the address of the server (EVERYCALL_ENDPOINT, default http://127.0.0.1:7410), `api_key` is sent to it
    as `x-api-key` (EVERYCALL_API_KEY; on loopback the local key of this user). `project_name` files all records
    (EVERYCALL_PROJECT). `spool_dir` holds what is not delivered yet (EVERYCALL_SPOOL_DIR). The omit flags hold for the
    whole process (EVERYCALL_LOG_OMIT). `mask(field, value)` returns what to keep of a field. `sample_rate` (0.0 to 1.0)
    keeps that share of traces. `exit_timeout_s` bounds how long the process's exit may be held up.
    `propagate_threads=False` leaves threads as they are (EVERYCALL_PROPAGATE_THREADS=0). `propagate_to` names the hosts
    that httpx and requests tell of the trace they are called in, see `everycall.propagation`
    (EVERYCALL_PROPAGATE_TO); none by default.

    Raise `ConfigurationError` for a value that cannot be used. Connects to nothing and starts no thread. After a second
    `init`, what was recorded before is still delivered to where it was bound for, and calls in progress are recorded
    there when they end.
    """
    settings = Settings.build(
        endpoint=endpoint,
        api_key=api_key,
        project_name=project_name,
        spool_dir=spool_dir,
        log_omit=log_omit,
        log_omit_inputs=log_omit_inputs,
        log_omit_outputs=log_omit_outputs,
        mask=mask,
        sample_rate=sample_rate,
        exit_timeout_s=exit_timeout_s,
        propagate_threads=propagate_threads,
        propagate_to=propagate_to,
    )
    global _is_shut_down, _has_failed, _finished, _exit_left_s
    transport.preload(settings.endpoint, is_remote=not settings.on_loopback)
    with _lock:
        if _is_shut_down:
            _finished = EMPTY
        _is_shut_down = _has_failed = False
        _exit_left_s = None
        _begin(settings)


def _begin(settings: Settings) -> Recorder | None:
    """Make a pipeline and recorder the current ones. Called under the lock."""
    global _current
    previous, _current = _current, None
    if is_disabled():
        _recorder.activate(None)
        _retire(previous)
        return None
    _install_hooks()
    if previous is not None and previous.is_for(settings):
        previous.settings = settings
        _current = previous
    else:
        _retire(previous)
        _current = Pipeline(settings, _redirect)
        if not threading.main_thread().is_alive():  # the first call, and the interpreter is ending
            _begin_exit(settings.exit_timeout_s)
            _current.spool.close()
    recorder = Recorder(settings, _current.spool, _current.ledger)
    _recorder.activate(recorder)
    if _exit_left_s is None:
        _propagate(settings)
    return recorder


def _retire(pipeline: Pipeline | None) -> None:
    """Let a pipeline deliver what it has, and end then. Called under the lock."""
    _forget_closed()
    if pipeline is not None:
        _earlier.append(pipeline)
        pipeline.sender.retire()


def _forget_closed() -> None:
    global _finished
    for pipeline in [pipeline for pipeline in _earlier if not pipeline.is_open]:
        _earlier.remove(pipeline)
        _finished += pipeline.balance()


def _redirect(closed: Pipeline, line: bytes) -> None:
    """Take the line of a call that ended after its pipeline was closed, to the same destination."""
    with _lock:
        pipeline = next((one for one in _open_pipelines() if one.is_for(closed.settings)), None)
        is_new = pipeline is None
        if pipeline is None:
            pipeline = Pipeline(closed.settings, _redirect)
            pipeline.spool.wake = None  # at the exit no thread can be started
            pipeline.spool.append(line)
            _earlier.append(pipeline)
    if not is_new:
        pipeline.spool.append(line)
    elif _exit_left_s is None:
        pipeline.sender.retire()
    else:
        _deliver_at_exit(pipeline)


def _open_pipelines() -> list[Pipeline]:
    pipelines = [*_earlier, _current] if _current is not None else list(_earlier)
    return [pipeline for pipeline in pipelines if pipeline.is_open and pipeline.pid == os.getpid()]


@_guard.guarded
def _propagate(settings: Settings) -> None:
    """Install the patches that the settings require, and remove the others."""
    if settings.propagate_threads:
        threads.install()
    else:
        threads.uninstall()
    if settings.propagate_to:
        from everycall._propagation import http_clients

        http_clients.install(*http_clients.LIBRARIES)
        _undo.append(http_clients.uninstall)


def _on_demand() -> Recorder | None:
    """Initialise from the environment, at the first traced call. If a setting is invalid, warn and record nothing."""
    global _has_failed
    with _lock:
        if _current is not None:
            return _recorder.active()
        if _has_failed or _is_shut_down:
            return None
        try:
            return _begin(Settings.build())
        except ConfigurationError as error:
            _has_failed = True
            sys.stderr.write(f"everycall: {error}; nothing is recorded\n")
            return None


_recorder.on_demand(_on_demand)


def flush(timeout_s: float = 5.0) -> Flushed:
    """Try to deliver what is recorded so far, and return within `timeout_s` what is true then.

    `spooled == 0` says that nothing is left to deliver. What is still spooled is not lost: it is delivered later, by
    this process or the next. The first attempt is made at once; while the endpoint cannot be reached, the next ones
    come as they would without a flush.
    """
    deadline = time.monotonic() + timeout_s
    with _lock:
        pipelines = _open_pipelines()
    for pipeline in pipelines:
        pipeline.sender.flush(max(deadline - time.monotonic(), 0.0))
    balance = stats()
    return Flushed(balance.delivered, balance.spooled, balance.lost)


def stats() -> Balance:
    """Return the balance sheet of this process since it began to record: recorded = delivered + spooled + dropped.

    It is correct at any time. `shutdown` does not change it; the next `init` starts a new one.
    """
    with _lock:
        balance = _finished
        for pipeline in (*_earlier, _current):
            if pipeline is not None:
                balance += pipeline.balance()
    return balance


def shutdown(timeout_s: float = 2.0) -> None:
    """Deliver what can be delivered in `timeout_s`, then stop recording. What is left stays in the spool.

    Calls in progress are recorded when they end. Those that begin later are not, until the next `everycall.init()`.
    """
    global _current, _is_shut_down
    with _lock:
        if _current is not None:
            _earlier.append(_current)
        _current = None
        _is_shut_down = True
        _recorder.activate(None)
        threads.uninstall()
        while _undo:
            _undo.pop()()
        pipelines = _open_pipelines()
    _close(pipelines, timeout_s)
    with _lock:
        _forget_closed()


def _close(pipelines: list[Pipeline], timeout_s: float) -> None:
    """Close pipelines within a time that they share."""
    deadline = time.monotonic() + timeout_s
    for index, pipeline in enumerate(pipelines):
        pipeline.close(max(deadline - time.monotonic(), 0.0) / (len(pipelines) - index))


# --- forks and the exit ---


def _install_hooks() -> None:
    global _has_hooks
    if not _has_hooks:
        _has_hooks = True
        atexit.register(_at_exit)
        gate.install()
        _lock.install()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)


@_guard.guarded
def _after_fork_in_parent() -> None:
    """Have a sender there that delivers what the child leaves when it ends."""
    if _current is not None and _current.is_open:
        _current.sender.wake()


@_guard.guarded
def _after_fork_in_child() -> None:
    """Begin anew with the same settings: own files, own counts, own thread at the first call."""
    global _current, _finished
    parents, before = [*_earlier, _current], _current
    _earlier.clear()
    _current, _finished = None, EMPTY
    for pipeline in parents:
        if pipeline is not None:
            pipeline.abandon_in_child()
    if before is not None:
        _current = Pipeline(before.settings, _redirect)
        _recorder.activate(Recorder(before.settings, _current.spool, _current.ledger))


def _at_exit() -> None:
    """At the interpreter's exit: deliver within the bound, and say in one line what is left or lost."""
    with _lock:
        pipelines = _open_pipelines()
    if not pipelines:
        return
    start, timeout_s = time.monotonic(), pipelines[-1].settings.exit_timeout_s
    _close(pipelines, timeout_s)
    _begin_exit(timeout_s - (time.monotonic() - start))
    _tell_leftovers(pipelines)


def _begin_exit(left_s: float) -> None:
    """From now on, calls of exit handlers are delivered as they end, on their own thread."""
    global _exit_left_s
    _exit_left_s = max(left_s, 0.0)


def _deliver_at_exit(pipeline: Pipeline) -> None:
    """Deliver what an exit handler recorded after ours had run, in what is left of the exit's time."""
    start = time.monotonic()
    pipeline.sender.deliver_here(_exit_left_s or 0.0)
    pipeline.spool.close()
    _begin_exit((_exit_left_s or 0.0) - (time.monotonic() - start))
    _tell_leftovers([pipeline])


def _tell_leftovers(pipelines: list[Pipeline]) -> None:
    """Write one line for a whole exit."""
    global _has_told
    text = "; ".join(leftovers for pipeline in pipelines if (leftovers := pipeline.leftovers()))
    if text and not _has_told:
        _has_told = True
        with contextlib.suppress(OSError, ValueError, AttributeError):
            sys.stderr.write(f"everycall: {text}\n")
