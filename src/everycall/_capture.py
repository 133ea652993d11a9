"""Values to JSON as they were at call time, bounded in bytes, values, depth and time. Layer 2; called by calls.

Plain values (text, numbers, lists, dicts of them) are walked once against a budget and encoded by the codec. All
else is rendered by hand, and never by running the user's code: no method, property, descriptor or metaclass of a
user's class is called, only what the interpreter itself stores is read.

What changes on the way, for values that JSON does not have: integers beyond 64 bits become text, NaN and the
infinities `"nan"`, `"inf"`, `"-inf"`, lone surrogates `\\udXXX`, tuples and sets lists, keys text, bytes and objects
that are not data a marker in angle brackets, secrets of pydantic asterisks.
"""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import hashlib
import pathlib
import sys
import time
import types
import uuid
import weakref
from collections import deque
from collections.abc import Iterable
from itertools import islice
from typing import Any

import msgspec
from msgspec import Raw

from everycall import limits
from everycall.record import ABSENT, Cut

__all__ = ["capture", "cut_text", "plain_text"]

_encode = msgspec.json.Encoder().encode
_SECRETS = frozenset({"SecretStr", "SecretBytes", "Secret"})
_HIDDEN = "**********"
_HASH_BYTES_MAX = 8 * limits.MIB
_TIME_BOUND_NS = int(limits.CAPTURE_TIME_S * 1e9)
_MISSING: Any = object()

# What a class says of itself, read where no metaclass can answer in its place.
_name_of = type.__dict__["__name__"].__get__
_qualname_of = type.__dict__["__qualname__"].__get__
_module_of = type.__dict__["__module__"].__get__
_mro_of = type.__dict__["__mro__"].__get__
_dict_of = type.__dict__["__dict__"].__get__
_struct_fields_of = type(msgspec.Struct).__dict__["__struct_fields__"].__get__
_module_dict_of = types.ModuleType.__dict__["__dict__"].__get__


def capture(value: Any) -> tuple[Raw, Cut | None]:
    """Return a value as JSON, and what was cut from it (None when nothing was).

    Never raises for any value, never runs a user's code. Bounded by `limits.CAPTURE_NODES_MAX`,
    `limits.CAPTURE_DEPTH_MAX`, about `limits.CAPTURE_TIME_S` of this thread's CPU and `limits.FIELD_BYTES_MAX`.
    """
    kind = type(value)
    try:
        if kind is str:
            if len(value) <= limits.CAPTURE_TEXT_MAX:
                return Raw(_encode(value)), None
        elif value is None:
            return ABSENT, None
        elif kind is dict or kind is list or kind is tuple:
            if _fits(value):
                data = _encode(value)
                if len(data) <= limits.FIELD_BYTES_MAX:
                    return Raw(data), None
        elif kind is bool or (kind is int and -(2**63) <= value < 2**63) or (kind is float and value - value == 0.0):
            return Raw(_encode(value)), None
    except (ValueError, TypeError, RuntimeError, OverflowError, MemoryError):
        pass  # a surrogate, or another thread changed it meanwhile: by hand, then
    return _captured_by_hand(value, kind)


def _fits(value: Any) -> bool:
    """Tell whether a container holds only plain values, within the budget. Level by level, no user code."""
    nodes = characters = depth = 0
    level: list[Any] = [value]
    while level:
        depth += 1
        if depth > limits.CAPTURE_DEPTH_MAX:
            return False
        below: list[Any] = []
        for item in level:
            kind = type(item)
            if kind is str:
                characters += len(item)
            elif kind is dict:
                nodes += len(item)
                if nodes > limits.CAPTURE_NODES_MAX:
                    return False
                for key in item:
                    if type(key) is not str:
                        return False
                    characters += len(key)
                below += item.values()
            elif kind is list or kind is tuple:
                nodes += len(item)
                if nodes > limits.CAPTURE_NODES_MAX:
                    return False
                below += item
            elif kind is int:
                if not -(2**63) <= item < 2**63:
                    return False
            elif kind is float:
                if item - item != 0.0:
                    return False
            elif item is not None and kind is not bool:
                return False
        if characters > limits.CAPTURE_TEXT_MAX:
            return False
        level = below
    return True


def _captured_by_hand(value: Any, kind: type) -> tuple[Raw, Cut | None]:
    """Render a value that is not plain; once more with less room if its JSON came out too long."""
    data, room, cut = b"", limits.FIELD_BYTES_MAX, None
    try:
        while room >= limits.KIB:
            if issubclass(kind, str):
                text, cut = cut_text(str.__str__(value), room)
                data = _encode(plain_text(text))
            else:
                walk = _Walk(room)
                data = _encode(walk.render(value, 0))
                cut = walk.note(len(data))
            if len(data) <= limits.FIELD_BYTES_MAX:
                break
            room //= 8
    except Exception as error:  # noqa: BLE001 - the last resort: a marker is better than no record
        data = _encode(f"<{_plain(_name_of(kind))}: not captured ({type(error).__name__})>")
        cut = Cut(kept=len(data))
    return Raw(data), cut


