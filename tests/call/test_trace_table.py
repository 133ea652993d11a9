"""The decorator's table: one row, one test. Each is a thing that programs rely on and that decorators often break."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import pytest

from everycall import span, trace
from everycall.record import Record, to_json
from everycall.testing import capture_records

Records = list[Record]


@trace(name="steps")
def steps() -> Any:
    values = []
    for i in range(2):
        try:
            values.append((yield i))
        except ValueError:
            values.append("caught")
    return values


@trace(name="asteps")
async def asteps() -> Any:
    values = []
    for i in range(2):
        values.append((yield i))
    yield values


def ending(records: Records, name: str = "steps") -> tuple[str, str | None]:
    (record,) = [record for record in records if record.name == name]
    return record.status, record.error_type


def is_child(records: Records, child: str, parent: str) -> bool:
    records_by_name = {record.name: record for record in records}
    return records_by_name[child].parent_id == records_by_name[parent].inference_id


async def generator_send(records: Records) -> None:
    generator = steps()
    assert [next(generator), generator.send("x")] == [0, 1]
    with pytest.raises(StopIteration) as stop:
        generator.send("y")
    assert stop.value.value == ["x", "y"]


async def generator_throw(records: Records) -> None:
    generator = steps()
    assert [next(generator), generator.throw(ValueError())] == [0, 1]
    with pytest.raises(StopIteration) as stop:
        next(generator)
    assert stop.value.value == ["caught", None]


async def generator_return_value(records: Records) -> None:
    def outer() -> Any:
        return (yield from steps())

    generator = outer()
    next(generator), next(generator)
    with pytest.raises(StopIteration) as stop:
        next(generator)
    assert stop.value.value == [None, None]


async def kinds_are_kept(records: Records) -> None:
    assert inspect.isgeneratorfunction(steps)
    assert inspect.isasyncgenfunction(asteps)


async def the_consumers_span_is_no_child(records: Records) -> None:
    for _ in steps():
        with span("consumer"):
            pass
    assert all(record.parent_id is None for record in records if record.name == "consumer")


async def a_span_inside_is_a_child(records: Records) -> None:
    @trace(name="outer")
    def body() -> Iterator[int]:
        with span("inner"):
            yield 1

    list(body())
    assert is_child(records, "inner", "outer")


async def early_break_ends_the_span(records: Records) -> None:
    for _ in steps():
        break
    assert ending(records) == ("success", "abandoned")


async def asyncio_timeout_inside_fires(records: Records) -> None:
    @trace
    async def body() -> AsyncIterator[int]:
        async with asyncio.timeout(0.01):
            yield 1
            await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        [item async for item in body()]


async def anyio_scope_across_a_yield(records: Records) -> None:
    @trace
    async def body() -> AsyncIterator[int]:
        with anyio.move_on_after(0.01):
            yield 1
            await anyio.sleep_forever()
        yield 2

    assert [item async for item in body()] == [1, 2]


async def asend(records: Records) -> None:
    generator = asteps()
    assert [await generator.asend(None), await generator.asend("x"), await generator.asend("y")] == [0, 1, ["x", "y"]]


async def aclose_after_an_early_break_ends_the_span(records: Records) -> None:
    generator = asteps()
    async for _ in generator:
        break
    await generator.aclose()
    assert ending(records, "asteps") == ("success", "abandoned")


async def context_variables_of_the_body_are_visible(records: Records) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")

    @trace
    async def coroutine() -> None:
        variable.set("coroutine")

    @trace
    def generator() -> Iterator[None]:
        variable.set("generator")
        yield

    await coroutine()
    assert variable.get() == "coroutine"
    next(generator())
    assert variable.get() == "generator"


async def above_static_and_class_methods(records: Records) -> None:
    class Holder:
        @trace
        @staticmethod
        def static(x: int) -> int:
            return x

        @trace
        @classmethod
        def of_class(cls, x: int) -> tuple[str, int]:
            return cls.__name__, x

    assert (Holder.static(1), Holder().static(2), Holder.of_class(3)) == (1, 2, ("Holder", 3))
    assert len(records) == 3


async def a_class_stays_a_class(records: Records) -> None:
    @trace
    class Holder:
        def run(self) -> int:
            return 1

    class Below(Holder):
        pass

    assert isinstance(Holder, type)
    assert isinstance(Below(), Holder)
    assert Below().run() == 1
    assert len(records) == 1


async def callable_objects_and_partials(records: Records) -> None:
    class Double:
        def __call__(self, x: int) -> int:
            return x * 2

    assert (trace(Double())(2), trace(functools.partial(max, 3))(2)) == (4, 3)
    assert len(records) == 2


async def the_signature_is_unchanged(records: Records) -> None:
    def run(a: int, /, *, b: str = "b") -> None: ...

    assert inspect.signature(trace(run)) == inspect.signature(run)


async def an_argument_whose_methods_raise(records: Records) -> None:
    class Rude:
        def __repr__(self) -> str:
            raise RuntimeError

        def __getattr__(self, name: str) -> Any:
            raise RuntimeError

    assert trace(lambda x: 1)(Rude()) == 1
    assert len(records) == 1


async def a_cyclic_list(records: Records) -> None:
    values: list[Any] = [1]
    values.append(values)
    assert trace(lambda x: x)(values) is values
    assert to_json(records[0].inputs) == {"x": [1, "<cycle to list>"]}


async def keyboard_interrupt_ends_the_span(records: Records) -> None:
    @trace(name="steps")
    def run() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()
    assert ending(records) == ("error", "KeyboardInterrupt")


async def a_cancelled_task_ends_the_span(records: Records) -> None:
    @trace(name="steps")
    async def run() -> None:
        await asyncio.Event().wait()

    task = asyncio.create_task(run())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ending(records) == ("error", "cancelled")


async def a_thread_pools_calls_keep_their_parent(records: Records) -> None:
    with span("outer"), ThreadPoolExecutor(2) as pool:
        list(pool.map(trace(name="inner")(abs), [1]))
    assert is_child(records, "inner", "outer")


async def inputs_as_they_were_at_call_time(records: Records) -> None:
    values = [1]
    trace(lambda x: x.append(2))(values)
    assert to_json(records[0].inputs) == {"x": [1]}


async def a_large_argument(records: Records) -> None:
    text = "x" * 1_000_000
    assert trace(lambda x: len(x))(text) == 1_000_000
    assert to_json(records[0].inputs) == {"x": text}
    assert records[0].truncated == {}


ROWS: list[Callable[[Records], Any]] = [
    generator_send,
    generator_throw,
    generator_return_value,
    kinds_are_kept,
    the_consumers_span_is_no_child,
    a_span_inside_is_a_child,
    early_break_ends_the_span,
    asyncio_timeout_inside_fires,
    anyio_scope_across_a_yield,
    asend,
    aclose_after_an_early_break_ends_the_span,
    context_variables_of_the_body_are_visible,
    above_static_and_class_methods,
    a_class_stays_a_class,
    callable_objects_and_partials,
    the_signature_is_unchanged,
    an_argument_whose_methods_raise,
    a_cyclic_list,
    keyboard_interrupt_ends_the_span,
    a_cancelled_task_ends_the_span,
    a_thread_pools_calls_keep_their_parent,
    inputs_as_they_were_at_call_time,
    a_large_argument,
]


@pytest.mark.parametrize("row", ROWS)
async def test_the_table(row: Callable[[Records], Any]) -> None:
    with capture_records() as records:
        await row(records)
