"""What a stream has brought so far, put together as the answer it amounts to. Called for each chunk as it is read.

A gathering is given every chunk once and can be asked for fields at any time: at the end, or when the stream is left in
the middle. With outputs omitted it keeps nothing that the model made.
"""

from __future__ import annotations

from typing import Any, Final

from everycall import limits
from everycall.integration import StreamAccumulator, TextBuffer, members
from everycall_google import _responses
from everycall_google._content import items, python_names

__all__ = ["Generation"]

_LAST: Final = ("usageMetadata", "promptFeedback")
"""What the last chunk that has it says for all: each report of tokens is of the stream so far."""
_FIRST: Final = ("modelVersion", "responseId")
_OF_CANDIDATES: Final = (
    "finishReason",
    "finishMessage",
    "groundingMetadata",
    "citationMetadata",
    "urlContextMetadata",
    "safetyRatings",
)


class _Candidate:
    """One candidate of an answer that is streamed: parts in their order, pieces of a text as one part."""

    __slots__ = ("_kind", "_text", "parts", "told")

    def __init__(self) -> None:
        self.parts: list[dict[str, Any]] = []
        self.told: dict[str, Any] = {}
        self._kind: bool | None = None
        self._text = TextBuffer()

    def hear(self, part: dict[str, Any]) -> None:
        """Take one part."""
        said = part.get("text")
        if isinstance(said, str):
            kind = bool(part.get("thought"))
            if said and self._kind != kind:
                self._close()
                self._kind = kind
            self._text.add(said)
        elif len(self.parts) < limits.STREAM_CHUNKS_MAX:
            self._close()
            self.parts.append(python_names(part))

    def whole(self) -> dict[str, Any]:
        """Return what has come as a candidate of an answer that is not streamed."""
        self._close()
        return {**self.told, "content": {"role": "model", "parts": self.parts}}

    def _close(self) -> None:
        if self._text:
            self.parts.append({"text": str(self._text), "thought": self._kind})
        self._kind, self._text = None, TextBuffer()


class Generation(StreamAccumulator):
    """The pieces of generated content."""

    __slots__ = ("candidates", "failure", "told")

    def __init__(self, captures_output: bool) -> None:
        super().__init__(captures_output)
        self.candidates: dict[int, _Candidate] = {}
        self.told: dict[str, Any] = {}
        self.failure: str | None = None

    def add(self, chunk: Any) -> None:
        told = members(_responses.body_of(chunk))
        for name in _LAST:
            if told.get(name):
                self.told[name] = told[name]
        for name in _FIRST:
            if told.get(name):
                self.told.setdefault(name, told[name])
        if told.get("error"):
            self.failure = _responses.failure(told["error"])
        for one in items(told.get("candidates")):
            candidate = members(one)
            held = self.candidates.setdefault(candidate.get("index") or 0, _Candidate())
            for part in items(members(candidate.get("content")).get("parts")):
                self.has_output = True
                if self.captures_output:
                    held.hear(members(part))
            held.told.update((name, candidate[name]) for name in _OF_CANDIDATES if candidate.get(name))
        finished = [held.told.get("finishReason") for held in self.candidates.values()]
        self.is_complete = (
            all(finished) if finished else bool(members(self.told.get("promptFeedback")).get("blockReason"))
        )

    def fields(self) -> dict[str, Any]:
        candidates = [self.candidates[index].whole() for index in sorted(self.candidates)]
        fields = _responses.generation({**self.told, "candidates": candidates})
        return fields if self.failure is None else {**fields, "failure": self.failure}
