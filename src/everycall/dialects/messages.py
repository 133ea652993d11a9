"""Messages of every vocabulary, in one form: that of OpenAI's chat API, which the record's fields use.

`{"role", "content", "tool_calls", "tool_call_id", "name", ...}`; `content` is a text, or a list of parts if there is
more than text. The arguments of a tool call are an object if they can be decoded. Unknown members are kept.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from everycall.dialects.values import first, is_empty, items, unwrap

__all__ = ["answer_text", "chat_answer", "chat_messages", "tool_definitions"]

Message = dict[str, Any]

_PART_KEYS: Final = frozenset({"type", "text", "toolUse", "toolResult", "function_call", "functionCall"})

_ROLES: Final = {
    "human": "user",
    "HumanMessage": "user",
    "ai": "assistant",
    "AIMessage": "assistant",
    "AIMessageChunk": "assistant",
    "model": "assistant",
    "SystemMessage": "system",
    "developer": "system",
    "ToolMessage": "tool",
    "function": "tool",
    "tool-result": "tool",
}
_READ: Final = frozenset(
    {
        *("role", "type", "parts", "content", "contents", "tool_calls", "toolCalls", "name", "id", "lc", "kwargs"),
        *("finish_reason", "finishReason", "index", "message", "status", "logprobs", "example", "response_metadata"),
        *("usage_metadata", "additional_kwargs", "invalid_tool_calls", "tool_call_chunks", "chunk_position", "phase"),
        *("tool_call_id", "toolCallId", "artifact", "sdk_http_response", "reasoning", "thinking"),
        *("stop_reason", "stop_sequence", "usage", "model"),
    }
)
"""Members of a message that are read separately, or have no content."""
_PLAIN: Final = frozenset({"role", "content", "parts", "finish_reason"})


def chat_messages(value: Any, role: str = "user") -> list[Message] | None:
    """Return the messages in a value of any vocabulary, or None if it has none. `role` is that of a bare text."""
    value = unwrap(value)
    if isinstance(value, str):
        return [{"role": role, "content": value}] if value else None
    if isinstance(value, dict):
        return _of_request(value, role)
    if not isinstance(value, (list, tuple)):
        return None
    if value and all(isinstance(entry, (list, tuple)) for entry in value):  # LangChain: one list for each prompt
        value = [message for prompt in value for message in prompt]
    return [message for entry in value for message in _messages_of(entry, role)] or None


def chat_answer(value: Any) -> list[Message] | None:
    """Return the messages of a model's answer, one for each choice, or None if the value has none."""
    value = unwrap(value)
    if isinstance(value, dict):
        if isinstance(value.get("generations"), list):  # LangChain's LLMResult
            value = [entry for prompt in value["generations"] for entry in (prompt if isinstance(prompt, list) else [])]
        else:
            for name in ("choices", "candidates", "output", "messages", "replies"):
                inner = unwrap(value.get(name))
                if isinstance(inner, list) and inner and all(isinstance(entry, dict) for entry in inner):
                    value = inner
                    break
                if name == "output" and isinstance(inner, (str, dict)) and inner and "role" not in value:
                    return chat_answer(inner)
    messages = chat_messages(value, "assistant")
    if not messages:
        return None
    answers = [message for message in messages if message["role"] == "assistant"]
    return _joined(answers) if _are_items(value) else answers or None


def answer_text(answer: list[Message]) -> str | None:
    """Return the text of the first choice, or None if it has none."""
    content = answer[0].get("content")
    if isinstance(content, str):
        return content
    texts = [part["text"] for part in items(content) if isinstance(part, dict) and isinstance(part.get("text"), str)]
    return "".join(texts) or None


def tool_definitions(value: Any) -> list[Any] | None:
    """Return tools as functions: `{"name", "description", "parameters"}`. Any other form stays as it is."""
    tools: list[Any] = []
    for entry in items(value):
        tool = unwrap(entry)
        if not isinstance(tool, dict):
            tools.append(tool)
            continue
        declared = first(tool.get("function_declarations"), tool.get("functionDeclarations"))
        if declared is not None:
            tools.extend(tool_definitions(declared) or [])
            continue
        for _ in range(3):  # the function may be inside a tool, and that inside a schema
            inner = unwrap(first(*(tool.get(key) for key in ("function", "json_schema", "toolSpec", "tool"))))
            if not isinstance(inner, dict) or "name" in tool:
                break
            tool = inner
        tools.append(_definition(tool))
    return tools or None


