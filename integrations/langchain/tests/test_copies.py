"""A handler can be copied and sent to other processes, with its options and without its runs."""

from __future__ import annotations

import copy
import gc
import pickle
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
from langchain_core.runnables import RunnableLambda

from everycall_langchain import CallbackHandler

Anything: Any = dict
COPIES: dict[str, Callable[[Any], Any]] = {
    "pickle": lambda handler: pickle.loads(pickle.dumps(handler)),
    "cloudpickle": lambda handler: pickle.loads(cloudpickle.dumps(handler)),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}


class Loud(CallbackHandler):
    """A user's subclass, with state of its own."""

    def __init__(self, volume: int, **options: Any) -> None:
        super().__init__(**options)
        self.volume = volume


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("has_run", [False, True], ids=["new", "used"])
def test_a_copy_records_with_the_same_options(way: str, has_run: bool, tree: Any) -> None:
    handler = CallbackHandler(trace_name="copied", tags=["beta"], end_user_identifier="u-7")
    step = RunnableLambda(lambda x: x, name="step")
    if has_run:
        step.invoke("hi", {"callbacks": [handler]})
        tree.records.clear()
    copied = COPIES[way](handler)
    assert copied is not handler
    step.invoke("hi", {"callbacks": [copied]})
    record = tree.one("step")
    assert (record.trace_name, record.tags, record.end_user_identifier) == ("copied", ["beta"], "u-7")


@pytest.mark.parametrize("way", COPIES)
def test_a_subclass_keeps_its_class_and_its_state(way: str, tree: Any) -> None:
    copied = COPIES[way](Loud(11, trace_name="copied"))
    assert (type(copied), copied.volume) == (Loud, 11)
    RunnableLambda(lambda x: x, name="step").invoke("hi", {"callbacks": [copied]})
    assert tree.one("step").trace_name == "copied"


@pytest.mark.parametrize("way", COPIES)
def test_a_handler_that_a_graph_has_used_can_be_copied(way: str, tree: Any) -> None:
    """LangGraph's handlers have a class of their own, which the copy gets when its first graph runs."""
    pytest.importorskip("langgraph", reason="langgraph is not installed")
    from langgraph.graph import END, START, StateGraph

    graph: Any = StateGraph(Anything)
    graph.add_node("node", lambda state: state)
    graph.add_edge(START, "node")
    graph.add_edge("node", END)
    handler = Loud(11)
    graph.compile().invoke({"a": 1}, {"callbacks": [handler]})
    copied = COPIES[way](handler)
    assert type(copied) is Loud
    tree.records.clear()
    graph.compile().invoke({"a": 1}, {"callbacks": [copied]})
    assert tree.one("node").kind == "chain"


WORKER = """
import pickle, sys
from everycall.testing import capture_records
with capture_records() as records:
    chain = pickle.load(sys.stdin.buffer)
    assert chain.invoke(2) == 4
print([(record.name, record.trace_name) for record in records])
"""


def test_a_chain_with_a_handler_runs_and_is_recorded_in_a_worker(tmp_path: Path) -> None:
    """Ray, Dask and joblib send chains like this: with cloudpickle, to a process that has imported nothing."""
    chain: Any = RunnableLambda(lambda x: x * 2, name="double").with_config(
        callbacks=[CallbackHandler(trace_name="far away")]
    )
    worker = subprocess.run(
        [sys.executable, "-c", WORKER], input=cloudpickle.dumps(chain), capture_output=True, check=False, cwd=tmp_path
    )
    assert worker.stdout.decode().strip() == "[('double', 'far away')]", worker.stderr.decode()


def test_a_class_of_handlers_is_freed_with_its_last_handler(tree: Any) -> None:
    """For example a class that is defined in each request, or in each rerun of a notebook's cell."""
    pytest.importorskip("langgraph", reason="langgraph is not installed")
    from langgraph.graph import END, START, StateGraph

    graph: Any = StateGraph(Anything)
    graph.add_node("node", lambda state: state)
    graph.add_edge(START, "node")
    graph.add_edge("node", END)
    classes = []
    for _ in range(20):
        kind = type("OnceOnly", (CallbackHandler,), {})
        graph.compile().invoke({"a": 1}, {"callbacks": [kind()]})
        classes.append(weakref.ref(kind))
        del kind
    gc.collect()
    assert len(tree.named("node")) == 20
    assert sum(reference() is not None for reference in classes) <= 1
