"""The fields of a record that a response gives. Used by requests, with the library's objects or with plain JSON.

What was not reported stays unknown. What has no field of its own is kept as it came: members of a message in `output`,
members of a response or a choice as attributes `openai.response.<name>`, so nothing that a host adds is lost. Left out
are `_IGNORED` below, values that are empty, and the parameters that a response repeats from its request.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from everycall.integration import Fields, get_member, members, to_plain, usage_fields

__all__ = ["chat", "completion", "embeddings", "error_attributes", "failure", "has_content", "message", "response"]


_plain: Final = functools.partial(to_plain, keep_none=False)

_ATTRIBUTE: Final = "openai.response."
_ERROR_ATTRIBUTE: Final = "openai.error."
_USAGE_ATTRIBUTE: Final = "openai.usage."
_IGNORED: Final = frozenset(
    {"object", "type", "created", "created_at", "completed_at", "output_text", "obfuscation", "p"}
)
"""Names of types, times of the server (a record has its own), text that is there twice, and random padding."""
_FIELDS: Final = frozenset({"id", "model", "choices", "usage", "data", "output", "error", "incomplete_details"})
_CHOICE_FIELDS: Final = frozenset({"index", "message", "delta", "text", "finish_reason", "usage"})
_GROQ_FIELDS: Final = frozenset({"usage", "usage_breakdown", "error"})
"""Members that Groq's streams have in `x_groq`, and its whole responses beside it."""
_ERROR_FIELDS: Final = ("code", "message", "type", "param")
_USAGE_COUNTS: Final = frozenset(
    {
        *("prompt_tokens", "completion_tokens", "input_tokens", "output_tokens", "total_tokens", "cost"),
        *("prompt_tokens_details", "completion_tokens_details", "input_tokens_details", "output_tokens_details"),
    }
)
"""Members of usage that `usage_fields` reads. Others, such as times, become attributes."""
_RESPONSE_PARAMETERS: Final = frozenset(
    {
        *("background", "conversation", "frequency_penalty", "include", "instructions", "max_output_tokens"),
        *("max_tool_calls", "metadata", "parallel_tool_calls", "presence_penalty", "previous_response_id", "prompt"),
        *("prompt_cache_key", "prompt_cache_options", "prompt_cache_retention", "reasoning", "safety_identifier"),
        *("store", "stream_options", "temperature", "text", "tool_choice", "tools", "top_logprobs", "top_p"),
        *("truncation", "user", "input", "status"),
    }
)
"""What a response of the Responses API repeats from its request. Its tools may have keys."""
_PARSED: Final = frozenset({"parsed", "parsed_arguments"})
"""What the library's `parse` makes of a text or of arguments."""
_TEXT_PARTS: Final = frozenset({"text", "output_text"})
_PLAIN_PART: Final = frozenset({"type", "text"})
_PLAIN_MESSAGE: Final = frozenset({"id", "type", "role", "status", "content"})


def chat(answer: object) -> Fields:
    """Read a chat completion: `content` is the text of the first choice, `output` what the text alone does not tell.

    `output` is the message with its tool calls, refusal, reasoning or audio; a list of messages for several choices.
    `failure` is the text of an error that came with status 200.
    """
    values = _normalized(members(answer))
    choices = [members(choice) for choice in _list(values.get("choices"))]
    fields = _common_fields(values, [choice.get("finish_reason") for choice in choices])
    messages = [message(choice.get("message")) for choice in choices]
    fields.update(_choice_attributes(choices, messages))
    if messages:
        first = messages[0]
        text = _text_of(first["content"])
        if text is not None:
            fields["content"] = text
        if len(messages) > 1:
            fields["output"] = messages
        elif len(first) > 2 or not isinstance(first["content"], str | None):
            fields["output"] = first
    error = values.get("error") or next((choice["error"] for choice in choices if choice.get("error")), None)
    return {**fields, **_failure_fields(error)}


def _failure_fields(error: object) -> Fields:
    """Return the fields of an error in a response with status 200, or an empty dictionary if there is no error."""
    if error is None or not has_content(error):
        return {}
    return {"failure": failure(error), **error_attributes(error)}


