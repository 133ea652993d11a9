"""Where the recording is put in: one client, or all of them. Called by the face.

All of the library's methods end in four functions of what a client sends its requests with, `client._api_client`; that
is shared by `client.models`, `client.aio.models` and chats. There each request passes once, also those of automatic
function calling, and each is recorded. What returns to the user stays the library's own.
"""

from __future__ import annotations

from typing import Any, Final, TypeVar, Unpack

from google.genai._api_client import BaseApiClient
from google.genai.client import AsyncClient, Client

from everycall.integration import Labels, Options, Wrapping
from everycall_google._generators import keep_contexts, leave_contexts
from everycall_google._request import begin

__all__ = ["instrument", "uninstrument", "wrap"]

Given = TypeVar("Given", Client, AsyncClient)

_wrapping: Final = Wrapping(begin, methods=("request", "async_request", "request_streamed", "async_request_streamed"))


class _State:
    """Whether a client was ever wrapped: what keeps the contexts of its streams then outlives `uninstrument`."""

    has_wrapped = False


def wrap(client: Given, **labels: Unpack[Labels]) -> Given:
    """Record the requests to models that a client makes, and return that client: the same object, of the same class.

    `client` is a `genai.Client`, for Gemini's API or Vertex AI, or its `aio`; both and their chats are recorded.
    `labels` are `trace_name`, `end_user_identifier`, `session_id`, `tags`, `metadata`, `log_omit`, `log_omit_inputs`,
    `log_omit_outputs`, `provider`, see `everycall.integration.Labels`.

    Wrapping again replaces the options. Raises `TypeError` for what is no client of the library's.
    """
    _check(client)
    _wrapping.wrap(client._api_client, Options(labels))
    _State.has_wrapped = True
    keep_contexts(_wrapping.records)
    return client


def instrument(**labels: Unpack[Labels]) -> None:
    """Record the requests of every client of the library in this process. The options are those of `wrap`.

    Clients that exist already are recorded too. A wrapped client has its own options alone. A second call replaces the
    options.
    """
    _wrapping.instrument((BaseApiClient,), Options(labels))
    keep_contexts(_wrapping.records)


def uninstrument() -> None:
    """Undo `instrument`: the library's classes are as they were. Wrapped clients stay wrapped; open streams go on."""
    _wrapping.uninstrument()
    if not _State.has_wrapped:
        leave_contexts()


def _check(client: Any) -> None:
    if not isinstance(client, (Client, AsyncClient)):
        raise TypeError(f"wrap() takes a client such as genai.Client(), not {type(client).__name__}")
