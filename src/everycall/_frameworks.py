"""Whether LangChain's own record covers a request that is made in its code. Layer 3; integrations of clients ask.

LangChain calls a model's method with a `run_manager`, whose handlers are told what was asked and answered. Where one of
them is everycall's, the model's run is the record of the request. No context says so: LangChain sets its own for steps
and tools, not for models; so the frames that lead here are asked.
"""

from __future__ import annotations

import sys
from typing import Any, Final

__all__ = ["recorded_by_handler"]

_ARGUMENT: Final = "run_manager"
_OF_MODELS: Final = frozenset({"CallbackManagerForLLMRun", "AsyncCallbackManagerForLLMRun"})
_HANDLERS: Final = "everycall_langchain"
_FRAMES_MAX: Final = 500


def recorded_by_handler() -> bool:
    """Tell whether the innermost of LangChain's runs that lead here is a model's which everycall's handler records.

    A tool, chain or retriever that asks a model through a client is another matter: that request has its own record.
    """
    if _HANDLERS not in sys.modules:
        return False
    frame = sys._getframe(1)
    for _ in range(_FRAMES_MAX):
        above = frame.f_back
        if above is None:
            return False
        frame = above
        if _ARGUMENT in frame.f_code.co_varnames:
            manager = frame.f_locals.get(_ARGUMENT)
            if manager is not None and hasattr(manager, "run_id"):
                return _is_recorded(manager)
    return False


def _is_recorded(manager: Any) -> bool:
    if _OF_MODELS.isdisjoint(kind.__name__ for kind in type(manager).__mro__):
        return False
    return any(
        kind.__module__.partition(".")[0] == _HANDLERS
        for handler in getattr(manager, "handlers", ())
        for kind in type(handler).__mro__
    )
