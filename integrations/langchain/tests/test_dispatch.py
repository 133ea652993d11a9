"""How LangChain calls the handler: without threads or loops, without effect on other handlers or exceptions."""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
from typing import Any

import pytest
from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler
from langchain_core.runnables import RunnableLambda

from everycall import _guard
from everycall.record import Record
from everycall_langchain import CallbackHandler, _completion, instrument, uninstrument
from everycall_langchain._hook import hook


class Listener(BaseCallbackHandler):
    def __init__(self) -> None:
        self.heard: list[str] = []

    def on_llm_start(self, *args: Any, **details: Any) -> None:
        self.heard.append("start")

    def on_llm_end(self, *args: Any, **details: Any) -> None:
        self.heard.append("end")


class AsyncListener(AsyncCallbackHandler):
    def __init__(self) -> None:
        self.heard: list[str] = []

    async def on_llm_start(self, *args: Any, **details: Any) -> None:
        self.heard.append("start")

    async def on_llm_end(self, *args: Any, **details: Any) -> None:
        self.heard.append("end")


@pytest.mark.parametrize("listener", [Listener, AsyncListener])
async def test_other_handlers_are_called_for_text_models(listener: Any, text_model: Any, tree: Any) -> None:
    other = listener()
    await text_model.ainvoke("hi", {"callbacks": [CallbackHandler(), other]})
    await text_model.ainvoke("hi", {"callbacks": [other, CallbackHandler()]})
    assert other.heard == ["start", "end"] * 2
    assert len(tree.named("ScriptedText")) == 2


class Threads(CallbackHandler):
    """Notes the threads in which its callbacks run."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[int] = set()

    @hook
    def on_chain_start(self, *args: Any, **details: Any) -> Any:
        self.seen.add(threading.get_ident())
        super().on_chain_start(*args, **details)

    @hook
    def on_llm_end(self, *args: Any, **details: Any) -> Any:
        self.seen.add(threading.get_ident())
        super().on_llm_end(*args, **details)


async def test_callbacks_of_asynchronous_runs_stay_in_the_loops_thread(chat: Any, tree: Any) -> None:
    handler = Threads()
    await (RunnableLambda(lambda x: x) | chat()).ainvoke("hi", {"callbacks": [handler]})
    assert len(tree.records) == 3
    assert handler.seen == {threading.get_ident()}


def test_hooks_are_coroutine_functions_whose_work_is_done_at_the_call() -> None:
    handler = CallbackHandler()
    for name in ("on_chain_start", "on_llm_new_token", "on_tool_error", "on_not_yet_invented"):
        assert inspect.iscoroutinefunction(getattr(handler, name)), name
    assert not asyncio.iscoroutine(handler.on_text("x"))


async def test_a_synchronous_run_inside_a_running_loop(chat: Any, tree: Any) -> None:
    (RunnableLambda(lambda x: x) | chat()).invoke("hi", {"callbacks": [CallbackHandler()]})
    assert len(tree.records) == 3


@pytest.mark.parametrize("place", ["request", "response_fields"])
def test_a_defect_in_the_handler_loses_a_field_and_not_the_chain(
    place: str, chat: Any, tree: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*args: Any) -> Any:
        raise RuntimeError("defect")

    monkeypatch.setattr(_guard, "_warned_at", {})
    monkeypatch.setattr(_completion, place, broken)
    with caplog.at_level(logging.WARNING):
        assert chat("fine").invoke("hi", {"callbacks": [CallbackHandler()]}).content == "fine"
    assert tree.one("ScriptedChat").status == "success"
    assert [record.name for record in caplog.records] == ["everycall"]
    assert "RuntimeError" in caplog.text
    assert "defect" not in caplog.text.replace("test_a_defect", "")


# --- instrument() ---


@pytest.fixture
def instrumented() -> Any:
    instrument(tags=["everywhere"], trace_name="global")
    yield
    uninstrument()


def _names(records: list[Record]) -> list[str]:
    return sorted(record.name for record in records)


async def test_instrument_records_every_run(instrumented: Any, chat: Any, records: list[Record]) -> None:
    chain = RunnableLambda(lambda x: x, name="step") | chat()
    chain.invoke("hi")
    await chain.ainvoke("hi")
    thread = threading.Thread(target=chain.invoke, args=("hi",))
    thread.start()
    thread.join()
    assert _names(records) == sorted(["RunnableSequence", "ScriptedChat", "step"] * 3)
    assert {(record.tags[0], record.trace_name) for record in records} == {("everywhere", "global")}


def test_an_explicit_handler_replaces_the_instrumented_one(instrumented: Any, chat: Any, records: list[Record]) -> None:
    chat().invoke("hi", {"callbacks": [CallbackHandler(trace_name="own")]})
    assert [record.trace_name for record in records] == ["own"]


def test_other_handlers_do_not_disable_instrument(instrumented: Any, text_model: Any, records: list[Record]) -> None:
    other = Listener()
    text_model.invoke("hi", {"callbacks": [other]})
    assert other.heard == ["start", "end"]
    assert len(records) == 1


def test_instrument_again_replaces_the_options(instrumented: Any, chat: Any, records: list[Record]) -> None:
    instrument(trace_name="second")
    chat().invoke("hi")
    assert [record.trace_name for record in records] == ["second"]


def test_uninstrument(chat: Any, records: list[Record]) -> None:
    instrument()
    uninstrument()
    chat().invoke("hi")
    assert records == []
