"""Which run's code is running here. everycall asks when a call looks for its parent, and so does OpenTelemetry.

LangChain sets a context variable for the code of each step and each tool, and copies it to its tasks and threads. It
sets none for the code of a model: its run manager is found in the frames of the stack.
"""

from __future__ import annotations

import sys
from typing import Any, Final

from langchain_core.runnables.config import var_child_runnable_config

from everycall import limits
from everycall.integration import OwnedCall, register_parent_lookup
from everycall_langchain._runs import RUNS, Run, key

__all__ = ["current_call", "register", "running_model"]

_MANAGER: Final = "run_manager"
_MODEL_FUNCTIONS: Final = frozenset(
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
"""Functions of langchain-core and of model classes whose local `run_manager` is the manager of a model's run."""

_is_registered = False


def register() -> None:
    """From now on, let calls that begin inside a run find it. The first handler does this."""
    global _is_registered
    if not _is_registered:
        _is_registered = True
        register_parent_lookup(current_call)


def current_call(attached: OwnedCall | None) -> OwnedCall | None:
    """Return the call of the run whose code is running here; None outside of runs, and in runs without a record.

    `attached` is the call in OpenTelemetry's context. The frames are searched only if a model is running that began
    where this code seems to run: in the present step, in `attached`, or where no step is known (LangChain sets none for
    the models of a batch).
    """
    config = var_child_runnable_config.get()
    step = None
    if config is not None:
        step = RUNS.by_key.get(key(getattr(config.get("callbacks"), "parent_run_id", None)))
    call = step.call if step is not None else None
    models = RUNS.models
    if models and (call is None or call in models or attached in models):
        model = running_model(step)
        if model is not None:
            return model.call
    return call


def running_model(above: Run | None) -> Run | None:
    """Return the innermost run of a model whose code is running here, if it is below `above` (None: any).

    Only the frames of this thread or task are known. A model's code in further ones is not recognized.
    """
    frame = sys._getframe(1)
    for _ in range(limits.RUN_FRAMES_MAX):
        if frame.f_code.co_name in _MODEL_FUNCTIONS:
            manager: Any = frame.f_locals.get(_MANAGER)
            run = RUNS.by_key.get(key(getattr(manager, "run_id", None)))
            if run is not None and run.is_model:
                return run if above is None or run.is_below(above) else None
        caller = frame.f_back
        if caller is None:
            return None
        frame = caller
    return None
