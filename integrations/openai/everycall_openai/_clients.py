"""Where requests of OpenAI's clients are recorded: those of one client, or of all clients.

All of the library's methods end in the client's own `request`: `create`, `parse`, `stream()`, raw responses, and
`client.post(...)` by hand. That one method is wrapped; the resources and their methods stay the library's.
"""

from __future__ import annotations

from typing import Final, TypeVar, Unpack

import openai

from everycall.integration import ClientWrapper, Labels
from everycall_openai._options import OpenAIOptions
from everycall_openai._request import start

__all__ = ["instrument", "uninstrument", "wrap"]

Client = TypeVar("Client", bound="openai.OpenAI | openai.AsyncOpenAI")

_CLIENTS: Final = (openai.OpenAI, openai.AsyncOpenAI)
_wrapper: Final = ClientWrapper(start, methods=("request",), copies=("copy", "with_options"))


def wrap(client: Client, *, stream_usage: bool | None = None, **labels: Unpack[Labels]) -> Client:
    """Record the requests to models that a client sends, and return the client: the same object, of the same class.

    `client` is an `OpenAI`, `AsyncOpenAI`, `AzureOpenAI` or `AsyncAzureOpenAI`. Copies made by its `with_options()` are
    recorded too. `labels` are `trace_name`, `end_user_identifier`, `session_id`, `tags`, `metadata`, `log_omit`,
    `log_omit_inputs`, `log_omit_outputs` and `provider`; see `everycall.integration.Labels`. `stream_usage` says
    whether a stream that does not ask for its token usage is made to; None does so for providers known to report it.

    Wrapping a client again replaces the options. Raises `TypeError` if `client` is not a client of the library's.
    """
    if not isinstance(client, _CLIENTS):
        raise TypeError(
            "wrap() takes a client such as openai.OpenAI() or openai.AsyncAzureOpenAI(...), "
            f"not {type(client).__name__}"
        )
    _wrapper.wrap(client, OpenAIOptions(labels, stream_usage))
    return client


def instrument(*, stream_usage: bool | None = None, **labels: Unpack[Labels]) -> None:
    """Record the requests of every client of the library in this process. The options are those of `wrap`.

    Existing clients are recorded too. A wrapped client keeps its own options. Another call replaces the options.
    """
    _wrapper.instrument(_CLIENTS, OpenAIOptions(labels, stream_usage))


def uninstrument() -> None:
    """Undo `instrument`: the library's classes are as they were.

    Wrapped clients stay wrapped, and open streams are recorded to their end.
    """
    _wrapper.uninstrument()
