"""What a user says about the requests of a client, or of all clients. Read at the start of each request."""

from __future__ import annotations

from typing import Final

from everycall.integration import Labels, Options

__all__ = ["OpenAIOptions"]

_REFUSALS_MAX: Final = 1_000


class OpenAIOptions(Options):
    """The keywords of `wrap` and `instrument`, and how this integration is to behave.

    `stream_usage` says whether usage is asked for in streams: None where the provider is known to tell it. `refusing`
    holds the addresses that refused to.
    """

    __slots__ = ("refusing", "stream_usage")

    def __init__(self, labels: Labels, stream_usage: bool | None) -> None:
        super().__init__(labels)
        self.stream_usage = stream_usage
        self.refusing: set[str] = set()

    def refused(self, address: str) -> None:
        """Remember that the server at an address does not take `stream_options`."""
        if len(self.refusing) < _REFUSALS_MAX:
            self.refusing.add(address)
