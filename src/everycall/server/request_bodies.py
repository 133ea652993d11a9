"""Reading request bodies within bounds: bytes as sent, bytes decompressed, seconds, and memory over all requests.

Every route that has a body reads it here. A body is decompressed once it has been received completely, one body at a
time, in pieces, up to the bound. So a compression bomb costs the bytes it was sent as, and is refused at the bound.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import zstandard
from litestar.types import Receive, Scope

from everycall import limits
from everycall.server.problems import ProblemError, bad_request, problem
from everycall.server.security import header, headers_of

__all__ = ["Bodies"]

PIECE_BYTES = 1 * limits.MIB
FEED_BYTES = 64 * limits.KIB
ZSTD_FEED_BYTES = 256
"""zstd decompresses all it is fed. A block of 4 bytes can become 128 KiB, so 256 bytes become 8 MiB at most."""


@dataclass(slots=True)
class _Share:
    """The bytes of one request in memory: as sent, and decompressed."""

    wire: int = 0
    decompressed: int = 0


class Bodies:
    """The bodies of all requests in progress. One instance per app."""

    def __init__(self) -> None:
        self._wire = 0
        self._decompressed = 0
        self._receiving: set[asyncio.Timeout] = set()
        self._closing = False
        self._decompressing = asyncio.Lock()
        self._freed = asyncio.Condition()

    def close(self) -> None:
        """Stop receiving bodies when the server stops. Requests with an incomplete body get 503."""
        self._closing = True
        for timeout in self._receiving:
            timeout.reschedule(asyncio.get_running_loop().time())

    @asynccontextmanager
    async def body(self, scope: Scope, receive: Receive, bytes_max: int | None = None) -> AsyncIterator[bytes]:
        """Yield the complete body, decompressed. It counts towards the common memory until the block ends.

        `bytes_max` bounds it both as sent and decompressed; the defaults are `limits.BODY_WIRE_BYTES_MAX` and
        `limits.BODY_BYTES_MAX`. Raise `ProblemError`: 413 for a too large body, 415 for an unknown content-encoding,
        400 for a body that cannot be decompressed or ends early, 408 if it takes longer than `limits.BODY_TIMEOUT_S`,
        503 if other requests use all of `limits.BODIES_BYTES_MAX`.
        """
        decompress = _decompressor(scope)
        share = _Share()
        try:
            body = [await self._receive(scope, receive, share, bytes_max or limits.BODY_WIRE_BYTES_MAX)]
            if decompress is None:
                yield body.pop()  # whoever reads it may let it go before the block ends
                return
            async with self._decompressing:
                body.append(await _joined(decompress(body.pop()), bytes_max or limits.BODY_BYTES_MAX))
                await self._enter(share, len(body[0]))
            yield body.pop()
        finally:
            self._wire -= share.wire
            if share.decompressed:
                await self._leave(share)

    async def _receive(self, scope: Scope, receive: Receive, share: _Share, bytes_max: int) -> bytes:
        length = header(scope, b"content-length")
        if length is not None and length.isdigit() and int(length) > bytes_max:
            raise _too_large(bytes_max, "as sent")
        timeout = asyncio.timeout(0 if self._closing else limits.BODY_TIMEOUT_S)
        try:
            async with timeout:
                self._receiving.add(timeout)
                return b"".join([chunk async for chunk in self._chunks(receive, share, bytes_max)])
        except TimeoutError as error:
            if self._closing:
                raise _busy("The server is stopping.") from error
            detail = f"The body was not complete within {limits.BODY_TIMEOUT_S:g} s. Nothing was stored; send it again."
            raise problem("slow_body", 408, "Request time-out", detail, headers={"connection": "close"}) from error
        finally:
            self._receiving.discard(timeout)

    async def _chunks(self, receive: Receive, share: _Share, bytes_max: int) -> AsyncIterator[bytes]:
        while True:
            message = await receive()
            if message["type"] != "http.request":
                raise bad_request("The connection ended before the body did.")
            chunk = message["body"]
            share.wire += len(chunk)
            self._wire += len(chunk)
            if share.wire > bytes_max:
                raise _too_large(bytes_max, "as sent")
            if self._wire > limits.BODIES_BYTES_MAX:
                raise _busy("The bodies of other requests use all the memory for them.")
            yield chunk
            if not message["more_body"]:
                return

    async def _enter(self, share: _Share, size: int) -> None:
        async with self._freed:
            await self._freed.wait_for(
                lambda: self._decompressed + size <= limits.BODIES_BYTES_MAX or not self._decompressed
            )
            share.decompressed = size
            self._decompressed += size

    async def _leave(self, share: _Share) -> None:
        self._decompressed -= share.decompressed
        async with self._freed:
            self._freed.notify_all()


async def _joined(pieces: Iterator[bytes], bytes_max: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    try:
        for piece in pieces:
            size += len(piece)
            if size > bytes_max:
                raise _too_large(bytes_max, "decompressed")
            chunks.append(piece)
            if len(piece) >= PIECE_BYTES:
                await asyncio.sleep(0)  # let other requests run while a large body is decompressed
    except (zlib.error, zstandard.ZstdError) as error:
        raise bad_request(f"The body cannot be decompressed as its content-encoding says: {error}.") from error
    return b"".join(chunks)


def _decompressor(scope: Scope) -> Callable[[bytes], Iterator[bytes]] | None:
    coding = ",".join(headers_of(scope, b"content-encoding")).strip().lower()
    if coding in ("", "identity"):
        return None
    if coding not in _DECOMPRESSORS:
        detail = "Use one content-encoding: gzip, zstd, deflate or identity."
        headers = {"accept-encoding": "gzip, zstd, deflate, identity"}
        raise problem("unsupported_encoding", 415, "Unsupported content-encoding", detail, headers=headers)
    return _DECOMPRESSORS[coding]


def _gunzip(wire: bytes) -> Iterator[bytes]:
    """Decompress gzip (RFC 1952) with up to `limits.GZIP_MEMBERS_MAX` members."""
    position = members = 0
    while position < len(wire):
        members += 1
        if members > limits.GZIP_MEMBERS_MAX:
            raise bad_request(f"The body has more than {limits.GZIP_MEMBERS_MAX} gzip members.")
        decompressor = zlib.decompressobj(31)
        position = yield from _inflate(wire, position, decompressor)


def _undeflate(wire: bytes) -> Iterator[bytes]:
    """Decompress `deflate`: the zlib format of RFC 9110, or the raw stream that some clients send."""
    if not wire:
        return
    framed = len(wire) > 1 and wire[0] & 0x0F == 8 and int.from_bytes(wire[:2], "big") % 31 == 0
    end = yield from _inflate(wire, 0, zlib.decompressobj(15 if framed else -15))
    if end < len(wire):
        raise bad_request("The body continues after the end of its compressed data.")


def _inflate(wire: bytes, position: int, decompressor: zlib._Decompress) -> Generator[bytes, None, int]:
    """Decompress one stream from `position`; return its end."""
    full = False
    while not decompressor.eof:
        feed = decompressor.unconsumed_tail
        if not feed and not full:
            feed = wire[position : position + FEED_BYTES]
            position += len(feed)
            if not feed:
                raise bad_request("The compressed body is incomplete.")
        piece = decompressor.decompress(feed, PIECE_BYTES)
        full = len(piece) >= PIECE_BYTES  # the decompressor may have more without further input
        if piece:
            yield piece
    return position - len(decompressor.unused_data)


def _unzstd(wire: bytes) -> Iterator[bytes]:
    """Decompress zstd (RFC 8878): up to `limits.GZIP_MEMBERS_MAX` frames, windows of `limits.ZSTD_WINDOW_MAX`."""
    position = frames = 0
    context = zstandard.ZstdDecompressor(max_window_size=limits.ZSTD_WINDOW_MAX)
    while position < len(wire):
        frames += 1
        if frames > limits.GZIP_MEMBERS_MAX:
            raise bad_request(f"The body has more than {limits.GZIP_MEMBERS_MAX} zstd frames.")
        decompressor = context.decompressobj()
        while not decompressor.eof:
            feed = wire[position : position + ZSTD_FEED_BYTES]
            position += len(feed)
            if not feed:
                raise bad_request("The compressed body is incomplete.")
            piece = decompressor.decompress(feed)
            if piece:
                yield piece
        position -= len(decompressor.unused_data)


_DECOMPRESSORS: dict[str, Callable[[bytes], Iterator[bytes]]] = {
    "gzip": _gunzip,
    "x-gzip": _gunzip,
    "deflate": _undeflate,
    "zstd": _unzstd,
}


def _too_large(bytes_max: int, how: str) -> ProblemError:
    detail = f"A body may have at most {bytes_max} bytes {how}. Split the batch and send the parts."
    return problem("too_large", 413, "Too large", detail, bytes_max=bytes_max)


def _busy(reason: str) -> ProblemError:
    detail = f"{reason} Nothing was stored; try again in a moment."
    return problem("busy", 503, "Busy", detail, headers={"retry-after": "1"})
