"""The format of Anthropic's messages API. Used by `providers.py`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from everycall import limits
from everycall.server.gateway.formats.anthropic_conversation import conversation
from everycall.server.gateway.formats.anthropic_response import MessageStreamParser, read_response
from everycall.server.gateway.formats.base import refused
from everycall.server.gateway.formats.conversation import function_choice
from everycall.server.gateway.formats.names import allowed_name
from everycall.server.gateway.formats.parameters import (
    check_choice,
    check_known,
    check_range,
    check_schema,
    stop_sequences,
    unsupported,
)
from everycall.server.gateway.provider_request import ProviderRequest
from everycall.server.gateway.provider_response import ProviderError, ProviderResponse
from everycall.server.provider_settings import ProviderSettings

__all__ = ["AnthropicMessages", "max_tokens_of"]

VERSION = "2023-06-01"
"""Of the API. It has sampling parameters, which its later versions have no more."""

CACHE_CONTROLS_MAX = 4

_MAX_TOKENS = (
    (re.compile(r"claude-(?:instant|2)|claude-3-(?:haiku|opus|sonnet)"), 4_096),
    (re.compile(r"claude-3-5-"), 8_192),
    (re.compile(r"claude-opus-4(?:-[01])?(?:-\d{8}|@|$|-v)"), 32_000),
    (re.compile(r"claude-3-7-|claude-(?:sonnet|haiku)-4(?:-[0-5])?(?:-\d{8}|@|$|-v)"), 64_000),
    (re.compile(r"claude-opus-4-[6-9]|claude-(?:opus|sonnet)-[5-9]"), 128_000),
)
_MAX_TOKENS_OTHERWISE = 64_000
_ONE_SAMPLING = re.compile(r"claude-(?:opus|sonnet|haiku)-(?:4-[1-9](?!\d)|[5-9])")
"""Models that take temperature or top_p, but not both."""
_NO_PREFILL = re.compile(r"claude-(?:opus|sonnet)-4-[6-9]|claude-(?:opus|sonnet|haiku)-[5-9]")
"""Models that do not continue a message of the assistant."""
_PROPERTY = re.compile(r"[A-Za-z0-9_.-]{1,64}\Z")
_TOO_MANY = re.compile(r"max_tokens: \d+ > (\d+)")
_KNOWN = frozenset(
    {"temp", "top_p", "top_k", "max_length", "stop", "response_format", "service_tier", "parallel_tool_calls"}
)


def max_tokens_of(model: str) -> int:
    """Return the most tokens that a model answers with, which is what it is asked for unless the request says less."""
    for pattern, tokens in _MAX_TOKENS:
        if pattern.search(model):
            return tokens
    return _MAX_TOKENS_OTHERWISE


class AnthropicMessages:
    """See `ApiFormat`."""

    def __init__(self, settings: ProviderSettings) -> None:
        self._settings = settings
        self._url = f"{(settings.base_url or 'https://api.anthropic.com').rstrip('/')}/v1/messages"
        self._max_tokens: dict[str, int] = {}

    def url(self, request: ProviderRequest) -> str:
        """See `ApiFormat.url`."""
        del request
        return self._url

    def headers(self, api_key: str | None) -> Mapping[str, str]:
        """See `ApiFormat.headers`."""
        headers = {"anthropic-version": VERSION}
        return {**headers, "x-api-key": api_key} if api_key else headers

    def body(self, request: ProviderRequest, *, stream: bool) -> dict[str, Any]:
        """See `ApiFormat.body`."""
        system, messages = conversation(request.messages)
        family = self._settings.models.get(request.model, request.model)
        if messages[-1]["role"] == "assistant" and _NO_PREFILL.search(family):
            remedy = "it continues no message of the assistant. End with one of the user."
            raise refused("messages", "The last message is the assistant's", f"{family[:64]} refuses this: {remedy}")
        body: dict[str, Any] = {"model": request.model, "messages": messages}
        if system:
            body["system"] = system
        body |= self._parameters(request, family)
        if request.functions:
            body["tools"] = _tools(request.functions)
        if choice := _tool_choice(request):
            body["tool_choice"] = choice
        if _cache_controls(body) > CACHE_CONTROLS_MAX:
            detail = f"Anthropic takes cache_control in {CACHE_CONTROLS_MAX} places of a request at most."
            raise refused("messages", "Too many places with cache_control", detail)
        if stream:
            body["stream"] = True
        return body

    def adapt(self, request: ProviderRequest, body: Mapping[str, Any], error: ProviderError) -> bool:
        """See `ApiFormat.adapt`: a model may answer with fewer tokens than we know."""
        match = _TOO_MANY.search(error.message)
        if match is None or "max_length" in request.params or int(match[1]) >= body["max_tokens"]:
            return False
        if len(self._max_tokens) >= limits.REFUSALS_LEARNED_MAX:
            self._max_tokens.clear()
        self._max_tokens[request.model] = int(match[1])
        return True

    def response(self, body: Mapping[str, Any], request: ProviderRequest) -> ProviderResponse:
        """See `ApiFormat.response`."""
        return read_response(body, request, self._settings.name)

    def stream_parser(self, request: ProviderRequest) -> MessageStreamParser:
        """See `ApiFormat.stream_parser`."""
        return MessageStreamParser(request, self._settings.name)

    def _parameters(self, request: ProviderRequest, family: str) -> dict[str, Any]:
        model, params = request.model, request.params
        check_known(params, _KNOWN, "Anthropic")
        check_range(params, "temp", 0, 1, "Anthropic")
        check_range(params, "top_p", 0, 1, "Anthropic")
        known_max = next((tokens for pattern, tokens in _MAX_TOKENS if pattern.search(family)), None)
        if known_max is not None and (params.get("max_length") or 0) > known_max:
            raise unsupported("max_length", "Anthropic", f"{family[:64]} answers with at most {known_max} tokens")
        sent: dict[str, Any] = {"max_tokens": params.get("max_length")}
        if sent["max_tokens"] is None:
            sent["max_tokens"] = self._max_tokens.get(model) or max_tokens_of(family)
        # 1 is the API's own value. Newer models refuse to be told, and Parea's client always tells.
        for name, theirs in (("temp", "temperature"), ("top_p", "top_p")):
            if params.get(name) not in (None, 1):
                sent[theirs] = params[name]
        if "temperature" in sent and "top_p" in sent and _ONE_SAMPLING.search(family):
            raise unsupported("top_p", "Anthropic", f"{family[:64]} takes temp or top_p; leave out one of them")
        if params.get("top_k") is not None:
            sent["top_k"] = params["top_k"]
        if stop := stop_sequences(params, "Anthropic"):
            if not all(sequence.strip() for sequence in stop):
                raise unsupported("stop", "Anthropic", "white space alone cannot be a stop sequence")
            sent["stop_sequences"] = stop
        if tier := params.get("service_tier"):
            check_choice(params, "service_tier", ("auto", "standard_only"), "Anthropic")
            sent["service_tier"] = tier
        if output_config := _output_config(params.get("response_format") or {}):
            sent["output_config"] = output_config
        return sent


def _cache_controls(value: Any) -> int:
    """Return how many blocks of a body have `cache_control`. What a function's arguments contain does not count."""
    if isinstance(value, list):
        return sum(map(_cache_controls, value))
    if not isinstance(value, Mapping):
        return 0
    inner = (item for name, item in value.items() if name not in ("input", "input_schema", "source"))
    return ("cache_control" in value) + sum(map(_cache_controls, inner))


