"""Values that are not plain JSON, rendered in one bounded walk that runs none of the user's code.

No method, property, descriptor or metaclass of a user's class is called. Only data that the interpreter stores is read
(instance dictionaries, slots, data of base classes), through the functions of the built-in types.
"""

from __future__ import annotations

import argparse
import datetime as dt
import decimal
import enum
import gc
import pathlib
import sys
import types
import uuid
from collections import deque
from collections.abc import Iterable
from itertools import islice
from typing import Any

import msgspec

from everycall import limits
from everycall._capture import frames
from everycall._capture.classes import (
    EXTRA,
    MISSING,
    SECRET,
    attributes_of,
    field_value,
    is_exported,
    is_library_zone,
    module_of,
    name_of,
    plain,
    qualified_name,
    shape_of,
    slots_of,
)
from everycall._redaction.secret_names import is_secret_name
from everycall.record import Cut

__all__ = ["Walk", "name_of", "plain_text"]

_encode = msgspec.json.Encoder().encode
_HIDDEN = "**********"
_ROOM_LEAST = 256
_TEXTS: tuple[tuple[type, Any], ...] = (
    (decimal.Decimal, decimal.Decimal.__str__),
    (dt.timedelta, dt.timedelta.__str__),
    (complex, complex.__repr__),
)
_STANDARD: tuple[type, ...] = (
    bytes, bytearray, memoryview, types.MappingProxyType, dt.date, dt.time, dt.timedelta, decimal.Decimal, complex,
    uuid.UUID, range, pathlib.PurePath, type, BaseException, types.MethodType, types.FunctionType,
    types.BuiltinFunctionType, types.ModuleType,
)  # fmt: skip
_SEQUENCES: tuple[Any, ...] = (list, tuple, set, frozenset, deque)
_NAMESPACES: tuple[Any, ...] = (types.SimpleNamespace, argparse.Namespace)

_module_dict_of: Any = vars(types.ModuleType)["__dict__"].__get__


def plain_text(value: str) -> str:
    """Return text that can be encoded: an exact `str`, with lone surrogates written as `\\udXXX`."""
    text = str.__str__(value)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode("utf-8")
    return text


