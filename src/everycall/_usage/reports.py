"""Reads the members of a report or of a response, whatever class a client library gave it."""

from __future__ import annotations

from typing import Any

__all__ = ["members"]


def members(value: Any) -> dict[str, Any]:
    """Return the members of a JSON object or of a library's object; empty for anything else. Read-only."""
    if type(value) is dict:
        return value
    stored: dict[str, Any] | None = getattr(value, "__dict__", None)
    if stored is None:
        return {}
    extra = getattr(value, "__pydantic_extra__", None)
    return {**stored, **extra} if extra else stored
