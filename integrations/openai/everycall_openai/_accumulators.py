"""What a stream has brought so far, put together as the answer it amounts to. Called for each chunk as it is read.

A gathering is given every chunk once and can be asked for fields at any time: at the end, or when the stream is left in
the middle. With outputs omitted it keeps no text at all.
"""

from __future__ import annotations

from typing import Any, Final

from everycall import limits
from everycall.integration import StreamAccumulator, TextBuffer, get_member, members
from everycall_openai import _responses

__all__ = ["Chat", "Completion", "Response", "is_usage_chunk"]

_TEXTS: Final = frozenset({"content", "refusal", "reasoning_content", "reasoning"})
_SPEAKS: Final = _TEXTS | {"tool_calls", "function_call", "audio"}
"""Members of a delta that the model made; beside them there is its role."""
_AUDIO_CHARS: Final = "audio_base64_chars"


class _Chunked(StreamAccumulator):
    """What chunks of chat and legacy completions, and events of responses, have in common."""

    __slots__ = ("told",)

    def __init__(self, captures_output: bool) -> None:
        super().__init__(captures_output)
        self.told: dict[str, Any] = {}

    def _note(self, stored: dict[str, Any]) -> None:
        """Take what each chunk repeats from the first that has it, and the last report of tokens."""
        if "model" not in self.told:
            for name in ("id", "model", "service_tier", "system_fingerprint"):
                value = stored.get(name)
                if value:
                    self.told[name] = value
        usage = stored.get("usage")
        if usage is not None:
            self.told["usage"] = usage


class _Choice:
    """One choice of a chat that is streamed."""

    __slots__ = ("audio", "calls", "finish_reason", "role", "texts")

    def __init__(self) -> None:
        self.role = "assistant"
        self.finish_reason: str | None = None
        self.texts: dict[str, TextBuffer] = {}
        self.calls: dict[Any, dict[str, Any]] = {}
        self.audio: dict[str, Any] | None = None

    def hear(self, delta: dict[str, Any]) -> None:
        """Take what a delta has."""
        for name, value in delta.items():
            if not value:
                continue
            if name in _TEXTS:
                held = self.texts.get(name)
                if held is None:
                    held = self.texts[name] = TextBuffer()
                held.add(value)
            elif name == "tool_calls":
                for call in value:
                    self._hear_call(get_member(call, "index"), call)
            elif name == "function_call":
                self._hear_call(name, {"function": value})
            elif name == "audio":
                self._hear_audio(value)

    def _hear_call(self, index: Any, call: Any) -> None:
        if index is None:  # some hosts do not number them: a new id is a new call
            index = len(self.calls) - (get_member(call, "id") is None and bool(self.calls))
        held = self.calls.setdefault(index, {"id": None, "type": "function", "name": None, "arguments": TextBuffer()})
        for name in ("id", "type"):
            held[name] = get_member(call, name) or held[name]
        what = get_member(call, "function") or get_member(call, "custom")
        held["name"] = get_member(what, "name") or held["name"]
        held["arguments"].add(get_member(what, "arguments") or get_member(what, "input"))

    def _hear_audio(self, audio: Any) -> None:
        if self.audio is None:
            self.audio = {"id": None, "transcript": TextBuffer(), _AUDIO_CHARS: 0}
        self.audio["id"] = get_member(audio, "id") or self.audio["id"]
        self.audio["transcript"].add(get_member(audio, "transcript"))
        self.audio[_AUDIO_CHARS] += len(get_member(audio, "data") or "")

    def message(self) -> dict[str, Any]:
        """Return what has come as a message, as an answer that is not streamed would have it."""
        said: dict[str, Any] = {"role": self.role, **{name: str(text) for name, text in self.texts.items()}}
        calls = [
            {
                "id": call["id"],
                "type": call["type"],
                **_called(call["type"], call["name"], str(call["arguments"])),
            }
            for index, call in self.calls.items()
            if index != "function_call"
        ]
        if calls:
            said["tool_calls"] = calls
        if "function_call" in self.calls:
            held = self.calls["function_call"]
            said["function_call"] = {"name": held["name"], "arguments": str(held["arguments"])}
        if self.audio is not None:
            size = self.audio[_AUDIO_CHARS] * 3 // 4
            transcript = str(self.audio["transcript"])
            said["audio"] = {"id": self.audio["id"], "transcript": transcript, "data": f"<audio, about {size} bytes>"}
        return said


