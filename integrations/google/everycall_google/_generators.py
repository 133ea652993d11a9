"""Streams belong where they are asked for. The library's are generators: they send their requests when they are read.

Read elsewhere (in another thread, after a `with`, by who was handed the stream), a request would be below whatever runs
there, and outside of the omit flags that were around the call. So the functions that make these generators have them
run in the context of the call. Put in by `wrap` and `instrument`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, Final

import wrapt
from google.genai.chats import AsyncChat, Chat
from google.genai.models import AsyncModels, Models

from everycall.integration import Patches, carried

__all__ = ["keep_contexts", "leave_contexts"]

_MAKERS: Final[tuple[tuple[type, str], ...]] = (
    (Models, "generate_content_stream"),
    (AsyncModels, "generate_content_stream"),
    (Chat, "send_message_stream"),
    (AsyncChat, "send_message_stream"),
)
_patches: Final = Patches()


def keep_contexts(is_recorded: Callable[[Any], bool]) -> None:
    """Let streams run in the context they were asked for in, where their client's requests are recorded.

    `is_recorded` is asked with what sends a client's requests. Streams of other clients are the library's untouched.
    """
    for owner, name in _MAKERS:
        _patches.replace(owner, name, functools.partial(_keeping, is_recorded))


def leave_contexts() -> None:
    """Undo it: the library's classes are as they were."""
    _patches.undo()


def _keeping(is_recorded: Callable[[Any], bool], original: Callable[..., Any]) -> Callable[..., Any]:
    def ask(wrapped: Any, owner: Any, args: Any, kwargs: Any) -> Any:
        stream = wrapped(*args, **kwargs)
        return carried(stream) if is_recorded(_sender_of(owner)) else stream

    async def ask_later(wrapped: Any, owner: Any, args: Any, kwargs: Any) -> Any:
        stream = await wrapped(*args, **kwargs)
        return carried(stream) if is_recorded(_sender_of(owner)) else stream

    return wrapt.FunctionWrapper(original, ask_later if inspect.iscoroutinefunction(original) else ask)


def _sender_of(owner: Any) -> Any:
    """Return what sends the requests of models, or of a chat by way of its models."""
    return getattr(getattr(owner, "_modules", owner), "_api_client", None)
