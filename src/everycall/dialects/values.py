"""JSON inside attributes: strings that hold JSON, empty values, numbers and lists in the forms that senders use."""

from __future__ import annotations

import ast
from typing import Any

import msgspec

from everycall import limits

__all__ = [
    "count",
    "first",
    "is_empty",
    "items",
    "number",
    "python_literal",
    "strings",
    "text",
    "unwrap",
    "without_empty",
]

_decode = msgspec.json.Decoder().decode


def unwrap(value: Any, levels: int = 3) -> Any:
    """Return the decoded value of a string with JSON, up to `levels` times; return any other value unchanged.

    A string that only looks like JSON, was cut off, or is nested deeper than `limits.OTLP_NESTING_MAX` stays a string.
    Words and numbers are not decoded: `"0.25"` stays a string, which `number` reads.
    """
    while isinstance(value, str) and levels and value[:1] in ("{", "[", '"'):
        try:
            decoded = _decode(value)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            return value
        if _is_deep(value, decoded):
            return value
        value = decoded
        levels -= 1
    return value


def _is_deep(text: str, decoded: Any) -> bool:
    """Return whether decoded JSON has more than `limits.OTLP_NESTING_MAX` levels: the readers recurse."""
    if text.count("[") + text.count("{") <= limits.OTLP_NESTING_MAX:
        return False
    level = [decoded]
    for _ in range(limits.OTLP_NESTING_MAX):
        level = [
            child
            for item in level
            if isinstance(item, dict | list)
            for child in (item.values() if isinstance(item, dict) else item)
            if isinstance(child, dict | list)
        ]
        if not level:
            return False
    return True


def python_literal(value: Any) -> Any:
    """Return the dictionary or list whose Python repr a string is; None for anything else."""
    if not isinstance(value, str) or value[:1] not in ("{", "[") or len(value) > limits.KIB:
        return None
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None


def is_empty(value: Any) -> bool:
    """Return whether a value is empty: null, or an empty string, list or object."""
    return value is None or (isinstance(value, (str, list, dict, tuple)) and not value)


def first(*values: Any) -> Any:
    """Return the first value that is not empty, or None."""
    for value in values:
        if not is_empty(value):
            return value
    return None


def text(value: Any) -> str | None:
    """Return a string that is not empty, without JSON quotes; None for anything else."""
    if isinstance(value, str) and value[:1] == '"':
        value = unwrap(value)
    return value if isinstance(value, str) and value else None


def number(value: Any) -> float | None:
    """Return a finite number, also from a string; None for anything else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, (int, float)) and value == value and abs(value) != float("inf"):
        return value
    return None


def count(value: Any) -> int | None:
    """Return a token count: a whole number from 0 to 2**53, the range of a record; None for anything else."""
    whole = number(value)
    if whole is None or whole < 0 or whole > 2**53 or whole != int(whole):
        return None
    return int(whole)


def items(value: Any) -> list[Any]:
    """Return a list, also from a JSON string; an empty list for anything else."""
    value = unwrap(value)
    return list(value) if isinstance(value, (list, tuple)) else []


def strings(value: Any) -> list[str]:
    """Return a list of strings from a list, a JSON list, or words separated by commas."""
    value = unwrap(value)
    if isinstance(value, str):
        value = value.split(",")
    if not isinstance(value, (list, tuple)):
        return []
    return [word.strip() for word in value if isinstance(word, str) and word.strip()]


def without_empty(values: dict[str, Any]) -> dict[str, Any]:
    """Return the members that are not empty."""
    return {name: value for name, value in values.items() if not is_empty(value)}
