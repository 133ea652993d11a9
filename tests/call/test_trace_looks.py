"""A decorated callable looks like the original, and its calls are recorded."""

from __future__ import annotations

import abc
import asyncio
import copy
import dataclasses
import functools
import inspect
import pickle
import types
import typing
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from everycall import trace
from everycall.record import Record, to_json
from everycall.testing import capture_records


def plain(a: int, /, b: str = "b", *rest: float, c: bool = False, **extra: Any) -> list[Any]:
    """Say what came."""
    return [a, b, rest, c, extra]


async def coroutine(a: int, b: str = "b") -> list[Any]:
    """Say what came."""
    return [a, b]


def generator(a: int, b: str = "b") -> Iterator[Any]:
    """Say what came."""
    yield a
    yield b


async def async_generator(a: int, b: str = "b") -> AsyncIterator[Any]:
    """Say what came."""
    yield a
    yield b


plain.custom = ["kept"]  # type: ignore[attr-defined]
FUNCTIONS = [plain, coroutine, generator, async_generator]
functions = pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
decorations = pytest.mark.parametrize("decorate", [trace, trace(name="other", tags=["t"]), trace("other")])

traced_plain = trace(plain)


@trace
def by_name(x: int) -> int:
    return x


@trace
def steps_by_name(x: int) -> Iterator[int]:
    yield x


@functions
@decorations
def test_a_function_keeps_its_signature_and_metadata(function: Any, decorate: Any) -> None:
    traced = decorate(function)
    assert traced is not function
    assert type(traced) is types.FunctionType
    assert inspect.signature(traced) == inspect.signature(function)
    for name in (
        "__name__",
        "__qualname__",
        "__doc__",
        "__module__",
        "__annotations__",
        "__defaults__",
        "__kwdefaults__",
    ):
        assert getattr(traced, name) == getattr(function, name), name
    assert traced.__globals__ is function.__globals__
    assert traced.__wrapped__ is function  # type: ignore[attr-defined]
    assert {k: v for k, v in vars(traced).items() if k != "__wrapped__"} == vars(function)
    assert inspect.unwrap(traced) is function
    assert inspect.getsource(traced) == inspect.getsource(function)
    assert typing.get_type_hints(traced) == typing.get_type_hints(function)
    for ask in (
        inspect.isfunction,
        inspect.iscoroutinefunction,
        inspect.isgeneratorfunction,
        inspect.isasyncgenfunction,
        asyncio.iscoroutinefunction,
        callable,
    ):
        assert ask(traced) == ask(function), ask


@functions
def test_a_result_has_the_same_type(function: Any) -> None:
    def looks(thing: Any) -> Any:
        properties = (
            type(thing),
            getattr(thing, "__name__", None),
            getattr(thing, "__qualname__", None),
            inspect.isawaitable(thing),
        )
        if inspect.iscoroutine(thing):
            thing.close()
        return properties

    with capture_records():
        assert looks(trace(function)(1)) == looks(function(1))


@pytest.mark.parametrize("wrap", ["_plain", "_coroutine", "_generator"])
def test_wrappers_use_no_globals(wrap: str) -> None:
    """They run with the globals of the user's module, which do not have everycall's names."""
    import dis

    from everycall._call import wrappers

    wrapper = getattr(wrappers, wrap)(plain, wrappers.Plan(wrappers.Options(), "n", wrappers.Arguments()))  # type: ignore[attr-defined]
    names = [i.argval for i in dis.get_instructions(wrapper) if i.opname.startswith(("LOAD_GLOBAL", "LOAD_NAME"))]
    assert names == []


def test_pickles_by_name() -> None:
    for function in (by_name, steps_by_name):
        assert pickle.loads(pickle.dumps(function)) is function
    assert copy.copy(by_name) is by_name
    assert copy.deepcopy(by_name) is by_name


def test_partials_and_callable_objects_pickle_as_themselves() -> None:
    partial = pickle.loads(pickle.dumps(trace(functools.partial(by_name, 3))))
    assert type(partial) is functools.partial
    with capture_records():
        assert partial() == 3


def outcome(thing: Any, *args: Any, **kwargs: Any) -> Any:
    """Run whatever it is to its end."""
    result = thing(*args, **kwargs)
    if inspect.isawaitable(result):
        return asyncio.run(awaited(result))
    if inspect.isasyncgen(result):
        return asyncio.run(collected(result))
    return list(result) if inspect.isgenerator(result) else result


async def awaited(awaitable: Any) -> Any:
    return await awaitable


