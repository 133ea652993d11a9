"""Calls of generators and async generators, for `@trace` and integrations.

Each step runs in the consumer's task, but in a context of the generator's own. So calls that the consumer makes between
two steps are not children of this call, a span that the body keeps open across a `yield` is still open at its next
step, and time-outs, cancel scopes and context variables behave as in an undecorated generator.
"""

from __future__ import annotations

import codecs
import inspect
import sys
import types
from collections.abc import AsyncGenerator, Generator
from typing import Any

import msgspec
from msgspec import Raw
from opentelemetry.context.context import Context

from everycall import _guard, limits
from everycall._call.call import OwnedCall
from everycall._call.context import _attach as resume
from everycall._call.context import _current as here
from everycall._call.context import attach, detach
from everycall._capture.serialize import capture
from everycall.record import Cut
from everycall.settings import OMIT_ALL, OMIT_OUTPUTS

__all__ = ["Chunks", "drive", "drive_async"]

_encode = msgspec.json.Encoder().encode
_Utf8 = codecs.getincrementaldecoder("utf-8")


class Chunks:
    """What a stream has yielded so far, bounded: texts are joined, anything else becomes a list.

    With `decodes`, for the body of a response, bytes are text in UTF-8.

    Ends its call as abandoned when it is collected before the call has ended: a generator that was never begun, or an
    async generator that is never closed.
    """

    __slots__ = ("_begun", "_call", "_cut", "_decoder", "_items", "_keep", "_room", "_text_only")

    def __init__(self, call: OwnedCall, decodes: bool = False) -> None:
        self._call = call
        self._decoder = _Utf8("backslashreplace") if decodes else None
        self._items: list[str | Raw] = []
        self._text_only = True
        self._room = limits.FIELD_BYTES_MAX
        self._cut = False
        self._begun = False
        self._keep = not call.omit & (OMIT_OUTPUTS | OMIT_ALL)

    def add(self, item: Any) -> None:
        """Record one yielded item in its present state. Never raises."""
        if not self._begun:
            self._begun = True
            self._call.first_token()
        if not self._keep:
            return
        if self._decoder is not None and type(item) is bytes:
            item = self._decoder.decode(item)
        if self._room <= 0:
            self._cut = True
        elif type(item) is str:
            self._cut = self._cut or len(item) > self._room
            self._items.append(item if len(item) <= self._room else item[: self._room])
            self._room -= len(item)
        elif len(self._items) >= limits.STREAM_CHUNKS_MAX:
            self._cut = True
        else:
            self._text_only = False
            raw, cut = capture(item)
            self._cut = self._cut or cut is not None
            self._items.append(raw)
            self._room -= len(memoryview(raw))

    def finish(self, returned: Any = None) -> None:
        """Set the call's output to what came, and what the generator returned if it did. Never raises."""
        try:
            if self._keep and not self._call.ended:
                self._finish(returned)
        except Exception as error:  # noqa: BLE001 - the guard
            _guard.report("Chunks.finish", error)

    def _finish(self, returned: Any) -> None:
        if self._text_only and self._items and returned is None:
            self._call.update(output="".join(str(item) for item in self._items))
        else:
            yielded = [capture(item)[0] if isinstance(item, str) else item for item in self._items]
            output: Any = yielded if returned is None else {"yielded": yielded, "returned": capture(returned)[0]}
            self._call.set_raw("output", Raw(_encode(output)))
        if self._cut:
            self._call.note_cut("output", Cut(kept=limits.FIELD_BYTES_MAX - max(self._room, 0)))

    def __del__(self) -> None:
        if not self._call.ended:
            self.finish()
            self._call.abandon()


def drive(generator: Generator[Any, Any, Any], call: OwnedCall, *, decodes: bool = False) -> Generator[Any, Any, Any]:
    """Return a generator that runs another one as one call: same items, `send`, `throw`, `close` and return value.

    `decodes` is as in `Chunks`.
    """
    awaited = generator.gi_code.co_flags & inspect.CO_ITERABLE_COROUTINE if inspect.isgenerator(generator) else 0
    steps = (_steps_awaited if awaited else _steps)(generator, call, Chunks(call, decodes))
    _take_names(steps, generator)
    return steps


