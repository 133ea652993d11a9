"""The content of a message as OpenAI takes it: text, or parts of the kinds that the message's role may have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from everycall.server.gateway.formats.base import check_members, refused
from everycall.server.gateway.formats.media import data_url, is_base64, media_type_of
from everycall.server.problems import ProblemError

__all__ = ["content_parts"]

_IMAGE_TYPES = ("image/png", "image/jpeg", "image/gif", "image/webp")
_DETAILS = ("auto", "low", "high", "original")
_MEMBERS = {
    "image_url": ("url", "detail"),
    "input_audio": ("data", "format"),
    "file": ("file_data", "file_id", "filename"),
}
"""The members of the parts that are objects."""
_KINDS = {
    "system": ("text",),
    "developer": ("text",),
    "tool": ("text",),
    "assistant": ("text", "refusal"),
    "user": ("text", "image_url", "input_audio", "file"),
}


def content_parts(content: Any, role: str, place: str) -> Any:
    """Return a message's content. Raise `ProblemError` 422 that names a part which OpenAI would refuse."""
    if not isinstance(content, list):
        return content if content is not None else ""
    parts = [_part(part, role, f"{place}.content[{index}]") for index, part in enumerate(content)]
    return parts or ""


def _part(part: Mapping[str, Any], role: str, place: str) -> dict[str, Any]:
    if part.get("cache_control"):
        detail = f"{place}.cache_control cannot be sent to OpenAI, which caches by itself: leave it out."
        raise refused(f"{place}.cache_control", "OpenAI takes no cache_control", detail)
    part = _translated(part, place)
    kind = part.get("type", "text")
    if kind not in _KINDS.get(role, ()):
        allowed = ", ".join(_KINDS.get(role, ()))
        detail = f"{place} has the type {str(kind)[:64]!r}; in a message of role {role} it may be {allowed}."
        raise refused(f"{place}.type", "OpenAI does not take this part", detail)
    check_members(part, {"type", kind}, place)
    value = part.get(kind)
    if kind in _MEMBERS:
        if not isinstance(value, Mapping):
            raise refused(f"{place}.{kind}", "A part without its value", f"{place}.{kind} must be an object.")
        check_members(value, _MEMBERS[kind], f"{place}.{kind}")
        value = {name: value[name] for name in _MEMBERS[kind] if value.get(name)}
        _check_value(kind, value, place)
    elif not isinstance(value, str):
        raise refused(f"{place}.{kind}", "A part without its value", f"{place}.{kind} must be a text.")
    return {"type": kind, kind: value}


def _check_value(kind: str, value: Mapping[str, Any], place: str) -> None:
    """Raise `ProblemError` 422 for an image, a file or a sound that OpenAI refuses."""
    if kind == "image_url" and value.get("detail", "auto") not in _DETAILS:
        raise _bad(f"{place}.image_url.detail", "detail", f"it may be {', '.join(_DETAILS)}")
    if kind == "file" and not (value.get("file_data") or value.get("file_id")):
        raise _bad(f"{place}.file", "file", "give file_data as a base64 data URL, or file_id")
    if kind == "input_audio":
        if value.get("format") not in ("wav", "mp3"):
            raise _bad(f"{place}.input_audio.format", "format", "it may be wav or mp3")
        if not is_base64(str(value.get("data") or "")):
            raise _bad(f"{place}.input_audio.data", "sound", "its data is not base64, or empty")


def _bad(field: str, name: str, remedy: str) -> ProblemError:
    return refused(field, f"OpenAI does not take this {name}", f"{field} cannot be sent to OpenAI: {remedy}.")


def _translated(part: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Return a part in OpenAI's form; images and documents may come in Anthropic's."""
    plain = {name: value for name, value in part.items() if name != "cache_control"}
    image = plain.get("image_url")
    if plain.get("type") == "image_url" and image is not None:
        image = dict(image) if isinstance(image, Mapping) else {"url": str(image)}
        image["url"] = _image_url(str(image.get("url", "")), place)
        return {**plain, "image_url": image}
    source = plain.get("source")
    if plain.get("type") in ("image", "document") and isinstance(source, Mapping):
        members = ("type", "source") if plain["type"] == "image" else ("type", "source", "title")
        check_members(plain, members, place)
        if source.get("type") == "url" and plain["type"] == "image":
            return {"type": "image_url", "image_url": {"url": source.get("url")}}
        if source.get("type") == "base64":
            url = f"data:{source.get('media_type')};base64,{source.get('data')}"
            if plain["type"] == "image":
                return {"type": "image_url", "image_url": {"url": _image_url(url, place)}}
            return {"type": "file", "file": {"filename": plain.get("title") or "document.pdf", "file_data": url}}
        detail = f"{place}.source cannot be sent to OpenAI: use base64, or the address of an image."
        raise refused(f"{place}.source", "OpenAI does not take this source", detail)
    return plain


def _image_url(url: str, place: str) -> str:
    """Return an address as it is, and a data URL with the media type's usual name and without its parameters.

    Raise `ProblemError` 422 for anything else, and for a type or data that OpenAI refuses.
    """
    parsed = data_url(url)
    if parsed is None and url.startswith(("http://", "https://")):
        return url
    if parsed is None or media_type_of(parsed[0]) not in _IMAGE_TYPES or not is_base64(parsed[1]):
        remedy = f"use https://, or a base64 data URL of type {', '.join(_IMAGE_TYPES)}"
        raise refused(f"{place}.image_url", "OpenAI does not take this image", f"{place} cannot be sent: {remedy}.")
    return f"data:{media_type_of(parsed[0])};base64,{parsed[1]}"