def _definition(tool: dict[str, Any]) -> dict[str, Any]:
    name = tool.get("name")
    if not isinstance(name, str):
        return tool
    schema = first(
        *(unwrap(tool.get(key)) for key in ("parameters", "input_schema", "inputSchema", "parameters_json_schema"))
    )
    if isinstance(schema, dict) and set(schema) == {"json"}:  # Bedrock
        schema = schema["json"]
    return {
        "name": name,
        **({"description": tool["description"]} if tool.get("description") else {}),
        **({"parameters": schema} if schema is not None else {}),
    }


def _of_request(value: dict[str, Any], role: str) -> list[Message] | None:
    """Return the messages of an object: a request's body, a prompt's parts, or one message."""
    system = first(value.get("system"), value.get("instructions"), value.get("system_instruction"))
    head = [{"role": "system", "content": _content(_pieces(system))[0]}] if system is not None else []
    for name in ("messages", "input", "contents", "prompt"):
        inner = value.get(name)
        if not is_empty(inner) and "role" not in value:
            messages = chat_messages(inner, role)
            if messages and head and messages[0]["role"] == "system":
                head = []
            return [*head, *(messages or [])] or None
    candidate = value.get("content")
    if _response_item(value) is not None or (isinstance(candidate, dict) and "parts" in candidate):
        return _messages_of(value, role)
    kind = value.get("type")
    is_message = any(name in value for name in ("role", "lc", "data", "message"))
    if is_message or (isinstance(kind, str) and kind in _ROLES):
        return _messages_of(value, role) or None
    return head or None


def _are_items(value: Any) -> bool:
    """Return whether a list has the items of one answer (OpenAI's Responses API), not one message for each choice."""
    return isinstance(value, list) and any(
        isinstance(entry, dict) and entry.get("type") in ("message", "function_call", "reasoning") for entry in value
    )


def _joined(messages: list[Message]) -> list[Message] | None:
    """Return the items of one answer as one message."""
    if not messages:
        return None
    whole: Message = {"role": "assistant", "content": None}
    for message in messages:
        for name, value in message.items():
            if name == "content" and isinstance(value, str) and isinstance(whole["content"], str):
                whole["content"] += value
            elif isinstance(value, list) and isinstance(whole.get(name), list):
                whole[name] = [*whole[name], *value]
            elif not is_empty(value):
                whole[name] = value
    return [whole]


def _messages_of(entry: Any, role: str) -> list[Message]:
    """Return an entry of a list as messages: tool results in it become separate messages."""
    entry = unwrap(entry)
    if isinstance(entry, str):
        return [{"role": role, "content": entry}] if entry else []
    if isinstance(entry, (list, tuple)):
        if len(entry) == 2 and all(isinstance(part, str) for part in entry):  # ("human", "text")
            return [{"role": _ROLES.get(entry[0], entry[0]), "content": entry[1]}]
        return [message for part in entry for message in _messages_of(part, role)]
    if not isinstance(entry, dict):
        return []
    if isinstance(entry.get("kwargs"), dict) and isinstance(entry.get("id"), list):  # LangChain's constructors
        entry = {"type": entry["id"][-1], **entry["kwargs"]}
    elif isinstance(entry.get("data"), dict) and "type" in entry:
        entry = {**entry["data"], "type": entry["type"]}
    elif isinstance(entry.get("message"), dict):  # a choice
        return _messages_of(entry["message"], role)
    elif isinstance(entry.get("content"), dict) and "parts" in entry["content"]:  # a candidate of Google's
        return _messages_of(entry["content"], "assistant")
    item = _response_item(entry)
    return [item] if item is not None else _message(entry, role)


