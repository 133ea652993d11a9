"""Names on the wire and in spans: kinds of calls, OpenTelemetry GenAI attribute keys, our own attribute keys, headers.

GenAI names follow the standalone semantic conventions v0.1.0 (autumn 2026); none of `gen_ai.*` is stable, so they are
kept here in one table instead of imported.
"""

from __future__ import annotations

# --- kinds of calls ---
LLM = "llm"
EMBEDDING = "embedding"
CHAIN = "chain"
TOOL = "tool"
RETRIEVER = "retriever"
RERANKER = "reranker"
AGENT = "agent"
PROMPT = "prompt"
PARSER = "parser"
GUARDRAIL = "guardrail"
EVALUATOR = "evaluator"
KINDS = (LLM, EMBEDDING, CHAIN, TOOL, RETRIEVER, RERANKER, AGENT, PROMPT, PARSER, GUARDRAIL, EVALUATOR)
PRICED_KINDS = frozenset({LLM, EMBEDDING, RERANKER})
"""Kinds whose tokens and cost are summed for a trace: the leaves where money is spent."""

# --- statuses of a call, and their wire form (the seed's `status` is success or error) ---
SUCCESS = "success"
ERROR = "error"
CANCELLED = "cancelled"
ABANDONED = "abandoned"

# --- OpenTelemetry ---
EXCEPTION_TYPE = "exception.type"
EXCEPTION_MESSAGE = "exception.message"
EXCEPTION_STACKTRACE = "exception.stacktrace"
ERROR_TYPE = "error.type"
CODE_LOCATION = "code.location"
GEN_AI_PROVIDER_NAME = "gen_ai.provider.name"
GEN_AI_REQUEST_MODEL = "gen_ai.request.model"
GEN_AI_RESPONSE_MODEL = "gen_ai.response.model"
GEN_AI_RESPONSE_ID = "gen_ai.response.id"
GEN_AI_FINISH_REASONS = "gen_ai.response.finish_reasons"
GEN_AI_INPUT_TOKENS = "gen_ai.usage.input_tokens"
GEN_AI_OUTPUT_TOKENS = "gen_ai.usage.output_tokens"

# --- keys of `usage`: parts of input_tokens and output_tokens, which include them ---
USAGE_CACHED = "cached"
USAGE_CACHE_WRITE = "cache_write"
USAGE_REASONING = "reasoning"
USAGE_INPUT_AUDIO = "input_audio"
USAGE_OUTPUT_AUDIO = "output_audio"

# --- between processes: W3C `baggage` members, beside `traceparent` ---
BAGGAGE_TRACE_ID = "everycall.trace_id"
"""The trace id as the user gave it, where it is not the 32 hex digits of `traceparent`."""
BAGGAGE_TRACE_NAME = "everycall.trace_name"
BAGGAGE_END_USER = "everycall.end_user_identifier"
BAGGAGE_SESSION_ID = "everycall.session_id"
BAGGAGE_OMIT = "everycall.omit"
"""`inputs`, `outputs`, `all`, or several joined with dots."""

# --- HTTP ---
API_KEY_HEADER = "x-api-key"
CLIENT_HEADER = "x-everycall-client"
BALANCE_HEADER = "x-everycall-balance"
STREAM_HEADER = "x-everycall-stream"
"""Of a request for a stream: with `end`, the stream closes with an event that says how it went."""
RECORDS_PATH = "/v1/records"
NDJSON = "application/x-ndjson"
PROBLEM_JSON = "application/problem+json"
DEFAULT_ENDPOINT = "http://127.0.0.1:7410"
DEFAULT_PORT = 7410
DEFAULT_PROJECT = "default"
