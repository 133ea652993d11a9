"""How a run begins, ends and fails: from what LangChain tells of it to its call. The handler calls it.

A run is open before its fields are asked for, and is closed whatever becomes of them: a defect of ours costs a field.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final
from uuid import UUID

from langchain_core.messages import AIMessage, AIMessageChunk
from opentelemetry.trace import get_current_span

from everycall.integration import INHERIT, Call, Inherit, current, current_context, start_below, start_call
from everycall_langchain import _graphs, _render
from everycall_langchain._completion import Request
from everycall_langchain._current import model_running
from everycall_langchain._options import STEP_TAG, Options, copied_tags, own_keys
from everycall_langchain._runs import RUNS, Run, key

__all__ = [
    "MISSING",
    "ask",
    "begin",
    "end",
    "end_chain",
    "event",
    "fail",
    "interrupted",
    "is_passed_on",
    "keep_inputs",
    "name_of",
]

SCOPE: Final = "everycall_langchain"
MISSING: Final = object()
"""Stands for what LangChain did not tell, as opposed to None."""
_HIDDEN_TAG: Final = "langsmith:hidden"
_MODEL: Final = "llm"
_ANSWERING_ROLES: Final = frozenset({"assistant", "tool", "function"})


def begin(
    options: Options,
    kind: str,
    name: str,
    run_id: Any,
    above_id: Any,
    tags: Sequence[str] | None,
    metadata: Mapping[str, Any] | None,
    resumed: bool = False,
) -> Run | None:
    """Open a run; None for one that is hidden, or open already: another handler of ours was first.

    A graph that is `resumed` goes on in the trace in which it was interrupted, in the same process and session; inside
    another call or span it stays in that one's trace, and names the other in an event.
    """
    run_key = run_id.int if type(run_id) is UUID else key(run_id)
    if run_key in RUNS.by_key:
        return None
    parent = None
    if above_id is not None:
        parent = RUNS.by_key.get(above_id.int if type(above_id) is UUID else key(above_id))
    context = current_context()
    above: Call | Inherit = INHERIT
    if parent is None:
        given = options.outermost
    elif tags and _HIDDEN_TAG in tags:
        hidden = Run(parent.call, parent)
        hidden.hidden = True
        RUNS.open(run_key, hidden)
        return None
    else:
        given = options.model if kind == _MODEL else options.step
        above = parent.call if context is parent.call.begun_in else parent.parent_of_next(context)
        if RUNS.models and above in RUNS.models and (model := model_running(parent)) is not None:
            above = model.call  # LangChain takes what a model's code runs for a step beside the model
    if metadata and not options.reads.isdisjoint(metadata):
        given = options.joined(given, metadata)
    waiting = RUNS.resume(given.get("session_id"), name) if resumed and parent is None else None
    if waiting is not None and current() is None and not get_current_span().get_span_context().is_valid:
        given = {"trace_id": waiting, **given}
    if given or isinstance(above, Inherit):
        call = start_call(name, kind=kind, scope=SCOPE, parent=above, **given)
    else:
        call = start_below(name, kind, SCOPE, above)
    call.begun_in = context
    run = Run(call, parent)
    if kind == _MODEL:
        run.is_model = True
    RUNS.open(run_key, run)
    if waiting is not None and call.trace_id != waiting:
        call.add_event("resume", {"trace_id": waiting})
    # Labels of a config are not given to `start_call`, where they would be declared and outlive the omit flags: a
    # framework may have filled them from inputs.
    if metadata and (own := own_keys(metadata)):
        call.update(metadata={name: metadata[name] for name in own})
    if tags and not (len(tags) == 1 and tags[0].startswith(STEP_TAG)) and (labels := copied_tags(tags)):
        call.update(tags=labels)
    return run


def name_of(serialized: Mapping[str, Any] | None, kind: str) -> str:
    """Return the name of what runs, where the run itself has none."""
    if not serialized:
        return kind
    path = serialized.get("id")
    found = serialized.get("name") or (path[-1] if isinstance(path, list) and path else None)
    return str(found) if found else kind


def ask(run: Run, request: Request) -> None:
    """Record a model's request; under an omit flag without its history, which other steps said."""
    call, told = run.call, request.configuration
    if call.omit and run.parent is not None:
        told = {**told, "messages": [said for said in told["messages"] if said["role"] not in _ANSWERING_ROLES]}
    if request.is_own:
        call.keep_own("llm_configuration", told)
    else:
        call.keep("llm_configuration", told)
    if told["model"] or told["provider"]:
        call.update(model=told["model"], provider=told["provider"])


def keep_inputs(run: Run, inputs: Any) -> None:
    """Record what a chain was given."""
    kind = type(inputs)
    said = _render.short_message(inputs) if kind is AIMessage or kind is AIMessageChunk else None
    if said is None:
        run.call.keep("inputs", inputs, _render.plain)
    else:
        run.call.keep_own("inputs", said)


def is_passed_on(run: Run) -> bool:
    """Tell whether an omit flag on one side must keep both sides of a step out.

    What one step answers is what the next is asked: with outputs omitted, a model's answer would be read from the
    parser's inputs, and with inputs omitted, the question from the prompt's output.
    """
    return bool(run.call.omit) and (run.parent is not None or run.call.kind == "prompt")


def end_chain(run: Run, outputs: Any, inputs: Any) -> None:
    """End a chain with what it returned. The end of a stream comes with its `inputs`.

    When the consumer of a stream closes it, LangChain ends the chain as if it had come to its end; what tells the two
    apart is that a step of it is still open.
    """
    call = run.call
    if inputs is MISSING:
        if call.omit and is_passed_on(run):
            call.end()
        else:
            call.returned(outputs, _render.plain)
        return
    if not is_passed_on(run):
        keep_inputs(run, inputs)
        call.keep("output", outputs, _render.plain)
    if run.children:
        call.abandon()
    else:
        call.end()


def end(run_id: Any, output: Any) -> None:
    """End a tool's or retriever's run with what it returned."""
    run = RUNS.close(key(run_id))
    if run is not None:
        run.call.returned(output, _render.plain)


def fail(run_id: Any, error: BaseException, told: Callable[[Run], Mapping[str, Any]] | None = None) -> None:
    """End a run with the error that LangChain reports, unless that error is how a graph steers itself."""
    run = RUNS.close(key(run_id))
    if run is None:
        return
    try:
        if told is not None:
            run.call.update(**told(run))
    finally:
        if _graphs.is_control_flow(error):
            if _graphs.waits_for_an_answer(error):
                RUNS.interrupt(run)
                run.call.add_event("interrupt", {"values": _graphs.questions(error.args[0] if error.args else ())})
            else:
                run.call.add_event(type(error).__name__)
            run.call.end()
        else:
            if isinstance(error, (asyncio.CancelledError, KeyboardInterrupt)):
                for below in RUNS.close_below(run):  # LangChain does not tell of a tool that was cancelled
                    below.call.cancel()
            run.call.fail(error)


def interrupted(run_id: Any, values: Any) -> None:
    """Note that a graph, whose run is still open, stops until somebody resumes it."""
    run = RUNS.by_key.get(key(run_id))
    if run is not None:
        RUNS.interrupt(run)
        run.call.add_event("interrupt", {"values": _graphs.questions(values)})


def event(run_id: Any, name: str, attributes: Mapping[str, Any]) -> None:
    """Note something that happened while a run was open."""
    run = RUNS.by_key.get(key(run_id))
    if run is not None:
        run.call.add_event(name, attributes)
