"""Where the recording is put in: one client, or all of them. Called by the face.

All of the library's methods end in the client's own `request`: `create`, `parse`, `stream()`, the tool runner, raw
responses, and `client.post(...)` by hand. That one method is wrapped; the resources and their methods stay the
library's.
"""

from __future__ import annotations

from typing import Any, Final, TypeVar, Unpack

import anthropic

from everycall.integration import Labels, Options, Wrapping
from everycall_anthropic._request import begin

__all__ = ["instrument", "uninstrument", "wrap"]

Client = TypeVar("Client", bound="anthropic.Anthropic | anthropic.AsyncAnthropic | Any")

_PLATFORMS: Final = ("", "Bedrock", "BedrockMantle", "Vertex", "Foundry", "AWS", "GoogleCloud")
_CLIENTS: Final[tuple[type, ...]] = tuple(
    found
    for platform in _PLATFORMS
    for name in (f"Anthropic{platform}", f"AsyncAnthropic{platform}")
    if isinstance(found := getattr(anthropic, name, None), type)
)
_wrapping: Final = Wrapping(begin, methods=("request",), copies=("copy", "with_options"), traces_itself=True)


def wrap(client: Client, **labels: Unpack[Labels]) -> Client:
    """Record the requests to models that a client makes, and return that client: the same object, of the same class.

    `client` is an `Anthropic`, `AnthropicBedrock`, `AnthropicVertex`, `AnthropicFoundry` or another of the library's,
    synchronous or not; what its `with_options()` returns is recorded too. `labels` are `trace_name`,
    `end_user_identifier`, `session_id`, `tags`, `metadata`, `log_omit`, `log_omit_inputs`, `log_omit_outputs`,
    `provider`, see `everycall.integration.Labels`.

    Wrapping again replaces the options. Raises `TypeError` for what is no client of the library's.
    """
    if not isinstance(client, _CLIENTS):
        given = type(client).__name__
        raise TypeError(f"wrap() takes a client such as anthropic.Anthropic() or AsyncAnthropic(), not {given}")
    _wrapping.wrap(client, Options(labels))
    return client


def instrument(**labels: Unpack[Labels]) -> None:
    """Record the requests of every client of the library in this process. The options are those of `wrap`.

    Clients that exist already are recorded too. A wrapped client has its own options alone. A second call replaces the
    options.
    """
    _wrapping.instrument(_CLIENTS, Options(labels))


def uninstrument() -> None:
    """Undo `instrument`: the library's classes are as they were. Wrapped clients stay wrapped; open streams go on."""
    _wrapping.uninstrument()
