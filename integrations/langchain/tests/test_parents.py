"""Parents: one handler for many chains, threads, calls opened inside steps, and runs that never end."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from langchain_core.messages import AIMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableConfig, RunnableLambda, RunnableParallel
from langchain_core.tools import tool

import everycall
from everycall import limits
from everycall_langchain import CallbackHandler
from everycall_langchain._runs import RUNS

HANDLER: RunnableConfig = {"callbacks": [CallbackHandler()]}


@pytest.fixture(autouse=True)
def no_run_is_left_open() -> Any:
    yield
    assert len(RUNS.by_key) == 0


async def test_one_handler_serves_200_chains_at_once(tree: Any, chat: Any, value: Callable[[Any], Any]) -> None:
    async def pause(x: Any) -> Any:
        await asyncio.sleep(0)
        with everycall.span("inner", inputs=x["n"]):
            await asyncio.sleep(0)
        return x

    chain = RunnableLambda(pause) | ChatPromptTemplate.from_template("{n}") | chat() | StrOutputParser()
    await asyncio.gather(*[chain.ainvoke({"n": n}, HANDLER) for n in range(200)])
    assert len(tree.roots) == 200
    by_trace: dict[str, list[Any]] = {}
    for record in tree.records:
        by_trace.setdefault(record.trace_id, []).append(record)
    for members in by_trace.values():
        root = next(record for record in members if record.name == "RunnableSequence")
        number = value(root.inputs)["n"]
        assert sorted(record.name for record in members) == sorted(
            ["RunnableSequence", "pause", "inner", "ChatPromptTemplate", "ScriptedChat", "StrOutputParser"]
        )
        assert value(next(r for r in members if r.name == "inner").inputs) == number
        request = value(next(r for r in members if r.name == "ScriptedChat").llm_configuration)["messages"]
        assert request == [{"role": "user", "content": str(number)}]


def test_threads(tree: Any, chat: Any) -> None:
    def work(n: int) -> None:
        config = {**HANDLER, "metadata": {"trace_id": f"trace-{n}"}}
        (RunnableLambda(str, name="step") | chat()).invoke(n, config)

    with ThreadPoolExecutor(30) as pool:
        list(pool.map(work, range(30)))
    assert {record.trace_id for record in tree.records} == {f"trace-{n}" for n in range(30)}
    assert all(len([r for r in tree.records if r.trace_id == f"trace-{n}"]) == 3 for n in range(30))


def test_parallel_branches_in_langchains_threads(tree: Any) -> None:
    def left(x: str) -> str:
        with everycall.span("in left"):
            return x

    def right(x: str) -> str:
        with everycall.span("in right"):
            return x

    RunnableParallel(left=left, right=right).invoke("hi", {**HANDLER, "run_name": "both"})
    assert tree.path(tree.one("in left")) == ["both", "left", "in left"]
    assert tree.path(tree.one("in right")) == ["both", "right", "in right"]


async def test_a_chain_in_a_traced_function_in_a_step(tree: Any, chat: Any) -> None:
    @everycall.trace(name="traced")
    def traced(x: str) -> Any:
        return (RunnableLambda(lambda y: y, name="deep") | chat()).with_config(run_name="nested").invoke(x)

    @everycall.trace(name="traced later")
    async def traced_later(x: Any) -> Any:
        with everycall.span("between"):
            return await chat().ainvoke("again")

    chain = (RunnableLambda(traced, name="first") | RunnableLambda(traced_later, name="second")).with_config(
        run_name="outer"
    )
    await chain.ainvoke("hi", HANDLER)
    assert tree.path(tree.one("deep")) == ["outer", "first", "traced", "nested", "deep"]
    models = sorted(tree.path(model) for model in tree.named("ScriptedChat"))
    assert models == [
        ["outer", "first", "traced", "nested", "ScriptedChat"],
        ["outer", "second", "traced later", "between", "ScriptedChat"],
    ]


def test_the_config_gives_the_parent_without_a_context(tree: Any, chat: Any) -> None:
    def body(x: str, config: Any) -> Any:
        return contextvars.Context().run(chat().invoke, x, config)

    RunnableLambda(body, name="step").invoke("hi", HANDLER)
    assert tree.path(tree.one("ScriptedChat")) == ["step", "ScriptedChat"]


def test_calls_between_chunks_belong_to_the_consumer(tree: Any, chat: Any) -> None:
    for _ in (RunnableLambda(lambda x: x) | chat("one two")).stream("hi", HANDLER):
        with everycall.span("rendering"):
            pass
    assert all(tree.parent_of(rendering) is None for rendering in tree.named("rendering"))


def test_omit_flags_set_inside_a_step_apply_below_it(tree: Any, chat: Any) -> None:
    def body(x: str) -> Any:
        with everycall.context(log_omit_outputs=True):
            return chat("SECRET").invoke(x)

    RunnableLambda(body, name="step").invoke("hi", HANDLER)
    record = tree.one("ScriptedChat")
    assert tree.path(record) == ["step", "ScriptedChat"]
    assert (record.content, record.omitted) == (None, ["outputs"])


def test_two_handlers_make_one_record_each_run(tree: Any, chat: Any) -> None:
    model = chat(callbacks=[CallbackHandler()])
    (RunnableLambda(lambda x: x, name="step") | model).invoke("hi", HANDLER)
    assert sorted(record.name for record in tree.records) == ["RunnableSequence", "ScriptedChat", "step"]


def test_a_handler_on_the_model_alone(tree: Any, chat: Any) -> None:
    (RunnableLambda(lambda x: x, name="step") | chat(callbacks=[CallbackHandler()])).invoke("hi")
    assert [record.name for record in tree.records] == ["ScriptedChat"]


def test_hidden_runs_leave_their_children_to_their_parent(tree: Any) -> None:
    def inner(x: str) -> str:
        with everycall.span("inside"):
            return x

    hidden: Any = RunnableLambda(lambda x: RunnableLambda(inner).invoke(x), name="hidden").with_config(
        tags=["langsmith:hidden"]
    )
    # A hidden run's tag is inherited by what it invokes itself; what is marked is not recorded, what it opens is.
    RunnableLambda(lambda x: hidden.invoke(x), name="shown").invoke("hi", HANDLER)
    assert tree.path(tree.one("inside")) == ["shown", "inside"]


# --- errors, cancellation, interrupts ---


async def test_errors_reach_every_level_and_the_user(tree: Any) -> None:
    def body(x: str) -> str:
        raise ValueError("wrong answer")

    chain = (RunnableLambda(lambda x: x) | RunnableLambda(body)).with_config(run_name="root")
    with pytest.raises(ValueError, match="wrong answer"):
        chain.invoke("hi", HANDLER)
    for name in ("root", "body"):
        assert (tree.one(name).status, tree.one(name).error_type) == ("error", "ValueError")
        assert "wrong answer" in (tree.one(name).error or "")


def test_a_failed_stream_keeps_what_arrived(tree: Any, chat: Any) -> None:
    model = chat("one two three", fails=ConnectionError("gone"), fails_after=2)
    with pytest.raises(ConnectionError):
        list(model.stream("hi", HANDLER))
    record = tree.one("ScriptedChat")
    assert (record.status, record.error_type, record.content) == ("error", "ConnectionError", "one two ")


def test_a_failed_call_has_no_content(tree: Any, chat: Any) -> None:
    with pytest.raises(ConnectionError):
        chat(fails=ConnectionError("gone")).invoke("hi", HANDLER)
    assert tree.one("ScriptedChat").content is None


async def test_cancellation_is_not_an_error_of_the_chain(tree: Any, chat: Any) -> None:
    tool_started, model_started = asyncio.Event(), asyncio.Event()

    @tool
    async def slow(city: str) -> str:
        """Wait."""
        tool_started.set()
        await asyncio.Event().wait()
        return city

    async def use(x: str) -> Any:
        return await asyncio.gather(slow.ainvoke({"city": x}), chat(waits=model_started).ainvoke(x))

    task = asyncio.create_task(RunnableLambda(use).ainvoke("hi", HANDLER))
    await tool_started.wait()
    await model_started.wait()
    assert len(RUNS.by_key) == 3
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert sorted((record.name, record.error_type) for record in tree.records) == [
        ("ScriptedChat", "cancelled"),
        ("slow", "cancelled"),
        ("use", "cancelled"),
    ]


class GraphBubbleUp(Exception):
    """Has the name of LangGraph's class."""


