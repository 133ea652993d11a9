"""A LangGraph graph that asks a model, waits for a person, and continues: two runs, one trace, and no error."""

import os
from typing import TypedDict

from langchain_core.runnables import RunnableConfig
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, interrupt

import everycall
from everycall_langchain import CallbackHandler


class Letter(TypedDict, total=False):
    topic: str
    draft: str
    verdict: str


model = ChatOpenAI(model=os.environ.get("MODEL", "gpt-4o-mini"))


def write(state: Letter) -> Letter:
    return {"draft": str(model.invoke(f"Write one line about {state['topic']}.").content)}


def approve(state: Letter) -> Letter:
    return {"verdict": interrupt(state["draft"])}


graph = StateGraph(Letter)
graph.add_node("write", write)
graph.add_node("approve", approve)
graph.add_edge(START, "write")
graph.add_edge("write", "approve")
graph.add_edge("approve", END)
letters = graph.compile(checkpointer=InMemorySaver())

config: RunnableConfig = {
    "callbacks": [CallbackHandler(trace_name="letters")],
    "configurable": {"thread_id": "letter-7"},
}
letters.invoke({"topic": "spools"}, config)  # stops at the interrupt, and waits for the verdict
print(letters.invoke(Command(resume="send it"), config)["verdict"])
print(everycall.flush())
