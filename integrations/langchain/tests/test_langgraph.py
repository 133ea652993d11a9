"""LangGraph, if it is installed: nodes, interrupts and resumption, subgraphs, agents, streams, state."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.messages import AIMessage, HumanMessage, RemoveMessage, ToolMessage
from langchain_core.tools import tool
from pydantic import BaseModel

import everycall
import everycall_langchain
from everycall_langchain import CallbackHandler
from everycall_langchain._runs import RUNS

pytest.importorskip("langgraph", reason="langgraph is not installed")

from langgraph.checkpoint.memory import InMemorySaver
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, StateGraph
from langgraph.prebuilt import create_react_agent
from langgraph.types import Command, Send, interrupt

pytestmark = pytest.mark.filterwarnings("default")  # LangGraph's own deprecations


Anything: Any = dict


class State(TypedDict):
    notes: Annotated[list[str], operator.add]


@pytest.fixture(autouse=True)
def no_run_is_left_open() -> Any:
    yield
    assert len(RUNS.by_key) == 0
    assert RUNS.models == {}


@pytest.fixture
def config() -> Callable[[str], dict[str, Any]]:
    """Return a function that makes a config for a `thread_id`."""
    handler = CallbackHandler()
    return lambda thread: {"callbacks": [handler], "configurable": {"thread_id": thread}}


@pytest.fixture(params=["invoke", "ainvoke"])
def ask(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Return a function that runs a graph, synchronously or not: `await ask(graph, inputs, config)`."""

    async def run(graph: Any, inputs: Any, config: Any) -> Any:
        return graph.invoke(inputs, config) if request.param == "invoke" else await graph.ainvoke(inputs, config)

    return run


def events(value: Any, record: Any) -> list[tuple[str, Any]]:
    """Return the events of a record, by name, without the ids of checkpoints."""
    reported = (value(record.attributes) or {}).get("events", [])
    return [(item["name"], {k: v for k, v in item["attributes"].items() if k != "checkpoint_id"}) for item in reported]


def approving(chat: Any, saver: Any = None, **settings: Any) -> Any:
    """Return a graph that asks its model, and then a person."""

    def ask(state: State) -> dict[str, Any]:
        with everycall.span("inner"):
            answer = chat("yes").invoke("really?")
        return {"notes": [answer.content]}

    def approve(state: State) -> dict[str, Any]:
        return {"notes": [interrupt("approve?")]}

    graph = StateGraph(State)
    graph.add_node("ask", ask)
    graph.add_node("approve", approve)
    graph.add_edge(START, "ask")
    graph.add_conditional_edges("ask", lambda state: "approve", ["approve"])
    graph.add_edge("approve", END)
    return graph.compile(checkpointer=saver or InMemorySaver(), **settings)


# --- interrupts ---


async def test_interrupt_and_resume_are_one_trace_without_an_error(
    ask: Any, tree: Any, chat: Any, value: Any, config: Any, caplog: pytest.LogCaptureFixture
) -> None:
    graph = approving(chat)
    await ask(graph, {"notes": []}, config("t-1"))
    first = tree.one("LangGraph")
    assert (first.status, first.error_type, events(value, first)) == (
        "success",
        None,
        [("interrupt", {"values": ["approve?"]})],
    )
    assert events(value, tree.one("approve")) == [("interrupt", {"values": ["approve?"]})]
    assert (await ask(graph, Command(resume="ok"), config("t-1")))["notes"] == ["yes", "ok"]
    assert tree.path(tree.one("ScriptedChat")) == ["LangGraph", "ask", "inner", "ScriptedChat"]
    assert {record.status for record in tree.records} == {"success"}
    assert {record.session_id for record in tree.records if record.name != "inner"} == {"t-1"}
    assert len(tree.roots) == 2
    assert len({record.trace_id for record in tree.records}) == 1
    assert events(value, tree.roots[-1]) == [("resume", {})]
    assert value(tree.one("ask").metadata) == {"langgraph_step": 1, "langgraph_node": "ask"}
    assert caplog.messages == []


