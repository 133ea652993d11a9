"""Plain JSON values from the objects of a client library, with media replaced by references.

Integrations use it to read requests and responses. Members are read one by one, without pydantic's `model_dump`, which
costs more than the rest of a record. Base64 becomes `<image/png, 1234 bytes, sha256 ...>`: enough to find the file
again, and small enough to keep.
"""

from __future__ import annotations

import binascii
import hashlib
from collections.abc import Mapping
from typing import Any, Final

from everycall import limits
from everycall._usage.reports import members

__all__ = [
    "Base64Buffer",
    "get_member",
    "media_reference",
    "media_type_of",
    "members",
    "nonempty_text",
    "to_plain",
    "to_plain_messages",
]

_SCALARS: Final = frozenset({str, int, float, bool, type(None)})
BASE64_MEMBERS: Final = frozenset(
    {
        *("data", "file_data", "result", "b64_json", "partial_image_b64", "image_bytes"),
        *("signature", "encrypted_content", "encrypted_index"),
    }
)
"""Members whose text may be base64: audio, files, generated images, and encrypted reasoning."""
_MEDIA_TYPE_MEMBERS: Final = ("media_type", "mime_type", "mimeType")
_BASE64_CHARS_MIN: Final = 256
"""A shorter text of such a member is kept as it is."""
_DATA_URL_HEAD_CHARS: Final = 4_096
_URL_SAFE_ALPHABET: Final = str.maketrans("-_", "+/")


def get_member(value: object, name: str) -> Any:
    """Return a member of a JSON object or of a library's object; None if it has no such member."""
    if type(value) is dict:
        return value.get(name)
    stored = getattr(value, "__dict__", None)
    if stored is None:
        return None
    member = stored.get(name)
    if member is None:  # members that this version of the library does not declare; getattr() would raise, slowly
        extra = getattr(value, "__pydantic_extra__", None)
        return extra.get(name) if extra else None
    return member


def nonempty_text(value: object) -> str | None:
    """Return a non-empty text; None for anything else."""
    return value if isinstance(value, str) and value else None


def to_plain(value: Any, depth: int = 0, *, keep_none: bool = True) -> Any:
    """Return a value as plain JSON, with media by reference and without the None members of a library's objects.

    With `keep_none` false, None members of JSON objects are left out too, so that objects of either kind give the same.
    Values that are neither JSON nor the library's are returned as they are: capture renders and bounds them later.
    """
    kind = type(value)
    if kind in _SCALARS or depth > limits.CAPTURE_DEPTH_MAX:
        return value
    if kind is list or kind is tuple:
        # A list that starts with a number holds tokens or an embedding. Its items need no look.
        if value and type(value[0]) in _SCALARS and type(value[0]) is not str:
            return value
        return [to_plain(item, depth + 1, keep_none=keep_none) for item in value]
    if kind is dict:
        return _plain_members(value, depth, keep_none)
    stored = getattr(value, "__dict__", None)
    if stored is None or not hasattr(kind, "model_fields_set"):
        return value
    extra = getattr(value, "__pydantic_extra__", None)
    return _plain_members({**stored, **extra} if extra else stored, depth, False, keep_none)


def to_plain_messages(messages: object) -> list[Any]:
    """Return the messages of a request as plain JSON. A single message, or anything else, becomes a list of one."""
    return [_plain_message(item) for item in messages] if isinstance(messages, list) else [to_plain(messages)]


def _plain_message(message: object) -> Any:
    """Return a message as plain JSON; the same object in the most common case, a role and a text."""
    if type(message) is dict and type(message.get("content")) is str and len(message) == 2:
        return message
    return to_plain(message)


def _plain_members(
    values: Mapping[str, Any], depth: int, keep_own_none: bool, keep_none: bool | None = None
) -> dict[str, Any]:
    """Return members as plain JSON. `keep_own_none` is for these members, `keep_none` for those of values below."""
    plain = {}
    if keep_none is None:
        keep_none = keep_own_none
    for name, item in values.items():
        kind = type(item)
        if item is None and not keep_own_none:
            continue
        if kind is bytes:
            plain[name] = _describe(item, media_type_of(values) or "bytes")
        elif kind is not str:
            plain[name] = to_plain(item, depth + 1, keep_none=keep_none)
        elif item.startswith("data:") and name not in ("text", "content"):
            plain[name] = media_reference(item)
        elif name in BASE64_MEMBERS and len(item) >= _BASE64_CHARS_MIN:
            plain[name] = media_reference(item, media_type_of(values) or "base64")
        else:
            plain[name] = item
    return plain


