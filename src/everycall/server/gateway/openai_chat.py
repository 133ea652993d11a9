"""OpenAI's chat completions API: OpenAI, Azure, and every server that speaks it. Called by `gateway/providers.py`.

Through the official `openai` client and its time-outs. The raw JSON is read instead of the client's models, because
compatible servers differ from them in ways that must not fail a call.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping
from typing import Any

import openai

from everycall.server.gateway.provider_request import ProviderRequest
from everycall.server.gateway.provider_response import (
    ProviderError,
    ProviderResponse,
    decode_body,
    format_tool_calls,
    token_counts,
)
from everycall.server.gateway.sdk_errors import client_error, client_options, stream_error
from everycall.server.gateway.sse import ProviderStream
from everycall.server.provider_settings import ProviderSettings

__all__ = ["OpenAIChat"]

_COMPLETION_TOKENS = re.compile(r"^(?:ft:)?(?:o\d|gpt-[5-9]|codex)")
_PLAIN = {
    "temp": "temperature",
    "top_p": "top_p",
    "frequency_penalty": "frequency_penalty",
    "presence_penalty": "presence_penalty",
    "response_format": "response_format",
}


class OpenAIChat:
    """One configured provider of kinds openai, azure or openai_compatible. Its client is made once and reused."""

    def __init__(self, settings: ProviderSettings) -> None:
        self._settings = settings
        options = client_options(settings, openai.DefaultAsyncHttpxClient)
        self._client: openai.AsyncOpenAI
        if settings.kind == "azure":
            self._client = openai.AsyncAzureOpenAI(
                azure_endpoint=settings.base_url or "", api_version=settings.api_version, **options
            )
        else:
            # Given always: the client would take OPENAI_BASE_URL of this process for a provider that has no address.
            base_url = settings.base_url or "https://api.openai.com/v1"
            self._client = openai.AsyncOpenAI(base_url=base_url, **options)
        if settings.kind == "openai_compatible":
            self._client.organization = None  # from OPENAI_ORG_ID: another company's server is not told
            self._client.project = None

    async def ask(self, asked: ProviderRequest, caller_key: str | None) -> ProviderResponse:
        """See `Backend.ask`."""
        client = self._client.with_options(api_key=caller_key) if caller_key else self._client
        try:
            raw = await client.chat.completions.with_raw_response.create(**_parameters(asked, self._settings.kind))
        except openai.OpenAIError as error:
            raise client_error(error, (self._settings.api_key, caller_key)) from None
        return _answer(decode_body(raw.http_response.content, self._settings.name), asked, self._settings.name)

    def stream(self, asked: ProviderRequest, caller_key: str | None) -> ProviderStream:
        """See `Backend.stream`. Counts come with the last event, where the provider knows `include_usage`."""
        client = self._client.with_options(api_key=caller_key) if caller_key else self._client
        opening = client.chat.completions.with_streaming_response.create(
            **_parameters(asked, self._settings.kind), stream=True, stream_options={"include_usage": True}
        )
        secrets = (self._settings.api_key, caller_key)
        pieces = _ChatStream(asked, self._settings.name, secrets)
        return ProviderStream(opening, pieces, lambda error: client_error(error, secrets), self._settings.name)

    async def close(self) -> None:
        """See `Backend.close`."""
        await self._client.close()


class _ChatStream:
    """The chunks of one streamed answer, put together into the body that it would have been."""

    def __init__(self, asked: ProviderRequest, provider: str, secrets: tuple[str | None, ...]) -> None:
        self.finished = False
        self._asked = asked
        self._provider = provider
        self._secrets = secrets
        self._about: dict[str, Any] = {}
        self._texts: list[str] = []
        self._calls: dict[int, dict[str, Any]] = {}
        self._legacy: dict[str, Any] = {}
        self._finish: str | None = None

    def take(self, data: bytes) -> str:
        """See `StreamParser.take`."""
        chunk = decode_body(data, self._provider)
        if error := chunk.get("error"):
            raise stream_error(error, self._secrets)
        self._about.update((name, chunk[name]) for name in ("id", "model", "usage") if chunk.get(name))
        choices = chunk.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices else None
        if not isinstance(choice, dict) or choice.get("index"):
            return ""
        if isinstance(choice.get("finish_reason"), str):
            self._finish = choice["finish_reason"]
            self.finished = True
        delta = choice.get("delta")
        return self._delta(delta) if isinstance(delta, dict) else ""

    def so_far(self) -> ProviderResponse:
        """See `StreamParser.so_far`."""
        message: dict[str, Any] = {"content": "".join(self._texts)}
        if self._calls:
            message["tool_calls"] = [self._calls[index] for index in sorted(self._calls)]
        if self._legacy:
            message["function_call"] = self._legacy
        body = {**self._about, "choices": [{"message": message, "finish_reason": self._finish}]}
        return _answer(body, self._asked, self._provider)

    def _delta(self, delta: Mapping[str, Any]) -> str:
        calls = delta.get("tool_calls")
        for place, call in enumerate(calls if isinstance(calls, list) else ()):
            if isinstance(call, dict):
                index = call.get("index")
                known = self._calls.setdefault(index if isinstance(index, int) else place, {"function": {}})
                known["id"] = call.get("id") or known.get("id")
                _join(known["function"], call.get("function"))
        _join(self._legacy, delta.get("function_call"))
        text = _text(delta.get("content")) or _text(delta.get("refusal"))
        if text:
            self._texts.append(text)
        return text


def _join(function: dict[str, Any], more: Any) -> None:
    """Add a part of a function call: its name, and the next piece of its arguments' text."""
    if not isinstance(more, Mapping):
        return
    if isinstance(more.get("name"), str) and more["name"]:
        function["name"] = more["name"]
    if isinstance(more.get("arguments"), str):
        function["arguments"] = function.get("arguments", "") + more["arguments"]


