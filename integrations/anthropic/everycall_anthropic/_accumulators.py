"""What a stream has brought so far, put together as the answer it amounts to. Called for each event as it is read.

A gathering is given every event once and can be asked for fields at any time: at the end, or when the stream is left in
the middle. With outputs omitted it keeps no text at all.
"""

from __future__ import annotations

import json
from typing import Any, Final

from everycall import limits
from everycall.integration import StreamAccumulator, TextBuffer, get_member, members
from everycall_anthropic import _responses

__all__ = ["Completion", "Message"]

_DELTAS: Final = {
    "text_delta": "text",
    "thinking_delta": "thinking",
    "input_json_delta": "partial_json",
    "compaction_delta": "content",
}
"""Deltas that are joined, with the member that has the chunk."""
_FINAL_AT_THE_END: Final = ("output_tokens", "output_tokens_details")
"""What a message's start only has a placeholder of."""


class _Block:
    """One block of a message that is streamed: what it began with, and what has come since."""

    __slots__ = ("begun", "citations", "signature", "texts")

    def __init__(self, begun: Any) -> None:
        self.begun = members(begun)
        self.texts: dict[str, TextBuffer] = {}
        self.signature: Any = None
        self.citations: list[Any] = []

    def hear(self, kind: Any, delta: dict[str, Any]) -> None:
        """Take a delta."""
        name = _DELTAS.get(kind)
        if name is not None:
            held = self.texts.get(name)
            if held is None:
                held = self.texts[name] = TextBuffer()
            held.add(delta.get(name))
        elif kind == "signature_delta":
            self.signature = delta.get("signature")
        elif kind == "citations_delta" and len(self.citations) < limits.STREAM_CHUNKS_MAX:
            self.citations.append(delta.get("citation"))

    def block(self) -> dict[str, Any]:
        """Return the block, as an answer that is not streamed would have it."""
        made = {name: value for name, value in self.begun.items() if value is not None}
        for name, text in self.texts.items():
            if name == "partial_json":
                made["input"] = _arguments(str(text))
            else:
                made[name] = str(text)
        if self.signature:
            made["signature"] = self.signature
        if self.citations:
            made["citations"] = self.citations
        return made


def _arguments(given: str) -> Any:
    """Return a tool's arguments; their text, where it has not come whole."""
    try:
        return json.loads(given) if given else {}
    except (ValueError, RecursionError):
        return given


class Message(StreamAccumulator):
    """The events of a message."""

    __slots__ = ("blocks", "failure", "has_final_usage", "told", "usage")

    def __init__(self, captures_output: bool) -> None:
        super().__init__(captures_output)
        self.told: dict[str, Any] = {}
        self.usage: dict[str, Any] = {}
        self.has_final_usage = False
        self.blocks: dict[Any, _Block] = {}
        self.failure: str | None = None

    def add(self, chunk: Any) -> None:
        event = members(chunk)
        kind = event.get("type")
        if kind == "content_block_delta":
            delta = members(event.get("delta"))
            of = delta.get("type")
            if not self.has_output:
                self.has_output = bool(delta.get(_DELTAS.get(str(of), "")))
            if self.captures_output:
                block = self.blocks.get(event.get("index"))
                if block is not None:
                    block.hear(of, delta)
        elif kind == "content_block_start":
            self._begin(event.get("index"), event.get("content_block"))
        elif kind == "message_start":
            begun = members(event.get("message"))
            self.told = {name: begun.get(name) for name in ("id", "model", "stop_reason")}
            self._count(begun.get("usage"))
        elif kind == "message_delta":
            self.told.update((name, value) for name, value in members(event.get("delta")).items() if value is not None)
            self.is_complete = self.is_complete or self.told.get("stop_reason") is not None
            self.has_final_usage = event.get("usage") is not None
            self._count(event.get("usage"))
        elif kind == "message_stop":
            self.is_complete = True

    def _begin(self, index: Any, block: Any) -> None:
        kind = get_member(block, "type")
        self.has_output = self.has_output or kind not in ("text", "thinking") or bool(get_member(block, "text"))
        if self.captures_output and len(self.blocks) < limits.STREAM_CHUNKS_MAX:
            self.blocks[index] = _Block(block)

    def _count(self, usage: Any) -> None:
        """Take a report of tokens: each is of all so far, and leaves out what it does not know."""
        self.usage.update((name, value) for name, value in members(usage).items() if value is not None)

    def fields(self) -> dict[str, Any]:
        usage = self.usage
        if not self.has_final_usage:
            usage = {name: value for name, value in usage.items() if name not in _FINAL_AT_THE_END}
        content = [self.blocks[index].block() for index in sorted(self.blocks)]
        fields = _responses.message({**self.told, "content": content, "usage": usage or None})
        if self.failure is not None:
            fields["failure"] = self.failure
        return fields


class Completion(StreamAccumulator):
    """The events of a legacy completion."""

    __slots__ = ("said", "told")

    def __init__(self, captures_output: bool) -> None:
        super().__init__(captures_output)
        self.told: dict[str, Any] = {}
        self.said = TextBuffer()

    def add(self, chunk: Any) -> None:
        event = members(chunk)
        said = event.get("completion")
        self.told.update((name, event[name]) for name in ("id", "model", "stop_reason") if event.get(name) is not None)
        self.is_complete = self.told.get("stop_reason") is not None
        if said:
            self.has_output = True
            if self.captures_output:
                self.said.add(said)

    def fields(self) -> dict[str, Any]:
        return _responses.completion({**self.told, "completion": str(self.said) if self.said else None})