async def test_breakpoints_are_interrupts_too(ask: Any, tree: Any, chat: Any, value: Any, config: Any) -> None:
    graph = approving(chat, interrupt_before=["ask"])
    await ask(graph, {"notes": []}, config("t-1"))
    assert events(value, tree.one("LangGraph")) == [("interrupt", {"values": []})]
    await ask(graph, None, config("t-1"))
    assert len(tree.roots) == 2
    assert len({record.trace_id for record in tree.records}) == 1


async def test_another_session_is_another_trace(ask: Any, tree: Any, chat: Any, config: Any) -> None:
    graph = approving(chat)
    for thread in ("t-2", "t-3"):
        await ask(graph, {"notes": []}, config(thread))
    assert len({record.trace_id for record in tree.records}) == 2
    other = approving(chat, name="another graph")
    await ask(other, {"notes": []}, config("t-4"))
    await ask(graph, Command(resume="ok"), config("t-4"))
    assert len({record.trace_id for record in tree.records}) == 4


async def test_a_graph_resumed_inside_a_call_stays_below_it(
    ask: Any, tree: Any, chat: Any, value: Any, config: Any, spans: Any
) -> None:
    """In a server, each request has its own trace: the event names the trace of the first request."""
    graph = approving(chat)
    with everycall.span("first request"):
        await ask(graph, {"notes": []}, config("t-1"))
    with everycall.span("second request"):
        await ask(graph, Command(resume="ok"), config("t-1"))
    first, second = tree.one("first request"), tree.one("second request")
    graphs = tree.named("LangGraph")
    assert [tree.parent_of(record) for record in graphs] == [first, second]
    assert events(value, graphs[1])[0] == ("resume", {"trace_id": first.trace_id})
    await ask(graph, {"notes": []}, config("t-2"))
    with spans.tracer.start_as_current_span("third request") as third:
        await ask(graph, Command(resume="ok"), config("t-2"))
    assert tree.named("LangGraph")[-1].trace_id == f"{third.get_span_context().trace_id:032x}"


async def test_an_interrupt_in_a_graph_in_a_graph(ask: Any, tree: Any, value: Any, config: Any) -> None:
    inner = StateGraph(State)
    inner.add_node("approve", lambda state: {"notes": [interrupt("approve?")]})
    inner.add_edge(START, "approve")
    outer = StateGraph(State)
    outer.add_node("sub", inner.compile(name="inner graph"))
    outer.add_edge(START, "sub")
    graph = outer.compile(checkpointer=InMemorySaver())
    await ask(graph, {"notes": []}, config("t-1"))
    assert (await ask(graph, Command(resume="ok"), config("t-1")))["notes"] == ["ok"]
    assert {record.status for record in tree.records} == {"success"}
    assert len({record.trace_id for record in tree.records}) == 1
    for approve in tree.named("approve"):
        assert tree.path(approve) == ["LangGraph", "sub", "inner graph", "approve"] or tree.path(approve) == [
            "LangGraph",
            "sub",
            "sub",
            "approve",
        ]


def test_the_question_of_an_interrupt_is_omitted(tree: Any, chat: Any) -> None:
    everycall_langchain.instrument(log_omit_outputs=True, log_omit_inputs=True)
    try:
        graph = approving(chat)
        graph.invoke({"notes": []}, {"configurable": {"thread_id": "t-1"}})
        graph.invoke(Command(resume="ok"), {"configurable": {"thread_id": "t-1"}})
    finally:
        everycall_langchain.uninstrument()
    assert tree.records
    assert b"approve?" not in b"".join(bytes(record.attributes) for record in tree.records)
    assert len({record.trace_id for record in tree.records}) == 1


# --- how a graph steers itself ---


