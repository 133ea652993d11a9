"""Spans beside those of the corpus: other providers, shapes and versions of each vocabulary, field by field.

Each case is a span as its sender writes it, and what a reader of that span would put on the record.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from everycall.dialects import Event, Scope, Span, translate
from everycall.dialects.messages import chat_messages
from everycall.record import to_json

J = json.dumps
CHAT = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "m"}
IMAGE = {"type": "uri", "modality": "image", "uri": "https://x/cat.png"}
WEATHER = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Paris"}}}


def user(text: str) -> dict[str, Any]:
    """Return a message of the user in the record's form."""
    return {"role": "user", "content": text}


def parts(role: str, *content: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return a message in the form of the GenAI conventions."""
    return {"role": role, "parts": list(content), **more}


def text(content: str) -> dict[str, Any]:
    """Return a text part of the GenAI conventions."""
    return {"type": "text", "content": content}


def fields(span: Span) -> dict[str, Any]:
    """Return a span's record as plain values, with the members of its configuration beside its fields."""
    record = translate(span)
    whole = {name: getattr(record, name) for name in record.__struct_fields__}
    for name in ("llm_inputs", "llm_configuration", "inputs", "output", "target", "metadata", "attributes"):
        whole[name] = to_json(whole[name])
    configuration = whole["llm_configuration"] or {}
    whole |= {name: configuration.get(name) for name in ("model_params", "messages", "functions", "function_call")}
    whole["request_model"] = configuration.get("model")
    whole["finish"] = whole["attributes"].get("gen_ai.response.finish_reasons")
    whole["response_id"] = whole["attributes"].get("gen_ai.response.id")
    whole["dialect"] = whole["attributes"]["everycall.dialect"]
    return whole


def span(attributes: dict[str, Any], scope: str = "test", name: str = "span", **more: Any) -> Span:
    """Return a span of 2 seconds."""
    start = 1_790_000_000_000_000_000
    return Span("a" * 32, "b" * 16, None, name, Scope(scope), start, start + 2_000_000_000, attributes, **more)


CASES: dict[str, tuple[Span, dict[str, Any]]] = {
    "gen_ai: structured attributes, several choices, an image, reasoning": (
        span(
            {
                **CHAT,
                "gen_ai.provider.name": "openai",
                "gen_ai.request.choice.count": 2,
                "gen_ai.request.temperature": 0.5,
                "gen_ai.request.reasoning.level": "low",
                "gen_ai.request.stop_sequences": ["END"],
                "gen_ai.system_instructions": [text("Be brief.")],
                "gen_ai.input.messages": [parts("user", text("What is it?"), IMAGE)],
                "gen_ai.output.messages": [
                    parts("assistant", {"type": "reasoning", "content": "Hm."}, text("A cat."), finish_reason="stop"),
                    parts("assistant", text("A dog."), finish_reason="length"),
                ],
                "gen_ai.response.model": "m-1",
                "gen_ai.response.id": "r-1",
                "gen_ai.response.time_to_first_chunk": 0.25,
                "gen_ai.usage.input_tokens": 100,
                "gen_ai.usage.output_tokens": 20,
                "gen_ai.usage.cache_read.input_tokens": 40,
                "gen_ai.usage.cache_write.input_tokens": 10,
                "gen_ai.usage.reasoning.output_tokens": 8,
                "gen_ai.usage.cost.amount": 0.5,
                "gen_ai.usage.cost.currency": "USD",
            }
        ),
        {
            "kind": "llm",
            "provider": "openai",
            "model": "m-1",
            "request_model": "m",
            "model_params": {"n": 2, "temperature": 0.5, "reasoning.level": "low", "stop_sequences": ["END"]},
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": [{"type": "text", "text": "What is it?"}, IMAGE]},
            ],
            "content": "A cat.",
            "output": [
                {"role": "assistant", "content": "A cat.", "reasoning_content": "Hm."},
                {"role": "assistant", "content": "A dog."},
            ],
            "finish": ["stop", "length"],
            "response_id": "r-1",
            "time_to_first_token": 0.25,
            "latency": 2.0,
            "input_tokens": 100,
            "output_tokens": 20,
            "total_tokens": 120,
            "usage": {"cached": 40, "cache_write": 10, "reasoning": 8},
            "cost": 0.5,
            "dialect": "gen_ai",
        },
    ),
    "gen_ai: an answer of tool calls, and the results of tools": (
        span(
            {
                **CHAT,
                "gen_ai.provider.name": "mistral",
                "gen_ai.tool.definitions": J(
                    [{"type": "function", "name": "weather", "parameters": {"type": "object"}}]
                ),
                "gen_ai.input.messages": J(
                    [
                        parts("user", text("Weather?")),
                        parts("assistant", {"type": "tool_call", "id": "c0", "name": "weather", "arguments": "{}"}),
                        parts("tool", {"type": "tool_call_response", "id": "c0", "result": {"sunny": True}}),
                    ]
                ),
                "gen_ai.output.messages": J(
                    [
                        parts(
                            "assistant",
                            {"type": "tool_call", "id": "c1", "name": "weather", "arguments": {"city": "Paris"}},
                            finish_reason="tool_call",
                        )
                    ]
                ),
            }
        ),
        {
            "provider": "mistral_ai",
            "functions": [{"name": "weather", "parameters": {"type": "object"}}],
            "messages": [
                user("Weather?"),
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [{"id": "c0", "type": "function", "function": {"name": "weather", "arguments": {}}}],
                },
                {"role": "tool", "tool_call_id": "c0", "content": '{"sunny":true}'},
            ],
            "content": None,
            "output": {"role": "assistant", "content": None, "tool_calls": [{"id": "c1", **WEATHER}]},
            "finish": ["tool_call"],
            "input_tokens": None,
            "output_tokens": None,
            "total_tokens": None,
            "cost": None,
        },
    ),
    "gen_ai, oldest: numbered attributes with finish reasons and tool calls": (
        span(
            {
                "llm.request.type": "chat",
                "gen_ai.system": "Anthropic",
                "gen_ai.request.model": "claude",
                "gen_ai.prompt.0.role": "system",
                "gen_ai.prompt.0.content": "Be brief.",
                "gen_ai.prompt.1.role": "user",
                "gen_ai.prompt.1.content": "Weather?",
                "gen_ai.completion.0.role": "assistant",
                "gen_ai.completion.0.finish_reason": "tool_use",
                "gen_ai.completion.0.tool_calls.0.id": "c1",
                "gen_ai.completion.0.tool_calls.0.name": "weather",
                "gen_ai.completion.0.tool_calls.0.arguments": J({"city": "Paris"}),
                "gen_ai.usage.prompt_tokens": 50,
                "gen_ai.usage.completion_tokens": 20,
                "gen_ai.usage.cache_read_input_tokens": 40,
                "gen_ai.usage.cache_creation_input_tokens": 20,
                "llm.usage.total_tokens": 70,
            }
        ),
        {
            "kind": "llm",
            "provider": "anthropic",
            "messages": [{"role": "system", "content": "Be brief."}, user("Weather?")],
            "output": {"role": "assistant", "content": None, "tool_calls": [{"id": "c1", **WEATHER}]},
            "finish": ["tool_use"],
            "input_tokens": 110,
            "output_tokens": 20,
            "total_tokens": 130,
            "usage": {"cached": 40, "cache_write": 20},
        },
    ),
    "gen_ai: an embedding, whatever names its request type": (
        span(
            {
                "llm.request.type": "embedding",
                "gen_ai.system": "openai",
                "gen_ai.request.model": "e-1",
                "gen_ai.prompt.0.content": "some text",
                "gen_ai.usage.prompt_tokens": 7,
            }
        ),
        {"kind": "embedding", "inputs": "some text", "input_tokens": 7, "total_tokens": 7, "output_tokens": None},
    ),
    "gen_ai: an operation nobody knows, with an answer": (
        span(
            {
                "gen_ai.operation.name": "converse",
                "gen_ai.provider.name": "aws.bedrock",
                "gen_ai.request.model": "nova",
                "gen_ai.usage.input_tokens": 3,
                "gen_ai.usage.output_tokens": 4,
            }
        ),
        {"kind": "llm", "model": "nova", "provider": "aws.bedrock", "input_tokens": 3, "output_tokens": 4},
    ),
    "gen_ai: an agent's sums are no call": (
        span(
            {
                "gen_ai.operation.name": "invoke_agent",
                "gen_ai.agent.name": "helper",
                "gen_ai.request.model": "m",
                "gen_ai.usage.input_tokens": 300,
                "gen_ai.usage.cost": 0.3,
            }
        ),
        {"kind": "agent", "name": "helper", "model": None, "input_tokens": None, "cost": None},
    ),
    "gen_ai: a workflow by its newest name": (
        span({"gen_ai.operation.name": "invoke_workflow", "gen_ai.agent.name": "flow"}),
        {"kind": "chain", "name": "flow"},
    ),
    "gen_ai: a tool": (
        span(
            {
                "gen_ai.operation.name": "execute_tool",
                "gen_ai.tool.name": "weather",
                "gen_ai.tool.call.id": "c1",
                "gen_ai.tool.call.arguments": {"city": "Paris"},
                "gen_ai.tool.call.result": J({"sunny": True}),
            }
        ),
        {"kind": "tool", "name": "weather", "inputs": {"city": "Paris"}, "output": {"sunny": True}},
    ),
    "gen_ai: retrieval and memory": (
        span(
            {
                "gen_ai.operation.name": "retrieval",
                "gen_ai.retrieval.query.text": "cats",
                "gen_ai.retrieval.documents": J([{"id": "d1", "score": 0.5}]),
            }
        ),
        {"kind": "retriever", "inputs": "cats", "output": [{"id": "d1", "score": 0.5}]},
    ),
    "gen_ai: events of the second generation": (
        span(
            {**CHAT, "gen_ai.system": "az.ai.openai"},
            events=(
                Event("gen_ai.system.message", 1, {"content": "Be brief."}),
                Event("gen_ai.user.message", 2, {"content": "Hi"}),
                Event("gen_ai.choice", 3, {"index": 0, "finish_reason": "stop", "message": J({"content": "Hello"})}),
            ),
        ),
        {
            "provider": "azure.ai.openai",
            "messages": [{"role": "system", "content": "Be brief."}, user("Hi")],
            "content": "Hello",
            "finish": ["stop"],
        },
    ),
    "gen_ai: an error with its class and text": (
        span(
            {**CHAT, "error.type": "RateLimitError"},
            status_code=2,
            status_message="slow down",
            events=(
                Event(
                    "exception", 1, {"exception.type": "openai.RateLimitError", "exception.message": "429: slow down"}
                ),
            ),
        ),
        {"status": "error", "error_type": "openai.RateLimitError", "error": "429: slow down", "content": None},
    ),
    "gen_ai: messages that were cut off are no messages, and not lost": (
        span({**CHAT, "gen_ai.input.messages": '[{"role":"user","parts":[{"type":"te'}),
        {"messages": [user('[{"role":"user","parts":[{"type":"te')]},
    ),
    "openinference: Anthropic with its cache left out of the input": (
        span(
            {
                "openinference.span.kind": "LLM",
                "llm.system": "anthropic",
                "llm.provider": "anthropic",
                "llm.model_name": "claude-1",
                "llm.token_count.prompt": 50,
                "llm.token_count.completion": 20,
                "llm.token_count.total": 70,
                "llm.token_count.prompt_details.cache_read": 40,
                "llm.token_count.prompt_details.cache_write": 20,
                "llm.invocation_parameters": J({"max_tokens": 10, "model": "claude"}),
            },
            "openinference.instrumentation.anthropic",
        ),
        {
            "provider": "anthropic",
            "model": "claude-1",
            "request_model": "claude",
            "model_params": {"max_tokens": 10},
            "input_tokens": 110,
            "total_tokens": 130,
            "usage": {"cached": 40, "cache_write": 20},
        },
    ),
    "openinference: images, tool calls and tools": (
        span(
            {
                "openinference.span.kind": "LLM",
                "llm.system": "openai",
                "llm.input_messages.0.message.role": "user",
                "llm.input_messages.0.message.contents.0.message_content.type": "text",
                "llm.input_messages.0.message.contents.0.message_content.text": "What is it?",
                "llm.input_messages.0.message.contents.1.message_content.type": "image",
                "llm.input_messages.0.message.contents.1.message_content.image.image.url": "https://x/cat.png",
                "llm.output_messages.0.message.role": "assistant",
                "llm.output_messages.0.message.tool_calls.0.tool_call.id": "c1",
                "llm.output_messages.0.message.tool_calls.0.tool_call.function.name": "weather",
                "llm.output_messages.0.message.tool_calls.0.tool_call.function.arguments": J({"city": "Paris"}),
                "llm.tools.0.tool.json_schema": J(
                    {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
                ),
                "llm.finish_reason": "tool_calls",
                "llm.cost.total": 0.25,
            }
        ),
        {
            "dialect": "openinference",
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "What is it?"},
                        {"type": "image_url", "image_url": {"url": "https://x/cat.png"}},
                    ],
                }
            ],
            "output": {"role": "assistant", "content": None, "tool_calls": [{"id": "c1", **WEATHER}]},
            "functions": [{"name": "weather", "parameters": {"type": "object"}}],
            "finish": ["tool_calls"],
            "cost": 0.25,
        },
    ),
    "openinference: several choices and a prompt's template": (
        span(
            {
                "openinference.span.kind": "LLM",
                "llm.output_messages.0.message.role": "assistant",
                "llm.output_messages.0.message.content": "one",
                "llm.output_messages.1.message.role": "assistant",
                "llm.output_messages.1.message.content": "two",
                "llm.prompt_template.variables": J({"city": "Paris"}),
            }
        ),
        {
            "content": "one",
            "output": [{"role": "assistant", "content": "one"}, {"role": "assistant", "content": "two"}],
            "llm_inputs": {"city": "Paris"},
        },
    ),
    "openinference: a completion of the older API": (
        span(
            {
                "openinference.span.kind": "LLM",
                "llm.prompts.0.prompt.text": "Once upon",
                "llm.choices.0.completion.text": " a time",
            }
        ),
        {"messages": [user("Once upon")], "content": " a time"},
    ),
    "openinference: a retriever and a reranker": (
        span(
            {
                "openinference.span.kind": "RERANKER",
                "reranker.query": "cats",
                "reranker.model_name": "rr-1",
                "reranker.output_documents.0.document.content": "a cat",
                "reranker.output_documents.0.document.score": 0.5,
            }
        ),
        {
            "kind": "reranker",
            "inputs": "cats",
            "output": [{"content": "a cat", "score": 0.5}],
        },
    ),
    "traceloop: a workflow, and what it says of the user": (
        span(
            {
                "traceloop.span.kind": "workflow",
                "traceloop.entity.name": "joke",
                "traceloop.workflow.name": "jokes",
                "traceloop.association.properties.user_id": "u1",
                "traceloop.association.properties.session_id": "s1",
                "traceloop.association.properties.plan": "gold",
                "traceloop.entity.input": J({"args": ["cats"], "kwargs": {}}),
                "traceloop.entity.output": J("ha"),
            }
        ),
        {
            "kind": "chain",
            "name": "joke",
            "trace_name": "jokes",
            "end_user_identifier": "u1",
            "session_id": "s1",
            "metadata": {"plan": "gold"},
            "inputs": {"args": ["cats"], "kwargs": {}},
            "output": "ha",
        },
    ),
    "langfuse: buckets that exclude each other": (
        span(
            {
                "langfuse.observation.type": "generation",
                "langfuse.observation.model.name": "m-1",
                "langfuse.observation.usage_details": J(
                    {"input": 60, "input_cached_tokens": 40, "output": 12, "output_reasoning_tokens": 8, "total": 120}
                ),
                "langfuse.observation.cost_details": J({"input": 0.25, "output": 0.5}),
            },
            "langfuse-sdk",
        ),
        {
            "input_tokens": 100,
            "output_tokens": 20,
            "total_tokens": 120,
            "usage": {"cached": 40, "reasoning": 8},
            "cost": 0.75,
        },
    ),
    "langfuse: details that the sums include, as the total shows": (
        span(
            {
                "langfuse.observation.type": "generation",
                "langfuse.observation.usage_details": J(
                    {"input": 100, "input_cached_tokens": 40, "output": 20, "output_reasoning_tokens": 8, "total": 120}
                ),
            }
        ),
        {"input_tokens": 100, "output_tokens": 20, "total_tokens": 120, "usage": {"cached": 40, "reasoning": 8}},
    ),
    "langfuse: what Anthropic reports": (
        span(
            {
                "langfuse.observation.type": "generation",
                "langfuse.observation.usage_details": J(
                    {
                        "input_tokens": 50,
                        "cache_read_input_tokens": 40,
                        "cache_creation_input_tokens": 10,
                        "output_tokens": 20,
                    }
                ),
            }
        ),
        {"input_tokens": 100, "output_tokens": 20, "total_tokens": 120, "usage": {"cached": 40, "cache_write": 10}},
    ),
    "langfuse: a tool, an embedding and a message by hand": (
        span(
            {
                "langfuse.observation.type": "embedding",
                "langfuse.observation.input": J(["a", "b"]),
                "langfuse.observation.usage_details": J({"input": 9}),
                "langfuse.observation.model.name": "e-1",
                "langfuse.trace.name": "t",
                "langfuse.trace.tags": ["x", "y"],
                "session.id": "s1",
                "user.id": "u1",
                "langfuse.trace.metadata.plan": "gold",
            }
        ),
        {
            "kind": "embedding",
            "inputs": ["a", "b"],
            "input_tokens": 9,
            "total_tokens": 9,
            "trace_name": "t",
            "tags": ["x", "y"],
            "session_id": "s1",
            "end_user_identifier": "u1",
            "metadata": {"plan": "gold"},
        },
    ),
    "vercel, version 4: ai.result names": (
        span(
            {
                "ai.operationId": "ai.generateText.doGenerate",
                "ai.model.id": "gpt",
                "ai.model.provider": "openai.chat",
                "ai.prompt.messages": J([{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]),
                "ai.result.text": "Hello",
                "ai.finishReason": "stop",
                "ai.usage.promptTokens": 5,
                "ai.usage.completionTokens": 2,
                "ai.settings.maxTokens": 9,
            },
            "ai",
        ),
        {
            "kind": "llm",
            "provider": "openai",
            "messages": [user("Hi")],
            "content": "Hello",
            "finish": ["stop"],
            "input_tokens": 5,
            "output_tokens": 2,
            "total_tokens": 7,
            "model_params": {"max_tokens": 9},
        },
    ),
    "vercel, version 5: cached tokens of Anthropic beside the input": (
        span(
            {
                "ai.operationId": "ai.streamText.doStream",
                "ai.model.id": "claude",
                "ai.model.provider": "anthropic.messages",
                "ai.usage.inputTokens": 50,
                "ai.usage.cachedInputTokens": 60,
                "ai.usage.outputTokens": 20,
                "ai.usage.totalTokens": 70,
                "ai.response.toolCalls": J(
                    [{"toolCallId": "c1", "toolName": "weather", "input": J({"city": "Paris"})}]
                ),
                "ai.response.msToFirstChunk": 250,
            },
            "ai",
        ),
        {
            "provider": "anthropic",
            "input_tokens": 110,
            "total_tokens": 130,
            "usage": {"cached": 60},
            "output": {"role": "assistant", "content": None, "tool_calls": [{"id": "c1", **WEATHER}]},
            "model_params": {"stream": True},
            "time_to_first_token": 0.25,
        },
    ),
    "vercel: an object": (
        span(
            {
                "ai.operationId": "ai.generateObject.doGenerate",
                "ai.model.id": "gpt",
                "ai.response.object": J({"city": "Paris"}),
                "ai.prompt.messages": J([{"role": "user", "content": "Where?"}]),
            },
            "ai",
        ),
        {"messages": [user("Where?")], "content": J({"city": "Paris"})},
    ),
    "mlflow: what OpenAI reports, without a count of its own": (
        span(
            {
                "mlflow.spanType": J("CHAT_MODEL"),
                "mlflow.spanInputs": J({"model": "gpt", "messages": [user("Hi")], "temperature": 0.5}),
                "mlflow.spanOutputs": J(
                    {
                        "id": "r-1",
                        "model": "gpt-1",
                        "choices": [{"message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}],
                        "usage": {
                            "prompt_tokens": 100,
                            "completion_tokens": 20,
                            "total_tokens": 120,
                            "prompt_tokens_details": {"cached_tokens": 40},
                            "completion_tokens_details": {"reasoning_tokens": 8},
                        },
                    }
                ),
            }
        ),
        {
            "request_model": "gpt",
            "model": "gpt-1",
            "messages": [user("Hi")],
            "content": "Hello",
            "finish": ["stop"],
            "response_id": "r-1",
            "input_tokens": 100,
            "output_tokens": 20,
            "total_tokens": 120,
            "usage": {"cached": 40, "reasoning": 8},
            "model_params": {"temperature": 0.5},
        },
    ),
    "mlflow: Anthropic": (
        span(
            {
                "mlflow.spanType": J("CHAT_MODEL"),
                "mlflow.message.format": J("anthropic"),
                "mlflow.spanInputs": J(
                    {"model": "claude", "system": "Be brief.", "messages": [user("Hi")], "max_tokens": 9}
                ),
                "mlflow.spanOutputs": J(
                    {
                        "id": "msg-1",
                        "role": "assistant",
                        "content": [
                            {"type": "thinking", "thinking": "Hm."},
                            {"type": "text", "text": "Hello"},
                            {"type": "tool_use", "id": "c1", "name": "weather", "input": {"city": "Paris"}},
                        ],
                        "stop_reason": "tool_use",
                        "usage": {"input_tokens": 50, "cache_read_input_tokens": 40, "output_tokens": 20},
                    }
                ),
            }
        ),
        {
            "provider": "anthropic",
            "messages": [{"role": "system", "content": "Be brief."}, user("Hi")],
            "content": "Hello",
            "output": {
                "role": "assistant",
                "content": "Hello",
                "tool_calls": [{"id": "c1", **WEATHER}],
                "reasoning_content": "Hm.",
            },
            "finish": ["tool_use"],
            "input_tokens": 90,
            "output_tokens": 20,
            "usage": {"cached": 40},
            "model_params": {"max_tokens": 9},
        },
    ),
    "langsmith: cost and tokens in its metadata": (
        span(
            {
                "langsmith.span.kind": "llm",
                "langsmith.trace.name": "ChatOpenAI",
                "gen_ai.prompt": J({"messages": [user("Hi")]}),
                "gen_ai.completion": J({"choices": [{"message": {"role": "assistant", "content": "Hello"}}]}),
                "langsmith.metadata.ls_provider": "google_vertexai",
                "langsmith.metadata.ls_model_name": "gemini",
                "langsmith.metadata.thread_id": "s1",
                "langsmith.metadata.usage_metadata": J(
                    {
                        "input_tokens": 100,
                        "output_tokens": 20,
                        "total_tokens": 120,
                        "input_token_details": {"cache_read": 40, "cache_creation": 10},
                        "output_token_details": {"reasoning": 8},
                        "total_cost": 0.25,
                    }
                ),
                "langsmith.span.tags": "b, a",
            },
            "langsmith",
        ),
        {
            "provider": "gcp.vertex_ai",
            "request_model": "gemini",
            "content": "Hello",
            "input_tokens": 100,
            "output_tokens": 20,
            "usage": {"cached": 40, "cache_write": 10, "reasoning": 8},
            "cost": 0.25,
            "session_id": "s1",
            "tags": ["a", "b"],
        },
    ),
    "laminar: a cached span, and its cost": (
        span(
            {
                "lmnr.span.type": "LLM",
                "gen_ai.system": "anthropic",
                "gen_ai.request.model": "claude",
                "gen_ai.usage.input_tokens": 100,
                "gen_ai.usage.output_tokens": 20,
                "gen_ai.usage.cost": 0.25,
                "lmnr.association.properties.session_id": "s1",
                "lmnr.association.properties.metadata.plan": "gold",
            },
            "lmnr.tracer",
            "anthropic.chat",
        ),
        {"kind": "llm", "cost": 0.25, "session_id": "s1", "metadata": {"plan": "gold"}, "total_tokens": 120},
    ),
    "openlit: parameters nobody set": (
        span(
            {
                **CHAT,
                "gen_ai.system": "openai",
                "gen_ai.request.temperature": 1.0,
                "gen_ai.request.max_tokens": -1,
                "gen_ai.request.seed": "",
                "gen_ai.request.top_p": 0.9,
                "gen_ai.usage.cost": 0,
                "gen_ai.usage.input_tokens": 3,
                "gen_ai.usage.output_tokens": 4,
            },
            "openlit.otel.tracing",
        ),
        {"model_params": {"top_p": 0.9}, "cost": None, "input_tokens": 3},
    ),
    "pydantic-ai: a run with tools": (
        span(
            {
                "gen_ai.operation.name": "invoke_agent",
                "gen_ai.agent.name": "helper",
                "gen_ai.conversation.id": "fresh",
                "pydantic_ai.all_messages": J(
                    [
                        parts("user", text("Weather?")),
                        parts("assistant", {"type": "tool_call", "id": "c1", "name": "weather", "arguments": "{}"}),
                        parts("user", {"type": "tool_call_response", "id": "c1", "name": "weather", "result": "sunny"}),
                        parts("assistant", text("It is sunny.")),
                    ]
                ),
                "final_result": "It is sunny.",
            },
            "pydantic-ai",
        ),
        {
            "kind": "agent",
            "name": "helper",
            "session_id": None,
            "inputs": [user("Weather?")],
            "output": "It is sunny.",
        },
    ),
    "strands: milliseconds, and a provider that is a framework": (
        span(
            {**CHAT, "gen_ai.system": "strands-agents", "gen_ai.server.time_to_first_token": 250},
            "strands.telemetry.tracer",
            events=(
                Event("gen_ai.user.message", 1, {"content": J([{"text": "Hi"}])}),
                Event("gen_ai.choice", 2, {"finish_reason": "end_turn", "message": J([{"text": "Hello"}])}),
            ),
        ),
        {
            "provider": None,
            "time_to_first_token": 0.25,
            "messages": [user("Hi")],
            "content": "Hello",
            "finish": ["end_turn"],
        },
    ),
    "google adk: requests under its own names": (
        span(
            {
                "gen_ai.system": "gcp.vertex.agent",
                "gcp.vertex.agent.session_id": "s1",
                "gcp.vertex.agent.llm_request": J(
                    {
                        "model": "gemini",
                        "config": {"system_instruction": "Be brief."},
                        "contents": [{"role": "user", "parts": [{"text": "Hi"}]}],
                    }
                ),
                "gcp.vertex.agent.llm_response": J(
                    {
                        "content": {"role": "model", "parts": [{"text": "Hello"}]},
                        "usage_metadata": {
                            "prompt_token_count": 100,
                            "candidates_token_count": 12,
                            "thoughts_token_count": 8,
                            "cached_content_token_count": 40,
                        },
                    }
                ),
                "gen_ai.request.model": "gemini",
            },
            "gcp.vertex.agent",
        ),
        {
            "kind": "llm",
            "session_id": "s1",
            "messages": [{"role": "system", "content": "Be brief."}, user("Hi")],
            "content": "Hello",
            "input_tokens": 100,
            "output_tokens": 20,
            "usage": {"cached": 40, "reasoning": 8},
        },
    ),
    "haystack: its own tracer": (
        span(
            {
                "haystack.component.name": "llm",
                "haystack.component.type": "OpenAIChatGenerator",
                "haystack.component.input": J({"messages": [{"role": "user", "content": [{"text": "Hi"}]}]}),
                "haystack.component.output": J(
                    {
                        "replies": [
                            {
                                "role": "assistant",
                                "content": [{"text": "Hello"}],
                                "meta": {
                                    "model": "gpt-1",
                                    "finish_reason": "stop",
                                    "usage": {"prompt_tokens": 5, "completion_tokens": 2},
                                },
                            }
                        ]
                    }
                ),
            },
            "haystack",
        ),
        {
            "kind": "llm",
            "name": "llm",
            "messages": [user("Hi")],
            "content": "Hello",
            "model": "gpt-1",
            "input_tokens": 5,
            "output_tokens": 2,
            "finish": ["stop"],
        },
    ),
    "a database below a call": (
        span({"db.system.name": "postgresql", "db.query.text": "SELECT 1"}, "opentelemetry.instrumentation.psycopg"),
        {"kind": "chain", "dialect": "opentelemetry", "model": None, "input_tokens": None, "status": "success"},
    ),
    "an HTTP request that failed": (
        span({"http.request.method": "POST", "error.type": "500"}, "httpx", "POST", status_code=2),
        {"kind": "chain", "name": "POST", "status": "error", "error_type": "500", "error": "500"},
    ),
    "everycall's own attributes win over every vocabulary": (
        span(
            {
                **CHAT,
                "everycall.kind": "tool",
                "everycall.name": "mine",
                "everycall.trace.name": "t",
                "everycall.session_id": "s1",
                "everycall.tags": "a,b",
                "everycall.metadata.plan": "gold",
                "everycall.target": J({"right": 1}),
                "session.id": "other",
            }
        ),
        {
            "kind": "tool",
            "name": "mine",
            "trace_name": "t",
            "session_id": "s1",
            "tags": ["a", "b"],
            "metadata": {"plan": "gold"},
            "target": {"right": 1},
        },
    ),
}


def test_sums_of_an_agent_stay_attributes() -> None:
    """No field of its record has them, and they are not lost."""
    attributes = {"gen_ai.operation.name": "invoke_agent", "gen_ai.usage.input_tokens": 300, "gen_ai.usage.cost": 0.5}
    kept = fields(span(attributes))["attributes"]
    assert {name: kept[name] for name in attributes if "usage" in name} == {
        "gen_ai.usage.input_tokens": 300,
        "gen_ai.usage.cost": 0.5,
    }


@pytest.mark.parametrize(
    ("message", "read"),
    [
        ({"role": "human", "parts": [{"type": "text", "content": "Hi"}]}, {"role": "user", "content": "Hi"}),
        ({"role": "user", "parts": [{"type": "text", "text": "Hi"}]}, {"role": "user", "content": "Hi"}),
        (
            {"role": "user", "content": [{"type": "text", "content": ""}]},
            {"content": [{"type": "text", "content": ""}]},
        ),
        ({"role": "tool", "content": '{"result": "sunny"}'}, {"role": "tool", "content": "sunny"}),
        ({"role": "model", "content": "Hi", "finish_reason": "stop"}, {"role": "assistant", "content": "Hi"}),
        ({"role": "user", "content": "Hi", "weight": 1}, {"role": "user", "content": "Hi", "weight": 1}),
    ],
)
def test_plain_messages_and_those_that_only_look_plain(message: dict[str, Any], read: dict[str, Any]) -> None:
    assert chat_messages([message]) == [{"role": "user", **read}]


def test_parameters_nobody_set_stay_attributes() -> None:
    """What OpenLIT invents is not among the parameters, and not lost."""
    sent = span({**CHAT, "gen_ai.request.max_tokens": -1, "gen_ai.request.top_p": 0.9}, "openlit.otel.tracing")
    record = fields(sent)
    assert record["model_params"] == {"top_p": 0.9}
    assert record["attributes"]["gen_ai.request.max_tokens"] == -1


@pytest.mark.parametrize("case", CASES)
def test_a_span_reads_as_its_reader_would_expect(case: str) -> None:
    """Each field that the case names."""
    sent, expected = CASES[case]
    record = fields(sent)
    assert {name: record[name] for name in expected} == expected
