"""Values that break tracers: none runs its code, stalls, grows or is refused, and the calls beside it are unharmed."""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import decimal
import functools
import io
import json
import math
import mmap
import pathlib
import socket
import sys
import threading
import time
import types
import uuid
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from everycall import limits, trace
from everycall._capture.serialize import capture
from everycall.record import Record, to_json
from everycall.testing import capture_records


def shown(value: Any) -> Any:
    """Return what is captured of a value that must come whole."""
    raw, cut = capture(value)
    assert cut is None, cut
    return json.loads(bytes(raw))


def cut_of(value: Any) -> tuple[Any, Any]:
    """Return the captured form of a value that must be cut, and its `Cut`."""
    raw, cut = capture(value)
    assert cut is not None
    assert len(bytes(raw)) <= limits.FIELD_BYTES_MAX
    return json.loads(bytes(raw)), cut


@dataclasses.dataclass
class Plain:
    x: Any


@dataclasses.dataclass(slots=True, frozen=True)
class Slotted:
    x: int


# --- nothing of the user's is run ---

ran: list[str] = []
DUNDERS = """
    repr str format bytes hash bool eq ne lt gt le ge len iter next contains getitem reversed length_hint
    index int float complex call enter exit reduce reduce_ex copy deepcopy getstate sizeof dir await aiter
    getattr getattribute get set delete json dict model_dump asdict array fspath buffer missing instancecheck
    isascii encode items keys values to_dict tolist dtype shape __class__ __dict__ __module__
"""


def spy(name: str) -> Any:
    def run(*args: Any, **kwargs: Any) -> Any:
        ran.append(name)
        raise RuntimeError(name)

    return run


def space_of_spies() -> dict[str, Any]:
    space: dict[str, Any] = {}
    for name in DUNDERS.split():
        if name.startswith("__"):
            space[name] = property(spy(name))
        else:
            space[f"__{name}__"] = spy(f"__{name}__")
            space[name] = property(spy(name))
    return space


class SpyMeta(type):
    """A metaclass each of whose answers is recorded, once it is armed."""

    armed = False

    def __getattribute__(cls, name: str) -> Any:
        return spy(f"metaclass: {name}")() if SpyMeta.armed else super().__getattribute__(name)

    def __hash__(cls) -> int:
        return spy("metaclass: hash")() if SpyMeta.armed else super().__hash__()

    def __eq__(cls, other: object) -> bool:
        return spy("metaclass: eq")() if SpyMeta.armed else cls is other

    def __repr__(cls) -> str:
        return spy("metaclass: repr")() if SpyMeta.armed else super().__repr__()

    def __instancecheck__(cls, instance: object) -> bool:
        return spy("metaclass: instancecheck")() if SpyMeta.armed else super().__instancecheck__(instance)

    def __subclasscheck__(cls, subclass: type) -> bool:
        return spy("metaclass: subclasscheck")() if SpyMeta.armed else super().__subclasscheck__(subclass)


