"""Shared by the tests: captured records, spans of a program's own OpenTelemetry SDK, and models with scripted answers.

A test is written once for every way to run a chain: `run` is each of them in turn.
"""

from __future__ import annotations

import asyncio
import os
import warnings
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, BaseLLM
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult, Generation, LLMResult
from opentelemetry import context as otel_context
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from everycall.record import Record, to_json
from everycall.testing import capture_records
from everycall_testkit.provider import FakeProvider


@pytest.fixture(autouse=True)
def clean_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove settings of the environment that would configure a test, a model or a client."""
    for name in list(os.environ):
        if name.startswith(("EVERYCALL_", "OTEL_", "OPENAI_", "LANGCHAIN_", "LANGSMITH_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("EVERYCALL_HOME", str(tmp_path / "home"))


@pytest.fixture(autouse=True)
def nothing_is_left_attached() -> Iterator[None]:
    """Check that a test leaves nothing in OpenTelemetry's context."""
    before = dict(otel_context.get_current())
    yield
    assert dict(otel_context.get_current()) == before


@pytest.fixture
def records() -> Iterator[list[Record]]:
    """Return the list to which every record is added when its call ends, after masks and omission."""
    with capture_records() as captured:
        yield captured


class Tree:
    """Records by name, with their parents."""

    def __init__(self, records: list[Record]) -> None:
        self.records = records

    def one(self, name: str) -> Record:
        matches = [record for record in self.records if record.name == name]
        assert len(matches) == 1, f"{len(matches)} records named {name!r} among {[r.name for r in self.records]}"
        return matches[0]

    def named(self, name: str) -> list[Record]:
        return [record for record in self.records if record.name == name]

    def of_kind(self, kind: str) -> list[Record]:
        return [record for record in self.records if record.kind == kind]

    def parent_of(self, record: Record) -> Record | None:
        matches = [other for other in self.records if other.inference_id == record.parent_id]
        return matches[0] if matches else None

    def path(self, record: Record) -> list[str]:
        names = [record.name]
        above = self.parent_of(record)
        while above is not None:
            names.append(above.name)
            above = self.parent_of(above)
        return names[::-1]

    @property
    def roots(self) -> list[Record]:
        return [record for record in self.records if self.parent_of(record) is None]


@pytest.fixture
def tree(records: list[Record]) -> Tree:
    return Tree(records)


@pytest.fixture
def value() -> Callable[[Any], Any]:
    """Return a reader of a record's JSON fields."""
    return to_json


class Spans:
    """Spans of the program's own OpenTelemetry SDK, such as those of an instrumented HTTP client."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = provider.get_tracer("the program's own")

    @property
    def finished(self) -> tuple[ReadableSpan, ...]:
        return self.exporter.get_finished_spans()

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.finished if span.name == name]


@pytest.fixture
def spans() -> Spans:
    return Spans()


@pytest.fixture
def is_below() -> Callable[[ReadableSpan, Record], bool]:
    """Return a function that tells whether the parent of a program's span is a record's call."""

    def tell(span: ReadableSpan, record: Record) -> bool:
        assert span.context is not None
        parent = span.parent
        if parent is None or span.context.trace_id != parent.trace_id:
            return False
        return f"{parent.trace_id:032x}-{parent.span_id:016x}" == record.inference_id

    return tell


async def _invoke(chain: Any, inputs: Any, config: Any) -> None:
    chain.invoke(inputs, config)


async def _batch(chain: Any, inputs: Any, config: Any) -> None:
    chain.batch([inputs], config)


async def _stream(chain: Any, inputs: Any, config: Any) -> None:
    list(chain.stream(inputs, config))


async def _ainvoke(chain: Any, inputs: Any, config: Any) -> None:
    await chain.ainvoke(inputs, config)


async def _abatch(chain: Any, inputs: Any, config: Any) -> None:
    await chain.abatch([inputs], config)


async def _astream(chain: Any, inputs: Any, config: Any) -> None:
    assert [piece async for piece in chain.astream(inputs, config)]


async def _events(chain: Any, inputs: Any, config: Any, version: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the first version is deprecated, and works
        assert [event async for event in chain.astream_events(inputs, config, version=version)]


async def _events_v1(chain: Any, inputs: Any, config: Any) -> None:
    await _events(chain, inputs, config, "v1")


async def _events_v2(chain: Any, inputs: Any, config: Any) -> None:
    await _events(chain, inputs, config, "v2")


WAYS: dict[str, Callable[[Any, Any, Any], Awaitable[None]]] = {
    "invoke": _invoke,
    "batch": _batch,
    "stream": _stream,
    "ainvoke": _ainvoke,
    "abatch": _abatch,
    "astream": _astream,
    "events v1": _events_v1,
    "events v2": _events_v2,
}


@pytest.fixture(params=list(WAYS))
def run(request: pytest.FixtureRequest) -> Callable[[Any, Any, Any], Awaitable[None]]:
    """Return each of LangChain's ways to run something to completion: `await run(chain, inputs, config)`."""
    return WAYS[request.param]


