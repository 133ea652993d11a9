"""The public seam that integrations build on: calls, context, streams, wrapping. Layer 3, public.

An integration imports this module, `everycall.errors`, `everycall.limits` and its own library, nothing else of
everycall's. A call is begun with `start_call`, made current only while the instrumented code runs (`active`), and ended
exactly once. What an integration does inside the user's program goes through `guarded`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from everycall._call import INHERIT, UNSET, Call, Inherit, Unset, start_call
from everycall._context import add_lookup, attach, current_call, detach
from everycall._guard import guarded, report
from everycall._stream import Chunks, drive, drive_async
from everycall.settings import OMIT_ALL, OMIT_INPUTS, OMIT_NOTHING, OMIT_OUTPUTS, omit_flags

__all__ = [
    "INHERIT",
    "OMIT_ALL",
    "OMIT_INPUTS",
    "OMIT_NOTHING",
    "OMIT_OUTPUTS",
    "UNSET",
    "Call",
    "Chunks",
    "Inherit",
    "Unset",
    "active",
    "current",
    "drive",
    "drive_async",
    "guarded",
    "omit_flags",
    "register_parent_lookup",
    "report",
    "start_call",
]


def current() -> Call | None:
    """Return the call in progress here, or None."""
    return current_call()


@contextmanager
def active(call: Call) -> Iterator[Call]:
    """Make a call current while a block runs; does not end it."""
    token = attach(call, call)
    try:
        yield call
    finally:
        detach(token)


def register_parent_lookup(lookup: Callable[[], Call | None]) -> Callable[[], None]:
    """Let an integration say which of its calls is running here; returns a function that undoes it.

    Asked whenever a call looks for its parent. Its answer is taken when that call lies below the context's own, so a
    framework that carries its own context (LangChain's run tree) needs nothing attached and nothing patched.
    """
    return add_lookup(lookup)
