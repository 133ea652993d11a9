"""Attributes by which records of foreign spans are joined, and the flags that leave content out.

Only everycall writes the marks: if a sender sets an attribute with such a name, it is ignored.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

__all__ = [
    "ANSWER",
    "DIALECT",
    "HALF",
    "LOG_EVENTS",
    "MARKS",
    "OMIT",
    "PARTIAL",
    "RESERVED",
    "SPAN_NAME",
    "dialect_of",
    "joined_flags",
    "omit_flags",
]

DIALECT: Final = "everycall.dialect"
"""The vocabulary of the span."""
ANSWER: Final = "everycall.answer"
"""Stands for the id of an answer that has none; the store sets it for two records of one answer."""
HALF: Final = "everycall.half"
"""The other half of a call that comes in two spans: `{"key", "at", "answer"}`."""
OMIT: Final = "everycall.omit"
"""What the flags of a span leave out, of itself and below it: a list of `inputs`, `outputs`, `all`."""
SPAN_NAME: Final = "everycall.span_name"
"""The span's own name, if the record's name was made from content. It replaces that name where content is left out."""
PARTIAL: Final = "everycall.partial"
"""True while only log records of a span have arrived: the span fills in the rest."""
LOG_EVENTS: Final = "everycall.log_events"
"""The log records of a span whose messages come one by one."""
MARKS: Final = frozenset({ANSWER, DIALECT, HALF, OMIT, SPAN_NAME})
"""The marks that hold no content: they stay where content is left out."""
RESERVED: Final = MARKS | {PARTIAL, LOG_EVENTS}


class _Marks(msgspec.Struct):
    dialect: str | None = msgspec.field(default=None, name=DIALECT)


_DIALECT_BYTES: Final = DIALECT.encode()
_marks = msgspec.json.Decoder(_Marks)

_FLAGS: Final = {
    "everycall.log_omit": "all",
    "everycall.log_omit_inputs": "inputs",
    "everycall.log_omit_outputs": "outputs",
}
_OFF: Final = frozenset({"", "0", "0.0", "false", "no", "off", "none", "null"})


def dialect_of(attributes: bytes) -> str | None:
    """Return the dialect in a record's attributes as JSON; None for a record of everycall itself."""
    if _DIALECT_BYTES not in attributes:
        return None
    try:
        return _marks.decode(attributes).dialect
    except (msgspec.MsgspecError, RecursionError):
        return None


def omit_flags(*attributes: Mapping[str, Any]) -> list[str]:
    """Return what flags in any of these attributes leave out, sorted: `all`, `inputs`, `outputs`.

    Any value that does not clearly mean no sets a flag: `true`, `"True"`, `1`, `"yes"`, and unexpected values too.
    """
    if all(_FLAGS.keys().isdisjoint(values) for values in attributes):  # the usual case
        return []
    return sorted({side for name, side in _FLAGS.items() if any(_is_on(values.get(name)) for values in attributes)})


def joined_flags(values: Iterable[Any]) -> list[str]:
    """Return the flags of several `OMIT` marks together, sorted."""
    return sorted({flag for value in values if isinstance(value, list) for flag in value if isinstance(flag, str)})


def _is_on(value: Any) -> bool:
    return value is not None and str(value).strip().lower() not in _OFF
