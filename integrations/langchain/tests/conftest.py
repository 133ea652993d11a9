"""What the tests share: records as they pass the chain, and models that answer from a script."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, BaseLLM
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult, Generation, LLMResult

from everycall.record import Record, to_json
from everycall.testing import capture_records


@pytest.fixture
def records() -> Iterator[list[Record]]:
    """Return the list that every record joins when its call ends, having passed the whole chain."""
    with capture_records() as captured:
        yield captured


class Tree:
    """Records by name, and who is below whom."""

    def __init__(self, records: list[Record]) -> None:
        self.records = records

    def one(self, name: str) -> Record:
        found = [record for record in self.records if record.name == name]
        assert len(found) == 1, f"{len(found)} records named {name!r} among {[r.name for r in self.records]}"
        return found[0]

    def named(self, name: str) -> list[Record]:
        return [record for record in self.records if record.name == name]

    def of_kind(self, kind: str) -> list[Record]:
        return [record for record in self.records if record.kind == kind]

    def parent_of(self, record: Record) -> Record | None:
        found = [other for other in self.records if other.inference_id == record.parent_id]
        return found[0] if found else None

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


class ScriptedChat(BaseChatModel):
    """Answers with copies of its messages, one after the other; streams each word of a text as a chunk."""

    answers: list[AIMessage] = []
    llm_output: dict[str, Any] = {}
    fails: Any = None
    fails_after: int = -1
    waits: bool = False
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
        if self.waits:
            await asyncio.sleep(60)
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
            yield ChatGenerationChunk(
                message=AIMessageChunk(
                    content=word if last else word + " ",
                    usage_metadata=answer.usage_metadata if last else None,
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
        made = [AIMessage(content=answer) if isinstance(answer, str) else answer for answer in answers or ("fine",)]
        return ScriptedChat(answers=made, calls=[], **settings)

    return make


@pytest.fixture
def text_model() -> ScriptedText:
    return ScriptedText()