async def collected(iterable: Any) -> Any:
    return [item async for item in iterable]


class Caller:
    def __call__(self, x: int) -> int:
        return x * 2


class AsyncCaller:
    async def __call__(self, x: int) -> int:
        return x * 2


class GeneratorCaller:
    def __call__(self, x: int) -> Iterator[int]:
        yield x * 2


class Methods:
    """One of each, decorated by what `made` is given."""

    kind = "original"

    def __init__(self, start: int) -> None:
        self.start = start

    def method(self, x: int) -> int:
        return self.start + x

    async def coroutine(self, x: int) -> int:
        return self.start + x

    def steps(self, x: int) -> Iterator[int]:
        yield self.start + x

    @staticmethod
    def static(x: int) -> int:
        return x

    @classmethod
    def of_class(cls, x: int) -> tuple[str, int]:
        return cls.kind, x

    @property
    def value(self) -> int:
        """The start."""
        return self.start

    @functools.cached_property
    def once(self) -> int:
        return self.start

    @functools.lru_cache
    def cached(self, x: int) -> int:
        return self.start + x

    @functools.singledispatchmethod
    def dispatched(self, x: Any) -> str:
        return "any"

    @dispatched.register
    def _(self, x: int) -> str:
        return "int"

    bound_early = functools.partialmethod(method, 5)


def decorated_methods() -> type[Methods]:
    """A copy of the class with the decorator above every descriptor."""
    space = {name: value for name, value in vars(Methods).items() if name not in ("__dict__", "__weakref__")}
    names = [
        "method",
        "coroutine",
        "steps",
        "static",
        "of_class",
        "value",
        "once",
        "cached",
        "dispatched",
        "bound_early",
    ]
    for name in names:
        space[name] = trace(name=name)(space[name])
    return type("Methods", (), space)


@pytest.mark.parametrize(
    ("name", "args", "inputs"),
    [
        ("method", (1,), {"x": 1}),
        ("coroutine", (1,), {"x": 1}),
        ("steps", (1,), {"x": 1}),
        ("static", (1,), {"x": 1}),
        ("of_class", (1,), {"x": 1}),
        ("cached", (1,), {"x": 1}),
        ("dispatched", (1,), {"x": 1}),
        ("dispatched", ("one",), {"x": "one"}),
        ("bound_early", (), {}),
    ],
)
@pytest.mark.parametrize("through", ["instance", "class", "subclass"])
def test_methods_of_every_kind(name: str, args: tuple[Any, ...], inputs: Any, through: str) -> None:
    decorated = decorated_methods()

    def call(cls: type[Any]) -> Any:
        if through == "subclass":
            cls = type("Sub", (cls,), {"kind": "sub"})
        instance = cls(10)
        if through == "class" and name not in ("static", "of_class"):
            return outcome(getattr(cls, name), instance, *args)
        return outcome(getattr(cls if through == "class" else instance, name), *args)

    with capture_records() as records:
        assert call(decorated) == call(Methods)
    assert [record.name for record in records] == [name]
    assert to_json(records[0].inputs) == inputs
    assert records[0].status == "success"


@pytest.mark.parametrize("name", ["value", "once"])
def test_properties(name: str) -> None:
    decorated = decorated_methods()
    assert type(vars(decorated)[name]) is type(vars(Methods)[name])
    assert vars(decorated)[name].__doc__ == vars(Methods)[name].__doc__
    with capture_records() as records:
        instance = decorated(3)
        assert [getattr(instance, name) for _ in range(3)] == [3, 3, 3]
    assert len(records) == (1 if name == "once" else 3)


def test_a_property_keeps_its_setter() -> None:
    class Box:
        def __init__(self) -> None:
            self._x = 1

        @trace  # type: ignore[prop-decorator]
        @property
        def x(self) -> int:
            return self._x

        @x.setter
        def x(self, value: int) -> None:
            self._x = value

        @property
        @trace
        def y(self) -> int:
            return self._x

    box = Box()
    with capture_records() as records:
        box.x = 5
        assert (box.x, box.y) == (5, 5)
    assert [record.name.rpartition(".")[2] for record in records] == ["x", "y"]


@pytest.mark.parametrize("order", ["above", "below"])
@pytest.mark.parametrize("kind", [staticmethod, classmethod])
def test_static_and_class_methods_in_either_order(kind: Any, order: str) -> None:
    def take(*args: int) -> Any:
        return args[-1]

    class Holder:
        method = trace(kind(take)) if order == "above" else kind(trace(take))

    assert type(vars(Holder)["method"]) is kind
    with capture_records() as records:
        assert Holder.method(1) == Holder().method(1) == 1
    assert len(records) == 2


