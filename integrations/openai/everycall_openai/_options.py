"""The options of `wrap` and `instrument`, read at the start of each request."""

from __future__ import annotations

from typing import Final

from everycall.integration import Labels, Options

__all__ = ["OpenAIOptions"]

_URLS_MAX: Final = 1_000


class OpenAIOptions(Options):
    """The labels of requests, and whether streams are made to report their usage.

    `stream_usage` is None for providers that are known to report it. `urls_without_usage` has the base URLs of servers
    that rejected a request which asked for usage.
    """

    __slots__ = ("stream_usage", "urls_without_usage")

    def __init__(self, labels: Labels, stream_usage: bool | None) -> None:
        super().__init__(labels)
        self.stream_usage = stream_usage
        self.urls_without_usage: set[str] = set()

    def add_url_without_usage(self, base_url: str) -> None:
        """Remember that the server at a URL rejects `stream_options`."""
        if len(self.urls_without_usage) < _URLS_MAX:
            self.urls_without_usage.add(base_url)
