"""How a run begins, ends and fails: from LangChain's events to calls. The handler calls these functions.

A run is in `RUNS` before its fields are read, and is removed whatever happens to them: a defect here costs a field, not
the record.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final
from uuid import UUID

from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from opentelemetry.trace import get_current_span

from everycall.integration import INHERIT, Inherit, OwnedCall, current, current_context, start_below, start_call
from everycall_langchain import _graphs, _render
from everycall_langchain._completion import Request
from everycall_langchain._current import running_model
from everycall_langchain._options import STEP_TAG, Options, own_keys, own_tags
from everycall_langchain._runs import RUNS, Run, key

__all__ = [
    "MISSING",
    "MODEL",
    "add_event",
    "add_interrupt",
    "begin",
    "end",
    "end_chain",
    "end_tool",
    "fail",
    "is_passed_on",
    "keep_inputs",
    "keep_request",
    "name_of",
]

SCOPE: Final = "everycall_langchain"
MODEL: Final = "llm"
"""The kind of a model's call."""
MISSING: Final = object()
"""Stands for an argument that LangChain did not pass, as opposed to None."""
_HIDDEN_TAG: Final = "langsmith:hidden"
_ANSWERING_ROLES: Final = frozenset({"assistant", "tool", "function"})


def begin(
    options: Options,
    kind: str,
    name: str,
    run_id: Any,
    parent_run_id: Any,
    tags: Sequence[str] | None,
    metadata: Mapping[str, Any] | None,
    may_resume: bool = False,
) -> Run | None:
    """Begin a run. Return None if it is hidden, or if another handler of ours has begun it.

    `may_resume` says that the run may continue a graph that was interrupted (see `_begin_outermost`).
    """
    run_key = run_id.int if type(run_id) is UUID else key(run_id)
    if run_key in RUNS.by_key:
        return None
    parent = None
    if parent_run_id is not None:
        parent = RUNS.by_key.get(parent_run_id.int if type(parent_run_id) is UUID else key(parent_run_id))
    if parent is None:
        call = _begin_outermost(options, kind, name, metadata, may_resume)
    elif tags and _HIDDEN_TAG in tags:
        RUNS.open(run_key, Run.hidden_below(parent))
        return None
    else:
        call = _begin_below(parent, options, kind, name, metadata)
    run = Run(call, parent)
    if kind == MODEL:
        run.is_model = True
    RUNS.open(run_key, run)
    # A config's labels are set now, not at the start of the call, where they would be declared and outlive the omit
    # flags: a framework may have filled them from inputs.
    if metadata and (names := own_keys(metadata)):
        call.set_fields(metadata={name: metadata[name] for name in names})
    if tags and not (len(tags) == 1 and tags[0].startswith(STEP_TAG)) and (labels := own_tags(tags)):
        call.set_fields(tags=labels)
    return run


def _begin_outermost(
    options: Options, kind: str, name: str, metadata: Mapping[str, Any] | None, may_resume: bool
) -> OwnedCall:
    """Begin the call of a run without a parent: below the current call, or in a trace of its own.

    A graph that was interrupted in the same process and session continues in its trace. Inside another call or span it
    stays in that one's trace, and an event names the other.
    """
    arguments = options.outermost
    if metadata and not options.config_names.isdisjoint(metadata):
        arguments = options.with_config(arguments, metadata)
    interrupted = RUNS.resume(arguments.get("session_id"), name) if may_resume else None
    if interrupted is not None and current() is None and not get_current_span().get_span_context().is_valid:
        arguments = {"trace_id": interrupted, **arguments}
    context = current_context()
    call = start_call(name, kind=kind, scope=SCOPE, parent=INHERIT, **arguments)
    call.begun_in = context
    if interrupted is not None and call.trace_id != interrupted:
        call.add_event("resume", {"trace_id": interrupted})
    return call


def _begin_below(parent: Run, options: Options, kind: str, name: str, metadata: Mapping[str, Any] | None) -> OwnedCall:
    """Begin the call of a run below another run."""
    arguments = options.model if kind == MODEL else options.step
    if metadata and not options.config_names.isdisjoint(metadata):
        arguments = options.with_config(arguments, metadata)
    context = current_context()
    above: OwnedCall | Inherit = parent.call
    if context is not parent.call.begun_in:
        above = parent.parent_of_next(context)
    if RUNS.models and above in RUNS.models and (model := running_model(parent)) is not None:
        above = model.call  # LangChain puts what a model's code runs beside the model, not below it
    if arguments or isinstance(above, Inherit):
        call = start_call(name, kind=kind, scope=SCOPE, parent=above, **arguments)
    else:
        call = start_below(name, kind, SCOPE, above)
    call.begun_in = context
    return call


