"""Reads members of a report or an answer, whatever object a library made of it."""

from __future__ import annotations

from typing import Any

__all__ = ["members"]


def members(value: Any) -> dict[str, Any]:
    """Return the members of an object of the library's or of a JSON object, for reading; none of anything else."""
    if type(value) is dict:
        return value
    stored: dict[str, Any] | None = getattr(value, "__dict__", None)
    if stored is None:
        return {}
    extra = getattr(value, "__pydantic_extra__", None)
    return {**stored, **extra} if extra else stored
