"""A provider's answer as it arrives: server-sent events, and the texts in them. Used by `providers.py`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager

from everycall import limits
from everycall._event_stream import EventReader
from everycall.server.gateway.formats.base import StreamParser
from everycall.server.gateway.provider_http import StreamedResponse
from everycall.server.gateway.provider_response import ProviderError, ProviderResponse, stream_texts

__all__ = ["ProviderStream"]

_DONE = b"[DONE]"
"""OpenAI's last event. Some compatible servers leave it out."""
_DRAIN_S = 1.0  # after the last event, for the end of the body: only then can the connection be used again


class ProviderStream:
    """One answer as it arrives. `texts` sends the request; closing it, or being cancelled in it, hangs up.

    `open` sends the request, `read_whole` reads the body of a server that answers a stream with one JSON document.
    """

    def __init__(
        self,
        open_response: Callable[[], AbstractAsyncContextManager[StreamedResponse]],
        parser: StreamParser,
        read_whole: Callable[[bytes], ProviderResponse],
        provider: str,
    ) -> None:
        self._open_response = open_response
        self._parser = parser
        self._read_whole = read_whole
        self._provider = provider
        self._whole: ProviderResponse | None = None

    async def texts(self) -> AsyncGenerator[str]:
        """Yield the answer's texts. Raise `ProviderError`, also for an answer that breaks off."""
        async with self._open_response() as response, contextlib.aclosing(response.chunks()) as chunks:
            first = await anext(chunks, b"")
            if first.lstrip().startswith(b"{"):  # one JSON document instead of events
                self._whole = self._read_whole(first + b"".join([chunk async for chunk in chunks]))
                for text in stream_texts(self._whole)[: -1 if self._whole.has_tool_calls else None]:
                    yield text
                return
            async for data in self._events(first, chunks):
                if text := self._parser.feed(data):
                    yield text
        if text := self._parser.end():
            yield text
        if not self._parser.finished:
            detail = f"{self._provider} ended the stream before the answer did"
            raise ProviderError("IncompleteAnswer", None, detail, is_transient=True)

    def response(self) -> ProviderResponse:
        """Return what has arrived."""
        return self._whole or self._parser.response()

    async def _events(self, chunk: bytes, chunks: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
        """Yield the data of each event, and read on to the end of the body after the last one."""
        reader = EventReader(limits.STREAM_EVENT_BYTES_MAX)
        try:
            while chunk:
                for event in reader.feed(chunk):
                    if event.data == _DONE:
                        self._parser.finished = self._parser.has_begun  # else there was no answer at all
                        with contextlib.suppress(TimeoutError, ProviderError):
                            async with asyncio.timeout(_DRAIN_S):
                                await anext(chunks, None)
                        return
                    yield event.data
                chunk = await anext(chunks, b"")
            for event in reader.end():
                yield event.data
        except ValueError as error:
            raise ProviderError("InvalidAnswer", None, str(error)) from None
