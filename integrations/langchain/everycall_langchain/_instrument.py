"""One handler for every run of the process, through LangChain's own hook for this. Called by the face."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from typing import Any, cast

from langchain_core.tracers.context import register_configure_hook

from everycall_langchain.handler import CallbackHandler

__all__ = ["instrument", "uninstrument"]


class _Everywhere:
    """Stands where LangChain expects a context variable, of which it only uses `get`.

    A real one has a value per context, and threads begin with none: a handler set in it would miss them.
    """

    __slots__ = ("handler", "registered")

    def __init__(self) -> None:
        self.handler: CallbackHandler | None = None
        self.registered = False

    def get(self) -> CallbackHandler | None:
        return self.handler


_everywhere = _Everywhere()


def instrument(
    *,
    trace_id: str | None = None,
    trace_name: str | None = None,
    end_user_identifier: str | None = None,
    session_id: str | None = None,
    deployment_id: str | None = None,
    tags: Iterable[str] = (),
    metadata: Mapping[str, Any] | None = None,
    target: Any = None,
    log_omit: bool = False,
    log_omit_inputs: bool = False,
    log_omit_outputs: bool = False,
) -> None:
    """Record every run in this process, with no `callbacks` given. The options are those of `CallbackHandler`.

    Nothing is patched. Runs with a `CallbackHandler` of their own use that alone. A second call replaces the options.
    """
    _everywhere.handler = CallbackHandler(
        trace_id=trace_id,
        trace_name=trace_name,
        end_user_identifier=end_user_identifier,
        session_id=session_id,
        deployment_id=deployment_id,
        tags=tags,
        metadata=metadata,
        target=target,
        log_omit=log_omit,
        log_omit_inputs=log_omit_inputs,
        log_omit_outputs=log_omit_outputs,
    )
    if not _everywhere.registered:
        _everywhere.registered = True
        register_configure_hook(cast(ContextVar[Any], _everywhere), inheritable=True, handle_class=CallbackHandler)


def uninstrument() -> None:
    """Undo `instrument`. Runs that are open now are still recorded to their end."""
    _everywhere.handler = None