def spies() -> Iterator[Any]:
    """Make one object of each kind whose every method would say that it ran."""
    spaces = space_of_spies()
    instance_dict = {k: v for k, v in spaces.items() if k not in ("__getattribute__", "__setattr__")}

    def made(kind: type, *args: Any) -> Any:
        return kind.__new__(kind, *args)

    for base, args in (
        (object, ()),
        (str, ("text",)),
        (int, (7,)),
        (float, (1.5,)),
        (list, ()),
        (tuple, ((1, 2),)),
        (dict, ()),
        (set, ()),
        (frozenset, ((1,),)),
        (bytes, (b"x",)),
        (bytearray, ()),
        (complex, (1, 2)),
        (collections.deque, ()),
        (collections.OrderedDict, ()),
        (decimal.Decimal, ("1.5",)),
        (dt.datetime, (2026, 1, 2)),
        (dt.date, (2026, 1, 2)),
        (dt.time, (1, 2)),
        (dt.timedelta, (1,)),
        (ValueError, ("text",)),
        (pathlib.PurePosixPath, ()),
        (uuid.UUID, ()),
        (types.ModuleType, ("name",)),
    ):
        yield base.__new__(type(f"Spy{base.__name__}", (base,), dict(instance_dict)), *args)
    yield made(SpyMeta("WithMeta", (), {}))
    yield made(SpyMeta("WithMeta2", (dict,), {}))
    yield SpyMeta("AClass", (), {})
    numpy_like = type("ndarray", (), dict(instance_dict))
    numpy_like.__module__ = "numpy"
    yield made(numpy_like)
    pandas_like = type("DataFrame", (), dict(instance_dict))
    pandas_like.__module__ = "pandas"
    yield made(pandas_like)
    yield dataclasses.make_dataclass("SpyData", ["x"], namespace={"__getattr__": spy("getattr"), "__eq__": spy("eq")})(
        1
    )
    yield type("SpyField", (), {"__dataclass_fields__": {"x": made(type("F", (), dict(instance_dict)))}})()
    yield type("SpyPydantic", (), {"__pydantic_fields__": made(type("D", (dict,), dict(instance_dict)))})()
    yield type("SpyAttrs", (), {"__attrs_attrs__": ()})()
    yield types.MappingProxyType(made(type("M", (dict,), dict(instance_dict))))
    yield dt.datetime(2026, 1, 1, tzinfo=made(type("Zone", (dt.tzinfo,), {"utcoffset": spy("utcoffset")})))
    yield range(made(type("Index", (int,), {"__repr__": spy("repr"), "__str__": spy("str")}), 3))
    yield types.MethodType(made(type("C", (), {"__call__": spy("call"), "__getattr__": spy("getattr")})), 1)
    yield type("Named", (), {"__module__": made(type("S", (str,), dict(instance_dict)), "m")})()
    yield {made(type("Key", (str,), {"__str__": spy("str"), "__repr__": spy("repr")}), "k"): 1}
    yield slice(made(type("Bound", (), dict(instance_dict))), None)
    yield functools.partial(spy("partial"))
    yield (spy("generator") for _ in range(3))


def test_capture_runs_no_user_code() -> None:
    values = list(spies())
    ran.clear()
    SpyMeta.armed = True
    try:
        captured = [capture(value) for value in values] + [capture({"v": [value]}) for value in values]
    finally:
        SpyMeta.armed = False
    assert ran == []
    for raw, _ in captured:
        text = bytes(raw).decode()
        json.loads(text)
        assert "not captured" not in text, text


def test_the_spies_report_calls() -> None:
    """The test above can fail: code that runs one of their methods is detected."""
    ran.clear()
    for value in spies():
        if type(type(value)) is not SpyMeta:
            try:
                repr(value), str(value), list(value), value == 1, len(value)
            except Exception:
                continue
    assert len(ran) > 20


# --- bad inputs, in a whole call: the neighbours' records and the call's value are unharmed ---