def name_of(serialized: Mapping[str, Any] | None, kind: str) -> str:
    """Return the name of what runs, for a run without a name of its own."""
    if not serialized:
        return kind
    path = serialized.get("id")
    name = serialized.get("name") or (path[-1] if isinstance(path, list) and path else None)
    return str(name) if name else kind


def keep_request(run: Run, request: Request) -> None:
    """Record a model's request. Under an omit flag, without the messages that other steps have produced."""
    call, configuration = run.call, request.configuration
    if call.omit and run.parent is not None:
        messages = [message for message in configuration["messages"] if message["role"] not in _ANSWERING_ROLES]
        configuration = {**configuration, "messages": messages}
    if request.is_own:
        call.keep_own("llm_configuration", configuration)
    else:
        call.keep("llm_configuration", configuration)
    if configuration["model"] or configuration["provider"]:
        call.set_fields(model=configuration["model"], provider=configuration["provider"])


def keep_inputs(run: Run, inputs: Any) -> None:
    """Record the inputs of a chain."""
    kind = type(inputs)
    message = _render.short_message(inputs) if kind is AIMessage or kind is AIMessageChunk else None
    if message is None:
        run.call.keep("inputs", inputs, _render.plain)
    else:
        run.call.keep_own("inputs", message)


def is_passed_on(run: Run) -> bool:
    """Return whether an omit flag for one side must leave out both sides of a step.

    The output of one step is the input of the next: with outputs omitted, a model's answer would stand in the parser's
    inputs, and with inputs omitted, the question in the prompt's output.
    """
    return bool(run.call.omit) and (run.parent is not None or run.call.kind == "prompt")


def end_chain(run: Run, outputs: Any, inputs: Any) -> None:
    """End a chain with its outputs. Only the end of a stream comes with `inputs`; otherwise they are `MISSING`.

    If a stream's consumer closes it early, LangChain ends the chain as if it had finished. A step that is still in
    progress below it shows the difference.
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
    """End the run of a retriever with its output."""
    run = RUNS.close(key(run_id))
    if run is not None:
        run.call.returned(output, _render.plain)


def end_tool(run_id: Any, output: Any) -> None:
    """End the run of a tool with its output: as an error if a message in it says that the tool failed.

    Such a message has `status="error"`. It is what a tool returns, or what LangChain makes of an exception that the
    tool's `handle_tool_error` handles.
    """
    run = RUNS.close(key(run_id))
    if run is None:
        return
    content = output.__dict__.get("content") if isinstance(output, BaseMessage) else output
    error = _render.tool_failure(output)
    if error is None:
        run.call.returned(content, _render.plain)
    else:
        run.call.keep("output", content, _render.plain)
        run.call.fail(error)


def fail(run_id: Any, error: BaseException, fields: Callable[[Run], Mapping[str, Any]] | None = None) -> None:
    """End a run with the error that LangChain reports, unless that is how a graph controls itself.

    `fields` returns what else is to be recorded.
    """
    run = RUNS.close(key(run_id))
    if run is None:
        return
    try:
        if fields is not None:
            run.call.set_fields(**fields(run))
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
                for below in RUNS.close_below(run):  # LangChain does not report that a tool was cancelled
                    below.call.cancel()
            run.call.fail(error)


def add_interrupt(run_id: Any, interrupts: Any) -> None:
    """Note that a graph, whose run is still in progress, stops until somebody resumes it."""
    run = RUNS.by_key.get(key(run_id))
    if run is not None:
        RUNS.interrupt(run)
        run.call.add_event("interrupt", {"values": _graphs.questions(interrupts)})


def add_event(run_id: Any, name: str, attributes: Mapping[str, Any]) -> None:
    """Note an event of a run in progress."""
    run = RUNS.by_key.get(key(run_id))
    if run is not None:
        run.call.add_event(name, attributes)