def _response_item(entry: dict[str, Any]) -> Message | None:
    """Return an item of the Responses API as a message, or None if it is a message already."""
    kind = entry.get("type")
    if kind == "function_call" and "name" in entry:
        return {"role": "assistant", "content": None, "tool_calls": [_tool_call(entry)]}
    if kind == "function_call_output":
        return {"role": "tool", "tool_call_id": entry.get("call_id"), "content": _result_text(entry.get("output"))}
    if kind == "reasoning" and "role" not in entry:
        pieces = items(first(entry.get("summary"), entry.get("content")))
        texts = [piece["text"] for piece in pieces if isinstance(piece, dict) and isinstance(piece.get("text"), str)]
        return {"role": "assistant", "content": None, **({"reasoning_content": "\n".join(texts)} if texts else {})}
    return None


def _message(entry: dict[str, Any], role: str) -> list[Message]:
    raw_role = first(entry.get("role"), entry.get("type"))
    name = _ROLES.get(raw_role, raw_role) if isinstance(raw_role, str) else role
    speaker = name if name in ("system", "user", "assistant", "tool") or "role" in entry else role
    content, extra, results = _content(_pieces(first(entry.get("parts"), entry.get("contents"), entry.get("content"))))
    message: Message = {"role": speaker, "content": content, **extra}
    if not results and speaker != "tool" and entry.keys() <= _PLAIN:  # the usual message has nothing else to read
        return [message]
    calls = [_tool_call(call) for call in items(first(entry.get("tool_calls"), entry.get("toolCalls")))]
    if calls:
        message["tool_calls"] = calls
    for key in ("name", "tool_call_id", "toolCallId"):
        if isinstance(entry.get(key), str) and entry[key]:
            message["tool_call_id" if key == "toolCallId" else key] = entry[key]
    if speaker == "tool":
        if "tool_call_id" not in message and isinstance(entry.get("id"), str):
            message["tool_call_id"] = entry["id"]
        text = message["content"]
        if isinstance(text, str) and text.startswith('{"result"'):  # Google's client wraps results that are not objects
            text = unwrap(text)
        message["content"] = _result_text(text)
    thoughts = first(entry.get("reasoning"), entry.get("thinking"))
    if thoughts is not None:
        message.setdefault("reasoning_content", thoughts)
    more = {**entry, **(entry["additional_kwargs"] if isinstance(entry.get("additional_kwargs"), dict) else {})}
    for key, value in more.items():
        if key not in _READ and key not in message and not is_empty(value) and value is not False:
            message[key] = value
    if results and message["content"] is None and len(message) == 2:
        return results
    return [*results, message]


def _pieces(content: Any) -> Any:
    """Return the parts that a text contains as JSON; return any other text unchanged."""
    if isinstance(content, str) and content[:2] == "[{":
        parts = unwrap(content)
        if isinstance(parts, list) and all(_is_part(part) for part in parts):
            return parts
    return content


def _is_part(part: Any) -> bool:
    return isinstance(part, dict) and bool(_PART_KEYS & part.keys())


def _content(content: Any) -> tuple[Any, Message, list[Message]]:
    """Return a message's content: its text or parts, further members of the message, and tool results."""
    if not isinstance(content, (list, tuple)):
        if isinstance(content, dict):
            return _content([content])
        return (content if not is_empty(content) else None), {}, []
    parts: list[Any] = []
    calls: list[Any] = []
    thoughts: list[str] = []
    results: list[Message] = []
    for entry in content:
        piece = unwrap(entry) if isinstance(entry, str) and entry[:1] == "{" else entry
        if isinstance(piece, str):
            parts.append({"type": "text", "text": piece})
        elif isinstance(piece, dict):
            _place(piece.get("message_content", piece), parts, calls, thoughts, results)
    extra: Message = {}
    if calls:
        extra["tool_calls"] = calls
    if thoughts:
        extra["reasoning_content"] = "\n".join(thoughts)
    if not parts:
        return None, extra, results
    if len(parts) == 1 and set(parts[0]) == {"type", "text"}:
        return parts[0]["text"], extra, results
    return parts, extra, results


