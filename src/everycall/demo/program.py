"""The program that the demo observes, written with the public API of everycall, as a user would write it.

Each method of `Program` is a step of the demo, and returns what the demo shows. `run` calls them.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import openai
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate

from everycall import current, span, trace
from everycall.client import Completion, CompletionResponse, Parea
from everycall.demo.chat_model import LocalChatModel
from everycall_langchain import CallbackHandler

__all__ = ["PROVIDER", "TEMPLATE", "Program", "StockError"]

PROVIDER = "local"
TEMPLATE = "I want a Hello World program in {{x}}. Using the {{y}} framework."
SEED_INPUTS = {"x": "Golang", "y": "Fiber"}
ANSWER_TOKENS = 48
SHELF = {
    "Fiber": "Fiber is a web framework for Go, built on fasthttp.",
    "Flask": "Flask is a web framework for Python, built on Werkzeug.",
    "Express": "Express is a web framework for Node.js.",
}


class StockError(Exception):
    """The error of the call that fails."""


@dataclass(frozen=True, slots=True)
class Program:
    """The client of the server, the prompt deployed there, and the model that the program calls directly."""

    parea: Parea
    deployment_id: str
    model: str
    base_url: str

    def complete(self) -> CompletionResponse:
        """Request a completion of the deployed prompt, as in Parea's documentation. The server caches it."""
        return self.parea.completion(
            Completion(deployment_id=self.deployment_id, llm_inputs=SEED_INPUTS, metadata={"purpose": "testing"})
        )

    def complete_omitting(self, flag: str) -> CompletionResponse:
        """Request a completion with one of the `log_omit*` flags, without the cache."""
        return self.parea.completion(
            Completion(
                deployment_id=self.deployment_id,
                name=flag,
                llm_inputs={"x": "Python", "y": "Flask"},
                cache=False,
                log_omit=flag == "log_omit",
                log_omit_inputs=flag == "log_omit_inputs",
                log_omit_outputs=flag == "log_omit_outputs",
            )
        )

    def run_chain(self) -> str:
        """Run a LangChain chain of prompt, chat model and parser, with one callback handler."""
        chat_model = LocalChatModel(model=self.model, base_url=self.base_url, max_tokens=ANSWER_TOKENS)
        prompt = ChatPromptTemplate.from_messages([("user", "Say hello to a {language} developer in one sentence.")])
        chain = prompt | chat_model | StrOutputParser()
        return chain.invoke(
            {"language": "Go"}, {"run_name": "LangChain: greet", "callbacks": [CallbackHandler()], "tags": ["demo"]}
        )

    def compare(self) -> str:
        """Run nested traced functions: a retriever, and two concurrent requests to the model."""
        return asyncio.run(_compare(self.model, self.base_url, "Fiber", "Flask"))

    def order(self) -> None:
        """Call a traced tool that raises `StockError`."""
        _order("Rails", 3)


@trace(name="compare frameworks", trace_name="nested and async")
async def _compare(model: str, base_url: str, left: str, right: str) -> str:
    notes = _look_up([left, right])
    async with openai.AsyncOpenAI(base_url=base_url, api_key="local", max_retries=0) as client:
        answers = await asyncio.gather(*(_ask(client, model, f"In one short sentence: {note}") for note in notes))
    with span("join answers", kind="parser", inputs={"answers": len(answers)}) as call:
        joined = "\n".join(answers)
        call.update(output=joined)
    return joined


@trace(name="look up", kind="retriever")
def _look_up(names: list[str]) -> list[str]:
    return [SHELF[name] for name in names]


@trace(name="ask the model", kind="llm")
async def _ask(client: openai.AsyncOpenAI, model: str, question: str) -> str:
    answer = await client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": question}], max_tokens=ANSWER_TOKENS, temperature=0
    )
    current().update(model=answer.model, provider=PROVIDER)
    if answer.usage is not None:
        current().update(input_tokens=answer.usage.prompt_tokens, output_tokens=answer.usage.completion_tokens)
    return answer.choices[0].message.content or ""


@trace(name="order a framework", kind="tool", trace_name="a call that fails")
def _order(name: str, count: int) -> dict[str, Any]:
    if name not in SHELF:
        raise StockError(f"{name} is out of stock, {count} ordered")
    return {"ordered": name, "count": count}
