"""Events of a stream, put together to the response they amount to. Used for each event as it is read.

The result has the shape of a response that is not streamed, and `_responses` reads both. An accumulator can be asked
for fields at any time: at the end, or when the stream is left early. Without output it keeps no text at all.
"""

from __future__ import annotations

import json
from typing import Any, Final

from everycall import limits
from everycall.integration import Fields, MergedObject, StreamAccumulator, TextBuffer, get_member, members
from everycall_anthropic import _responses

__all__ = ["Completion", "Message"]

_FINAL_COUNTS: Final = ("output_tokens", "output_tokens_details")
"""Counts of which the start of a message has a placeholder only."""
_READ_ELSEWHERE: Final = frozenset({"type", "role", "content", "usage", "delta"})


class _Block:
    """One block of a message: what it started with, and the deltas since."""

    __slots__ = ("_deltas", "_input", "_start")

    def __init__(self, start: object) -> None:
        values = members(start)
        self._start = {name: value for name, value in values.items() if value is not None}
        self._input = TextBuffer()
        self._deltas = MergedObject()
        self._deltas.merge({name: value for name, value in values.items() if type(value) is str})

    def add(self, delta: Fields) -> None:
        """Add a delta. Its members are those of the block, but for the two that have a name of their own."""
        for name, value in delta.items():
            if name == "partial_json":
                self._input.add(value)
            elif name == "citation":
                self._deltas.merge({"citations": [value]})
            elif name != "type":
                self._deltas.merge({name: value})

    def value(self) -> Fields:
        """Return the block as a response that is not streamed has it."""
        block = {**self._start, **self._deltas.value()}
        if self._input:
            block["input"] = _parse(str(self._input))
        return block


def _parse(arguments: str) -> Any:
    """Return the arguments of a tool; their text if it is incomplete."""
    try:
        return json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments


class Message(StreamAccumulator):
    """The events of a message."""

    __slots__ = ("blocks", "envelope", "has_final_usage", "usage")

    def __init__(self, captures_output: bool) -> None:
        super().__init__(captures_output)
        self.envelope: Fields = {}
        """The members of the message but for its blocks and its usage: the last value of each."""
        self.usage: Fields = {}
        self.has_final_usage = False
        self.blocks: dict[Any, _Block] = {}

    def add(self, chunk: object) -> None:
        event = members(chunk)
        kind = event.get("type")
        if kind == "content_block_delta":
            delta = members(event.get("delta"))
            if not self.has_output:
                self.has_output = any(value and name not in ("type", "signature") for name, value in delta.items())
            if self.captures_output and (block := self.blocks.get(event.get("index"))) is not None:
                block.add(delta)
        elif kind == "content_block_start":
            self._start_block(event.get("index"), event.get("content_block"))
        elif kind == "message_start":
            message = members(event.get("message"))
            self._add_envelope(message)
            self._add_usage(message.get("usage"))
        elif kind == "message_delta":
            self._add_envelope(event)
            self._add_envelope(members(event.get("delta")))
            self.is_complete = self.is_complete or self.envelope.get("stop_reason") is not None
            self.has_final_usage = event.get("usage") is not None
            self._add_usage(event.get("usage"))
        elif kind == "message_stop":
            self.is_complete = True

    def _start_block(self, index: object, block: object) -> None:
        kind = get_member(block, "type")
        self.has_output = self.has_output or kind not in ("text", "thinking") or bool(get_member(block, "text"))
        if self.captures_output and len(self.blocks) < limits.STREAM_CHUNKS_MAX:
            self.blocks[index] = _Block(block)

    def _add_envelope(self, values: Fields) -> None:
        self.envelope.update(
            (name, value) for name, value in values.items() if value is not None and name not in _READ_ELSEWHERE
        )

    def _add_usage(self, usage: object) -> None:
        """Add a report of tokens. Each is of all so far, and leaves out the counts it does not know."""
        self.usage.update((name, value) for name, value in members(usage).items() if value is not None)

    def fields(self) -> Fields:
        usage = self.usage
        if not self.has_final_usage:
            usage = {name: value for name, value in usage.items() if name not in _FINAL_COUNTS}
        content = [self.blocks[index].value() for index in sorted(self.blocks)]
        return _responses.message({**self.envelope, "content": content, "usage": usage or None})


class Completion(StreamAccumulator):
    """The events of a legacy completion."""

    __slots__ = ("envelope", "text")

    def __init__(self, captures_output: bool) -> None:
        super().__init__(captures_output)
        self.envelope: Fields = {}
        self.text = TextBuffer()

    def add(self, chunk: object) -> None:
        event = members(chunk)
        for name, value in event.items():
            if value is not None and name != "completion":
                self.envelope[name] = value
        self.is_complete = self.envelope.get("stop_reason") is not None
        if text := event.get("completion"):
            self.has_output = True
            if self.captures_output:
                self.text.add(text)

    def fields(self) -> Fields:
        return _responses.completion({**self.envelope, "completion": str(self.text) if self.text else None})
