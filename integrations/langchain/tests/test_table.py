"""What a careful user of LangChain checks first: parents, first tokens, cached tokens, cache hits, closed streams."""

from __future__ import annotations

import ast
import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.messages import AIMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool
from opentelemetry import context as otel_context

import everycall
import everycall_langchain
from everycall_langchain import CallbackHandler
from everycall_langchain._runs import RUNS

HANDLER = {"callbacks": [CallbackHandler()]}


def _body(x: Any) -> Any:
    with everycall.span("inner"):
        return x


async def _async_body(x: Any) -> Any:
    await asyncio.sleep(0)
    with everycall.span("inner"):
        return x


async def sync_chain(tree: Any, chat: Any) -> None:
    (RunnableLambda(_body, name="step") | chat()).invoke("hi", HANDLER)
    assert tree.path(tree.one("inner")) == ["RunnableSequence", "step", "inner"]


async def async_chain(tree: Any, chat: Any) -> None:
    await (RunnableLambda(_async_body, name="step") | chat()).ainvoke("hi", HANDLER)
    assert tree.path(tree.one("inner")) == ["RunnableSequence", "step", "inner"]


async def sync_function_in_async_run(tree: Any, chat: Any) -> None:
    await (RunnableLambda(_body, name="step") | chat()).ainvoke("hi", HANDLER)
    assert tree.path(tree.one("inner")) == ["RunnableSequence", "step", "inner"]


async def async_batch(tree: Any, chat: Any) -> None:
    await (RunnableLambda(_async_body, name="step") | chat()).abatch(["a", "b", "c"], HANDLER)
    assert [tree.path(inner) for inner in tree.named("inner")] == [["RunnableSequence", "step", "inner"]] * 3
    assert len({inner.trace_id for inner in tree.named("inner")}) == 3


async def sync_batch_in_threads(tree: Any, chat: Any) -> None:
    await asyncio.to_thread((RunnableLambda(_body, name="step") | chat()).batch, ["a", "b", "c"], HANDLER)
    assert [tree.path(inner) for inner in tree.named("inner")] == [["RunnableSequence", "step", "inner"]] * 3


async def async_tool_under_ambient_span(tree: Any, chat: Any) -> None:
    @tool
    async def look_up(city: str) -> str:
        """Look up a city."""
        return str(await _async_body(city))

    with everycall.span("ambient"):
        await look_up.ainvoke({"city": "Bern"}, HANDLER)
    assert tree.path(tree.one("inner")) == ["ambient", "look_up", "inner"]


async def ambient_span_adopts_the_chain(tree: Any, chat: Any) -> None:
    with everycall.span("ambient"):
        chat().invoke("hi", HANDLER)
        await chat().ainvoke("hi", HANDLER)
    assert [tree.path(model) for model in tree.named("ScriptedChat")] == [["ambient", "ScriptedChat"]] * 2
    assert len({record.trace_id for record in tree.records}) == 1


async def context_is_clean_afterwards(tree: Any, chat: Any) -> None:
    before = otel_context.get_current()
    chain = RunnableLambda(_async_body) | chat("one two")
    await chain.ainvoke("hi", HANDLER)
    chat("one two").invoke("hi", HANDLER)
    assert [chunk async for chunk in chain.astream("hi", HANDLER)]
    assert otel_context.get_current() is before
    assert everycall.current() is None


async def time_to_first_token(tree: Any, chat: Any) -> None:
    assert list(chat("one two three").stream("hi", HANDLER))
    assert [chunk async for chunk in chat("one two three").astream("hi", HANDLER)]
    for model in tree.named("ScriptedChat"):
        assert model.time_to_first_token is not None
        assert 0 < model.time_to_first_token < model.latency


async def no_first_token_without_a_stream(tree: Any, chat: Any) -> None:
    chat("one").invoke("hi", HANDLER)
    assert tree.one("ScriptedChat").time_to_first_token is None


USAGE = {
    "input_tokens": 100,
    "output_tokens": 40,
    "total_tokens": 140,
    "input_token_details": {"cache_read": 60, "cache_creation": 10, "audio": 4},
    "output_token_details": {"reasoning": 25, "audio": 2},
}