def _parameters(asked: ProviderRequest, kind: str) -> dict[str, Any]:
    parameters: dict[str, Any] = {"model": asked.model, "messages": [_message(message) for message in asked.messages]}
    for name, theirs in _PLAIN.items():
        if name in asked.params:
            parameters[theirs] = asked.params[name]
    if "max_length" in asked.params:
        newer = kind != "openai_compatible" and _COMPLETION_TOKENS.match(asked.model)
        parameters["max_completion_tokens" if newer else "max_tokens"] = asked.params["max_length"]
    if "safe_prompt" in asked.params and kind == "openai_compatible":
        parameters["extra_body"] = {"safe_prompt": asked.params["safe_prompt"]}  # Mistral's
    if asked.functions:
        parameters["tools"] = [{"type": "function", "function": function} for function in asked.functions]
        if asked.function_call:
            parameters["tool_choice"] = _tool_choice(asked.function_call)
    return parameters


def _tool_choice(function_call: str | Mapping[str, Any]) -> Any:
    if isinstance(function_call, str):
        return function_call
    if isinstance(function_call.get("name"), str):
        return {"type": "function", "function": {"name": function_call["name"]}}
    return dict(function_call)


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    plain = dict(message)
    if calls := plain.get("tool_calls"):
        plain["tool_calls"] = [_as_sent(call) for call in calls]
    return plain


def _as_sent(call: Mapping[str, Any]) -> dict[str, Any]:
    """Return a tool call with its arguments as JSON text, which the API wants and our own answers do not have."""
    function = call.get("function")
    if isinstance(function, Mapping) and not isinstance(function.get("arguments"), str):
        return {**call, "function": {**function, "arguments": json.dumps(function.get("arguments") or {})}}
    return dict(call)


def _answer(body: Mapping[str, Any], asked: ProviderRequest, provider: str) -> ProviderResponse:
    choices = body.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else None
    message = choice.get("message") if choice else None
    if choice is None or not isinstance(message, dict):
        raise ProviderError("InvalidAnswer", None, f"the answer of {provider} has no message")
    text = _text(message.get("content")) or _text(message.get("refusal"))
    calls = _tool_calls(message)
    finish = choice.get("finish_reason")
    model = body.get("model")
    response_id = body.get("id")
    return ProviderResponse(
        content=format_tool_calls(calls) if calls else text,
        output=[*([{"type": "text", "text": text}] if text else []), *calls] if calls else None,
        model=model if isinstance(model, str) and model else asked.model,
        tokens=token_counts(body.get("usage"), body.get("service_tier"), response=body),
        finish_reasons=[finish] if isinstance(finish, str) else [],
        response_id=response_id if isinstance(response_id, str) else None,
    )


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list):  # some compatible servers answer in parts
        return "".join(part["text"] for part in content if isinstance(part, dict) and isinstance(part.get("text"), str))
    return ""


def _tool_calls(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    calls = message.get("tool_calls")
    plain: list[dict[str, Any]] = []
    for call in calls if isinstance(calls, list) else ():
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict):
            plain.append({"id": call.get("id"), "type": "function", "function": _function(function)})
    legacy = message.get("function_call")
    if not plain and isinstance(legacy, dict):
        plain.append(_function(legacy))
    return plain


def _function(function: Mapping[str, Any]) -> dict[str, Any]:
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        with contextlib.suppress(ValueError):  # a model may write what is not JSON: it is kept as the text it is
            arguments = json.loads(arguments)
    return {"name": function.get("name"), "arguments": arguments}
