"""Chunks with an error. The library raises their error and drops the rest, which may have the tokens.

Used by requests.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

from everycall.integration import StreamRecorder, guarded

__all__ = ["ErrorChunkDecoder"]


class ErrorChunkDecoder:
    """A stream's decoder of server-sent events that adds chunks with an error to the recorder."""

    __slots__ = ("_decoder", "_recorder")

    def __init__(self, decoder: Any, recorder: StreamRecorder) -> None:
        self._decoder = decoder
        self._recorder = recorder

    def iter_bytes(self, chunks: Iterator[bytes]) -> Iterator[Any]:
        """Yield the decoder's events."""
        for event in self._decoder.iter_bytes(chunks):
            self._look_at(event)
            yield event

    async def aiter_bytes(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[Any]:
        """Yield the decoder's events."""
        async for event in self._decoder.aiter_bytes(chunks):
            self._look_at(event)
            yield event

    def __getattr__(self, name: str) -> Any:
        return getattr(self._decoder, name)

    def _look_at(self, event: Any) -> None:
        if '"error"' in event.data:
            _add_error_chunk(self._recorder, event.data)


@guarded
def _add_error_chunk(recorder: StreamRecorder, data: str) -> None:
    try:
        chunk = json.loads(data)
    except (ValueError, RecursionError):
        return  # the library says so
    if isinstance(chunk, dict) and chunk.get("error") and recorder.accumulator is not None:
        recorder.accumulator.add(chunk)