async def parts_of_tokens_are_kept(tree: Any, chat: Any) -> None:
    chat(AIMessage(content="x", usage_metadata=USAGE)).invoke("hi", HANDLER)
    model = tree.one("ScriptedChat")
    assert (model.input_tokens, model.output_tokens, model.total_tokens) == (100, 40, 140)
    assert model.usage == {"cached": 60, "cache_write": 10, "reasoning": 25, "input_audio": 4, "output_audio": 2}


async def cache_hit_is_recognised(tree: Any, chat: Any) -> None:
    model = chat(AIMessage(content="x", usage_metadata=USAGE), cache=InMemoryCache())
    model.invoke("hi", HANDLER)
    model.invoke("hi", HANDLER)
    await model.ainvoke("hi", HANDLER)
    assert len(model.calls) == 1
    paid, *hits = tree.named("ScriptedChat")
    assert (paid.cache_hit, paid.cost_source) != (True, "cache")
    assert len(hits) == 2
    for hit in hits:
        assert (hit.cache_hit, hit.cost, hit.cost_source) == (True, 0.0, "cache")
        assert (hit.input_tokens, hit.output_tokens) == (100, 40)


async def closed_stream_is_abandoned_with_what_came(tree: Any, chat: Any) -> None:
    stream = chat("one two three").stream("hi", HANDLER)
    assert next(stream).content == "one "
    stream.close()
    model = tree.one("ScriptedChat")
    assert (model.status, model.error_type, model.content) == ("success", "abandoned", "one ")


async def closed_async_stream_is_abandoned(tree: Any, chat: Any) -> None:
    stream = (RunnableLambda(_async_body, name="step") | chat("one two three")).astream("hi", HANDLER)
    assert (await anext(stream)).content == "one "
    await stream.aclose()
    while len(RUNS.by_key):  # the event loop closes the inner generators, some turns later
        await asyncio.sleep(0)
    for name in ("ScriptedChat", "RunnableSequence"):
        assert (tree.one(name).status, tree.one(name).error_type) == ("success", "abandoned"), name
    assert tree.one("ScriptedChat").content == "one "
    assert tree.one("inner").error_type is None


async def closed_chain_stream_is_abandoned(tree: Any, chat: Any) -> None:
    stream = (ChatPromptTemplate.from_template("{q}") | chat("one two three") | StrOutputParser()).stream("hi", HANDLER)
    assert next(stream) == "one "
    stream.close()
    root = tree.one("RunnableSequence")
    assert (root.status, root.error_type) == ("success", "abandoned")


async def finished_chain_stream_is_not_abandoned(tree: Any, chat: Any) -> None:
    chain = ChatPromptTemplate.from_template("{q}") | chat("one two three") | StrOutputParser()
    assert "".join(chain.stream({"q": "hi"}, HANDLER)) == "one two three"
    assert "".join([chunk async for chunk in chain.astream({"q": "hi"}, HANDLER)]) == "one two three"
    assert {record.error_type for record in tree.records} == {None}


async def langchain_core_is_enough(tree: Any, chat: Any) -> None:
    package = Path(everycall_langchain.__file__).parent
    nodes = [node for file in package.glob("*.py") for node in ast.walk(ast.parse(file.read_text()))]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}
    outside = {name.partition(".")[0] for name in names} - set(sys.stdlib_module_names)
    assert outside == {"everycall", "everycall_langchain", "langchain_core", "opentelemetry"}


ROWS: list[Callable[..., Any]] = [
    sync_chain,
    async_chain,
    sync_function_in_async_run,
    async_batch,
    sync_batch_in_threads,
    async_tool_under_ambient_span,
    ambient_span_adopts_the_chain,
    context_is_clean_afterwards,
    time_to_first_token,
    no_first_token_without_a_stream,
    parts_of_tokens_are_kept,
    cache_hit_is_recognised,
    closed_stream_is_abandoned_with_what_came,
    closed_async_stream_is_abandoned,
    closed_chain_stream_is_abandoned,
    finished_chain_stream_is_not_abandoned,
    langchain_core_is_enough,
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.__name__)
async def test_row(row: Callable[..., Any], tree: Any, chat: Any, caplog: pytest.LogCaptureFixture) -> None:
    await row(tree, chat)
    assert caplog.messages == [], "neither LangChain nor everycall had anything to complain of"
