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
USAGE_CACHE_WRITE_1H = "cache_write_1h"
"""The part of `cache_write` that is kept for an hour instead of five minutes, and costs more."""
USAGE_INPUT_AUDIO = "input_audio"
USAGE_INPUT_IMAGE = "input_image"
USAGE_INPUT_VIDEO = "input_video"
USAGE_CACHED_AUDIO = "cached_audio"
"""The part of both `cached` and `input_audio`; likewise the next."""
USAGE_CACHED_IMAGE = "cached_image"
USAGE_TOOL_USE_PROMPT = "tool_use_prompt"
USAGE_REASONING = "reasoning"
USAGE_OUTPUT_AUDIO = "output_audio"
USAGE_OUTPUT_IMAGE = "output_image"
USAGE_OUTPUT_VIDEO = "output_video"
USAGE_WEB_SEARCHES = "web_searches"
"""Searches that the provider made and bills apart; no tokens."""
USAGE_FILE_SEARCHES = "file_searches"
"""The same in files that are stored with the provider."""
USAGE_KEYS = frozenset(
    {
        USAGE_CACHED,
        USAGE_CACHE_WRITE,
        USAGE_CACHE_WRITE_1H,
        USAGE_INPUT_AUDIO,
        USAGE_INPUT_IMAGE,
        USAGE_INPUT_VIDEO,
        USAGE_CACHED_AUDIO,
        USAGE_CACHED_IMAGE,
        USAGE_TOOL_USE_PROMPT,
        USAGE_REASONING,
        USAGE_OUTPUT_AUDIO,
        USAGE_OUTPUT_IMAGE,
        USAGE_OUTPUT_VIDEO,
        USAGE_WEB_SEARCHES,
        USAGE_FILE_SEARCHES,
    }
)
"""The parts that have a price of their own somewhere. A part of another name costs what its whole costs."""
USAGE_UNPRICED = "unpriced."
"""Begins the name of a count that is in neither sum as far as anyone can tell: such a call has no price."""
COST_OF_PROVIDER = "provider"
"""The `cost_source` of a cost that the provider's own response states."""
DEPLOYMENT_VERSION = "everycall.deployment.version"
"""The version of the deployment that a completion used."""
SERVICE_TIER = "everycall.service_tier"
"""The attribute for the service tier of a call, if it is not the standard one: batch, flex, priority."""
STANDARD_SERVICE_TIERS = frozenset(
    {"", "auto", "default", "standard", "on_demand", "global", "not_available", "unspecified"}
)
"""What providers call the standard tier, in lower case."""
OPENAI_SERVICE_TIER = "openai.response.service_tier"
"""The same in OpenTelemetry's conventions for OpenAI."""

# --- between processes: W3C `baggage` members, beside `traceparent` ---
BAGGAGE_TRACE_ID = "everycall.trace_id"
"""The user's trace id, if it is not the 32 hex digits of `traceparent`."""
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