async def test_commands_are_not_errors(ask: Any, tree: Any, value: Any, config: Any) -> None:
    inner = StateGraph(State)
    inner.add_node("leave", lambda state: Command(goto="other", graph=Command.PARENT, update={"notes": ["left"]}))
    inner.add_edge(START, "leave")
    outer = StateGraph(State)
    outer.add_node("first", lambda state: Command(goto="sub", update={"notes": ["first"]}))
    outer.add_node("sub", inner.compile(name="inner graph"))
    outer.add_node("other", lambda state: {"notes": ["other"]})
    outer.add_edge(START, "first")
    result = await ask(outer.compile(), {"notes": []}, config("t-1"))
    assert result["notes"] == ["first", "left", "other"]
    assert {(record.status, record.error, record.error_type) for record in tree.records} == {("success", None, None)}
    reported = (value(tree.one("leave").attributes) or {})["events"]
    assert [item["name"] for item in reported] == ["ParentCommand"]
    assert tree.path(tree.one("other")) == ["LangGraph", "other"]


async def test_fan_out_with_send(ask: Any, tree: Any, value: Any, config: Any) -> None:
    def work(number: Any) -> dict[str, Any]:
        with everycall.span(f"inner {number}"):
            return {"notes": [str(number)]}

    def spread(state: State) -> list[Send]:
        return [Send("work", number) for number in range(5)]

    graph: Any = StateGraph(State)
    graph.add_node("work", work)
    graph.add_conditional_edges(START, spread, ["work"])
    await ask(graph.compile(), {"notes": []}, config("t-1"))
    workers = tree.named("work")
    assert [tree.path(worker) for worker in workers] == [["LangGraph", "work"]] * 5
    for number in range(5):
        above = tree.parent_of(tree.one(f"inner {number}"))
        assert value(above.inputs) == number
    for record in tree.named("spread"):
        assert value(record.output)[0] == {"node": "work", "arg": 0}


async def test_an_error_of_a_node(ask: Any, tree: Any, config: Any) -> None:
    def fail(state: State) -> Any:
        raise ZeroDivisionError("no notes")

    graph = StateGraph(State)
    graph.add_node("fail", fail)
    graph.add_edge(START, "fail")
    with pytest.raises(ZeroDivisionError):
        await ask(graph.compile(), {"notes": []}, config("t-1"))
    for name in ("LangGraph", "fail"):
        assert (tree.one(name).status, tree.one(name).error_type) == ("error", "ZeroDivisionError")


async def test_functions_as_a_graph(ask: Any, tree: Any, config: Any) -> None:
    """LangGraph's functional API: tasks and an entry point."""

    @task
    def double(number: int) -> int:
        with everycall.span("inner"):
            return number * 2

    @entrypoint()
    def whole(number: int) -> int:
        return int(double(number).result())

    assert await ask(whole, 4, config("t-1")) == 8
    assert tree.path(tree.one("inner")) == ["LangGraph", "whole", "double", "inner"]


# --- agents and streams ---


def agent(chat: Any) -> Any:
    """Return LangGraph's prebuilt agent, with a tool that opens a span and a model that calls it twice at once."""

    @tool
    def look_up(city: str) -> str:
        """Look up a city."""
        with everycall.span(f"inner {city}"):
            return f"sunny in {city}"

    calls = [{"name": "look_up", "args": {"city": city}, "id": city} for city in ("Bern", "Basel")]
    model = chat(AIMessage("", tool_calls=calls), "done")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it has moved to the langchain package
        return create_react_agent(model, [look_up])


async def test_an_agent(ask: Any, tree: Any, chat: Any, value: Any, config: Any) -> None:
    result = await ask(agent(chat), {"messages": [HumanMessage("weather?")]}, config("t-1"))
    assert result["messages"][-1].content == "done"
    first, second = tree.of_kind("llm")
    assert [item["function"]["name"] for item in value(first.output)["tool_calls"]] == ["look_up"] * 2
    assert (second.content, value(second.llm_configuration)["messages"][-1]["content"]) == ("done", "sunny in Basel")
    for city in ("Bern", "Basel"):
        assert tree.path(tree.one(f"inner {city}")) == ["LangGraph", "tools", "look_up", f"inner {city}"]
    assert {record.status for record in tree.records} == {"success"}
    assert len(tree.roots) == 1


