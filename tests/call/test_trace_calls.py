"""What a traced call does to the program: nothing.

It is run once, its value and exceptions are the very objects, and its record ends once, as it should, under its parent.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import everycall
from everycall import context, current, span, trace
from everycall.record import Record, to_json
from everycall.testing import capture_records, deterministic


class Thing:
    """Something that can be referred to weakly."""


class Failure(Exception):
    """One that can be referred to weakly."""


class Falsy:
    def __bool__(self) -> bool:
        return False


# --- values and exceptions ---


@pytest.mark.parametrize("value", [None, 0, "", [], Falsy(), object(), NotImplemented, ValueError("returned")])
def test_the_value_is_the_same_object(value: Any) -> None:
    ran = []

    @trace
    def run(argument: Any) -> Any:
        ran.append(argument)
        return argument

    @trace
    async def run_async(argument: Any) -> Any:
        ran.append(argument)
        return argument

    with capture_records() as records:
        assert run(value) is value
        assert asyncio.run(run_async(value)) is value
    assert len(ran) == 2
    assert all(received_value is value for received_value in ran)
    assert [record.status for record in records] == ["success", "success"]


def test_generators_as_arguments_and_results_are_not_consumed() -> None:
    def numbers() -> Iterator[int]:
        yield from range(3)

    @trace
    def pass_on(argument: Any) -> Any:
        return argument

    with capture_records() as records:
        generator = numbers()
        assert pass_on(generator) is generator
        assert list(generator) == [0, 1, 2]
    assert to_json(records[0].inputs) == {"argument": "<generator>"}


def test_the_exception_is_the_same_object() -> None:
    cause, context_error = KeyError("cause"), LookupError("context")
    error = ValueError("it")

    def fail() -> None:
        try:
            raise context_error
        except LookupError:
            raise error from cause

    for run in (trace(fail), fail):
        with capture_records() as records:
            with pytest.raises(ValueError) as info:
                run()
        assert info.value is error
        assert error.__cause__ is cause
        assert error.__context__ is context_error
        assert context_error.__context__ is None
        error.__cause__ = error.__context__ = None
        if run is not fail:
            assert (records[0].status, records[0].error_type, records[0].error) == (
                "error",
                "ValueError",
                "ValueError: it",
            )


def test_an_exception_in_an_except_block_keeps_its_context() -> None:
    @trace
    def fail() -> None:
        raise TypeError("second")

    with capture_records():
        first = ValueError("first")
        try:
            raise first
        except ValueError:
            with pytest.raises(TypeError) as info:
                fail()
    assert info.value.__context__ is first


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3), GeneratorExit(), BaseException("b")])
@pytest.mark.parametrize("kind", ["function", "coroutine"])
def test_base_exceptions_pass_and_are_recorded(error: BaseException, kind: str) -> None:
    @trace
    def fail() -> None:
        raise error

    @trace
    async def fail_async() -> None:
        raise error

    def drive() -> None:
        try:
            fail_async().send(None)
        except StopIteration:
            raise AssertionError("it must raise") from None

    with capture_records() as records:
        with pytest.raises(type(error)) as info:
            fail() if kind == "function" else drive()
    assert info.value is error
    assert not current().inference_id
    status, error_type = (
        ("success", "abandoned") if isinstance(error, GeneratorExit) else ("error", type(error).__name__)
    )
    assert [(record.status, record.error_type) for record in records] == [(status, error_type)]


def test_inputs_are_recorded_as_they_were() -> None:
    @trace
    def grow(items: list[int], option: dict[str, Any]) -> list[int]:
        items.append(9)
        option.clear()
        return items

    with capture_records() as records:
        values = [1]
        result = grow(values, {"k": [1]})
        result.append(10)
    assert to_json(records[0].inputs) == {"items": [1], "option": {"k": [1]}}
    assert to_json(records[0].output) == [1, 9]


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("kind", ["function", "coroutine", "generator"])
def test_the_users_objects_are_not_kept_alive(kind: str, fails: bool) -> None:
    """Arguments, results and exceptions go when their last user does, by counting alone: nothing is left to collect."""

    def end(thing: Thing) -> Thing:
        if fails:
            raise Failure(thing)
        return Thing()

    @trace
    def function(thing: Thing) -> Thing:
        return end(thing)

    @trace
    async def coroutine(thing: Thing) -> Thing:
        return end(thing)

    @trace
    def generator(thing: Thing) -> Iterator[Thing]:
        yield end(thing)

    def run() -> list[weakref.ref[Any]]:
        thing = Thing()
        seen: list[weakref.ref[Any]] = [weakref.ref(thing)]
        try:
            if kind == "coroutine":
                try:
                    coroutine(thing).send(None)
                except StopIteration as stop:
                    seen.append(weakref.ref(stop.value))
            elif kind == "generator":
                seen.append(weakref.ref(next(generator(thing))))
            else:
                seen.append(weakref.ref(function(thing)))
        except Failure as error:
            seen.append(weakref.ref(error))
        return seen

    gc.collect()
    gc.disable()
    try:
        with capture_records():
            run()
            gc.collect()
            assert [reference() for reference in run()] == [None, None]
            before = gc.collect()
            run()
            assert gc.collect() == before == 0
    finally:
        gc.enable()


# --- endings ---


async def test_a_cancelled_task() -> None:
    started = asyncio.Event()

    @trace
    async def wait() -> None:
        started.set()
        await asyncio.Event().wait()

    with capture_records() as records:
        task = asyncio.create_task(wait())
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert [(record.status, record.error_type) for record in records] == [("error", "cancelled")]


async def test_wait_for_times_out() -> None:
    @trace
    async def wait() -> None:
        await asyncio.Event().wait()

    with capture_records() as records:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(wait(), 0.01)
    assert [(record.status, record.error_type) for record in records] == [("error", "cancelled")]


async def test_a_cancellation_that_the_body_swallows_is_a_success() -> None:
    started = asyncio.Event()

    @trace
    async def wait() -> str:
        try:
            started.set()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "cleaned up"
        return "never"

    with capture_records() as records:
        task = asyncio.create_task(wait())
        await started.wait()
        task.cancel()
        assert await task == "cleaned up"
    assert [(record.status, to_json(record.output)) for record in records] == [("success", "cleaned up")]


def test_a_coroutine_that_is_closed_or_collected() -> None:
    class Suspend:
        def __await__(self) -> Iterator[None]:
            yield

    @trace
    async def wait() -> None:
        await Suspend()  # type: ignore[misc]

    with capture_records() as records:
        coroutine = wait()
        coroutine.send(None)
        coroutine.close()
        coroutine = wait()
        coroutine.send(None)
        del coroutine
    assert [(record.status, record.error_type) for record in records] == [("success", "abandoned")] * 2
    assert not current().inference_id


def test_a_coroutine_that_is_never_awaited_warns_as_without_everycall() -> None:
    async def wait() -> None: ...

    with capture_records() as records:
        for function in (wait, trace(wait)):
            with pytest.warns(RuntimeWarning, match=r"coroutine '.*wait' was never awaited"):
                function()  # type: ignore[unused-coroutine]
    assert records == []


def test_a_call_ends_once() -> None:
    @trace
    def run() -> int:
        call: Any = current()
        assert call is not None
        call.end()
        call.fail(ValueError())
        call.update(output="late")
        return 1

    with capture_records() as records:
        assert run() == 1
    assert [(record.status, record.error_type) for record in records] == [("success", None)]


# --- concurrency: each call has its own parent ---


def children_of(records: list[Record]) -> tuple[int, int]:
    """Return how many of the calls `child` hang on the call `parent`, and how many there are."""
    (parent,) = [record for record in records if record.name == "parent"]
    children = [record for record in records if record.name == "child"]
    return sum(child.parent_id == parent.inference_id for child in children), len(children)


@trace(name="child")
def child(i: int) -> int:
    time.sleep(0.001)
    return i


@trace(name="child")
async def async_child(i: int) -> int:
    await asyncio.sleep(0.001)
    return i


async def gathered() -> Any:
    return await asyncio.gather(*(async_child(i) for i in range(8)))


async def grouped() -> Any:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(async_child(i)) for i in range(8)]
    return [task.result() for task in tasks]


async def threaded() -> Any:
    return await asyncio.gather(*(asyncio.to_thread(child, i) for i in range(8)))


async def copied() -> Any:
    with ThreadPoolExecutor(4) as pool:
        return [f.result() for f in [pool.submit(contextvars.copy_context().run, child, i) for i in range(8)]]


async def called_later() -> Any:
    loop = asyncio.get_running_loop()
    done: list[int] = []
    for i in range(8):
        loop.call_soon(lambda i=i: done.append(child(i)))  # type: ignore[misc]
    while len(done) < 8:
        await asyncio.sleep(0)
    return done


@pytest.mark.parametrize("run", [gathered, grouped, threaded, copied, called_later])
async def test_concurrent_calls_keep_their_parent(run: Any) -> None:
    with capture_records() as records:
        assert await trace(name="parent")(run)() == list(range(8))
    assert children_of(records) == (8, 8)


async def test_siblings_do_not_become_each_others_children() -> None:
    @trace(name="leaf")
    async def leaf(i: int) -> int:
        await asyncio.sleep(0)
        return i

    @trace(name="branch")
    async def branch(i: int) -> int:
        await asyncio.sleep(0)
        return await leaf(i)

    with capture_records() as records:
        async with span("root"):
            await asyncio.gather(*(branch(i) for i in range(20)))
    ids = {record.inference_id: record for record in records}
    for record in records:
        if record.name == "leaf":
            above = ids[str(record.parent_id)]
            assert (above.name, to_json(above.inputs)) == ("branch", to_json(record.inputs))
    assert len({record.trace_id for record in records}) == 1


def test_context_variables_set_by_a_function_stay_set() -> None:
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)

    @trace
    def set_it(value: int) -> None:
        variable.set(value)

    @trace
    async def set_it_async(value: int) -> None:
        await asyncio.sleep(0)
        variable.set(value)

    async def main() -> int:
        await set_it_async(2)
        return variable.get()

    with capture_records():
        set_it(1)
        assert variable.get() == 1
        assert asyncio.run(main()) == 2


# --- many threads ---


def test_calls_of_many_threads_do_not_mix() -> None:
    @trace(name="inner")
    def inner(i: int) -> int:
        return i

    @trace(name="outer")
    def outer(i: int) -> int:
        return inner(i)

    def work(i: int) -> None:
        for n in range(50):
            assert outer(i * 1_000 + n) == i * 1_000 + n

    with capture_records() as records:
        threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(records) == 800
    ids = {record.inference_id: record for record in records}
    assert len(ids) == 800
    for record in records:
        if record.name == "inner":
            assert to_json(ids[str(record.parent_id)].inputs) == to_json(record.inputs)


def test_whole_records_can_be_compared() -> None:
    @trace(name="answer")
    def answer(question: str) -> str:
        return question.upper()

    with deterministic(), capture_records() as records:
        answer("why")
    with deterministic(), capture_records() as again:
        answer("why")
    assert records == again
    assert records[0].latency is not None
    assert records[0].latency >= 0


def test_the_programs_context_is_not_cleared() -> None:
    """An OpenTelemetry span and baggage around a traced call are there in it, and after it."""
    from opentelemetry import baggage
    from opentelemetry import context as otel_context
    from opentelemetry import trace as otel_trace

    token = otel_context.attach(baggage.set_baggage("k", "v"))
    try:

        @trace
        def run() -> Any:
            assert otel_trace.get_current_span() is current()
            return baggage.get_baggage("k")

        with capture_records(), context(trace_name="t"):
            assert run() == "v"
            assert baggage.get_baggage("k") == "v"
    finally:
        otel_context.detach(token)
    assert not everycall.current().inference_id
