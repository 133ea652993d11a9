"""Provider bodies as plain values: JSON with bad characters repaired, so that one of them costs no answer."""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec

from everycall.server.gateway.provider_response import ProviderError

__all__ = ["TextJoiner", "decode_object", "decode_response", "repaired"]

_SURROGATE = re.compile("[\ud800-\udfff]")
_HIGH = re.compile("[\ud800-\udbff]\\Z")


def decode_response(data: bytes, provider: str) -> dict[str, Any]:
    """Return a provider's whole response, a JSON object with whole characters. Raise `ProviderError`."""
    try:
        body = msgspec.json.decode(data)  # which accepts whole characters alone
    except (msgspec.DecodeError, UnicodeDecodeError):
        body = repaired(decode_object(data, provider))
    if not isinstance(body, dict):
        raise _no_object(provider)
    return body


def decode_object(data: bytes, provider: str) -> dict[str, Any]:
    """Return the JSON object of a provider's event. Raise `ProviderError` if it is not one.

    Half a surrogate pair stays half, for `TextJoiner` or `repaired`. Bytes that are not UTF-8 become U+FFFD.
    """
    try:
        body = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        try:
            body = json.loads(data.decode("utf-8", "replace"), strict=False)
        except (ValueError, RecursionError):
            body = None
    if not isinstance(body, dict):
        raise _no_object(provider)
    return body


def _no_object(provider: str) -> ProviderError:
    return ProviderError("InvalidAnswer", None, f"the answer of {provider} is not a JSON object")


def repaired(value: Any) -> Any:
    """Return a JSON value whose strings have whole characters: two halves are joined, a single one becomes U+FFFD."""
    if isinstance(value, str):
        if not _SURROGATE.search(value):
            return value
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if isinstance(value, dict):
        return {repaired(name): repaired(item) for name, item in value.items()}
    if isinstance(value, list):
        return [repaired(item) for item in value]
    return value


class TextJoiner:
    """Joins the chunks of one text. A character whose halves are in two chunks is given with the second one."""

    def __init__(self) -> None:
        self.chunks: list[str] = []
        self._half = ""

    def add(self, chunk: str) -> str:
        """Add a chunk and return the text that is complete now."""
        if self._half:
            chunk, self._half = self._half + chunk, ""
        if _HIGH.search(chunk):
            chunk, self._half = chunk[:-1], chunk[-1]
        chunk = repaired(chunk)
        if chunk:
            self.chunks.append(chunk)
        return chunk

    def end(self) -> str:
        """Return what was held back: U+FFFD for half a character whose other half never came."""
        half, self._half = repaired(self._half), ""
        if half:
            self.chunks.append(half)
        return str(half)

    @property
    def text(self) -> str:
        """All of the text, as far as it has arrived."""
        return "".join(self.chunks)
