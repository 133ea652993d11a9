"""Omit flags: a canary in each place that carries content in LangChain is searched in the whole record."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from langchain_core.callbacks import dispatch_custom_event
from langchain_core.documents import Document
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableLambda, RunnablePassthrough
from langchain_core.tools import tool

import everycall
from everycall.record import encode
from everycall_langchain import CallbackHandler

CANARY = "CANARY-5f2e"
IN, OUT, BOTH = "log_omit_inputs", "log_omit_outputs", "both"


def template_variable(chat: Any, config: Any) -> None:
    (ChatPromptTemplate.from_template("{q}") | chat() | StrOutputParser()).invoke({"q": CANARY}, config)


def template_text(chat: Any, config: Any) -> None:
    (ChatPromptTemplate.from_template(CANARY + "{q}") | chat() | StrOutputParser()).invoke({"q": "hi"}, config)


def model_answer(chat: Any, config: Any) -> None:
    chat(CANARY).invoke("hi", config)


def model_answer_given_to_a_parser(chat: Any, config: Any) -> None:
    chain = chat(CANARY) | StrOutputParser() | RunnableLambda(lambda x: "fine")
    chain.invoke("hi", config)
    list(chain.stream("hi", config))


def model_answer_given_to_a_tool_and_back(chat: Any, config: Any) -> None:
    @tool
    def look_up(city: str) -> str:
        """Look up."""
        return f"sunny in {city}"

    model = chat(AIMessage("", tool_calls=[{"name": "look_up", "args": {"city": CANARY}, "id": "1"}]), "fine")

    def agent(question: str) -> str:
        first = model.invoke(question)
        result = look_up.invoke(first.tool_calls[0])
        return str(model.invoke([HumanMessage(question), first, result]).content)

    RunnableLambda(agent).invoke("weather?", config)


def canned_answer_in_the_model_object(chat: Any, config: Any) -> None:
    FakeListChatModel(responses=[CANARY]).invoke("hi", config)


def streamed_token(chat: Any, config: Any) -> None:
    list((RunnableLambda(lambda x: x) | chat(f"one {CANARY} three")).stream("hi", config))


def closed_stream(chat: Any, config: Any) -> None:
    stream = chat(f"{CANARY} two").stream("hi", config)
    next(stream)
    stream.close()


def prompt_alone(chat: Any, config: Any) -> None:
    ChatPromptTemplate.from_template("{q}").invoke({"q": CANARY}, config)


def passed_through(chat: Any, config: Any) -> None:
    (RunnableLambda(lambda x: x) | RunnablePassthrough() | chat()).invoke(CANARY, config)


def stop_word(chat: Any, config: Any) -> None:
    chat().invoke("hi", config, stop=[CANARY])


def tool_definition(chat: Any, config: Any) -> None:
    chat().invoke("hi", config, tools=[{"type": "function", "function": {"name": "f", "description": CANARY}}])


def tool_argument(chat: Any, config: Any) -> None:
    @tool
    def look_up(city: str) -> str:
        """Look up."""
        return "fine"

    look_up.invoke({"city": CANARY}, config)


def tool_result(chat: Any, config: Any) -> None:
    @tool
    def look_up(city: str) -> str:
        """Look up."""
        return CANARY

    look_up.invoke({"city": "Bern"}, config)


def tool_call_of_the_model(chat: Any, config: Any) -> None:
    chat(AIMessage("", tool_calls=[{"name": "look_up", "args": {"city": CANARY}, "id": "1"}])).invoke("hi", config)


def tool_exception(chat: Any, config: Any) -> None:
    @tool
    def look_up(city: str) -> str:
        """Look up."""
        raise ValueError(f"no city {CANARY}")

    with pytest.raises(ValueError, match="CANARY"):
        look_up.invoke({"city": "Bern"}, config)


def runnable_exception(chat: Any, config: Any) -> None:
    def body(x: str) -> str:
        try:
            raise KeyError(CANARY)
        except KeyError as cause:
            raise ValueError(f"bad input {CANARY}") from cause

    with pytest.raises(ValueError, match="CANARY"):
        RunnableLambda(body).invoke("hi", config)


def model_exception(chat: Any, config: Any) -> None:
    with pytest.raises(ConnectionError):
        list(chat("one two", fails=ConnectionError(CANARY), fails_after=1).stream("hi", config))


class Shelf(BaseRetriever):
    finds: str

    def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
        return [Document(page_content=self.finds, metadata={"source": self.finds})]


def retriever_query(chat: Any, config: Any) -> None:
    Shelf(finds="nothing").invoke(CANARY, config)


def retrieved_document(chat: Any, config: Any) -> None:
    Shelf(finds=CANARY).invoke("hi", config)


def config_metadata(chat: Any, config: Any) -> None:
    chat().invoke("hi", {**config, "metadata": {**config.get("metadata", {}), "question": CANARY}})


def tag(chat: Any, config: Any) -> None:
    chat().invoke("hi", {**config, "tags": [CANARY]})


def custom_event(chat: Any, config: Any) -> None:
    def body(x: str) -> str:
        dispatch_custom_event("progress", {"x": CANARY})
        return "fine"

    RunnableLambda(body).invoke("hi", config)


def span_inside_a_step(chat: Any, config: Any) -> None:
    def body(x: str) -> str:
        with everycall.span("inner", inputs=CANARY) as call:
            call.update(output=CANARY, metadata={"x": CANARY})
        return "fine"

    RunnableLambda(body).invoke("hi", config)


PLACES: list[tuple[Callable[..., None], set[str]]] = [
    (template_variable, {IN}),
    (template_text, {IN}),
    (prompt_alone, {IN}),
    (passed_through, {IN}),
    (stop_word, {IN}),
    (tool_definition, {IN}),
    (tool_argument, {IN}),
    (retriever_query, {IN}),
    (config_metadata, {IN}),
    (tag, {IN}),
    (model_answer, {OUT}),
    (model_answer_given_to_a_parser, {OUT}),
    (model_answer_given_to_a_tool_and_back, {OUT}),
    (canned_answer_in_the_model_object, {OUT}),
    (streamed_token, {OUT}),
    (closed_stream, {OUT}),
    (tool_result, {OUT}),
    (tool_call_of_the_model, {OUT}),
    (retrieved_document, {OUT}),
    (tool_exception, {IN, OUT}),
    (runnable_exception, {IN, OUT}),
    (model_exception, {IN, OUT}),
    (custom_event, {IN, OUT}),
    (span_inside_a_step, set()),
]
"""Each place, with the flags that must each be enough alone. Both together must be enough everywhere."""


@pytest.fixture(params=["handler", "config", "context", "decorator"])
def flagged(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Return a function that runs a place under flags, for each of the ways to set them."""

    def run(place: Callable[..., None], chat: Any, **flags: Any) -> None:
        if request.param == "handler":
            place(chat, {"callbacks": [CallbackHandler(**flags)]})
        elif request.param == "config":
            place(chat, {"callbacks": [CallbackHandler()], "metadata": flags})
        elif request.param == "context":
            with everycall.context(**flags):
                place(chat, {"callbacks": [CallbackHandler()]})
        else:
            everycall.trace(name="outer", **flags)(lambda: place(chat, {"callbacks": [CallbackHandler()]}))()

    return run


