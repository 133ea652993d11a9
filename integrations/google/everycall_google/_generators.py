"""The library's streams are generators that send their requests when they are read. They keep their context.

Read elsewhere (in another thread, after a `with`, by another function), a request would be below the call that runs
there, and outside of the omit flags around the call that made the stream. So the functions that make these generators
let them run in the context in which they were made. `wrap` and `instrument` patch these functions.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, Final

import wrapt
from google.genai.chats import AsyncChat, Chat
from google.genai.models import AsyncModels, Models

from everycall.integration import Patches, keep_context

__all__ = ["keep_contexts", "leave_contexts"]

_STREAM_METHODS: Final[tuple[tuple[type, str], ...]] = (
    (Models, "generate_content_stream"),
    (AsyncModels, "generate_content_stream"),
    (Chat, "send_message_stream"),
    (AsyncChat, "send_message_stream"),
)
_patches: Final = Patches()


def keep_contexts(is_recorded: Callable[[Any], bool]) -> None:
    """Let streams run in the context in which they were made, if their client's requests are recorded.

    `is_recorded` gets the `_api_client` of a client. Streams of other clients are the library's, untouched.
    """
    for owner, name in _STREAM_METHODS:
        _patches.replace(owner, name, functools.partial(_wrap_method, is_recorded))


def leave_contexts() -> None:
    """Undo `keep_contexts`: the library's classes are as they were."""
    _patches.undo()


def _wrap_method(is_recorded: Callable[[Any], bool], original: Callable[..., Any]) -> Callable[..., Any]:
    def make_stream(wrapped: Any, owner: Any, args: Any, kwargs: Any) -> Any:
        stream = wrapped(*args, **kwargs)
        return keep_context(stream) if is_recorded(_api_client_of(owner)) else stream

    async def make_stream_async(wrapped: Any, owner: Any, args: Any, kwargs: Any) -> Any:
        stream = await wrapped(*args, **kwargs)
        return keep_context(stream) if is_recorded(_api_client_of(owner)) else stream

    return wrapt.FunctionWrapper(original, make_stream_async if inspect.iscoroutinefunction(original) else make_stream)


def _api_client_of(owner: object) -> Any:
    """Return what sends the requests of `models`, or of a chat through its `models`."""
    return getattr(getattr(owner, "_modules", owner), "_api_client", None)
