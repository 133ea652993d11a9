"""LangChain's handler under omit flags, to the last byte: entry x outcome x flag, on the wire, on disk and in logs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool

import everycall
from everycall_langchain import CallbackHandler

OUTCOMES = ["ok", "error", "abandoned", "cancelled"]


class Refused(Exception):
    pass


class Shelf(BaseRetriever):
    canary: str
    outcome: str

    def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
        end(self.outcome, self.canary)
        return [Document(page_content=f"o-{self.canary}", metadata={"source": f"o-{self.canary}"})]


def end(outcome: str, canary: str) -> None:
    """End with the outcome: with an error that repeats the input and has a cause that does, or without one."""
    if outcome == "error":
        try:
            raise OSError(f"w-{canary}")
        except OSError as cause:
            raise Refused(f"w-{canary}") from cause
    if outcome == "cancelled":
        raise asyncio.CancelledError


def model(canary: str) -> GenericFakeChatModel:
    return GenericFakeChatModel(messages=iter([AIMessage(f"o-{canary} two three")] * 3))


def chat(canary: str, outcome: str, config: Any) -> None:
    """A prompt, a model, and a parser."""
    prompt = ChatPromptTemplate.from_messages([("system", f"i-{canary}"), ("user", "{q}")])

    def content(message: AIMessage) -> Any:
        end(outcome, canary)
        return message.content

    chain = prompt | model(canary) | RunnableLambda(content)
    chain.invoke({"q": f"i-{canary}"}, config)


def stream(canary: str, outcome: str, config: Any) -> None:
    """The same, streamed; closed after the first chunk if the outcome says so."""

    def parse(pieces: Any) -> Any:
        for piece in pieces:
            yield piece.content
            end(outcome, canary)

    chain = ChatPromptTemplate.from_template("{q}") | model(canary) | parse
    for _ in chain.stream({"q": f"i-{canary}"}, config):
        if outcome == "abandoned":
            break


def chat_async(canary: str, outcome: str, config: Any) -> None:
    """On an event loop, and cancelled if the outcome says so."""

    async def wait(inputs: Any) -> str:
        if outcome == "cancelled":
            await asyncio.sleep(60)
        end(outcome, canary)
        return str(inputs.content)

    async def main() -> None:
        chain = ChatPromptTemplate.from_template("{q}") | model(canary) | RunnableLambda(wait)
        task = asyncio.create_task(chain.ainvoke({"q": f"i-{canary}"}, config))
        if outcome == "cancelled":
            await asyncio.sleep(0.1)
            task.cancel()
        await task

    asyncio.run(main())


def use_tool(canary: str, outcome: str, config: Any) -> None:
    """A tool, called by a function."""

    @tool
    def look_up(city: str) -> str:
        """Look up."""
        end(outcome, canary)
        return f"o-{canary}"

    RunnableLambda(lambda city: look_up.invoke({"city": city})).invoke(f"i-{canary}", config)


def retrieve(canary: str, outcome: str, config: Any) -> None:
    """A retriever, called by a function: LangChain tells of its cancellation by the function's alone."""
    shelf = Shelf(canary=canary, outcome=outcome)
    RunnableLambda(lambda query: shelf.invoke(query)).invoke(f"i-{canary}", config)  # type: ignore[arg-type]


def nested(canary: str, outcome: str, config: Any) -> None:
    """What a user's code opens inside a step: a span, and a traced function that fails."""

    @everycall.trace
    def inside(question: str) -> str:
        everycall.current().update(metadata={"q": question}, tags=[question])
        end(outcome, canary)
        return f"o-{canary}"

    RunnableLambda(inside).invoke(f"i-{canary}", config)


def in_model(canary: str, outcome: str, config: Any) -> None:
    """What a model's own code opens: it is found by the frames, and under the model's flags."""

    class Busy(GenericFakeChatModel):
        def _generate(self, *args: Any, **kwargs: Any) -> Any:
            with everycall.span("inside", inputs=f"i-{canary}") as call:
                call.update(output=f"o-{canary}")
                end(outcome, canary)
            return super()._generate(*args, **kwargs)

    Busy(messages=iter([AIMessage(f"o-{canary}")] * 3)).invoke(f"i-{canary}", config)


