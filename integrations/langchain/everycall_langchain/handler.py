"""The callback handler: LangChain's events to everycall's calls. LangChain calls it, in whatever thread runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.messages import BaseMessage
from langchain_core.outputs import LLMResult
from opentelemetry.context import get_current

from everycall.instrument import INHERIT, start_call
from everycall_langchain import _completion, _render
from everycall_langchain._hook import hook
from everycall_langchain._options import MODEL, OUTERMOST, STEP, Options, copied_metadata, copied_tags
from everycall_langchain._runs import RUNS, Run, key, register

__all__ = ["CallbackHandler"]

SCOPE = "everycall_langchain"
_HIDDEN_TAG = "langsmith:hidden"
_AGENT_NAMES = frozenset({"AgentExecutor"})
_STEP_KINDS = frozenset({"prompt", "parser"})
_CONTROL_FLOW = frozenset({"GraphBubbleUp", "GraphInterrupt", "NodeInterrupt", "ParentCommand"})
"""LangGraph's exceptions that steer a graph. Known by name, so that LangGraph need not be installed."""
_ANSWERING_ROLES = frozenset({"assistant", "tool", "function"})
_NOTHING: Mapping[str, Any] = {}


class CallbackHandler(BaseCallbackHandler):
    """Records each run of a chain, model, tool or retriever as a call, for `config={"callbacks": [CallbackHandler()]}`.

    One handler serves any number of runs at a time, synchronous and asynchronous, in any thread: it holds nothing but
    its options. A run's parent is the run LangChain names; what a user's code opens inside a step (`@trace`, `span()`,
    a wrapped client, another chain) finds that step through LangChain's own context variable. An outermost run nests
    under the call that is current where the chain was started.

    The keywords are those of `everycall.context()`; `tags` and `metadata` go to every run, `target` to the outermost.
    A run's `config["metadata"]` may have the same names (and `thread_id` for `session_id`) and wins, except that of the
    omit flags the stricter wins. The rest of that metadata and the tags are recorded, unless an omit flag holds.

    `run_inline` stays False: with an inline handler LangChain keeps `on_llm_start` of text models from a user's other
    handlers. Nor do the callbacks wait for a thread; see `_hook`. Exceptions of ours never reach LangChain.
    """

    raise_error = False
    run_inline = False

    def __init__(
        self,
        *,
        trace_id: str | None = None,
        trace_name: str | None = None,
        end_user_identifier: str | None = None,
        session_id: str | None = None,
        deployment_id: str | None = None,
        tags: Iterable[str] = (),
        metadata: Mapping[str, Any] | None = None,
        target: Any = None,
        log_omit: bool = False,
        log_omit_inputs: bool = False,
        log_omit_outputs: bool = False,
    ) -> None:
        super().__init__()
        self._options = Options(
            {
                "trace_id": trace_id,
                "trace_name": trace_name,
                "end_user_identifier": end_user_identifier,
                "session_id": session_id,
                "deployment_id": deployment_id,
                "tags": tuple(tags),
                "metadata": metadata,
                "target": target,
                "log_omit": log_omit,
                "log_omit_inputs": log_omit_inputs,
                "log_omit_outputs": log_omit_outputs,
            }
        )
        register()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        """Answer callbacks that a later LangChain or LangGraph may send: quietly, and with nothing."""
        if name.startswith("on_"):
            return _unknown
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    # --- models ---

    @hook
    def on_chat_model_start(
        self, serialized: dict[str, Any] | None, messages: list[list[BaseMessage]], **about: Any
    ) -> None:
        self._start(serialized, "llm", about, lambda: _completion.request(messages, *_of_model(about)))

    @hook
    def on_llm_start(self, serialized: dict[str, Any] | None, prompts: list[str], **about: Any) -> None:
        self._start(serialized, "llm", about, lambda: _completion.text_request(prompts, *_of_model(about)))

    @hook
    def on_llm_new_token(self, token: Any, *, run_id: Any, chunk: Any = None, **_about: Any) -> None:
        run = RUNS.by_key.get(key(run_id))
        if run is not None and (token or _says_something(chunk)):
            run.hear(_render.text(token))

    @hook
    def on_stream_event(self, event: Any, *, run_id: Any, **_about: Any) -> None:
        run = RUNS.by_key.get(key(run_id))
        if run is not None and event["event"] == "content-block-delta":
            run.hear(str(event["delta"].get("text") or ""))

    @hook
    def on_llm_end(self, response: LLMResult, *, run_id: Any, **_about: Any) -> None:
        _end(run_id, lambda _: _completion.answer(response, run_id))

    @hook
    def on_llm_error(self, error: BaseException, *, run_id: Any, **about: Any) -> None:
        def so_far(run: Run) -> Mapping[str, Any]:
            response, said = about.get("response"), {}
            if isinstance(response, LLMResult) and _completion.has_output(response):
                said = _completion.answer(response, run_id)
            return {**said, "content": run.text() or said.get("content")}  # the response may lack the last chunk

        _fail(run_id, error, so_far)

    # --- chains ---

    @hook
    def on_chain_start(self, serialized: dict[str, Any] | None, inputs: Any, **about: Any) -> None:
        kind = about.get("run_type")
        if kind not in _STEP_KINDS:
            named = about.get("name")
            agent = named and (named in _AGENT_NAMES or named == (about.get("metadata") or {}).get("lc_agent_name"))
            kind = "agent" if agent else "chain"
        resumed = type(inputs).__name__ == "Command"
        self._start(serialized, kind, about, lambda: {"inputs": _render.plain(inputs)}, resumed=resumed)

    @hook
    def on_chain_end(self, outputs: Any, *, run_id: Any, **about: Any) -> None:
        def told(run: Run) -> Mapping[str, Any]:
            if _is_passed_on(run):
                return _NOTHING
            return {"output": _render.plain(outputs), "inputs": _render.plain(about.get("inputs"))}

        _end(run_id, told, streamed="inputs" in about)

    @hook
    def on_chain_error(self, error: BaseException, *, run_id: Any, **about: Any) -> None:
        _fail(run_id, error, lambda run: {} if _is_passed_on(run) else {"inputs": _render.plain(about.get("inputs"))})

    # --- tools and retrievers ---

    @hook
    def on_tool_start(self, serialized: dict[str, Any] | None, input_str: str, **about: Any) -> None:
        inputs = about.get("inputs")
        given = input_str if inputs is None else inputs
        self._start(serialized, "tool", about, lambda: {"inputs": _render.plain(given)})

    @hook
    def on_tool_end(self, output: Any, *, run_id: Any, **_about: Any) -> None:
        said = output.__dict__.get("content") if isinstance(output, BaseMessage) else output
        _end(run_id, lambda _: {"output": _render.plain(said)})

    @hook
    def on_tool_error(self, error: BaseException, *, run_id: Any, **_about: Any) -> None:
        _fail(run_id, error)

    @hook
    def on_retriever_start(self, serialized: dict[str, Any] | None, query: str, **about: Any) -> None:
        self._start(serialized, "retriever", about, lambda: {"inputs": {"query": query}})

    @hook
    def on_retriever_end(self, documents: Sequence[Document], *, run_id: Any, **_about: Any) -> None:
        _end(run_id, lambda _: {"output": [_render.plain(found) for found in documents]})

    @hook
    def on_retriever_error(self, error: BaseException, *, run_id: Any, **_about: Any) -> None:
        _fail(run_id, error)

    # --- what happens while a run is open ---

    @hook
    def on_agent_action(self, action: Any, *, run_id: Any, **_about: Any) -> None:
        _event(run_id, "agent.action", {"tool": str(action.tool)})

    @hook
    def on_agent_finish(self, finish: Any, *, run_id: Any, **_about: Any) -> None:  # noqa: ARG002 - LangChain's name
        _event(run_id, "agent.finish", {})

    @hook
    def on_retry(self, retry_state: Any, *, run_id: Any, **_about: Any) -> None:
        _event(run_id, "retry", {"attempt": int(retry_state.attempt_number)})

    @hook
    def on_custom_event(self, name: str, data: Any, *, run_id: Any, **_about: Any) -> None:
        _event(run_id, name, {"data": _render.plain(data)})

    @hook
    def on_text(self, text: str, **_about: Any) -> None:
        """Nothing: it repeats prompts and answers, which are recorded where they belong."""

    @hook
    def on_interrupt(self, event: Any, **_about: Any) -> None:
        _event(getattr(event, "run_id", None), "interrupt", {})

    @hook
    def on_resume(self, event: Any, **_about: Any) -> None:
        _event(getattr(event, "run_id", None), "resume", {})

    # --- how a run begins ---

    def _start(
        self,
        serialized: Mapping[str, Any] | None,
        kind: str,
        about: Mapping[str, Any],
        recorded: Callable[[], dict[str, Any]],
        *,
        resumed: bool = False,
    ) -> None:
        """Open a run. Its fields are asked for once it is open, so that a defect in them costs them and not the run.

        A graph that is `resumed` goes on in the trace in which it was interrupted, in the same process and session.
        """
        run_key = key(about["run_id"])
        if run_key in RUNS.by_key:
            return  # another handler of ours was first: one run, one record
        above, context, tags = about.get("parent_run_id"), get_current(), about.get("tags")
        parent = RUNS.by_key.get(key(above)) if above is not None else None
        if parent is not None and tags and _HIDDEN_TAG in tags:
            RUNS.open(run_key, Run(parent.call, parent, context, hidden=True))
            return
        metadata = about.get("metadata") or _NOTHING
        role = OUTERMOST if parent is None else MODEL if kind == "llm" else STEP
        arguments = self._options.arguments(metadata, role)
        if resumed and parent is None and (waiting := RUNS.resume(arguments.get("session_id"))):
            arguments = {"trace_id": waiting, **arguments}
        call = start_call(
            _name(serialized, about, kind),
            kind=kind,
            scope=SCOPE,
            parent=INHERIT if parent is None else parent.parent_of_next(context),
            **arguments,
        )
        RUNS.open(run_key, Run(call, parent, context))
        fields = recorded()
        if call.omit and parent is not None:
            fields = _without_passed_on(fields)
        # Labels of a config are not given to `start_call`, where they would be declared and outlive the omit flags: a
        # framework may have filled them from inputs.
        if metadata and (own := copied_metadata(metadata)):
            fields["metadata"] = own
        if tags and (labels := copied_tags(tags)):
            fields["tags"] = labels
        call.update(**fields)


