"""Answers that are read piece by piece: followed in place, so that a stream stays the library's own object.

A stream's iterator is replaced by one that looks at each piece as it passes; that the stream was closed is learnt from
the HTTP response below, which every way of closing ends in. The call is current only while a piece is awaited.
"""

from __future__ import annotations

import atexit
import inspect
import os
import weakref
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any, Final

from everycall.instrument import active, guarded, report
from everycall_openai._gathering import Gathering
from everycall_openai._values import read

if TYPE_CHECKING:
    from everycall_openai._exchange import Exchange

__all__ = ["Reading", "read_raw", "read_stream"]

_END: Final = object()
_open: weakref.WeakSet[Reading] = weakref.WeakSet()
_watches = False


class Reading:
    """An answer being read: what has come, and how the reading ends. Shared by all that can end it; one of them does.

    `gathering` is None for an answer that the caller may read by other means than the library's, where nothing is seen.
    One that is collected before its end was abandoned.
    """

    __slots__ = ("__weakref__", "_has_spoken", "_is_over", "_steps", "exchange", "gathering")

    def __init__(self, exchange: Exchange, gathering: Gathering | None) -> None:
        self.exchange = exchange
        self.gathering = gathering
        self._has_spoken = self._is_over = False
        self._steps = 0
        _watch(self)

    @property
    def is_over(self) -> bool:
        """Whether the reading has ended."""
        return self._is_over

    def __enter__(self) -> None:
        """Begin a step: what is closed during it is closed by the library, and the step's outcome tells why."""
        self._steps += 1

    def __exit__(self, *exc_info: object) -> None:
        self._steps -= 1

    def hides(self, piece: Any) -> bool:
        """Look at a piece; tells whether it is one the caller has not asked for. Never raises."""
        gathering, exchange = self.gathering, self.exchange
        if gathering is None or self._is_over:
            return False
        try:
            gathering.take(piece)
            if gathering.spoke and not self._has_spoken:
                self._has_spoken = True
                exchange.call.first_token()
            if exchange.hides_usage:
                if gathering.is_usage_alone(piece):
                    return True
                if read(piece, "usage") is None:  # asked for usage, a server says null in all other pieces
                    piece.model_fields_set.discard("usage")
        except Exception as error:  # noqa: BLE001 - the guard
            report("openai stream", error)
        return False

    def complete(self, fields: dict[str, Any] | None = None) -> None:
        """End it: all has been read, or what was read is known otherwise."""
        if self._close():
            self.exchange.finish(self._fields() if fields is None else fields)

    def fail(self, error: BaseException) -> None:
        """End it with what the library raised."""
        if self._close():
            self.exchange.fail(error, self._fields())

    def leave(self) -> None:
        """End it, closed by its reader: abandoned, unless the model had said all."""
        if self._steps:
            return
        if self.gathering is None or self.gathering.complete:
            self.complete()
        else:
            self.abandon()

    def abandon(self) -> None:
        """End it as left in the middle."""
        if self._close():
            self.exchange.leave(self._fields())

    def forget(self) -> None:
        """In a forked child: it is the parent's to end."""
        self._is_over = True

    def _close(self) -> bool:
        if self._is_over:
            return False
        self._is_over = True
        _open.discard(self)
        return True

    def _fields(self) -> dict[str, Any]:
        return (self._gathered() or {}) if self.gathering is not None else {}

    @guarded
    def _gathered(self) -> dict[str, Any]:
        assert self.gathering is not None
        return self.gathering.fields()

    def __del__(self) -> None:
        self.abandon()


class _Steps:
    """Stands in the place of a stream's iterator."""

    __slots__ = ("_iterator", "_reading")

    def __init__(self, iterator: Iterator[Any], reading: Reading) -> None:
        self._iterator = iterator
        self._reading = reading

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        reading = self._reading
        if reading.is_over:
            return next(self._iterator)
        try:
            with reading, active(reading.exchange.call):
                piece = next(self._iterator, _END)
                while piece is not _END and reading.hides(piece):
                    piece = next(self._iterator, _END)
        except BaseException as error:
            reading.fail(error)
            raise
        if piece is _END:
            reading.complete()
            raise StopIteration
        return piece

    def __getattr__(self, name: str) -> Any:
        return getattr(self._iterator, name)