def graph(canary: str, outcome: str, config: Any) -> None:
    """A graph of LangGraph's that asks a question, and is resumed."""
    from langgraph import errors
    from langgraph.checkpoint.memory import InMemorySaver
    from langgraph.graph import START, StateGraph
    from langgraph.types import Command, interrupt

    def node(state: dict[str, str]) -> dict[str, str]:
        end(outcome, canary)
        return {"said": str(interrupt(f"o-{canary}"))}

    builder: Any = StateGraph(dict)
    builder.add_node("node", node)
    builder.add_edge(START, "node")
    runnable = builder.compile(checkpointer=InMemorySaver())
    config = {**config, "configurable": {"thread_id": "t"}}
    try:
        runnable.invoke({"said": f"i-{canary}"}, config)
        runnable.invoke(Command(resume=f"i-{canary}"), config)
    except getattr(errors, "NodeCancelledError", asyncio.CancelledError) as stopped:
        raise asyncio.CancelledError from stopped


ENTRIES = [chat, stream, chat_async, use_tool, retrieve, nested, in_model, graph]
FLAGS = [{"log_omit_inputs": True, "log_omit_outputs": True}, {"log_omit": True}]
WAYS = ["handler", "config", "context", "init", "environment"]


def run(way: str, entry: Callable[..., None], canary: str, outcome: str, sink: Any, flags: dict[str, Any]) -> None:
    """Run an entry with the flags given in one of the ways a user can give them."""
    everycall.init(endpoint=sink.address, **(flags if way == "init" else {}))
    handler = CallbackHandler(**(flags if way == "handler" else {}))
    metadata = {"question": f"i-{canary}", **(flags if way == "config" else {})}
    config = {"callbacks": [handler], "metadata": metadata, "tags": [f"i-{canary}"]}
    with everycall.context(**(flags if way == "context" else {})):
        try:
            entry(canary, outcome, config)
        except (Refused, asyncio.CancelledError):
            assert outcome in ("error", "cancelled")
    assert everycall.flush(10).spooled == 0


@pytest.mark.parametrize("outcome", OUTCOMES)
@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.__name__)
@pytest.mark.parametrize("flags", FLAGS, ids="+".join)
def test_omitted_content_is_nowhere(
    sink: Any, tmp_path: Path, canary: str, written_output: Callable[[], str], entry: Callable[..., None], outcome: str,
    flags: dict[str, Any], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Whichever way the flags are given, the canary is in no byte; with `log_omit` there is no record at all."""
    for way in WAYS:
        if way == "environment":
            monkeypatch.setenv("EVERYCALL_LOG_OMIT", "all" if "log_omit" in flags else "inputs,outputs")
        run(way, entry, f"{canary}-{way}", outcome, sink, flags)
    files = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert canary.encode() not in b"\n".join(sink.bodies) + files
    assert canary not in written_output()
    if "log_omit" in flags:
        assert sink.records == []
    else:
        assert len(sink.records) >= len(WAYS)
        assert all(set(record["omitted"]) >= {"inputs", "outputs"} for record in sink.records)
        if outcome == "error":
            failed = [record for record in sink.records if record.get("status") == "error"]
            assert all(record["error"].partition(" at ")[0].endswith("Refused") for record in failed)
            assert failed


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.__name__)
def test_without_flags_each_place_is_recorded(sink: Any, canary: str, entry: Callable[..., None]) -> None:
    """The search works: inputs, outputs, error messages with their causes, metadata and tags do reach the sink."""
    for outcome in OUTCOMES[:2]:
        run("none", entry, canary, outcome, sink, {})
    bodies = b"\n".join(sink.bodies).decode()
    for place in ("i-", "o-", "w-"):
        assert place + canary in bodies
    assert f"Refused: w-{canary}" in bodies
    assert f"OSError: w-{canary}" in bodies
    assert f'"tags":["i-{canary}"' in bodies
