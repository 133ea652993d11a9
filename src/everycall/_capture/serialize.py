"""Values to JSON as they were at call time, bounded in bytes, values and depth.

Plain values (text, numbers, lists and dicts of them) are walked once against a budget and encoded by the codec. Others
are rendered by `render`. Values that JSON does not have change: integers beyond 64 bits become
text, NaN and the infinities `"nan"`, `"inf"`, `"-inf"`, lone surrogates `\\udXXX`, tuples and sets lists, keys text;
bytes become a marker in angle brackets, secrets of pydantic asterisks. Objects of plain classes show the public
attributes that they store, without those under a secret's name; data frames their first rows; other objects a marker.
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
from msgspec import Raw

from everycall import limits
from everycall._capture.render import Walk, name_of, plain_text
from everycall.record import ABSENT, Cut

__all__ = ["capture", "capture_by_hand", "capture_plain", "cut_text", "plain_text"]

_encode = msgspec.json.Encoder().encode
_HASH_BYTES_MAX = 8 * limits.MIB


def capture(value: Any) -> tuple[Raw, Cut | None]:
    """Return a value as JSON, and what was cut from it (None when nothing was).

    Never raises for any value, never runs a user's code. Bounded by `limits.CAPTURE_NODES_MAX` and
    `limits.CAPTURE_DEPTH_MAX` (and so in time: 40 ms is the worst that was seen) and by `limits.FIELD_BYTES_MAX`.
    """
    raw = capture_plain(value)
    return (raw, None) if raw is not None else capture_by_hand(value)


def capture_plain(value: Any) -> Raw | None:
    """Return a plain value, of JSON's own types and within the budget, as JSON; None for any other."""
    kind = type(value)
    try:
        if kind is str:
            if len(value) <= limits.CAPTURE_TEXT_MAX:
                return Raw(_encode(value))
        elif value is None:
            return ABSENT
        elif kind is dict or kind is list or kind is tuple:
            if _fits(value):
                data = _encode(value)
                if len(data) <= limits.FIELD_BYTES_MAX:
                    return Raw(data)
        elif kind is bool or (kind is int and -(2**63) <= value < 2**63) or (kind is float and value - value == 0.0):
            return Raw(_encode(value))
    except (ValueError, TypeError, RuntimeError, OverflowError, MemoryError):
        pass  # a surrogate, or a concurrent change by another thread: use the slow path
    return None


def _fits(value: Any) -> bool:
    """Return whether a container has only plain values, within the budget. Runs no user code."""
    nodes = characters = depth = 0
    level: list[Any] = [value]
    while level:
        depth += 1
        below: list[Any] = []
        for container in level:
            size = len(container)
            nodes += size
            if nodes > limits.CAPTURE_NODES_MAX or (size and depth >= limits.CAPTURE_DEPTH_MAX):
                return False
            # the codec looks at an object's keys, and declines what is neither text nor number
            for item in container.values() if type(container) is dict else container:
                kind = type(item)
                if kind is str:
                    characters += len(item)
                elif kind is dict or kind is list or kind is tuple:
                    below.append(item)
                elif kind is int:
                    if not -(2**63) <= item < 2**63:
                        return False
                elif kind is float:
                    if item - item != 0.0:
                        return False
                elif item is not None and kind is not bool:
                    return False
        if characters > limits.CAPTURE_TEXT_MAX:
            return False
        level = below
    return True


def capture_by_hand(value: Any) -> tuple[Raw, Cut | None]:
    """Capture a value that is not plain: rendered, once more with less room if its JSON came out too long."""
    kind = type(value)
    data, room, cut = b"", limits.FIELD_BYTES_MAX, None
    try:
        while room >= limits.KIB:
            if issubclass(kind, str):
                text, cut = cut_text(str.__str__(value), room)
                data = _encode(plain_text(text))
            else:
                walk = Walk(room)
                data = _encode(walk.render(value, 0))
                cut = walk.note(len(data))
            if len(data) <= limits.FIELD_BYTES_MAX:
                break
            room = room * limits.FIELD_BYTES_MAX // len(data) * 7 // 8
    except Exception as error:  # noqa: BLE001 - the last resort: a marker is better than no record
        data = _encode(f"<{name_of(kind)}: not captured ({type(error).__name__})>")
        cut = Cut(kept=len(data))
    return Raw(data), cut


def cut_text(text: str, bytes_max: int) -> tuple[str, Cut | None]:
    """Keep a text within a bound: its head and tail with a mark between, and the sizes and hash of the whole."""
    if len(text) * 4 <= bytes_max:
        return text, None
    small = len(text) <= _HASH_BYTES_MAX
    whole = text.encode("utf-8", "backslashreplace") if small else None
    if whole is not None and len(whole) <= bytes_max:
        return text, None
    room = max(bytes_max - 64, 64) // (1 if text.isascii() else 4)
    head, tail = text[: room * 2 // 3], text[len(text) - room // 3 :]
    shortened = f"{head}\n[... {len(text) - len(head) - len(tail)} characters cut ...]\n{tail}"
    size = len(whole) if whole is not None else (len(text) if text.isascii() else None)
    digest = hashlib.sha256(whole).hexdigest() if whole is not None else None
    return shortened, Cut(kept=len(shortened.encode("utf-8", "backslashreplace")), bytes=size, sha256=digest)
