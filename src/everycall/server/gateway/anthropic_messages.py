"""Anthropic's messages API. Called by `gateway/providers.py`.

Through the official `anthropic` client and its time-outs, with its own OpenTelemetry spans switched off: the server
never traces itself.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from typing import Any

import anthropic

from everycall import limits
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
from everycall.server.problems import problem
from everycall.server.provider_settings import ProviderSettings

__all__ = ["AnthropicMessages"]


class AnthropicMessages:
    """One configured provider of kind anthropic. Its client is made once and reused."""

    def __init__(self, settings: ProviderSettings) -> None:
        self._settings = settings
        options = client_options(settings, anthropic.DefaultAsyncHttpxClient)
        if "open_telemetry" in inspect.signature(anthropic.AsyncAnthropic.__init__).parameters:
            options["open_telemetry"] = False  # client versions from 2 on make spans of their own
        # Given always: the client would take ANTHROPIC_BASE_URL of this process for a provider that has no address.
        self._client = anthropic.AsyncAnthropic(base_url=settings.base_url or "https://api.anthropic.com", **options)

    async def ask(self, asked: ProviderRequest, caller_key: str | None) -> ProviderResponse:
        """See `Backend.ask`."""
        parameters = _parameters(asked)
        client = self._client.with_options(api_key=caller_key) if caller_key else self._client
        try:
            raw = await client.messages.with_raw_response.create(**parameters)
        except anthropic.AnthropicError as error:
            raise client_error(error, (self._settings.api_key, caller_key)) from None
        return _answer(decode_body(raw.http_response.content, self._settings.name), asked, self._settings.name)

    def stream(self, asked: ProviderRequest, caller_key: str | None) -> ProviderStream:
        """See `Backend.stream`."""
        client = self._client.with_options(api_key=caller_key) if caller_key else self._client
        opening = client.messages.with_streaming_response.create(**_parameters(asked), stream=True)
        secrets = (self._settings.api_key, caller_key)
        pieces = _MessageStream(asked, self._settings.name, secrets)
        return ProviderStream(opening, pieces, lambda error: client_error(error, secrets), self._settings.name)

    async def close(self) -> None:
        """See `Backend.close`."""
        await self._client.close()


class _MessageStream:
    """The events of one streamed message, put together into the body that it would have been."""

    def __init__(self, asked: ProviderRequest, provider: str, secrets: tuple[str | None, ...]) -> None:
        self.finished = False
        self._asked = asked
        self._provider = provider
        self._secrets = secrets
        self._body: dict[str, Any] = {}
        self._usage: dict[str, Any] = {}
        self._blocks: dict[int, dict[str, Any]] = {}

    def take(self, data: bytes) -> str:
        """See `StreamParser.take`."""
        event = decode_body(data, self._provider)
        kind = event.get("type")
        if kind == "error":
            raise stream_error(event.get("error"), self._secrets)
        if kind == "message_start" and isinstance(event.get("message"), dict):
            self._body = {name: event["message"].get(name) for name in ("id", "model")}
            self._count(event["message"].get("usage"))
            self._usage.pop("output_tokens", None)  # those of the start alone; the last event has all of them
        elif kind == "message_delta":
            self._count(event.get("usage"))
            if isinstance(event.get("delta"), dict):
                self._body["stop_reason"] = event["delta"].get("stop_reason")
        elif kind == "message_stop":
            self.finished = True
        elif kind in ("content_block_start", "content_block_delta"):
            return self._block(event)
        return ""

    def so_far(self) -> ProviderResponse:
        """See `StreamParser.so_far`."""
        content: list[dict[str, Any]] = []
        for index in sorted(self._blocks):
            block = dict(self._blocks[index])
            if pieces := block.pop("json", None):
                text = "".join(pieces)
                try:
                    block["input"] = json.loads(text)
                except ValueError:
                    block["input"] = text
            content.append({**block, "text": "".join(block["text"])} if "text" in block else block)
        return _answer({**self._body, "content": content, "usage": self._usage}, self._asked, self._provider)

    def _block(self, event: Mapping[str, Any]) -> str:
        index = event.get("index")
        start, delta = event.get("content_block"), event.get("delta")
        index = index if isinstance(index, int) else 0
        text = ""
        if isinstance(start, dict):
            block = self._blocks[index] = {name: start.get(name) for name in ("type", "id", "name", "input")}
            if start.get("type") == "text":
                text = str(start.get("text") or "")
                self._blocks[index] = {**block, "text": [text]}
        elif isinstance(delta, dict):
            block = self._blocks.setdefault(index, {"type": "text", "text": []})
            if delta.get("type") == "text_delta":
                text = str(delta.get("text") or "")
                block.setdefault("text", []).append(text)
            elif delta.get("type") == "input_json_delta":
                block.setdefault("json", []).append(str(delta.get("partial_json") or ""))
        return text

    def _count(self, usage: Any) -> None:
        if isinstance(usage, dict):
            self._usage.update({name: value for name, value in usage.items() if value is not None})


def _parameters(asked: ProviderRequest) -> dict[str, Any]:
    system, messages = _conversation(asked)
    params = asked.params
    parameters: dict[str, Any] = {
        "model": asked.model,
        "messages": messages,
        "max_tokens": params.get("max_length", limits.ANSWER_TOKENS_DEFAULT),
    }
    if system:
        parameters["system"] = system
    # Past the client, whose latest versions have no such parameters. 1 is the API's own value, and is not sent: newer
    # models refuse to be told, and Parea's client always tells.
    beside = {
        theirs: params[name]
        for name, theirs in (("temp", "temperature"), ("top_p", "top_p"))
        if name in params and params[name] != 1
    }
    for name in ("frequency_penalty", "presence_penalty", "safe_prompt"):
        if params.get(name):
            raise _unsupported(name, f"leave out {name}")
    response_format = params.get("response_format") or {}
    if response_format.get("type") == "json_schema":
        schema = (response_format.get("json_schema") or {}).get("schema")
        beside["output_config"] = {"format": {"type": "json_schema", "schema": schema}}
    elif response_format.get("type", "text") != "text":
        raise _unsupported("response_format", "use type json_schema, or ask for JSON in the prompt")
    if asked.functions:
        parameters["tools"] = [_tool(function) for function in asked.functions]
        if asked.function_call:
            parameters["tool_choice"] = _tool_choice(asked.function_call)
    if beside:
        parameters["extra_body"] = beside
    return parameters


def _unsupported(name: str, remedy: str) -> Exception:
    return problem(
        "unsupported_parameter",
        422,
        f"Anthropic has no {name}",
        f"model_params.{name} cannot be sent to Anthropic: {remedy}.",
        field=f"llm_configuration.model_params.{name}",
    )


def _tool(function: Mapping[str, Any]) -> dict[str, Any]:
    schema = function.get("parameters") or function.get("input_schema") or {"type": "object", "properties": {}}
    tool: dict[str, Any] = {"name": function["name"], "input_schema": schema}
    if function.get("description"):
        tool["description"] = function["description"]
    return tool


def _tool_choice(function_call: str | Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(function_call, str):
        return {"type": {"required": "any"}.get(function_call, function_call)}
    name = function_call.get("name")
    return {"type": "tool", "name": name} if isinstance(name, str) else dict(function_call)


def _conversation(asked: ProviderRequest) -> tuple[str, list[dict[str, Any]]]:
    """Return the system prompt and the turns. A prompt that has only system messages becomes the user's turn."""
    system: list[str] = []
    turns: list[dict[str, Any]] = []
    for message in asked.messages:
        role = message["role"]
        if role in ("system", "developer"):
            system.append(_plain_text(message.get("content")))
        elif role in ("tool", "function"):
            result = {
                "type": "tool_result",
                "tool_use_id": message.get("tool_call_id") or message.get("name") or "",
                "content": _plain_text(message.get("content")),
            }
            turns.append({"role": "user", "content": [result]})
        elif message.get("tool_calls"):
            turns.append({"role": "assistant", "content": _tool_use(message)})
        else:
            turns.append({"role": role, "content": _content(message.get("content"))})
    text = "\n\n".join(part for part in system if part)
    return ("", [{"role": "user", "content": text}]) if not turns else (text, turns)


