"""What is LangGraph's: how it names its control flow, and handlers that it tells of interrupts. Called by the handler.

LangGraph need not be installed, and is never imported here: that takes a second. What is known of it is known by name.
"""

from __future__ import annotations

import sys
from typing import Any, Final

from everycall_langchain import _render

__all__ = ["LANGGRAPH", "as_graph_handler", "is_control_flow", "is_resumption", "questions", "waits_for_an_answer"]

LANGGRAPH: Final = "langgraph.callbacks"
"""The module in `sys.modules` without which no graph runs that would tell of interrupts."""
_CONTROL_FLOW: Final = frozenset({"GraphBubbleUp", "GraphInterrupt", "NodeInterrupt", "ParentCommand"})
_made: dict[type, type] = {}


def as_graph_handler(handler: Any) -> None:
    """Make a handler one of those that LangGraph tells of interrupts and resumptions: of a subclass of its own class.

    LangGraph tells only instances of its `GraphCallbackHandler`. Does nothing while LangGraph is not loaded.
    """
    told = getattr(sys.modules.get(LANGGRAPH), "GraphCallbackHandler", None)
    if told is None or isinstance(handler, told):
        return
    kind = type(handler)
    if kind not in _made:
        about = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": kind.__doc__}
        _made[kind] = type(kind.__name__, (kind, told), about)
    handler.__class__ = _made[kind]


def is_control_flow(error: BaseException) -> bool:
    """Tell whether an exception is how a graph steers itself, and no error."""
    return not _CONTROL_FLOW.isdisjoint(_names(error))


def waits_for_an_answer(error: BaseException) -> bool:
    """Tell whether an exception stops a graph until somebody resumes it."""
    return "GraphInterrupt" in _names(error)


def _names(error: BaseException) -> list[str]:
    return [kind.__name__ for kind in type(error).__mro__]


def is_resumption(inputs: Any) -> bool:
    """Tell whether a graph that is begun with these inputs may go on where one was interrupted."""
    return inputs is None or type(inputs).__name__ == "Command"


def questions(interrupts: Any) -> list[Any]:
    """Return the values with which a graph was interrupted."""
    if not isinstance(interrupts, (tuple, list)):
        return []
    return [_render.plain(getattr(one, "value", one)) for one in interrupts]
