"""Async generators: each scenario runs on the undecorated function and on the traced one, and goes alike.

As in `test_trace_steps.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import weakref
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import pytest

from everycall import trace
from everycall.record import Record, to_json
from everycall.testing import capture_records

Decorate = Callable[[Any], Any]
variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


class Thing:
    """Something that can be referred to weakly."""


def undecorated(function: Any) -> Any:
    return function


async def caught_async(awaitable: Any) -> Any:
    try:
        return await awaitable
    except BaseException as error:
        return shown(error)


def shown(error: BaseException | None) -> Any:
    if error is None:
        return None
    return type(error), error.args, shown(error.__cause__), shown(error.__context__)


def the_call(records: list[Record]) -> Record:
    (record,) = [record for record in records if record.name.endswith("body")]
    return record


# --- async generators ---


async def a_consumed(decorate: Decorate) -> Any:
    @decorate
    async def body() -> AsyncIterator[int]:
        yield 1
        await asyncio.sleep(0)
        yield 2

    return [item async for item in body()]


async def a_sent(decorate: Decorate) -> Any:
    @decorate
    async def body() -> Any:
        values: list[Any] = []
        for _ in range(3):
            values.append((yield len(values)))
        yield values

    steps = body()
    items = [await steps.asend(None), await steps.asend("a"), await anext(steps), await steps.asend("c")]
    return items, await caught_async(anext(steps)), await caught_async(anext(steps))


async def a_sent_too_early(decorate: Decorate) -> Any:
    @decorate
    async def body() -> AsyncIterator[int]:
        yield 1

    steps = body()
    return await caught_async(steps.asend("x")), [item async for item in steps]


async def a_thrown(decorate: Decorate) -> Any:
    log = []

    @decorate
    async def body() -> Any:
        try:
            yield 1
        except ValueError as error:
            log.append(shown(error))
            await asyncio.sleep(0)
            log.append((yield "caught"))

    steps = body()
    return await anext(steps), await steps.athrow(ValueError("in")), await caught_async(steps.asend("more")), log


async def a_thrown_and_not_caught(decorate: Decorate) -> Any:
    @decorate
    async def body() -> AsyncIterator[int]:
        yield 1

    steps = body()
    await anext(steps)
    error = KeyError("k")
    same = None
    try:
        await steps.athrow(error)
    except KeyError as found:
        same = found is error
    return same, await caught_async(anext(steps))


async def a_closed(decorate: Decorate) -> Any:
    log = []

    @decorate
    async def body() -> AsyncIterator[int]:
        try:
            yield 1
        except GeneratorExit as error:
            log.append(shown(error))
            raise
        finally:
            await asyncio.sleep(0)
            log.append("finally")

    steps = body()
    return await anext(steps), await steps.aclose(), await steps.aclose(), await caught_async(anext(steps)), log


async def a_close_ignored(decorate: Decorate) -> Any:
    @decorate
    async def body() -> AsyncIterator[int]:
        try:
            yield 1
        except GeneratorExit:
            yield 2

    steps = body()
    return await anext(steps), await caught_async(steps.aclose()), await caught_async(anext(steps))


async def a_broken_off(decorate: Decorate) -> Any:
    log = []

    @decorate
    async def body() -> AsyncIterator[int]:
        try:
            yield 1
            yield 2
        finally:
            await asyncio.sleep(0)
            log.append("finally")

    async for item in body():
        log.append(item)
        break
    for _ in range(5):  # the event loop closes it in a separate task
        log.append("turn")
        await asyncio.sleep(0)
    return log


async def a_broken_off_and_closed(decorate: Decorate) -> Any:
    log = []

    @decorate
    async def body() -> AsyncIterator[int]:
        try:
            yield 1
            yield 2
        finally:
            log.append("finally")

    async with contextlib.aclosing(body()) as steps:
        async for item in steps:
            log.append(item)
            break
    return log


async def a_never_begun(decorate: Decorate) -> Any:
    @decorate
    async def body() -> AsyncIterator[int]:
        raise AssertionError("it must not run")
        yield 1  # type: ignore[unreachable]

    body()
    gc.collect()
    return None


async def a_failed_midway(decorate: Decorate) -> Any:
    @decorate
    async def body() -> AsyncIterator[int]:
        yield 1
        raise LookupError("midway")

    steps = body()
    return await anext(steps), await caught_async(anext(steps)), await caught_async(anext(steps))


async def a_stop_raised(decorate: Decorate) -> Any:
    @decorate
    async def body() -> AsyncIterator[int]:
        yield 1
        raise StopAsyncIteration("x")

    steps = body()
    return await anext(steps), await caught_async(anext(steps))


async def a_timeout_inside(decorate: Decorate) -> Any:
    @decorate
    async def body() -> AsyncIterator[Any]:
        try:
            async with asyncio.timeout(0.01):
                yield 1
                await asyncio.Event().wait()
        except TimeoutError:
            yield "timed out"

    return [item async for item in body()]


async def a_timeout_around(decorate: Decorate) -> Any:
    log = []

    @decorate
    async def body() -> AsyncIterator[int]:
        try:
            yield 1
            await asyncio.Event().wait()
        except asyncio.CancelledError as error:
            log.append(type(error))
            raise

    async def consume() -> None:
        async with asyncio.timeout(0.01):
            async for item in body():
                log.append(item)

    return await caught_async(consume()), log


async def a_cancel_scope_across_a_yield(decorate: Decorate) -> Any:
    @decorate
    async def body() -> AsyncIterator[Any]:
        with anyio.move_on_after(0.01) as scope:
            yield 1
            await anyio.sleep_forever()
        yield scope.cancelled_caught

    return [item async for item in body()]


async def a_task_group_inside(decorate: Decorate) -> Any:
    @decorate
    async def body() -> AsyncIterator[Any]:
        async with anyio.create_task_group() as group:
            group.start_soon(asyncio.sleep, 0)
            yield 1
            group.cancel_scope.cancel()
        yield 2

    return [item async for item in body()]


async def a_task_cancelled(decorate: Decorate) -> Any:
    log = []

    @decorate
    async def body() -> AsyncIterator[int]:
        try:
            yield 1
            log.append("waits")
            await asyncio.Event().wait()
        finally:
            log.append("finally")

    async def consume() -> None:
        async for item in body():
            log.append(item)

    task = asyncio.create_task(consume())
    while "waits" not in log:
        await asyncio.sleep(0)
    task.cancel()
    return await caught_async(task), log


async def a_task_cancelled_between_steps(decorate: Decorate) -> Any:
    log = []

    @decorate
    async def body() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            log.append("finally")

    async def consume() -> None:
        async with contextlib.aclosing(body()) as steps:
            async for item in steps:
                log.append(item)
                await asyncio.Event().wait()

    task = asyncio.create_task(consume())
    while not log:
        await asyncio.sleep(0)
    task.cancel()
    return await caught_async(task), log


async def a_task_cancelled_in_its_block(decorate: Decorate) -> Any:
    """As a context manager: the cancellation of the block is thrown into the body."""
    log = []

    @contextlib.asynccontextmanager
    @decorate
    async def body() -> AsyncIterator[int]:
        try:
            yield 1
        except asyncio.CancelledError:
            log.append("cancelled")
            raise

    async def consume() -> None:
        async with body() as value:
            log.append(value)
            await asyncio.Event().wait()

    task = asyncio.create_task(consume())
    while not log:
        await asyncio.sleep(0)
    task.cancel()
    return await caught_async(task), log


async def a_context_variables(decorate: Decorate) -> Any:
    @decorate
    async def body() -> AsyncIterator[str]:
        yield variable.get()
        variable.set("by the body")
        yield variable.get()
        yield variable.get()

    async def run() -> Any:
        steps = body()
        items = [await anext(steps), await anext(steps), variable.get()]
        variable.set("by the consumer")
        items.append(await anext(steps))
        await steps.aclose()
        return items

    return await asyncio.get_running_loop().create_task(run(), context=contextvars.Context())


async def a_two_at_once(decorate: Decorate) -> Any:
    gate = asyncio.Event()

    @decorate
    async def body() -> AsyncIterator[int]:
        await gate.wait()
        yield 1

    steps = body()
    first = asyncio.ensure_future(anext(steps))
    await asyncio.sleep(0)
    second = await caught_async(anext(steps))
    gate.set()
    return await first, second[0], await caught_async(anext(steps))


async def a_items_are_let_go(decorate: Decorate) -> Any:
    @decorate
    async def body() -> AsyncIterator[Thing]:
        yield Thing()

    steps = body()
    thing = await anext(steps)
    reference = weakref.ref(thing)
    del thing
    is_collected = reference() is None
    await steps.aclose()
    return is_collected


async def a_the_object(decorate: Decorate) -> Any:
    @decorate
    async def body() -> AsyncIterator[int]:
        yield 1

    steps: Any = body()
    await steps.aclose()
    return type(steps), steps.__name__, steps.__qualname__, aiter(steps) is steps


ASYNC_GENERATORS = [
    (a_consumed, "success", None, [1, 2]),
    (a_sent, "success", None, [0, 1, 2, ["a", None, "c"]]),
    (a_sent_too_early, "success", None, [1]),
    (a_thrown, "success", None, [1, "caught"]),
    (a_thrown_and_not_caught, "error", "KeyError", [1]),
    (a_closed, "success", "abandoned", [1]),
    (a_close_ignored, "success", "abandoned", [1, 2]),
    (a_broken_off, "success", "abandoned", [1]),
    (a_broken_off_and_closed, "success", "abandoned", [1]),
    (a_never_begun, "success", "abandoned", []),
    (a_failed_midway, "error", "LookupError", [1]),
    (a_stop_raised, "error", "RuntimeError", [1]),
    (a_timeout_inside, "success", None, [1, "timed out"]),
    (a_timeout_around, "error", "cancelled", [1]),
    (a_cancel_scope_across_a_yield, "success", None, [1, True]),
    (a_task_group_inside, "success", None, [1, 2]),
    (a_task_cancelled, "error", "cancelled", [1]),
    (a_task_cancelled_between_steps, "success", "abandoned", [1]),
    (a_task_cancelled_in_its_block, "error", "cancelled", [1]),
    (a_context_variables, "success", "abandoned", "unsetby the bodyby the consumer"),
    (a_two_at_once, "success", None, [1]),
    (a_items_are_let_go, "success", "abandoned", 1),
    (a_the_object, "success", "abandoned", []),
]


@pytest.mark.parametrize(
    ("scenario", "status", "error_type", "output"), ASYNC_GENERATORS, ids=lambda v: getattr(v, "__name__", "")
)
def test_async_generators(scenario: Any, status: str, error_type: str | None, output: Any) -> None:
    expected = asyncio.run(scenario(undecorated))
    with capture_records() as records:
        assert asyncio.run(scenario(trace)) == expected
        gc.collect()
    record = the_call(records)
    assert (record.status, record.error_type) == (status, error_type)
    recorded = to_json(record.output)
    assert (len(recorded) if isinstance(output, int) else recorded) == output


@pytest.mark.parametrize("decorate", [undecorated, trace], ids=["undecorated", "traced"])
def test_a_loop_that_ends_closes_an_async_generator_once(decorate: Decorate) -> None:
    """The event loop closes what was left open: the body alone, not the body and its wrapper at the same time."""
    log: list[Any] = []

    @decorate
    async def body() -> AsyncIterator[int]:
        try:
            yield 1
            yield 2
        finally:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            log.append("finally")

    async def main() -> Any:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: log.append(context["message"]))
        steps = body()
        await anext(steps)
        return steps

    with capture_records() as records:
        result = asyncio.run(main())
        assert log == ["finally"]
        del result
    assert [record.error_type for record in records] == (["abandoned"] if decorate is trace else [])
