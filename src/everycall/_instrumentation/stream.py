"""Answers that are read piece by piece: followed in place, so that a stream stays the library's own object. Layer 3.

An integration puts `follow(iterator, reading)` in the place of a stream's iterator, and lets `watch_closing` tell when
the response below is closed, in which every way of closing ends. The call is current only while a piece is awaited.
"""

from __future__ import annotations

import atexit
import inspect
import os
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.context.context import Context

from everycall import limits
from everycall._call.context import _current, attach, attach_whole, detach, snapshot
from everycall._call.generators import _first_step, _take_names
from everycall._guard import guarded, report

if TYPE_CHECKING:
    from everycall._instrumentation.request import Exchange

__all__ = ["Gathering", "Reading", "Text", "carried", "follow", "follow_parse", "watch_closing"]

_END: Final = object()
_open: weakref.WeakSet[Reading] = weakref.WeakSet()
_watches = False


class Text:
    """Pieces of text, joined when asked for. Beyond the bound of a field they are counted as cut, and not kept."""

    __slots__ = ("_pieces", "_room")

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._room = limits.FIELD_BYTES_MAX

    def add(self, piece: Any) -> None:
        """Take a piece; what is no text is passed over."""
        if isinstance(piece, str) and self._room >= 0:
            self._pieces.append(piece)
            self._room -= len(piece)

    def __str__(self) -> str:
        return "".join(self._pieces)

    def __bool__(self) -> bool:
        return any(self._pieces)


class Gathering:
    """What a stream has brought so far, put together as the answer it amounts to. The base of the integrations' own.

    It is given every piece once and can be asked for fields at any time: at the end, or when the stream is left in the
    middle. With outputs omitted (`keeps` is False) it keeps no text at all. `spoke` says that something the model made
    has come; `complete` that the model has said all it had to say.
    """

    __slots__ = ("complete", "keeps", "spoke")

    def __init__(self, keeps: bool) -> None:
        self.keeps = keeps
        self.spoke = False
        self.complete = False

    def take(self, piece: Any) -> None:
        """Take one piece of the stream."""
        raise NotImplementedError

    def fields(self) -> dict[str, Any]:
        """Return what has come as fields of a record, as `Exchange.finish` takes them."""
        raise NotImplementedError


class Reading:
    """An answer being read: what has come, and how the reading ends. Shared by all that can end it; one of them does.

    `gathering` is None for an answer that the caller may read by other means than the library's, where nothing is seen.
    One that is collected before its end was abandoned, unless the model had said all; so was one that is open when the
    process ends.
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
        gathering = self.gathering
        if gathering is None or self._is_over:
            return False
        try:
            gathering.take(piece)
            if gathering.spoke and not self._has_spoken:
                self._has_spoken = True
                self.exchange.call.first_token()
            return self.exchange.hides(piece)
        except Exception as error:  # noqa: BLE001 - the guard
            report("a stream's piece", error)
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
        if self.gathering is None:
            self.abandon()
        else:
            self.leave()


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
            token = attach(reading.exchange.call, reading.exchange.call)
            reading._steps += 1
            try:
                piece = next(self._iterator, _END)
                while piece is not _END and reading.hides(piece):
                    piece = next(self._iterator, _END)
            finally:
                reading._steps -= 1
                detach(token)
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
            token = attach(reading.exchange.call, reading.exchange.call)
            reading._steps += 1
            try:
                piece = await anext(self._iterator, _END)
                while piece is not _END and reading.hides(piece):
                    piece = await anext(self._iterator, _END)
            finally:
                reading._steps -= 1
                detach(token)
        except BaseException as error:
            reading.fail(error)
            raise
        if piece is _END:
            reading.complete()
            raise StopAsyncIteration
        return piece

    def __getattr__(self, name: str) -> Any:
        return getattr(self._iterator, name)


def follow(iterator: Any, reading: Reading) -> Any:
    """Return what stands in the place of a stream's iterator: the same pieces, seen by a reading as they pass.

    `iterator` has `__anext__` or `__next__`; all else that is asked of what is returned, such as `close`, is its own.
    """
    return (_AsyncSteps if hasattr(iterator, "__anext__") else _Steps)(iterator, reading)


def follow_parse(answer: Any, reading: Reading, found: Callable[[Any], None]) -> None:
    """Follow a raw response that is read by its `parse()`, synchronous or not: `found` is given what it returned.

    What `parse` raises ends the reading. `found` may raise.
    """
    parse = answer.parse
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


def carried(stream: Any) -> Any:
    """Return a generator that runs another one in the context of here and now, wherever it is read; never raises.

    For a library's generator that sends its requests when it is read: their calls are then below the call in which it
    was asked for, and under its omit flags. Same items, `send`, `throw` and `close`. What is no generator, synchronous
    or not, is returned as it is.
    """
    steps: Any
    if inspect.isgenerator(stream):
        steps = _carried(stream, snapshot() or _current())
    elif inspect.isasyncgen(stream):
        steps = _carried_async(stream, snapshot() or _current())
    else:
        return stream
    _take_names(steps, stream)
    return steps


def _carried(stream: Generator[Any, Any, Any], context: Context) -> Generator[Any, Any, Any]:
    step, given = stream.send, None
    while True:
        token = attach_whole(context)
        try:
            piece = step(given)
        except StopIteration as stop:
            return stop.value
        finally:
            given = None  # an error held here would hold this frame, and with it the stream
            detach(token)
        try:
            step, given = stream.send, (yield piece)
        except BaseException as error:  # noqa: BLE001 - throw() and close(): it belongs to the stream
            step, given = stream.throw, error


async def _carried_async(
    stream: AsyncGenerator[Any, Any], context: Context
) -> AsyncGenerator[Any, Any]:  # as `_carried`, step for step
    step: Any = None
    given: Any = None
    while True:
        token = attach_whole(context)
        try:
            piece = await (_first_step(stream) if step is None else step(given))
        except StopAsyncIteration:
            return
        finally:
            given = None
            detach(token)
        try:
            step, given = stream.asend, (yield piece)
        except BaseException as error:  # noqa: BLE001 - athrow() and aclose(): it belongs to the stream
            step, given = stream.athrow, error


def watch_closing(body: Any, reading: Reading) -> None:
    """Learn when a response's body is closed: an object with `close`, or `aclose` where it is asynchronous.

    A body is closed once, whoever closes what above it. One that takes no attributes (a transport's own, with slots) is
    not watched: then its end or its collection tells.
    """
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
    except AttributeError as error:
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