@pytest.mark.parametrize("mode", ["values", "updates", "messages", "debug", ["values", "messages"]], ids=str)
async def test_streams(mode: Any, tree: Any, chat: Any, config: Any) -> None:
    """The record is the same for every stream mode. In mode `messages`, it has the time to the first token."""
    graph = agent(chat)
    question = {"messages": [HumanMessage("weather?")]}
    assert list(graph.stream(question, config("t-1"), stream_mode=mode))
    names = sorted(record.name for record in tree.records)
    assert [piece async for piece in agent(chat).astream(question, config("t-2"), stream_mode=mode)]
    assert sorted(record.name for record in tree.records) == sorted(names * 2)
    assert {(record.status, record.error_type) for record in tree.records} == {("success", None)}
    assert [record.content for record in tree.of_kind("llm")] == ["", "done"] * 2
    if "messages" in mode:
        assert tree.of_kind("llm")[-1].time_to_first_token is not None


async def test_the_protocols_streams(tree: Any, chat: Any, config: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # beta
        question = {"messages": [HumanMessage("weather?")]}
        stream = agent(chat).stream_events(question, config("t-1"), version="v3")
        assert stream.output["messages"][-1].text == "done"
        later = await agent(chat).astream_events(question, config("t-2"), version="v3")
        assert (await later.output())["messages"][-1].text == "done"
    assert [record.content for record in tree.of_kind("llm")] == ["", "done"] * 2
    assert all(record.time_to_first_token is not None for record in tree.of_kind("llm") if record.content)


async def test_a_stream_that_is_closed_early(tree: Any, chat: Any, config: Any) -> None:
    stream = agent(chat).stream({"messages": [HumanMessage("weather?")]}, config("t-1"), stream_mode="updates")
    next(stream)
    stream.close()
    root = tree.one("LangGraph")
    assert (root.status, root.error_type) == ("success", "abandoned")


# --- one request, one record ---


@pytest.fixture
def client(provider: Any) -> Any:
    """A wrapped client of OpenAI's package that talks to the fake provider."""
    openai = pytest.importorskip("openai")
    everycall_openai = pytest.importorskip("everycall_openai")
    with openai.OpenAI(
        base_url=provider.base_url, api_key="k", max_retries=0, http_client=openai.DefaultHttpxClient(verify=False)
    ) as made:
        yield everycall_openai.wrap(made, provider="openai")


async def test_a_providers_client_in_a_node(ask: Any, tree: Any, config: Any, client: Any, provider: Any) -> None:
    """It is not a model of LangChain: its request has a record of its own, below the node."""

    def node(state: State) -> dict[str, Any]:
        answer = client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "hi"}])
        return {"notes": [answer.choices[0].message.content]}

    graph = StateGraph(State)
    graph.add_node("node", node)
    graph.add_edge(START, "node")
    await ask(graph.compile(), {"notes": []}, config("t-1"))
    (model,) = tree.of_kind("llm")
    assert tree.path(model) == ["LangGraph", "node", "chat gpt-4o"]
    assert (model.scope, model.input_tokens) == ("everycall_openai", 22)
    assert len(provider.requests) == 1


def test_a_nodes_command_is_recorded_like_its_messages(tree: Any, value: Callable[[Any], Any]) -> None:
    """What it updates, where the graph goes next, and a tool's failure that it reports."""

    def decide(state: dict[str, Any]) -> Command[Any]:
        return Command(update={"messages": [AIMessage("to the shelf")]}, goto="shelf")

    graph: Any = StateGraph(Anything)
    graph.add_node("decide", decide, destinations=("shelf",))
    graph.add_node("shelf", lambda state: state)
    graph.add_edge(START, "decide")
    graph.add_edge("shelf", END)
    graph.compile().invoke({"messages": []}, {"callbacks": [CallbackHandler()]})
    assert value(tree.one("decide").output) == {
        "update": {"messages": [{"role": "assistant", "content": "to the shelf"}]},
        "goto": "shelf",
    }


