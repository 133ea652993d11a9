"""Passes the context of a call to threads that it starts, and to tasks that it submits to thread pools.

The runtime installs this at `init` or at the first traced call, and removes it at `shutdown`. The whole OpenTelemetry
context is passed on, as `asyncio.to_thread` does. Without a call or scope in progress nothing changes. Worker
threads of a pool, and everycall's threads, belong to no call.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any

from opentelemetry.context.context import Context

from everycall import _guard
from everycall._call.context import attach_whole, detach, snapshot
from everycall._patches import AnyFunction, Patches
from everycall._propagation import greenlets

__all__ = ["install", "is_installed", "uninstall"]

_WORKERS = frozenset(
    {"concurrent.futures.thread", "concurrent.futures.process", "multiprocessing.pool", "everycall._delivery.sender"}
)
_POOL_METHODS = ("apply_async", "map", "map_async", "imap", "imap_unordered", "starmap", "starmap_async")
_patches = Patches()


def install() -> None:
    """Pass the context to threads, in this process and its forked children. Calling it again does nothing."""
    from concurrent.futures import ThreadPoolExecutor  # here, not above: importing everycall loads little

    _patches.replace(threading.Thread, "start", _start)
    _patches.replace(ThreadPoolExecutor, "submit", _submit)
    _install_pool()
    greenlets.install()


def uninstall() -> None:
    """Restore the original functions. If another library has wrapped ours, ours stays in place and does nothing."""
    _patches.undo()
    greenlets.uninstall()


def is_installed() -> bool:
    """Return whether threads get the context now."""
    return _patches.on


def _install_pool() -> None:
    """Replace the methods of `multiprocessing.pool.ThreadPool` if its module is loaded.

    It is called again when a pool's first worker starts, and then the module is loaded.
    """
    module = sys.modules.get("multiprocessing.pool")
    if module is not None and hasattr(module, "ThreadPool"):
        for name in _POOL_METHODS:
            _patches.replace(module.ThreadPool, name, _submit)


def _start(original: AnyFunction) -> AnyFunction:
    def start(self: threading.Thread, *args: Any, **kwargs: Any) -> Any:
        undo = _prepare(self) if _patches.on else None
        if undo is None:
            return original(self, *args, **kwargs)
        try:
            return original(self, *args, **kwargs)
        except BaseException:
            undo()
            raise

    return start


def _prepare(thread: threading.Thread) -> Callable[[], None] | None:
    """Make a thread's `run` start in this context, whatever its class. Return a function that undoes it."""
    try:
        context = snapshot()
        if context is None or _is_worker(thread):
            return None
        own = vars(thread)
        before = own.get("run")

        def undo() -> None:
            if before is None:
                own.pop("run", None)
            else:
                own["run"] = before

        own["run"] = _carrying(thread.run, context, undo)
    except Exception as error:  # noqa: BLE001 - the guard: the user's thread must start
        _guard.report("Thread.start", error)
        return None
    return undo


def _is_worker(thread: threading.Thread) -> bool:
    """Return whether a thread is a worker of a pool, which outlives the call that started it."""
    module = getattr(getattr(thread, "_target", None), "__module__", None)
    if module == "multiprocessing.pool":
        _install_pool()
    return module in _WORKERS or type(thread).__module__ in _WORKERS


def _submit(original: AnyFunction) -> AnyFunction:
    def submit(*args: Any, **kwargs: Any) -> Any:
        if _patches.on and (len(args) > 1 or "func" in kwargs) and not _leaves_the_interpreter(args[0]):
            context = snapshot()
            if context is not None:
                if len(args) > 1:
                    args = (args[0], _carrying(args[1], context), *args[2:])
                else:
                    kwargs["func"] = _carrying(kwargs["func"], context)
        return original(*args, **kwargs)

    return submit


def _leaves_the_interpreter(pool: object) -> bool:
    """Return whether a pool pickles its tasks, as Python 3.14's `InterpreterPoolExecutor`, a thread pool, does."""
    module = sys.modules.get("concurrent.futures.interpreter")
    return module is not None and isinstance(pool, module.InterpreterPoolExecutor)


def _carrying(function: AnyFunction, context: Context, first: Callable[[], None] | None = None) -> AnyFunction:
    """Return a function that runs in `context`. It removes itself from the tracebacks of exceptions."""

    def carried(*args: Any, **kwargs: Any) -> Any:
        if first is not None:
            first()
        token = attach_whole(context)
        try:
            return function(*args, **kwargs)
        except BaseException as error:
            trace = error.__traceback__
            if trace is not None and trace.tb_next is not None:
                error.__traceback__ = trace.tb_next
            raise
        finally:
            detach(token)

    return carried
