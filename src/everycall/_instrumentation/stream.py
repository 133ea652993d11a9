"""Streamed responses, recorded in place as they are read, so that a stream stays the library's own object.

An integration replaces a stream's iterator by `wrap_iterator(iterator, recorder)`, and calls `watch_close` on the
response below it, which every way of closing a stream closes. The call is current only while a chunk is awaited.
"""

from __future__ import annotations

import atexit
import inspect
import os
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

from everycall import limits
from everycall._call.context import attach, detach
from everycall._guard import guarded, report

if TYPE_CHECKING:
    from everycall._instrumentation.request import Fields, ModelRequest

__all__ = ["StreamAccumulator", "StreamRecorder", "TextBuffer", "watch_close", "wrap_iterator", "wrap_parse"]

_END: Final = object()
_open_recorders: weakref.WeakSet[StreamRecorder] = weakref.WeakSet()
_has_exit_handler = False


class TextBuffer:
    """Pieces of one text, joined by `str()`. Text beyond the bound of a record's field is dropped."""

    __slots__ = ("_chars_left", "_pieces")

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._chars_left = limits.FIELD_BYTES_MAX

    def add(self, piece: object) -> None:
        """Add a piece; anything but text is ignored."""
        if isinstance(piece, str) and self._chars_left >= 0:
            self._pieces.append(piece)
            self._chars_left -= len(piece)

    def is_only(self, text: str) -> bool:
        """Return whether this text came as one piece, and nothing else came."""
        return len(self._pieces) == 1 and self._pieces[0] == text

    def __str__(self) -> str:
        return "".join(self._pieces)

    def __bool__(self) -> bool:
        return any(self._pieces)


class StreamAccumulator:
    """Builds a response from the chunks of a stream. The base class of the integrations' accumulators.

    `add` gets every chunk once. `fields` may be called at any time: at the end, or when the stream is left early.
    Without `captures_output` no output is kept. `has_output` says that a chunk with output of the model has arrived,
    `is_complete` that the model has finished.
    """

    __slots__ = ("captures_output", "has_output", "is_complete")

    def __init__(self, captures_output: bool) -> None:
        self.captures_output = captures_output
        self.has_output = False
        self.is_complete = False

    def add(self, chunk: object) -> None:
        """Add one chunk of the stream."""
        raise NotImplementedError

    def fields(self) -> Fields:
        """Return the fields of the response so far, as `ModelRequest.finish` takes them."""
        raise NotImplementedError


class StreamRecorder:
    """Records one streamed response, and ends its request exactly once.

    `accumulator` is None for a raw response, which the caller may read without the library's parser; its content is
    then unknown. A recorder that is garbage-collected ends its request as abandoned, unless the model had finished. So
    does one that is open when the process ends.
    """

    __slots__ = ("__weakref__", "_has_first_token", "_is_over", "_steps", "accumulator", "request")

    def __init__(self, request: ModelRequest, accumulator: StreamAccumulator | None) -> None:
        self.request = request
        self.accumulator = accumulator
        self._has_first_token = self._is_over = False
        self._steps = 0
        _track(self)

    @property
    def is_over(self) -> bool:
        """Whether the request has ended."""
        return self._is_over

    def __enter__(self) -> None:
        """Start a step of the library. If the library closes the stream meanwhile, the step's outcome counts."""
        self._steps += 1

    def __exit__(self, *exc_info: object) -> None:
        self._steps -= 1

    def add(self, chunk: object) -> bool:
        """Add a chunk; returns whether it is hidden from the caller. Never raises."""
        accumulator = self.accumulator
        if accumulator is None or self._is_over:
            return False
        try:
            accumulator.add(chunk)
            if accumulator.has_output and not self._has_first_token:
                self._has_first_token = True
                self.request.call.first_token()
            return self.request.should_hide(chunk)
        except Exception as error:  # noqa: BLE001 - the guard
            report("a chunk of a stream", error)
        return False

    def complete(self, fields: Fields | None = None) -> None:
        """End the request: the stream was read to its end, or `fields` are known otherwise."""
        if self._end():
            self.request.finish(self._fields() if fields is None else fields)

    def fail(self, error: BaseException) -> None:
        """End the request with what the library raised."""
        if self._end():
            self.request.fail(error, self._fields())

    def close(self) -> None:
        """End the request because the reader closed the stream: abandoned, unless the model had finished."""
        if self._steps:
            return
        if self.accumulator is None or self.accumulator.is_complete:
            self.complete()
        else:
            self.abandon()

    def abandon(self) -> None:
        """End the request as left before the end of its stream."""
        if self._end():
            self.request.abandon(self._fields())

    def forget(self) -> None:
        """Do nothing from now on. Called in a forked child, where the parent ends the request."""
        self._is_over = True

    def _end(self) -> bool:
        if self._is_over:
            return False
        self._is_over = True
        _open_recorders.discard(self)
        return True

    def _fields(self) -> Fields:
        if self.accumulator is None:
            return {}
        return self._accumulated() or {}

    @guarded
    def _accumulated(self) -> Fields:
        assert self.accumulator is not None
        return self.accumulator.fields()

    def __del__(self) -> None:
        if self.accumulator is None:
            self.abandon()
        else:
            self.close()


