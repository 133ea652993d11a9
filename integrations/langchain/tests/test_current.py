"""Code that runs inside a step, a tool or a model is below it: everycall's calls, and the program's own spans."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel, BaseLLM
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult, Generation, LLMResult
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langchain_core.tools import tool
from opentelemetry import trace as otel_trace

import everycall
from everycall.integration import current_context
from everycall_langchain import CallbackHandler

HANDLER: RunnableConfig = {"callbacks": [CallbackHandler()]}


class Inner:
    """What a program opens inside LangChain's code: its own span, and calls of everycall."""

    def __init__(self, spans: Any) -> None:
        self.tracer = spans.tracer

    def __call__(self, x: Any = None) -> Any:
        with everycall.span("call"):
            pass
        with self.tracer.start_as_current_span("span"), self.tracer.start_as_current_span("span below"):
            with everycall.span("call in span"):
                pass
        self.traced()
        return x

    @everycall.trace(name="traced")
    def traced(self) -> None:
        with self.tracer.start_as_current_span("span in traced"):
            pass

    async def later(self, x: Any) -> Any:
        await asyncio.sleep(0)
        return self(x)


@pytest.fixture
def inner(spans: Any) -> Inner:
    return Inner(spans)


def assert_inside(name: str, tree: Any, spans: Any, is_below: Any, times: int = 1) -> None:
    """Check that everything `Inner` opens is below the record with this name."""
    outer = tree.one(name)
    for call in ("call", "call in span", "traced"):
        assert [tree.parent_of(record) for record in tree.named(call)] == [outer] * times, call
    assert [is_below(span, outer) for span in spans.named("span")] == [True] * times
    for span in spans.named("span below"):
        assert span.parent in [above.context for above in spans.named("span")]
    traced = [
        record for record in tree.named("traced") for span in spans.named("span in traced") if is_below(span, record)
    ]
    assert len(traced) == times


async def test_in_a_step(run: Any, tree: Any, chat: Any, spans: Any, inner: Inner, is_below: Any) -> None:
    """A synchronous function, also if the chain runs on the event loop and moves it to a thread."""
    await run(RunnableLambda(inner.__call__, name="step") | chat(), "hi", HANDLER)
    assert_inside("step", tree, spans, is_below)


async def test_in_an_asynchronous_step(
    run_async: Any, tree: Any, chat: Any, spans: Any, inner: Inner, is_below: Any
) -> None:
    await run_async(RunnableLambda(inner.later, name="step") | chat(), "hi", HANDLER)
    assert_inside("step", tree, spans, is_below)


async def test_in_a_tool_in_a_step(run: Any, tree: Any, spans: Any, inner: Inner, is_below: Any) -> None:
    @tool
    def look_up(city: str) -> str:
        """Look up a city."""
        return str(inner(city))

    def step(city: str) -> str:
        with spans.tracer.start_as_current_span("around the tool"):
            return str(look_up.invoke({"city": city}))

    await run(RunnableLambda(step), "Bern", HANDLER)
    assert_inside("look_up", tree, spans, is_below)
    assert tree.path(tree.one("look_up")) == ["step", "look_up"]
    (around,) = spans.named("around the tool")
    assert is_below(around, tree.one("step"))


async def test_in_an_asynchronous_tool_under_a_span_of_the_programs(
    tree: Any, spans: Any, inner: Inner, is_below: Any
) -> None:
    @tool
    async def look_up(city: str) -> str:
        """Look up a city."""
        return str(await inner.later(city))

    with spans.tracer.start_as_current_span("ambient") as ambient:
        await look_up.ainvoke({"city": "Bern"}, HANDLER)
    assert_inside("look_up", tree, spans, is_below)
    ids = ambient.get_span_context()
    assert tree.one("look_up").parent_id == f"{ids.trace_id:032x}-{ids.span_id:016x}"


async def test_three_chains_in_a_batch(tree: Any, chat: Any, spans: Any, inner: Inner, is_below: Any) -> None:
    chain = RunnableLambda(inner.later, name="step") | chat()
    await chain.abatch(["a", "b", "c"], HANDLER)
    for step in tree.named("step"):
        assert [is_below(span, step) for span in spans.named("span")].count(True) == 1
        assert [tree.parent_of(call) is step for call in tree.named("call")].count(True) == 1
    assert len({record.trace_id for record in tree.records}) == 3


