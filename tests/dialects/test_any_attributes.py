"""Any attributes whatever become a record that can be stored: names that readers know, with values they do not expect.

The values are drawn from seeded random numbers, so each run tries the same ones.
"""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest

import everycall.dialects
from everycall.dialects import Event, LogEvent, Scope, Span, join, join_halves, translate, translate_logs
from everycall.server.store.rows import prepare

SPANS = 600
SOURCE = Path(everycall.dialects.__file__).parent
NAMES = sorted(
    {
        name + end
        for file in SOURCE.glob("*.py")
        for name in re.findall(r'"([a-z][A-Za-z_]*\.[A-Za-z_.0-9]*)"', file.read_text(encoding="utf-8"))
        for end in (
            ("",) if not name.endswith(".") else ("0", "a", "0.content", "0.role", "0.message.content", "0.b.c")
        )
    }
)
"""The attributes that the readers ask for."""
MEMBERS = [
    "role",
    "content",
    "type",
    "text",
    "tool_calls",
    "function",
    "name",
    "arguments",
    "id",
    "parts",
    "messages",
    "generations",
    "kwargs",
    "data",
    "message",
    "choices",
    "output",
    "input",
    "usage",
    "finish_reason",
    "system",
    "tool_call",
    "result",
    "response",
    "reasoning",
    "document",
    "lc",
    "inputs",
    "query",
    "outputs",
    "total",
    "prompt_tokens",
    "input_tokens",
    "contents",
    "functionCall",
    "toolUse",
    "toolResult",
    "json",
    "embedding",
    "vector",
    "candidates",
    "model",
    "tools",
    "response_metadata",
    "embeddings",
    "image",
    "url",
    "meta",
    "replies",
    "config",
    "usage_metadata",
]
WORDS = [
    "",
    "x",
    "[",
    "{",
    "user",
    "assistant",
    "chat",
    "LLM",
    "AGENT",
    "TOOL",
    "EMBEDDING",
    "RETRIEVER",
    "function_call",
    "reasoning",
    "text",
    "tool_use",
    "tool_result",
    "embeddings",
    "execute_tool",
    "0.5",
    "-1",
    "NaN",
    "[Scrubbed due to",
    "human",
    "tool",
    "generation",
    "CHAT_MODEL",
    '"a"',
    "null",
    "😀",
    "image",
    "2026-01-01",
    "2026-01-01T00:00:00Z",
    "ai.generateText.doGenerate",
    "ai.embed.doEmbed",
    "ai.toolCall",
    "log",
    "response",
]
SCOPES = [
    "langfuse-sdk",
    "openinference.instrumentation.openai",
    "pydantic-ai",
    "logfire.openai",
    "openlit.otel.tracing",
    "strands.telemetry",
    "openlit.instrumentation.anthropic",
    "gcp.vertex.agent",
    "autogen-core",
    "com.anthropic.sdk.python",
    "gen_ai",
    "ai",
    "langsmith",
    "lmnr.tracer",
    "opentelemetry.instrumentation.openai",
    "haystack",
]
NUMBERS = (0, 1, -1, 2**63, 2**70, 1.5, float("nan"), float("inf"), True, False, None)
EVENTS = [
    "exception",
    "gen_ai.choice",
    "gen_ai.user.message",
    "gen_ai.client.inference.operation.details",
    "gen_ai.content.prompt",
]


def value(chance: random.Random, depth: int = 0) -> Any:
    """Return a value of any kind."""
    turn = chance.randrange(12)
    if turn < 4 or depth > 4:
        return chance.choice(WORDS)
    if turn == 4:
        return chance.choice(NUMBERS)
    if turn < 7:
        return [value(chance, depth + 1) for _ in range(chance.randrange(4))]
    if turn < 10:
        return {chance.choice(MEMBERS): value(chance, depth + 1) for _ in range(chance.randrange(5))}
    text = json.dumps(value(chance, depth + 1))
    return text if turn == 10 else json.dumps(text)


def attributes(chance: random.Random, most: int) -> dict[str, Any]:
    """Return attributes with names that the readers know."""
    return {chance.choice(NAMES): value(chance) for _ in range(chance.randrange(most))}


@pytest.mark.parametrize("seed", range(8))
def test_every_span_and_log_record_can_be_stored(seed: int) -> None:
    """Nothing raises, neither alone nor joined."""
    chance = random.Random(seed)
    for number in range(SPANS):
        events = tuple(
            Event(chance.choice(EVENTS), chance.choice([0, 2**64 - 1]), attributes(chance, 4))
            for _ in range(chance.randrange(3))
        )
        scope = Scope(chance.choice(SCOPES), "1", {}, {"telemetry.sdk.name": value(chance)})
        span = Span(
            f"{number:032x}",
            "b" * 16,
            None,
            chance.choice(WORDS),
            scope,
            1,
            2,
            attributes(chance, 12),
            events,
            status_code=chance.choice([0, 1, 2, 7]),
        )
        record = translate(span)
        assert prepare("p", record).dialect
        log = LogEvent(chance.choice(EVENTS), scope, span.trace_id, "b" * 16, 5, value(chance), span.attributes)
        (part,) = translate_logs([log, log])
        for whole in (part, join(record, part), join(part, record), join_halves(record, part)):
            assert prepare("p", whole).record.trace_id == span.trace_id
