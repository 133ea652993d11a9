"""A wrapped Anthropic client: plain answers and streams are recorded, below the function that asks for them.

Needs `everycall serve` running, and ANTHROPIC_API_KEY (or ANTHROPIC_BASE_URL).
"""

import os

import anthropic

import everycall
import everycall_anthropic

client = everycall_anthropic.wrap(anthropic.Anthropic(), session_id="s-1", tags=["example"])
model = os.environ.get("ANTHROPIC_MODEL", "claude-sonnet-5")
system = [{"type": "text", "text": "Answer in one sentence.", "cache_control": {"type": "ephemeral"}}]


def ask(question: str) -> str:
    messages = [{"role": "user", "content": question}]
    answer = client.messages.create(model=model, max_tokens=500, system=system, messages=messages)
    return "".join(block.text for block in answer.content if block.type == "text")


def tell(question: str) -> str:
    messages = [{"role": "user", "content": question}]
    with client.messages.stream(model=model, max_tokens=500, system=system, messages=messages) as stream:
        return "".join(stream.text_stream)


@everycall.trace(trace_name="two questions")
def both(thing: str) -> list[str]:
    return [ask(f"What is {thing}?"), tell(f"Who needs {thing}?")]


print(*both("a spool"), sep="\n")
print(everycall.flush())
