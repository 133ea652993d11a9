"""What classes and their instances store, read without running code of the user's: no property and no metaclass."""

from __future__ import annotations

import sys
import types
import weakref
from typing import Any

import msgspec

from everycall import limits

__all__ = [
    "EXTRA",
    "MISSING",
    "SECRET",
    "attributes_of",
    "field_value",
    "is_exported",
    "is_library_zone",
    "module_of",
    "name_of",
    "plain",
    "qualified_name",
    "shape_of",
    "slots_of",
]

EXTRA = "__pydantic_extra__"
"""The last name in the shape of a pydantic model: its extra fields."""
MISSING: Any = object()
"""Stands for a field that has no value."""
SECRET = ("a secret",)
"""The shape of a class whose values are never shown."""
_SECRETS = frozenset({"SecretStr", "SecretBytes", "Secret"})
_DICTIONARIES = (types.GetSetDescriptorType, types.MemberDescriptorType)
"""The types of `__dict__` as the interpreter makes it, for classes and for `types.SimpleNamespace`."""

# What a class says of itself, read where no metaclass can answer in its place.
_qualname_of = type.__dict__["__qualname__"].__get__
_module_of = type.__dict__["__module__"].__get__
_mro_of = type.__dict__["__mro__"].__get__
_dict_of = type.__dict__["__dict__"].__get__
_struct_fields_of = type(msgspec.Struct).__dict__["__struct_fields__"].__get__
_name_of = type.__dict__["__name__"].__get__


def plain(text: Any) -> str:
    """Return a text as an exact `str`, or ? for anything else."""
    return str.__str__(text) if issubclass(type(text), str) else "?"


def name_of(kind: type) -> str:
    """Return a class's name, without running code of the class."""
    return plain(_name_of(kind))


def is_exported(kind: type, module: str) -> bool:
    """Return whether a class is the one that an imported module exports under its name."""
    loaded = sys.modules.get(module)
    return type(loaded) is types.ModuleType and vars(loaded).get(name_of(kind)) is kind


def module_of(kind: type) -> str:
    """Return the name of a class's module."""
    return plain(_module_of(kind))


def qualified_name(kind: type) -> str:
    """Return a class's name with its module, unless it is a built-in class."""
    module, name = module_of(kind), plain(_qualname_of(kind))
    return name if module == "builtins" else f"{module}.{name}"


def is_library_zone(kind: type) -> bool:
    """Return whether a class is a time zone of Python's `zoneinfo`, or that of times which pydantic has parsed."""
    return is_exported(kind, "zoneinfo") or is_exported(kind, "pydantic_core")


def slots_of(kind: type) -> list[str]:
    """Return the names of the slots that a class and its bases declare in Python."""
    names: list[str] = []
    for base in _mro_of(kind):
        own = _dict_of(base)
        if "__slots__" in own:
            names += [name for name, member in own.items() if type(member) is types.MemberDescriptorType]
    return names


def _in_class(kind: type, name: str) -> Any:
    """Return what a class or its bases store under a name, without asking a descriptor or a metaclass."""
    for base in _mro_of(kind):
        if name in (own := _dict_of(base)):
            return own[name]
    return MISSING


def attributes_of(value: Any, kind: type) -> dict[str, Any]:
    """Return an object's instance dictionary; an empty one when it has none, or a user's property in its place."""
    getter = _in_class(kind, "__dict__")
    members = getter.__get__(value) if type(getter) in _DICTIONARIES else None
    return members if type(members) is dict else {}


def field_value(value: Any, kind: type, name: str, stored: dict[str, Any] | None = None) -> Any:
    """Return the stored value of a field, from the instance's dictionary or a slot; `MISSING` if it has no value."""
    member = (attributes_of(value, kind) if stored is None else stored).get(name, MISSING)
    if member is MISSING:
        slot = _in_class(kind, name)
        if type(slot) is types.MemberDescriptorType:
            try:
                return slot.__get__(value)
            except AttributeError:
                return MISSING
    return member


_shapes: dict[int, tuple[weakref.ref[type], tuple[str, ...] | None]] = {}


def shape_of(kind: type) -> tuple[str, ...] | None:
    """Return the names of the fields that a class declares for showing; None for a class that is not data."""
    entry = _shapes.get(id(kind))
    if entry is not None and entry[0]() is kind:
        return entry[1]
    shape = _declared(kind)
    if len(_shapes) >= limits.CAPTURE_SHAPES_MAX:
        _shapes.clear()
    _shapes[id(kind)] = (weakref.ref(kind), shape)
    return shape


def _declared(kind: type) -> tuple[str, ...] | None:
    if any(name_of(base) in _SECRETS for base in _mro_of(kind)):
        return SECRET
    fields = _in_class(kind, "__pydantic_fields__")
    if type(fields) is dict:
        return (*(plain(name) for name, field in fields.items() if _is_shown(field)), EXTRA)
    fields = _in_class(kind, "__dataclass_fields__")
    if type(fields) is dict:
        return tuple(plain(name) for name, field in fields.items() if _is_shown(field))
    fields = _in_class(kind, "__attrs_attrs__")
    if issubclass(type(fields), tuple):
        return tuple(
            plain(field_value(field, type(field), "name")) for field in tuple.__iter__(fields) if _is_shown(field)
        )
    return tuple(_struct_fields_of(kind)) if issubclass(kind, msgspec.Struct) else None


def _is_shown(field: Any) -> bool:
    """A field with `repr=False` or `exclude=True` stays hidden; so does one whose `repr` is a function to be run."""
    kind = type(field)
    in_repr, is_excluded = field_value(field, kind, "repr"), field_value(field, kind, "exclude")
    return (in_repr is True or in_repr is MISSING) and is_excluded is not True
