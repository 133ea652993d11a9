"""Values of pandas, polars and numpy as plain values. `render` asks for classes that these libraries export themselves.

Code of these libraries runs, but none of the user's: of a frame with columns of other types only the shape is shown.
Cells are rendered as any other value.
"""

from __future__ import annotations

import datetime as dt
import sys
from typing import Any

from everycall import limits
from everycall._capture.classes import is_exported, is_library_zone, module_of, name_of

__all__ = ["UNKNOWN", "numpy_value", "pandas_value", "polars_value"]

UNKNOWN: Any = object()
"""What these functions return for a value that they cannot show."""
_OWN_ARRAYS = ("numpy", "pandas")


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
    if name in ("DataFrame", "Series") and not _is_readable(value):
        return f"<{name} of shape {value.shape}>", max(len(value), 1)
    if name == "DataFrame":
        rows, columns = value.shape
        head = value.iloc[: limits.CAPTURE_ROWS_MAX, : limits.CAPTURE_COLUMNS_MAX]
        labels = list(head.columns)
        cells = [_cells(head.iloc[:, number].array) for number in range(len(labels))]
        table, left_out = _table(name, (rows, columns), labels, cells)
        return {**table, **_index(head)}, left_out
    if name == "Series":
        left_out = max(len(value) - limits.CAPTURE_ROWS_MAX, 0)
        cells = _cells(value.iloc[: limits.CAPTURE_ROWS_MAX].array)
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


def _cells(array: Any) -> list[Any]:
    """Return the cells of a column. A missing one is None, except that a number may be NaN."""
    if name_of(type(array)) == "NumpyExtensionArray":
        return list(array)
    return [None if is_missing else cell for cell, is_missing in zip(array, array.isna(), strict=True)]


def _is_readable(value: Any) -> bool:
    """Return whether reading rows runs the library's code alone.

    Columns and labels of an extension type run that type's code, and pandas copies `attrs` with every slice.
    """
    labels = [value.index] if name_of(type(value)) == "Series" else [value.index, value.columns]
    levels = [level for index in labels for level in getattr(index, "levels", [index])]
    arrays = [*(block.values for block in value._mgr.blocks), *(level.array for level in levels)]
    return not value.attrs and all(module_of(type(array)).partition(".")[0] in _OWN_ARRAYS for array in arrays)


def _index(head: Any) -> dict[str, Any]:
    """Return the labels of rows that are more than their numbers."""
    if type(head.index).__name__ == "RangeIndex":
        return {}
    return {"index": list(head.index)}


def _timestamp(value: Any) -> str:
    zone = dt.datetime.tzinfo.__get__(value)
    known = zone is None or type(zone) is dt.timezone or is_library_zone(type(zone))
    if known or module_of(type(zone)) in ("pytz", "pytz.tzfile"):
        return str(value.isoformat())
    return f"{value.replace(tzinfo=None).isoformat()} <{name_of(type(zone))}>"  # asking the zone would run user code
