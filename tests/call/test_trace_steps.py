"""Generators: each scenario runs on the undecorated function and on the traced one, and goes alike.

A scenario gets the decorator to use and returns all that it could observe; beside it stands how the call's record ends.
"""

from __future__ import annotations

import contextlib
import contextvars
import gc
import inspect
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from everycall import current, trace
from everycall.record import Record, to_json
from everycall.testing import capture_records

Decorate = Callable[[Any], Any]
variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


class Thing:
    """Something that can be referred to weakly."""


def undecorated(function: Any) -> Any:
    return function


def caught(run: Callable[[], Any]) -> Any:
    """Return what a function returns, or what it raises, in a form that can be compared."""
    try:
        return run()
    except BaseException as error:
        return shown(error)


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


# --- generators ---


def consumed(decorate: Decorate) -> Any:
    @decorate
    def body() -> Iterator[int]:
        yield 1
        yield 2

    return list(body())


def sent(decorate: Decorate) -> Any:
    @decorate
    def body() -> Any:
        got: list[Any] = []
        for _ in range(3):
            got.append((yield len(got)))
        return got

    steps = body()
    items = [steps.send(None), steps.send("a"), next(steps)]
    return items, caught(lambda: steps.send("c")), caught(lambda: next(steps))


def sent_too_early(decorate: Decorate) -> Any:
    @decorate
    def body() -> Iterator[int]:
        yield 1

    steps = body()
    return caught(lambda: steps.send("x")), next(steps), caught(lambda: next(steps))


def thrown(decorate: Decorate) -> Any:
    log = []

    @decorate
    def body() -> Any:
        try:
            yield 1
        except ValueError as error:
            log.append(shown(error))
            got = yield "caught"
            log.append(got)
        return "end"

    steps = body()
    return next(steps), steps.throw(ValueError("in")), caught(lambda: steps.send("more")), log


def thrown_and_not_caught(decorate: Decorate) -> Any:
    @decorate
    def body() -> Iterator[int]:
        yield 1

    steps = body()
    next(steps)
    error = KeyError("k")
    same = None
    try:
        steps.throw(error)
    except KeyError as found:
        same = found is error
    return same, caught(lambda: next(steps))


def thrown_and_replaced(decorate: Decorate) -> Any:
    @decorate
    def body() -> Iterator[int]:
        try:
            yield 1
        except ValueError as error:
            raise TypeError("other") from error

    steps = body()
    return next(steps), caught(lambda: steps.throw(ValueError("in")))


def stop_iteration_thrown(decorate: Decorate) -> Any:
    @decorate
    def body() -> Iterator[int]:
        yield 1

    steps = body()
    return next(steps), caught(lambda: steps.throw(StopIteration("x")))


def stop_iteration_raised(decorate: Decorate) -> Any:
    @decorate
    def body() -> Iterator[int]:
        yield 1
        next(iter(()))

    return caught(lambda: list(body()))


def closed(decorate: Decorate) -> Any:
    log = []

    @decorate
    def body() -> Iterator[int]:
        try:
            yield 1
        except GeneratorExit as error:
            log.append(shown(error))
            raise
        finally:
            log.append("finally")

    steps = body()
    return next(steps), caught(steps.close), caught(steps.close), caught(lambda: next(steps)), log


def closed_before_it_began(decorate: Decorate) -> Any:
    log = []

    @decorate
    def body() -> Iterator[int]:
        log.append("ran")
        yield 1

    steps = body()
    return steps.close(), caught(lambda: next(steps)), log


def close_swallowed(decorate: Decorate) -> Any:
    @decorate
    def body() -> Any:
        try:
            yield 1
        except GeneratorExit:
            return "swallowed"

    steps = body()
    return next(steps), caught(steps.close), caught(lambda: next(steps))


def close_ignored(decorate: Decorate) -> Any:
    @decorate
    def body() -> Iterator[int]:
        try:
            yield 1
        except GeneratorExit:
            yield 2

    steps = body()
    return next(steps), caught(steps.close), caught(lambda: next(steps))


def exit_thrown_and_answered(decorate: Decorate) -> Any:
    @decorate
    def body() -> Any:
        try:
            yield 1
        except GeneratorExit:
            yield "not yet"

    steps = body()
    return next(steps), caught(lambda: steps.throw(GeneratorExit())), caught(lambda: next(steps))


def returned(decorate: Decorate) -> Any:
    @decorate
    def body() -> Any:
        yield 1
        return {"n": 2}

    def outer() -> Any:
        return (yield from body())

    steps = outer()
    return next(steps), caught(lambda: next(steps))


def delegated(decorate: Decorate) -> Any:
    """`yield from` passes send, throw and close through."""
    log: list[Any] = []

    @decorate
    def body() -> Any:
        try:
            log.append((yield 1))
            yield 2
        except ValueError:
            yield "caught"
        finally:
            log.append("finally")

    def outer() -> Any:
        yield from body()

    steps = outer()
    return next(steps), steps.send("s"), steps.throw(ValueError()), steps.close(), log


def broken_off(decorate: Decorate) -> Any:
    log = []

    @decorate
    def body() -> Iterator[int]:
        try:
            yield 1
            yield 2
        finally:
            log.append("finally")

    for item in body():
        log.append(item)
        break
    return log


