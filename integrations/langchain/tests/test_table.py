"""What a careful user of LangChain checks first: parents, first tokens, cached tokens, cache hits, closed streams.

Each row holds for every version of langchain-core; more ways to run a chain are in `test_inside` and `test_matrix`.
"""

from __future__ import annotations

import ast
import asyncio
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models import FakeListChatModel, FakeListLLM
from langchain_core.messages import AIMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langchain_core.tools import StructuredTool, ToolException, tool
from opentelemetry import context as otel_context

import everycall
import everycall_langchain
from everycall_langchain import CallbackHandler
from everycall_langchain._runs import RUNS

HANDLER: RunnableConfig = {"callbacks": [CallbackHandler()]}


def _opens(spans: Any) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """Return a function that opens a call of everycall and a span of the program, and a coroutine function too."""

    def body(x: Any) -> Any:
        with everycall.span("inner"):
            pass
        with spans.tracer.start_as_current_span("plain"):
            return x

    async def later(x: Any) -> Any:
        await asyncio.sleep(0)
        return body(x)

    return body, later


def _assert_below(tree: Any, spans: Any, *path: str, times: int = 1) -> None:
    """Check that the call and the plain span are below the step at the end of a path of names."""
    inner = tree.named("inner")
    assert [tree.path(record) for record in inner] == [[*path, "inner"]] * times
    assert len({record.trace_id for record in inner}) == times
    steps = sorted(record.parent_id for record in inner)
    plain = [span.parent for span in spans.named("plain")]
    assert sorted(f"{above.trace_id:032x}-{above.span_id:016x}" for above in plain) == steps


async def sync_chain(tree: Any, chat: Any, spans: Any) -> None:
    (RunnableLambda(_opens(spans)[0], name="step") | chat()).invoke("hi", HANDLER)
    _assert_below(tree, spans, "RunnableSequence", "step")


async def async_chain(tree: Any, chat: Any, spans: Any) -> None:
    await (RunnableLambda(_opens(spans)[1], name="step") | chat()).ainvoke("hi", HANDLER)
    _assert_below(tree, spans, "RunnableSequence", "step")


async def sync_function_in_async_run(tree: Any, chat: Any, spans: Any) -> None:
    await (RunnableLambda(_opens(spans)[0], name="step") | chat()).ainvoke("hi", HANDLER)
    _assert_below(tree, spans, "RunnableSequence", "step")


async def async_batch(tree: Any, chat: Any, spans: Any) -> None:
    await (RunnableLambda(_opens(spans)[1], name="step") | chat()).abatch(["a", "b", "c"], HANDLER)
    _assert_below(tree, spans, "RunnableSequence", "step", times=3)


async def sync_batch_in_threads(tree: Any, chat: Any, spans: Any) -> None:
    await asyncio.to_thread((RunnableLambda(_opens(spans)[0], name="step") | chat()).batch, ["a", "b", "c"], HANDLER)
    _assert_below(tree, spans, "RunnableSequence", "step", times=3)


async def async_tool_under_ambient_span(tree: Any, chat: Any, spans: Any) -> None:
    @tool
    async def look_up(city: str) -> str:
        """Look up a city."""
        return str(await _opens(spans)[1](city))

    with everycall.span("ambient"):
        await look_up.ainvoke({"city": "Bern"}, HANDLER)
    _assert_below(tree, spans, "ambient", "look_up")


async def ambient_span_adopts_the_chain(tree: Any, chat: Any, spans: Any) -> None:
    with everycall.span("ambient"):
        chat().invoke("hi", HANDLER)
        await chat().ainvoke("hi", HANDLER)
    assert [tree.path(model) for model in tree.named("ScriptedChat")] == [["ambient", "ScriptedChat"]] * 2
    assert len({record.trace_id for record in tree.records}) == 1


async def plain_ambient_span_adopts_the_chain(tree: Any, chat: Any, spans: Any) -> None:
    with spans.tracer.start_as_current_span("ambient") as ambient:
        await (RunnableLambda(_opens(spans)[1], name="step") | chat()).ainvoke("hi", HANDLER)
    ids = ambient.get_span_context()
    assert tree.one("RunnableSequence").parent_id == f"{ids.trace_id:032x}-{ids.span_id:016x}"
    assert {record.trace_id for record in tree.records} == {f"{ids.trace_id:032x}"}
    _assert_below(tree, spans, "RunnableSequence", "step")


async def context_is_clean_afterwards(tree: Any, chat: Any, spans: Any) -> None:
    before = otel_context.get_current()
    chain = RunnableLambda(_opens(spans)[1]) | chat("one two")
    await chain.ainvoke("hi", HANDLER)
    chat("one two").invoke("hi", HANDLER)
    assert [chunk async for chunk in chain.astream("hi", HANDLER)]
    assert otel_context.get_current() is before
    assert not everycall.current().inference_id


