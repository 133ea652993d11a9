"""OpenAI's chat completions: what is sent to OpenAI, to Azure, and to servers that call themselves compatible.

OpenAI and Azure refuse what their schema does not have, so their requests are checked and mapped here. A compatible
server may know more than OpenAI, so its requests are sent as they are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from everycall.server.gateway.formats.base import refused
from everycall.server.gateway.formats.conversation import function_choice, paired
from everycall.server.gateway.formats.names import allowed_name
from everycall.server.gateway.formats.openai_content import content_parts
from everycall.server.gateway.formats.parameters import (
    check_choice,
    check_known,
    check_range,
    check_schema,
    stop_sequences,
    unsupported,
)
from everycall.server.gateway.provider_request import ProviderRequest
from everycall.server.gateway.request import PAREA_DEFAULTS

__all__ = ["CALL_ID_CHARS_MAX", "is_reasoning_model", "neutral", "request_body"]

CALL_ID_CHARS_MAX = 40
"""Of a tool call's id at OpenAI."""

_REASONING = re.compile(r"(?:ft:)?(?:o\d|gpt-[5-9]|codex)")
_FIXED_SAMPLING = re.compile(r"(?:ft:)?(?:o\d|gpt-5(?!\.\d|-chat))")
"""Models that refuse sampling parameters whatever their value."""
_WITHOUT_STOP = re.compile(r"(?:ft:)?(?:o3(?!-mini)|o4|gpt-5(?!\.\d|-chat))")
"""Models that refuse stop sequences."""
_WITHOUT_VERBOSITY = re.compile(r"(?:ft:)?o\d")
_TIERS = ("auto", "default", "flex", "scale", "priority")
_EFFORTS = (
    (re.compile(r"(?:ft:)?o\d"), ("low", "medium", "high")),
    (re.compile(r"(?:ft:)?gpt-5(?!\.\d)"), ("minimal", "low", "medium", "high")),
    (re.compile(""), ("none", "minimal", "low", "medium", "high", "xhigh")),
)
"""How much a model can be asked to reason, by the beginning of its name."""
_VERBOSITIES = ("low", "medium", "high")
FUNCTIONS_MAX = 128
_PARTICIPANT = re.compile(r"[^\s<|\\/>]{1,64}\Z")

_NAMES = {
    "temp": "temperature",
    "top_p": "top_p",
    "frequency_penalty": "frequency_penalty",
    "presence_penalty": "presence_penalty",
    "response_format": "response_format",
    "stop": "stop",
    "seed": "seed",
    "reasoning_effort": "reasoning_effort",
    "verbosity": "verbosity",
    "service_tier": "service_tier",
    "logit_bias": "logit_bias",
    "parallel_tool_calls": "parallel_tool_calls",
}
_COMPATIBLE_NAMES = {**_NAMES, "top_k": "top_k", "safe_prompt": "safe_prompt"}
_SAMPLING = ("temp", "top_p", "frequency_penalty", "presence_penalty")
_NEUTRAL = {_NAMES[name]: getattr(PAREA_DEFAULTS, name) for name in _SAMPLING}


def is_reasoning_model(family: str) -> bool:
    """Return whether a model of OpenAI reasons, and so takes other parameters."""
    return bool(_REASONING.match(family))


def neutral(body: Mapping[str, Any]) -> list[str]:
    """Return the sampling parameters of a body that ask for what the API does by default."""
    return [name for name, value in _NEUTRAL.items() if body.get(name) == value]


def request_body(request: ProviderRequest, family: str, *, is_compatible: bool) -> dict[str, Any]:
    """Return the body of a plain request, with the length as `max_tokens` or `max_completion_tokens`.

    `family` is the name of the model that the request's model is one of. Raise `ProblemError` 422 for what OpenAI is
    known to refuse.
    """
    if is_compatible:
        messages = [_as_sent(message) for message in request.messages]
        tools = [{"type": "function", "function": function} for function in request.functions]
        choice = function_choice(request.function_call, request.functions)
    else:
        messages = [_checked(message) for message in paired(request.messages, adjacent=True)]
        tools = _checked_tools(request.functions)
        choice = function_choice(request.function_call, request.functions)
    body: dict[str, Any] = {"model": request.model, "messages": messages}
    body |= _parameters(request, family, is_compatible=is_compatible)
    if tools:
        body["tools"] = tools
        if choice is not None:
            body["tool_choice"] = _tool_choice(choice, is_compatible=is_compatible)
    return body