def deep(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


def bomb() -> list[Any]:
    value: list[Any] = [0]
    for _ in range(40):
        value = [value, value]
    return value


def cyclic_dict() -> dict[str, Any]:
    members: dict[str, Any] = {"a": 1}
    members["again"] = members
    return members


class CyclicObject:
    def __init__(self) -> None:
        self.me = self


class Request:
    """As a web framework's: much behind attributes, none of it data."""

    def __init__(self) -> None:
        self.body = mmap.mmap(-1, 600 * 2**20)  # pages that are not allocated until they are read
        self.sessions = [self.body] * 1000

    @property
    def user(self) -> Any:
        raise RuntimeError("database is gone")


def raising(name: str) -> Any:
    def run(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError(f"{name} failed")

    return type("Raising", (), {name: run})()


def sleeping() -> Any:
    return type("Sleeping", (), {"__repr__": lambda self: time.sleep(100), "__str__": lambda self: time.sleep(100)})()


def numbers_for_ever() -> Iterator[int]:
    n = 0
    while True:
        yield n
        n += 1


def open_file() -> Any:
    return io.StringIO("text")


@pytest.fixture(scope="module")
def a_socket() -> Iterator[socket.socket]:
    connection = socket.socket()
    yield connection
    connection.close()


BAD: dict[str, tuple[Any, bool]] = {
    # name: (what makes the value, whether something must have been cut)
    "1e6-item list": (lambda: list(range(1_000_000)), True),
    "1e6-item dict": (lambda: dict.fromkeys(range(1_000_000)), True),
    "1e6-item set": (lambda: set(range(1_000_000)), True),
    "5 MB string": (lambda: "x" * 5_000_000, True),
    "70 MB string": (lambda: "x" * 70_000_000, True),
    "70 MB of two-byte characters": (lambda: "é" * 35_000_000, True),
    "70 MB key": (lambda: {"x" * 70_000_000: 1}, True),
    "70 MB bytes": (lambda: bytes(70_000_000), True),
    "1 MB of NUL": (lambda: "\x00" * 1_000_000, True),
    "1 MB of surrogates": (lambda: "\ud800" * 1_000_000, True),
    "NUL char": (lambda: "a\x00b", False),
    "NaN and infinity": (lambda: [math.nan, math.inf], False),
    "__repr__ that sleeps": (sleeping, False),
    "bytes": (lambda: b"\xff\xfe", True),
    "circular dict": (cyclic_dict, False),
    "circular object": (CyclicObject, False),
    "class and module": (lambda: [dict, sys], False),
    "deep nesting 10000": (lambda: deep(10_000), True),
    "deep nesting 100": (lambda: deep(100), True),
    "shared references": (bomb, True),
    "exception object": (lambda: ValueError("x"), False),
    "failing __bool__": (lambda: raising("__bool__"), False),
    "failing __eq__": (lambda: raising("__eq__"), False),
    "failing __hash__": (lambda: raising("__hash__"), False),
    "failing __len__": (lambda: raising("__len__"), False),
    "failing __iter__": (lambda: raising("__iter__"), False),
    "failing __getattr__": (lambda: raising("__getattr__"), False),
    "failing __getattribute__": (lambda: raising("__getattribute__"), False),
    "failing __repr__": (lambda: raising("__repr__"), False),
    "failing __class__": (lambda: type("C", (), {"__class__": property(spy("class"))})(), False),
    "failing deepcopy and pickle": (lambda: raising("__reduce_ex__"), False),
    "generator": (lambda: (i for i in range(3)), False),
    "infinite iterable": (numbers_for_ever, False),
    "int > 64 bit": (lambda: 2**200, False),
    "int of 5000 digits": (lambda: 10**5000, True),
    "lock": (threading.Lock, False),
    "lone surrogate": (lambda: "a\ud800b", False),
    "lone surrogate as key": (lambda: {"a\ud800b": 1}, False),
    "non-str dict keys": (lambda: {1: 1, (1, 2): 2, None: 3, b"k": 4}, True),
    "open file": (open_file, False),
    "set of mixed": (lambda: {1, "a", (2, 3), None}, False),
    "600 MB request": (Request, False),
    "600 MB in a dataclass": (lambda: Plain([bytes(10**6)] * 600), True),
    "many large integers": (lambda: [10**2000] * 20_000, True),
    "many floats": (lambda: [1.2345678901234567e-300] * 15_000, False),
    "text beside a large text": (lambda: ["x" * 5_000_000, "small"], True),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("way", ["argument", "value"])
def test_bad_inputs(name: str, way: str) -> None:
    make, is_cut = BAD[name]

    @trace(name="good")
    def good(i: int) -> int:
        return i

    @trace(name="bad")
    def bad(argument: Any) -> Any:
        return 1 if way == "argument" else argument

    with capture_records() as records:
        value = make()
        for i in range(20):
            good(i)
        assert bad(value) is (1 if way == "argument" else value)
        for i in range(20, 40):
            good(i)
    goods = [to_json(record.inputs) for record in records if record.name == "good"]
    assert goods == [{"i": i} for i in range(40)]
    (record,) = [record for record in records if record.name == "bad"]
    assert record.status == "success"
    field = "inputs" if way == "argument" else "output"
    raw = getattr(record, field)
    assert len(bytes(raw)) <= limits.FIELD_BYTES_MAX
    json.loads(bytes(raw))
    assert (field in record.truncated) == is_cut
    if is_cut:
        assert 0 < record.truncated[field].kept <= limits.FIELD_BYTES_MAX


def test_a_socket_is_shown_by_name(a_socket: socket.socket) -> None:
    assert shown([a_socket]) == ["<socket.socket>"]


def test_small_values_beside_large_ones_are_not_cut() -> None:
    captured, cut = cut_of({"document": "x" * 5_000_000, "question": "why?" * 100, "n": 1})
    assert captured["question"] == "why?" * 100
    assert captured["n"] == 1
    assert "characters cut" in captured["document"]
    assert captured["document"].startswith("xxx")
    assert captured["document"].endswith("xxx")
    assert cut.bytes > 5_000_000


def test_a_large_text_keeps_head_tail_sizes_and_hash() -> None:
    import hashlib

    text = "head" + "x" * 3_000_000 + "tail"
    captured, cut = cut_of(text)
    assert captured.startswith("head")
    assert captured.endswith("tail")
    assert cut.bytes == len(text)
    assert cut.sha256 == hashlib.sha256(text.encode()).hexdigest()


def test_a_text_that_fits_is_not_cut() -> None:
    assert shown({"document": "é" * 500_000}) == {"document": "é" * 500_000}
    assert shown("x" * 1_000_000) == "x" * 1_000_000


def test_depth_is_within_the_limit_of_the_reader() -> None:
    def depth(value: Any) -> int:
        levels = 0
        while isinstance(value, list) and value:
            value, levels = value[0], levels + 1
        return levels

    assert depth(shown(deep(60))) == 60
    captured, _ = cut_of(deep(5_000))
    assert depth(captured) < limits.NESTING_MAX


@pytest.mark.parametrize("kind", ["list", "dict", "set", "plain dict"])
def test_values_changed_by_another_thread(kind: str) -> None:
    """Whatever the moment, something is captured and nothing is raised."""
    values: Any = {"list": list, "set": set}.get(kind, dict)()
    stop = threading.Event()

    def change() -> None:
        n = 0
        while not stop.is_set():
            n += 1
            if kind == "list":
                values.append(stop if n % 3 else n)
                if len(values) > 500:
                    values.clear()
            elif kind == "set":
                values.add(n % 700)
                values.discard((n * 7) % 700)
            else:
                values[str(n % 700)] = stop if kind == "dict" and n % 3 else n
                values.pop(str((n * 7) % 700), None)

    thread = threading.Thread(target=change)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread.start()
    try:
        for _ in range(200):
            raw, _ = capture({"held": values, "same": [values]})
            assert isinstance(json.loads(bytes(raw))["held"], dict if "dict" in kind else list)
    finally:
        stop.set()
        thread.join()
        sys.setswitchinterval(before)


def test_values_are_not_cut_on_a_busy_machine() -> None:
    """What is cut depends on the value alone, not on how long it waits for its turn among busy threads."""
    stop = threading.Event()

    def spin() -> None:
        while not stop.is_set():
            pass

    threads = [threading.Thread(target=spin) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        value = [Slotted(i) for i in range(2_000)]
        assert len(shown(value)) == 2_000
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_integers_that_python_refuses_to_print() -> None:
    before = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(640)
    try:
        captured, _ = cut_of({"n": 10**1000, "m": 1})
    finally:
        sys.set_int_max_str_digits(before)
    assert captured == {"n": f"<int of {(10**1000).bit_length()} bits>", "m": 1}


def test_captured_classes_are_not_kept_alive() -> None:
    def show() -> weakref.ref[type]:
        shape = dataclasses.make_dataclass("Made", ["x"])
        assert shown(shape(1)) == {"x": 1}
        return weakref.ref(shape)

    import gc

    reference = show()
    gc.collect()
    assert reference() is None


def test_omitted_arguments_are_not_captured() -> None:
    """With inputs omitted the arguments are not even looked at."""
    looked = []

    class Looked(list[Any]):
        def __len__(self) -> int:
            looked.append(1)
            return 0

    with capture_records() as records:
        trace(log_omit_inputs=True)(lambda x: 1)(Looked([1]))
    record: Record = records[0]
    assert looked == []
    assert to_json(record.inputs) is None
