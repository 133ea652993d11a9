"""The records of models (request, answer, model, provider, tokens) and of the other kinds of runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from langchain_core.callbacks import CallbackManagerForRetrieverRun, dispatch_custom_event
from langchain_core.documents import Document
from langchain_core.language_models import FakeListChatModel, FakeMessagesListChatModel
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.outputs import ChatGeneration, LLMResult
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langchain_core.tools import tool
from tenacity import RetryCallState, Retrying

from everycall_langchain import CallbackHandler
from everycall_langchain._completion import response_fields

HANDLER: RunnableConfig = {"callbacks": [CallbackHandler()]}
CALL = {"name": "look_up", "args": {"city": "Bern"}, "id": "call_1", "type": "tool_call"}


def test_request_and_answer(tree: Any, chat: Any, value: Callable[[Any], Any]) -> None:
    message = AIMessage(
        content="It is sunny.",
        response_metadata={"model_name": "claude-test-1-20260101", "id": "msg_7", "stop_reason": "end_turn"},
    )
    history = [
        SystemMessage("Be brief."),
        HumanMessage([{"type": "text", "text": "Weather?"}]),
        AIMessage("", tool_calls=[CALL]),
        ToolMessage("sunny", tool_call_id="call_1", name="look_up"),
    ]
    chat(message).invoke(history, HANDLER, stop=["STOP"], tools=[{"type": "function", "function": {"name": "look_up"}}])
    record = tree.one("ScriptedChat")
    assert record.kind == "llm"
    assert value(record.llm_configuration) == {
        "model": "claude-test-1",
        "provider": "anthropic",
        "model_params": {"temperature": 0.25, "stop": ["STOP"]},
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "Weather?"}]},
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [
                    {"id": "call_1", "type": "function", "function": {"name": "look_up", "arguments": {"city": "Bern"}}}
                ],
            },
            {"role": "tool", "content": "sunny", "name": "look_up", "tool_call_id": "call_1"},
        ],
        "functions": [{"name": "look_up"}],
    }
    assert (record.content, value(record.output)) == ("It is sunny.", None)
    assert (record.model, record.provider) == ("claude-test-1-20260101", "anthropic")
    assert (record.input_tokens, record.output_tokens, record.total_tokens, record.usage) == (None, None, None, {})
    attributes = value(record.attributes)
    assert attributes["gen_ai.response.id"] == "msg_7"
    assert attributes["gen_ai.response.finish_reasons"] == ["end_turn"]
    assert "sk-never-recorded" not in repr(record)


def test_tool_calls_and_blocks_are_the_output(tree: Any, chat: Any, value: Callable[[Any], Any]) -> None:
    blocks: list[str | dict[Any, Any]] = [
        {"type": "reasoning", "reasoning": "hm"},
        {"type": "text", "text": "Let me "},
        {"type": "text", "text": "see."},
    ]
    chat(AIMessage(blocks, tool_calls=[CALL])).invoke("hi", HANDLER)
    record = tree.one("ScriptedChat")
    assert record.content == "Let me see."
    output = value(record.output)
    assert output["content"] == blocks
    assert output["tool_calls"][0]["function"] == {"name": "look_up", "arguments": {"city": "Bern"}}


def test_several_choices_have_one_usage(tree: Any, chat: Any, value: Callable[[Any], Any]) -> None:
    usage = {"input_tokens": 5, "output_tokens": 8, "total_tokens": 13}
    answers = [AIMessage("a", usage_metadata=usage), AIMessage("b", usage_metadata=usage)]
    bill = {"prompt_tokens": 5, "completion_tokens": 8, "total_tokens": 13}
    chat(*answers, choices=2, llm_output={"token_usage": bill}).invoke("hi", HANDLER)
    record = tree.one("ScriptedChat")
    assert record.content == "a"
    assert [message["content"] for message in value(record.output)] == ["a", "b"]
    assert (record.input_tokens, record.output_tokens, record.total_tokens) == (5, 8, 13)


async def test_several_prompts_are_several_completions(tree: Any, chat: Any) -> None:
    chat("one", "two").generate([[HumanMessage("1")], [HumanMessage("2")]], callbacks=[CallbackHandler()])
    await chat("three", "four").agenerate([[HumanMessage("3")], [HumanMessage("4")]], callbacks=[CallbackHandler()])
    assert sorted(record.content or "" for record in tree.named("ScriptedChat")) == ["four", "one", "three", "two"]


async def test_text_models(tree: Any, text_model: Any, value: Callable[[Any], Any]) -> None:
    text_model.invoke("first", HANDLER)
    await text_model.ainvoke("second", HANDLER)
    for record, prompt in zip(tree.named("ScriptedText"), ("first", "second"), strict=True):
        assert record.kind == "llm"
        assert record.content == f"text for {prompt}"
        assert value(record.llm_configuration)["messages"] == [{"role": "user", "content": prompt}]
        assert (record.input_tokens, record.output_tokens, record.total_tokens) == (7, 3, 10)
        assert (record.model, record.provider) == ("davinci-test-001", None)


def test_a_class_name_is_not_a_provider(tree: Any, value: Callable[[Any], Any]) -> None:
    FakeListChatModel(responses=["canned"]).invoke("hi", HANDLER)
    record = tree.one("FakeListChatModel")
    assert (record.provider, record.model) == (None, None)
    assert "canned" not in repr(value(record.llm_configuration))


def test_a_repeated_message_is_not_a_cache_hit(tree: Any) -> None:
    if not hasattr(FakeMessagesListChatModel, "_convert_cached_generations"):
        pytest.skip("this langchain-core does not mark cache hits: the message's id is the only sign")
    model = FakeMessagesListChatModel(responses=[AIMessage("same")])
    model.invoke("hi", HANDLER)
    model.invoke("hi", HANDLER)
    assert [record.cache_hit for record in tree.named("FakeMessagesListChatModel")] == [None, None]


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (
            {
                "prompt_tokens": 9,
                "completion_tokens": 4,
                "total_tokens": 13,
                "prompt_tokens_details": {"cached_tokens": 6},
            },
            {"input_tokens": 9, "output_tokens": 4, "total_tokens": 13, "usage": {"cached": 6}},
        ),
        (
            {"input_tokens": 3, "output_tokens": 4, "cache_read_input_tokens": 50, "cache_creation_input_tokens": 7},
            {"input_tokens": 60, "output_tokens": 4, "total_tokens": 64, "usage": {"cached": 50, "cache_write": 7}},
        ),
        (
            {
                "input_tokens": 30,
                "output_tokens": 0,
                "input_token_details": {
                    "cache_creation": 0,
                    "ephemeral_5m_input_tokens": 5,
                    "ephemeral_1h_input_tokens": 2,
                },
            },
            {
                "input_tokens": 30,
                "output_tokens": 0,
                "total_tokens": 30,
                "usage": {"cache_write": 7, "cache_write_1h": 2},
            },
        ),
        (
            {"input_tokens": 30, "output_tokens": 1, "input_token_details": {"cache_read": 0}},
            {"input_tokens": 30, "output_tokens": 1, "total_tokens": 31, "usage": {"cached": 0}},
        ),
        ({"prompt_tokens": None, "completion_tokens": "4"}, {}),
    ],
    ids=["openai", "anthropic", "cache writes by lifetime", "measured zero", "not numbers"],
)
def test_reports_of_tokens(usage: dict[str, Any], expected: dict[str, Any]) -> None:
    message = AIMessage("x", response_metadata={"token_usage": usage})
    fields = response_fields(LLMResult(generations=[[ChatGeneration(message=message)]]), "run")
    assert {
        key: fields[key] for key in ("input_tokens", "output_tokens", "total_tokens", "usage") if key in fields
    } == expected


def test_tools(tree: Any, value: Callable[[Any], Any]) -> None:
    @tool
    def look_up(city: str) -> str:
        """Look up a city."""
        return f"sunny in {city}"

    look_up.invoke({"city": "Bern"}, HANDLER)
    look_up.invoke(CALL, HANDLER)
    plain, tool_call = tree.named("look_up")
    assert (plain.kind, value(plain.inputs), value(plain.output)) == ("tool", {"city": "Bern"}, "sunny in Bern")
    assert (value(tool_call.inputs), value(tool_call.output)) == ({"city": "Bern"}, "sunny in Bern")


class Shelf(BaseRetriever):
    def _get_relevant_documents(self, query: str, *, run_manager: CallbackManagerForRetrieverRun) -> list[Document]:
        return [Document(page_content=f"about {query}", metadata={"page": 3})]


def test_retrievers(tree: Any, value: Callable[[Any], Any]) -> None:
    Shelf().invoke("storks", HANDLER)
    record = tree.one("Shelf")
    assert (record.kind, value(record.inputs)) == ("retriever", {"query": "storks"})
    assert value(record.output) == [{"page_content": "about storks", "metadata": {"page": 3}}]


def test_chains_prompts_and_parsers(tree: Any, chat: Any, value: Callable[[Any], Any]) -> None:
    chain = (
        ChatPromptTemplate.from_messages([("system", "Be {how}."), ("human", "{q}")]) | chat("done") | StrOutputParser()
    )
    assert chain.invoke({"how": "brief", "q": "why?"}, {**HANDLER, "run_name": "ask"}) == "done"
    root, prompt, parser = tree.one("ask"), tree.one("ChatPromptTemplate"), tree.one("StrOutputParser")
    assert (root.kind, prompt.kind, parser.kind) == ("chain", "prompt", "parser")
    assert (value(root.inputs), value(root.output)) == ({"how": "brief", "q": "why?"}, "done")
    assert value(prompt.output) == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "why?"}]
    assert value(parser.inputs) == {"role": "assistant", "content": "done"}
    assert {record.parent_id for record in tree.records} == {None, root.inference_id}


async def test_streams_record_whole_inputs_and_outputs(tree: Any, chat: Any, value: Callable[[Any], Any]) -> None:
    usage = {"input_tokens": 2, "output_tokens": 3, "total_tokens": 5}
    chain = ChatPromptTemplate.from_template("{q}") | chat(AIMessage("one two three", usage_metadata=usage))
    assert list(chain.stream({"q": "hi"}, HANDLER))
    assert [chunk async for chunk in chain.astream({"q": "hi"}, HANDLER)]
    for model, root in zip(tree.named("ScriptedChat"), tree.named("RunnableSequence"), strict=True):
        assert (model.content, model.input_tokens, model.output_tokens) == ("one two three", 2, 3)
        assert value(root.inputs) == {"q": "hi"}
        assert value(root.output)["content"] == "one two three"


async def test_protocol_streams(tree: Any, chat: Any) -> None:
    if not hasattr(CallbackHandler.__mro__[1], "on_stream_event"):
        pytest.skip("this langchain-core has no protocol streams")
    from langchain_core._api import suppress_langchain_beta_warning

    with suppress_langchain_beta_warning():
        assert str(chat("one two").stream_events("hi", HANDLER, version="v3").text) == "one two"
        stream = await chat("one two").astream_events("hi", HANDLER, version="v3")
        assert await stream.text == "one two"
    for record in tree.named("ScriptedChat"):
        assert record.content == "one two"
        assert record.time_to_first_token is not None


def test_metadata_and_tags(tree: Any, chat: Any, value: Callable[[Any], Any]) -> None:
    handler = CallbackHandler(
        tags=["always"], metadata={"service": "bot"}, end_user_identifier="u-0", trace_name="talk"
    )
    config = {
        "callbacks": [handler],
        "tags": ["beta"],
        "metadata": {
            "team": "a",
            "end_user_identifier": "u-7",
            "thread_id": "s-1",
            "trace_id": "order-42",
            "target": "gold",
            "lc_internal": 1,
            "__pregel_x": 2,
        },
    }
    (RunnableLambda(lambda x: x, name="step") | chat()).invoke("hi", config)
    for record in tree.records:
        assert value(record.metadata) == {"service": "bot", "team": "a"}
        assert record.tags == ["always", "beta"]
        assert (record.end_user_identifier, record.session_id) == ("u-7", "s-1")
        assert (record.trace_id, record.trace_name) == ("order-42", "talk")
    root = tree.one("RunnableSequence")
    assert [value(record.target) for record in tree.records if record is not root] == [None, None]
    assert value(root.target) == "gold"


def test_log_omit_in_the_config_records_nothing(tree: Any, chat: Any) -> None:
    (RunnableLambda(lambda x: x) | chat()).invoke("hi", {**HANDLER, "metadata": {"log_omit": True}})
    assert tree.records == []


def test_events(tree: Any, value: Callable[[Any], Any]) -> None:
    def body(x: str) -> str:
        dispatch_custom_event("progress", {"done": 0.5})
        return x

    RunnableLambda(body).invoke("hi", HANDLER)
    (event,) = value(tree.one("body").attributes)["events"]
    assert (event["name"], event["attributes"]) == ("progress", {"data": {"done": 0.5}})


def test_retries(tree: Any, chat: Any, value: Callable[[Any], Any]) -> None:
    attempts_made: list[int] = []

    def body(x: str) -> str:
        attempts_made.append(1)
        if len(attempts_made) < 2:
            raise OSError("again")
        return x

    RunnableLambda(body).with_retry(wait_exponential_jitter=False).invoke("hi", HANDLER)
    whole, *attempts = sorted(tree.named("body"), key=lambda record: record.start_time_unix_nano)
    assert whole.status == "success"
    assert [(record.parent_id, record.status) for record in attempts] == [
        (whole.inference_id, "error"),
        (whole.inference_id, "success"),
    ]


def test_a_models_own_retries_are_events(tree: Any, value: Callable[[Any], Any]) -> None:
    state = RetryCallState(retry_object=Retrying(), fn=None, args=(), kwargs={})
    handler, run_id = CallbackHandler(), uuid4()
    handler.on_chat_model_start({"name": "model"}, [[HumanMessage("hi")]], run_id=run_id)
    handler.on_retry(state, run_id=run_id)
    handler.on_llm_end(LLMResult(generations=[]), run_id=run_id)
    (event,) = value(tree.one("model").attributes)["events"]
    assert (event["name"], event["attributes"]) == ("retry", {"attempt": 1})
