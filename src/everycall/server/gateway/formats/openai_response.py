"""OpenAI's chat completions: a response, whole or put together from the chunks of a stream.

Servers that call themselves compatible differ from OpenAI in many ways, so nothing is expected of a body but that it
has a choice. What a message has beside its text and its tool calls is kept as parts of the output.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from typing import Any

from everycall.server.gateway.formats.names import original_names
from everycall.server.gateway.formats.reports import reported_error
from everycall.server.gateway.formats.text import TextJoiner, decode_object, repaired
from everycall.server.gateway.provider_request import ProviderRequest
from everycall.server.gateway.provider_response import (
    ProviderError,
    ProviderResponse,
    build_response,
    token_counts,
)

__all__ = ["ChatStreamParser", "read_response"]

_RESPONSE_ERROR = "ResponseError"
"""The type of an error that a plain response reports without a status."""
_FAILURES = ("error", "network_error")
"""Finish reasons of a choice that failed; the second is GLM's."""
_REASONING = ("reasoning_content", "reasoning")
_READ = frozenset({"role", "content", "refusal", "tool_calls", "function_call", "index", *_REASONING})
"""The members of a message that have a place of their own in a response."""
_CALL = frozenset({"id", "type", "index", "function"})
"""The members of a tool call that are read."""
_BESIDE_CHOICES = ("citations", "search_results", "prompt_filter_results", "prompt_annotations")
"""What some servers say of a response beside its choices: sources, and Azure's verdicts on the prompt."""
_VERDICTS = ("content_filter_results", "content_filter_result")
"""Azure's verdicts on a choice; the second reports that the filter itself failed."""
_SEVERITIES = ("safe", "low", "medium", "high")


def read_response(body: Mapping[str, Any], request: ProviderRequest, provider: str) -> ProviderResponse:
    """Return the first choice of a body; further ones are parts of its output. Raise `ProviderError`.

    Some servers report an error with status 200. A filtered choice may have no message; its tokens are billed.
    """
    if error := _report(body):
        raise reported_error(error, _RESPONSE_ERROR)
    choices = body.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(choices, list) or not isinstance(choice, Mapping):
        raise ProviderError("InvalidAnswer", None, f"the answer of {provider} has no message")
    finish = choice.get("finish_reason")
    if finish in _FAILURES:
        raise reported_error(choice.get("error") or f"the provider failed: {finish}", _RESPONSE_ERROR)
    message = choice.get("message")
    if message is None and isinstance(finish, str):
        message = {}
    if not isinstance(message, Mapping):
        raise ProviderError("InvalidAnswer", None, f"the answer of {provider} has no message")
    verdicts = {name: choice[name] for name in _VERDICTS if choice.get(name)}
    return _response(body, message, verdicts, finish, choices[1:], request)


def _report(body: Mapping[str, Any]) -> Any:
    """Return the error that a body or a chunk reports: as `error`, as vLLM does, or as MiniMax does. Else None."""
    if error := body.get("error"):
        return error
    if body.get("object") == "error" or body.get("type") == "error":
        return body
    status = body.get("base_resp")
    if isinstance(status, Mapping) and status.get("status_code"):
        return {"message": status.get("status_msg"), "code": status["status_code"]}
    return None


def _response(
    body: Mapping[str, Any],
    message: Mapping[str, Any],
    verdicts: Mapping[str, Any],
    finish: Any,
    further_choices: list[Any],
    request: ProviderRequest,
) -> ProviderResponse:
    text, parts = _content(message)
    parts += [{"type": name, name: value} for name, value in message.items() if value and name not in _READ]
    parts += [{"type": name, name: body[name]} for name in _BESIDE_CHOICES if body.get(name)]
    parts += [{"type": name, name: value} for name, value in verdicts.items()]
    parts += [{"type": "choice", "choice": choice} for choice in further_choices]
    model, response_id, groq = body.get("model"), body.get("id"), body.get("x_groq")
    usage = body.get("usage") or (groq.get("usage") if isinstance(groq, Mapping) else None)
    return build_response(
        text=text,
        parts=parts,
        tool_calls=_tool_calls(message, original_names(request.functions)),
        model=model if isinstance(model, str) and model else request.model,
        tokens=token_counts(usage, body.get("service_tier"), response=body),
        finish_reason=finish,
        response_id=response_id,
    )


