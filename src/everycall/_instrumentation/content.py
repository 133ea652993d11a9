"""Values of requests and answers as plain ones, media by reference. Layer 3; the integrations' part of the seam.

Answers are read member by member, without `model_dump`, which costs more than the rest of a record. What is base64 on
the wire becomes `<image/png, 1234 bytes, sha256 ...>`: enough to find the file again, and small enough to keep.
"""

from __future__ import annotations

import binascii
import hashlib
from collections.abc import Mapping
from typing import Any, Final

from everycall import limits
from everycall._usage.reports import members

__all__ = ["members", "plain", "plain_messages", "read", "reference", "text"]

_SCALARS: Final = frozenset({str, int, float, bool, type(None)})
_BASE64_KEYS: Final = frozenset(
    {
        *("data", "file_data", "result", "b64_json", "partial_image_b64", "image_bytes"),
        *("signature", "encrypted_content", "encrypted_index"),
    }
)
"""Members that hold base64 without saying so: of audio, files, images that a model made, and thoughts in cipher."""
_TYPE_KEYS: Final = ("media_type", "mime_type", "mimeType")
_BASE64_CHARS_LEAST: Final = 256
_HEAD: Final = 4_096
_OF_ADDRESSES: Final = str.maketrans("-_", "+/")


def read(value: Any, name: str) -> Any:
    """Return a member of an object of the library's or of a JSON object; None when there is none."""
    if type(value) is dict:
        return value.get(name)
    stored = getattr(value, "__dict__", None)
    if stored is None:
        return None
    found = stored.get(name)
    if found is None:  # what the library's version does not declare; asking the object itself would raise, slowly
        extra = getattr(value, "__pydantic_extra__", None)
        return extra.get(name) if extra else None
    return found


def text(value: Any) -> str | None:
    """Return a text that is not empty; None for anything else."""
    return value if isinstance(value, str) and value else None


def plain(value: Any, depth: int = 0) -> Any:
    """Return a value as plain JSON values: media by reference, members of the library's objects that are None left out.

    What is neither JSON nor the library's stays as it is: everycall's capture renders and bounds it.
    """
    kind = type(value)
    if kind in _SCALARS or depth > limits.CAPTURE_DEPTH_MAX:
        return value
    if kind is list or kind is tuple:
        # A list that begins with a number is data, such as tokens or an embedding: not worth a look at each item.
        if value and type(value[0]) in _SCALARS and type(value[0]) is not str:
            return value
        return [plain(item, depth + 1) for item in value]
    if kind is dict:
        return _members(value, depth)
    stored = getattr(value, "__dict__", None)
    if stored is None or not hasattr(kind, "model_fields_set"):
        return value
    extra = getattr(value, "__pydantic_extra__", None)
    members = {**stored, **extra} if extra else stored
    return _members({name: item for name, item in members.items() if item is not None}, depth)


def plain_messages(messages: Any) -> list[Any]:
    """Return the messages of a request as plain values; in a list too where there is one alone, or something else."""
    return [_message(item) for item in messages] if isinstance(messages, list) else [plain(messages)]


def _message(item: Any) -> Any:
    """Return a message with its media by reference: the very object, in the most common case that it has none."""
    if type(item) is dict and type(item.get("content")) is str and len(item) == 2:
        return item
    return plain(item)


def _members(members: Mapping[str, Any], depth: int) -> dict[str, Any]:
    shown = {}
    for name, item in members.items():
        kind = type(item)
        if kind is bytes:
            shown[name] = _described(item, _media_type(members) or "bytes")
        elif kind is not str:
            shown[name] = plain(item, depth + 1)
        elif item.startswith("data:") and name not in ("text", "content"):
            shown[name] = reference(item)
        elif name in _BASE64_KEYS and len(item) >= _BASE64_CHARS_LEAST:
            shown[name] = reference(item, _media_type(members) or "base64")
        else:
            shown[name] = item
    return shown


def _media_type(members: Mapping[str, Any]) -> str | None:
    """Return what the members beside some media say of its type; sound has a format only."""
    for key in _TYPE_KEYS:
        if isinstance(given := members.get(key), str):
            return given
    given = members.get("format")
    return f"audio/{given}" if isinstance(given, str) else None


def _described(data: bytes, media_type: str) -> str:
    if len(data) > limits.MEDIA_HASH_BYTES_MAX:
        return f"<{media_type}, {len(data)} bytes>"
    return f"<{media_type}, {len(data)} bytes, sha256 {hashlib.sha256(data).hexdigest()}>"


def reference(media: str, media_type: str = "base64") -> str:
    """Return what stands for media: its type, size in bytes, and the SHA-256 of its bytes where it is not too large.

    `media` is a `data:` URL or bare base64. What is not base64 is returned as it is.
    """
    start = 0
    if media.startswith("data:"):
        head, comma, _ = media[:_HEAD].partition(",")
        if not comma or not head.endswith(";base64"):
            return media
        start = len(head) + 1
        media_type = head[len("data:") : -len(";base64")] or "text/plain"
    size = (len(media) - start) * 3 // 4 - (2 if media.endswith("==") else 1 if media.endswith("=") else 0)
    if size > limits.MEDIA_HASH_BYTES_MAX:
        return f"<{media_type}, {size} bytes>"
    coded = media[start:]
    if "-" in coded or "_" in coded:  # the alphabet for addresses, in which Google's client sends media
        coded = coded.translate(_OF_ADDRESSES)
    try:
        # Bare text may be anything: prose too would decode, were what is not of the alphabet passed over.
        data = binascii.a2b_base64(coded, strict_mode=start == 0)
    except (binascii.Error, ValueError):
        return media if start == 0 else f"<{media_type}, not base64>"
    return _described(data, media_type)