@pytest.fixture(params=[name for name in WAYS if name not in ("invoke", "batch", "stream")])
def run_async(request: pytest.FixtureRequest) -> Callable[[Any, Any, Any], Awaitable[None]]:
    """Return each of the ways that run on the event loop."""
    return WAYS[request.param]


@pytest.fixture
def provider() -> Iterator[Any]:
    """A started fake provider: a real server on loopback."""
    with FakeProvider() as started:
        yield started


class ScriptedChat(BaseChatModel):
    """Answers with copies of its messages, one after the other; streams each word of a text as a chunk."""

    answers: list[AIMessage] = []
    llm_output: dict[str, Any] = {}
    fails: Any = None
    fails_after: int = -1
    waits: asyncio.Event | None = None  # set when the model is asked, which then waits to be cancelled
    usage_first: bool = False
    choices: int = 1
    model_name: str | None = "claude-test-1"
    provider: str = "anthropic"
    temperature: float = 0.25
    api_key: str = "sk-never-recorded"
    calls: list[int] = []

    @property
    def _llm_type(self) -> str:
        return "scripted"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"model": self.model_name, "temperature": self.temperature, "api_key": self.api_key}

    def _get_ls_params(self, stop: Any = None, **kwargs: Any) -> Any:
        params = super()._get_ls_params(stop=stop, **kwargs)
        params["ls_provider"] = self.provider
        return params

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self.bind(tools=[{"type": "function", "function": {"name": each.name}} for each in tools], **kwargs)

    def _next(self) -> AIMessage:
        self.calls.append(1)
        return self.answers[(len(self.calls) - 1) % len(self.answers)].model_copy()

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: Any = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **_: Any,
    ) -> ChatResult:
        if self.fails is not None:
            raise self.fails
        choices = [ChatGeneration(message=self._next()) for _ in range(self.choices)]
        return ChatResult(generations=choices, llm_output=self.llm_output)

    async def _agenerate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        if self.waits is not None:
            self.waits.set()
            await asyncio.Event().wait()
        return self._generate(messages, stop, None, **kwargs)

    def _stream(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **_: Any
    ) -> Iterator[ChatGenerationChunk]:
        answer = self._next()
        words = str(answer.content).split(" ")
        for number, word in enumerate(words):
            if number == self.fails_after:
                raise self.fails
            last = number == len(words) - 1
            has_usage = number == 0 if self.usage_first else last
            yield ChatGenerationChunk(
                message=AIMessageChunk(
                    content=word if last else word + " ",
                    tool_calls=answer.tool_calls if last else [],
                    usage_metadata=answer.usage_metadata if has_usage else None,
                    response_metadata=answer.response_metadata if last else {},
                )
            )


class ScriptedText(BaseLLM):
    """A text model with OpenAI's old report of tokens."""

    model_name: str = "davinci-test"

    @property
    def _llm_type(self) -> str:
        return "scripted-text"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"model_name": self.model_name}

    def _generate(self, prompts: list[str], stop: Any = None, run_manager: Any = None, **_: Any) -> LLMResult:
        report = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
        return LLMResult(
            generations=[
                [Generation(text=f"text for {prompt}", generation_info={"finish_reason": "stop"})] for prompt in prompts
            ],
            llm_output={"token_usage": report, "model_name": "davinci-test-001"},
        )


@pytest.fixture
def chat() -> Callable[..., ScriptedChat]:
    """Return a maker of chat models: `chat("text", ...)` or `chat(AIMessage(...), ...)`."""

    def make(*answers: str | AIMessage, **settings: Any) -> ScriptedChat:
        messages = [AIMessage(content=answer) if isinstance(answer, str) else answer for answer in answers or ("fine",)]
        return ScriptedChat(answers=messages, calls=[], **settings)

    return make


@pytest.fixture
def text_model() -> ScriptedText:
    return ScriptedText()