def _parameters(request: ProviderRequest, family: str, *, is_compatible: bool) -> dict[str, Any]:
    params = request.params
    names = _COMPATIBLE_NAMES if is_compatible else _NAMES
    check_known(params, {*names, "max_length"}, "A compatible server" if is_compatible else "OpenAI")
    sent = {theirs: params[name] for name, theirs in names.items() if name in params and params[name] not in ([], {})}
    is_reasoning = not is_compatible and is_reasoning_model(family)
    if not is_compatible:
        _check_openai(params, family, request.messages)
    if is_reasoning:
        for name in neutral(sent):
            del sent[name]
    if "max_length" in params:
        sent["max_completion_tokens" if is_reasoning else "max_tokens"] = params["max_length"]
    if not request.functions:
        sent.pop("parallel_tool_calls", None)
    return sent


def _check_openai(params: Mapping[str, Any], family: str, messages: Sequence[Mapping[str, Any]]) -> None:
    check_range(params, "temp", 0, 2, "OpenAI")
    check_range(params, "top_p", 0, 1, "OpenAI")
    check_range(params, "frequency_penalty", -2, 2, "OpenAI")
    check_range(params, "presence_penalty", -2, 2, "OpenAI")
    if stop_sequences(params, "OpenAI", 4) and _WITHOUT_STOP.match(family):
        raise unsupported("stop", "OpenAI", f"{family[:64]} takes no stop sequences; leave out stop")
    check_choice(params, "service_tier", _TIERS, "OpenAI")
    efforts = next(efforts for pattern, efforts in _EFFORTS if pattern.match(family))
    check_choice(params, "reasoning_effort", efforts, "OpenAI")
    check_choice(params, "verbosity", _VERBOSITIES, "OpenAI")
    for bias in (params.get("logit_bias") or {}).values():
        if not -100 <= bias <= 100:
            raise unsupported("logit_bias", "OpenAI", "each value may be -100 to 100")
    if _FIXED_SAMPLING.match(family):
        for name in _SAMPLING:
            if params.get(name) not in (None, getattr(PAREA_DEFAULTS, name)):
                raise unsupported(name, "OpenAI", f"{family[:64]} has a fixed value; leave out {name}")
        if params.get("logit_bias"):
            raise unsupported("logit_bias", "OpenAI", f"{family[:64]} takes none; leave out logit_bias")
        if params.get("verbosity") is not None and _WITHOUT_VERBOSITY.match(family):
            raise unsupported("verbosity", "OpenAI", f"{family[:64]} takes none; leave out verbosity")
    elif not is_reasoning_model(family):
        for name in ("reasoning_effort", "verbosity"):
            if params.get(name) is not None:
                raise unsupported(name, "OpenAI", f"{family[:64]} does not reason; leave out {name}")
    _check_response_format(params.get("response_format"), messages)


def _check_response_format(response_format: Any, messages: Sequence[Mapping[str, Any]]) -> None:
    if response_format is None:
        return
    kind, schema = response_format.get("type"), response_format.get("json_schema")
    if kind not in ("text", "json_object", "json_schema"):
        raise unsupported("response_format", "OpenAI", "its type may be text, json_object or json_schema")
    if kind == "json_object" and "json" not in json.dumps(list(messages)).lower():
        raise unsupported("response_format", "OpenAI", "json_object needs the word JSON in a message")
    if kind == "json_schema":
        name = schema.get("name") if isinstance(schema, Mapping) else None
        if not isinstance(name, str) or allowed_name(name) != name:
            remedy = "json_schema needs a name of up to 64 letters, digits, _ and -"
            raise unsupported("response_format", "OpenAI", remedy)


def _tool_choice(choice: str, *, is_compatible: bool) -> Any:
    if not choice.startswith("="):
        return choice
    name = choice[1:]
    return {"type": "function", "function": {"name": name if is_compatible else allowed_name(name)}}