async def test_a_span_around_a_chain_adopts_it(run: Any, tree: Any, chat: Any, spans: Any) -> None:
    with spans.tracer.start_as_current_span("ambient") as ambient:
        await run(RunnableLambda(lambda x: x, name="step") | chat(), "hi", HANDLER)
    ids = ambient.get_span_context()
    (root,) = [record for record in tree.records if record.name == "RunnableSequence"]
    assert root.parent_id == f"{ids.trace_id:032x}-{ids.span_id:016x}"
    assert {record.trace_id for record in tree.records} == {f"{ids.trace_id:032x}"}


async def test_a_separate_trace_inside_a_traced_function(
    run: Any, tree: Any, chat: Any, spans: Any, inner: Inner, is_below: Any
) -> None:
    """What runs inside the steps is below them, even though their trace is not that of the enclosing function."""
    with everycall.span("around"):
        await run(
            RunnableLambda(inner.__call__, name="step") | chat(), "hi", {**HANDLER, "metadata": {"trace_id": "t-1"}}
        )
        with everycall.context(trace_id="t-2"):
            await run(RunnableLambda(lambda x: inner(x), name="other step") | chat(), "hi", HANDLER)
    for name, trace in (("step", "t-1"), ("other step", "t-2")):
        outer = tree.one(name)
        assert outer.trace_id == trace
        below = [record for record in tree.named("call") if tree.parent_of(record) is outer]
        assert [record.trace_id for record in below] == [trace]
        assert [is_below(span, outer) for span in spans.named("span")].count(True) == 1


# --- models ---


class Busy(BaseChatModel):
    """A model whose code opens calls and spans, as a model that uses a provider's client does."""

    inner: Any
    streams: bool = False

    @property
    def _llm_type(self) -> str:
        return "busy"

    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **_: Any) -> ChatResult:
        self.inner()
        return ChatResult(generations=[ChatGeneration(message=AIMessage("done"))])


class BusyStreaming(Busy):
    """The same, with every method that LangChain lets a model's author write."""

    async def _agenerate(self, messages: Any, stop: Any = None, run_manager: Any = None, **_: Any) -> ChatResult:
        await asyncio.sleep(0)
        return self._generate(messages)

    def _stream(self, messages: Any, stop: Any = None, run_manager: Any = None, **_: Any) -> Any:
        self.inner()
        yield ChatGenerationChunk(message=AIMessageChunk(content="do"))
        yield ChatGenerationChunk(message=AIMessageChunk(content="ne"))

    async def _astream(self, messages: Any, stop: Any = None, run_manager: Any = None, **_: Any) -> Any:
        await asyncio.sleep(0)
        for chunk in self._stream(messages):
            yield chunk


class BusyText(BaseLLM):
    """A text model."""

    inner: Any

    @property
    def _llm_type(self) -> str:
        return "busy-text"

    def _generate(self, prompts: Any, stop: Any = None, run_manager: Any = None, **_: Any) -> LLMResult:
        self.inner()
        return LLMResult(generations=[[Generation(text="done")] for _ in prompts])


MODELS = [Busy, BusyStreaming, BusyText]


@pytest.mark.parametrize("model", MODELS)
async def test_in_a_model(model: Any, run: Any, tree: Any, spans: Any, inner: Inner, is_below: Any) -> None:
    """Also if LangChain moves a synchronous model to a thread."""
    await run(RunnableLambda(lambda x: x, name="step") | model(inner=inner), "hi", HANDLER)
    assert_inside(model.__name__, tree, spans, is_below)
    assert tree.path(tree.of_kind("llm")[0]) == ["RunnableSequence", model.__name__]


@pytest.mark.parametrize("model", MODELS)
async def test_in_a_model_alone(model: Any, run: Any, tree: Any, spans: Any, inner: Inner, is_below: Any) -> None:
    """No step runs here. The model runs alone, or inside a call of everycall."""
    await run(model(inner=inner), "hi", HANDLER)
    assert_inside(model.__name__, tree, spans, is_below)
    tree.records.clear()
    spans.exporter.clear()
    with everycall.span("around"):
        await run(model(inner=inner), "hi", HANDLER)
    assert_inside(model.__name__, tree, spans, is_below)
    assert tree.path(tree.of_kind("llm")[0]) == ["around", model.__name__]


async def test_in_the_protocols_streams(tree: Any, spans: Any, inner: Inner, is_below: Any) -> None:
    if not hasattr(CallbackHandler.__mro__[1], "on_stream_event"):
        pytest.skip("this langchain-core has no protocol streams")
    from langchain_core._api import suppress_langchain_beta_warning

    with suppress_langchain_beta_warning():
        assert str(BusyStreaming(inner=inner).stream_events("hi", HANDLER, version="v3").text) == "done"
        assert_inside("BusyStreaming", tree, spans, is_below)
        tree.records.clear()
        spans.exporter.clear()
        stream = await BusyStreaming(inner=inner).astream_events("hi", HANDLER, version="v3")
        assert await stream.output
    while not tree.named("BusyStreaming"):
        await asyncio.sleep(0)
    assert_inside("BusyStreaming", tree, spans, is_below)