def test_the_status_of_a_tools_command_is_recorded(tree: Any, value: Callable[[Any], Any]) -> None:
    @tool
    def run(command: str) -> Any:
        """Run a command."""
        return Command(update={"messages": [ToolMessage("[exit code 3]", tool_call_id="c", status="error")]})

    run.invoke({"command": "false"}, {"callbacks": [CallbackHandler()]})
    record = tree.one("run")
    assert (record.status, record.error) == ("error", "[exit code 3]")
    assert value(record.output)["update"]["messages"][0]["status"] == "error"


class Loaded(BaseModel):
    """A state that holds a model, and a plain value beside it."""

    llm: Any
    note: str = ""


@dataclass
class LoadedData:
    llm: Any
    note: str = ""


@pytest.mark.parametrize("schema", [dict, Loaded, LoadedData], ids=["dict", "pydantic", "dataclass"])
def test_a_model_in_the_state_is_recorded_by_its_class_and_name(
    schema: Any, tree: Any, value: Callable[[Any], Any]
) -> None:
    """Its other fields hold keys and headers, under whatever names their owner gave them."""
    openai = pytest.importorskip("langchain_openai", reason="langchain-openai is not installed")
    model = openai.ChatOpenAI(
        model="gpt-4o", api_key="KEY-77", base_url="http://127.0.0.1:9/v1", default_headers={"x-tok": "HEADER-78"}
    )
    graph = StateGraph(schema)
    graph.add_node("node", lambda state: {"note": "seen"})
    graph.add_edge(START, "node")
    graph.add_edge("node", END)
    graph.compile().invoke({"llm": model, "note": "new"}, {"callbacks": [CallbackHandler()]})
    inputs = value(tree.one("node").inputs)
    assert inputs == {"llm": {"type": "ChatOpenAI", "model_name": "gpt-4o"}, "note": "new"}
    text = repr([(record, value(record.inputs), value(record.output)) for record in tree.records])
    assert "KEY-77" not in text
    assert "HEADER-78" not in text


class Service(BaseModel):
    """A user's own settings in a state."""

    url: str = "http://127.0.0.1:9"
    extra_headers: dict[str, str] = {"x-tok": "HEADER-78"}


def test_headers_and_other_components_in_the_state_are_masked(tree: Any, value: Callable[[Any], Any]) -> None:
    openai = pytest.importorskip("langchain_openai", reason="langchain-openai is not installed")
    embeddings = openai.OpenAIEmbeddings(model="small", api_key="KEY-77", default_headers={"x-tok": "HEADER-78"})
    graph: Any = StateGraph(Anything)
    graph.add_node("node", lambda state: {})
    graph.add_edge(START, "node")
    graph.add_edge("node", END)
    graph.compile().invoke({"index": embeddings, "service": Service()}, {"callbacks": [CallbackHandler()]})
    assert value(tree.one("node").inputs) == {
        "index": {"type": "OpenAIEmbeddings", "model": "small"},
        "service": {"url": "http://127.0.0.1:9", "extra_headers": {"x-tok": "***"}},
    }
    text = repr([(record, value(record.inputs), value(record.output)) for record in tree.records])
    assert "KEY-77" not in text
    assert "HEADER-78" not in text


def test_a_removed_message_is_recorded(tree: Any, value: Callable[[Any], Any]) -> None:
    graph: Any = StateGraph(Anything)
    graph.add_node("node", lambda state: {"messages": [RemoveMessage(id="m-7")]})
    graph.add_edge(START, "node")
    graph.add_edge("node", END)
    graph.compile().invoke({"messages": []}, {"callbacks": [CallbackHandler()]})
    assert value(tree.one("node").output)["messages"] == [{"role": "remove", "content": "", "id": "m-7"}]
