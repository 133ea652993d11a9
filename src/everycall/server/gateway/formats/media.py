"""Media in requests: data URLs and their types."""

from __future__ import annotations

import base64
import binascii

__all__ = ["data_url", "is_base64", "media_type_of"]

_USUAL = {"image/jpg": "image/jpeg", "image/pjpeg": "image/jpeg", "image/x-png": "image/png"}


def data_url(url: str) -> tuple[str, str] | None:
    """Return the media type (with its parameters) and the base64 data of a data URL (RFC 2397), or None."""
    head, comma, data = url.partition(",")
    if not comma or head[:5].lower() != "data:" or not head.lower().endswith(";base64"):
        return None
    return head[5 : -len(";base64")], data


def media_type_of(written: str) -> str:
    """Return a media type in lower case, without parameters, and by its usual name."""
    media_type = written.partition(";")[0].strip().lower()
    return _USUAL.get(media_type, media_type)


def is_base64(data: str) -> bool:
    """Return whether a text is base64 with padding (RFC 4648, section 4) and has at least one byte."""
    try:
        return bool(base64.b64decode(data, validate=True))
    except (binascii.Error, ValueError):
        return False
