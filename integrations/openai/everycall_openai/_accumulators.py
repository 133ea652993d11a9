"""Chunks and events of a stream, put together to the response they amount to. Used for each chunk as it is read.

The result has the shape of a response that is not streamed, and `_responses` reads both. An accumulator can be asked
for fields at any time: at the end, or when the stream is left early. Without output it keeps no text at all.
"""

from __future__ import annotations

from typing import Any, Final

from everycall import limits
from everycall.integration import Fields, MergedObject, StreamAccumulator, TextBuffer, members
from everycall_openai import _responses

__all__ = ["Chat", "Completion", "Response", "is_usage_chunk"]

_NOT_OUTPUT: Final = frozenset({"role", "channel", "id", "type", "index"})
"""Members of a delta that the model did not make."""
_ENVELOPE: Final = frozenset({"choices", "object", "created", "obfuscation", "p"})
"""Members of a chunk that are read elsewhere, or not kept."""
_MERGED_ELSEWHERE: Final = frozenset({"index", "delta", "message", "text", "finish_reason"})


class _ChunkAccumulator(StreamAccumulator):
    """What chunks of chats and legacy completions, and events of responses, have in common."""

    __slots__ = ("envelope",)

    def __init__(self, captures_output: bool) -> None:
        super().__init__(captures_output)
        self.envelope: Fields = {}
        """The members of the response but for its choices or items: the last value of each, objects merged."""

    def _add_envelope(self, values: Fields) -> None:
        envelope = self.envelope
        for name, value in values.items():
            if name == "object" and value == "error":
                envelope[name] = value
            if value is None or name in _ENVELOPE or (value == "" and name in envelope):
                continue
            envelope[name] = value if name == "usage" else _merged(envelope.get(name), value)


def _merged(current: object, value: object) -> object:
    """Return an object's members over those that came before; any other value as it is."""
    if current is None or isinstance(value, str | int | float | list):
        return value
    before, after = members(current), members(value)
    return {**before, **{name: item for name, item in after.items() if item is not None}} if before else value


class _Choice:
    """One choice of a stream: its message or text, why it ended, and what else it has."""

    __slots__ = ("finish_reason", "message", "others", "text", "whole_message")

    def __init__(self) -> None:
        self.finish_reason: str | None = None
        self.message = MergedObject()
        self.text = TextBuffer()
        self.whole_message: Any = None
        self.others = MergedObject(joins_texts=False)

    def add_others(self, values: Fields) -> None:
        """Add what a chunk's choice has beside its message and text."""
        self.finish_reason = values.get("finish_reason") or self.finish_reason
        self.whole_message = values.get("message") or self.whole_message
        for name, value in values.items():
            if value is not None and name not in _MERGED_ELSEWHERE:
                self.others.merge({name: value})

    def value(self) -> Fields:
        """Return the choice as a response that is not streamed has it."""
        message = self.message.value() or self.whole_message
        return {
            **self.others.value(),
            "message": message,
            "text": str(self.text),
            "finish_reason": self.finish_reason,
        }


class Chat(_ChunkAccumulator):
    """The chunks of a chat completion."""

    __slots__ = ("_member_count", "_other_names", "_others", "choices")

    def __init__(self, captures_output: bool) -> None:
        super().__init__(captures_output)
        self.choices: dict[int, _Choice] = {}
        self._member_count = -1
        self._other_names: tuple[str, ...] = ()
        self._others: list[Any] = []

    def add(self, chunk: object) -> None:
        values = members(chunk)
        if self._has_news(chunk, values):
            self._add_envelope(values)
        for entry in values.get("choices") or ():
            choice_values = members(entry)
            choice = self._choice(choice_values.get("index") or 0)
            delta = members(choice_values.get("delta"))
            if not self.has_output:
                self.has_output = _has_output(delta)
            if self.captures_output:
                choice.message.merge(delta)
            if choice_values.get("finish_reason") is not None:
                choice.add_others(choice_values)
                self.is_complete = all(other.finish_reason is not None for other in self.choices.values())
            elif choice_values.get("logprobs") is not None or _has_unknown_members(entry, choice_values):
                choice.add_others(choice_values)

    def fields(self) -> Fields:
        choices = [self.choices[index].value() for index in sorted(self.choices)]
        return _responses.chat({**self.envelope, "choices": choices})

    def _has_news(self, chunk: object, values: Fields) -> bool:
        """Whether a chunk has other members of the response than the chunk before, beside those that all repeat."""
        if _has_unknown_members(chunk, values):
            return True
        if len(values) != self._member_count:
            self._member_count, self._other_names = len(values), tuple(values.keys() - _ENVELOPE)
        others = [values.get(name) for name in self._other_names]
        if others == self._others:
            return False
        self._others = others
        return True

    def _choice(self, index: int) -> _Choice:
        choice = self.choices.get(index)
        if choice is None:
            choice = self.choices[index] = _Choice()
        return choice


def _has_unknown_members(value: object, values: Fields) -> bool:
    """Whether an object of the library's has members that it does not declare, or is plain JSON."""
    return values is not getattr(value, "__dict__", None)


def _has_output(delta: Fields) -> bool:
    return any(
        value is not None and name not in _NOT_OUTPUT and _responses.has_content(value) for name, value in delta.items()
    )


