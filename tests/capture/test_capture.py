"""What is captured of values: as they were, bounded, and without running one line of the user's code."""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import decimal
import enum
import json
import math
import pathlib
import sys
import types
import uuid
import zoneinfo
from typing import Any, NamedTuple

import msgspec
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everycall import limits
from everycall._capture.serialize import capture


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


# --- any JSON comes back ---

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None), max_size=20),
    lambda below: st.lists(below, max_size=6) | st.dictionaries(st.text(st.characters(codec=None)), below, max_size=6),
    max_leaves=60,
)


def documented(value: Any) -> Any:
    """The value with the changes that the capture makes to what JSON does not have."""
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**63 else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else repr(value)
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {documented(key): documented(item) for key, item in value.items()}
    return [documented(item) for item in value]


@given(json_values)
@settings(max_examples=300, deadline=None)
def test_any_json_value_is_captured_unchanged(value: Any) -> None:
    assert shown(value) == documented(value)


@given(json_values)
@settings(max_examples=100, deadline=None)
def test_any_json_value_beside_an_object_is_captured_unchanged(value: Any) -> None:
    """The same by the slow way, which an object beside it makes it take."""
    assert shown({"object": object(), "value": value})["value"] == documented(value)


@given(st.dictionaries(st.none() | st.booleans() | st.integers() | st.text() | st.floats(), st.integers(), max_size=20))
@settings(max_examples=100, deadline=None)
def test_no_key_is_lost(value: dict[Any, int]) -> None:
    assert sorted(map(str, shown(value).values())) == sorted(map(str, value.values()))


# --- values of many kinds ---


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    LOW = 1


class Word(enum.StrEnum):
    YES = "yes"


class Pair(NamedTuple):
    left: int
    right: int


@dataclasses.dataclass
class Plain:
    x: int
    secret: str = dataclasses.field(default="canary", repr=False)


@dataclasses.dataclass(slots=True, frozen=True)
class Slotted:
    x: int
    below: Any = None


@dataclasses.dataclass
class Partial:
    x: int = dataclasses.field(init=False)


class Packed(msgspec.Struct):
    x: int
    names: list[str] = []


class Model(pydantic.BaseModel):
    name: str
    key: pydantic.SecretStr = pydantic.SecretStr("canary")
    hidden: str = pydantic.Field(default="canary", repr=False)
    left_out: str = pydantic.Field(default="canary", exclude=True)
    tags: list[str] = []
    _private: str = pydantic.PrivateAttr(default="canary")


class Open(pydantic.BaseModel, extra="allow"):
    x: int


class Root(pydantic.RootModel[list[int]]):
    pass


class Generic(pydantic.BaseModel):
    secret: pydantic.Secret[int] = pydantic.Secret(4711)
    raw: pydantic.SecretBytes = pydantic.SecretBytes(b"canary")


PARSE_TIME = pydantic.TypeAdapter(dt.datetime).validate_python

