"""A conversation as Anthropic's messages API takes it: a system prompt, and turns of blocks that alternate.

Neighbouring messages of one side become one turn, so the results of parallel tool calls are together, as the API
demands. Blocks in Anthropic's own form pass as they are.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any

from everycall.server.gateway.formats.base import check_members, refused
from everycall.server.gateway.formats.conversation import arguments_object, paired
from everycall.server.gateway.formats.media import data_url, is_base64, media_type_of
from everycall.server.gateway.formats.names import allowed_name
from everycall.server.problems import ProblemError

__all__ = ["ID_CHARS_MAX", "conversation"]

ID_CHARS_MAX = 128
_IMAGE_TYPES = ("image/jpeg", "image/png", "image/gif", "image/webp")
_DOCUMENT_TYPES = ("application/pdf", "text/plain")
_NATIVE = {
    "system": frozenset[str](),
    "tool": frozenset({"image", "document", "search_result", "tool_reference"}),
    "assistant": frozenset(
        {"thinking", "redacted_thinking", "tool_use", "server_tool_use", "web_search_tool_result", "mcp_tool_use"}
    ),
    "user": frozenset({"image", "document", "search_result", "tool_result", "container_upload"}),
}
"""Anthropic's own blocks that pass as they are, by the side that may have them."""
_MEMBERS = {
    "text": ("text", "citations"),
    "refusal": ("refusal",),
    "image_url": ("image_url",),
    "input_image": ("image_url", "detail"),
    "file": ("file",),
}
"""The members of parts that are translated, besides `cache_control`. Another one would be lost."""

Blocks = list[dict[str, Any]]


def conversation(messages: Sequence[Mapping[str, Any]]) -> tuple[str | Blocks, list[dict[str, Any]]]:
    """Return the system prompt and the turns. A prompt that has only system messages becomes the user's turn.

    Empty texts are left out, which the API refuses and which say nothing. Raise `ProblemError` 422 that names what
    Anthropic cannot take.
    """
    system: Blocks = []
    turns: list[tuple[str, Blocks]] = []
    ids = _CallIds()
    for message in paired(messages, adjacent=False):
        place, role = message["place"], message["role"]
        _check_members(message, place)
        if role in ("system", "developer"):
            system += _cached(_blocks(message.get("content"), "system", place), message)
            continue
        side = "assistant" if role == "assistant" else "user"
        if role == "tool":
            blocks = [_tool_result(message, ids.of_result(message["tool_call_id"]), place)]
        else:
            blocks = _blocks(message.get("content"), side, place)
            if message.get("refusal"):
                blocks.append({"type": "text", "text": message["refusal"]})
            blocks = _cached(blocks + _tool_uses(message, ids), message)
        if turns and turns[-1][0] == side:
            turns[-1][1].extend(blocks)
        elif blocks:
            turns.append((side, blocks))
    if not turns:
        if not system:
            raise refused("messages", "An empty prompt", "All messages are empty; give one a text.", "invalid_request")
        return "", [{"role": "user", "content": _plain(system, "\n\n")}]
    _check_pairs(turns)
    return _plain(system, "\n\n"), _finished(turns)


class _CallIds:
    """The ids of tool calls as they are sent. Each is new: the API refuses one that an earlier turn has."""

    def __init__(self) -> None:
        self._sent: dict[str, str] = {}
        self._used: set[str] = set()

    def of_call(self, call_id: str) -> str:
        """Return what is sent for the id of a new call."""
        name = allowed_name(call_id, ID_CHARS_MAX)
        repetition = 2
        while name in self._used:
            name = allowed_name(f"{call_id}_{repetition}", ID_CHARS_MAX)
            repetition += 1
        self._used.add(name)
        self._sent[call_id] = name
        return name

    def of_result(self, call_id: str) -> str:
        """Return what was sent for the call of a result."""
        return self._sent[call_id]