def _output_config(response_format: Mapping[str, Any]) -> dict[str, Any] | None:
    kind = response_format.get("type", "text")
    if kind == "text":
        return None
    schema = response_format.get("json_schema")
    if kind != "json_schema" or not isinstance(schema, Mapping) or not isinstance(schema.get("schema"), Mapping):
        remedy = "use type json_schema with json_schema.schema, or ask for JSON in the prompt"
        raise unsupported("response_format", "Anthropic", remedy)
    return {"format": {"type": "json_schema", "schema": schema["schema"]}}


def _tools(functions: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    tools: dict[str, dict[str, Any]] = {}
    for index, function in enumerate(functions):
        place = f"functions[{index}]"
        name = allowed_name(function["name"])
        if name in tools:
            raise refused(f"{place}.name", "Two functions have one name", f"{place}.name is used before.")
        schema = function.get("parameters") or function.get("input_schema") or {}
        check_schema(schema, f"{place}.parameters", "Anthropic")
        for property_name in schema.get("properties", {}):
            if not _PROPERTY.match(property_name):
                remedy = "may have 64 letters, digits, _, . and -"
                detail = f"The name of a property {remedy}, not {property_name[:64]!r}."
                field = f"{place}.parameters.properties"
                raise refused(field, "Anthropic does not take this property", detail)
        tool = {"name": name, "input_schema": {"type": "object", "properties": {}, **schema}}
        for member, value in function.items():
            if member in ("description", "cache_control", "strict"):
                if value:
                    tool[member] = value
            elif member not in ("name", "parameters", "input_schema") and value is not None:
                raise refused(
                    f"{place}.{member}",
                    "Anthropic's tools have no such member",
                    f"{place} may have name, description, parameters, strict and cache_control, not {member[:64]!r}.",
                )
        tools[name] = tool
    return list(tools.values())


def _tool_choice(request: ProviderRequest) -> dict[str, Any] | None:
    choice = function_choice(request.function_call, request.functions)
    one_at_a_time = bool(request.functions) and request.params.get("parallel_tool_calls") is False
    if choice is None and not one_at_a_time:
        return None
    if choice is not None and choice.startswith("="):
        sent: dict[str, Any] = {"type": "tool", "name": allowed_name(choice[1:])}
    else:
        sent = {"type": {"required": "any"}.get(choice or "auto", choice or "auto")}
    if one_at_a_time and sent["type"] != "none":
        sent["disable_parallel_tool_use"] = True
    return sent