class GraphInterrupt(GraphBubbleUp):
    """Has the name of LangGraph's class."""


class ParentCommand(GraphBubbleUp):
    """Has the name of LangGraph's class."""


@pytest.mark.parametrize("kind", [GraphInterrupt, ParentCommand])
async def test_control_flow_of_a_graph_is_not_an_error(kind: type[Exception], tree: Any) -> None:
    def body(x: str) -> str:
        raise kind("approve?")

    with pytest.raises(kind):
        await RunnableLambda(body).ainvoke("hi", HANDLER)
    assert (tree.one("body").status, tree.one("body").error, tree.one("body").error_type) == ("success", None, None)


def test_unknown_callbacks_are_accepted(tree: Any, caplog: pytest.LogCaptureFixture) -> None:
    from langchain_core.callbacks.manager import ahandle_event, handle_event

    handler = CallbackHandler()
    with caplog.at_level(logging.INFO):
        for name in ("on_interrupt", "on_resume", "on_something_new"):
            handle_event([handler], name, None, object(), run_id=uuid.uuid4(), surprise=1)
            asyncio.run(ahandle_event([handler], name, None, object(), run_id=uuid.uuid4()))
        handle_event([handler], "on_something_new", None)
    assert caplog.messages == []
    with pytest.raises(AttributeError):
        _ = handler.no_such_thing


