"""Every part of an answer is recorded: reasoning, refusals, citations, broken tool calls, streams left early."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import langchain_core.messages.tool
import pytest
from langchain_core.callbacks import BaseCallbackHandler, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import StructuredTool, ToolException, tool

from everycall_langchain import CallbackHandler

RETURNS_MESSAGES = hasattr(langchain_core.messages.tool, "ToolOutputMixin")
HANDLER: RunnableConfig = {"callbacks": [CallbackHandler()]}
CALL = {"name": "look_up", "args": {"city": "Bern"}, "id": "call_1", "type": "tool_call"}
RAW_CALL = {"id": "call_1", "type": "function", "function": {"name": "look_up", "arguments": '{"city": "Bern"}'}}
BROKEN = {"name": "look_up", "args": '{"city": ', "id": "call_2", "error": "not JSON", "type": "invalid_tool_call"}


@pytest.mark.parametrize(
    "extras",
    [
        {"reasoning_content": "first I think"},
        {"refusal": "I cannot help with that."},
        {"audio": {"id": "audio_1", "transcript": "good day"}},
        {"citations": ["https://example.com"]},
        {"function_call": {"name": "look_up", "arguments": "{}"}},
    ],
    ids=lambda extras: next(iter(extras)),
)
def test_members_beside_the_text_are_part_of_the_output(
    extras: dict[str, Any], tree: Any, chat: Any, value: Callable[[Any], Any]
) -> None:
    """In the answer, and in the history of the next request."""
    answer = AIMessage("42", additional_kwargs=extras)
    chat(answer).invoke("what?", HANDLER)
    chat().invoke([HumanMessage("what?"), answer, HumanMessage("why?")], HANDLER)
    first, second = tree.named("ScriptedChat")
    assert (first.content, value(first.output)) == ("42", {"role": "assistant", "content": "42", **extras})
    assert value(second.llm_configuration)["messages"][1] == {"role": "assistant", "content": "42", **extras}


def test_text_alone_is_not_repeated_in_the_output(tree: Any, chat: Any, value: Callable[[Any], Any]) -> None:
    """OpenAI's `refusal` is always there; a parsed answer is the text again; single values are no content."""
    answer = AIMessage(
        "42",
        name="bot",
        additional_kwargs={"refusal": None, "parsed": {"answer": 42}},
        response_metadata={
            "model_name": "gpt-4o",
            "token_usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
            "system_fingerprint": "fp",
            "logprobs": None,
            "headers": {"set-cookie": "secret"},
        },
    )
    chat(answer).invoke("what?", HANDLER)
    assert value(tree.one("ScriptedChat").output) is None


def test_response_metadata_of_the_provider_is_recorded(tree: Any, chat: Any, value: Callable[[Any], Any]) -> None:
    grounding = {"grounding_chunks": [{"web": {"uri": "https://example.com", "title": "Storks"}}]}
    chat(AIMessage("42", response_metadata={"grounding_metadata": grounding})).invoke("what?", HANDLER)
    output = value(tree.one("ScriptedChat").output)
    assert output == {"role": "assistant", "content": "42", "response_metadata": {"grounding_metadata": grounding}}


def test_invalid_tool_calls_keep_their_text_and_reason(tree: Any, chat: Any, value: Callable[[Any], Any]) -> None:
    answer = AIMessage("", tool_calls=[CALL], invalid_tool_calls=[BROKEN], additional_kwargs={"tool_calls": [RAW_CALL]})
    chat(answer).invoke("weather?", HANDLER)
    assert value(tree.one("ScriptedChat").output) == {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "look_up", "arguments": {"city": "Bern"}}},
            {
                "id": "call_2",
                "type": "function",
                "function": {"name": "look_up", "arguments": '{"city": '},
                "error": "not JSON",
            },
        ],
    }


class Thinking(BaseChatModel):
    """Streams its reasoning, then a call of a tool in pieces; whole, it answers the same."""

    fails: bool = False

    @property
    def _llm_type(self) -> str:
        return "thinking"

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: Any = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **_: Any,
    ) -> ChatResult:
        message = AIMessage("", additional_kwargs={"reasoning_content": "one two"}, tool_calls=[CALL])
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _stream(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **_: Any
    ) -> Iterator[ChatGenerationChunk]:
        for word in ("one ", "two"):
            yield ChatGenerationChunk(message=AIMessageChunk(content="", additional_kwargs={"reasoning_content": word}))
        for name, piece in (("look_up", '{"city": '), (None, '"Bern"'), (None, "}")):
            part: Any = {"name": name, "args": piece, "id": "call_1" if name else None, "index": 0}
            yield ChatGenerationChunk(message=AIMessageChunk(content="", tool_call_chunks=[part]))
            if self.fails:
                raise ConnectionError("gone")


def test_streamed_and_whole_answers_have_equal_records(tree: Any, value: Callable[[Any], Any]) -> None:
    Thinking().invoke("weather?", HANDLER)
    assert list(Thinking().stream("weather?", HANDLER))
    whole, streamed = tree.named("Thinking")
    assert value(whole.output) == value(streamed.output)
    assert value(whole.output)["reasoning_content"] == "one two"


