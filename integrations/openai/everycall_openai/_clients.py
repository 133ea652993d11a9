"""Where the recording is put in: one client, or all of them. Called by the face.

All of the library's methods end in the client's own `request`: `create`, `parse`, `stream()`, raw responses, and
`client.post(...)` by hand. That one method is wrapped; the resources and their methods stay the library's.
"""

from __future__ import annotations

from typing import Final, TypeVar, Unpack

import openai

from everycall.integration import Labels, Wrapping
from everycall_openai._options import OpenAIOptions
from everycall_openai._request import begin

__all__ = ["instrument", "uninstrument", "wrap"]

Client = TypeVar("Client", bound="openai.OpenAI | openai.AsyncOpenAI")

_CLIENTS: Final = (openai.OpenAI, openai.AsyncOpenAI)
_wrapping: Final = Wrapping(begin, methods=("request",), copies=("copy", "with_options"))


def wrap(client: Client, *, stream_usage: bool | None = None, **labels: Unpack[Labels]) -> Client:
    """Record the requests to models that a client makes, and return that client: the same object, of the same class.

    `client` is an `OpenAI`, `AsyncOpenAI`, `AzureOpenAI` or `AsyncAzureOpenAI`; what its `with_options()` returns is
    recorded too. `labels` are `trace_name`, `end_user_identifier`, `session_id`, `tags`, `metadata`, `log_omit`,
    `log_omit_inputs`, `log_omit_outputs`, `provider`, see `everycall.integration.Labels`. `stream_usage` says whether
    tokens are asked for in streams that do not ask themselves (None: of providers that are known to tell them).

    Wrapping again replaces the options. Raises `TypeError` for what is no client of the library's.
    """
    _check(client)
    _wrapping.wrap(client, OpenAIOptions(labels, stream_usage))
    return client


def instrument(*, stream_usage: bool | None = None, **labels: Unpack[Labels]) -> None:
    """Record the requests of every client of the library in this process. The options are those of `wrap`.

    Clients that exist already are recorded too. A wrapped client has its own options alone. A second call replaces the
    options.
    """
    _wrapping.instrument(_CLIENTS, OpenAIOptions(labels, stream_usage))


def uninstrument() -> None:
    """Undo `instrument`: the library's classes are as they were. Wrapped clients stay wrapped; open streams go on."""
    _wrapping.uninstrument()


def _check(client: object) -> None:
    if not isinstance(client, _CLIENTS):
        given = type(client).__name__
        raise TypeError(f"wrap() takes a client such as openai.OpenAI() or openai.AsyncAzureOpenAI(...), not {given}")