async def test_beside_a_model(tree: Any, spans: Any, is_below: Any) -> None:
    """What a step does while its model runs in another task or thread is below the step."""
    started, may_end = threading.Event(), threading.Event()

    def wait() -> None:
        started.set()
        assert may_end.wait(30)

    async def step(x: Any) -> Any:
        model_task = asyncio.create_task(Busy(inner=wait).ainvoke("hi"))
        while not started.is_set():
            await asyncio.sleep(0.001)
        with everycall.span("beside"), spans.tracer.start_as_current_span("span beside"):
            may_end.set()
        await model_task
        return x

    await RunnableLambda(step).ainvoke("hi", HANDLER)
    assert tree.path(tree.one("beside")) == ["step", "beside"]
    assert tree.path(tree.one("Busy")) == ["step", "Busy"]


async def test_a_chain_inside_a_model(tree: Any, spans: Any, inner: Inner, is_below: Any) -> None:
    """A model may run chains: their steps are below it, and what the steps open is below the steps."""
    chain = (RunnableLambda(inner.__call__, name="in step") | Busy(inner=lambda: None)).with_config(run_name="within")

    class Composed(Busy):
        def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **_: Any) -> ChatResult:
            chain.invoke("x", HANDLER)
            self.inner()
            return ChatResult(generations=[ChatGeneration(message=AIMessage("done"))])

    def own() -> None:
        with everycall.span("own"):
            pass

    (RunnableLambda(lambda x: x, name="step") | Composed(inner=own)).invoke("hi", HANDLER)
    above = ["RunnableSequence", "Composed"]
    assert tree.path(tree.one("own")) == [*above, "own"]
    assert tree.path(tree.one("within")) == [*above, "within"]
    assert tree.path(tree.one("Busy")) == [*above, "within", "Busy"]
    assert_inside("in step", tree, spans, is_below)


def test_threads_each_with_a_model(tree: Any, spans: Any, inner: Inner, is_below: Any) -> None:
    def work(n: int) -> None:
        def open_one() -> None:
            with everycall.span(f"inner {n}"):
                pass

        Busy(inner=open_one, name=f"model {n}").invoke("hi", {**HANDLER, "run_name": f"model {n}"})

    with ThreadPoolExecutor(30) as pool:
        list(pool.map(work, range(30)))
    for n in range(30):
        assert tree.path(tree.one(f"inner {n}")) == [f"model {n}", f"inner {n}"]


# --- what others see ---


async def test_the_programs_context_takes_precedence(tree: Any, chat: Any, spans: Any) -> None:
    """A span that the program makes current inside a step is the parent of what runs in it."""

    def body(x: Any) -> Any:
        remote = otel_trace.NonRecordingSpan(
            otel_trace.SpanContext(0xABC, 0xDEF, True, otel_trace.TraceFlags(otel_trace.TraceFlags.SAMPLED))
        )
        with otel_trace.use_span(remote), spans.tracer.start_as_current_span("received"):
            return x

    await RunnableLambda(body, name="step").ainvoke("hi", HANDLER)
    (received,) = spans.named("received")
    assert (received.parent.trace_id, received.parent.span_id) == (0xABC, 0xDEF)


async def test_nothing_is_attached(run: Any, tree: Any, chat: Any) -> None:
    """The context stays as the program left it, also inside the steps: their calls are looked up, not attached."""
    before, contexts = current_context(), []

    def body(x: Any) -> Any:
        contexts.append(current_context())
        return x

    await run(RunnableLambda(body) | chat("one two"), "hi", HANDLER)
    assert current_context() == before == contexts[0]
    assert not everycall.current().inference_id
    assert otel_trace.get_current_span() is otel_trace.INVALID_SPAN


def test_a_span_that_is_current_is_the_steps(tree: Any) -> None:
    """Attributes and exceptions that code sets on the current span are in the step's record."""

    def body(x: Any) -> Any:
        otel_trace.get_current_span().set_attribute("app.shelf", 7)
        return x

    RunnableLambda(body, name="step").invoke("hi", HANDLER)
    assert b'"app.shelf":7' in bytes(tree.one("step").attributes)