async def time_to_first_token(tree: Any, chat: Any, spans: Any) -> None:
    chain = RunnableLambda(lambda x: x) | chat("one two three")
    assert list(chain.stream("hi", HANDLER))
    assert [chunk async for chunk in chain.astream("hi", HANDLER)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the first version is deprecated, the third is in beta
        for version in ("v1", "v2"):
            assert [event async for event in chain.astream_events("hi", HANDLER, version=version)]
        if hasattr(BaseCallbackHandler, "on_stream_event"):
            assert str(chat("one two three").stream_events("hi", HANDLER, version="v3").text) == "one two three"
            later = await chat("one two three").astream_events("hi", HANDLER, version="v3")
            assert await later.output
            while RUNS.by_key:
                await asyncio.sleep(0)
    models = tree.named("ScriptedChat")
    assert len(models) >= 4
    for model in models:
        assert model.content == "one two three"
        assert model.time_to_first_token is not None
        assert 0 < model.time_to_first_token < model.latency


async def no_first_token_without_a_stream(tree: Any, chat: Any, spans: Any) -> None:
    chat("one").invoke("hi", HANDLER)
    assert tree.one("ScriptedChat").time_to_first_token is None


USAGE = {
    "input_tokens": 100,
    "output_tokens": 40,
    "total_tokens": 140,
    "input_token_details": {"cache_read": 60, "cache_creation": 10, "audio": 4},
    "output_token_details": {"reasoning": 25, "audio": 2},
}


async def parts_of_tokens_are_kept(tree: Any, chat: Any, spans: Any) -> None:
    chat(AIMessage(content="x", usage_metadata=USAGE)).invoke("hi", HANDLER)
    model = tree.one("ScriptedChat")
    assert (model.input_tokens, model.output_tokens, model.total_tokens) == (100, 40, 140)
    assert model.usage == {"cached": 60, "cache_write": 10, "reasoning": 25, "input_audio": 4, "output_audio": 2}


async def cache_hit_is_recognised(tree: Any, chat: Any, spans: Any) -> None:
    model = chat(AIMessage(content="x", usage_metadata=USAGE), cache=InMemoryCache())
    model.invoke("hi", HANDLER)
    model.invoke("hi", HANDLER)
    await model.ainvoke("hi", HANDLER)
    assert len(model.calls) == 1
    first, *hits = tree.named("ScriptedChat")
    assert (first.cache_hit, first.cost_source) != (True, "cache")
    assert len(hits) == 2
    for hit in hits:
        assert (hit.cache_hit, hit.cost, hit.cost_source) == (True, 0.0, "cache")
        assert (hit.input_tokens, hit.output_tokens) == (100, 40)


async def closed_stream_is_abandoned_with_what_came(tree: Any, chat: Any, spans: Any) -> None:
    stream = chat("one two three").stream("hi", HANDLER)
    assert next(stream).content == "one "
    stream.close()
    model = tree.one("ScriptedChat")
    assert (model.status, model.error_type, model.content) == ("success", "abandoned", "one ")


async def closed_stream_keeps_what_was_told_of_usage(tree: Any, chat: Any, spans: Any) -> None:
    """Anthropic reports the tokens of the input with the first chunk."""
    usage = {"input_tokens": 20, "output_tokens": 1, "total_tokens": 21, "input_token_details": {"cache_read": 8}}
    model = chat(AIMessage("one two three", usage_metadata=usage), usage_first=True)
    stream = model.stream("hi", HANDLER)
    assert next(stream).content == "one "
    stream.close()
    later = model.astream("hi", HANDLER)
    assert (await anext(later)).content == "one "
    await later.aclose()
    for left in tree.named("ScriptedChat"):
        assert (left.status, left.error_type, left.content) == ("success", "abandoned", "one ")
        if not hasattr(BaseCallbackHandler, "on_stream_event"):
            continue  # an older langchain-core reports less of a stream that is left
        assert (left.input_tokens, left.output_tokens, left.usage) == (20, 1, {"cached": 8})


async def closed_async_stream_is_abandoned(tree: Any, chat: Any, spans: Any) -> None:
    stream = (RunnableLambda(_opens(spans)[1], name="step") | chat("one two three")).astream("hi", HANDLER)
    assert (await anext(stream)).content == "one "
    await stream.aclose()
    while len(RUNS.by_key):  # the event loop closes the inner generators, some turns later
        await asyncio.sleep(0)
    for name in ("ScriptedChat", "RunnableSequence"):
        assert (tree.one(name).status, tree.one(name).error_type) == ("success", "abandoned"), name
    assert tree.one("ScriptedChat").content == "one "
    assert tree.one("inner").error_type is None


async def closed_chain_stream_is_abandoned(tree: Any, chat: Any, spans: Any) -> None:
    stream = (ChatPromptTemplate.from_template("{q}") | chat("one two three") | StrOutputParser()).stream("hi", HANDLER)
    assert next(stream) == "one "
    stream.close()
    root = tree.one("RunnableSequence")
    assert (root.status, root.error_type) == ("success", "abandoned")


async def finished_chain_stream_is_not_abandoned(tree: Any, chat: Any, spans: Any) -> None:
    chain = ChatPromptTemplate.from_template("{q}") | chat("one two three") | StrOutputParser()
    assert "".join(chain.stream({"q": "hi"}, HANDLER)) == "one two three"
    assert "".join([chunk async for chunk in chain.astream({"q": "hi"}, HANDLER)]) == "one two three"
    assert {record.error_type for record in tree.records} == {None}


async def fallbacks(tree: Any, chat: Any, spans: Any) -> None:
    chain = chat(fails=ConnectionError("gone")).with_fallbacks([chat("second")])
    assert (await chain.ainvoke("hi", HANDLER)).content == "second"
    failed, answered = tree.named("ScriptedChat")
    assert (failed.status, failed.error_type, failed.content) == ("error", "ConnectionError", None)
    assert (answered.status, answered.content) == ("success", "second")
    assert tree.path(answered) == ["RunnableWithFallbacks", "ScriptedChat"]
    assert tree.one("RunnableWithFallbacks").status == "success"


async def retries(tree: Any, chat: Any, spans: Any) -> None:
    tried: list[int] = []

    def body(x: Any) -> Any:
        tried.append(1)
        if len(tried) < 3:
            raise OSError("again")
        return x

    await RunnableLambda(body).with_retry(wait_exponential_jitter=False, stop_after_attempt=3).ainvoke("hi", HANDLER)
    whole, *attempts = sorted(tree.named("body"), key=lambda record: record.start_time_unix_nano)
    assert [record.status for record in (whole, *attempts)] == ["success", "error", "error", "success"]
    assert {record.parent_id for record in attempts} == {whole.inference_id}


async def failing_tools(tree: Any, chat: Any, spans: Any) -> None:
    def fail(city: str) -> str:
        """Look up a city."""
        raise ToolException(f"no city {city}")

    loud = StructuredTool.from_function(fail, name="loud")
    handled = StructuredTool.from_function(fail, name="handled", handle_tool_error=True)
    with pytest.raises(ToolException):
        await loud.ainvoke({"city": "Bern"}, HANDLER)
    assert await handled.ainvoke({"city": "Bern"}, HANDLER) == "no city Bern"
    assert (tree.one("loud").status, tree.one("loud").error) == (
        "error",
        "langchain_core.tools.base.ToolException: no city Bern",
    )
    assert (tree.one("handled").status, bytes(tree.one("handled").output)) == ("success", b'"no city Bern"')


async def text_and_nameless_models(tree: Any, chat: Any, spans: Any) -> None:
    FakeListLLM(responses=["text"]).invoke("hi", HANDLER)
    await FakeListLLM(responses=["text"]).ainvoke("hi", HANDLER)
    await FakeListChatModel(responses=["chat"]).ainvoke("hi", HANDLER)
    assert [(record.kind, record.model, record.content) for record in tree.records] == [
        ("llm", None, "text"),
        ("llm", None, "text"),
        ("llm", None, "chat"),
    ]


async def langchain_core_is_enough(tree: Any, chat: Any, spans: Any) -> None:
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
    plain_ambient_span_adopts_the_chain,
    context_is_clean_afterwards,
    time_to_first_token,
    no_first_token_without_a_stream,
    parts_of_tokens_are_kept,
    cache_hit_is_recognised,
    closed_stream_is_abandoned_with_what_came,
    closed_stream_keeps_what_was_told_of_usage,
    closed_async_stream_is_abandoned,
    closed_chain_stream_is_abandoned,
    finished_chain_stream_is_not_abandoned,
    fallbacks,
    retries,
    failing_tools,
    text_and_nameless_models,
    langchain_core_is_enough,
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.__name__)
async def test_row(row: Callable[..., Any], tree: Any, chat: Any, spans: Any, caplog: pytest.LogCaptureFixture) -> None:
    await row(tree, chat, spans)
    assert caplog.messages == [], "neither LangChain nor everycall had anything to complain of"
