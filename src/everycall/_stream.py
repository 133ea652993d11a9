"""Calls whose work is done in steps: generators and async generators. Layer 3; `@trace` and integrations use it.

Each step runs in the consumer's own task, with the call current only while the body runs: what the consumer does
between two steps is not our child, and time-outs, cancel scopes and context variables behave as without us.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from typing import Any

import msgspec
from msgspec import Raw

from everycall import _guard, limits
from everycall._call import Call
from everycall._capture import capture
from everycall._context import attach, detach
from everycall.record import Cut
from everycall.settings import OMIT_ALL, OMIT_OUTPUTS

__all__ = ["AsyncSteps", "Chunks", "drive"]

_encode = msgspec.json.Encoder().encode


class Chunks:
    """What a stream has yielded so far, bounded: texts are joined, anything else becomes a list.

    Ends its call as abandoned when it is collected before the call has ended: an async generator that nobody closes.
    """

    __slots__ = ("_bytes", "_call", "_count", "_items", "_keep", "_text_only")

    def __init__(self, call: Call) -> None:
        self._call = call
        self._items: list[str | Raw] = []
        self._text_only = True
        self._bytes = 0
        self._count = 0
        self._keep = not call.omit & (OMIT_OUTPUTS | OMIT_ALL)

    def add(self, item: Any) -> None:
        """Take one yielded item, as it is now. Never raises."""
        self._count += 1
        if self._count == 1:
            self._call.first_token()
        if not self._keep:
            return
        if self._bytes > limits.FIELD_BYTES_MAX or self._count > limits.STREAM_CHUNKS_MAX:
            return
        if type(item) is str:
            self._items.append(item)
            self._bytes += len(item)
            return
        self._text_only = False
        raw, _ = capture(item)
        self._items.append(raw)
        self._bytes += len(memoryview(raw))

    def finish(self, returned: Any = None) -> None:
        """Set the call's output to what came, and what the generator returned if it did."""
        try:
            self._finish(returned)
        except Exception as error:  # noqa: BLE001 - the guard
            _guard.report("Chunks.finish", error)

    def _finish(self, returned: Any) -> None:
        if not self._keep or self._call.ended:
            return
        if self._text_only and self._items and returned is None:
            self._call.update(output="".join(str(item) for item in self._items))
        else:
            yielded = [i if isinstance(i, Raw) else capture(i)[0] for i in self._items]
            shown: Any = yielded if returned is None else {"yielded": yielded, "returned": capture(returned)[0]}
            self._call.set_raw("output", Raw(_encode(shown)))
        if self._count > len(self._items):
            self._call.note_cut("output", Cut(kept=self._bytes))

    def __del__(self) -> None:
        call = self._call
        if not call.ended:
            self.finish()
            call.abandon()


def drive(generator: Generator[Any, Any, Any], call: Call) -> Generator[Any, Any, Any]:
    """Run a generator as one call: same items, `send`, `throw`, `close` and return value."""
    chunks = Chunks(call)
    send: Any = None
    error: BaseException | None = None
    try:
        while True:
            token = attach(call, call)
            try:
                if error is None:
                    item = generator.send(send)
                else:
                    thrown, error = error, None
                    item = generator.throw(thrown)
            except StopIteration as stop:
                returned = stop.value
                break
            finally:
                detach(token)
            chunks.add(item)
            send = None
            try:
                send = yield item
            except GeneratorExit:
                token = attach(call, call)
                try:
                    generator.close()
                finally:
                    detach(token)
                raise
            except BaseException as thrown:  # noqa: BLE001 - throw(): it belongs to the body
                error = thrown
    except BaseException as failure:
        chunks.finish()
        call.fail(failure)
        raise
    chunks.finish(returned)
    call.end()
    return returned


class AsyncSteps:
    """The steps of an async generator under its call; the traced generator function itself yields between them."""

    __slots__ = ("_call", "_chunks", "_generator", "left")

    def __init__(self, generator: AsyncGenerator[Any, Any], call: Call | None) -> None:
        self._generator = generator
        self._call = call
        self._chunks = Chunks(call) if call is not None else None
        self.left = False
        """Set when a cancellation arrived between two steps: the consumer left, the body was not at work."""

    async def step(self, send: Any, error: BaseException | None) -> Any:
        """Run the body to its next item. Raises `StopAsyncIteration` at its end, and whatever it raises."""
        call = self._call
        if call is None or self._chunks is None:
            return await (self._generator.asend(send) if error is None else self._generator.athrow(error))
        token = attach(call, call)
        try:
            item = await (self._generator.asend(send) if error is None else self._generator.athrow(error))
        finally:
            detach(token)
        self._chunks.add(item)
        return item

    async def close(self) -> None:
        """Close the body, with the call current while its `finally` blocks run."""
        if self._call is None:
            await self._generator.aclose()
            return
        token = attach(self._call, self._call)
        try:
            await self._generator.aclose()
        finally:
            detach(token)

    def finish(self) -> None:
        """End the call: the body ran to its end."""
        if self._call is not None and self._chunks is not None:
            self._chunks.finish()
            self._call.end()

    def fail(self, error: BaseException) -> None:
        """End the call: the body raised, or its consumer left."""
        if self._call is not None and self._chunks is not None:
            self._chunks.finish()
            if self.left:
                self._call.abandon()
            else:
                self._call.fail(error)
