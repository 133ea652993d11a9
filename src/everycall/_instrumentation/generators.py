"""Generators of a library that run in the context in which they were made. Integrations wrap streams with them."""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Generator
from typing import Any

from opentelemetry.context.context import Context

from everycall._call.context import _current, attach_whole, detach, snapshot
from everycall._call.generators import _first_step, _take_names

__all__ = ["keep_context"]


def keep_context(stream: object) -> Any:
    """Return a generator that runs `stream` in the current context, wherever it is read; never raises.

    For a library's generator that sends its requests when it is read: their calls are then below the call in which the
    generator was made, and under its omit flags. Items, `send`, `throw` and `close` are those of `stream`. Anything but
    a generator or an asynchronous generator is returned as it is.
    """
    wrapped: object
    if inspect.isgenerator(stream):
        wrapped = _run(stream, snapshot() or _current())
    elif inspect.isasyncgen(stream):
        wrapped = _run_async(stream, snapshot() or _current())
    else:
        return stream
    _take_names(wrapped, stream)
    return wrapped


def _run(stream: Generator[Any, Any, Any], context: Context) -> Generator[Any, Any, Any]:
    step, value = stream.send, None
    while True:
        token = attach_whole(context)
        try:
            item = step(value)
        except StopIteration as stop:
            return stop.value
        finally:
            value = None  # an error kept here would keep this frame, and with it the stream
            detach(token)
        try:
            step, value = stream.send, (yield item)
        except BaseException as error:  # noqa: BLE001 - throw() and close() are passed on to the stream
            step, value = stream.throw, error


async def _run_async(
    stream: AsyncGenerator[Any, Any], context: Context
) -> AsyncGenerator[Any, Any]:  # as `_run`, step for step
    step: Any = None
    value: Any = None
    while True:
        token = attach_whole(context)
        try:
            item = await (_first_step(stream) if step is None else step(value))
        except StopAsyncIteration:
            return
        finally:
            value = None
            detach(token)
        try:
            step, value = stream.asend, (yield item)
        except BaseException as error:  # noqa: BLE001 - athrow() and aclose() are passed on to the stream
            step, value = stream.athrow, error
