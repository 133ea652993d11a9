"""LangGraph: its control flow, and handlers that it notifies of interrupts.

LangGraph may not be installed, and is never imported here, which would take a second. Its classes are known by name.
"""

from __future__ import annotations

import sys
from typing import Any, Final

from everycall_langchain import _render

__all__ = ["LANGGRAPH", "as_graph_handler", "is_control_flow", "is_resumption", "questions", "waits_for_an_answer"]

LANGGRAPH: Final = "langgraph.callbacks"
"""A module in `sys.modules` without which no graph runs that could notify a handler."""
_CONTROL_FLOW: Final = frozenset({"GraphBubbleUp", "GraphInterrupt", "NodeInterrupt", "ParentCommand"})
_GRAPH_CLASS: Final = "_everycall_graph_class"
"""The attribute of a handler's class that holds its subclass for graphs. In the class itself, it is freed with it."""


def as_graph_handler(handler: Any) -> None:
    """Let LangGraph notify a handler of interrupts and resumptions, by giving it a subclass of its own class.

    LangGraph only notifies instances of its `GraphCallbackHandler`. Does nothing while LangGraph is not loaded.
    """
    base = getattr(sys.modules.get(LANGGRAPH), "GraphCallbackHandler", None)
    if base is None or isinstance(handler, base):
        return
    kind = type(handler)
    graph_class = kind.__dict__.get(_GRAPH_CLASS)
    if graph_class is None:
        members = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": kind.__doc__}
        graph_class = type(kind.__name__, (kind, base), members)
        setattr(kind, _GRAPH_CLASS, graph_class)
    handler.__class__ = graph_class


def is_control_flow(error: BaseException) -> bool:
    """Tell whether an exception is how a graph controls itself, not an error."""
    return not _CONTROL_FLOW.isdisjoint(_class_names(error))


def waits_for_an_answer(error: BaseException) -> bool:
    """Tell whether an exception stops a graph until somebody resumes it."""
    return "GraphInterrupt" in _class_names(error)


def _class_names(error: BaseException) -> list[str]:
    return [kind.__name__ for kind in type(error).__mro__]


def is_resumption(inputs: Any) -> bool:
    """Tell whether a graph that starts with these inputs may continue from an interrupt."""
    return inputs is None or type(inputs).__name__ == "Command"


def questions(interrupts: Any) -> list[Any]:
    """Return the values with which a graph was interrupted."""
    if not isinstance(interrupts, (tuple, list)):
        return []
    return [_render.plain(getattr(interrupt, "value", interrupt)) for interrupt in interrupts]