def _check_pairs(turns: Sequence[tuple[str, Blocks]]) -> None:
    """Raise `ProblemError` 422 for calls and results in Anthropic's own form that the API would not match."""
    calls: list[str] = []
    earlier_ids: set[str] = set()
    for _, blocks in (*turns, ("user", [])):
        results = [str(block.get("tool_use_id")) for block in blocks if block["type"] == "tool_result"]
        if sorted(results) != sorted(calls):
            odd = next(iter({*results} ^ {*calls}), results[0] if results else "")
            detail = f"The tool_use {odd[:64]!r} needs one tool_result, in the next message of the user."
            raise refused("messages", "A tool call without its result", detail, "invalid_request")
        calls = [str(block.get("id")) for block in blocks if block["type"] == "tool_use"]
        for call_id in calls:
            if call_id in earlier_ids or allowed_name(call_id, ID_CHARS_MAX) != call_id:
                detail = f"The id of each tool_use is unique and has letters, digits, _ and -, not {call_id[:64]!r}."
                raise refused("messages", "An id that Anthropic does not take", detail, "invalid_request")
            earlier_ids.add(call_id)


def _finished(turns: Sequence[tuple[str, Blocks]]) -> list[dict[str, Any]]:
    """Return the turns as they are sent: tool results first, and no white space at the end of a prefilled answer."""
    side, last = turns[-1]
    if side == "assistant" and last[-1]["type"] == "text":
        last[-1]["text"] = last[-1]["text"].rstrip()
    sent: list[dict[str, Any]] = []
    for side, blocks in turns:
        results = [block for block in blocks if block["type"] == "tool_result"]
        rest = [block for block in blocks if block["type"] != "tool_result"]
        blocks = results + rest
        is_text = len(blocks) == 1 and blocks[0].keys() == {"type", "text"}
        sent.append({"role": side, "content": blocks[0]["text"] if is_text else blocks})
    return sent


def _check_members(message: Mapping[str, Any], place: str) -> None:
    for name in ("reasoning_content", "audio"):
        if message.get(name):
            raise _refused(f"{place}.{name}", f"Anthropic takes no {name}", "leave it out")
    if message.get("name") and message["role"] != "tool":
        raise _refused(f"{place}.name", "Anthropic's messages have no names", "put the name into the text")


def _cached(blocks: Blocks, message: Mapping[str, Any]) -> Blocks:
    """Return the blocks with the message's own `cache_control` on the last one."""
    if message.get("cache_control") and blocks:
        blocks[-1] = {**blocks[-1], "cache_control": message["cache_control"]}
    return blocks


def _plain(blocks: Blocks, separator: str) -> str | Blocks:
    """Return blocks as one text if they are nothing more."""
    if all(block.keys() == {"type", "text"} for block in blocks):
        return separator.join(block["text"] for block in blocks)
    return blocks


def _tool_result(message: Mapping[str, Any], call_id: str, place: str) -> dict[str, Any]:
    blocks = _blocks(message.get("content"), "tool", place)
    result = {
        "type": "tool_result",
        "tool_use_id": call_id,
        "content": _plain(blocks, "\n"),
    }
    return _cached([result], message)[0]


def _tool_uses(message: Mapping[str, Any], ids: _CallIds) -> Blocks:
    blocks: Blocks = []
    for call in message.get("tool_calls") or ():
        block = {
            "type": "tool_use",
            "id": ids.of_call(call["id"]),
            "name": allowed_name(call["function"]["name"]),
            "input": arguments_object(call["function"]),
        }
        blocks += _cached([block], call)
    return blocks


def _blocks(content: Any, side: str, place: str) -> Blocks:
    """Return a message's content as blocks, without texts of white space alone."""
    if content is None or isinstance(content, str):
        return [{"type": "text", "text": content}] if content and content.strip() else []
    blocks: Blocks = []
    for index, part in enumerate(content):
        block = _block(part, side, f"{place}.content[{index}]")
        if block["type"] != "text" or block["text"].strip():
            blocks.append(block)
        else:
            blocks = _cached(blocks, block)  # what is cached ends here, with or without this text
    return blocks


