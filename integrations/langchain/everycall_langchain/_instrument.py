"""One handler for all runs of the process, through LangChain's own hook for this. `everycall.instrument` calls it."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any, Unpack, cast

from langchain_core.tracers.context import register_configure_hook

from everycall_langchain._options import Keywords
from everycall_langchain.handler import CallbackHandler

__all__ = ["instrument", "uninstrument"]


class _ProcessWide:
    """Takes the place of the context variable that LangChain expects, of which it only uses `get`.

    A context variable has a value per context, and a new thread begins without one: its runs would be missed.
    """

    __slots__ = ("handler", "is_registered")

    def __init__(self) -> None:
        self.handler: CallbackHandler | None = None
        self.is_registered = False

    def get(self) -> CallbackHandler | None:
        return self.handler


_process_wide = _ProcessWide()


def instrument(**options: Unpack[Keywords]) -> None:
    """Record all runs of this process, without `callbacks` in their configs.

    The options are those of `CallbackHandler`. Nothing is patched. Runs that have a `CallbackHandler` of their own use
    only that one. A second call replaces the options. Raise `TypeError` for an unknown option.
    """
    _process_wide.handler = CallbackHandler(**options)
    if not _process_wide.is_registered:
        _process_wide.is_registered = True
        register_configure_hook(cast(ContextVar[Any], _process_wide), inheritable=True, handle_class=CallbackHandler)


def uninstrument() -> None:
    """Undo `instrument`. Runs in progress are still recorded to their end."""
    _process_wide.handler = None
