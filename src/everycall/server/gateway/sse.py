"""A provider's answer as it comes: server-sent events read from bytes, and the texts in them. Used by the backends.

The bytes are split here and not by the providers' packages, because these read each event into a model of theirs, which
compatible servers do not always send.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from everycall import limits
from everycall.server.gateway.provider_response import ProviderError, ProviderResponse
from everycall.server.problems import ProblemError

__all__ = ["ProviderStream", "StreamParser", "read_events"]

DONE = b"[DONE]"
"""OpenAI's last event. Some compatible servers leave it out."""
DRAIN_S = 1.0  # after the last event, for the end of the body: only then can the connection be used again


class StreamParser(Protocol):
    """What a provider's events make up, so far."""

    finished: bool
    """Whether the provider has said that the answer is whole."""

    def take(self, data: bytes) -> str:
        """Read one event and return the text it adds. Raises `ProviderError` for one that reports an error."""
        ...

    def so_far(self) -> ProviderResponse:
        """Return the answer as far as it has come; counts that were not told are None."""
        ...


class ProviderStream:
    """One answer as it comes. `texts` asks the provider; closing it, or being cancelled in it, hangs up."""

    def __init__(
        self,
        opening: AbstractAsyncContextManager[Any],
        pieces: StreamParser,
        failure: Callable[[Exception], ProviderError],
        provider: str,
    ) -> None:
        self._opening = opening
        self._pieces = pieces
        self._failure = failure
        self._provider = provider

    async def texts(self) -> AsyncGenerator[str]:
        """Yield the answer's texts. Raises `ProviderError`, also for an answer that breaks off."""
        try:
            async with self._opening as response:
                events = read_events(response.iter_bytes())
                async for data in events:
                    if data == DONE:
                        self._pieces.finished = True
                        with contextlib.suppress(TimeoutError):
                            async with asyncio.timeout(DRAIN_S):
                                await anext(events, None)
                        break
                    text = self._pieces.take(data)
                    if text:
                        yield text
        except (ProviderError, ProblemError):
            raise
        except Exception as error:  # noqa: BLE001 - whatever a provider's package raises is a failure to be recorded
            raise self._failure(error) from None
        if not self._pieces.finished:
            detail = f"{self._provider} ended the stream before the answer did"
            raise ProviderError("IncompleteAnswer", None, detail, is_transient=True)

    def so_far(self) -> ProviderResponse:
        """Return what has come."""
        return self._pieces.so_far()


async def read_events(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    """Yield the data of each server-sent event (WHATWG HTML, section 9.2.6); comments and other fields are skipped.

    Raises `ProviderError` for an event longer than `limits.STREAM_EVENT_BYTES_MAX`.
    """
    data: list[bytes] = []
    size = 0
    async for line in _lines(chunks):
        if not line:
            if data:
                yield b"\n".join(data)
            data, size = [], 0
        elif line.startswith(b"data:"):
            value = line[6:] if line[5:6] == b" " else line[5:]
            size += len(value)
            if size > limits.STREAM_EVENT_BYTES_MAX:
                raise _too_long()
            data.append(value)
    if data:  # the last event of a server that ends without its empty line
        yield b"\n".join(data)


async def _lines(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield lines without their ends. Bytes are split: text would also be split where JSON may have a separator."""
    rest = b""
    async for chunk in chunks:
        lines = (rest + chunk).splitlines(keepends=True)
        # what ends with \r may be followed by its \n
        rest = lines.pop() if lines and not lines[-1].endswith(b"\n") else b""
        if len(rest) > limits.STREAM_EVENT_BYTES_MAX:
            raise _too_long()
        for line in lines:
            yield line.rstrip(b"\r\n")
    if rest:
        yield rest.rstrip(b"\r\n")


def _too_long() -> ProviderError:
    return ProviderError("InvalidAnswer", None, f"an event has more than {limits.STREAM_EVENT_BYTES_MAX} bytes")
