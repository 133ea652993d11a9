"""Streams of the library's older helpers, which read an answer anew: then the stream that was followed is never read.

In versions before the helper took the stream itself, `messages.stream()` makes another `Stream` of its response and
client. That client is given a decoder whose events are seen as they pass. Called by exchanges.
"""

from __future__ import annotations

import inspect
import json
from typing import Any, Final

import wrapt
from anthropic.lib.streaming import MessageStream

from everycall.integration import Gathering, Reading, follow

__all__ = ["follow_remade"]

_IS_REMADE: Final = "response" in inspect.signature(MessageStream.__init__).parameters
_PINGS: Final = frozenset({None, "ping"})


def follow_remade(stream: Any, reading: Reading) -> None:
    """Follow whatever this version's helpers make of a stream; nothing to do where they read the stream itself."""
    if _IS_REMADE:
        stream._client = _Client(stream._client, reading)


class _Client(wrapt.ObjectProxy):  # type: ignore[misc, type-arg, unused-ignore]
    """The client as a stream sees it: what decodes its events, and makes errors of them."""

    def __init__(self, client: Any, reading: Reading) -> None:
        super().__init__(client)
        self._self_reading = reading

    def _make_sse_decoder(self) -> Any:
        return _Decoder(self.__wrapped__._make_sse_decoder(), self._self_reading)

    def _make_status_error(self, *args: Any, **kwargs: Any) -> Any:
        error = self.__wrapped__._make_status_error(*args, **kwargs)
        self._self_reading.fail(error)
        return error


class _Decoder:
    """A decoder whose events are seen by a reading."""

    __slots__ = ("_decoder", "_reading")

    def __init__(self, decoder: Any, reading: Reading) -> None:
        assert reading.gathering is not None
        reading.gathering = _Undecoded(reading.gathering)
        self._decoder = decoder
        self._reading = reading

    def iter_bytes(self, chunks: Any) -> Any:
        return follow(self._decoder.iter_bytes(chunks), self._reading)

    def aiter_bytes(self, chunks: Any) -> Any:
        return follow(self._decoder.aiter_bytes(chunks), self._reading)


class _Undecoded(Gathering):
    """A gathering that is given server-sent events, whose data is JSON."""

    __slots__ = ("_inner",)

    def __init__(self, inner: Gathering) -> None:
        super().__init__(inner.keeps)
        self._inner = inner

    def take(self, piece: Any) -> None:
        if piece.event not in _PINGS and piece.data:
            self._inner.take(json.loads(piece.data))
            self.spoke, self.complete = self._inner.spoke, self._inner.complete

    def fields(self) -> dict[str, Any]:
        return self._inner.fields()