@hook
def _unknown(*_event: Any, **_about: Any) -> None:
    return None


def _is_passed_on(run: Run) -> bool:
    """Tell whether an omit flag on one side must keep both sides of a step out.

    What one step answers is what the next is asked: with outputs omitted, a model's answer would be read from the
    parser's inputs, and with inputs omitted, the question from the prompt's output.
    """
    return bool(run.call.omit) and (run.parent is not None or run.call.kind == "prompt")


def _without_passed_on(recorded: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a step under an omit flag, without what other steps said: its inputs, a model's history."""
    kept = {name: value for name, value in recorded.items() if name != "inputs"}
    if "llm_configuration" in kept:
        asked = [said for said in kept["llm_configuration"]["messages"] if said["role"] not in _ANSWERING_ROLES]
        kept["llm_configuration"] = {**kept["llm_configuration"], "messages": asked}
    return kept


def _name(serialized: Mapping[str, Any] | None, about: Mapping[str, Any], kind: str) -> str:
    named = about.get("name")
    if not named and serialized:
        path = serialized.get("id")
        named = serialized.get("name") or (path[-1] if isinstance(path, list) and path else None)
    return str(named) if named else kind


def _says_something(chunk: Any) -> bool:
    """Tell whether a chunk without text brings a tool call or reasoning: an opening or closing one brings neither."""
    said = getattr(chunk, "message", None)
    return said is not None and bool(said.__dict__.get("tool_call_chunks") or said.__dict__.get("additional_kwargs"))


def _of_model(about: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    return about.get("invocation_params") or _NOTHING, about.get("metadata") or _NOTHING


def _end(run_id: Any, told: Callable[[Run], Mapping[str, Any]], *, streamed: bool = False) -> None:
    """End a run with what it `told`; with less, should that fail.

    When the consumer of a stream closes it, LangChain ends the chain as if it had come to its end; what tells the two
    apart is that a step of it is still open.
    """
    run = RUNS.close(key(run_id))
    if run is None:
        return
    try:
        run.call.update(**told(run))
    finally:
        if streamed and run.open_children:
            run.call.abandon()
        else:
            run.call.end()


def _fail(run_id: Any, error: BaseException, told: Callable[[Run], Mapping[str, Any]] | None = None) -> None:
    """End a run with the error that LangChain reports, unless that error is how a graph steers itself."""
    run = RUNS.close(key(run_id))
    if run is None:
        return
    try:
        if told is not None:
            run.call.update(**told(run))
    finally:
        names = {kind.__name__ for kind in type(error).__mro__}
        if names & _CONTROL_FLOW:
            if "GraphInterrupt" in names:
                RUNS.interrupt(run.call)
            run.call.add_event(type(error).__name__)
            run.call.end()
        else:
            if isinstance(error, (asyncio.CancelledError, KeyboardInterrupt)):
                for below in RUNS.close_below(run):  # LangChain does not tell of a tool that was cancelled
                    below.call.cancel()
            run.call.fail(error)


def _event(run_id: Any, name: str, attributes: Mapping[str, Any]) -> None:
    run = RUNS.by_key.get(key(run_id))
    if run is not None:
        run.call.add_event(name, attributes)
