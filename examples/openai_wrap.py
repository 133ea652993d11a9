"""A wrapped OpenAI client: plain answers and streams are recorded, below the function that asks for them.

Needs `everycall serve` running, and OPENAI_API_KEY (or OPENAI_BASE_URL).
"""

import os

import openai

import everycall
import everycall_openai

client = everycall_openai.wrap(openai.OpenAI(), session_id="s-1", tags=["example"])
model = os.environ.get("MODEL", "gpt-4o-mini")


def ask(question: str) -> str:
    answer = client.chat.completions.create(model=model, messages=[{"role": "user", "content": question}])
    return answer.choices[0].message.content


def tell(question: str) -> str:
    messages = [{"role": "user", "content": question}]
    with client.chat.completions.create(model=model, messages=messages, stream=True) as stream:
        return "".join(chunk.choices[0].delta.content or "" for chunk in stream)


@everycall.trace(trace_name="two questions")
def both(thing: str) -> list[str]:
    return [ask(f"What is {thing}?"), tell(f"Who needs {thing}?")]


print(*both("a spool"), sep="\n")
print(everycall.flush())
