"""Merges JSON that a stream sends in pieces into the form of a response that is not streamed.

OpenAI's chats send deltas of a message, and many hosts use that protocol with additional members. So values are merged
by their type, not by a list of known names: texts are joined, objects merged, lists extended. Stream accumulators use
this module.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from everycall import limits
from everycall._instrumentation.content import BASE64_MEMBERS, Base64Buffer, media_type_of, members
from everycall._instrumentation.stream import TextBuffer

__all__ = ["MergedList", "MergedObject", "ToolCalls", "is_json"]

_LABELS: Final = frozenset(
    {"id", "type", "role", "name", "index", "object", "format", "status", "channel", "call_id", "namespace"}
)
"""Texts that are sent whole. Many hosts repeat them in each piece."""
_TEXTS: Final = frozenset(
    {
        *("content", "text", "thinking", "reasoning", "reasoning_content", "refusal", "summary", "transcript"),
        *("arguments", "input"),
    }
)
"""Texts that are sent in pieces: each piece is added, even if it equals the text so far."""
_TEXT_PART_MEMBERS: Final = frozenset({"type", "text", "thinking", "closed"})


class MergedObject:
    """An object whose members arrive in pieces. Texts are joined unless they are labels; numbers are replaced.

    With `joins_texts` false, texts are replaced too.
    """

    __slots__ = ("_joins_texts", "_members")

    def __init__(self, *, joins_texts: bool = True) -> None:
        self._joins_texts = joins_texts
        self._members: dict[str, Any] = {}

    def merge(self, piece: object) -> None:
        """Add a piece: a JSON object, or a library's object. Members that are None are ignored."""
        merged = self._members
        for name, value in members(piece).items():
            if value is None:
                continue
            current = merged.get(name)
            if type(value) is str:
                self._merge_text(name, value, current)
            elif isinstance(value, list | tuple):
                if not isinstance(current, MergedList):
                    current = self._set(name, self._new_list(name, current))
                if current is not None:
                    current.extend(value)
            elif type(value) in (int, float, bool):
                self._set(name, value)
            else:
                if type(current) is not MergedObject:
                    current = self._set(name, MergedObject(joins_texts=self._joins_texts))
                if current is not None:
                    current.merge(value)

    def get(self, name: str) -> Any:
        """Return a member as it is now, or None if it has not arrived."""
        return _value_of(self._members.get(name), self._members)

    def value(self) -> dict[str, Any]:
        """Return the object as it is now."""
        return {name: _value_of(item, self._members) for name, item in self._members.items()}

    def _set(self, name: str, value: object) -> Any:
        """Set a member and return its value; return None if the object has too many members."""
        if name not in self._members and len(self._members) >= limits.STREAM_CHUNKS_MAX:
            return None
        self._members[name] = value
        return value

    def _new_list(self, name: str, current: object) -> MergedList:
        """Return a new list for a member. Text that came before it becomes its first part."""
        merged = ToolCalls() if name == "tool_calls" else MergedList(joins_texts=self._joins_texts)
        if type(current) is TextBuffer and current:
            merged.extend([{"type": "text", "text": str(current)}])
        return merged

    def _merge_text(self, name: str, piece: str, current: Any) -> None:
        if name in _LABELS or not self._joins_texts:
            if piece or name not in self._members:
                self._set(name, piece)
        elif isinstance(current, MergedList):  # after parts, some hosts go on with bare text
            if piece:
                current.extend([{"type": "text", "text": piece}])
        elif name in BASE64_MEMBERS:
            if type(current) is not Base64Buffer:
                current = self._set(name, Base64Buffer())
            if current is not None:
                current.add(piece)
        else:
            if type(current) is not TextBuffer:
                current = self._set(name, TextBuffer())
            if current is not None and not _is_repeated(name, piece, current):
                current.add(piece)


