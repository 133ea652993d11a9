"""The callback handler: it turns LangChain's events into calls. LangChain calls it in the thread of the run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.messages import BaseMessage
from langchain_core.outputs import LLMResult

from everycall.integration import report
from everycall_langchain import _completion, _graphs, _lifecycle, _render
from everycall_langchain._current import register
from everycall_langchain._hook import DONE, Done, guarded_hook, hook
from everycall_langchain._lifecycle import MODEL
from everycall_langchain._options import Options
from everycall_langchain._runs import RUNS, Run, key

__all__ = ["CallbackHandler"]

_AGENT_NAMES: Final = frozenset({"AgentExecutor"})
_STEP_KINDS: Final = frozenset({"prompt", "parser"})
_EMPTY: Final[Mapping[str, Any]] = {}
_FREQUENT: Final = ("on_chain_start", "on_chain_end", "on_chat_model_start", "on_llm_end", "on_llm_new_token",
                    "on_tool_start", "on_tool_end")  # fmt: skip
_OWN_MEMBERS: Final = frozenset({*_FREQUENT, "_keywords", "_options", "_is_graph_handler"})
"""The members of a handler that are made anew when it is copied."""


class CallbackHandler(BaseCallbackHandler):
    """Records each run of a chain, model, tool or retriever as a call, for `config={"callbacks": [CallbackHandler()]}`.

    - `trace_id`, `trace_name`, `target`: for the outermost run. `deployment_id`: for it and for models.
    - `end_user_identifier`, `session_id`, `tags`, `metadata`: for every run.
    - `log_omit`, `log_omit_inputs`, `log_omit_outputs`: leave out the records, or one side of them.

    A run's `config["metadata"]` may have the same names (and `thread_id` for `session_id`). Its values win; omit flags
    add up. The rest of that metadata and the tags are recorded, unless an omit flag holds.

    One handler serves any number of runs at a time, synchronous and asynchronous, in any thread: it holds only its
    options. A run's parent is the run that LangChain names. What a user's code opens inside a step (`@trace`, `span()`,
    a wrapped client, another chain) finds that step through LangChain's own context variable. An outermost run is below
    the call that is current where the chain starts.

    No exception of the handler reaches LangChain. `run_inline` stays False: with an inline handler, LangChain does not
    call `on_llm_start` of a user's other handlers. The callbacks do not wait for a thread either; see `_hook`.
    """

    raise_error = False
    run_inline = False
    _is_graph_handler = False
    # LangChain reads these at each event. In its base class they are properties, which take a call each.
    ignore_chain = ignore_llm = ignore_chat_model = False

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
        self._begin_listening(
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

    def _begin_listening(self, keywords: Mapping[str, Any]) -> None:
        self._keywords = keywords
        self._options = Options(keywords)
        for name in _FREQUENT:  # bound once, because LangChain reads the method at each event
            self.__dict__[name] = getattr(self, name)
        register()

    def __reduce__(self) -> tuple[Any, ...]:
        """Let a handler be copied, and sent to the workers of Ray, Dask or joblib: with its options, not its runs."""
        members = {name: value for name, value in self.__dict__.items() if name not in _OWN_MEMBERS}
        return _restore, (_graphs.class_without_graphs(type(self)), self._keywords, members)

    def _become_graph_handler(self) -> None:
        if _graphs.LANGGRAPH in sys.modules:
            _graphs.as_graph_handler(self)
            self._is_graph_handler = True

    def __getattr__(self, name: str) -> Callable[..., Any]:
        """Return a callback that does nothing, for events that a later LangChain or LangGraph may have."""
        if name.startswith("on_"):
            return _unknown_event
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    # --- models ---

    @guarded_hook
    def on_chat_model_start(
        self,
        serialized: dict[str, Any] | None,
        messages: list[list[BaseMessage]],
        *,
        run_id: Any,
        parent_run_id: Any = None,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        name: str | None = None,
        invocation_params: Mapping[str, Any] | None = None,
        **_details: Any,
    ) -> Done:
        try:
            run = _lifecycle.begin(
                self._options,
                MODEL,
                name or _lifecycle.name_of(serialized, MODEL),
                run_id,
                parent_run_id,
                tags,
                metadata,
            )
            if run is not None:
                _lifecycle.keep_request(
                    run, _completion.request(messages, invocation_params or _EMPTY, metadata or _EMPTY)
                )
        except Exception as error:  # noqa: BLE001 - the guard
            report("on_chat_model_start", error)
        return DONE

    @hook
    def on_llm_start(
        self,
        serialized: dict[str, Any] | None,
        prompts: list[str],
        *,
        run_id: Any,
        parent_run_id: Any = None,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        name: str | None = None,
        invocation_params: Mapping[str, Any] | None = None,
        **_details: Any,
    ) -> None:
        name = name or _lifecycle.name_of(serialized, MODEL)
        run = _lifecycle.begin(self._options, MODEL, name, run_id, parent_run_id, tags, metadata)
        if run is not None:
            request = _completion.text_request(prompts, invocation_params or _EMPTY, metadata or _EMPTY)
            _lifecycle.keep_request(run, request)

    @hook
    def on_llm_new_token(self, token: Any, *, run_id: Any, chunk: Any = None, **_details: Any) -> None:
        run = RUNS.by_key.get(key(run_id))
        if run is not None and (token or _has_output(chunk)):
            run.add_text(_render.text(token))

    @hook
    def on_stream_event(self, event: Any, *, run_id: Any, **_details: Any) -> None:
        run = RUNS.by_key.get(key(run_id))
        if run is None:
            return
        if event["event"] == "content-block-start":
            run.begin_block(event.get("index"), event["content"])
        elif event["event"] == "content-block-delta":
            run.add_to_block(event.get("index"), event["delta"])

    @guarded_hook
    def on_llm_end(self, response: LLMResult, *, run_id: Any, **_details: Any) -> Done:
        try:
            run = RUNS.close(run_id.int if type(run_id) is UUID else key(run_id))
            if run is not None:
                try:
                    run.call.set_fields(**_completion.response_fields(response, run_id))
                finally:
                    run.call.end()
        except Exception as error:  # noqa: BLE001 - the guard
            report("on_llm_end", error)
        return DONE

    @hook
    def on_llm_error(self, error: BaseException, *, run_id: Any, **details: Any) -> None:
        def partial_response(run: Run) -> Mapping[str, Any]:
            result, fields = details.get("response"), run.partial_fields()
            if isinstance(result, LLMResult) and _completion.has_output(result):
                # Only the first choices are the model's: LangChain adds one with the details of the error.
                response = LLMResult(generations=result.generations[:1], llm_output=result.llm_output)
                fields = {**fields, **_completion.response_fields(response, run_id)}
            return {**fields, "content": run.text() or fields.get("content")}  # the result may lack the last chunk

        _lifecycle.fail(run_id, error, partial_response)

    # --- chains ---

    @guarded_hook
    def on_chain_start(
        self,
        serialized: dict[str, Any] | None,
        inputs: Any,
        *,
        run_id: Any,
        parent_run_id: Any = None,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        run_type: str | None = None,
        name: str | None = None,
        **_details: Any,
    ) -> Done:
        try:
            if parent_run_id is None and not self._is_graph_handler:
                self._become_graph_handler()
            if run_type in _STEP_KINDS:
                kind = str(run_type)
            else:
                is_agent = name in _AGENT_NAMES or (metadata and name and name == metadata.get("lc_agent_name"))
                kind = "agent" if is_agent else "chain"
            run = _lifecycle.begin(
                self._options,
                kind,
                name or _lifecycle.name_of(serialized, kind),
                run_id,
                parent_run_id,
                tags,
                metadata,
                parent_run_id is None and _graphs.is_resumption(inputs),
            )
            if run is not None and not (run.call.omit and run.parent is not None):
                _lifecycle.keep_inputs(run, inputs)
        except Exception as error:  # noqa: BLE001 - the guard
            report("on_chain_start", error)
        return DONE

    @guarded_hook
    def on_chain_end(self, outputs: Any, *, run_id: Any, inputs: Any = _lifecycle.MISSING, **_details: Any) -> Done:
        try:
            run = RUNS.close(run_id.int if type(run_id) is UUID else key(run_id))
            if run is not None:
                if inputs is _lifecycle.MISSING and not run.call.omit:
                    run.call.returned(outputs, _render.plain)
                else:
                    _lifecycle.end_chain(run, outputs, inputs)
        except Exception as error:  # noqa: BLE001 - the guard
            report("on_chain_end", error)
        return DONE

    @hook
    def on_chain_error(self, error: BaseException, *, run_id: Any, inputs: Any = None, **_details: Any) -> None:
        _lifecycle.fail(
            run_id, error, lambda run: {} if _lifecycle.is_passed_on(run) else {"inputs": _render.plain(inputs)}
        )

    # --- tools and retrievers ---

    @hook
    def on_tool_start(
        self,
        serialized: dict[str, Any] | None,
        input_str: str,
        *,
        run_id: Any,
        parent_run_id: Any = None,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        inputs: dict[str, Any] | None = None,
        name: str | None = None,
        **_details: Any,
    ) -> None:
        name = name or _lifecycle.name_of(serialized, "tool")
        run = _lifecycle.begin(self._options, "tool", name, run_id, parent_run_id, tags, metadata)
        if run is not None and not (run.call.omit and run.parent is not None):
            run.call.keep("inputs", input_str if inputs is None else inputs, _render.plain)

    @hook
    def on_tool_end(self, output: Any, *, run_id: Any, **_details: Any) -> None:
        _lifecycle.end_tool(run_id, output)

    @hook
    def on_tool_error(self, error: BaseException, *, run_id: Any, **_details: Any) -> None:
        _lifecycle.fail(run_id, error)

    @hook
    def on_retriever_start(
        self,
        serialized: dict[str, Any] | None,
        query: str,
        *,
        run_id: Any,
        parent_run_id: Any = None,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        name: str | None = None,
        **_details: Any,
    ) -> None:
        name = name or _lifecycle.name_of(serialized, "retriever")
        run = _lifecycle.begin(self._options, "retriever", name, run_id, parent_run_id, tags, metadata)
        if run is not None and not (run.call.omit and run.parent is not None):
            run.call.keep("inputs", {"query": query})

    @hook
    def on_retriever_end(self, documents: Sequence[Document], *, run_id: Any, **_details: Any) -> None:
        _lifecycle.end(run_id, documents)

    @hook
    def on_retriever_error(self, error: BaseException, *, run_id: Any, **_details: Any) -> None:
        _lifecycle.fail(run_id, error)

    # --- events of a run in progress ---

    @hook
    def on_agent_action(self, action: Any, *, run_id: Any, **_details: Any) -> None:
        _lifecycle.add_event(run_id, "agent.action", {"tool": str(action.tool)})

    @hook
    def on_agent_finish(self, finish: Any, *, run_id: Any, **_details: Any) -> None:  # noqa: ARG002 - LangChain's name
        _lifecycle.add_event(run_id, "agent.finish", {})

    @hook
    def on_retry(self, retry_state: Any, *, run_id: Any, **_details: Any) -> None:
        _lifecycle.add_event(run_id, "retry", {"attempt": int(retry_state.attempt_number)})

    @hook
    def on_custom_event(self, name: str, data: Any, *, run_id: Any, **_details: Any) -> None:
        _lifecycle.add_event(run_id, name, {"data": _render.plain(data)})

    @hook
    def on_text(self, text: str, **_details: Any) -> None:
        """Do nothing: these texts repeat prompts and answers, which are recorded where they belong."""

    @hook
    def on_interrupt(self, event: Any, **_details: Any) -> None:
        _lifecycle.add_interrupt(getattr(event, "run_id", None), getattr(event, "interrupts", ()))

    @hook
    def on_resume(self, event: Any, **_details: Any) -> None:
        _lifecycle.add_event(
            getattr(event, "run_id", None), "resume", {"checkpoint_id": getattr(event, "checkpoint_id", None)}
        )


def _restore(kind: type[CallbackHandler], keywords: Mapping[str, Any], members: Mapping[str, Any]) -> CallbackHandler:
    """Make a handler of this class with these options, and with the members that a subclass has set."""
    handler = kind.__new__(kind)
    BaseCallbackHandler.__init__(handler)
    handler._begin_listening(keywords)
    handler.__dict__.update(members)
    return handler


@hook
def _unknown_event(*_event: Any, **_details: Any) -> None:
    return None


def _has_output(chunk: Any) -> bool:
    """Return whether a chunk without text has a tool call or reasoning. The first and last chunks may have neither."""
    message = getattr(chunk, "message", None)
    if message is None:
        return False
    return bool(message.__dict__.get("tool_call_chunks") or message.__dict__.get("additional_kwargs"))
