"""Errors that come as plain JSON, with status 200, where a stream was asked for. Used by requests of Stainless clients.

The library looks for server-sent events, finds none, and returns an empty stream.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from everycall import limits
from everycall._guard import guarded
from everycall._instrumentation.stream import StreamRecorder

__all__ = ["ErrorBodyDecoder", "is_json"]


def is_json(response: Any) -> bool:
    """Return whether a response says that its body is JSON."""
    return str(response.headers.get("content-type", "")).startswith("application/json")


class ErrorBodyDecoder:
    """A stream's decoder of server-sent events that records a body without events, if it is an error.

    `read_response` returns the fields of a whole response; they have a `failure` if the response is an error.
    """

    __slots__ = ("_decoder", "_read_response", "_recorder")

    def __init__(self, decoder: Any, recorder: StreamRecorder, read_response: Callable[[Any], dict[str, Any]]) -> None:
        self._decoder = decoder
        self._recorder = recorder
        self._read_response = read_response

    def iter_bytes(self, chunks: Iterator[bytes]) -> Iterator[Any]:
        """Yield the decoder's events."""
        body, has_events = bytearray(), False
        for event in self._decoder.iter_bytes(_copied(chunks, body)):
            has_events = True
            yield event
        if not has_events:
            self._record(body)

    async def aiter_bytes(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[Any]:
        """Yield the decoder's events."""
        body, has_events = bytearray(), False
        async for event in self._decoder.aiter_bytes(_copied_async(chunks, body)):
            has_events = True
            yield event
        if not has_events:
            self._record(body)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._decoder, name)

    @guarded
    def _record(self, body: bytearray) -> None:
        try:
            response = json.loads(body)
        except (ValueError, RecursionError):
            return
        fields = self._read_response(response) if isinstance(response, dict) else {}
        if "failure" in fields:
            self._recorder.complete(fields)


def _copied(chunks: Iterator[bytes], body: bytearray) -> Iterator[bytes]:
    """Yield the chunks, and add them to `body`, whose first bytes are enough to read an error."""
    for chunk in chunks:
        if len(body) < limits.ANSWER_BYTES_MAX:
            body += chunk
        yield chunk


async def _copied_async(chunks: AsyncIterator[bytes], body: bytearray) -> AsyncIterator[bytes]:
    async for chunk in chunks:
        if len(body) < limits.ANSWER_BYTES_MAX:
            body += chunk
        yield chunk