class Completion(Chat):
    """The chunks of a legacy completion."""

    __slots__ = ()

    def add(self, chunk: object) -> None:
        values = members(chunk)
        self._add_envelope(values)
        for entry in values.get("choices") or ():
            choice_values = members(entry)
            choice = self._choice(choice_values.get("index") or 0)
            if text := choice_values.get("text"):
                self.has_output = True
                if self.captures_output:
                    choice.text.add(text)
            choice.add_others(choice_values)
        self.is_complete = bool(self.choices) and all(
            choice.finish_reason is not None for choice in self.choices.values()
        )

    def fields(self) -> Fields:
        choices = [self.choices[index].value() for index in sorted(self.choices)]
        return _responses.completion({**self.envelope, "choices": choices})


class Response(_ChunkAccumulator):
    """The events of a response. The last one has the whole response; until then its items are put together here."""

    __slots__ = ("error", "items", "response")

    def __init__(self, captures_output: bool) -> None:
        super().__init__(captures_output)
        self.items: dict[Any, Any] = {}
        """Items by their index: complete ones as they came, others as a `MergedObject`."""
        self.response: Any = None
        self.error: Any = None

    def add(self, chunk: object) -> None:
        values = members(chunk)
        kind = values.get("type")
        if kind == "error" or (kind is None and values.get("error")):
            self.error = values.get("error") or {name: values.get(name) for name in ("code", "message", "param")}
        elif not isinstance(kind, str):
            return
        elif values.get("response") is not None:
            response = members(values["response"])
            if kind in _FINAL_EVENTS:
                self.response, self.is_complete = response, True
            self._add_envelope({name: value for name, value in response.items() if self._is_known(name)})
        elif kind.endswith(".delta"):
            self.has_output = True
            if self.captures_output:
                self._add_delta(kind.removeprefix("response.").removesuffix(".delta"), values)
        elif self.captures_output:
            self._add_part(kind, values)

    def _is_known(self, name: str) -> bool:
        """Whether a member of the response has its final value in an event that has the whole response."""
        return name != "output" and (self.is_complete or name != "status")

    def _item(self, values: Fields) -> MergedObject | None:
        """Return the item of an event as far as it has come; None if it is complete, or if there are too many."""
        index = values.get("output_index") or 0
        if index not in self.items:
            if len(self.items) >= limits.STREAM_CHUNKS_MAX:
                return None
            self.items[index] = MergedObject()
        item = self.items[index]
        return item if isinstance(item, MergedObject) else None

    def _add_delta(self, kind: str, values: Fields) -> None:
        """Add a piece of a text. `kind` is such as `output_text`, and names the member that the text belongs to."""
        item, piece = self._item(values), values.get("delta")
        if item is None or not isinstance(piece, str):
            return
        if "content_index" in values:
            name = "refusal" if kind == "refusal" else "text"
            item.merge({"content": [{"index": values["content_index"], "type": kind, name: piece}]})
        elif "summary_index" in values:
            item.merge({"summary": [{"index": values["summary_index"], "type": "summary_text", "text": piece}]})
        else:
            item.merge({_MEMBERS.get(kind.rpartition("_")[2], kind): piece})

    def _add_part(self, kind: str, values: Fields) -> None:
        """Add an item or a part of one: with its start it has an id and a type, with its end all of it."""
        if kind == "response.output_item.done":
            if self._item(values) is not None:
                self.items[values.get("output_index") or 0] = values.get("item")
        elif kind == "response.output_item.added":
            item = self._item(values)
            if item is not None:
                item.merge(_without_parts(members(values.get("item"))))
        elif kind == "response.output_text.annotation.added":
            item = self._item(values)
            if item is not None:
                part = {"index": values.get("content_index"), "annotations": [values.get("annotation")]}
                item.merge({"content": [part]})

    def fields(self) -> Fields:
        items = [self._plain_item(self.items[index]) for index in sorted(self.items)]
        response = {**self.envelope, "output": items}
        if self.response is not None and self.response.get("output"):
            response = self.response  # some hosts send the last event without the items
        if self.error is not None:
            response = {**response, "error": self.error}
        return _responses.response(response)

    def _plain_item(self, item: object) -> Any:
        if not isinstance(item, MergedObject):
            return item
        values = item.value()
        for name in ("content", "summary"):
            if isinstance(values.get(name), list):
                values[name] = [_without_index(part) for part in values[name]]
        return values


_FINAL_EVENTS: Final = frozenset({"response.completed", "response.incomplete", "response.failed", "response.cancelled"})
_MEMBERS: Final = {"arguments": "arguments", "input": "input", "code": "code", "transcript": "transcript"}
"""The member of an item that a delta belongs to, by the last word of the event's name."""


def _without_parts(item: Fields) -> Fields:
    """Return an item without its parts and empty texts, which come in deltas."""
    return {name: value for name, value in item.items() if value != "" and name not in ("content", "summary")}


def _without_index(part: object) -> Any:
    return {name: value for name, value in part.items() if name != "index"} if isinstance(part, dict) else part


def is_usage_chunk(chunk: object) -> bool:
    """Whether a chunk of a chat only has the usage; streams of the Responses API have no such chunk."""
    values = members(chunk)
    return not values.get("choices") and values.get("usage") is not None
