"""Where requests of Google's clients are recorded: those of one client, or of all clients.

All of the library's methods end in four functions of `client._api_client`, which `client.models`, `client.aio.models`
and chats share. Each request passes there once, those of automatic function calling too. What the caller gets stays the
library's own.
"""

from __future__ import annotations

from typing import Final, TypeVar, Unpack

from google.genai._api_client import BaseApiClient
from google.genai.client import AsyncClient, Client

from everycall.integration import ClientWrapper, Labels, Options
from everycall_google._generators import keep_contexts, leave_contexts
from everycall_google._request import start

__all__ = ["instrument", "uninstrument", "wrap"]

AnyClient = TypeVar("AnyClient", bound="Client | AsyncClient")

_wrapper: Final = ClientWrapper(
    start, methods=("request", "async_request", "request_streamed", "async_request_streamed")
)


class _State:
    """Whether a client was ever wrapped: its streams then keep their context after `uninstrument`, too."""

    has_wrapped = False


def wrap(client: AnyClient, **labels: Unpack[Labels]) -> AnyClient:
    """Record the requests to models that a client sends, and return the client: the same object, of the same class.

    `client` is a `genai.Client`, of Gemini's API or Vertex AI, or its `aio`. Both sides and their chats are recorded.
    `labels` are `trace_name`, `end_user_identifier`, `session_id`, `tags`, `metadata`, `log_omit`, `log_omit_inputs`,
    `log_omit_outputs` and `provider`; see `everycall.integration.Labels`.

    Wrapping a client again replaces the options. Raises `TypeError` if `client` is not a client of the library's.
    """
    _check(client)
    _wrapper.wrap(client._api_client, Options(labels))
    _State.has_wrapped = True
    keep_contexts(_wrapper.is_recorded)
    return client


def instrument(**labels: Unpack[Labels]) -> None:
    """Record the requests of every client of the library in this process. The options are those of `wrap`.

    Existing clients are recorded too. A wrapped client keeps its own options. Another call replaces the options.
    """
    _wrapper.instrument((BaseApiClient,), Options(labels))
    keep_contexts(_wrapper.is_recorded)


def uninstrument() -> None:
    """Undo `instrument`: the library's classes are as they were.

    Wrapped clients stay wrapped, and open streams are recorded to their end.
    """
    _wrapper.uninstrument()
    if not _State.has_wrapped:
        leave_contexts()


def _check(client: object) -> None:
    if not isinstance(client, (Client, AsyncClient)):
        raise TypeError(f"wrap() takes a client such as genai.Client(), not {type(client).__name__}")