def _checked_tools(functions: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the functions as tools. Raise `ProblemError` 422 for two of one name, and for members OpenAI lacks."""
    if len(functions) > FUNCTIONS_MAX:
        detail = f"OpenAI takes {FUNCTIONS_MAX} functions at most; there are {len(functions)}."
        raise refused("functions", "Too many functions", detail)
    tools: dict[str, dict[str, Any]] = {}
    for index, function in enumerate(functions):
        place = f"functions[{index}]"
        name = allowed_name(function["name"])
        if name in tools:
            raise refused(f"{place}.name", "Two functions have one name", f"{place}.name is used before.")
        tool: dict[str, Any] = {"name": name}
        for member, value in function.items():
            if member == "input_schema" and "parameters" not in function:
                tool["parameters"] = value
            elif member in ("description", "parameters", "strict"):
                tool[member] = value
            elif member != "name" and value is not None:
                raise refused(
                    f"{place}.{member}",
                    "OpenAI's functions have no such member",
                    f"{place} may have name, description, parameters and strict, and not {member[:64]!r}.",
                )
        tool = {member: value for member, value in tool.items() if value is not None}
        if "parameters" in tool:
            tool["parameters"] = _object_schema(tool["parameters"], f"{place}.parameters")
        tools[name] = {"type": "function", "function": tool}
    return list(tools.values())


def _object_schema(schema: Any, place: str) -> dict[str, Any]:
    check_schema(schema, place, "OpenAI")
    for name in ("enum", "not"):
        if name in schema:
            detail = f"{place}.{name} cannot be sent to OpenAI: use it inside of a property."
            raise refused(f"{place}.{name}", "OpenAI does not take this schema", detail)
    return {"type": "object", "properties": {}, **schema}


def _checked(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message as OpenAI takes it."""
    place, role = message.pop("place"), message["role"]
    for name in ("reasoning_content", "cache_control"):
        if message.pop(name, None):
            detail = f"{place}.{name} cannot be sent to OpenAI: leave it out."
            raise refused(f"{place}.{name}", f"OpenAI takes no {name}", detail)
    if role == "tool":
        message.pop("name", None)  # OpenAI knows the function by the call's id
        message["tool_call_id"] = allowed_name(message["tool_call_id"], CALL_ID_CHARS_MAX)
    elif message.get("name") is not None and not _PARTICIPANT.match(message["name"]):
        detail = f"{place}.name may have up to 64 characters, without white space and without < | \\ / >."
        raise refused(f"{place}.name", "OpenAI does not take this name", detail, "invalid_request")
    message["content"] = content_parts(message.get("content"), role, place)
    if calls := message.get("tool_calls"):
        message["tool_calls"] = [
            _checked_call(call, f"{place}.tool_calls[{index}]") for index, call in enumerate(calls)
        ]
        message["content"] = message["content"] or None
    return message


def _checked_call(call: Mapping[str, Any], place: str) -> dict[str, Any]:
    if call.get("cache_control"):
        detail = f"{place}.cache_control cannot be sent to OpenAI, which caches by itself: leave it out."
        raise refused(f"{place}.cache_control", "OpenAI takes no cache_control", detail)
    function = call["function"]
    sent = {"name": allowed_name(function["name"]), "arguments": _arguments_text(function)}
    return {"id": allowed_name(call["id"], CALL_ID_CHARS_MAX), "type": "function", "function": sent}


def _as_sent(message: Mapping[str, Any]) -> dict[str, Any]:
    """Return a message with the arguments of its calls as JSON text, which our own responses do not have."""
    plain = dict(message)
    if calls := plain.get("tool_calls"):
        plain["tool_calls"] = [_call_as_sent(call) for call in calls]
    if isinstance(plain.get("function_call"), Mapping):
        plain["function_call"] = {**plain["function_call"], "arguments": _arguments_text(plain["function_call"])}
    return plain


def _call_as_sent(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call.get("function")
    if isinstance(function, Mapping):
        return {**call, "function": {**function, "arguments": _arguments_text(function)}}
    return dict(call)


def _arguments_text(function: Mapping[str, Any]) -> str:
    arguments = function.get("arguments")
    return arguments if isinstance(arguments, str) else json.dumps(arguments or {}, ensure_ascii=False)