def test_abstract_methods_stay_abstract() -> None:
    class Base(abc.ABC):
        @trace
        @abc.abstractmethod
        def above(self) -> int: ...

        @abc.abstractmethod
        @trace
        def below(self) -> int: ...

        @trace  # type: ignore[prop-decorator]
        @property
        @abc.abstractmethod
        def value(self) -> int: ...

        @trace
        @classmethod
        @abc.abstractmethod
        def of_class(cls) -> int: ...

    assert Base.__abstractmethods__ == {"above", "below", "value", "of_class"}
    with pytest.raises(TypeError, match="abstract"):
        Base()  # type: ignore[abstract]


def test_dataclass_methods() -> None:
    @trace
    @dataclasses.dataclass(slots=True)
    class Point:
        x: int
        y: int = 2

        def total(self) -> int:
            return self.x + self.y

    with capture_records() as records:
        assert Point(1) == Point(1, 2)
        assert Point(1).total() == 3
        assert dataclasses.asdict(Point(1)) == {"x": 1, "y": 2}
    assert [record.name.rpartition(".")[2] for record in records] == ["total"]


def test_a_traced_class_is_the_same_class() -> None:
    class Base:
        def greet(self) -> str:
            return "base"

    class Child(Base):
        """A child."""

        limit = 3

        def greet(self) -> str:
            return "child of " + super().greet()

        def _hidden(self) -> int:
            return 1

        @property
        def size(self) -> int:
            return self._hidden()

        @staticmethod
        def fixed() -> int:
            return 7

        class Inner:
            def run(self) -> int:
                return 1

    before = Child
    traced = trace(name="C")(Child)
    assert traced is before
    assert isinstance(traced, type)

    class Grandchild(traced):  # type: ignore[misc, valid-type]
        def greet(self) -> str:
            return f"grand{super().greet()}"

    with capture_records() as records:
        child = traced()
        assert isinstance(child, Child)
        assert issubclass(Grandchild, Base)
        assert child.greet() == "child of base"
        assert Grandchild().greet() == "grandchild of base"
        assert (child.size, child.fixed(), child.Inner().run()) == (1, 7, 1)
    assert [record.name for record in records] == ["C.greet", "C.greet", "C.fixed"]


def test_an_immutable_class_is_not_changed() -> None:
    class Frozen(type):
        def __setattr__(cls, name: str, value: Any) -> None:
            raise AttributeError("frozen")

    class Held(metaclass=Frozen):
        def run(self) -> int:
            return 1

    assert trace(Held)().run() == 1


@pytest.mark.parametrize("order", ["above", "below"])
def test_singledispatch_in_either_order(order: str) -> None:
    def kind(x: Any) -> str:
        return "any"

    dispatched: Any = (
        trace(functools.singledispatch(kind)) if order == "above" else functools.singledispatch(trace(kind))
    )

    @dispatched.register  # type: ignore[untyped-decorator]
    def _(x: int) -> str:
        return "int"

    with capture_records() as records:
        assert [dispatched(1), dispatched("a")] == ["int", "any"]
        assert dispatched.dispatch(str)("a") == "any"
    assert len(records) == 2


@pytest.mark.parametrize("order", ["above", "below"])
def test_lru_cache_in_either_order(order: str) -> None:
    ran = []

    def double(x: int, y: int = 1) -> int:
        ran.append(x)
        return x * 2

    cached: Any = trace(functools.lru_cache(double)) if order == "above" else functools.lru_cache(trace(double))
    with capture_records() as records:
        assert [cached(2), cached(2), cached(3)] == [4, 4, 6]
    assert ran == [2, 3]
    assert cached.cache_info().hits == 1
    assert cached.__name__ == "double"
    assert inspect.signature(cached) == inspect.signature(double)
    assert len(records) == (3 if order == "above" else 2)
    assert to_json(records[0].inputs) == {"x": 2, "y": 1}
    cached.cache_clear()
    assert cached.cache_info().currsize == 0


