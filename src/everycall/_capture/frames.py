"""Values of pandas, polars and numpy as plain values. `render` asks for classes that these libraries export themselves.

Code of these libraries runs, but none of the user's: a frame's columns are read only where the library itself stores
them, and their cells are rendered as any other value.
"""

from __future__ import annotations

import datetime as dt
import sys
import types
from typing import Any

from everycall import limits

__all__ = ["UNKNOWN", "is_exported", "is_library_zone", "name_of", "numpy_value", "pandas_value", "polars_value"]

UNKNOWN: Any = object()
"""What these functions return for a value that they cannot show."""
_name_of = type.__dict__["__name__"].__get__
_module_of = type.__dict__["__module__"].__get__
_OWN_COLUMNS = ("numpy", "pandas")


def name_of(kind: type) -> str:
    """Return a class's name, which nobody can forge into code."""
    name = _name_of(kind)
    return str.__str__(name) if issubclass(type(name), str) else "?"


def is_exported(kind: type, module: str) -> bool:
    """Return whether a class is the one that an imported module exports under its name."""
    loaded = sys.modules.get(module)
    return type(loaded) is types.ModuleType and vars(loaded).get(name_of(kind)) is kind


def is_library_zone(kind: type) -> bool:
    """Return whether a class is a time zone of Python's `zoneinfo`, or that of times which pydantic has parsed."""
    return is_exported(kind, "zoneinfo") or is_exported(kind, "pydantic_core")


def numpy_value(value: Any) -> tuple[Any, int]:
    """Return numpy's array or scalar as a plain value, and how many bytes were left out."""
    if name_of(type(value)) == "ndarray":
        if value.dtype.kind in "biufU" and value.size <= limits.CAPTURE_ARRAY_MAX:
            return value.tolist(), 0
        return f"<ndarray of shape {value.shape} and dtype {value.dtype}>", value.nbytes
    if not isinstance(value, sys.modules["numpy"].generic):
        return UNKNOWN, 0
    if value.dtype.kind in "mM":  # `item()` would cut nanoseconds, or give a number without a unit
        text = str(value)
        return (None if text == "NaT" else text), 0
    plain = value.item()
    return (plain if type(plain) is not type(value) else UNKNOWN), 0


def pandas_value(value: Any, kind: type) -> tuple[Any, int]:
    """Return a value of pandas as a plain value, and how many rows or columns were left out.

    Missing values (`NaT`, `NA`) are None. Times keep their nanoseconds. Of a frame, series or index come the first
    `limits.CAPTURE_ROWS_MAX` rows of the first `limits.CAPTURE_COLUMNS_MAX` columns.
    """
    pandas = sys.modules["pandas"]
    names = vars(pandas)
    if value is names.get("NaT") or value is names.get("NA"):
        return None, 0
    if not is_exported(kind, "pandas"):
        return UNKNOWN, 0
    name = name_of(kind)
    if name == "Timestamp":
        return _timestamp(value), 0
    if name == "Timedelta":
        return (str(value) if value.nanoseconds else dt.timedelta.__str__(value)), 0
    if name == "Period":
        return str(value), 0
    if name == "DataFrame":
        rows, columns = value.shape
        head = value.iloc[: limits.CAPTURE_ROWS_MAX, : limits.CAPTURE_COLUMNS_MAX]
        labels = list(head.columns)
        cells = [_cells(head.iloc[:, number]) for number in range(len(labels))]
        table, left_out = _table(name, (rows, columns), labels, cells)
        return {**table, **_index(head)}, left_out
    if name == "Series":
        left_out = max(len(value) - limits.CAPTURE_ROWS_MAX, 0)
        cells = _cells(value.iloc[: limits.CAPTURE_ROWS_MAX])
        index = _index(value.iloc[: limits.CAPTURE_ROWS_MAX])
        return {"type": name, "name": value.name, "shape": [len(value)], "values": cells, **index}, left_out
    return UNKNOWN, 0


def polars_value(value: Any, kind: type) -> tuple[Any, int]:
    """Return polars' frame or series as a plain value, as `pandas_value` does."""
    name = name_of(kind)
    if name == "DataFrame":
        head = value.head(limits.CAPTURE_ROWS_MAX)
        labels = head.columns[: limits.CAPTURE_COLUMNS_MAX]
        return _table(name, value.shape, labels, [head.get_column(label).to_list() for label in labels])
    if name == "Series":
        left_out = max(len(value) - limits.CAPTURE_ROWS_MAX, 0)
        cells = value.head(limits.CAPTURE_ROWS_MAX).to_list()
        return {"type": name, "name": value.name, "shape": [len(value)], "values": cells}, left_out
    return UNKNOWN, 0


def _table(name: str, shape: tuple[int, int], labels: list[Any], cells: list[list[Any]]) -> tuple[Any, int]:
    rows = [dict(zip(_unique(labels), row, strict=True)) for row in zip(*cells, strict=True)]
    left_out = max(shape[0] - limits.CAPTURE_ROWS_MAX, 0) + shape[1] - len(labels)
    return {"type": name, "shape": list(shape), "columns": labels, "rows": rows}, left_out


def _unique(labels: list[Any]) -> list[str]:
    """Return labels as different texts; a label that is no text or number is shown as its place."""
    names: list[str] = []
    for number, label in enumerate(labels):
        name = str(label) if type(label) in (str, int, float, bool) else f"column {number}"
        names.append(name if name not in names else f"{name} <{number}>")
    return names


def _cells(column: Any) -> Any:
    """Return a column's cells; a marker for a column that another library or the user's code stores."""
    kind = type(column.array)
    if str(_module_of(kind)).partition(".")[0] not in _OWN_COLUMNS:
        return [f"<{name_of(kind)}>"] * len(column)
    return list(column.array)


def _index(head: Any) -> dict[str, Any]:
    """Return the labels of rows that are more than their numbers."""
    if type(head.index).__name__ == "RangeIndex":
        return {}
    return {"index": _cells(head.index)}


def _timestamp(value: Any) -> str:
    zone = dt.datetime.tzinfo.__get__(value)
    known = zone is None or type(zone) is dt.timezone or is_library_zone(type(zone))
    if known or _module_of(type(zone)) in ("pytz", "pytz.tzfile"):
        return str(value.isoformat())
    return f"{value.replace(tzinfo=None).isoformat()} <{name_of(type(zone))}>"  # asking the zone would run user code
