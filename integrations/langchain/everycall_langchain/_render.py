"""LangChain's values as plain ones: messages, prompts, documents. The handler renders values before they are recorded.

Fields are read from where pydantic stores them, not by `str()`, `model_dump` or `dumpd`, which take longer than all the
rest of a record. Other libraries' values are returned as they are: everycall's capture renders and bounds them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final
from weakref import WeakKeyDictionary

from langchain_core.agents import AgentAction, AgentFinish
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.messages import BaseMessage, ToolMessage
from langchain_core.prompt_values import ChatPromptValue, StringPromptValue
from langchain_core.runnables import Runnable

from everycall import limits

__all__ = ["MASK", "document", "mask_headers", "message", "plain", "short_message", "text", "tool_failure"]

_ROLES: Final = {
    "human": "user",
    "HumanMessageChunk": "user",
    "ai": "assistant",
    "AIMessageChunk": "assistant",
    "SystemMessageChunk": "system",
    "ToolMessageChunk": "tool",
    "FunctionMessageChunk": "function",
}
MASK: Final = "***"
_SCALARS: Final = frozenset({str, int, float, bool, type(None)})
_TEXT_BLOCKS: Final = frozenset({"text", "output_text"})
_REPEATED_EXTRAS: Final = frozenset({"tool_calls", "parsed"})
"""Members of `additional_kwargs` that repeat what a message has elsewhere."""
_COMPONENT_NAMES: Final = ("name", "model", "model_name", "model_id", "deployment_name", "azure_deployment")
_LEVELS: Final = 4
"""How deep messages are searched for: a LangGraph update is `{node: {"messages": [message]}}`."""


def message(value: BaseMessage) -> dict[str, Any]:
    """Return a chat message as `{"role", "content"}` with whatever else it has, in OpenAI's shape.

    That is `name`, `tool_call_id`, `tool_calls` with an object as arguments (those that LangChain could not parse have
    the text and an `error`), the `status` of a tool that failed, and the members of `additional_kwargs`, such as
    `reasoning_content` and `refusal`.
    """
    stored = value.__dict__
    kind = stored.get("type") or value.type
    rendered: dict[str, Any] = {
        "role": _ROLES.get(kind) or stored.get("role") or kind,
        "content": stored.get("content"),
    }
    if stored.get("name"):
        rendered["name"] = stored["name"]
    if stored.get("tool_call_id"):
        rendered["tool_call_id"] = stored["tool_call_id"]
    if stored.get("status") == "error":
        rendered["status"] = "error"
    if kind == "remove":
        rendered["id"] = stored.get("id")  # which message is removed
    calls, invalid_calls = stored.get("tool_calls"), stored.get("invalid_tool_calls")
    if calls or invalid_calls:
        rendered["tool_calls"] = [_tool_call(call) for call in (*(calls or ()), *(invalid_calls or ()))]
    extras = stored.get("additional_kwargs")
    if extras:
        for name, extra in extras.items():
            is_repeated = name in _REPEATED_EXTRAS or (name == "function_call" and calls)
            if extra and not is_repeated and name not in rendered:
                rendered[name] = extra
    return rendered


def _tool_call(call: Mapping[str, Any]) -> dict[str, Any]:
    function = {"name": call.get("name"), "arguments": call.get("args")}
    rendered: dict[str, Any] = {"id": call.get("id"), "type": "function", "function": function}
    if call.get("error"):
        rendered["error"] = call["error"]
    return rendered


def short_message(value: Any) -> dict[str, Any] | None:
    """Return a chat message that has only a text of at most `limits.CAPTURE_TEXT_MAX` characters; None for any other.

    The result is of JSON's own types and shares nothing with the message that can change.
    """
    stored = value.__dict__
    content = stored.get("content")
    if type(content) is not str or len(content) > limits.CAPTURE_TEXT_MAX:
        return None
    if stored.get("name") or stored.get("tool_calls") or stored.get("invalid_tool_calls") or "tool_call_id" in stored:
        return None
    extras = stored.get("additional_kwargs")
    if extras and any(extras.values()):
        return None
    kind = stored.get("type") or value.type
    return {"role": _ROLES.get(kind) or stored.get("role") or kind, "content": content}


def text(content: Any) -> str:
    """Return the text of a message's content: the content itself, or its text blocks joined."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    return "".join(
        block if isinstance(block, str) else block["text"]
        for block in content
        if isinstance(block, str)
        or (isinstance(block, Mapping) and block.get("type") in _TEXT_BLOCKS and isinstance(block.get("text"), str))
    )


