"""A completion through the server: the provider's key stays there, and the same question is answered from its cache.

The server needs a provider: start `everycall serve` with OPENAI_API_KEY set.
"""

import asyncio
import os

from everycall import Completion, LLMInputs, Message, Parea, trace

completion = Completion(
    llm_inputs={"x": "Golang", "y": "Fiber"},
    llm_configuration=LLMInputs(
        model=os.environ.get("MODEL", "gpt-4o-mini"),
        provider="openai",
        messages=[Message("I want a Hello World program in {{x}}. Using the {{y}} framework.")],
    ),
    metadata={"purpose": "testing"},
)


@trace(trace_name="hello world")
def ask_twice(parea: Parea) -> list[bool]:
    first, second = parea.completion(completion), parea.completion(completion)
    print(first.content)
    print(first.input_tokens, "tokens in,", first.output_tokens, "out")
    return [first.cache_hit, second.cache_hit]


async def ask_async(parea: Parea) -> str:
    return (await parea.acompletion(completion)).status


with Parea() as p:
    print("from the cache:", ask_twice(p))
    print("async:", asyncio.run(ask_async(p)))