class _RecordedIterator:
    """Replaces a stream's iterator."""

    __slots__ = ("_iterator", "_recorder")

    def __init__(self, iterator: Iterator[Any], recorder: StreamRecorder) -> None:
        self._iterator = iterator
        self._recorder = recorder

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        recorder = self._recorder
        if recorder.is_over:
            return next(self._iterator)
        try:
            token = attach(recorder.request.call, recorder.request.call)
            recorder._steps += 1
            try:
                chunk = next(self._iterator, _END)
                while chunk is not _END and recorder.add(chunk):
                    chunk = next(self._iterator, _END)
            finally:
                recorder._steps -= 1
                detach(token)
        except BaseException as error:
            recorder.fail(error)
            raise
        if chunk is _END:
            recorder.complete()
            raise StopIteration
        return chunk

    def __getattr__(self, name: str) -> Any:
        return getattr(self._iterator, name)


class _RecordedAsyncIterator:
    """The same for a stream that is read asynchronously."""

    __slots__ = ("_iterator", "_recorder")

    def __init__(self, iterator: AsyncIterator[Any], recorder: StreamRecorder) -> None:
        self._iterator = iterator
        self._recorder = recorder

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        recorder = self._recorder
        if recorder.is_over:
            return await anext(self._iterator)
        try:
            token = attach(recorder.request.call, recorder.request.call)
            recorder._steps += 1
            try:
                chunk = await anext(self._iterator, _END)
                while chunk is not _END and recorder.add(chunk):
                    chunk = await anext(self._iterator, _END)
            finally:
                recorder._steps -= 1
                detach(token)
        except BaseException as error:
            recorder.fail(error)
            raise
        if chunk is _END:
            recorder.complete()
            raise StopAsyncIteration
        return chunk

    def __getattr__(self, name: str) -> Any:
        return getattr(self._iterator, name)


def wrap_iterator(iterator: Any, recorder: StreamRecorder) -> Any:
    """Return an iterator with the same chunks, which are added to `recorder` as they are read.

    `iterator` has `__anext__` or `__next__`. Its other attributes, such as `close`, are those of the result.
    """
    if hasattr(iterator, "__anext__"):
        return _RecordedAsyncIterator(iterator, recorder)
    return _RecordedIterator(iterator, recorder)


def wrap_parse(response: Any, recorder: StreamRecorder, record: Callable[[Any], None]) -> None:
    """Wrap the `parse()` of a raw response, a function or a coroutine function: `record` gets what it returns.

    If `parse` raises, the request ends with that error. `record` may raise.
    """
    parse = response.parse
    guarded_record = guarded(record)

    def parse_sync(*args: Any, **kwargs: Any) -> Any:
        try:
            with recorder:
                parsed = parse(*args, **kwargs)
        except BaseException as error:
            recorder.fail(error)
            raise
        guarded_record(parsed)
        return parsed

    async def parse_async(*args: Any, **kwargs: Any) -> Any:
        try:
            with recorder:
                parsed = await parse(*args, **kwargs)
        except BaseException as error:
            recorder.fail(error)
            raise
        guarded_record(parsed)
        return parsed

    response.parse = parse_async if inspect.iscoroutinefunction(parse) else parse_sync


def watch_close(body: Any, recorder: StreamRecorder) -> None:
    """Close the recorder when a response's body is closed; `body` has `close`, or `aclose` if it is asynchronous.

    Every way of closing a stream closes the body once. A body that takes no attributes (a transport's own, with slots)
    is not watched: then the end of the stream or its collection ends the request.
    """
    close = getattr(body, "aclose", None) or body.close

    async def close_async() -> None:
        try:
            await close()
        finally:
            recorder.close()

    def close_sync() -> None:
        try:
            close()
        finally:
            recorder.close()

    try:
        if inspect.iscoroutinefunction(close):
            body.aclose = close_async
        else:
            body.close = close_sync
    except AttributeError as error:
        report("watching a response", error)


def _track(recorder: StreamRecorder) -> None:
    """Track an open recorder: it is recorded when the process ends, and dropped in a forked child."""
    global _has_exit_handler
    _open_recorders.add(recorder)
    if not _has_exit_handler:
        _has_exit_handler = True
        # The first call has registered everycall's own exit handler by now. Handlers run in reverse order.
        atexit.register(_abandon_all)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=_forget_all)


def _abandon_all() -> None:
    for recorder in list(_open_recorders):
        recorder.abandon()


def _forget_all() -> None:
    for recorder in list(_open_recorders):
        recorder.forget()
    _open_recorders.clear()
