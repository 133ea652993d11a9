"""Values of OTLP in JSON: attributes, ids and numbers, checked. Used by `json_encoding`."""

from __future__ import annotations

import re
from typing import Any, Final

from everycall import limits
from everycall.server.otlp.requests import bounded

__all__ = ["any_value", "attributes_of", "hex_id", "member", "unsigned"]

_HEX: Final = re.compile(r"[0-9a-f]*")
_INT64: Final = range(-(2**63), 2**63)
_UINT64_MAX: Final = 2**64 - 1
_KINDS: Final[dict[Any, str]] = {dict: "an object", list: "a list", str: "a string"}
_SCALARS: Final = {
    "stringValue": "a string",
    "boolValue": "true or false",
    "intValue": "a whole number of 64 bits, as a number or a string",
    "doubleValue": "a number",
    "bytesValue": "a string in base64",
}


def member(message: dict[str, Any], name: str, kind: type[Any]) -> Any:
    """Return a member of a type, or the empty value of that type if it is absent. Raise `TypeError`."""
    value = message.get(name)
    if value is None:
        return kind()
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be {_KINDS[kind]}")
    return value


def hex_id(value: Any, name: str) -> str:
    """Return an id in lower case, "" if it is absent. Raise `TypeError` for anything but hex digits."""
    if value is None:
        return ""
    lower = value.lower() if isinstance(value, str) else ""
    if not isinstance(value, str) or _HEX.fullmatch(lower) is None:
        raise TypeError(f"{name} must be a string of hex digits (OTLP in JSON does not use base64 for ids)")
    return lower


def unsigned(value: Any, name: str) -> int:
    """Return an unsigned 64-bit number; 0 for one that is absent or negative. Raise `TypeError`."""
    if value is None or value == "":
        return 0
    number = _integer(value)
    if number is None or number > _UINT64_MAX:
        raise TypeError(f"{name} must be a whole number of at most 64 bits, as a number or a string")
    return max(number, 0)


def _integer(value: Any) -> int | None:
    """Return a whole number from a JSON number or a string of digits, else None."""
    if isinstance(value, bool) or not isinstance(value, int | str | float):
        return None
    if isinstance(value, float) and not value.is_integer():
        return None
    try:
        return int(value)
    except ValueError:
        return None


def attributes_of(pairs: Any) -> tuple[dict[str, Any], int]:
    """Return attributes by name, and how many were left out. Raise `TypeError` for wrong types."""
    if pairs is None:
        return {}, 0
    if not isinstance(pairs, list):
        raise TypeError("attributes must be a list of objects with key and value")
    return bounded(map(_pair, pairs))


def _pair(pair: Any) -> tuple[str, Any]:
    if not isinstance(pair, dict) or not isinstance(pair.get("key", ""), str):
        raise TypeError("an attribute must be an object with a string as its key")
    return pair.get("key", ""), any_value(pair.get("value"))


def any_value(value: Any, depth: int = 0) -> Any:
    """Return an `AnyValue` as plain JSON. Raise `TypeError` or `ValueError` if it has the wrong type or is too deep."""
    if value is None:
        return None
    if not isinstance(value, dict):
        raise TypeError('a value must be an object such as {"stringValue": "..."}')
    if depth > limits.OTLP_NESTING_MAX:
        raise ValueError(f"a value is nested deeper than {limits.OTLP_NESTING_MAX} levels; send it as a JSON string")
    for kind, content in value.items():
        if content is None:
            continue
        if kind in _SCALARS:
            return _scalar(kind, content)
        if kind == "arrayValue":
            return [any_value(item, depth + 1) for item in _values(content)]
        if kind == "kvlistValue":
            return dict(_nested_pair(pair, depth + 1) for pair in _values(content))
    return None


def _nested_pair(pair: Any, depth: int) -> tuple[str, Any]:
    if not isinstance(pair, dict) or not isinstance(pair.get("key", ""), str):
        raise TypeError("an entry of a kvlistValue must be an object with a string as its key")
    return pair.get("key", ""), any_value(pair.get("value"), depth)


def _values(content: Any) -> list[Any]:
    if not isinstance(content, dict):
        raise TypeError("arrayValue and kvlistValue must be objects with a list of values")
    values: list[Any] = member(content, "values", list)
    return values


def _scalar(kind: str, content: Any) -> Any:
    if kind == "intValue":
        number = _integer(content)
        if number is not None and number in _INT64:
            return number
    elif kind == "boolValue":
        if isinstance(content, bool):
            return content
    elif kind == "doubleValue":
        if isinstance(content, int | float) and not isinstance(content, bool):
            return float(content) if isinstance(content, float) or abs(content) > _UINT64_MAX else content
        if content in ("NaN", "Infinity", "-Infinity"):  # JSON has no numbers for them
            return content
    elif isinstance(content, str):
        return content
    raise TypeError(f"{kind} must be {_SCALARS[kind]}")