def never_begun(decorate: Decorate) -> Any:
    @decorate
    def body() -> Iterator[int]:
        raise AssertionError("it must not run")
        yield 1  # type: ignore[unreachable]

    body()
    gc.collect()
    return None


def failed_midway(decorate: Decorate) -> Any:
    @decorate
    def body() -> Iterator[int]:
        yield 1
        raise LookupError("midway")

    steps = body()
    return next(steps), caught(lambda: next(steps)), caught(lambda: next(steps))


def refused_arguments(decorate: Decorate) -> Any:
    @decorate
    def body(a: int) -> Iterator[int]:
        yield a

    return caught(lambda: body(1, 2))


def interrupted(decorate: Decorate) -> Any:
    @decorate
    def body() -> Iterator[int]:
        yield 1
        raise KeyboardInterrupt

    return caught(lambda: list(body()))


def exited(decorate: Decorate) -> Any:
    @decorate
    def body() -> Iterator[int]:
        yield 1
        raise SystemExit(3)

    return caught(lambda: list(body()))


def reentered(decorate: Decorate) -> Any:
    generators: list[Any] = []

    @decorate
    def body() -> Iterator[Any]:
        yield caught(lambda: next(generators[0]))

    generators.append(body())
    try:
        return next(generators[0])
    finally:
        generators.clear()


def context_variables(decorate: Decorate) -> Any:
    @decorate
    def body() -> Iterator[str]:
        yield variable.get()
        variable.set("by the body")
        yield variable.get()
        yield variable.get()

    def run() -> Any:
        steps = body()
        items = [next(steps), next(steps), variable.get()]
        variable.set("by the consumer")
        return [*items, next(steps)]

    return contextvars.Context().run(run)


def items_are_let_go(decorate: Decorate) -> Any:
    @decorate
    def body() -> Iterator[Thing]:
        yield Thing()
        yield Thing()

    steps = body()
    references = []
    for _ in range(2):
        thing = next(steps)
        reference = weakref.ref(thing)
        del thing
        references.append(reference() is None)
    steps.close()
    return references


def sent_things_are_let_go(decorate: Decorate) -> Any:
    @decorate
    def body() -> Any:
        got = yield
        reference = weakref.ref(got)
        del got
        yield reference

    steps = body()
    next(steps)
    reference = steps.send(Thing())
    steps.close()
    return reference() is None


def as_a_context_manager(decorate: Decorate) -> Any:
    log = []

    @contextlib.contextmanager
    @decorate
    def body() -> Iterator[str]:
        try:
            yield "value"
        except ValueError as error:
            log.append(shown(error))
        finally:
            log.append("finally")

    with body() as value:
        log.append(value)
        raise ValueError("in the block")
    return log  # type: ignore[unreachable]


def the_object(decorate: Decorate) -> Any:
    @decorate
    def body() -> Iterator[int]:
        yield 1

    steps = body()
    try:
        return type(steps), steps.__name__, steps.__qualname__, inspect.getgeneratorstate(steps), iter(steps) is steps
    finally:
        steps.close()


GENERATORS = [
    (consumed, "success", None, [1, 2]),
    (sent, "success", None, {"yielded": [0, 1, 2], "returned": ["a", None, "c"]}),
    (sent_too_early, "success", None, [1]),
    (thrown, "success", None, {"yielded": [1, "caught"], "returned": "end"}),
    (thrown_and_not_caught, "error", "KeyError", [1]),
    (thrown_and_replaced, "error", "TypeError", [1]),
    (stop_iteration_thrown, "error", "RuntimeError", [1]),
    (stop_iteration_raised, "error", "RuntimeError", [1]),
    (closed, "success", "abandoned", [1]),
    (closed_before_it_began, "success", "abandoned", []),
    (close_swallowed, "success", "abandoned", {"yielded": [1], "returned": "swallowed"}),
    (close_ignored, "success", "abandoned", [1, 2]),
    (exit_thrown_and_answered, "success", "abandoned", [1, "not yet"]),
    (returned, "success", None, {"yielded": [1], "returned": {"n": 2}}),
    (delegated, "success", "abandoned", [1, 2, "caught"]),
    (broken_off, "success", "abandoned", [1]),
    (never_begun, "success", "abandoned", []),
    (failed_midway, "error", "LookupError", [1]),
    (refused_arguments, "error", "TypeError", None),
    (interrupted, "error", "KeyboardInterrupt", [1]),
    (exited, "error", "SystemExit", [1]),
    (reentered, "success", "abandoned", 1),
    (context_variables, "success", "abandoned", "unsetby the bodyby the consumer"),
    (items_are_let_go, "success", "abandoned", 2),
    (sent_things_are_let_go, "success", "abandoned", 2),
    (as_a_context_manager, "success", None, "value"),
    (the_object, "success", "abandoned", []),
]


@pytest.mark.parametrize(
    ("scenario", "status", "error_type", "output"), GENERATORS, ids=lambda v: getattr(v, "__name__", "")
)
def test_generators(scenario: Any, status: str, error_type: str | None, output: Any) -> None:
    expected = scenario(undecorated)
    with capture_records() as records:
        assert scenario(trace) == expected
        gc.collect()
    record = the_call(records)
    assert (record.status, record.error_type) == (status, error_type)
    recorded = to_json(record.output)
    assert (len(recorded) if isinstance(output, int) else recorded) == output
    assert not current().inference_id