def _content(message: Mapping[str, Any]) -> tuple[str, list[dict[str, Any]]]:
    """Return a message's text, and its reasoning as a part."""
    texts, thoughts = _texts(message.get("content"))
    text = "".join(texts) or _joined(message.get("refusal"))
    for name in _REASONING:
        if not thoughts and (thought := _joined(message.get(name))):
            thoughts = [thought]
    return text, [{"type": "reasoning", "text": "".join(thoughts)}] if thoughts else []


def _texts(content: Any) -> tuple[list[str], list[str]]:
    """Return the texts and the thoughts of a content: some servers answer in parts, and Mistral thinks in one."""
    if isinstance(content, str):
        return [content], []
    texts: list[str] = []
    thoughts: list[str] = []
    for part in content if isinstance(content, list) else ():
        if not isinstance(part, Mapping):
            continue
        if isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif "thinking" in part:
            thoughts.append(_joined(part["thinking"]))
    return texts, [thought for thought in thoughts if thought]


def _joined(content: Any) -> str:
    return "".join(_texts(content)[0])


def _tool_calls(message: Mapping[str, Any], names: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the calls with their arguments as objects. A call of another kind than a function is kept as it is.

    What a call has beside its function is kept, such as Gemini's signature of the thought that led to it.
    """
    calls = message.get("tool_calls")
    plain: list[dict[str, Any]] = []
    for call in calls if isinstance(calls, list) else ():
        if not isinstance(call, Mapping):
            continue
        function = call.get("function")
        if isinstance(function, Mapping):
            more = {name: value for name, value in call.items() if value and name not in _CALL}
            plain.append({"id": call.get("id"), "type": "function", "function": _function(function, names), **more})
        elif call.get("type"):
            plain.append(dict(call))
    legacy = message.get("function_call")
    if not plain and isinstance(legacy, Mapping):
        plain.append(_function(legacy, names))
    return plain


def _function(function: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    arguments = function.get("arguments")
    if arguments is None:
        arguments = {}
    if isinstance(arguments, str):
        with contextlib.suppress(ValueError):  # a model may write text that is not JSON: it is kept
            arguments = json.loads(arguments) if arguments.strip() else {}
    name = function.get("name")
    return {"name": names.get(name, name) if isinstance(name, str) else name, "arguments": arguments}


class ChatStreamParser:
    """See `StreamParser`: puts the chunks of a stream together into the body that it would have been."""

    def __init__(self, request: ProviderRequest, provider: str) -> None:
        self.finished = False
        self.has_begun = False
        self._request = request
        self._provider = provider
        self._body: dict[str, Any] = {}
        self._text = TextJoiner()
        self._thoughts: list[str] = []
        self._calls: list[dict[str, Any]] = []
        self._call_at: dict[int, int] = {}
        self._message: dict[str, Any] = {}
        self._verdicts: dict[str, Any] = {}
        self._finish: str | None = None

    def feed(self, data: bytes) -> str:
        """See `StreamParser.feed`."""
        chunk = decode_object(data, self._provider)
        if error := _report(chunk):
            raise reported_error(repaired(error))
        for name in ("id", "model", "usage", "service_tier", "x_groq", *_BESIDE_CHOICES):
            if chunk.get(name):
                self._body[name] = chunk[name]
        choices = chunk.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices else None
        if not isinstance(choice, Mapping) or choice.get("index"):
            return ""
        self.has_begun = True
        for name in _VERDICTS:
            if choice.get(name):
                self._verdicts[name] = _worst(self._verdicts.get(name), choice[name])
        finish = choice.get("finish_reason")
        if finish in _FAILURES:
            raise reported_error(repaired(choice.get("error") or f"the provider failed: {finish}"))
        if isinstance(finish, str):
            self._finish, self.finished = finish, True
        if choice.get("usage") and "usage" not in self._body:
            self._body["usage"] = choice["usage"]
        delta = choice["delta"] if isinstance(choice.get("delta"), Mapping) else choice.get("message")
        return self._read_delta(delta) if isinstance(delta, Mapping) else ""

    def end(self) -> str:
        """See `StreamParser.end`."""
        return self._text.end()

    def response(self) -> ProviderResponse:
        """See `StreamParser.response`."""
        message = {**self._message, "content": self._text.text}
        if self._thoughts:
            message["reasoning"] = "".join(self._thoughts)
        if self._calls:
            message["tool_calls"] = self._calls
        body, verdicts = repaired(self._body), repaired(self._verdicts)
        return _response(body, repaired(message), verdicts, self._finish, [], self._request)

    def _read_delta(self, delta: Mapping[str, Any]) -> str:
        calls = delta.get("tool_calls")
        for place, call in enumerate(calls if isinstance(calls, list) else ()):
            if isinstance(call, Mapping):
                self._read_call(call, place)
        if isinstance(delta.get("function_call"), Mapping):
            _merge_function(self._message.setdefault("function_call", {}), delta["function_call"])
        texts, thoughts = _texts(delta.get("content"))
        for name in _REASONING:
            if not thoughts and (thought := _joined(delta.get(name))):
                thoughts = [thought]
        self._thoughts += thoughts
        for name, value in delta.items():
            if value and name not in _READ:
                self._message[name] = _merged(self._message.get(name), value)
        text = "".join(texts) or _joined(delta.get("refusal"))
        return self._text.add(text) if text else ""

    def _read_call(self, delta: Mapping[str, Any], place: int) -> None:
        """Add a part of a tool call, the `place`th of its chunk, to the call it belongs to.

        Parts of a call have its index. Some servers give all calls the same index, or none: then an id says which call
        it is, and else `_begins_call`.
        """
        index, call_id = delta.get("index"), delta.get("id")
        position = self._call_at.get(index) if type(index) is int else len(self._calls) - 1
        if call_id and self._calls and position is not None and self._calls[position]["id"] != call_id:
            position = next((at for at, call in enumerate(self._calls) if call["id"] == call_id), position)
        if position is None or position < 0 or _begins_call(self._calls[position], delta, place):
            position = len(self._calls)
            self._calls.append({"id": None})
        if type(index) is int:
            self._call_at[index] = position
        call = self._calls[position]
        for name, value in delta.items():
            if name == "function" and isinstance(value, Mapping):
                _merge_function(call.setdefault("function", {}), value)
            elif name in ("id", "type"):
                call[name] = call.get(name) or value
            elif value and name != "index":
                call[name] = _merged(call.get(name), value)


def _begins_call(call: Mapping[str, Any], delta: Mapping[str, Any], place: int) -> bool:
    """Return whether a part with a function's name begins another call than this one.

    It does if it has another id, or no id although the call has all of its arguments, or stands beside it in a chunk.
    """
    function, known = delta.get("function"), call.get("function")
    if not isinstance(function, Mapping) or not function.get("name") or not known:
        return False
    if delta.get("id"):
        return bool(call["id"]) and delta["id"] != call["id"]
    if type(delta.get("index")) is not int and place > 0:
        return True
    if not function.get("arguments") and function["name"] == known.get("name"):
        return False
    arguments = known.get("arguments")
    if isinstance(arguments, str):
        try:
            json.loads(arguments)
        except ValueError:
            return False
    return arguments is not None


def _merge_function(function: dict[str, Any], delta: Mapping[str, Any]) -> None:
    """Add a part of a function call: its name, and the next piece of its arguments' text."""
    if isinstance(delta.get("name"), str) and delta["name"]:
        function["name"] = delta["name"]
    arguments = delta.get("arguments")
    if isinstance(arguments, Mapping):
        function["arguments"] = arguments
    elif isinstance(arguments, str):
        earlier = function.get("arguments", "")
        function["arguments"] = earlier + arguments if isinstance(earlier, str) else arguments


def _worst(earlier: Any, verdicts: Any) -> Any:
    """Return the verdicts on a text by category, with those on its next piece: of each category the severest."""
    if not isinstance(earlier, Mapping) or not isinstance(verdicts, Mapping):
        return verdicts
    worse = {name: value for name, value in verdicts.items() if _rank(value) >= _rank(earlier.get(name))}
    return {**earlier, **worse}


def _rank(verdict: Any) -> tuple[bool, int]:
    if not isinstance(verdict, Mapping):
        return False, -1
    severity = verdict.get("severity")
    is_hit = verdict.get("filtered") is True or verdict.get("detected") is True
    return is_hit, _SEVERITIES.index(severity) if severity in _SEVERITIES else -1


def _merged(earlier: Any, value: Any) -> Any:
    """Return a member of a message with what the next chunk adds to it."""
    if isinstance(earlier, list) and isinstance(value, list):
        return [*earlier, *value]
    if isinstance(earlier, str) and isinstance(value, str):
        return earlier + value
    if isinstance(earlier, Mapping) and isinstance(value, Mapping):
        return {**earlier, **{name: _merged(earlier.get(name), item) for name, item in value.items()}}
    return value
