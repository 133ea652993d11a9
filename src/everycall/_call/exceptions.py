"""What a record says about an exception: its type, text, place and traceback.

`__str__` and formatting run the user's code, so everything here catches what they raise. Results are bounded.
"""

from __future__ import annotations

import traceback

from everycall import limits
from everycall._call.context import clipped

__all__ = ["Identity", "holds", "identity", "location", "message", "stacktrace", "type_name"]

Identity = tuple[int, type, str | None]
"""Identifies an exception without keeping it (and its frames) alive: its `id()`, type and place."""


def type_name(error: BaseException) -> str:
    """Return the qualified name of its class."""
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def message(error: BaseException) -> str:
    """Return its text; a `__str__` that raises gives none."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - the user's code
        return "<no text: __str__ raised>"
    return clipped(text, limits.ERROR_CHARS_MAX // 2)


def location(error: BaseException) -> str | None:
    """Return the code location of an error, as `module:line`; None if it was never raised."""
    trace = error.__traceback__
    if trace is None:
        return None
    while trace.tb_next is not None:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_globals.get('__name__', '?')}:{trace.tb_lineno}"


def identity(error: BaseException) -> Identity:
    """Return what identifies an exception for `holds`."""
    return id(error), type(error), location(error)


def holds(error: BaseException, identities: tuple[Identity, ...]) -> bool:
    """Return whether an error is one of these, was raised from one, or is a group that contains one.

    Also return True if there are too many to check (`limits.ERRORS_WITHHELD_MAX`): in doubt the text is omitted.
    """
    if not identities:
        return False
    unchecked: list[BaseException | None] = [error]
    for _ in range(limits.ERRORS_WITHHELD_MAX):
        if not unchecked:
            return False
        candidate = unchecked.pop()
        if candidate is not None:
            if identity(candidate) in identities:
                return True
            unchecked += (candidate.__context__, candidate.__cause__)
            if isinstance(candidate, BaseExceptionGroup):
                unchecked += candidate.exceptions
    return bool(unchecked)


def stacktrace(error: BaseException) -> str:
    """Return the end of its traceback, as Python prints it."""
    try:
        lines = traceback.format_exception(type(error), error, error.__traceback__, limit=-20)
    except Exception:  # noqa: BLE001 - formatting runs the user's code
        return "<no traceback: formatting raised>"
    text = "".join(lines)
    return text if len(text) <= limits.ERROR_CHARS_MAX else text[-limits.ERROR_CHARS_MAX :]
