"""LangChain's values as plain ones: messages, prompts, documents. Called by the handler before a value is recorded.

Messages are read field by field from where pydantic stores them: no `str()`, no `model_dump`, no `dumpd`, which cost
more than the rest of a record. What is not LangChain's is left as it is; everycall's capture renders and bounds it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from langchain_core.agents import AgentAction, AgentFinish
from langchain_core.documents import Document
from langchain_core.messages import BaseMessage
from langchain_core.prompt_values import ChatPromptValue, StringPromptValue

from everycall import limits

__all__ = ["document", "message", "plain", "short_message", "text"]

_ROLES = {
    "human": "user",
    "HumanMessageChunk": "user",
    "ai": "assistant",
    "AIMessageChunk": "assistant",
    "SystemMessageChunk": "system",
    "ToolMessageChunk": "tool",
    "FunctionMessageChunk": "function",
}
_SCALARS = frozenset({str, int, float, bool, type(None)})
_TEXT_BLOCKS = frozenset({"text", "output_text"})
_LEVELS = 4
"""How deep messages are looked for: a LangGraph update is `{node: {"messages": [message]}}`."""


def message(value: BaseMessage) -> dict[str, Any]:
    """Return a chat message as `{"role", "content"}`, with `name`, `tool_call_id` and `tool_calls` where it has them.

    Tool calls take OpenAI's shape, their arguments as an object; calls that could not be parsed keep the text.
    """
    stored = value.__dict__
    kind = stored.get("type") or value.type
    shown: dict[str, Any] = {"role": _ROLES.get(kind) or stored.get("role") or kind, "content": stored.get("content")}
    if stored.get("name"):
        shown["name"] = stored["name"]
    if stored.get("tool_call_id"):
        shown["tool_call_id"] = stored["tool_call_id"]
    calls, unparsed = stored.get("tool_calls"), stored.get("invalid_tool_calls")
    if calls or unparsed:
        shown["tool_calls"] = [
            {
                "id": call.get("id"),
                "type": "function",
                "function": {"name": call.get("name"), "arguments": call.get("args")},
            }
            for call in (*(calls or ()), *(unparsed or ()))
        ]
    return shown


def short_message(value: Any) -> dict[str, Any] | None:
    """Return a chat message that is a text and nothing else, within `limits.CAPTURE_TEXT_MAX`; None for any other.

    What it returns shares nothing with the message that can change, and is of JSON's own types.
    """
    stored = value.__dict__
    content = stored.get("content")
    if type(content) is not str or len(content) > limits.CAPTURE_TEXT_MAX:
        return None
    if stored.get("name") or stored.get("tool_calls") or stored.get("invalid_tool_calls") or "tool_call_id" in stored:
        return None
    kind = stored.get("type") or value.type
    return {"role": _ROLES.get(kind) or stored.get("role") or kind, "content": content}


def text(content: Any) -> str:
    """Return the text of a message's content: itself, or its text blocks joined; other blocks have none."""
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


def document(value: Document) -> dict[str, Any]:
    """Return a retrieved document as `{"page_content", "metadata"}`, with its `id` where it has one."""
    stored = value.__dict__
    shown = {"page_content": stored.get("page_content"), "metadata": stored.get("metadata")}
    if stored.get("id"):
        shown["id"] = stored["id"]
    return shown


def plain(value: Any, levels: int = _LEVELS) -> Any:
    """Return a value with the LangChain objects in its upper levels made plain; the value itself when it has none."""
    kind = type(value)
    if kind in _SCALARS:
        return value
    if kind is dict or issubclass(kind, dict):
        return {key: plain(item, levels - 1) for key, item in value.items()} if levels else value
    if kind is list or kind is tuple:
        # A list that begins with a number or a text is data, such as an embedding: not worth a look at each item.
        if not levels or not value or type(value[0]) in _SCALARS:
            return value
        return [plain(item, levels - 1) for item in value]
    render = _renderers.get(kind, _UNKNOWN)
    if render is _UNKNOWN:
        if len(_renderers) >= _TYPES_MAX:
            _renderers.clear()
        render = next((found for base, found in _RENDERED if issubclass(kind, base)), None)
        if render is None and kind.__name__ == "Send":
            render = _send
        _renderers[kind] = render
    return render(value) if render is not None else value


def _send(value: Any) -> Any:
    """Render LangGraph's `Send`: a node, and what it is given."""
    return {"node": value.node, "arg": plain(value.arg)} if type(value).__module__ == "langgraph.types" else value


def _action(value: AgentAction) -> dict[str, Any]:
    return {"tool": value.tool, "tool_input": plain(value.tool_input)}


def _finish(value: AgentFinish) -> Any:
    return plain(value.return_values)


def _chat_prompt(value: ChatPromptValue) -> list[dict[str, Any]]:
    return [message(item) for item in value.messages]


def _text_prompt(value: StringPromptValue) -> str:
    return value.text


_RENDERED: tuple[tuple[type, Callable[[Any], Any]], ...] = (
    (BaseMessage, message),
    (ChatPromptValue, _chat_prompt),
    (StringPromptValue, _text_prompt),
    (Document, document),
    (AgentAction, _action),
    (AgentFinish, _finish),
)
_UNKNOWN: Any = object()
_TYPES_MAX = 4_096
_renderers: dict[type, Callable[[Any], Any] | None] = {}
"""What renders a type, found once: `isinstance` with pydantic's classes costs more than the rendering."""