class MergedList:
    """A list that arrives in pieces: entries with an `index` are merged, consecutive parts of text are joined."""

    __slots__ = ("_entries", "_joins_texts")

    def __init__(self, *, joins_texts: bool = True) -> None:
        self._entries: list[Any] = []
        self._joins_texts = joins_texts

    def extend(self, items: Sequence[Any]) -> None:
        """Add the items of one piece."""
        if self._repeats(items):
            items = items[len(self._entries) :]
        for number, item in enumerate(items):
            values = members(item)
            entry = self._entry_of(values, is_first=number == 0) if values else None
            if entry is not None:
                entry.merge(values)
            elif len(self._entries) < limits.STREAM_CHUNKS_MAX:
                self._entries.append(self._new_entry(values) if values else item)

    def value(self) -> list[Any]:
        """Return the list as it is now."""
        return [_value_of(entry, {}) for entry in self._entries]

    def _new_entry(self, values: Mapping[str, Any]) -> MergedObject:
        entry = MergedObject(joins_texts=self._joins_texts)
        entry.merge(values)
        return entry

    def _repeats(self, items: Sequence[Any]) -> bool:
        """Return whether a host sends the whole list of objects each time, as some do with citations."""
        length = len(self._entries)
        if not self._joins_texts or not 0 < length <= len(items):
            return False
        first = members(items[0])
        if not first or "index" in first or _is_text_part(first):  # pieces of entries, not entries
            return False
        return list(items[:length]) == self.value()

    def _entry_of(self, values: Mapping[str, Any], *, is_first: bool) -> MergedObject | None:
        """Return the entry that an item continues; None if the item is a new entry.

        Only the first item of a piece may continue a part of text: the others stand beside each other.
        """
        index = values.get("index")
        if index is None:
            last = self._entries[-1] if self._entries and is_first else None
            return last if type(last) is MergedObject and _continues_text(last._members, values) else None
        for entry in reversed(self._entries):
            if type(entry) is MergedObject and entry._members.get("index") == index:
                return entry if self._continues(entry, values) else None
        return None

    def _continues(self, entry: MergedObject, values: Mapping[str, Any]) -> bool:
        """Return whether an item with the index of an entry is a piece of it: it has no other type and no other id."""
        return all(not values.get(name) or entry.get(name) in (None, "", values[name]) for name in ("type", "id"))


class ToolCalls(MergedList):
    """The tool calls of a message. Some hosts send each parallel call with index 0, or with no index at all."""

    __slots__ = ()

    def _entry_of(self, values: Mapping[str, Any], *, is_first: bool) -> MergedObject | None:  # noqa: ARG002
        index = values.get("index")
        for entry in reversed(self._entries):
            if index is None or entry.get("index") in (None, index):
                return entry if self._continues(entry, values) else None
        return None

    def _continues(self, entry: MergedObject, values: Mapping[str, Any]) -> bool:
        """Return whether an item is a piece of a call. One with another id and a name of its own is another call."""
        kind = "custom" if values.get("custom") is not None else "function"
        name = members(values.get(kind)).get("name")
        call_id, entry_id = values.get("id"), entry.get("id")
        if call_id and entry_id and call_id != entry_id:
            return not name and values.get("index") is not None
        if call_id or not name:
            return True
        function = entry.get(kind) or {}
        return not function.get("name") or (function["name"] == name and not is_json(function.get("arguments")))


def _is_repeated(name: str, piece: str, current: TextBuffer) -> bool:
    """Return whether a piece repeats the whole text: of a member that is sent whole, or arguments that are complete.

    Groq sends an executed tool when it starts, and again with its result.
    """
    if not current.is_only(piece):
        return False
    return name not in _TEXTS or (name == "arguments" and piece.startswith("{") and is_json(piece))


def is_json(text: Any) -> bool:
    """Return whether a text is complete JSON."""
    try:
        json.loads(text)
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def _value_of(item: object, values: Mapping[str, Any]) -> Any:
    if type(item) is TextBuffer:
        return str(item)
    if type(item) is Base64Buffer:
        return item.value(media_type_of(values) or "base64")
    if isinstance(item, MergedObject | MergedList):
        return item.value()
    return item


def _continues_text(entry: Mapping[str, Any], values: Mapping[str, Any]) -> bool:
    """Return whether an item continues the text, or the thinking, of the part before it."""
    if entry.get("type") != values.get("type") or not _is_text_part(entry) or not _is_text_part(values):
        return False
    return bool(entry.keys() & values.keys() & {"text", "thinking"})


def _is_text_part(values: Mapping[str, Any]) -> bool:
    return values.keys() <= _TEXT_PART_MEMBERS
