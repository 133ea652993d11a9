"""Chunks of a stream, put together to the response they amount to. Used for each chunk as it is read.

The result has the shape of a response that is not streamed, and `_responses` reads both. An accumulator can be asked
for fields at any time: at the end, or when the stream is left early. Without output it keeps nothing the model made.
"""

from __future__ import annotations

import re
from typing import Any, Final

from everycall import limits
from everycall.integration import Fields, StreamAccumulator, TextBuffer, members
from everycall_google import _responses
from everycall_google._content import items, snake_case

__all__ = ["Generation"]

_TEXT_MEMBERS: Final = frozenset({"text", "thought"})
_PATH_STEP: Final = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]|\['([^']*)'\]")
_VALUES: Final = ("string_value", "number_value", "bool_value", "null_value")


class _FunctionCall:
    """A function call whose arguments come in pieces, each with the path of the value it belongs to."""

    __slots__ = ("_arguments", "_others")

    def __init__(self) -> None:
        self._others: Fields = {}
        self._arguments: Fields = {}

    def add(self, call: Fields) -> None:
        """Add a piece of the call, with its names in snake case."""
        for name, value in call.items():
            if name == "partial_args":
                for piece in items(value):
                    self._add_argument({snake_case(key): item for key, item in members(piece).items()})
            elif name == "args":
                self._arguments.update(members(value))
            elif name != "will_continue":
                self._others[name] = value

    def part(self) -> Fields:
        """Return the part as a response that is not streamed has it."""
        return {"functionCall": {**self._others, "args": _joined(self._arguments)}}

    def _add_argument(self, piece: Fields) -> None:
        """Set the value at a path such as `$.places[0].city`; pieces of a text at one path are joined."""
        value = next((piece[name] for name in _VALUES if name in piece), None)
        steps = [
            match[1] or match[3] or int(match[2] or 0) for match in _PATH_STEP.finditer(piece.get("json_path", ""))
        ]
        target: object = self._arguments
        for step, following in zip(steps, [*steps[1:], None], strict=True):
            is_last = following is None
            current = _get(target, step)
            if is_last:
                if type(value) is str:
                    if type(current) is not TextBuffer:
                        current = TextBuffer()
                    current.add(value)
                    value = current
                _set(target, step, value)
            elif not isinstance(current, dict | list):
                _set(target, step, [] if isinstance(following, int) else {})
            target = _get(target, step)


def _get(target: object, step: str | int) -> Any:
    if isinstance(target, list):
        return target[step] if isinstance(step, int) and step < len(target) else None
    return target.get(step) if isinstance(target, dict) else None


def _set(target: object, step: str | int, value: object) -> None:
    """Set a member or an item; items that have not come yet are None."""
    if isinstance(target, dict):
        target[step] = value
    elif isinstance(target, list) and isinstance(step, int) and step < limits.STREAM_CHUNKS_MAX:
        target += [None] * (step + 1 - len(target))
        target[step] = value


def _joined(value: object) -> Any:
    if isinstance(value, dict):
        return {name: _joined(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_joined(item) for item in value]
    return str(value) if type(value) is TextBuffer else value


class _Candidate:
    """One candidate: its parts in order, with the pieces of a text as one part, and its other members."""

    __slots__ = ("_call", "_is_thought", "_text", "others", "parts")

    def __init__(self) -> None:
        self.parts: list[Any] = []
        """Parts as they came, and a `_FunctionCall` for a call in pieces."""
        self.others: Fields = {}
        self._is_thought = False
        self._text = TextBuffer()
        self._call: _FunctionCall | None = None

    def add_part(self, part: Fields) -> None:
        """Add one part."""
        text = part.get("text")
        if isinstance(text, str) and part.keys() <= _TEXT_MEMBERS | {"thoughtSignature", "thought_signature"}:
            is_thought = bool(part.get("thought"))
            if text and self._is_thought != is_thought:
                self._end_text()
                self._is_thought = is_thought
            self._text.add(text)
            return
        call = members(part.get("functionCall", part.get("function_call")))
        if call or "functionCall" in part or "function_call" in part:
            self._add_call(part, {snake_case(name): value for name, value in call.items()})
        else:
            self._append(part)

    def add_others(self, candidate: Fields) -> None:
        """Add the members beside the content: the last value of each; lists that go on are joined."""
        for name, value in candidate.items():
            if value and name not in ("content", "index"):
                self.others[name] = _merge(self.others.get(name), value)

    def value(self) -> Fields:
        """Return the candidate as a response that is not streamed has it."""
        parts = [part.part() if isinstance(part, _FunctionCall) else part for part in self.parts]
        if self._text:
            parts.append({"text": str(self._text), "thought": self._is_thought})
        return {**self.others, "content": {"role": "model", "parts": parts}}

    def _add_call(self, part: Fields, call: Fields) -> None:
        """Add a function call, or a piece of the one before: a piece has no name, or says that more will come."""
        continues = self._call is not None and not call.get("name")
        if not continues and not call.get("will_continue") and "partial_args" not in call:
            self._call = None
            self._append(part)
            return
        if not continues:
            self._call = _FunctionCall()
            self._append(self._call)
        assert self._call is not None
        self._call.add(call)
        if not call.get("will_continue"):
            self._call = None

    def _append(self, part: object) -> None:
        self._end_text()
        if len(self.parts) < limits.STREAM_CHUNKS_MAX:
            self.parts.append(part)

    def _end_text(self) -> None:
        if self._text:
            self.parts.append({"text": str(self._text), "thought": self._is_thought})
        self._text = TextBuffer()


def _merge(current: object, value: object) -> Any:
    """Merge two values of a member: objects by member, lists one after the other unless the second has the first."""
    if isinstance(current, dict) and isinstance(value, dict):
        return {**current, **{name: _merge(current.get(name), item) for name, item in value.items()}}
    if isinstance(current, list) and isinstance(value, list) and value[: len(current)] != current:
        return [*current, *value]
    return value


class Generation(StreamAccumulator):
    """The chunks of generated content."""

    __slots__ = ("candidates", "envelope")

    def __init__(self, captures_output: bool) -> None:
        super().__init__(captures_output)
        self.candidates: dict[int, _Candidate] = {}
        self.envelope: Fields = {}
        """The members of the response but for its candidates: the last value of each. Each report of tokens is of all
        so far."""

    def add(self, chunk: object) -> None:
        values = members(_responses.body_of(chunk))
        for name, value in values.items():
            if value and name != "candidates":
                self.envelope[name] = value
        for entry in items(values.get("candidates")):
            values = members(entry)
            candidate = self.candidates.setdefault(values.get("index") or 0, _Candidate())
            for part in items(members(values.get("content")).get("parts")):
                self.has_output = True
                if self.captures_output:
                    candidate.add_part(members(part))
            candidate.add_others(values if self.captures_output else {"finishReason": values.get("finishReason")})
        if self.candidates:
            self.is_complete = all(candidate.others.get("finishReason") for candidate in self.candidates.values())
        else:
            self.is_complete = bool(members(self.envelope.get("promptFeedback")).get("blockReason"))

    def fields(self) -> Fields:
        candidates = [self.candidates[index].value() for index in sorted(self.candidates)]
        return _responses.generation({**self.envelope, "candidates": candidates})
