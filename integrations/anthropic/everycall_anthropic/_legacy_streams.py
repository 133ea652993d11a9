"""Streams of the library's older helpers, which read a response again: the stream that is recorded is never read.

In versions before the helper took the stream itself, `messages.stream()` makes another `Stream` of its response and
client. That client gets a decoder whose events are recorded as they are read. Used by requests.
"""

from __future__ import annotations

import inspect
import json
from typing import Any, Final

import wrapt
from anthropic.lib.streaming import MessageStream

from everycall.integration import Fields, StreamAccumulator, StreamRecorder, wrap_iterator

__all__ = ["record_legacy_stream"]

_HELPER_TAKES_RESPONSE: Final = "response" in inspect.signature(MessageStream.__init__).parameters
_EVENTS_WITHOUT_DATA: Final = frozenset({None, "ping"})


def record_legacy_stream(stream: Any, recorder: StreamRecorder) -> None:
    """Record what this version's helpers make of a stream; does nothing if they read the stream itself."""
    if _HELPER_TAKES_RESPONSE:
        stream._client = _Client(stream._client, recorder)


class _Client(wrapt.ObjectProxy):  # type: ignore[misc, type-arg, unused-ignore]
    """The client as a stream sees it: it makes the decoder of events, and the errors of error events."""

    def __init__(self, client: object, recorder: StreamRecorder) -> None:
        super().__init__(client)
        self._self_recorder = recorder

    def _make_sse_decoder(self) -> Any:
        return _Decoder(self.__wrapped__._make_sse_decoder(), self._self_recorder)

    def _make_status_error(self, *args: Any, **kwargs: Any) -> Any:
        error = self.__wrapped__._make_status_error(*args, **kwargs)
        self._self_recorder.fail(error)
        return error


class _Decoder:
    """A decoder whose events are recorded."""

    __slots__ = ("_decoder", "_recorder")

    def __init__(self, decoder: Any, recorder: StreamRecorder) -> None:
        assert recorder.accumulator is not None
        recorder.accumulator = _EventAccumulator(recorder.accumulator)
        self._decoder = decoder
        self._recorder = recorder

    def iter_bytes(self, chunks: Any) -> Any:
        return wrap_iterator(self._decoder.iter_bytes(chunks), self._recorder)

    def aiter_bytes(self, chunks: Any) -> Any:
        return wrap_iterator(self._decoder.aiter_bytes(chunks), self._recorder)


class _EventAccumulator(StreamAccumulator):
    """An accumulator of server-sent events whose data is JSON."""

    __slots__ = ("_inner",)

    def __init__(self, inner: StreamAccumulator) -> None:
        super().__init__(inner.captures_output)
        self._inner = inner

    def add(self, chunk: Any) -> None:
        if chunk.event not in _EVENTS_WITHOUT_DATA and chunk.data:
            self._inner.add(json.loads(chunk.data))
            self.has_output, self.is_complete = self._inner.has_output, self._inner.is_complete

    def fields(self) -> Fields:
        return self._inner.fields()
