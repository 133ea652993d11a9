"""One process's recording: settings, spool, sender and recorder put together, and taken apart. Layer 4.

The face calls it. Made by `everycall.init` or by the first traced call, remade in a forked child, shut down at exit
within a bound.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from everycall import _guard
from everycall._call import recorder as _recorder
from everycall._call.recorder import Recorder
from everycall._delivery import transport
from everycall._delivery.fork_gate import ForkGate, gate
from everycall._delivery.sender import Sender
from everycall._delivery.spool import Spool
from everycall._delivery.transport import Transport
from everycall._ledger import Balance, Flushed, Ledger
from everycall._propagation import threads
from everycall._version import SDK
from everycall.errors import ConfigurationError
from everycall.settings import Mask, Settings, is_disabled

__all__ = ["flush", "init", "shutdown", "stats"]

EMPTY = Balance(recorded=0, delivered=0, spooled=0)


class Runtime:
    """The parts of one process. Also the recorder's sink: `append` spools a line and wakes the sender if it sleeps."""

    __slots__ = ("ledger", "pid", "recorder", "sender", "settings", "spool")

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.pid = os.getpid()
        self.ledger = Ledger()
        self.spool = Spool(settings.spool_root(), settings.endpoint, settings.project_name, self.ledger)
        self.sender = Sender(self.spool, self._transport, settings.key)
        self.recorder = Recorder(settings, self, self.ledger)

    def append(self, line: bytes) -> None:
        """Take one record's JSON: on the spool when this returns."""
        self.spool.append(line)
        if self.sender.idle or not self.sender.alive:
            self.sender.wake()

    def _transport(self) -> Transport:
        settings = self.settings
        return Transport(settings.endpoint, compress=not settings.on_loopback, client=self.spool.client, user_agent=SDK)

    def flush(self, timeout_s: float) -> Flushed:
        """Try to deliver all; return in time with what is true then."""
        self.sender.flush(timeout_s)
        balance = self.spool.balance()
        return Flushed(balance.delivered, balance.spooled, balance.lost)

    def close(self, timeout_s: float) -> Balance:
        """Deliver what can be delivered in time, stop the sender, let go of the files; returns the last balance."""
        deadline = time.monotonic() + timeout_s
        if timeout_s > 0:
            self.sender.flush(timeout_s * 0.8)
        self.sender.stop(max(deadline - time.monotonic(), 0.05))
        balance = self.spool.balance()
        self.spool.close()
        lost = self.ledger.dropped
        kept = balance.spooled - (sum(lost.values()) - balance.lost)
        return Balance(balance.recorded, balance.delivered, kept, dict(lost), balance.adopted)


_runtime: Runtime | None = None
_last: Balance = EMPTY
_lock = ForkGate()
_hooked = _failed = _closed = False
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

    Raises `ConfigurationError` for a value that cannot be used. Connects to nothing, starts no thread. A second `init`
    closes the first: its records stay spooled and are delivered.
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
    global _runtime, _closed, _failed
    with _lock:
        before, _runtime = _runtime, None
        _closed = _failed = False
        if before is not None:
            _recorder.activate(None)
            before.close(0.0)
        transport.preload(settings.endpoint, is_remote=not settings.on_loopback)
        _begin(settings)


def _begin(settings: Settings) -> Recorder | None:
    global _runtime
    if is_disabled():
        return None
    _hook()
    _runtime = Runtime(settings)
    _recorder.activate(_runtime.recorder)
    _propagate(settings)
    return _runtime.recorder


@_guard.guarded
def _propagate(settings: Settings) -> None:
    """Switch the patches on that the settings ask for, and those off that they do not."""
    if settings.propagate_threads:
        threads.install()
    else:
        threads.uninstall()
    if settings.propagate_to:
        from everycall._propagation import http_clients

        http_clients.install(*http_clients.LIBRARIES)
        _undo.append(http_clients.uninstall)


def _on_demand() -> Recorder | None:
    """Begin from the environment, for the first traced call. A bad setting is told once; calls then go unrecorded."""
    global _failed
    with _lock:
        if _runtime is not None:
            return _runtime.recorder
        if _failed or _closed:
            return None
        try:
            return _begin(Settings.build())
        except ConfigurationError as error:
            _failed = True
            sys.stderr.write(f"everycall: {error}; nothing is recorded\n")
            return None


_recorder.on_demand(_on_demand)


def _hook() -> None:
    global _hooked
    if not _hooked:
        _hooked = True
        atexit.register(_at_exit)
        gate.install()
        _lock.install()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=_after_fork)


def _after_fork() -> None:
    """In a forked child: own files, own counts, own thread at the first call. The parent's are let be."""
    global _runtime, _lock
    _lock = ForkGate()
    parent = _runtime
    if parent is None:
        return
    with contextlib.suppress(OSError):
        parent.spool.abandon_in_child()
        parent.sender.release_in_child()
    _runtime = Runtime(parent.settings)
    _recorder.activate(_runtime.recorder)


def flush(timeout_s: float = 5.0) -> Flushed:
    """Try to deliver what is recorded so far; returns within `timeout_s` with the truth: `spooled == 0` when all went.

    What is still spooled is not lost: it is delivered later, by this process or the next.
    """
    runtime = _runtime
    return runtime.flush(timeout_s) if runtime is not None else Flushed(0, 0, 0)


def stats() -> Balance:
    """Return the balance sheet of this process: recorded = delivered + spooled + dropped, at any moment."""
    runtime = _runtime
    return runtime.spool.balance() if runtime is not None else _last


def shutdown(timeout_s: float = 2.0) -> None:
    """Deliver what can be delivered in `timeout_s`, then stop recording. What is left stays in the spool.

    A later `everycall.init()` begins anew; without it, traced functions run unrecorded.
    """
    global _runtime, _last, _closed
    with _lock:
        runtime, _runtime = _runtime, None
        _closed = True
        _recorder.activate(None)
        threads.uninstall()
        while _undo:
            _undo.pop()()
        if runtime is None:
            return
        _last = runtime.close(timeout_s)


def _at_exit() -> None:
    """At the interpreter's exit: within the bound, and one line when something is left or lost."""
    runtime = _runtime
    if runtime is None or runtime.pid != os.getpid():
        return
    shutdown(runtime.settings.exit_timeout_s)
    balance = _last
    if balance.spooled or balance.lost:
        parts = []
        if balance.spooled:
            why = f" ({runtime.sender.last_failure})" if runtime.sender.last_failure else ""
            parts.append(
                f"{balance.spooled} of {balance.recorded} records not delivered yet{why}; kept in "
                f"{runtime.spool.directory}, sent by the next process or `everycall ship`"
            )
        if balance.lost:
            reasons = ", ".join(f"{reason}: {count}" for reason, count in sorted(balance.dropped.items()))
            parts.append(f"{balance.lost} of {balance.recorded} records lost ({reasons})")
        with contextlib.suppress(OSError, ValueError, AttributeError):
            sys.stderr.write(f"everycall: {'; '.join(parts)}\n")
