"""Which traces are recorded when only a share is: one decision for the SDK and the server.

It depends on the trace's id alone, so every process and every server decides alike, and a trace is recorded as a whole
or not at all.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

__all__ = ["is_sampled", "trace_id_hex"]

_HEX32: Final = re.compile(r"[0-9a-f]{32}\Z")
_UUID: Final = re.compile(r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}\Z")
_ZERO: Final = "0" * 32


def trace_id_hex(text: str) -> str:
    """Return a trace id as 32 hex digits: such digits and UUIDs as they are, any other text as `sha256(text)[:16]`."""
    if _HEX32.match(text) and text != _ZERO:
        return text
    if _UUID.match(text):
        digits = text.replace("-", "").lower()
        if digits != _ZERO:
            return digits
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:32]


def is_sampled(trace_id: str, rate: float | None) -> bool:
    """Return whether a trace is recorded at a rate from 0.0 to 1.0; None records all.

    `trace_id` is the id as the user gave it, or its 32 hex digits: the answer is the same.
    """
    if rate is None or rate >= 1.0:
        return True
    digest = hashlib.sha256(trace_id_hex(trace_id).encode("ascii")).digest()
    return int.from_bytes(digest[:7], "big") < rate * 2**56