VALUES: list[tuple[Any, Any]] = [
    ((1, (2, 3)), [1, [2, 3]]),
    ({1, 2}, [1, 2]),
    (frozenset({"a"}), ["a"]),
    (collections.deque([1, 2]), [1, 2]),
    (collections.OrderedDict(a=1), {"a": 1}),
    (collections.defaultdict(list, a=[1]), {"a": [1]}),
    (collections.Counter("aab"), {"a": 2, "b": 1}),
    (types.MappingProxyType({"a": 1}), {"a": 1}),
    (Pair(1, 2), [1, 2]),
    (2**63 - 1, 2**63 - 1),
    (-(2**63), -(2**63)),
    (2**63, str(2**63)),
    (10**400, str(10**400)),
    (True, True),
    (1e300, 1e300),
    (-0.0, -0.0),
    (math.nan, "nan"),
    (-math.inf, "-inf"),
    (1 + 2j, "(1+2j)"),
    (decimal.Decimal("1.10"), "1.10"),
    (uuid.UUID(int=7), str(uuid.UUID(int=7))),
    (pathlib.PurePosixPath("/a/b"), "/a/b"),
    (range(2, 9, 3), "range(2, 9, 3)"),
    (dt.date(2026, 1, 2), "2026-01-02"),
    (dt.datetime(2026, 1, 2, 3, 4, 5, 6), "2026-01-02T03:04:05.000006"),  # noqa: DTZ001
    (dt.datetime(2026, 1, 2, tzinfo=dt.UTC), "2026-01-02T00:00:00+00:00"),
    (dt.datetime(2026, 7, 2, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin")), "2026-07-02T00:00:00+02:00"),
    (PARSE_TIME("2026-07-02T00:00:00+02:00"), "2026-07-02T00:00:00+02:00"),
    (PARSE_TIME("2026-07-02T00:00:00Z"), "2026-07-02T00:00:00+00:00"),
    (dt.time(1, 2), "01:02:00"),
    (dt.timedelta(hours=1), "1:00:00"),
    (Colour.RED, "red"),
    (Level.LOW, 1),
    (Word.YES, "yes"),
    ({Word.YES: 1, Level.LOW: 2}, {"yes": 1, "1": 2}),
    (
        {1: "a", "1": "b", (1, 2): "c", None: "d", 1.5: "e"},
        {"1": "a", "1 <str 1>": "b", "[1,2]": "c", "null": "d", "1.5": "e"},
    ),
    (Plain(1), {"x": 1}),
    (Slotted(1, [Slotted(2)]), {"x": 1, "below": [{"x": 2, "below": None}]}),
    (Partial(), {}),
    (Packed(1, ["a"]), {"x": 1, "names": ["a"]}),
    (Model(name="n", tags=["t"]), {"name": "n", "key": "**********", "tags": ["t"]}),
    (Open(x=1, y=[2]), {"x": 1, "y": [2]}),  # type: ignore[call-arg]
    (Root([1]), {"root": [1]}),
    (Generic(), {"secret": "**********", "raw": "**********"}),
    (pydantic.SecretStr("canary"), "**********"),
    (ValueError("a", 1), {"type": "ValueError", "args": ["a", 1]}),
    (int, "<class int>"),
    (Plain, f"<class {__name__}.Plain>"),
    (sys, "<module sys>"),
    (len, "<function len>"),
    (shown, "<function shown>"),
    ("x".join, "<function join>"),
    (Model.model_dump, "<function BaseModel.model_dump>"),
    (object(), "<object>"),
    (NotImplemented, "<NotImplementedType>"),
    (b"", "<bytes of 0 bytes>"),
    (slice(1, 2), "<slice>"),
    ("\ud800 x", "\\ud800 x"),
    ({"\udc00": "\x00"}, {"\\udc00": "\x00"}),
]


@pytest.mark.parametrize(("value", "expected"), VALUES, ids=lambda v: type(v).__name__)
def test_values_of_many_kinds(value: Any, expected: Any) -> None:
    assert shown({"v": value}) == {"v": expected}
    assert json.dumps(shown({"v": value})).count("canary") == 0


def test_none_is_absent() -> None:
    assert bytes(capture(None)[0]) == b"null"


def test_a_bound_method_is_shown_by_name() -> None:
    assert shown([Plain(1).__init__]) == ["<function Plain.__init__>"]  # type: ignore[misc]


@pytest.mark.parametrize("value", [b"\xff\x00", bytearray(b"abc"), memoryview(b"abc")], ids=lambda v: type(v).__name__)
def test_bytes_are_captured_as_their_length(value: Any) -> None:
    captured, cut = cut_of({"v": value})
    assert captured == {"v": f"<{type(value).__name__} of {len(value)} bytes>"}
    assert cut.bytes == cut.kept + len(value)


def test_cycles() -> None:
    values: list[Any] = [1]
    values.append({"again": values})
    assert shown(values) == [1, {"again": "<cycle to list>"}]
    thing = Slotted(1, [])
    thing.below.append(thing)
    assert shown(thing) == {"x": 1, "below": ["<cycle to Slotted>"]}
    same = [1]
    assert shown([same, same, object()]) == [[1], [1], "<object>"]  # twice is no cycle


def test_attrs() -> None:
    attrs: Any = pytest.importorskip("attrs")

    @attrs.define
    class Box:
        x: int
        secret: str = attrs.field(default="canary", repr=False)
        masked: str = attrs.field(default="canary", repr=lambda _: "***")

    class Below(Box):
        pass

    assert shown([Box(1), Below(2)]) == [{"x": 1}, {"x": 2}]  # type: ignore[call-arg]


def test_numpy() -> None:
    numpy = pytest.importorskip("numpy")
    value = {
        "ints": numpy.arange(3),
        "floats": numpy.array([[1.5, math.nan]]),
        "scalar": numpy.float32(1.5),
        "int": numpy.int64(7),
        "bool": numpy.bool_(True),
        "text": numpy.str_("t"),
        "time": numpy.datetime64("2026-01-02"),
        "long": numpy.longdouble(1),
    }
    assert shown(value) == {
        "ints": [0, 1, 2],
        "floats": [[1.5, "nan"]],
        "scalar": 1.5,
        "int": 7,
        "bool": True,
        "text": "t",
        "time": "2026-01-02",
        "long": "<numpy.longdouble>",
    }
    captured, cut = cut_of({"big": numpy.zeros((1000, 1000)), "objects": numpy.array([object()], dtype=object)})
    assert captured["big"] == "<ndarray of shape (1000, 1000) and dtype float64>"
    assert captured["objects"] == "<ndarray of shape (1,) and dtype object>"
    assert cut.bytes > 8_000_000


def test_pandas() -> None:
    pandas = pytest.importorskip("pandas")
    assert shown([pandas.DataFrame({"a": [1, 2]}), pandas.Series([1])]) == [
        {"type": "DataFrame", "shape": [2, 1], "columns": ["a"], "rows": [{"a": 1}, {"a": 2}]},
        {"type": "Series", "name": None, "shape": [1], "values": [1]},
    ]
    assert shown([pandas.Timestamp(2026, 1, 2)]) == ["2026-01-02T00:00:00"]


def test_a_large_frame_shows_its_first_rows() -> None:
    pandas = pytest.importorskip("pandas")
    rows, columns = limits.CAPTURE_ROWS_MAX * 100, limits.CAPTURE_COLUMNS_MAX + 1
    frame = pandas.DataFrame({f"c{number}": range(rows) for number in range(columns)})
    table, _ = cut_of(frame)
    assert table["shape"] == [rows, columns]
    assert [row["c0"] for row in table["rows"]] == list(range(limits.CAPTURE_ROWS_MAX))
    assert len(table["columns"]) == limits.CAPTURE_COLUMNS_MAX
    series, _ = cut_of(frame["c0"])
    assert series["values"] == list(range(limits.CAPTURE_ROWS_MAX))


def test_cells_and_labels_of_a_frame() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(
        {
            "time": [pandas.NaT, pandas.Timestamp("2026-01-01", tz="Europe/Berlin")],
            "kind": pandas.Categorical(["x", "y"]),
            "count": pandas.array([1, None], dtype="Int64"),
            "object": [Plain(1), b"x"],
        },
        index=["first", "second"],
    )
    table, _ = cut_of(frame)
    assert table["index"] == ["first", "second"]
    assert table["rows"] == [
        {"time": None, "kind": "x", "count": 1, "object": {"x": 1}},
        {"time": "2026-01-01T00:00:00+01:00", "kind": "y", "count": None, "object": "<bytes of 1 bytes>"},
    ]
    assert shown(pandas.DataFrame([[1, 2]], columns=["x", "x"]))["rows"] == [{"x": 1, "x <1>": 2}]


def test_labels_of_several_levels() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": [1, 2], "b": [3, 4], "c": ["x", None]}).set_index(["a", "b"])
    assert shown([frame, frame["c"]]) == [
        {
            "type": "DataFrame", "shape": [2, 1], "columns": ["c"], "rows": [{"c": "x"}, {"c": None}],
            "index": [[1, 3], [2, 4]],
        },
        {"type": "Series", "name": "c", "shape": [2], "values": ["x", None], "index": [[1, 3], [2, 4]]},
    ]  # fmt: skip


class Attribute:
    def __deepcopy__(self, memo: Any) -> Any:
        raise RuntimeError("ran")


def test_frames_with_code_of_the_users_show_their_shape() -> None:
    """pandas copies `attrs` with every slice, and asks an extension type for its values."""
    pandas = pytest.importorskip("pandas")
    extensions: Any = pytest.importorskip("pandas.api.extensions")
    ran: list[str] = []

    class Money(extensions.ExtensionDtype):  # type: ignore[misc]
        name = "money"
        type = int

        @classmethod
        def construct_array_type(cls) -> Any:
            return MoneyArray

    class MoneyArray(extensions.ExtensionArray):  # type: ignore[misc]
        dtype = Money()

        def __init__(self, values: list[int]) -> None:
            self._values = values

        def __len__(self) -> int:
            return len(self._values)

        def __getitem__(self, item: Any) -> Any:
            ran.append("getitem")
            return MoneyArray(self._values[item]) if isinstance(item, slice) else self._values[item]

        def copy(self) -> Any:
            return MoneyArray(list(self._values))

    frames = [
        pandas.DataFrame({"a": [1, 2], "price": MoneyArray([3, 4])}),
        pandas.Series(MoneyArray([3, 4])),
        pandas.DataFrame({"a": [1, 2]}),
    ]
    frames[2].attrs["note"] = Attribute()
    ran.clear()
    captured, cut = cut_of(frames)
    assert captured == ["<DataFrame of shape (2, 2)>", "<Series of shape (2,)>", "<DataFrame of shape (2, 1)>"]
    assert cut.bytes is None
    assert ran == []


def test_polars() -> None:
    polars = pytest.importorskip("polars")
    assert shown([polars.DataFrame({"a": [1, None]}), polars.Series("n", [1])]) == [
        {"type": "DataFrame", "shape": [2, 1], "columns": ["a"], "rows": [{"a": 1}, {"a": None}]},
        {"type": "Series", "name": "n", "shape": [1], "values": [1]},
    ]


def test_missing_times_are_null_and_nanoseconds_are_kept() -> None:
    numpy, pandas = pytest.importorskip("numpy"), pytest.importorskip("pandas")
    missing = [pandas.NaT, pandas.NA, numpy.datetime64("NaT"), numpy.timedelta64("NaT"), pandas.NaT - pandas.NaT]
    assert shown(missing) == [None] * len(missing)
    text = "2026-01-01T00:00:00.123456789"
    assert shown([pandas.Timestamp(text), numpy.datetime64(text), pandas.Timestamp(text, tz="UTC")]) == [
        text,
        text,
        f"{text}+00:00",
    ]
    assert shown([pandas.Timedelta(1, "ns"), pandas.Timedelta("1s"), numpy.timedelta64(5, "ns")]) == [
        "0 days 00:00:00.000000001",
        "0:00:01",
        "5 nanoseconds",
    ]


# --- plain classes ---


class Ticket:
    """A class as users write them, without fields."""

    kind = "of the class"

    def __init__(self, number: int) -> None:
        self.number = number
        self.api_key = "canary"
        self._cache = "canary"

    @property
    def computed(self) -> Any:
        raise RuntimeError("ran")


class WithSlots(Ticket):
    __slots__ = ("below", "unset")


def test_plain_objects_show_what_they_store() -> None:
    ticket = WithSlots(7)
    ticket.below = types.SimpleNamespace(city="Oslo")  # type: ignore[attr-defined]
    assert shown([ticket]) == [{"number": 7, "api_key": "**********", "below": {"city": "Oslo"}}]


def test_secrets_anywhere_in_a_plain_object_are_hidden() -> None:
    """Those of a dict that the program passed itself are its inputs: a mask leaves them out."""
    headers = {"Authorization": "canary", "accept": "json"}
    client = types.SimpleNamespace(headers=headers, password=None)
    assert shown([client, headers]) == [
        {"headers": {"Authorization": "**********", "accept": "json"}, "password": None},
        headers,
    ]


def test_objects_in_objects_are_bounded() -> None:
    chain: Any = None
    for number in range(20):
        ticket: Any = Ticket(number)
        ticket.below = chain
        chain = ticket
    levels, value = 0, shown(chain)
    while isinstance(value, dict):
        levels, value = levels + 1, value["below"]
    assert (levels, value) == (limits.CAPTURE_OBJECT_LEVELS_MAX, f"<{__name__}.Ticket>")
    many = shown([Ticket(number) for number in range(limits.CAPTURE_OBJECTS_MAX + 5)])
    assert sum(isinstance(value, dict) for value in many) == limits.CAPTURE_OBJECTS_MAX
