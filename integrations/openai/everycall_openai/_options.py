"""What a user says about the requests of a client, or of all clients. Read at the start of each request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from everycall.instrument import current

__all__ = ["Options"]

_REFUSALS_MAX: Final = 1_000


class Options:
    """The keywords of `wrap` and `instrument`: `arguments()` of `start_call`, and how this integration is to behave.

    `provider` names the provider where the host does not. `stream_usage` says whether usage is asked for in streams:
    None where the provider is known to tell it. `refusing` holds the addresses that refused to.
    """

    __slots__ = ("_given", "_within", "provider", "refusing", "stream_usage")

    def __init__(self, labels: Mapping[str, Any], provider: str | None, stream_usage: bool | None) -> None:
        self._given = {name: value for name, value in labels.items() if value}
        self._within = {name: value for name, value in self._given.items() if name != "trace_name"}
        self.provider = provider
        self.stream_usage = stream_usage
        self.refusing: set[str] = set()

    def arguments(self) -> Mapping[str, Any]:
        """Return what `start_call` is given here: a trace that has begun keeps its name."""
        return self._given if self._within is self._given or current() is None else self._within

    def refused(self, address: str) -> None:
        """Remember that the server at an address does not take `stream_options`."""
        if len(self.refusing) < _REFUSALS_MAX:
            self.refusing.add(address)
