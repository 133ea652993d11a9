"""LangGraph: its control flow, and handlers that it notifies of interrupts.

LangGraph may not be installed, and is never imported here, which would take a second. Its classes are known by name.
"""

from __future__ import annotations

import sys
from typing import Any, Final
from weakref import ReferenceType, WeakKeyDictionary, ref

from everycall_langchain import _render

__all__ = [
    "LANGGRAPH",
    "as_graph_handler",
    "class_without_graphs",
    "is_control_flow",
    "is_resumption",
    "questions",
    "waits_for_an_answer",
]

LANGGRAPH: Final = "langgraph.callbacks"
"""A module in `sys.modules` without which no graph runs that could notify a handler."""
_HANDLER_MODULE: Final = "everycall_langchain.handler"
_CONTROL_FLOW: Final = frozenset({"GraphBubbleUp", "GraphInterrupt", "NodeInterrupt", "ParentCommand"})
_graph_classes: WeakKeyDictionary[type, ReferenceType[type]] = WeakKeyDictionary()
"""The subclasses for graphs that are in use, by the handler's class. Both are freed with the last such handler."""
_kept: list[type] = []
"""The subclass of the package's own handler, which is not made anew for each handler."""
_HANDLER_CLASS: Final = "_everycall_handler_class"
"""The attribute of such a subclass that holds the handler's class."""


def as_graph_handler(handler: Any) -> None:
    """Let LangGraph notify a handler of interrupts and resumptions, by giving it a subclass of its own class.

    LangGraph only notifies instances of its `GraphCallbackHandler`. Does nothing while LangGraph is not loaded.
    """
    base = getattr(sys.modules.get(LANGGRAPH), "GraphCallbackHandler", None)
    if base is None or isinstance(handler, base):
        return
    kind = type(handler)
    reference = _graph_classes.get(kind)
    graph_class = reference() if reference is not None else None
    if graph_class is None:
        members = {
            "__module__": kind.__module__,
            "__qualname__": kind.__qualname__,
            "__doc__": kind.__doc__,
            _HANDLER_CLASS: kind,
        }
        graph_class = type(kind.__name__, (kind, base), members)
        _graph_classes[kind] = ref(graph_class)
        if kind.__module__ == _HANDLER_MODULE:
            _kept.append(graph_class)
    handler.__class__ = graph_class


def class_without_graphs(kind: type) -> type:
    """Return the class that a handler had before `as_graph_handler`."""
    base: type = kind.__dict__.get(_HANDLER_CLASS, kind)
    return base


def is_control_flow(error: BaseException) -> bool:
    """Return whether an exception is how a graph controls itself, not an error."""
    return not _CONTROL_FLOW.isdisjoint(_class_names(error))


def waits_for_an_answer(error: BaseException) -> bool:
    """Return whether an exception stops a graph until somebody resumes it."""
    return "GraphInterrupt" in _class_names(error)


def _class_names(error: BaseException) -> list[str]:
    return [kind.__name__ for kind in type(error).__mro__]


def is_resumption(inputs: Any) -> bool:
    """Return whether a graph that starts with these inputs may continue from an interrupt."""
    return inputs is None or type(inputs).__name__ == "Command"


def questions(interrupts: Any) -> list[Any]:
    """Return the values with which a graph was interrupted."""
    if not isinstance(interrupts, (tuple, list)):
        return []
    return [_render.plain(getattr(interrupt, "value", interrupt)) for interrupt in interrupts]
