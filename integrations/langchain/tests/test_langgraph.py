"""LangGraph itself, where it is installed: nodes, interrupts and their resumption, callbacks of its own."""

from __future__ import annotations

import operator
from typing import Annotated, Any, TypedDict

import pytest

import everycall
from everycall_langchain import CallbackHandler

pytest.importorskip("langgraph", reason="langgraph is not installed")

from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, interrupt

pytestmark = pytest.mark.filterwarnings("default")  # LangGraph's own deprecations


class State(TypedDict):
    notes: Annotated[list[str], operator.add]


def _graph(chat: Any) -> Any:
    async def ask(state: State) -> dict[str, Any]:
        with everycall.span("inner"):
            answer = await chat("yes").ainvoke("really?")
        return {"notes": [answer.content]}

    async def approve(state: State) -> dict[str, Any]:
        return {"notes": [interrupt("approve?")]}

    graph = StateGraph(State)
    graph.add_node("ask", ask)
    graph.add_node("approve", approve)
    graph.add_edge(START, "ask")
    graph.add_conditional_edges("ask", lambda state: "approve", ["approve"])
    graph.add_edge("approve", END)
    return graph.compile(checkpointer=InMemorySaver())


async def test_interrupt_and_resume_are_one_trace_without_an_error(
    tree: Any, chat: Any, value: Any, caplog: pytest.LogCaptureFixture
) -> None:
    config = {"callbacks": [CallbackHandler()], "configurable": {"thread_id": "t-1"}}
    graph = _graph(chat)
    await graph.ainvoke({"notes": []}, config)
    assert (await graph.ainvoke(Command(resume="ok"), config))["notes"] == ["yes", "ok"]
    assert tree.path(tree.one("ScriptedChat")) == ["LangGraph", "ask", "inner", "ScriptedChat"]
    assert {record.status for record in tree.records} == {"success"}
    assert {record.session_id for record in tree.records} == {"t-1"}
    assert len(tree.roots) == 2
    assert len({record.trace_id for record in tree.records}) == 1
    assert value(tree.one("ask").metadata) == {"langgraph_step": 1, "langgraph_node": "ask"}
    assert caplog.messages == []


async def test_another_session_is_another_trace(tree: Any, chat: Any) -> None:
    graph = _graph(chat)
    for thread in ("t-2", "t-3"):
        await graph.ainvoke({"notes": []}, {"callbacks": [CallbackHandler()], "configurable": {"thread_id": thread}})
    assert len({record.trace_id for record in tree.records}) == 2
