"""A traced function that asks a model. Needs `everycall serve` running, and OPENAI_API_KEY (or OPENAI_BASE_URL)."""

import os

import openai

import everycall
from everycall import current, trace

client = openai.OpenAI()
model = os.environ.get("MODEL", "gpt-4o-mini")


@trace(kind="llm")
def ask(question: str) -> str:
    answer = client.chat.completions.create(model=model, messages=[{"role": "user", "content": question}])
    current().update(
        model=answer.model,
        provider="openai",
        input_tokens=answer.usage.prompt_tokens,
        output_tokens=answer.usage.completion_tokens,
    )
    return answer.choices[0].message.content


@trace(trace_name="quickstart", tags=["example"])
def plan(goal: str) -> str:
    return ask(f"Name the first step of this plan: {goal}")


print(plan("bake bread"))
print(everycall.flush())
