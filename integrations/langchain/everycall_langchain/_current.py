"""Which run's code is running here: asked by everycall whenever a call looks for its parent, and by OpenTelemetry.

LangChain sets a context variable for the code of each step and each tool, and copies it to its tasks and threads. For
the code of a model it sets none: there the frames that lead here are asked for the model's run manager.
"""

from __future__ import annotations

import sys
from typing import Any, Final

from langchain_core.runnables.config import var_child_runnable_config

from everycall import limits
from everycall.integration import Call, register_parent_lookup
from everycall_langchain._runs import RUNS, Run, key

__all__ = ["current_call", "model_running", "register"]

_MANAGER: Final = "run_manager"
_OF_MODELS: Final = frozenset(
    {
        "_generate_with_cache",
        "_agenerate_with_cache",
        "_generate",
        "_agenerate",
        "_stream",
        "_astream",
        "_call",
        "_acall",
        "stream",
        "astream",
        "_iter_v2_events",
        "_aiter_v2_events",
    }
)
"""The functions, of langchain-core and of a model's author, that have a model's run manager in `run_manager`."""

_registered = False


def register() -> None:
    """Let calls opened inside a run find it, from now on. Called when the first handler is made."""
    global _registered
    if not _registered:
        _registered = True
        register_parent_lookup(current_call)


def current_call(held: Call | None) -> Call | None:
    """Return the call of the run whose code is running here; None outside of runs, and of runs not recorded.

    `held` is the call in OpenTelemetry's context. The frames are looked at only while a model is running that was begun
    where this code seems to be: in the step that runs here, in `held`, or where no step is known to run here (LangChain
    sets none for the models of a batch).
    """
    config = var_child_runnable_config.get()
    step = None
    if config is not None:
        step = RUNS.by_key.get(key(getattr(config.get("callbacks"), "parent_run_id", None)))
    call = step.call if step is not None else None
    models = RUNS.models
    if models and (call is None or call in models or held in models):
        model = model_running(step)
        if model is not None:
            return model.call
    return call


def model_running(below: Run | None) -> Run | None:
    """Return the innermost run of a model in whose code we are, when it is below a run (None: any is).

    The frames of this thread, or task, tell. What a model's code does in further ones is not known to be its own.
    """
    frame = sys._getframe(1)
    for _ in range(limits.RUN_FRAMES_MAX):
        if frame.f_code.co_name in _OF_MODELS:
            manager: Any = frame.f_locals.get(_MANAGER)
            run = RUNS.by_key.get(key(getattr(manager, "run_id", None)))
            if run is not None and run.is_model:
                return run if below is None or run.is_below(below) else None
        above = frame.f_back
        if above is None:
            return None
        frame = above
    return None