def test_ends_without_a_start_are_ignored(tree: Any) -> None:
    handler, run_id = CallbackHandler(), uuid.uuid4()
    handler.on_chain_end({}, run_id=run_id)
    handler.on_llm_new_token("x", run_id=run_id)
    handler.on_tool_error(ValueError(), run_id=run_id)
    assert tree.records == []


# --- bounds ---


def test_too_many_open_runs_abandon_the_oldest(tree: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "RUNS_MAX", 3)
    handler, ids = CallbackHandler(), [uuid.uuid4() for _ in range(5)]
    for number, run_id in enumerate(ids):
        handler.on_chain_start(None, {}, run_id=run_id, name=f"chain {number}")
    assert [(record.name, record.error_type) for record in tree.records] == [
        ("chain 0", "abandoned"),
        ("chain 1", "abandoned"),
    ]
    for run_id in ids:
        handler.on_chain_end({}, run_id=run_id)
    assert len(tree.records) == 5


def test_overdue_runs_are_abandoned(tree: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    handler, first, second = CallbackHandler(), uuid.uuid4(), uuid.uuid4()
    handler.on_chain_start(None, {}, run_id=first, name="never ends")
    monkeypatch.setattr(limits, "RUN_AGE_MAX_S", -1.0)
    handler.on_chain_start(None, {}, run_id=second, name="next")
    RUNS.drop_overdue()
    assert [(record.name, record.error_type) for record in tree.records] == [
        ("never ends", "abandoned"),
        ("next", "abandoned"),
    ]


def test_runs_open_at_exit_are_recorded(tree: Any) -> None:
    handler, model = CallbackHandler(), uuid.uuid4()
    handler.on_chain_start(None, {}, run_id=(chain := uuid.uuid4()), name="chain")
    handler.on_llm_start({"name": "model"}, ["hi"], run_id=model, parent_run_id=chain)
    handler.on_llm_new_token("so ", run_id=model)
    handler.on_llm_new_token("far", run_id=model)
    RUNS.abandon_all()
    assert [(record.name, record.content, record.error_type) for record in tree.records] == [
        ("model", "so far", "abandoned"),
        ("chain", None, "abandoned"),
    ]


def test_the_end_of_an_abandoned_run_is_ignored(tree: Any, chat: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "RUNS_MAX", 0)
    assert chat(AIMessage("late")).invoke("hi", HANDLER).content == "late"
    assert [record.error_type for record in tree.records] == ["abandoned"]
