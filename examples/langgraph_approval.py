"""A LangGraph graph that asks a model, waits for a person, and goes on: two runs, one trace, and no error."""

import os
from typing import TypedDict

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


def write(letter: Letter) -> Letter:
    return {"draft": str(model.invoke(f"Write one line about {letter['topic']}.").content)}


def approve(letter: Letter) -> Letter:
    return {"verdict": interrupt(letter["draft"])}


graph = StateGraph(Letter)
graph.add_node("write", write)
graph.add_node("approve", approve)
graph.add_edge(START, "write")
graph.add_edge("write", "approve")
graph.add_edge("approve", END)
letters = graph.compile(checkpointer=InMemorySaver())

config = {"callbacks": [CallbackHandler(trace_name="letters")], "configurable": {"thread_id": "letter-7"}}
letters.invoke({"topic": "spools"}, config)  # stops, and waits for the verdict
print(letters.invoke(Command(resume="send it"), config)["verdict"])
print(everycall.flush())
