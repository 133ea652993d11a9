"""Names of functions and ids of tool calls that a provider accepts, and the way back."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["NAME_CHARS_MAX", "allowed_name", "original_names"]

NAME_CHARS_MAX = 64
_ALLOWED = re.compile(r"[A-Za-z0-9_-]+\Z")
_NOT_ALLOWED = re.compile(r"[^A-Za-z0-9_-]")


def allowed_name(name: str, chars_max: int = NAME_CHARS_MAX) -> str:
    """Return the name if it consists of letters, digits, `_` and `-` within the length; else one that does.

    Different names stay different: a changed name ends with a part of the original's hash.
    """
    if len(name) <= chars_max and _ALLOWED.match(name):
        return name
    digest = hashlib.sha256(name.encode(errors="replace")).hexdigest()[:8]
    return f"{_NOT_ALLOWED.sub('_', name)[: chars_max - 9]}_{digest}"


def original_names(functions: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return the functions' own names by the names that were sent, where these differ."""
    names = (function["name"] for function in functions)
    return {sent: name for name in names if (sent := allowed_name(name)) != name}