class Walk:
    """One bounded walk over a value that is not plain: values and bytes of text are spent as it goes.

    There is no clock in it: what is cut depends on the value alone, not on how busy the machine is.
    """

    __slots__ = ("above", "cut", "dropped", "levels", "nodes", "objects", "room")

    def __init__(self, room: int) -> None:
        self.nodes = 0
        self.objects = self.levels = 0  # objects of plain classes: how many there were, how many are around
        self.room = room
        self.cut = False
        self.dropped: int | None = 0  # bytes left out, None when that is not known
        self.above: set[int] = set()

    def note(self, size: int) -> Cut | None:
        """Return the record's note about what was cut; None if nothing was."""
        if not self.cut:
            return None
        return Cut(kept=size, bytes=size + self.dropped if self.dropped is not None else None)

    def render(self, value: Any, depth: int) -> Any:
        """Return `value` as plain JSON values."""
        self.nodes += 1
        kind = type(value)
        if kind is str:
            return self.text(value)
        if value is None or kind is bool or (kind is int and -(2**63) <= value < 2**63):
            return value
        if issubclass(kind, enum.Enum):
            value = attributes_of(value, kind).get("_value_", MISSING)
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
            return self.text(f"<cycle to {name_of(kind)}>")
        self.above.add(marker)
        try:
            return self._compound(value, kind, depth)
        finally:
            self.above.discard(marker)

    def text(self, value: str) -> str:
        """Return a text: whole when there is room for it, else its head and tail in three quarters of the room."""
        length, ascii_only = str.__len__(value), str.isascii(value)
        if length <= self.room:
            text = plain_text(value)
            size = length if ascii_only else len(text.encode("utf-8"))
            if size <= self.room:
                self.room -= size
                return text
        share = self.room * 3 // 4
        self.room -= share
        keep = share if ascii_only else share // 4
        self._leave_out(length - keep if ascii_only else None)
        head = plain_text(str.__getitem__(value, slice(0, keep - keep // 3)))
        tail = plain_text(str.__getitem__(value, slice(length - keep // 3, None)))
        return f"{head}[... {length - keep} characters cut ...]{tail}"

    def _leave_out(self, size: int | None) -> None:
        """Note that bytes were left out of the result; None if their number is unknown."""
        self.cut = True
        self.dropped = self.dropped + size if self.dropped is not None and size is not None else None

    def _too_deep(self) -> str:
        self._leave_out(None)
        return "<... deeper, cut ...>"

    def _large(self, number: int) -> str:
        """An integer that JSON readers would round: its digits as text, or its size where Python refuses them."""
        bits = number.bit_length()
        if bits <= limits.CAPTURE_INT_BITS_MAX:
            try:
                return self.text(str(number))
            except ValueError:  # more digits than `sys.set_int_max_str_digits` lets through
                pass
        self._leave_out(None)
        return f"<int of {bits} bits>"

    def _spent(self) -> bool:
        return self.nodes >= limits.CAPTURE_NODES_MAX or self.room < _ROOM_LEAST

    def _compound(self, value: Any, kind: type, depth: int) -> Any:
        if issubclass(kind, dict):
            return self._mapping(dict.items(value), dict.__len__(value), depth)
        if issubclass(kind, _SEQUENCES):
            base = next(base for base in _SEQUENCES if issubclass(kind, base))
            return self._sequence(base.__iter__(value), base.__len__(value), depth)
        shape = shape_of(kind)
        if shape is not None:
            return _HIDDEN if shape is SECRET else self._fields(value, kind, shape, depth)
        rendered = self._tabular(value, kind, depth)
        if rendered is not frames.UNKNOWN:
            return rendered
        rendered = (self._standard if issubclass(kind, _STANDARD) else self._attributes)(value, kind, depth)
        return rendered if rendered is not None else self.text(f"<{qualified_name(kind)}>")

    def _bytes(self, name: str, size: int) -> str:
        if size:
            self._leave_out(size)
        return f"<{name} of {size} bytes>"

    def _standard(self, value: Any, kind: type, depth: int) -> Any:
        """Render values of the standard library; None for what shows nothing of itself."""
        for binary in (bytes, bytearray):
            if issubclass(kind, binary):
                return self._bytes(binary.__name__, binary.__len__(value))
        if kind is memoryview:
            return self._bytes("memoryview", value.nbytes)
        if kind is types.MappingProxyType:
            below = gc.get_referents(value)[0]  # the mapping itself, which the proxy would run
            return self._compound(below, type(below), depth) if issubclass(type(below), dict) else None
        if issubclass(kind, (dt.datetime, dt.time)):
            return self.text(_moment(value, dt.datetime if issubclass(kind, dt.datetime) else dt.time))
        if issubclass(kind, dt.date):
            return dt.date.isoformat(value)
        for base, text_of in _TEXTS:
            if issubclass(kind, base):
                return self.text(text_of(value))
        if issubclass(kind, uuid.UUID):
            number = field_value(value, kind, "int")
            return str(uuid.UUID(int=number)) if type(number) is int and 0 <= number < 2**128 else None
        if kind is range:
            return f"range({', '.join(str(self.render(n, depth)) for n in (value.start, value.stop, value.step))})"
        if issubclass(kind, pathlib.PurePath) and is_exported(kind, "pathlib"):
            return self.text(str(value))
        if issubclass(kind, type):
            return self.text(f"<class {qualified_name(value)}>")
        if issubclass(kind, BaseException):
            arguments = BaseException.args.__get__(value)  # type: ignore[attr-defined]
            return {"type": qualified_name(kind), "args": self._sequence(iter(arguments), len(arguments), depth)}
        if kind is types.MethodType:
            value, kind = value.__func__, type(value.__func__)
        if kind is types.FunctionType:
            return self.text(f"<function {plain(value.__qualname__)}>")
        if kind is types.BuiltinFunctionType:
            return self.text(f"<function {plain(value.__name__)}>")
        if issubclass(kind, types.ModuleType):
            return self.text(f"<module {plain(_module_dict_of(value).get('__name__'))}>")
        return None

    def _tabular(self, value: Any, kind: type, depth: int) -> Any:
        """Render numpy's, pandas' and polars' own classes; their look-alikes are other people's code."""
        if is_exported(kind, "numpy"):
            plain, left_out = frames.numpy_value(value)
        elif issubclass(kind, (dt.date, dt.timedelta)) or is_exported(kind, "pandas") or name_of(kind) == "NAType":
            plain, left_out = frames.pandas_value(value, kind) if "pandas" in sys.modules else (frames.UNKNOWN, 0)
        elif is_exported(kind, "polars"):
            plain, left_out = frames.polars_value(value, kind)
        else:
            return frames.UNKNOWN
        if left_out:
            self._leave_out(left_out if is_exported(kind, "numpy") else None)
        return self.render(plain, depth + 1) if plain is not frames.UNKNOWN else plain

    def _attributes(self, value: Any, kind: type, depth: int) -> Any:
        """Render what a plain object stores under public names; return None if there is nothing to show.

        In it and below it, values under the name of a secret are hidden: nobody passed the object for them. Objects of
        the standard library, such as locks and loggers, are shown by their class.
        """
        module = module_of(kind).partition(".")[0]
        if module in sys.stdlib_module_names and kind not in _NAMESPACES:
            return None
        if self.objects >= limits.CAPTURE_OBJECTS_MAX or self.levels >= limits.CAPTURE_OBJECT_LEVELS_MAX:
            return None
        stored = attributes_of(value, kind)
        names = [name for name in (*self._taken(stored), *slots_of(kind)) if type(name) is str and name[:1] != "_"]
        pairs = [(name, field_value(value, kind, name, stored)) for name in names]
        pairs = [pair for pair in pairs if pair[1] is not MISSING]
        if not pairs:
            return None
        self.objects += 1
        self.levels += 1
        try:
            return self._mapping(pairs, len(pairs), depth)
        finally:
            self.levels -= 1

    def _fields(self, value: Any, kind: type, names: tuple[str, ...], depth: int) -> Any:
        """Render what declares its fields: from what the object stores, never through a property or `__getattr__`."""
        stored = attributes_of(value, kind)
        pairs = [(name, field_value(value, kind, name, stored)) for name in names]
        if names and names[-1] == EXTRA:
            extra = pairs.pop()[1]
            if issubclass(type(extra), dict):
                pairs += islice(dict.items(extra), limits.CAPTURE_NODES_MAX)
        pairs = [pair for pair in pairs if pair[1] is not MISSING]
        return self._mapping(pairs, len(pairs), depth)

    def _mapping(self, items: Iterable[tuple[Any, Any]], size: int, depth: int) -> Any:
        members: dict[str, Any] = {}
        for key, item in self._taken(items):
            if self._spent():
                break
            name = self._key(key, depth)
            if name in members:  # 1 and "1" are one key in JSON
                name = f"{name} <{name_of(type(key))} {len(members)}>"
            is_hidden = self.levels > 0 and item is not None and is_secret_name(name)
            members[name] = _HIDDEN if is_hidden else self.render(item, depth + 1)
        if len(members) < size:
            self._leave_out(None)
            members["..."] = f"{size - len(members)} more, cut"
        return members

    def _key(self, key: Any, depth: int) -> str:
        rendered = self.render(key, depth + 1)
        return rendered if isinstance(rendered, str) else _encode(rendered).decode()

    def _sequence(self, items: Iterable[Any], size: int, depth: int) -> list[Any]:
        shown: list[Any] = []
        for item in self._taken(items):
            if self._spent():
                break
            shown.append(self.render(item, depth + 1))
        if len(shown) < size:
            self._leave_out(None)
            shown.append(f"<... {size - len(shown)} more, cut ...>")
        return shown

    def _taken(self, items: Iterable[Any]) -> list[Any]:
        """Return as many items as fit, in one step of the interpreter, since other threads may be changing them."""
        try:
            return list(islice(items, max(limits.CAPTURE_NODES_MAX - self.nodes, 0)))
        except RuntimeError:  # another thread changed it all the same
            return []


def _moment(value: Any, base: Any) -> str:
    """Return an ISO time. Of a time zone of a user's class, return only the name: asking would run user code."""
    zone, kind = base.tzinfo.__get__(value), type(value)
    is_known = zone is None or type(zone) is dt.timezone or (kind is base and is_library_zone(type(zone)))
    if is_known:
        return str(base.isoformat(value))
    if kind is base:
        return f"{base.isoformat(value.replace(tzinfo=None))} <{qualified_name(type(zone))}>"
    return f"<{qualified_name(kind)}>"