def _block(part: Mapping[str, Any], side: str, place: str) -> dict[str, Any]:
    kind = part.get("type", "text")
    if kind in _MEMBERS:
        check_members(part, {"type", "cache_control", *_MEMBERS[kind]}, place)
    if kind == "text" and isinstance(part.get("text"), str):
        block: dict[str, Any] = {"type": "text", "text": part["text"]}
        if part.get("citations"):
            block["citations"] = part["citations"]
    elif kind == "refusal" and side == "assistant" and isinstance(part.get("refusal"), str):
        block = {"type": "text", "text": part["refusal"]}
    elif kind in ("image_url", "input_image") and side in ("user", "tool"):
        block = {"type": "image", "source": _image_source(part, place)}
    elif kind == "file" and side in ("user", "tool"):
        block = _document(part.get("file"), place)
    elif kind in _NATIVE[side]:
        block = dict(part)
        source = block.get("source")
        if isinstance(source, Mapping) and source.get("type") == "base64":
            block["source"] = _checked_source(source, kind, place)
        elif isinstance(source, Mapping) and source.get("type") == "url":
            block["source"] = _checked_url(source, f"{place}.source")
    else:
        raise _refused(
            f"{place}.type",
            "Anthropic does not take this part",
            f"a part of type {str(kind)[:64]!r} cannot be in a message of this role",
        )
    if part.get("cache_control"):
        block["cache_control"] = part["cache_control"]
    return block


def _image_source(part: Mapping[str, Any], place: str) -> dict[str, Any]:
    image = part.get("image_url")
    image = image if isinstance(image, Mapping) else {"url": image}
    check_members(image, {"url", "detail"}, f"{place}.image_url")  # every image is seen in full, whatever the detail
    url = str(image.get("url") or "")
    parsed = data_url(url)
    if parsed is not None:
        source = {"type": "base64", "media_type": parsed[0], "data": parsed[1]}
        return _checked_source(source, "image", place)
    return _checked_url({"type": "url", "url": url}, f"{place}.image_url")


def _checked_url(source: Mapping[str, Any], place: str) -> dict[str, Any]:
    if not str(source.get("url") or "").lower().startswith("https://"):
        raise _refused(place, "Anthropic does not take this address", "use https:// or base64 data")
    return dict(source)


def _checked_source(source: Mapping[str, Any], kind: str, place: str) -> dict[str, Any]:
    """Return a base64 source with the media type's usual name. Raise `ProblemError` 422 for one Anthropic lacks."""
    media_type = media_type_of(str(source.get("media_type", "")))
    allowed = _IMAGE_TYPES if kind == "image" else _DOCUMENT_TYPES[:1]
    if media_type not in allowed:
        raise _refused(place, "Anthropic does not take this media type", f"it may be {', '.join(allowed)}")
    if not is_base64(str(source.get("data") or "")):
        raise _refused(place, "Media without data", "its data is not base64, or empty")
    return {**source, "media_type": media_type}


def _document(file: Any, place: str) -> dict[str, Any]:
    """Return OpenAI's file part as a document."""
    if isinstance(file, Mapping):
        check_members(file, {"file_data", "file_id", "filename"}, f"{place}.file")
    parsed = data_url(str(file.get("file_data") or "")) if isinstance(file, Mapping) else None
    if parsed is None:
        raise _refused(place, "A file without its data", "give file_data as a base64 data URL; a file_id is OpenAI's")
    media_type, data = media_type_of(parsed[0]), parsed[1]
    if media_type == "text/plain":
        try:
            text = base64.b64decode(data, validate=True).decode()
        except (binascii.Error, ValueError):
            raise _refused(place, "A file that is not text", "its data is not UTF-8 text in base64") from None
        source = {"type": "text", "media_type": media_type, "data": text}
    else:
        source = _checked_source({"type": "base64", "media_type": media_type, "data": data}, "document", place)
    title = {"title": file["filename"]} if file.get("filename") else {}
    return {"type": "document", "source": source, **title}


def _refused(field: str, title: str, remedy: str) -> ProblemError:
    return refused(field, title, f"{field} cannot be sent to Anthropic: {remedy}.")
