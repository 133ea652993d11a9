"""A streamed completion: an iterator of its texts, and the whole response at the end.

`client.Parea` opens the connection; this module reads the bytes.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from dataclasses import replace
from types import TracebackType

import msgspec

from everycall._client.models import CompletionResponse
from everycall._event_stream import Event, EventReader
from everycall.errors import Problem, RequestError, UnreachableError

__all__ = ["AsyncCompletionStream", "CompletionStream", "Events"]

END = "end"


class _Chunk(msgspec.Struct):
    chunk: str


_chunk_decoder = msgspec.json.Decoder(_Chunk)
_response_decoder = msgspec.json.Decoder(CompletionResponse)


class Events:
    """Reads the endpoint's events from bytes, however they are split. `response` is set by the last one."""

    def __init__(self) -> None:
        self.response: CompletionResponse | None = None
        self._reader = EventReader()
        self._texts: list[str] = []

    def feed(self, data: bytes) -> Iterator[str]:
        """Yield the texts of the events that these bytes complete. Raise `UnreachableError` for other content."""
        for event in self._reader.feed(data):
            if text := self._read(event):
                self._texts.append(text)
                yield text

    def end(self) -> None:
        """Complete `response` after the last byte. Raise `RequestError` if the provider failed during the stream."""
        response = self.response
        if response is None:
            return
        self.response = response = replace(response, content="".join(self._texts))
        if response.status == "error":
            detail = response.error or "The provider failed in the middle of its answer"
            raise RequestError(
                Problem("provider_failed", 502, "The provider failed", detail, {"inference_id": response.inference_id})
            )

    def _read(self, event: Event) -> str:
        try:
            if event.kind == END:
                self.response = _response_decoder.decode(event.data)
                return ""
            return _chunk_decoder.decode(event.data).chunk
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UnreachableError(f"unexpected stream event: {error}") from error


class CompletionStream:
    """An iterator of the texts of one completion as they arrive. The request is sent with the first `next`.

    Close it (or use it in `with`) to stop before the end: the endpoint then cancels the provider's request, and the
    record says `abandoned`.
    """

    def __init__(self, texts: Generator[str], events: Events) -> None:
        self._texts = texts
        self._events = events

    @property
    def response(self) -> CompletionResponse | None:
        """The whole response once all texts are read; None before."""
        return self._events.response

    def __iter__(self) -> CompletionStream:
        return self

    def __next__(self) -> str:
        return next(self._texts)

    def close(self) -> None:
        """Close the connection. Does nothing after the last text, or before the request is sent."""
        self._texts.close()

    def __enter__(self) -> CompletionStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class AsyncCompletionStream:
    """The same as `CompletionStream`, on an event loop. Close it there if you stop before the end: `async with`."""

    def __init__(self, texts: AsyncGenerator[str], events: Events) -> None:
        self._texts = texts
        self._events = events

    @property
    def response(self) -> CompletionResponse | None:
        """The whole response once all texts are read; None before."""
        return self._events.response

    def __aiter__(self) -> AsyncIterator[str]:
        return self

    async def __anext__(self) -> str:
        return await anext(self._texts)

    async def aclose(self) -> None:
        """Close the connection. Does nothing after the last text, or before the request is sent."""
        await self._texts.aclose()

    async def __aenter__(self) -> AsyncCompletionStream:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()
