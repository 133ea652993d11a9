"""Request bodies, taken in under hard bounds: bytes on the wire, bytes unpacked, seconds, and memory over all requests.

Every route that reads a body reads it here. A body is received packed and unpacked only once it is whole, one body at a
time, piece by piece up to the bound: a bomb costs the bytes it was sent as, and is refused at the bound.
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
"""A zstd block is up to 128 KiB from 4 bytes, and a feed is unpacked whole: 256 bytes give 8 MiB at most."""


@dataclass(slots=True)
class _Share:
    """What one request holds of the common bounds."""

    wire: int = 0
    unpacked: int = 0


class Bodies:
    """The bodies of all requests under way. One per app."""

    def __init__(self) -> None:
        self._wire = 0
        self._unpacked = 0
        self._receiving: set[asyncio.Timeout] = set()
        self._closing = False
        self._turn = asyncio.Lock()
        self._room = asyncio.Condition()

    def close(self) -> None:
        """Wait for no body any more: those half received are answered 503. Called when the server stops."""
        self._closing = True
        for waiting in self._receiving:
            waiting.reschedule(asyncio.get_running_loop().time())

    @asynccontextmanager
    async def body(self, scope: Scope, receive: Receive, bytes_max: int | None = None) -> AsyncIterator[bytes]:
        """Give the whole body, unpacked; its share of the common memory is held until the block ends.

        `bytes_max` bounds it before and after unpacking (`limits.BODY_WIRE_BYTES_MAX` and `limits.BODY_BYTES_MAX`
        when left out). Raises `ProblemError`: 413 over a bound, 415 for an unknown content-encoding, 400 for a body
        that cannot be unpacked or ends early, 408 when it takes longer than `limits.BODY_TIMEOUT_S`, 503 when other
        requests hold all of `limits.BODIES_BYTES_MAX`.
        """
        unpack = _unpacker(scope)
        share = _Share()
        try:
            wire = await self._receive(scope, receive, share, bytes_max or limits.BODY_WIRE_BYTES_MAX)
            if unpack is None:
                yield wire
                return
            async with self._turn:
                data = await _whole(unpack(wire), bytes_max or limits.BODY_BYTES_MAX)
                del wire
                await self._enter(share, len(data))
            yield data
        finally:
            self._wire -= share.wire
            if share.unpacked:
                await self._leave(share)

    async def _receive(self, scope: Scope, receive: Receive, share: _Share, bytes_max: int) -> bytes:
        length = header(scope, b"content-length")
        if length is not None and length.isdigit() and int(length) > bytes_max:
            raise _too_large(bytes_max, "as sent")
        waiting = asyncio.timeout(0 if self._closing else limits.BODY_TIMEOUT_S)
        try:
            async with waiting:
                self._receiving.add(waiting)
                return b"".join([chunk async for chunk in self._chunks(receive, share, bytes_max)])
        except TimeoutError as error:
            if self._closing:
                raise _busy("The server is stopping.") from error
            detail = f"The body was not complete within {limits.BODY_TIMEOUT_S:g} s. Nothing was stored; send it again."
            raise problem("slow_body", 408, "Request time-out", detail, headers={"connection": "close"}) from error
        finally:
            self._receiving.discard(waiting)

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
                raise _busy("Too many bodies are being received.")
            yield chunk
            if not message["more_body"]:
                return

    async def _enter(self, share: _Share, size: int) -> None:
        async with self._room:
            await self._room.wait_for(lambda: self._unpacked + size <= limits.BODIES_BYTES_MAX or not self._unpacked)
            share.unpacked = size
            self._unpacked += size

    async def _leave(self, share: _Share) -> None:
        self._unpacked -= share.unpacked
        async with self._room:
            self._room.notify_all()


async def _whole(pieces: Iterator[bytes], bytes_max: int) -> bytes:
    kept: list[bytes] = []
    size = 0
    try:
        for piece in pieces:
            size += len(piece)
            if size > bytes_max:
                raise _too_large(bytes_max, "unpacked")
            kept.append(piece)
            if len(piece) >= PIECE_BYTES:
                await asyncio.sleep(0)  # other requests are not held up by the unpacking of a large one
    except (zlib.error, zstandard.ZstdError) as error:
        raise bad_request(f"The body cannot be unpacked as its content-encoding says: {error}.") from error
    return b"".join(kept)


def _unpacker(scope: Scope) -> Callable[[bytes], Iterator[bytes]] | None:
    coding = ",".join(headers_of(scope, b"content-encoding")).strip().lower()
    if coding in ("", "identity"):
        return None
    if coding not in _UNPACKERS:
        detail = "Use content-encoding gzip, zstd, deflate or identity, one of them."
        headers = {"accept-encoding": "gzip, zstd, deflate, identity"}
        raise problem("unsupported_encoding", 415, "Unsupported content-encoding", detail, headers=headers)
    return _UNPACKERS[coding]


def _gunzip(wire: bytes) -> Iterator[bytes]:
    """Unpack RFC 1952 gzip, up to `limits.GZIP_MEMBERS_MAX` members."""
    position = members = 0
    while position < len(wire):
        members += 1
        if members > limits.GZIP_MEMBERS_MAX:
            raise bad_request(f"The body has more than {limits.GZIP_MEMBERS_MAX} gzip members.")
        unpacker = zlib.decompressobj(31)
        position = yield from _inflate(wire, position, unpacker)


def _undeflate(wire: bytes) -> Iterator[bytes]:
    """Unpack `deflate`: zlib's format as RFC 9110 has it, or the bare stream that some clients send."""
    if not wire:
        return
    framed = len(wire) > 1 and wire[0] & 0x0F == 8 and int.from_bytes(wire[:2], "big") % 31 == 0
    end = yield from _inflate(wire, 0, zlib.decompressobj(15 if framed else -15))
    if end < len(wire):
        raise bad_request("The body goes on after the end of its compressed data.")