def drive_async(
    generator: AsyncGenerator[Any, Any], call: OwnedCall, *, decodes: bool = False
) -> AsyncGenerator[Any, Any]:
    """Return an async generator that runs another one as one call: same items, `asend`, `athrow` and `aclose`.

    `decodes` is as in `Chunks`.
    """
    steps = _async_steps(generator, call, Chunks(call, decodes))
    _take_names(steps, generator)
    return steps


def _take_names(steps: Any, original: Any) -> None:
    for name in ("__name__", "__qualname__"):
        setattr(steps, name, getattr(original, name, "generator"))


def _end(
    call: OwnedCall, chunks: Chunks, failure: BaseException | None, returned: Any = None, left: bool = False
) -> None:
    """End a call whose body is through: failed, left by its consumer (and it let itself be closed), or at its end."""
    try:
        chunks.finish(returned)
        if failure is not None:
            call.fail(failure)
        elif left:
            call.abandon()
        else:
            call.end()
    except Exception as error:  # noqa: BLE001 - the guard; a full stack, for one
        _guard.report("stream", error)


def _steps(generator: Generator[Any, Any, Any], call: OwnedCall, chunks: Chunks) -> Generator[Any, Any, Any]:
    # Items and exceptions pass through lists that are emptied at once: a variable would keep them alive for a step.
    inside: Context | None = None
    errors: list[BaseException] = []
    item: list[Any] = []
    value: Any = None
    left = False
    try:
        while True:
            token = attach(call, call) if inside is None else resume(inside)
            try:
                item.append(generator.throw(errors.pop()) if errors else generator.send(value))
            finally:
                inside = here()
                detach(token)
            chunks.add(item[0])
            value = None
            try:
                value = yield item.pop()
            except BaseException as error:  # noqa: BLE001 - throw() and close(): it belongs to the body
                left = isinstance(error, GeneratorExit)
                errors.append(error)
    except StopIteration as stop:
        returned = stop.value
    except BaseException as failure:
        _end(call, chunks, failure)
        raise
    _end(call, chunks, None, returned, left)
    return returned


_steps_awaited: Any = types.coroutine(types.FunctionType(_steps.__code__, globals(), "steps"))
"""The same for a body made by `types.coroutine`, which is awaited."""


async def _async_steps(
    generator: AsyncGenerator[Any, Any], call: OwnedCall, chunks: Chunks
) -> AsyncGenerator[Any, Any]:  # as `_steps`, step for step
    inside: Context | None = None
    errors: list[BaseException] = []
    item: list[Any] = []
    value: Any = None
    left = False
    try:
        while True:
            token = attach(call, call) if inside is None else resume(inside)
            try:
                if inside is None:
                    item.append(await _first_step(generator))
                else:
                    item.append(await (generator.athrow(errors.pop()) if errors else generator.asend(value)))
            finally:
                inside = here()
                detach(token)
            chunks.add(item[0])
            value = None
            try:
                value = yield item.pop()
            except BaseException as error:  # noqa: BLE001 - athrow() and aclose(): it belongs to the body
                left = isinstance(error, GeneratorExit)
                errors.append(error)
    except StopAsyncIteration:
        _end(call, chunks, None, None, left)
    except BaseException as failure:
        _end(call, chunks, failure)
        raise


def _first_step(generator: AsyncGenerator[Any, Any]) -> Any:
    """Start the body without the event loop's hooks: the loop would close it at its end, and the wrapper does that."""
    hooks = sys.get_asyncgen_hooks()
    sys.set_asyncgen_hooks(None, None)
    try:
        return generator.asend(None)
    finally:
        sys.set_asyncgen_hooks(*hooks)