@pytest.mark.parametrize("fails", [False, True], ids=["closed", "failed"])
def test_a_stream_closed_early_keeps_reasoning_and_arguments(
    fails: bool, tree: Any, value: Callable[[Any], Any]
) -> None:
    stream: Any = Thinking(fails=fails).stream("weather?", HANDLER)
    for _ in range(3 if fails else 4):  # older versions of LangChain leave out the last chunk of a closed stream
        next(stream)
    if fails:
        with pytest.raises(ConnectionError):
            next(stream)
    else:
        stream.close()
    record = tree.one("Thinking")
    output = value(record.output)
    assert (record.status, record.error_type) == (("error", "ConnectionError") if fails else ("success", "abandoned"))
    assert output["reasoning_content"] == "one two"
    assert output["tool_calls"][0]["function"]["name"] == "look_up"
    assert isinstance(output, dict)  # an error's own details are no second choice


def test_a_protocol_stream_that_fails_keeps_reasoning_and_arguments(tree: Any, value: Callable[[Any], Any]) -> None:
    if not hasattr(BaseCallbackHandler, "on_stream_event"):
        pytest.skip("this langchain-core has no protocol streams")
    from langchain_core._api import suppress_langchain_beta_warning

    with suppress_langchain_beta_warning(), pytest.raises(ConnectionError):
        list(Thinking(fails=True).stream_events("weather?", HANDLER, version="v3"))
    record = tree.one("Thinking")
    blocks = value(record.output)["content"]
    assert record.error_type == "ConnectionError"
    assert [block["type"] for block in blocks] == ["reasoning", "tool_call_chunk"]
    assert (blocks[0]["reasoning"], blocks[1]["name"], blocks[1]["args"]) == ("one two", "look_up", '{"city": ')


# --- tools that fail, and say so in a message ---


def raises(x: int) -> str:
    """Raise."""
    raise ToolException("disk is full")


@tool("says_so")
def says_so(x: int) -> ToolMessage:
    """Return a failure."""
    return ToolMessage("[exit code 3]", tool_call_id="call_3", status="error")


@tool("works")
def works(x: int) -> ToolMessage:
    """Return a success."""
    return ToolMessage("fine", tool_call_id="call_4")


handled = StructuredTool.from_function(raises, name="handled", handle_tool_error=True)


@pytest.mark.parametrize(
    ("used", "error", "output"),
    [
        (handled, "disk is full", "disk is full"),
        (says_so, "[exit code 3]", "[exit code 3]"),
        (works, None, "fine"),
    ],
    ids=lambda item: getattr(item, "name", ""),
)
async def test_the_status_of_a_tools_message_is_recorded(
    used: Any, error: str | None, output: str, tree: Any, value: Callable[[Any], Any]
) -> None:
    if used is not handled and not RETURNS_MESSAGES:
        pytest.skip("this langchain-core makes a text of a message that a tool returns")
    call = {"type": "tool_call", "id": "call_3", "name": used.name, "args": {"x": 1}}
    used.invoke(call, HANDLER)
    await used.ainvoke(call, HANDLER)
    for record in tree.named(used.name):
        assert (record.status, record.error) == ("error" if error else "success", error)
        assert (value(record.inputs), value(record.output)) == ({"x": 1}, output)


def test_a_tools_failure_is_left_out_with_its_output(tree: Any, value: Callable[[Any], Any]) -> None:
    call = {"type": "tool_call", "id": "call_3", "name": "handled", "args": {"x": 1}}
    handled.invoke(call, {"callbacks": [CallbackHandler(log_omit_outputs=True)]})
    record = tree.one("handled")
    assert record.status == "error"
    assert "disk is full" not in repr(record)


def test_a_failure_in_the_history_is_marked(tree: Any, chat: Any, value: Callable[[Any], Any]) -> None:
    failed = ToolMessage("[exit code 3]", tool_call_id="call_3", status="error")
    chat().invoke([HumanMessage("run it"), AIMessage("", tool_calls=[CALL]), failed], HANDLER)
    messages = value(tree.one("ScriptedChat").llm_configuration)["messages"]
    assert messages[2] == {
        "role": "tool",
        "content": "[exit code 3]",
        "tool_call_id": "call_3",
        "status": "error",
    }


def test_keys_of_a_remote_server_among_the_tools_are_masked(tree: Any, chat: Any, value: Callable[[Any], Any]) -> None:
    server = {"type": "mcp", "server_label": "shelf", "server_url": "https://shelf.example"}
    keys = {"authorization": "KEY-77", "headers": {"x-tok": "HEADER-78"}}
    chat().invoke("hi", HANDLER, tools=[{**server, **keys}, {"type": "web_search"}])
    assert value(tree.one("ScriptedChat").llm_configuration)["functions"] == [
        {**server, "authorization": "***", "headers": {"x-tok": "***"}},
        {"type": "web_search"},
    ]
