"""What every record passes before it is written or sent: the mask, and the bounds of its fields. Calls use it.

Omitting comes first (`everycall.record.omit`). A mask that fails never lets a field through: the field is replaced.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import Raw

from everycall import _guard, limits
from everycall._capture.serialize import cut_text
from everycall.record import (
    ABSENT,
    CONTENT_FIELDS,
    Cut,
    Record,
    decode,
    encode,
)
from everycall.settings import Mask

__all__ = ["Draft", "encode_within", "limit", "mask_and_limit", "mask_record"]

Draft = dict[str, Any]
"""A record under construction: field name -> value as `Record` takes it. Fields that are absent are not in it."""

MASK_FAILED = "<masked: the mask function raised>"
_TEXT_FIELDS = ("content", "error")
_LABEL_FIELDS = ("name", "trace_name", "end_user_identifier", "session_id")
_ID_FIELDS = frozenset({"trace_id", "end_user_identifier", "session_id", "deployment_id"})
_SHORT = min(limits.ID_CHARS_MAX, limits.NAME_CHARS_MAX, limits.ERROR_CHARS_MAX)
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


def mask_record(record: Record, mask: Mask) -> Record:
    """Pass every field that may hold content or a name through the user's `mask(field, value)`, once each.

    A mask that raises, or returns what is not JSON, has its field replaced by `MASK_FAILED`, and the failure is counted
    under "mask": it fails closed. What it returns is cut to the fields' bounds again.

    A mask with a method `mask_json(field, raw) -> bytes | None` is given the JSON fields as they are encoded (UTF-8,
    only what must be escaped is) and returns the JSON to keep, or None to leave a field as it is; so a mask that finds
    nothing costs no decoding. `everycall.masks` has it.
    """
    masked: Draft = {}
    for name in CONTENT_FIELDS:
        value = getattr(record, name)
        if value is None or value is ABSENT:
            continue
        if name == "content":
            result = _masked(mask, name, value)
            masked[name] = None if result is None else _text(result)
        else:
            masked[name] = _masked_raw(mask, name, value)
    for name in ("error", *_LABEL_FIELDS):
        value = getattr(record, name)
        if value:
            masked[name] = _text(_masked(mask, name, value))
    if record.tags:
        tags = _masked(mask, "tags", list(record.tags))
        masked["tags"] = [_text(tag) for tag in tags] if isinstance(tags, list) else [_text(tags)]
    return msgspec.structs.replace(record, **limit({"truncated": record.truncated, **masked}))


def _masked(mask: Mask, name: str, value: Any) -> Any:
    try:
        return mask(name, value)
    except Exception as error:  # noqa: BLE001 - a user's function; what it could not mask is replaced
        _guard.report("mask", error)
        return MASK_FAILED


def _masked_raw(mask: Mask, name: str, value: Raw) -> Raw:
    try:
        mask_json: Callable[[str, bytes], bytes | None] | None = getattr(mask, "mask_json", None)
        if mask_json is None:
            return Raw(_encode(mask(name, _decode(value))))
        masked = mask_json(name, bytes(value))
        if masked is None:
            return value
        _decode(masked)  # invalid JSON would make the whole record invalid
        return Raw(masked)
    except Exception as error:  # noqa: BLE001 - a user's function; what it could not mask is replaced
        _guard.report("mask", error)
        return Raw(_encode(MASK_FAILED))


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    _guard.report("mask", TypeError("no text"))
    return MASK_FAILED


def limit(draft: Draft, field_bytes_max: int = limits.FIELD_BYTES_MAX) -> Draft:
    """Cut each field that is longer than its bound: its head and tail stay, `truncated` says what went."""
    for name, value in list(draft.items()):
        if value is None or value is ABSENT:
            continue
        kind = type(value)
        if kind is Raw:
            if len(memoryview(value)) > field_bytes_max:
                draft[name] = _cut_raw(draft, name, value, field_bytes_max)
        elif kind is str:
            if len(value) > _SHORT:
                _limit_text(draft, name, value, field_bytes_max)
        elif name == "tags":
            draft[name] = [tag[: limits.NAME_CHARS_MAX] for tag in value[: limits.TAGS_MAX]]
    return draft


def _limit_text(draft: Draft, name: str, value: str, field_bytes_max: int) -> None:
    if name == "content" or name == "error":
        bound = field_bytes_max if name == "content" else limits.ERROR_CHARS_MAX
        shortened, cut = cut_text(value, bound)
        if cut is not None:
            draft[name] = shortened
            _note(draft, name, cut)
    elif name in _ID_FIELDS:
        draft[name] = value[: limits.ID_CHARS_MAX]
    elif len(value) > limits.NAME_CHARS_MAX:
        draft[name] = value[: limits.NAME_CHARS_MAX - 1] + "…"


def _note(draft: Draft, name: str, cut: Cut) -> None:
    draft["truncated"] = {**draft.get("truncated", {}), name: cut}


def _cut_raw(draft: Draft, name: str, value: Raw, bytes_max: int) -> Raw:
    """Cut a JSON field: it becomes a text that holds the head and the tail of its JSON."""
    whole = bytes(value)
    text, _ = cut_text(whole.decode("utf-8"), max(bytes_max // 2, 1_024))
    raw = Raw(_encode(text))
    _note(draft, name, Cut(kept=len(memoryview(raw)), bytes=len(whole), sha256=hashlib.sha256(whole).hexdigest()))
    return raw


def mask_and_limit(line: bytes, mask: Mask | None) -> bytes:
    """Return a record's line, masked and within its bounds. Few lines need either."""
    record = decode(line)
    if mask is not None:
        record = mask_record(record, mask)
    return encode_within(record)


def encode_within(record: Record, bytes_max: int = limits.RECORD_BYTES_MAX) -> bytes:
    """Return a record's line, with content fields cut if they or the whole line exceed their bounds."""
    draft = {name: getattr(record, name) for name in (*CONTENT_FIELDS, "error", "truncated")}
    room = limits.FIELD_BYTES_MAX
    while True:
        line = encode(msgspec.structs.replace(record, **limit(draft, room)))
        if len(line) <= bytes_max or room < 1_024:
            return line
        room //= 4