def _inflate(wire: bytes, position: int, unpacker: zlib._Decompress) -> Generator[bytes, None, int]:
    """Unpack one stream from `position`; return where it ended."""
    full = False
    while not unpacker.eof:
        feed = unpacker.unconsumed_tail
        if not feed and not full:
            feed = wire[position : position + FEED_BYTES]
            position += len(feed)
            if not feed:
                raise bad_request("The compressed body is cut off.")
        piece = unpacker.decompress(feed, PIECE_BYTES)
        full = len(piece) >= PIECE_BYTES  # more may be waiting inside without any further input
        if piece:
            yield piece
    return position - len(unpacker.unused_data)


def _unzstd(wire: bytes) -> Iterator[bytes]:
    """Unpack RFC 8878 zstd, up to `limits.GZIP_MEMBERS_MAX` frames, with windows of `limits.ZSTD_WINDOW_MAX`."""
    position = frames = 0
    context = zstandard.ZstdDecompressor(max_window_size=limits.ZSTD_WINDOW_MAX)
    while position < len(wire):
        frames += 1
        if frames > limits.GZIP_MEMBERS_MAX:
            raise bad_request(f"The body has more than {limits.GZIP_MEMBERS_MAX} zstd frames.")
        unpacker = context.decompressobj()
        while not unpacker.eof:
            feed = wire[position : position + ZSTD_FEED_BYTES]
            position += len(feed)
            if not feed:
                raise bad_request("The compressed body is cut off.")
            piece = unpacker.decompress(feed)
            if piece:
                yield piece
        position -= len(unpacker.unused_data)


_UNPACKERS: dict[str, Callable[[bytes], Iterator[bytes]]] = {
    "gzip": _gunzip,
    "x-gzip": _gunzip,
    "deflate": _undeflate,
    "zstd": _unzstd,
}


def _too_large(bytes_max: int, how: str) -> ProblemError:
    detail = f"A body may have {bytes_max} bytes {how}. Split the batch and send the parts."
    return problem("too_large", 413, "Too large", detail, bytes_max=bytes_max)


def _busy(why: str) -> ProblemError:
    detail = f"{why} Nothing was stored; try again."
    return problem("busy", 503, "Busy", detail, headers={"retry-after": "1"})