def _plain_text(content: Any) -> str:
    if isinstance(content, list):
        return "\n".join(str(part["text"]) for part in content if isinstance(part, Mapping) and "text" in part)
    return content if isinstance(content, str) else ""


def _content(content: Any) -> Any:
    if not isinstance(content, list):
        return content or ""
    return [_part(part) if isinstance(part, Mapping) else part for part in content]


def _part(part: Mapping[str, Any]) -> dict[str, Any]:
    """Return one content part in Anthropic's form; OpenAI's image parts are turned into theirs."""
    image = part.get("image_url")
    if part.get("type") != "image_url" or image is None:
        return dict(part)
    url = image.get("url", "") if isinstance(image, Mapping) else str(image)
    if url.startswith("data:") and ";base64," in url:
        media_type, _, data = url.removeprefix("data:").partition(";base64,")
        return {"type": "image", "source": {"type": "base64", "media_type": media_type, "data": data}}
    return {"type": "image", "source": {"type": "url", "url": url}}


def _tool_use(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    text = _plain_text(message.get("content"))
    blocks: list[dict[str, Any]] = [{"type": "text", "text": text}] if text else []
    for call in message["tool_calls"]:
        function = call.get("function") or {}
        arguments = function.get("arguments")
        if isinstance(arguments, str):
            try:
                arguments = json.loads(arguments)
            except ValueError:
                arguments = {"arguments": arguments}  # the API wants an object
        blocks.append(
            {"type": "tool_use", "id": call.get("id"), "name": function.get("name"), "input": arguments or {}}
        )
    return blocks


def _answer(body: Mapping[str, Any], asked: ProviderRequest, provider: str) -> ProviderResponse:
    blocks = body.get("content")
    if not isinstance(blocks, list):
        raise ProviderError("InvalidAnswer", None, f"the answer of {provider} has no content")
    texts: list[str] = []
    calls: list[dict[str, Any]] = []
    for block in blocks:
        kind = block.get("type") if isinstance(block, dict) else None
        if kind == "text":
            texts.append(str(block.get("text") or ""))
        elif kind == "tool_use":
            function = {"name": block.get("name"), "arguments": block.get("input")}
            calls.append({"id": block.get("id"), "type": "function", "function": function})
    text = "".join(texts)
    model, finish, response_id = body.get("model"), body.get("stop_reason"), body.get("id")
    return ProviderResponse(
        content=format_tool_calls(calls) if calls else text,
        output=[*([{"type": "text", "text": text}] if text else []), *calls] if calls else None,
        model=model if isinstance(model, str) and model else asked.model,
        tokens=token_counts(body.get("usage")),
        finish_reasons=[finish] if isinstance(finish, str) else [],
        response_id=response_id if isinstance(response_id, str) else None,
    )
