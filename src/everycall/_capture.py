"""Values to JSON as they were at call time, bounded in bytes, values, depth and time. Layer 2; called by calls.

Plain values (text, numbers, lists, dicts of them) are walked once against a budget and encoded by the codec. All
else is rendered by hand and never by running the user's code: no `__repr__`, `__getattr__`, `__iter__` or
`__deepcopy__` of a user's class is called. Objects that are not data are shown as `<module.Class>`, secrets of pydantic
as asterisks.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import hashlib
import pathlib
import time
import types
import uuid
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from msgspec import Raw

from everycall import limits
from everycall.record import ABSENT, Cut

__all__ = ["capture", "cut_text", "plain_text"]

_encode = msgspec.json.Encoder().encode
_TIME_BOUND_NS = 25_000_000
_SECRETS = frozenset({"SecretStr", "SecretBytes", "Secret"})
_HIDDEN = "**********"
_HASH_BYTES_MAX = 8 * limits.MIB
_scalars = frozenset({bool, type(None)})


def capture(value: Any) -> tuple[Raw, Cut | None]:
    """Return a value as JSON, and what was cut from it (None when nothing was).

    Never raises for any value, never runs a user's code, takes at most about 25 ms and `limits.FIELD_BYTES_MAX`.
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
                return Raw(_encode(value)), None
        elif kind is bool or (kind is int and -(2**63) <= value < 2**63) or (kind is float and value - value == 0.0):
            return Raw(_encode(value)), None
    except (UnicodeEncodeError, TypeError, ValueError, RecursionError, OverflowError):
        pass
    return _captured_by_hand(value)


def _fits(value: Any) -> bool:
    """Tell whether a container holds only plain values, within the budget. One walk, no recursion, no user code."""
    nodes, characters = 0, 0
    stack: list[Any] = [value]
    pop, push = stack.pop, stack.extend
    while stack:
        item = pop()
        kind = type(item)
        if kind is dict:
            size = len(item)
            nodes += size
            if nodes > limits.CAPTURE_NODES_MAX:
                return False
            for key in item:
                if type(key) is not str:
                    return False
                characters += len(key)
            push(item.values())
        elif kind is list or kind is tuple:
            nodes += len(item)
            if nodes > limits.CAPTURE_NODES_MAX:
                return False
            push(item)
        elif kind is str:
            characters += len(item)
            if characters > limits.CAPTURE_TEXT_MAX:
                return False
        elif kind is float:
            if item - item != 0.0:
                return False
        elif kind is int:
            if not -(2**63) <= item < 2**63:
                return False
        elif kind not in _scalars:
            return False
    return True