def _place(
    piece: dict[str, Any], parts: list[Any], calls: list[Any], thoughts: list[str], results: list[Message]
) -> None:
    kind = piece.get("type")
    if kind == "text" and len(piece) == 2:  # the usual part
        text = piece.get("text") or piece.get("content")
        if isinstance(text, str) and text:
            parts.append({"type": "text", "text": text})
            return
    for key in ("tool_call", "toolUse", "function_call", "functionCall"):
        if isinstance(piece.get(key), dict):
            calls.append(_tool_call(piece[key]))
            return
    for key in ("toolResult", "function_response", "functionResponse"):
        if isinstance(piece.get(key), dict):
            results.append(_tool_result(piece[key]))
            return
    if kind in ("tool_call", "tool-call", "tool_use", "function_call", "toolCall"):
        calls.append(_tool_call(piece))
    elif kind in ("tool_call_response", "tool-result", "tool_result", "function_call_output"):
        results.append(_tool_result(piece))
    elif kind in ("reasoning", "thinking"):
        content = first(piece.get("content"), piece.get("text"), piece.get("thinking"), piece.get("reasoning"))
        thoughts.append(content if isinstance(content, str) else _encode(content))
    elif kind == "image" and isinstance(url := _image_url(piece), str):
        parts.append({"type": "image_url", "image_url": {"url": url}})
    elif kind in ("text", "input_text", "output_text", None) and isinstance(
        content := first(piece.get("text"), piece.get("content")), str
    ):
        parts.append({"type": "text", "text": content})
    else:
        parts.append(piece)


def _image_url(piece: dict[str, Any]) -> Any:
    """Return the URL of an image in OpenInference's form, which is nested two objects deep."""
    outer = piece.get("image")
    inner = outer.get("image") if isinstance(outer, dict) and set(piece) <= {"type", "image"} else None
    return inner.get("url") if isinstance(inner, dict) else None


def _tool_call(call: Any) -> Any:
    """Return a call of a tool in OpenAI's form."""
    call = unwrap(call)
    if not isinstance(call, dict):
        return call
    inner = unwrap(call.get("tool_call"))
    if isinstance(inner, dict):
        call = inner
    function = unwrap(call.get("function"))
    source = function if isinstance(function, dict) else call
    name = first(source.get("name"), source.get("toolName"))
    if not isinstance(name, str):
        return call
    arguments = first(*(source.get(key) for key in ("arguments", "args", "input", "parameters")))
    number = first(*(call.get(key) for key in ("id", "call_id", "toolCallId", "toolUseId", "tool_call_id")))
    if call.get("type") == "function_call":
        number = first(call.get("call_id"), call.get("id"))
    return {
        **({"id": number} if number is not None else {}),
        "type": "function",
        "function": {"name": name, "arguments": unwrap(arguments) if arguments is not None else {}},
    }


def _tool_result(piece: dict[str, Any]) -> Message:
    result = first(*(piece.get(key) for key in ("response", "result", "output", "content")))
    number = first(*(piece.get(key) for key in ("id", "toolCallId", "tool_use_id", "toolUseId", "call_id")))
    name = first(piece.get("name"), piece.get("toolName"))
    return {
        "role": "tool",
        **({"tool_call_id": number} if number is not None else {}),
        **({"name": name} if isinstance(name, str) else {}),
        "content": _result_text(result),
    }


def _result_text(result: Any) -> str | None:
    """Return a tool's result as text: JSON for any other value."""
    if result is None or isinstance(result, str):
        return result
    if isinstance(result, dict) and set(result) == {"type", "value"}:  # Vercel's tool results
        return _result_text(result["value"])
    if isinstance(result, dict) and set(result) == {"result"}:
        return _result_text(result["result"])
    if isinstance(result, list) and result and all(isinstance(part, dict) for part in result):
        texts = [first(part.get("text"), part.get("content")) for part in result]
        if all(isinstance(part, str) for part in texts):
            return "".join(texts)
    return _encode(result)


def _encode(value: Any) -> str:
    return msgspec.json.encode(value).decode()