def plain_text(value: str) -> str:
    """Return text that can be encoded: an exact `str`, with lone surrogates written as `\\udXXX`."""
    text = str.__str__(value)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode("utf-8")
    return text


def cut_text(text: str, bytes_max: int) -> tuple[str, Cut | None]:
    """Keep a text within a bound: its head and tail with a mark between, and the sizes and hash of the whole."""
    if len(text) * 4 <= bytes_max:
        return text, None
    small = len(text) <= _HASH_BYTES_MAX
    whole = text.encode("utf-8", "backslashreplace") if small else None
    if whole is not None and len(whole) <= bytes_max:
        return text, None
    room = max(bytes_max - 64, 64) // (1 if text.isascii() else 4)
    head, tail = text[: room * 2 // 3], text[len(text) - room // 3 :]
    kept = f"{head}\n[... {len(text) - len(head) - len(tail)} characters cut ...]\n{tail}"
    size = len(whole) if whole is not None else (len(text) if text.isascii() else None)
    digest = hashlib.sha256(whole).hexdigest() if whole is not None else None
    return kept, Cut(kept=len(kept.encode("utf-8", "backslashreplace")), bytes=size, sha256=digest)


class _Walk:
    """One bounded walk over a value that is not plain: values, bytes of text and CPU time are spent as it goes."""

    __slots__ = ("above", "cut", "deadline", "dropped", "late", "nodes", "room")

    def __init__(self, room: int) -> None:
        self.nodes = 0
        self.room = room
        self.cut = False
        self.dropped: int | None = 0  # bytes left out, None when that is not known
        self.late = False
        self.deadline = time.thread_time_ns() + _TIME_BOUND_NS
        self.above: set[int] = set()

    def note(self, kept: int) -> Cut | None:
        """Return what is to be said in the record of what was cut."""
        if not self.cut:
            return None
        return Cut(kept=kept, bytes=kept + self.dropped if self.dropped is not None else None)

    def render(self, value: Any, depth: int) -> Any:
        """Return `value` as plain JSON values."""
        self.nodes += 1
        if not self.nodes & 127 and time.thread_time_ns() > self.deadline:
            self.late = True
        kind = type(value)
        if value is None or kind is bool:
            return value
        if issubclass(kind, enum.Enum):
            value = _stored(value, kind).get("_value_", _MISSING)
            return self.render(value, depth + 1) if depth <= limits.CAPTURE_DEPTH_MAX else self._too_deep()
        if issubclass(kind, str):
            return self.text(value)
        if issubclass(kind, int):
            number = int.__int__(value)
            return number if -(2**63) <= number < 2**63 else self._large(number)
        if issubclass(kind, float):
            real = float.__float__(value)
            return real if real - real == 0.0 else float.__repr__(real)
        if depth > limits.CAPTURE_DEPTH_MAX:
            return self._too_deep()
        marker = id(value)
        if marker in self.above:
            return self.text(f"<cycle to {_plain(_name_of(kind))}>")
        self.above.add(marker)
        try:
            return self._compound(value, kind, depth)
        finally:
            self.above.discard(marker)

    def text(self, value: str) -> str:
        """Return a text, cut to the room that is left."""
        length = str.__len__(value)
        if length <= self.room:
            text = plain_text(value)
            size = length if text.isascii() else len(text.encode("utf-8"))
            if size <= self.room:
                self.room -= size
                return text
        self.cut = True
        keep = max(self.room // (1 if value.isascii() else 4) if type(value) is str else self.room // 4, 256)
        if length <= keep:  # the room is used up; what is short is shown all the same
            return plain_text(value)
        head = plain_text(str.__getitem__(value, slice(0, keep * 2 // 3)))
        tail = plain_text(str.__getitem__(value, slice(length - keep // 3, None)))
        self.room = 0
        if self.dropped is not None:
            whole = length if str.isascii(value) else None
            self.dropped = self.dropped + whole - len(head) - len(tail) if whole is not None else None
        return f"{head}[... {length - keep // 3 - keep * 2 // 3} characters cut ...]{tail}"

    def _too_deep(self) -> str:
        self.cut, self.dropped = True, None
        return "<... deeper, cut ...>"

    def _large(self, number: int) -> str:
        """An integer that JSON readers would round: its digits as text, or its size where Python refuses them."""
        try:
            return self.text(str(number))
        except ValueError:  # more digits than `sys.set_int_max_str_digits` lets through
            self.cut, self.dropped = True, None
            return f"<int of {number.bit_length()} bits>"

    def _spent(self) -> bool:
        return self.late or self.nodes >= limits.CAPTURE_NODES_MAX

    def _compound(self, value: Any, kind: type, depth: int) -> Any:
        if issubclass(kind, dict):
            return self._mapping(dict.items(value), dict.__len__(value), depth)
        for base in (list, tuple, set, frozenset, deque):
            if issubclass(kind, base):
                return self._sequence(base.__iter__(value), base.__len__(value), depth)
        if issubclass(kind, (bytes, bytearray)):
            return self._bytes("bytes" if issubclass(kind, bytes) else "bytearray", kind.__len__(value))
        if kind is memoryview:
            return self._bytes("memoryview", value.nbytes)
        shown = _shape(kind)
        if shown is not None:
            return self._fields(value, kind, shown, depth)
        simple = self._standard(value, kind, depth)
        return simple if simple is not None else self.text(f"<{_qualified(kind)}>")

    def _bytes(self, name: str, size: int) -> str:
        self.cut = self.cut or size > 0
        if self.dropped is not None:
            self.dropped += size
        return f"<{name} of {size} bytes>"

    def _standard(self, value: Any, kind: type, depth: int) -> Any:
        """Render values of the standard library and arrays; None for what is none of these."""
        if issubclass(kind, (dt.datetime, dt.time)):
            return self.text(_moment(value, dt.datetime if issubclass(kind, dt.datetime) else dt.time))
        if issubclass(kind, dt.date):
            return dt.date.isoformat(value)
        for base in (decimal.Decimal, dt.timedelta, complex):
            if issubclass(kind, base):
                return self.text(base.__str__(value))
        if issubclass(kind, uuid.UUID):
            number = _field(value, kind, "int")
            return str(uuid.UUID(int=number)) if type(number) is int else None
        if kind is range:
            return f"range({', '.join(str(self.render(n, depth)) for n in (value.start, value.stop, value.step))})"
        if issubclass(kind, pathlib.PurePath) and _is_exported(kind, "pathlib"):
            return self.text(str(value))
        if issubclass(kind, type):
            return self.text(f"<class {_qualified(value)}>")
        if issubclass(kind, BaseException):
            arguments = BaseException.args.__get__(value)  # type: ignore[attr-defined]
            return {"type": _qualified(kind), "args": self._sequence(iter(arguments), len(arguments), depth)}
        if kind is types.MethodType:
            value, kind = value.__func__, type(value.__func__)
        if kind is types.FunctionType:
            return self.text(f"<function {_plain(value.__qualname__)}>")
        if kind is types.BuiltinFunctionType:
            return self.text(f"<function {_plain(value.__name__)}>")
        if issubclass(kind, types.ModuleType):
            return self.text(f"<module {_plain(_module_dict_of(value).get('__name__'))}>")
        return self._array(value, kind, depth)

    def _array(self, value: Any, kind: type, depth: int) -> Any:
        """Render numpy's and pandas' own classes; their look-alikes are other people's code."""
        if _is_exported(kind, "numpy"):
            if _name_of(kind) == "ndarray":
                if value.dtype.kind in "biuf" and value.size <= 1_000:
                    return self.render(value.tolist(), depth + 1)
                self.cut, self.dropped = True, value.nbytes + self.dropped if self.dropped is not None else None
                return self.text(f"<ndarray of shape {value.shape} and dtype {value.dtype}>")
            plain = value.item() if issubclass(kind, sys.modules["numpy"].generic) else value
            return self.render(plain, depth + 1) if type(plain) is not kind else None
        if _is_exported(kind, "pandas") and _name_of(kind) in ("DataFrame", "Series"):
            self.cut, self.dropped = True, None
            return f"<{_name_of(kind)} of shape {value.shape}>"
        return None

    def _fields(self, value: Any, kind: type, names: tuple[str, ...], depth: int) -> Any:
        """Render what declares its fields: from what the object stores, never through a property or `__getattr__`."""
        if any(_plain(_name_of(base)) in _SECRETS for base in _mro_of(kind)):
            return _HIDDEN
        stored = _stored(value, kind)
        found = [(name, _field(value, kind, name, stored)) for name in names]
        extra = _field(value, kind, "__pydantic_extra__", stored)
        if issubclass(type(extra), dict):
            found += islice(dict.items(extra), limits.CAPTURE_NODES_MAX)
        found = [(name, item) for name, item in found if item is not _MISSING]
        return self._mapping(found, len(found), depth)

    def _mapping(self, items: Iterable[tuple[Any, Any]], size: int, depth: int) -> Any:
        shown: dict[str, Any] = {}
        for key, item in self._taken(items):
            if self._spent():
                break
            name = self._key(key, depth)
            if name in shown:  # 1 and "1" are one key in JSON
                name = f"{name} <{_plain(_name_of(type(key)))} {len(shown)}>"
            shown[name] = self.render(item, depth + 1)
        if len(shown) < size:
            self.cut, self.dropped = True, None
            shown["..."] = f"{size - len(shown)} more, cut"
        return shown

    def _key(self, key: Any, depth: int) -> str:
        shown = self.render(key, depth + 1)
        return shown if isinstance(shown, str) else _encode(shown).decode()

    def _sequence(self, items: Iterable[Any], size: int, depth: int) -> list[Any]:
        shown: list[Any] = []
        for item in self._taken(items):
            if self._spent():
                break
            shown.append(self.render(item, depth + 1))
        if len(shown) < size:
            self.cut, self.dropped = True, None
            shown.append(f"<... {size - len(shown)} more, cut ...>")
        return shown

    def _taken(self, items: Iterable[Any]) -> list[Any]:
        """Take what there is room for, in one step of the interpreter: other threads may be changing it."""
        try:
            return list(islice(items, max(limits.CAPTURE_NODES_MAX - self.nodes, 0)))
        except RuntimeError:  # one got in between all the same
            return []


def _moment(value: Any, base: Any) -> str:
    """Return an ISO time; of a time zone that is a user's class only the name, for to ask it is to run it."""
    zone, kind = base.tzinfo.__get__(value), type(value)
    known = zone is None or type(zone) is dt.timezone or (kind is base and _is_exported(type(zone), "zoneinfo"))
    if known:
        return str(base.isoformat(value))
    if kind is base:
        return f"{base.isoformat(value.replace(tzinfo=None))} <{_qualified(type(zone))}>"
    return f"<{_qualified(kind)}>"


def _plain(text: Any) -> str:
    return str.__str__(text) if issubclass(type(text), str) else "?"


def _qualified(kind: type) -> str:
    module, name = _plain(_module_of(kind)), _plain(_qualname_of(kind))
    return name if module == "builtins" else f"{module}.{name}"


def _is_exported(kind: type, module: str) -> bool:
    """Tell whether a class is the very one that an imported module exports under its name."""
    loaded = sys.modules.get(module)
    return type(loaded) is types.ModuleType and vars(loaded).get(_plain(_name_of(kind))) is kind


def _in_class(kind: type, name: str) -> Any:
    """Return what a class or its bases store under a name, without asking a descriptor or a metaclass."""
    for base in _mro_of(kind):
        if name in (own := _dict_of(base)):
            return own[name]
    return _MISSING


def _stored(value: Any, kind: type) -> dict[str, Any]:
    """Return an object's instance dictionary; an empty one when it has none, or a user's property in its place."""
    getter = _in_class(kind, "__dict__")
    found = getter.__get__(value) if type(getter) is types.GetSetDescriptorType else None
    return found if type(found) is dict else {}


def _field(value: Any, kind: type, name: str, stored: dict[str, Any] | None = None) -> Any:
    """Return the stored value of a field, from the instance's dictionary or a slot; `_MISSING` when there is none."""
    found = (_stored(value, kind) if stored is None else stored).get(name, _MISSING)
    if found is _MISSING:
        slot = _in_class(kind, name)
        if type(slot) is types.MemberDescriptorType:
            try:
                return slot.__get__(value)
            except AttributeError:
                return _MISSING
    return found


_shapes: dict[int, tuple[weakref.ref[type], tuple[str, ...] | None]] = {}


def _shape(kind: type) -> tuple[str, ...] | None:
    """Return the names of the fields that a class declares for showing; None for a class that is not data."""
    known = _shapes.get(id(kind))
    if known is not None and known[0]() is kind:
        return known[1]
    shape = _declared(kind)
    if len(_shapes) >= limits.CAPTURE_SHAPES_MAX:
        _shapes.clear()
    _shapes[id(kind)] = (weakref.ref(kind), shape)
    return shape


def _declared(kind: type) -> tuple[str, ...] | None:
    for name in ("__pydantic_fields__", "__dataclass_fields__"):
        fields = _in_class(kind, name)
        if type(fields) is dict:
            return tuple(_plain(key) for key, field in fields.items() if _is_shown(field))
    fields = _in_class(kind, "__attrs_attrs__")
    if issubclass(type(fields), tuple):
        return tuple(_plain(_field(field, type(field), "name")) for field in tuple.__iter__(fields) if _is_shown(field))
    return tuple(_struct_fields_of(kind)) if issubclass(kind, msgspec.Struct) else None


def _is_shown(field: Any) -> bool:
    """A field with `repr=False` or `exclude=True` stays hidden; so does one whose `repr` is a function to be run."""
    kind = type(field)
    shown, left_out = _field(field, kind, "repr"), _field(field, kind, "exclude")
    return (shown is True or shown is _MISSING) and left_out is not True