def _captured_by_hand(value: Any) -> tuple[Raw, Cut | None]:
    walk = _Walk()
    if issubclass(type(value), str):
        kept, cut = cut_text(str.__str__(value), limits.FIELD_BYTES_MAX)
        return Raw(_encode(plain_text(kept))), cut
    try:
        raw = _encode(walk.render(value, 0))
    except Exception as error:  # noqa: BLE001 - the last resort: a marker is better than no record
        raw = _encode(f"<{type(value).__name__}: not captured ({type(error).__name__})>")
        walk.cut = True
    return Raw(raw), Cut(kept=len(raw)) if walk.cut else None


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
    """One bounded walk over a value that is not plain. `cut` tells whether a bound was met."""

    __slots__ = ("above", "characters", "cut", "deadline", "nodes")

    def __init__(self) -> None:
        self.nodes = 0
        self.characters = 0
        self.cut = False
        self.deadline = time.perf_counter_ns() + _TIME_BOUND_NS
        self.above: set[int] = set()

    def render(self, value: Any, depth: int) -> Any:
        """Return `value` as plain JSON values."""
        self.nodes += 1
        if self.nodes > limits.CAPTURE_NODES_MAX or time.perf_counter_ns() > self.deadline:
            self.cut = True
            return "<... more, cut ...>"
        kind = type(value)
        if value is None or kind is bool:
            return value
        if issubclass(kind, enum.Enum):
            return self.render(object.__getattribute__(value, "_value_"), depth)
        if issubclass(kind, str):
            return self._text(value)
        if issubclass(kind, int):
            number = int.__int__(value)
            return number if -(2**63) <= number < 2**63 else _large_int(number)
        if issubclass(kind, float):
            real = float.__float__(value)
            return real if real - real == 0.0 else float.__repr__(real)
        if depth > limits.CAPTURE_DEPTH_MAX:
            self.cut = True
            return "<... deeper, cut ...>"
        marker = id(value)
        if marker in self.above:
            return f"<cycle to {kind.__name__}>"
        self.above.add(marker)
        try:
            return self._compound(value, kind, depth)
        finally:
            self.above.discard(marker)

    def _text(self, value: str) -> str:
        room = limits.CAPTURE_TEXT_MAX - self.characters
        length = str.__len__(value)
        self.characters += min(length, max(room, 0))
        if length <= room:
            return plain_text(value)
        self.cut = True
        keep = max(room, 256)
        head, tail = (
            str.__getitem__(value, slice(0, keep * 2 // 3)),
            str.__getitem__(value, slice(length - keep // 3, None)),
        )
        return f"{plain_text(head)}[... {length - keep} characters cut ...]{plain_text(tail)}"

    def _compound(self, value: Any, kind: type, depth: int) -> Any:
        if issubclass(kind, dict):
            return self._mapping(dict.items(value), dict.__len__(value), depth)
        if issubclass(kind, (list, tuple, set, frozenset, deque)):
            return self._sequence(value, depth)
        if issubclass(kind, (bytes, bytearray, memoryview)):
            return f"<{kind.__name__} of {memoryview(value).nbytes} bytes>"
        if kind in (dt.datetime, dt.date, dt.time):
            return value.isoformat()
        if kind in (dt.timedelta, decimal.Decimal, uuid.UUID, complex, range, slice) or issubclass(
            kind, pathlib.PurePath
        ):
            return str(value)
        if issubclass(kind, type):
            return f"<class {_qualified(value)}>"
        if issubclass(kind, BaseException):
            arguments = BaseException.args.__get__(value)  # type: ignore[attr-defined]
            return {"type": _qualified(kind), "args": self._sequence(arguments, depth)}
        if issubclass(kind, (types.FunctionType, types.BuiltinFunctionType, types.MethodType)):
            return f"<function {value.__qualname__}>"
        if issubclass(kind, types.ModuleType):
            return f"<module {types.ModuleType.__getattribute__(value, '__name__')}>"
        if kind is types.MappingProxyType:
            return self._mapping(dict(value).items(), len(value), depth)
        return self._data_object(value, kind, depth)

    def _data_object(self, value: Any, kind: type, depth: int) -> Any:
        """Render what declares its fields (dataclasses, pydantic, numpy, ...); the rest by its name."""
        names = {base.__name__ for base in kind.__mro__}
        if names & _SECRETS:
            return _HIDDEN
        module = kind.__module__.partition(".")[0]
        if module == "numpy":
            return self._numpy(value, kind, depth)
        if module == "pandas":
            return f"<{kind.__name__} of shape {getattr(value, 'shape', '?')}>"
        shown = _declared_fields(kind)
        if shown is None:
            return f"<{_qualified(kind)}>"
        return self._mapping(_stored_values(value, shown), len(shown), depth)

    def _numpy(self, value: Any, kind: type, depth: int) -> Any:
        if kind.__name__ == "ndarray":
            if value.dtype.kind in "biuf" and value.size <= 1_000:
                return self.render(value.tolist(), depth + 1)
            self.cut = True
            return f"<ndarray of shape {value.shape} and dtype {value.dtype}>"
        if hasattr(kind, "item") and getattr(value, "ndim", 1) == 0:
            return self.render(value.item(), depth + 1)
        return f"<{_qualified(kind)}>"

    def _mapping(self, items: Iterable[tuple[Any, Any]], size: int, depth: int) -> Any:
        shown: dict[str, Any] = {}
        try:
            for key, item in items:
                if self.nodes >= limits.CAPTURE_NODES_MAX or time.perf_counter_ns() > self.deadline:
                    self.cut = True
                    shown["..."] = f"{size - len(shown)} more, cut"
                    break
                name = plain_text(key) if issubclass(type(key), str) else self._key(key, depth)
                shown[name] = self.render(item, depth + 1)
        except RuntimeError:  # another thread changed it while we looked
            self.cut = True
            shown["..."] = "changed while it was captured"
        return shown

    def _key(self, key: Any, depth: int) -> str:
        shown = self.render(key, depth + 1)
        return shown if isinstance(shown, str) else _encode(shown).decode()

    def _sequence(self, items: Any, depth: int) -> list[Any]:
        base = next(kind for kind in (list, tuple, set, frozenset, deque) if issubclass(type(items), kind))
        size = base.__len__(items)
        shown: list[Any] = []
        try:
            for item in base.__iter__(items):
                if self.nodes >= limits.CAPTURE_NODES_MAX or time.perf_counter_ns() > self.deadline:
                    self.cut = True
                    shown.append(f"<... {size - len(shown)} more, cut ...>")
                    break
                shown.append(self.render(item, depth + 1))
        except RuntimeError:
            self.cut = True
            shown.append("<changed while it was captured>")
        return shown


def _large_int(number: int) -> int | str:
    return str(number) if number.bit_length() < 8_192 else f"<int of {number.bit_length()} bits>"


def _qualified(kind: type) -> str:
    module = type.__getattribute__(kind, "__module__")
    name = type.__getattribute__(kind, "__qualname__")
    return str(name) if module == "builtins" else f"{module}.{name}"


_fields_of: dict[type, tuple[str, ...] | None] = {}


def _declared_fields(kind: type) -> tuple[str, ...] | None:
    """Return the field names that a data class declares for showing (fields with `repr=False` stay hidden)."""
    try:
        return _fields_of[kind]
    except KeyError:
        pass
    names: tuple[str, ...] | None = None
    declared = kind.__dict__
    if "__dataclass_fields__" in declared or dataclasses.is_dataclass(kind):
        names = tuple(f.name for f in dataclasses.fields(kind) if f.repr)
    elif "__attrs_attrs__" in declared:
        names = tuple(a.name for a in declared["__attrs_attrs__"] if a.repr)
    elif issubclass(kind, msgspec.Struct):
        names = kind.__struct_fields__
    else:
        fields = next((vars(b)["__pydantic_fields__"] for b in kind.__mro__ if "__pydantic_fields__" in vars(b)), None)
        if isinstance(fields, Mapping):
            names = tuple(n for n, f in fields.items() if getattr(f, "repr", True) and not getattr(f, "exclude", None))
    if len(_fields_of) > 4_096:
        _fields_of.clear()
    _fields_of[kind] = names
    return names


_MISSING = object()


def _stored_values(value: Any, names: tuple[str, ...]) -> Iterable[tuple[str, Any]]:
    """Yield the fields' stored values: from the instance's dict or slots, never through a property or `__getattr__`."""
    try:
        stored = object.__getattribute__(value, "__dict__")
    except AttributeError:
        stored = {}
    for name in names:
        if name in stored:
            yield name, stored[name]
            continue
        slot = next((vars(b)[name] for b in type(value).__mro__ if name in vars(b)), _MISSING)
        if isinstance(slot, types.MemberDescriptorType) or type(slot).__name__ == "member_descriptor":
            try:
                yield name, slot.__get__(value, type(value))  # type: ignore[attr-defined]
            except AttributeError:
                continue
