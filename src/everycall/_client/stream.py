"""A streamed completion on the caller's side: an iterator of its texts, and its answer at the end. Layer 4.

Made by `client.Parea`, which opens the connection; what is read here is bytes.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from dataclasses import replace
from types import TracebackType

import msgspec

from everycall._client.models import CompletionResponse
from everycall.errors import Problem, RequestError, UnreachableError

__all__ = ["AsyncCompletionStream", "CompletionStream", "Events"]

END = "end"


class _Chunk(msgspec.Struct):
    chunk: str


_chunk_decoder = msgspec.json.Decoder(_Chunk)
_answer_decoder = msgspec.json.Decoder(CompletionResponse)


class Events:
    """Reads the endpoint's events from bytes, in whatever pieces these come. Keeps what the stream said last."""

    def __init__(self) -> None:
        self.response: CompletionResponse | None = None
        self._rest = b""
        self._kind = ""
        self._data: list[bytes] = []
        self._texts: list[str] = []

    def feed(self, data: bytes) -> Iterator[str]:
        """Yield the texts that these bytes complete. Raises `UnreachableError` for what is no such stream."""
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        for line in lines:
            line = line.rstrip(b"\r")
            if line.startswith(b"data:"):
                self._data.append(line[5:].lstrip(b" "))
            elif line.startswith(b"event:"):
                self._kind = line[6:].strip().decode("ascii", "replace")
            elif not line:
                text = self._event()
                if text:
                    self._texts.append(text)
                    yield text

    def end(self) -> None:
        """Look at how the stream ended. Raises `RequestError` when the provider failed in the middle of it."""
        response = self.response
        if response is None:
            return
        self.response = response = replace(response, content="".join(self._texts))
        if response.status == "error":
            detail = response.error or "The provider failed in the middle of its answer"
            raise RequestError(
                Problem("provider_failed", 502, "The provider failed", detail, {"inference_id": response.inference_id})
            )

    def _event(self) -> str:
        data, kind = b"\n".join(self._data), self._kind
        self._data, self._kind = [], ""
        if not data:
            return ""
        try:
            if kind == END:
                self.response = _answer_decoder.decode(data)
                return ""
            return _chunk_decoder.decode(data).chunk
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UnreachableError(f"the stream has an event that is none of a completion: {error}") from error


class CompletionStream:
    """The texts of one completion as they come: an iterator, which asks the endpoint when the first one is wanted.

    Close it (or use it in `with`) to hang up before the end: the endpoint then cancels the provider's request, and the
    record says `abandoned`. `response` is the whole answer once the texts are read to the end, None before.
    """

    def __init__(self, texts: Generator[str], events: Events) -> None:
        self._texts = texts
        self._events = events

    @property
    def response(self) -> CompletionResponse | None:
        """The whole answer, at the end."""
        return self._events.response

    def __iter__(self) -> CompletionStream:
        return self

    def __next__(self) -> str:
        return next(self._texts)

    def close(self) -> None:
        """Hang up. Does nothing at the end, or when nothing was asked yet."""
        self._texts.close()

    def __enter__(self) -> CompletionStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class AsyncCompletionStream:
    """As `CompletionStream`, on an event loop. One that is not read to the end is to be closed there: `async with`."""

    def __init__(self, texts: AsyncGenerator[str], events: Events) -> None:
        self._texts = texts
        self._events = events

    @property
    def response(self) -> CompletionResponse | None:
        """The whole answer, at the end."""
        return self._events.response

    def __aiter__(self) -> AsyncIterator[str]:
        return self

    async def __anext__(self) -> str:
        return await anext(self._texts)

    async def aclose(self) -> None:
        """Hang up. Does nothing at the end, or when nothing was asked yet."""
        await self._texts.aclose()

    async def __aenter__(self) -> AsyncCompletionStream:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()
