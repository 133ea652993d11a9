"""What a type checker sees of decorated things: the original's type, argument for argument.

Read by mypy in `test_types.py`. `assert_type` states what is right; an ignored error states what must be an error, for
mypy in strict mode complains of an ignore that is not needed.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from typing import Any, Generic, ParamSpec, TypeVar, assert_type, overload

from everycall import Call, current, span, trace

T = TypeVar("T")
P = ParamSpec("P")


@trace
def bare(a: int, /, b: str = "b", *rest: float, c: bool = False) -> list[str]:
    return [b]


@trace()
def called(a: int) -> str:
    return str(a)


@trace("answer")
def named(a: int) -> str:
    return str(a)


@trace(name="answer", kind="tool", tags=["t"], metadata={"k": 1}, log_omit_inputs=True)
def optioned(a: int) -> str:
    return str(a)


@trace
async def coroutine(a: int) -> str:
    return str(a)


@trace(kind="llm")
async def optioned_coroutine(a: int) -> str:
    return str(a)


@trace
def generator(a: int) -> Generator[int, str, bool]:
    yield a
    return True


@trace(name="steps")
def iterator(a: int) -> Iterator[int]:
    yield a


@trace
async def async_generator(a: int) -> AsyncIterator[int]:
    yield a


@trace
def generic(a: T) -> list[T]:
    return [a]


def functions() -> None:
    assert_type(bare(1, "b", 2.0, c=True), list[str])
    assert_type(called(1), str)
    assert_type(named(1), str)
    assert_type(optioned(1), str)
    assert_type(generator(1), Generator[int, str, bool])
    assert_type(iterator(1), Iterator[int])
    assert_type(async_generator(1), AsyncIterator[int])
    assert_type(generic(1), list[int])
    bare("a")  # type: ignore[arg-type]
    bare(a=1)  # type: ignore[call-arg]
    bare(1, d=2)  # type: ignore[call-arg]
    called()  # type: ignore[call-arg]
    named("a")  # type: ignore[arg-type]
    optioned("a")  # type: ignore[arg-type]


async def coroutines() -> None:
    assert_type(await coroutine(1), str)
    assert_type(await optioned_coroutine(1), str)
    await coroutine("a")  # type: ignore[arg-type]
    async for item in async_generator(1):
        assert_type(item, int)


def passed_on(function: Callable[[int], Awaitable[str]]) -> None: ...


passed_on(coroutine)
passed_on(called)  # type: ignore[arg-type]


class Methods:
    @trace
    def method(self, a: int) -> str:
        return str(a)

    @trace(kind="tool")
    async def coroutine(self, a: int) -> str:
        return str(a)

    @trace
    @staticmethod
    def static_above(a: int) -> str:
        return str(a)

    @staticmethod
    @trace(name="s")
    def static_below(a: int) -> str:
        return str(a)

    @trace
    @classmethod
    def class_above(cls, a: int) -> Methods:
        return cls()

    @classmethod
    @trace(name="c")
    def class_below(cls, a: int) -> Methods:
        return cls()

    @property
    @trace
    def value(self) -> int:
        return 1


def methods(it: Methods) -> None:
    assert_type(it.method(1), str)
    assert_type(it.static_above(1), str)
    assert_type(Methods.static_below(1), str)
    assert_type(Methods.class_above(1), Methods)
    assert_type(Methods.class_below(1), Methods)
    assert_type(it.value, int)
    it.method("a")  # type: ignore[arg-type]
    it.static_above("a")  # type: ignore[arg-type]
    Methods.class_above("a")  # type: ignore[arg-type]


@trace
class Bare:
    def __init__(self, a: int) -> None:
        self.a = a


@trace(name="Other", kind="agent")
@dataclasses.dataclass
class Data(Generic[T]):
    a: T

    def get(self) -> T:
        return self.a


class Below(Bare):
    def run(self) -> int:
        return self.a


def classes() -> None:
    assert_type(Bare(1), Bare)
    assert_type(Data(1), Data[int])
    assert_type(Data("a").get(), str)
    assert_type(Below(1).run(), int)
    Bare("a")  # type: ignore[arg-type]


@overload
def overloaded(a: int) -> int: ...
@overload
def overloaded(a: str) -> str: ...
@trace
def overloaded(a: Any) -> Any:
    return a


class Caller:
    def __call__(self, a: int) -> str:
        return str(a)


def others() -> None:
    assert_type(overloaded(1), int)
    assert_type(overloaded("a"), str)
    assert_type(trace(Caller()), Caller)
    assert_type(trace(kind="tool")(Caller())(1), str)
    assert_type(trace(functools.partial(called, 1))(), str)
    assert_type(trace("name")(called)(1), str)
    trace(5)  # type: ignore[call-overload]
    trace(nmae="x")  # type: ignore[call-overload]


def decorator(function: Callable[P, T]) -> Callable[P, T]:
    return trace(name="within")(function)


@decorator
def through_another(a: int) -> str:
    return str(a)


assert_type(through_another(1), str)


def spans() -> None:
    with span("lookup", kind="retriever", inputs={"q": 1}) as call:
        assert_type(call, Call)
    assert_type(current(), Call)