def tool_failure(output: Any) -> str | None:
    """Return the text of a message that says a tool failed: its output, or one in its `Command`. None if it did not."""
    messages: Any = output if isinstance(output, list) else [output]
    if type(output).__name__ == "Command":
        update = getattr(output, "update", None)
        messages = update.get("messages") if isinstance(update, dict) else None
    for item in messages if isinstance(messages, list) else ():
        if isinstance(item, ToolMessage) and item.__dict__.get("status") == "error":
            return text(item.__dict__.get("content")) or "the tool failed"
    return None


def document(value: Document) -> dict[str, Any]:
    """Return a retrieved document as `{"page_content", "metadata"}`, with its `id` if it has one."""
    stored = value.__dict__
    rendered = {"page_content": stored.get("page_content"), "metadata": stored.get("metadata")}
    if stored.get("id"):
        rendered["id"] = stored["id"]
    return rendered


def plain(value: Any, levels: int = _LEVELS) -> Any:
    """Return a value with the LangChain objects in its upper levels made plain; the value itself if it has none."""
    kind = type(value)
    if kind in _SCALARS:
        return value
    if kind is dict or issubclass(kind, dict):
        return {key: plain(item, levels - 1) for key, item in value.items()} if levels else value
    if kind is list or kind is tuple:
        # A list that begins with a number or a text is data, such as an embedding: its items need no look.
        if not levels or not value or type(value[0]) in _SCALARS:
            return value
        return [plain(item, levels - 1) for item in value]
    render = _renderers.get(kind, _UNKNOWN)
    if render is _UNKNOWN:
        render = _renderers[kind] = _renderer_of(kind)
    if render is None:
        return value
    return _fields(value, levels) if render is _FIELDS else render(value)


def _renderer_of(kind: type) -> Any:
    if kind.__module__ == "langgraph.types" and kind.__name__ in _OF_LANGGRAPH:
        return _OF_LANGGRAPH[kind.__name__]
    render = next((render for base, render in _RENDERED if issubclass(kind, base)), None)
    if render is None and (hasattr(kind, "__pydantic_fields__") or hasattr(kind, "__dataclass_fields__")):
        return _FIELDS
    return render


def _fields(value: Any, levels: int) -> Any:
    """Render the state of a graph that is a pydantic model or a dataclass, read where it stores its fields.

    HTTP headers are masked, because tokens in them have all kinds of names.
    """
    stored = getattr(value, "__dict__", None)
    if not stored or not levels:
        return value
    return {name: mask_headers(name, plain(item, levels - 1)) for name, item in stored.items()}


def mask_headers(name: Any, value: Any) -> Any:
    """Return a member of an object, with the values masked if its name says that it holds HTTP headers."""
    if isinstance(value, dict) and isinstance(name, str) and name.lower().endswith("headers"):
        return dict.fromkeys(value, MASK)
    return value


def _send(value: Any) -> dict[str, Any]:
    """Render LangGraph's `Send`: a node and its input."""
    return {"node": value.node, "arg": plain(value.arg)}


def _command(value: Any) -> dict[str, Any]:
    """Render LangGraph's `Command`: an update of the state, and where the graph goes or what it resumes with."""
    members = {name: getattr(value, name, None) for name in ("graph", "update", "resume", "goto")}
    return {name: plain(member) for name, member in members.items() if member is not None and member != ()}


def _component(value: Any) -> dict[str, Any]:
    """Render a model, a tool or a chain inside of a value by its class and names: its other fields may hold keys."""
    rendered = {"type": type(value).__name__}
    for name in _COMPONENT_NAMES:
        text = value.__dict__.get(name)
        if text and isinstance(text, str):
            rendered[name] = text
    return rendered


def _action(value: AgentAction) -> dict[str, Any]:
    return {"tool": value.tool, "tool_input": plain(value.tool_input)}


def _finish(value: AgentFinish) -> Any:
    return plain(value.return_values)


def _chat_prompt(value: ChatPromptValue) -> list[dict[str, Any]]:
    return [message(item) for item in value.messages]


def _text_prompt(value: StringPromptValue) -> str:
    return value.text


_RENDERED: Final[tuple[tuple[type, Callable[[Any], Any]], ...]] = (
    (BaseMessage, message),
    (ChatPromptValue, _chat_prompt),
    (StringPromptValue, _text_prompt),
    (Document, document),
    (AgentAction, _action),
    (AgentFinish, _finish),
    (Runnable, _component),
    (Embeddings, _component),
)
_OF_LANGGRAPH: Final = {"Send": _send, "Command": _command}
_FIELDS: Final[Any] = object()
_UNKNOWN: Final[Any] = object()
_renderers: WeakKeyDictionary[type, Any] = WeakKeyDictionary()
"""The renderer of each type. `isinstance` with pydantic's classes takes longer than the rendering."""
