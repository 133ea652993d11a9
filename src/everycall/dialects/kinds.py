"""Maps each vocabulary's kinds of calls to everycall's."""

from __future__ import annotations

from typing import Final

from everycall.semconv import (
    AGENT,
    CHAIN,
    EMBEDDING,
    EVALUATOR,
    GUARDRAIL,
    LLM,
    PARSER,
    PROMPT,
    RERANKER,
    RETRIEVER,
    TOOL,
)

__all__ = ["OPENINFERENCE", "OPERATIONS", "kind_of"]

OPERATIONS: Final = {
    "chat": LLM,
    "completion": LLM,
    "generate": LLM,
    "generate_content": LLM,
    "text_completion": LLM,
    "response": LLM,
    "llm_call": LLM,
    "embeddings": EMBEDDING,
    "embedding": EMBEDDING,
    "rerank": RERANKER,
    "retrieval": RETRIEVER,
    "retrieve": RETRIEVER,
    "vector_db_retrieve": RETRIEVER,
    "search_memory": RETRIEVER,
    "execute_tool": TOOL,
    "tool_call": TOOL,
    "invoke_agent": AGENT,
    "create_agent": AGENT,
    "agent_call": AGENT,
    "invoke_workflow": CHAIN,
    "agent_step": CHAIN,
    "execute_task": CHAIN,
    "execute_event_loop_cycle": CHAIN,
    "fetch_response": CHAIN,
    "plan": CHAIN,
    "chain": CHAIN,
    "parser": PARSER,
    "create_memory": CHAIN,
    "update_memory": CHAIN,
    "upsert_memory": CHAIN,
    "delete_memory": CHAIN,
}
"""Values of `gen_ai.operation.name`: the standard ones, and others that senders use."""
OPENINFERENCE: Final = {
    "LLM": LLM,
    "EMBEDDING": EMBEDDING,
    "CHAIN": CHAIN,
    "RETRIEVER": RETRIEVER,
    "RERANKER": RERANKER,
    "TOOL": TOOL,
    "AGENT": AGENT,
    "GUARDRAIL": GUARDRAIL,
    "EVALUATOR": EVALUATOR,
    "PROMPT": PROMPT,
    "DECISION": CHAIN,
}
_WORDS: Final = {
    **OPERATIONS,
    **{word.lower(): kind for word, kind in OPENINFERENCE.items()},
    "generation": LLM,
    "chat_model": LLM,
    "prompt": PROMPT,
    "span": CHAIN,
    "event": CHAIN,
    "default": CHAIN,
    "task": CHAIN,
    "workflow": CHAIN,
    "cached": LLM,
    "executor": CHAIN,
    "evaluation": EVALUATOR,
    "memory": CHAIN,
}


def kind_of(word: str | None) -> str | None:
    """Return the kind for a vocabulary's word, or None for an unknown word."""
    return _WORDS.get(word.lower()) if word else None