def media_type_of(values: Mapping[str, Any]) -> str | None:
    """Return the media type in an object with media. For audio, it follows from `format` or `transcript`."""
    for name in _MEDIA_TYPE_MEMBERS:
        if isinstance(media_type := values.get(name), str):
            return media_type
    if "transcript" in values:
        return "audio"
    audio_format = values.get("format")
    if not isinstance(audio_format, str) or str(values.get("type")).startswith("reasoning"):
        return None  # OpenRouter's reasoning has a format too
    return f"audio/{audio_format}"


def _describe(data: bytes, media_type: str) -> str:
    if len(data) > limits.MEDIA_HASH_BYTES_MAX:
        return f"<{media_type}, {len(data)} bytes>"
    return f"<{media_type}, {len(data)} bytes, sha256 {hashlib.sha256(data).hexdigest()}>"


class Base64Buffer:
    """Base64 that arrives in pieces. It is decoded and hashed as it arrives, so that long media need little memory."""

    __slots__ = ("_chars", "_digest", "_is_base64", "_rest", "_size", "_text")

    def __init__(self) -> None:
        self._text: list[str] = []
        self._chars = 0
        self._rest = ""  # not decoded yet
        self._size = 0
        self._digest = hashlib.sha256()
        self._is_base64 = True

    def add(self, piece: str) -> None:
        """Add a piece. Pieces may be cut anywhere, and each may end with padding."""
        if self._chars <= limits.FIELD_BYTES_MAX:  # for a text that turns out not to be base64
            self._text.append(piece)
        self._chars += len(piece)
        encoded = self._rest + piece
        end = len(encoded) - len(encoded) % 4
        self._rest = encoded[end:]
        try:
            data = _decode(encoded[:end])
        except (binascii.Error, ValueError):
            self._is_base64 = False
            return
        self._size += len(data)
        if self._size <= limits.MEDIA_HASH_BYTES_MAX:
            self._digest.update(data)

    def value(self, media_type: str = "base64") -> str:
        """Return the text if it is short or not base64, else a reference such as `media_reference` returns."""
        if not self._is_base64 or self._chars < _BASE64_CHARS_MIN:
            return "".join(self._text)
        try:
            last = _decode(self._rest)
        except (binascii.Error, ValueError):
            last = b""
        size, digest = self._size + len(last), self._digest.copy()
        if size > limits.MEDIA_HASH_BYTES_MAX:
            return f"<{media_type}, {size} bytes>"
        digest.update(last)
        return f"<{media_type}, {size} bytes, sha256 {digest.hexdigest()}>"


def _decode(encoded: str, *, strict: bool = True) -> bytes:
    """Decode base64 in either alphabet, with or without padding. Raises `ValueError` for anything else.

    Strict by default: prose would decode too if characters outside the alphabet were skipped.
    """
    if "-" in encoded or "_" in encoded:  # the URL-safe alphabet, which Google's client sends
        encoded = encoded.translate(_URL_SAFE_ALPHABET)
    return binascii.a2b_base64(encoded + "=" * (-len(encoded) % 4), strict_mode=strict)


def media_reference(media: str, media_type: str = "base64") -> str:
    """Return a reference to media: its type, its size in bytes, and its SHA-256 up to `limits.MEDIA_HASH_BYTES_MAX`.

    `media` is a `data:` URL or base64. A `data:` URL that is not base64 is returned as it is.
    """
    start = 0
    if media.startswith("data:"):
        head, comma, _ = media[:_DATA_URL_HEAD_CHARS].partition(",")
        if not comma or not head.endswith(";base64"):
            return media
        start = len(head) + 1
        media_type = head[len("data:") : -len(";base64")] or "text/plain"
    padding = 2 if media.endswith("==") else 1 if media.endswith("=") else 0
    size = (len(media) - start) * 3 // 4 - padding
    if size > limits.MEDIA_HASH_BYTES_MAX:
        return f"<{media_type}, {size} bytes>"
    try:
        data = _decode(media[start:], strict=start == 0)
    except (binascii.Error, ValueError):
        return media if start == 0 else f"<{media_type}, not base64>"
    return _describe(data, media_type)
