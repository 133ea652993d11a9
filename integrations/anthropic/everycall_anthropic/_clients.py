"""Where requests of Anthropic's clients are recorded: those of one client, or of all clients.

All of the library's methods end in the client's own `request`: `create`, `parse`, `stream()`, the tool runner, raw
responses, and `client.post(...)` by hand. That one method is wrapped; the resources and their methods stay the
library's.
"""

from __future__ import annotations

from typing import Any, Final, TypeVar, Unpack

import anthropic

from everycall.integration import ClientWrapper, Labels, Options
from everycall_anthropic._request import start

__all__ = ["instrument", "uninstrument", "wrap"]

Client = TypeVar("Client", bound="anthropic.Anthropic | anthropic.AsyncAnthropic | Any")

_PLATFORMS: Final = ("", "Bedrock", "BedrockMantle", "Vertex", "Foundry", "AWS", "GoogleCloud")
_CLIENTS: Final[tuple[type, ...]] = tuple(
    cls
    for platform in _PLATFORMS
    for name in (f"Anthropic{platform}", f"AsyncAnthropic{platform}")
    if isinstance(cls := getattr(anthropic, name, None), type)
)
_wrapper: Final = ClientWrapper(start, methods=("request",), copies=("copy", "with_options"), traces_itself=True)


def wrap(client: Client, **labels: Unpack[Labels]) -> Client:
    """Record the requests to models that a client sends, and return the client: the same object, of the same class.

    `client` is an `Anthropic`, `AnthropicBedrock`, `AnthropicVertex`, `AnthropicFoundry` or another of the library's
    clients, synchronous or not. Copies made by its `with_options()` are recorded too. `labels` are `trace_name`,
    `end_user_identifier`, `session_id`, `tags`, `metadata`, `log_omit`, `log_omit_inputs`, `log_omit_outputs` and
    `provider`; see `everycall.integration.Labels`.

    Wrapping a client again replaces the options. Raises `TypeError` if `client` is not a client of the library's.
    """
    if not isinstance(client, _CLIENTS):
        raise TypeError(
            f"wrap() takes a client such as anthropic.Anthropic() or AsyncAnthropic(), not {type(client).__name__}"
        )
    _wrapper.wrap(client, Options(labels))
    return client


def instrument(**labels: Unpack[Labels]) -> None:
    """Record the requests of every client of the library in this process. The options are those of `wrap`.

    Existing clients are recorded too. A wrapped client keeps its own options. Another call replaces the options.
    """
    _wrapper.instrument(_CLIENTS, Options(labels))


def uninstrument() -> None:
    """Undo `instrument`: the library's classes are as they were.

    Wrapped clients stay wrapped, and open streams are recorded to their end.
    """
    _wrapper.uninstrument()