def _normalized(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a response with its error and its usage where OpenAI has them, which some hosts have elsewhere.

    vLLM sends an error as `{"object": "error", "message": ...}`; Moonshot's streams have the usage in a choice.
    """
    if "x_groq" in values and (groq := members(values["x_groq"])):
        moved = {name: item for name, item in groq.items() if name in _GROQ_FIELDS and not values.get(name)}
        rest = {name: item for name, item in groq.items() if name not in _GROQ_FIELDS}
        values = {**values, **moved, "x_groq": rest}
    if values.get("object") == "error" and not values.get("error"):
        error = {name: values.get(name) for name in _ERROR_FIELDS}
        values = {**{name: item for name, item in values.items() if name not in _ERROR_FIELDS}, "error": error}
    if values.get("usage") is None:
        choices = map(members, _list(values.get("choices")))
        usage = next((choice["usage"] for choice in choices if choice.get("usage")), None)
        values = values if usage is None else {**values, "usage": usage}
    return values


def message(value: object) -> Fields:
    """Return an assistant's message with all it has; the arguments of its calls as objects if they are JSON."""
    plain: Fields = {"role": "assistant", "content": None}
    for name, item in members(value).items():
        if item is None or name in _PARSED or not has_content(item):
            continue
        if type(item) is str:
            plain[name] = item
        elif name == "tool_calls":
            plain[name] = [_tool_call(call) for call in _list(item)]
        elif name == "function_call":
            plain[name] = _called(item)
        else:
            plain[name] = _plain(item)
    return plain


def _tool_call(value: object) -> Fields:
    """Return a tool call. Its `index` only tells the pieces of a stream apart."""
    values = members(value)
    plain: Fields = {"id": values.get("id"), "type": values.get("type") or "function"}
    for name, item in values.items():
        if name in ("id", "type", "index") or not has_content(item):
            continue
        plain[name] = _called(item) if name in ("function", "custom") else _plain(item)
    return plain


def _called(value: object) -> Any:
    plain = _item(value)
    if isinstance(plain, dict) and isinstance(arguments := plain.get("arguments"), str):
        return {**plain, "arguments": _parse(arguments)}
    return plain


def _parse(arguments: str) -> Any:
    try:
        return json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments


def _text_of(content: object) -> str | None:
    """Return the text of a message's content, which is a text or a list of parts."""
    if isinstance(content, str):
        return content or None
    texts = [
        text
        for part in _list(content)
        if get_member(part, "type") in _TEXT_PARTS and isinstance(text := get_member(part, "text"), str)
    ]
    return "".join(texts) or None


def completion(answer: object) -> Fields:
    """Read a legacy completion: `content` is the first text, `output` has all texts if there are several."""
    values = _normalized(members(answer))
    choices = [members(choice) for choice in _list(values.get("choices"))]
    fields = _common_fields(values, [choice.get("finish_reason") for choice in choices])
    fields.update(_choice_attributes(choices, None))
    fields.update(_failure_fields(values.get("error")))
    texts = [choice.get("text") for choice in choices]
    if texts:
        fields["content"] = texts[0]
    if len(texts) > 1:
        fields["output"] = texts
    return fields


def response(answer: object) -> Fields:
    """Read a response of the Responses API: `content` is its text, `output` its items if there is more than text.

    `failure` is the text of the error of a response that failed.
    """
    values = members(answer)
    incomplete, status = get_member(values.get("incomplete_details"), "reason"), values.get("status")
    fields = _common_fields(values, [incomplete or status], _RESPONSE_PARAMETERS)
    items = _list(values.get("output"))
    text = "".join(text for item in items for text in _item_texts(item))
    if text:
        fields["content"] = text
    if items and not (text and len(items) == 1 and _is_plain_message(items[0])):
        fields["output"] = [_item(item) for item in items]
    error = values.get("error")
    if status == "failed" or (error is not None and has_content(error)):
        fields["failure"] = failure(error)
        fields.update(error_attributes(error))
    return fields


def _item(value: object) -> Any:
    """Return an item of a response as plain JSON."""
    plain = _plain(value)
    if isinstance(plain, dict) and not plain.keys().isdisjoint(_PARSED):
        plain = {name: item for name, item in plain.items() if name not in _PARSED}
    return plain


def _item_texts(item: object) -> Iterable[str]:
    if get_member(item, "type") == "message":
        for part in _list(get_member(item, "content")):
            text = get_member(part, "text")
            if isinstance(text, str):
                yield text


def _is_plain_message(item: object) -> bool:
    """Whether an item is a message of text only, which `content` tells completely."""
    values = members(item)
    if values.get("type") != "message" or not _content_names(values) <= _PLAIN_MESSAGE:
        return False
    parts = [members(part) for part in _list(values.get("content"))]
    return all(isinstance(part.get("text"), str) and _content_names(part) <= _PLAIN_PART for part in parts)


def _content_names(values: Mapping[str, Any]) -> set[str]:
    return {name for name, item in values.items() if has_content(item) and name not in _PARSED}


def failure(error: object) -> str:
    """Return the text of an error that a response reports: its code and message."""
    if isinstance(error, str):
        return error
    code, text = get_member(error, "code"), get_member(error, "message")
    return ": ".join(str(part) for part in (code, text) if part) or "the response failed"


def error_attributes(error: object) -> Fields:
    """Return the members of an error but for its text, such as `code`, `type`, `param` and `failed_generation`.

    The text is among them where the library's message has none of it: if the error is a text, or in a list (Gemini's).
    """
    if isinstance(error, list) and error:
        error = get_member(error[0], "error") or error[0]
        text = get_member(error, "message")
        return {**error_attributes(error), **({f"{_ERROR_ATTRIBUTE}message": text} if text else {})}
    if isinstance(error, str):
        return {f"{_ERROR_ATTRIBUTE}message": error} if error else {}
    return {
        f"{_ERROR_ATTRIBUTE}{name}": _plain(item)
        for name, item in members(error).items()
        if name != "message" and has_content(item)
    }


def embeddings(answer: object) -> Fields:
    """Read embeddings: their number and dimensions. The numbers themselves are not kept."""
    values = _normalized(members(answer))
    vectors = _list(values.get("data"))
    output: Fields = {"embeddings": len(vectors)}
    first = get_member(vectors[0], "embedding") if vectors else None
    if isinstance(first, str):
        output["dimensions"] = (len(first) * 3 // 4 - first[-2:].count("=")) // 4  # float32 in base64
    elif first is not None:
        output["dimensions"] = len(first)
    return {**_common_fields(values, []), "output": output, **_failure_fields(values.get("error"))}


def _common_fields(values: Mapping[str, Any], reasons: list[Any], ignored: frozenset[str] = frozenset()) -> Fields:
    """Read what all responses have: the model that answered, tokens, ids; and keep what else there is."""
    usage = values.get("usage")
    fields = usage_fields(usage, response=values) if usage is not None else {}
    for name, item in members(usage).items():
        if item is not None and name not in _USAGE_COUNTS and has_content(item):
            fields[f"{_USAGE_ATTRIBUTE}{name}"] = _plain(item)
    for name, item in values.items():
        if name == "id" or name == "model":
            if item and isinstance(item, str):
                fields["model" if name == "model" else "gen_ai.response.id"] = item
        elif item is None or name in _FIELDS or name in _IGNORED or name in ignored:
            continue
        elif has_content(item):
            fields[f"{_ATTRIBUTE}{name}"] = _plain(item)
    finish_reasons = [reason for reason in reasons if isinstance(reason, str)]
    if finish_reasons:
        fields["gen_ai.response.finish_reasons"] = finish_reasons
    return fields


def _choice_attributes(choices: list[Fields], messages: list[Fields] | None) -> Fields:
    """Return what choices have beside their messages: attributes for one choice, else members of each message."""
    attributes: Fields = {}
    for index, choice in enumerate(choices):
        for name, item in choice.items():
            if item is None or name in _CHOICE_FIELDS or not has_content(item):
                continue
            if len(choices) > 1 and messages is not None:
                messages[index][name] = _plain(item)
            elif len(choices) > 1:
                attributes.setdefault(f"{_ATTRIBUTE}{name}", [None] * len(choices))[index] = _plain(item)
            else:
                attributes[f"{_ATTRIBUTE}{name}"] = _plain(item)
    return attributes


def has_content(value: object) -> bool:
    """Whether a value says anything: it is not None, an empty text or list, or an object of such and of zeros."""
    if value is None or value == "":
        return False
    if isinstance(value, str | int | float):
        return True
    if isinstance(value, list | tuple):
        return any(has_content(item) for item in value)
    return any(has_content(item) and not (type(item) is int and item == 0) for item in members(value).values())


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