@pytest.mark.parametrize(
    ("make", "name", "inputs"),
    [
        (lambda: functools.partial(plain, 1, c=True), "plain", {"b": 4, "rest": [], "c": True, "extra": {}}),
        (lambda: functools.partial(coroutine, 1), "coroutine", {"b": 4}),
        (lambda: functools.partial(generator, 1), "generator", {"b": 4}),
        (lambda: functools.partial(async_generator, 1), "async_generator", {"b": 4}),
        (Caller, "Caller", {"x": 4}),
        (AsyncCaller, "AsyncCaller", {"x": 4}),
        (GeneratorCaller, "GeneratorCaller", {"x": 4}),
        (lambda: Methods(1).method, "Methods.method", {"x": 4}),
        (lambda: Methods.of_class, "Methods.of_class", {"x": 4}),
        (lambda: abs, "abs", {"x": 4}),
        (lambda: operator_like().bit_length, "int.bit_length", []),
    ],
)
def test_callables_that_are_not_functions(make: Callable[[], Any], name: str, inputs: Any) -> None:
    original = make()
    traced = trace(original)
    args = () if name == "int.bit_length" else (4,)
    assert isinstance(traced, type(original))
    assert traced.__class__ is original.__class__
    for ask in (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction, callable):
        assert ask(traced) == ask(original), ask
    assert inspect.signature(traced) == inspect.signature(original)
    with capture_records() as records:
        assert outcome(traced, *args) == outcome(make(), *args)
    assert [record.name for record in records] == [name]
    assert to_json(records[0].inputs) in (inputs, {})


def operator_like() -> int:
    return 255


def test_attributes_of_a_callable_object_are_kept() -> None:
    caller = Caller()
    traced: Any = trace(caller)
    traced.note = 5
    assert caller.note == 5  # type: ignore[attr-defined]
    with capture_records() as records:
        assert copy.copy(traced)(2) == copy.deepcopy(traced)(2) == 4
    assert len(records) == 2


@pytest.mark.filterwarnings("ignore:functools.partial will be a method descriptor:FutureWarning")
def test_a_callable_object_in_a_class_is_not_bound() -> None:
    class Holder:
        call = trace(Caller())
        partial = trace(functools.partial(max, 3))

    with capture_records() as records:
        assert (Holder().call(2), Holder().partial(9)) == (4, 9)
    assert len(records) == 2


@pytest.mark.parametrize("target", [5, None, object()], ids=["int", "none", "object"])
def test_values_that_are_not_callable_are_refused(target: Any) -> None:
    with pytest.raises(TypeError, match="needs something that can be called"):
        trace(kind="tool")(target)


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'nmae'"):
        trace(nmae="x")  # type: ignore[call-overload]