def _seen(records: list[Any]) -> bool:
    return any(CANARY.encode() in encode(record) for record in records)


@pytest.mark.parametrize(("place", "_alone"), PLACES, ids=lambda p: getattr(p, "__name__", ""))
def test_without_flags_the_canary_is_recorded(place: Any, _alone: set[str], chat: Any, records: list[Any]) -> None:
    place(chat, {"callbacks": [CallbackHandler()]})
    assert _seen(records), "a place that is never recorded proves nothing"


@pytest.mark.parametrize(("place", "_alone"), PLACES, ids=lambda p: getattr(p, "__name__", ""))
def test_both_flags_cover_every_place(
    place: Any, _alone: set[str], chat: Any, records: list[Any], flagged: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    flagged(place, chat, log_omit_inputs=True, log_omit_outputs=True)
    assert records
    assert not _seen(records)
    assert CANARY not in "".join(capfd.readouterr())


@pytest.mark.parametrize(
    ("place", "flag"),
    [(place, flag) for place, alone in PLACES for flag in sorted(alone)],
    ids=lambda p: getattr(p, "__name__", p),
)
def test_one_flag_covers_its_side(place: Any, flag: str, chat: Any, records: list[Any], flagged: Any) -> None:
    flagged(place, chat, **{flag: True})
    assert records
    assert not _seen(records)


@pytest.mark.parametrize(("place", "_alone"), PLACES, ids=lambda p: getattr(p, "__name__", ""))
def test_log_omit_leaves_no_record(place: Any, _alone: set[str], chat: Any, records: list[Any], flagged: Any) -> None:
    flagged(place, chat, log_omit=True)
    assert records == []


def test_one_flag_keeps_the_other_side(chat: Any, records: list[Any], value: Any) -> None:
    chain = ChatPromptTemplate.from_template("{q}") | chat("the answer") | StrOutputParser()
    chain.invoke({"q": "hi"}, {"callbacks": [CallbackHandler(log_omit_outputs=True)]})
    by_name = {record.name: record for record in records}
    assert value(by_name["RunnableSequence"].inputs) == {"q": "hi"}
    assert value(by_name["ScriptedChat"].llm_configuration)["messages"] == [{"role": "user", "content": "hi"}]
    records.clear()
    chain.invoke({"q": "hi"}, {"callbacks": [CallbackHandler(log_omit_inputs=True)]})
    answered = {record.name: record for record in records}
    assert value(answered["RunnableSequence"].output) == "the answer"
    assert answered["ScriptedChat"].content == "the answer"


def test_labels_of_the_handler_are_kept(chat: Any, records: list[Any], value: Any) -> None:
    handler = CallbackHandler(tags=["beta"], metadata={"team": "a"}, log_omit_inputs=True)
    chat().invoke("hi", {"callbacks": [handler], "metadata": {"question": CANARY}, "tags": [CANARY]})
    (record,) = records
    assert (record.tags, value(record.metadata)) == (["beta"], {"team": "a"})
    assert set(record.omitted) >= {"inputs", "metadata", "tags"}
    assert record.model == "claude-test-1"