def _called(kind: str, name: str | None, given: str) -> dict[str, Any]:
    return {"custom": {"name": name, "input": given}} if kind == "custom" else {
        "function": {"name": name, "arguments": given}
    }  # fmt: skip


class Chat(_Chunked):
    """The chunks of a chat completion."""

    __slots__ = ("choices",)

    def __init__(self, captures_output: bool) -> None:
        super().__init__(captures_output)
        self.choices: dict[int, _Choice] = {}

    def add(self, chunk: Any) -> None:
        stored = members(chunk)
        self._note(stored)
        if "x_groq" in stored and (usage := get_member(stored["x_groq"], "usage")) is not None:
            self.told["usage"] = usage
        for choice in stored.get("choices") or ():
            told = members(choice)
            index = told.get("index") or 0
            held = self.choices.get(index)
            if held is None:
                held = self.choices[index] = _Choice()
            delta = members(told.get("delta"))
            if not self.has_output:
                self.has_output = any(delta.get(name) for name in _SPEAKS)
            if self.captures_output:
                held.hear(delta)
            reason = told.get("finish_reason")
            if reason is not None:
                held.finish_reason = reason
                self.is_complete = all(other.finish_reason is not None for other in self.choices.values())

    def fields(self) -> dict[str, Any]:
        choices = [self.choices[index] for index in sorted(self.choices)]
        said = [{"message": choice.message(), "finish_reason": choice.finish_reason} for choice in choices]
        return _responses.chat({**self.told, "choices": said})


class Completion(_Chunked):
    """The chunks of a legacy completion."""

    __slots__ = ("reasons", "texts")

    def __init__(self, captures_output: bool) -> None:
        super().__init__(captures_output)
        self.texts: dict[int, TextBuffer] = {}
        self.reasons: dict[int, Any] = {}

    def add(self, chunk: Any) -> None:
        stored = members(chunk)
        self._note(stored)
        for choice in stored.get("choices") or ():
            told = members(choice)
            index, said = told.get("index") or 0, told.get("text")
            self.reasons[index] = told.get("finish_reason") or self.reasons.get(index)
            held = self.texts.setdefault(index, TextBuffer())
            if said:
                self.has_output = True
                if self.captures_output:
                    held.add(said)
        self.is_complete = bool(self.reasons) and all(reason is not None for reason in self.reasons.values())

    def fields(self) -> dict[str, Any]:
        said = [
            {"text": str(self.texts[index]), "finish_reason": self.reasons.get(index)} for index in sorted(self.texts)
        ]
        return _responses.completion({**self.told, "choices": said})


class Response(_Chunked):
    """The events of a response. The last one has the whole response; until then its items are put together here."""

    __slots__ = ("failure", "items", "refusal", "text", "whole")

    def __init__(self, captures_output: bool) -> None:
        super().__init__(captures_output)
        self.text = TextBuffer()
        self.refusal = TextBuffer()
        self.items: list[Any] = []
        self.whole: Any = None
        self.failure: str | None = None

    def add(self, chunk: Any) -> None:
        kind = get_member(chunk, "type")
        if not isinstance(kind, str):
            return
        if kind.endswith(".delta"):
            self.has_output = True
            if self.captures_output and kind in ("response.output_text.delta", "response.refusal.delta"):
                (self.text if kind == "response.output_text.delta" else self.refusal).add(get_member(chunk, "delta"))
        elif kind == "response.output_item.done":
            if self.captures_output and len(self.items) < limits.STREAM_CHUNKS_MAX:
                self.items.append(get_member(chunk, "item"))
        elif kind == "error":
            self.failure = _responses.failure(chunk)
        else:
            held = get_member(chunk, "response")
            if held is not None:
                self._note(members(held))
                if kind in ("response.completed", "response.incomplete", "response.failed"):
                    self.whole, self.is_complete = held, True

    def fields(self) -> dict[str, Any]:
        if self.whole is not None:
            return _responses.response(self.whole)
        fields = _responses.response({**self.told, "output": self.items})
        if self.text and "content" not in fields:
            fields["content"] = str(self.text)
        if self.refusal and not fields.get("output"):
            fields["output"] = [{"type": "message", "content": [{"type": "refusal", "refusal": str(self.refusal)}]}]
        if self.failure is not None:
            fields["failure"] = self.failure
        return fields


def is_usage_chunk(chunk: Any) -> bool:
    """Tell whether a chunk is there for its report of tokens only; the Responses API has none such."""
    stored = members(chunk)
    return not stored.get("choices") and stored.get("usage") is not None