class _AsyncSteps:
    """The same for a stream that is read asynchronously."""

    __slots__ = ("_iterator", "_reading")

    def __init__(self, iterator: AsyncIterator[Any], reading: Reading) -> None:
        self._iterator = iterator
        self._reading = reading

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        reading = self._reading
        if reading.is_over:
            return await anext(self._iterator)
        try:
            with reading, active(reading.exchange.call):
                piece = await anext(self._iterator, _END)
                while piece is not _END and reading.hides(piece):
                    piece = await anext(self._iterator, _END)
        except BaseException as error:
            reading.fail(error)
            raise
        if piece is _END:
            reading.complete()
            raise StopAsyncIteration
        return piece

    def __getattr__(self, name: str) -> Any:
        return getattr(self._iterator, name)


def read_stream(stream: Any, reading: Reading) -> None:
    """Follow a stream of the library's: `Stream` or `AsyncStream`."""
    _follow(stream, reading)
    _watch_closing(stream.response, reading)


def _follow(stream: Any, reading: Reading) -> None:
    steps = _AsyncSteps if hasattr(stream._iterator, "__anext__") else _Steps
    stream._iterator = steps(stream._iterator, reading)


def read_raw(answer: Any, reading: Reading) -> None:
    """Follow a raw response whose body is not read yet: what its `parse()` returns is recorded, or followed.

    Read otherwise, as bytes or lines, it has a latency and a status, and nothing is known of what it said.
    """
    parse = answer.parse

    def found(parsed: Any) -> None:
        gathers = reading.exchange.endpoint.gathers
        if "_iterator" not in getattr(parsed, "__dict__", ()):
            reading.complete(reading.exchange.endpoint.answers(parsed))
        elif gathers is not None and reading.gathering is None:
            reading.gathering = gathers(reading.exchange.keeps_outputs)
            _follow(parsed, reading)

    take = guarded(found)

    def parse_now(*args: Any, **kwargs: Any) -> Any:
        try:
            with reading:
                parsed = parse(*args, **kwargs)
        except BaseException as error:
            reading.fail(error)
            raise
        take(parsed)
        return parsed

    async def parse_later(*args: Any, **kwargs: Any) -> Any:
        try:
            with reading:
                parsed = await parse(*args, **kwargs)
        except BaseException as error:
            reading.fail(error)
            raise
        take(parsed)
        return parsed

    answer.parse = parse_later if inspect.iscoroutinefunction(parse) else parse_now
    _watch_closing(answer.http_response, reading)


def _watch_closing(response: Any, reading: Reading) -> None:
    """Learn when a response is closed. Its stream of bytes is closed once, whoever closes what."""
    body = response.stream
    close = getattr(body, "aclose", None) or body.close

    async def close_later() -> None:
        try:
            await close()
        finally:
            reading.leave()

    def close_now() -> None:
        try:
            close()
        finally:
            reading.leave()

    try:
        if inspect.iscoroutinefunction(close):
            body.aclose = close_later
        else:
            body.close = close_now
    except AttributeError as error:  # a transport's own, with slots: then its end or its collection tells
        report("watching a response", error)


def _watch(reading: Reading) -> None:
    """Keep in mind what is open, so that it is recorded when the process ends; a forked child forgets it."""
    global _watches
    _open.add(reading)
    if not _watches:
        _watches = True
        # After the first call has set up everycall's own: what is registered last runs first.
        atexit.register(_abandon_all)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=_forget_all)


def _abandon_all() -> None:
    for reading in list(_open):
        reading.abandon()


def _forget_all() -> None:
    for reading in list(_open):
        reading.forget()
    _open.clear()
