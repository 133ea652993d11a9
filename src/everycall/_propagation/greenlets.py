"""Passes the context of a call to greenlets of gevent and eventlet, as `threads` does to threads.

Only a library that is loaded when everycall starts is hooked: both ask to be imported first. A greenlet gets
everycall's and OpenTelemetry's context alone; the program's own context variables stay as they were in it.
"""

from __future__ import annotations

import contextvars
import sys
from typing import Any

from everycall import _guard
from everycall._call.context import attach_whole, snapshot
from everycall._patches import AnyFunction, Patches

__all__ = ["install", "uninstall"]

_patches = Patches()


def install() -> None:
    """Hook into the libraries that are loaded. Calling it again does nothing; never raises."""
    try:
        gevent: Any = sys.modules.get("gevent")
        if gevent is not None:
            gevent.Greenlet.add_spawn_callback(_give_context)
        eventlet: Any = sys.modules.get("eventlet.greenthread")
        if eventlet is not None:
            _patches.replace(eventlet.GreenThread, "__init__", _init)
            _patches.replace(eventlet, "_spawn_n", _spawn_n)
    except (AttributeError, TypeError) as error:  # a version with other internals, or half imported
        _guard.report("greenlets", error)


def uninstall() -> None:
    """Take the hooks away. Calling it again does nothing."""
    _patches.undo()
    gevent: Any = sys.modules.get("gevent")
    if gevent is not None and hasattr(gevent, "Greenlet"):
        gevent.Greenlet.remove_spawn_callback(_give_context)


def _init(original: AnyFunction) -> AnyFunction:
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        if _patches.on:
            _give_context(self)

    return init


def _spawn_n(original: AnyFunction) -> AnyFunction:
    def spawn_n(*args: Any, **kwargs: Any) -> Any:
        started = original(*args, **kwargs)  # a timer and the greenlet
        if _patches.on:
            _give_context(started[1])
        return started

    return spawn_n


@_guard.guarded
def _give_context(greenlet: Any) -> None:
    """Let a greenlet that has not begun start in the current context; nothing changes outside of calls."""
    context = snapshot()
    if context is None or greenlet.gr_context is not None:
        return
    variables = contextvars.Context()
    variables.run(attach_whole, context)
    greenlet.gr_context = variables