def test_if_disabled_trace_returns_the_original(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVERYCALL_DISABLED", "1")
    for target in (plain, coroutine, Methods, staticmethod(plain), Caller()):
        assert trace(target) is target
        assert trace(name="x")(target) is target


def test_a_callable_whose_attributes_raise_is_not_changed() -> None:
    class Rude:
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError("no")

        def __call__(self, x: int) -> int:
            return x

    rude = Rude()
    with capture_records():
        assert trace(rude) is rude
        assert trace(kind="tool")(rude)(3) == 3


# --- traced twice ---


def test_a_function_traced_twice_is_recorded_once() -> None:
    def run(x: int) -> int:
        return x

    once = trace(name="a")(run)
    assert trace(once) is once
    with capture_records() as records:
        assert trace(trace(name="a")(functools.partial(run)))(1) == 1
        assert trace(name="b", metadata={"k": 1})(once)(1) == 1
    assert [record.name for record in records] == ["a", "a"]
    assert to_json(records[1].metadata) == {"k": 1}


def test_a_decorator_between_two_traces_makes_two_calls() -> None:
    def twice(function: Any) -> Any:
        @functools.wraps(function)
        def inner(*args: Any) -> Any:
            return [function(*args), function(*args)]

        return inner

    @trace(name="outer")
    @twice
    @trace(name="inner")
    def run(x: int) -> int:
        return x

    with capture_records() as records:
        assert run(1) == [1, 1]
    assert [record.name for record in records] == ["inner", "inner", "outer"]
    assert [record.parent_id for record in records[:2]] == [records[2].inference_id] * 2


@pytest.mark.parametrize("shape", ["function", "method of a class", "partial"])
def test_omit_flags_of_two_decorators_add_up(shape: str) -> None:
    def run(x: str) -> str:
        return x

    if shape == "function":
        target: Any = trace(log_omit_outputs=True)(trace(log_omit_inputs=True)(run))
    elif shape == "partial":
        target = trace(log_omit_outputs=True)(trace(log_omit_inputs=True)(functools.partial(run)))
    else:

        @trace(log_omit_outputs=True)
        class Holder:
            @staticmethod
            @trace(log_omit_inputs=True)
            def run(x: str) -> str:
                return x

        target = Holder.run
    with capture_records() as records:
        assert target("canary") == "canary"
    assert sorted(records[0].omitted) == ["inputs", "outputs"]
    assert records[0].inputs == records[0].output


# --- what the record says ---


@pytest.mark.parametrize(
    ("call", "inputs"),
    [
        (lambda f: f(1), {"a": 1, "b": "b", "rest": [], "c": False, "extra": {}}),
        (lambda f: f(1, "x", 2.5, 3.5, c=True), {"a": 1, "b": "x", "rest": [2.5, 3.5], "c": True, "extra": {}}),
        (lambda f: f(1, a=2, z=3), {"a": 1, "b": "b", "rest": [], "c": False, "extra": {"a": 2, "z": 3}}),
        (lambda f: f(1, b="x"), {"a": 1, "b": "x", "rest": [], "c": False, "extra": {}}),
    ],
)
def test_arguments_by_name(call: Any, inputs: Any) -> None:
    with capture_records() as records:
        assert call(traced_plain) == call(plain)
    assert to_json(records[0].inputs) == inputs


def test_the_receiver_is_left_out_however_a_method_is_called() -> None:
    class Holder:
        @trace
        def method(self, a: int, b: int = 2) -> int:
            return a + b

        @trace
        def rest(self, *items: int, **named: int) -> int:
            return len(items) + len(named)

    holder = Holder()
    with capture_records() as records:
        assert [holder.method(1), holder.method(b=3, a=1), Holder.method(holder, 1, 2)] == [3, 4, 3]
        assert holder.rest(1, 2, k=3) == 3
    inputs = [to_json(record.inputs) for record in records]
    assert inputs == [{"a": 1, "b": 2}, {"a": 1, "b": 3}, {"a": 1, "b": 2}, {"items": [1, 2], "named": {"k": 3}}]


def test_arguments_that_do_not_fit_the_signature() -> None:
    @trace
    def run(a: int, *, b: int = 1) -> int:
        return a

    with capture_records() as records:
        for args, kwargs in (((), {}), ((1, 2), {}), ((1, 2), {"b": 3}), ((1,), {"c": 4}), ((), {"c": 4})):
            with pytest.raises(TypeError) as traced:
                run(*args, **kwargs)
            with pytest.raises(TypeError) as undecorated:
                run.__wrapped__(*args, **kwargs)  # type: ignore[attr-defined]
            assert str(traced.value) == str(undecorated.value)
    inputs = [to_json(record.inputs) for record in records]
    assert inputs == [
        {"b": 1},
        [1, 2],
        {"args": [1, 2], "kwargs": {"b": 3}},
        {"a": 1, "b": 1, "c": 4},
        {"b": 1, "c": 4},
    ]
    assert {record.error_type for record in records} == {"TypeError"}


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
def test_the_seeds_fields(function: Any) -> None:
    traced = trace(
        name="answer",
        kind="tool",
        trace_name="support",
        trace_id="order-42",
        end_user_identifier="u-7",
        session_id="s-1",
        deployment_id="p-1",
        tags=["beta"],
        metadata={"team": "a"},
        target="gold",
    )(function)
    with capture_records() as records:
        outcome(traced, 1)
    record: Record = records[0]
    assert (record.name, record.kind, record.trace_name, record.trace_id) == ("answer", "tool", "support", "order-42")
    assert (record.end_user_identifier, record.session_id, record.deployment_id) == ("u-7", "s-1", "p-1")
    assert (record.tags, to_json(record.metadata), to_json(record.target)) == (["beta"], {"team": "a"}, "gold")


def test_a_nested_function_is_named_without_locals() -> None:
    def outer() -> Any:
        @trace
        def inner() -> int:
            return 1

        return inner

    with capture_records() as records:
        outer()()
    assert records[0].name == "test_a_nested_function_is_named_without_locals.outer.inner"


def test_a_types_coroutine_function_stays_awaitable() -> None:
    @types.coroutine
    def step(x: Any) -> Any:
        return (yield from asyncio.sleep(0, x).__await__())

    async def run(function: Any) -> Any:
        return await function(5), inspect.isgeneratorfunction(function), inspect.isawaitable(function(1))

    with capture_records() as records:
        assert asyncio.run(run(trace(step))) == asyncio.run(run(step)) == (5, True, True)
    assert sorted(str(record.error_type) for record in records) == ["None", "abandoned"]
