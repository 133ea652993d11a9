"""Tracing keeps nothing alive: functions, modules, classes and their objects are freed as without everycall."""

from __future__ import annotations

import dataclasses
import functools
import gc
import types
import weakref
from collections.abc import Callable
from typing import Any

import msgspec
import pydantic
import pytest

from everycall import span, trace
from everycall.testing import capture_records

RUNS = 5

SCRIPT = """
class Marker: pass
marker = Marker()

{decorator}
def answer(question):
    return question, answer, len(globals())

answer("x")
"""


class Held:
    """Something that the function below holds."""


def plain(held: Held) -> Any:
    def walk(steps: int) -> Any:
        return traced(steps - 1) if steps else held

    traced = trace(walk)
    traced(2)


def traced_twice(held: Held) -> Any:
    @trace
    @trace(name="inner")
    def run() -> Any:
        return held, run

    run()


def generator(held: Held) -> Any:
    @trace
    def items() -> Any:
        yield held
        yield items

    list(items())


def method(held: Held) -> Any:
    @trace
    class Service:
        def ask(self) -> Any:
            return held, Service

    Service().ask()


def partial(held: Held) -> Any:
    def run(value: Any) -> Any:
        return value, traced

    traced = trace(functools.partial(run, held))
    traced()


def callable_object(held: Held) -> Any:
    class Ask:
        def __call__(self) -> Any:
            return held, traced

    traced = trace(Ask())
    traced()


def failing(held: Held) -> Any:
    @trace
    def fail() -> Any:
        raise ValueError(held)

    with pytest.raises(ValueError, match="Held"):
        fail()


def captured_class(held: Held) -> Any:
    class Plain:
        mark = held

        def __init__(self) -> None:
            self.value = 1

    @dataclasses.dataclass
    class Data:
        mark = held
        value: int = 1

    class Model(pydantic.BaseModel):
        mark: Any = held

    class Fields(msgspec.Struct):
        mark: Any = held

    class Failure(Exception):
        mark = held

    with span("classes", inputs=[Plain(), Data(), Model(), Fields(), Failure()]) as call:
        call.update(output={"class": Plain, "method": Plain.__init__})
        call.record_exception(Failure("x"))


@pytest.mark.parametrize(
    "use",
    [plain, traced_twice, generator, method, partial, callable_object, failing, captured_class],
    ids=lambda use: use.__name__,
)
def test_what_a_call_used_is_freed(use: Callable[[Held], Any]) -> None:
    references = []
    with capture_records() as records:
        for _ in range(RUNS):
            held = Held()
            references.append(weakref.ref(held))
            use(held)
            del held
        gc.collect()
        assert [reference() for reference in references] == [None] * RUNS
    assert len(records) >= RUNS


@pytest.mark.parametrize("decorator", ["", "@trace", "@trace(name='answer')"])
def test_a_script_that_runs_again_frees_its_earlier_runs(decorator: str) -> None:
    references = []
    with capture_records():
        for _ in range(RUNS):
            module = types.ModuleType("__main__")
            module.__dict__["trace"] = trace
            exec(compile(SCRIPT.format(decorator=decorator), "app.py", "exec"), module.__dict__)
            references.append(weakref.ref(module.__dict__["marker"]))
            del module
        gc.collect()
        assert [reference() for reference in references] == [None] * RUNS
