"""A model's request and answer, from LangChain's objects to the fields of a completion. Called by the handler.

Nothing here is guessed: a provider is named only when LangChain's word for it is known, and what was not reported
stays unknown. Only known parameters of a request are kept: the rest of a model object may hold keys or canned answers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import Any, Final

from langchain_core.messages import BaseMessage
from langchain_core.outputs import LLMResult

from everycall_langchain import _render

__all__ = ["answer", "has_output", "request", "text_request"]

PROVIDERS: Final = {
    "openai": "openai",
    "azure": "azure.ai.openai",
    "azure_openai": "azure.ai.openai",
    "azure_ai": "azure.ai.inference",
    "anthropic": "anthropic",
    "amazon_bedrock": "aws.bedrock",
    "bedrock": "aws.bedrock",
    "google_genai": "gcp.gemini",
    "google": "gcp.gemini",
    "google_vertexai": "gcp.vertex_ai",
    "vertexai": "gcp.vertex_ai",
    "google_anthropic_vertex": "gcp.vertex_ai",
    "mistral": "mistral_ai",
    "mistralai": "mistral_ai",
    "cohere": "cohere",
    "deepseek": "deepseek",
    "groq": "groq",
    "xai": "x_ai",
    "perplexity": "perplexity",
    "moonshot": "moonshot_ai",
    "watsonx": "ibm.watsonx.ai",
    "ibm": "ibm.watsonx.ai",
    "fireworks": "fireworks",
    "together": "together",
    "ollama": "ollama",
    "openrouter": "openrouter",
    "cerebras": "cerebras",
    "huggingface": "huggingface",
    "nvidia": "nvidia",
}
"""`ls_provider` to the names of OpenTelemetry's GenAI conventions (`gen_ai.provider.name`).

A model class that names no provider gets its own class name as `ls_provider`; such a word is not in the table.
"""

_PARAMETERS: Final = frozenset(
    {
        "temperature",
        "top_p",
        "top_k",
        "n",
        "max_tokens",
        "max_completion_tokens",
        "max_output_tokens",
        "max_tokens_to_sample",
        "num_predict",
        "num_ctx",
        "stop",
        "stop_sequences",
        "seed",
        "frequency_penalty",
        "presence_penalty",
        "repeat_penalty",
        "logit_bias",
        "logprobs",
        "top_logprobs",
        "response_format",
        "parallel_tool_calls",
        "reasoning",
        "reasoning_effort",
        "thinking",
        "thinking_budget",
        "service_tier",
        "stream",
        "streaming",
        "safe_prompt",
        "modalities",
        "verbosity",
    }
)
_MODEL_KEYS: Final = ("model", "model_name", "model_id", "deployment_name", "azure_deployment")
_ANSWERED_MODEL_KEYS: Final = ("model_name", "model", "model_id")
_REASON_KEYS: Final = ("finish_reason", "stop_reason", "done_reason")
_RUN_OF_MESSAGE: Final = re.compile(r"(?:lc_)?run-{1,2}([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})")

_HITS_ARE_MARKED: Final = tuple(int(part) for part in re.findall(r"\d+", version("langchain-core"))[:3]) >= (0, 3, 73)


def request(
    messages: Sequence[Sequence[BaseMessage]], params: Mapping[str, Any], metadata: Mapping[str, Any]
) -> dict[str, Any]:
    """Return `llm_configuration`, `model` and `provider` of a request, as `start_call` takes them.

    `params` are LangChain's invocation parameters, `metadata` holds its `ls_*` keys. One run has one list of messages;
    several are put one after the other.
    """
    return _request([_render.message(item) for chat in messages for item in chat], params, metadata)


def text_request(prompts: Sequence[str], params: Mapping[str, Any], metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the same for a text model, each prompt as a user's message."""
    return _request([{"role": "user", "content": prompt} for prompt in prompts], params, metadata)


def _request(messages: list[dict[str, Any]], params: Mapping[str, Any], metadata: Mapping[str, Any]) -> dict[str, Any]:
    model = _text(metadata.get("ls_model_name")) or _first_text(params, _MODEL_KEYS)
    provider = PROVIDERS.get(str(metadata.get("ls_provider")))
    configuration: dict[str, Any] = {
        "model": model,
        "provider": provider,
        "model_params": {key: value for key, value in params.items() if key in _PARAMETERS and value is not None},
        "messages": messages,
    }
    tools = params.get("tools") or params.get("functions")
    if isinstance(tools, Sequence) and not isinstance(tools, str):
        configuration["functions"] = [
            tool["function"] if isinstance(tool, Mapping) and "function" in tool else tool for tool in tools
        ]
    choice = params.get("tool_choice", params.get("function_call"))
    if choice is not None:
        configuration["function_call"] = choice
    return {"llm_configuration": configuration, "model": model, "provider": provider}


def has_output(response: LLMResult) -> bool:
    """Tell whether a result, such as the partial one of a failed stream, holds anything a model said."""
    if not response.generations or not response.generations[0]:
        return False
    first = response.generations[0][0]
    said = getattr(first, "message", None)
    if said is None:
        return bool(first.text)
    return bool(said.content or said.__dict__.get("tool_calls") or said.__dict__.get("usage_metadata"))


def answer(response: LLMResult, run_id: Any) -> dict[str, Any]:
    """Return what a result says, for `Call.update`: fields of the record, and span attributes (id, finish reasons).

    `content` is the text of the first choice. `output` is there when text alone does not tell the answer: tool calls,
    blocks that are not text, or several choices (then a list of messages).
    """
    choices = [choice.__dict__ for batch in response.generations for choice in batch]
    if not choices:
        return {}
    first: BaseMessage | None = choices[0].get("message")
    told: Mapping[str, Any] = _metadata_of(first)
    overall: Mapping[str, Any] = response.llm_output or {}
    shown = _shown(choices[0])
    fields: dict[str, Any] = {"content": _render.text(shown["content"])}
    if len(choices) > 1:
        fields["output"] = [_shown(choice) for choice in choices]
    elif "tool_calls" in shown or not isinstance(shown["content"], str):
        fields["output"] = shown
    model = _first_text(told, _ANSWERED_MODEL_KEYS) or _first_text(overall, _ANSWERED_MODEL_KEYS)
    if model:
        fields["model"] = model
    usage = _usage(first, told, overall, several=len(choices) > 1)
    if usage:
        fields.update(_tokens(usage))
    if first is not None:
        if _was_cached(first, run_id):
            fields.update(cache=True, cache_hit=True, cost=0.0, cost_source="cache")
        answer_id = _text(told.get("id")) or first.id
        if answer_id and not _RUN_OF_MESSAGE.match(answer_id):
            fields["gen_ai.response.id"] = answer_id
    reasons = [reason for choice in choices if (reason := _finish_reason(choice))]
    if reasons:
        fields["gen_ai.response.finish_reasons"] = reasons
    return fields


def _shown(choice: Mapping[str, Any]) -> dict[str, Any]:
    said = choice.get("message")
    return _render.message(said) if said is not None else {"role": "assistant", "content": choice.get("text") or ""}


def _metadata_of(said: BaseMessage | None) -> Mapping[str, Any]:
    return (said.__dict__.get("response_metadata") if said is not None else None) or {}


def _finish_reason(choice: Mapping[str, Any]) -> str | None:
    told, about = _metadata_of(choice.get("message")), choice.get("generation_info")
    return _first_text(told, _REASON_KEYS) or (_first_text(about, _REASON_KEYS) if about else None)


def _usage(first: BaseMessage | None, told: Mapping[str, Any], overall: Mapping[str, Any], *, several: bool) -> Any:
    """Return the report of tokens to believe: the message's own, except that several choices share one bill."""
    own = first.__dict__.get("usage_metadata") if first is not None else None
    bill = overall.get("token_usage") or overall.get("usage")
    if several and bill:
        return bill
    if isinstance(own, Mapping) and "input_tokens" in own:
        return own
    return told.get("token_usage") or told.get("usage") or bill


def _tokens(usage: Any) -> dict[str, Any]:
    """Read LangChain's `usage_metadata`, or the raw report of OpenAI or Anthropic. What is not in it stays unknown."""
    if not isinstance(usage, Mapping):
        return {}
    read = _count(usage.get("cache_read_input_tokens"))
    written = _count(usage.get("cache_creation_input_tokens"))
    into = _details(usage, "input_token_details", "prompt_tokens_details", "input_tokens_details")
    out = _details(usage, "output_token_details", "completion_tokens_details", "output_tokens_details")
    tokens_in = _first_count(usage, "input_tokens", "prompt_tokens")
    if tokens_in is not None:
        tokens_in += (read or 0) + (written or 0)  # Anthropic's own count leaves these out, LangChain's has them
    fields: dict[str, Any] = {
        "input_tokens": tokens_in,
        "output_tokens": _first_count(usage, "output_tokens", "completion_tokens"),
        "total_tokens": _count(usage.get("total_tokens")),
    }
    parts = {
        "cached": _first_count(into, "cache_read", "cached_tokens") if read is None else read,
        "cache_write": _written(into) if written is None else written,
        "reasoning": _first_count(out, "reasoning", "reasoning_tokens"),
        "input_audio": _first_count(into, "audio", "audio_tokens"),
        "output_audio": _first_count(out, "audio", "audio_tokens"),
    }
    fields["usage"] = {name: count for name, count in parts.items() if count is not None}
    return {name: value for name, value in fields.items() if value is not None}


def _written(details: Mapping[str, Any]) -> int | None:
    """Return the tokens written to a provider's cache: told in one sum, or by lifetime with the sum as 0."""
    by_lifetime = [_count(details.get(f"ephemeral_{age}_input_tokens")) for age in ("5m", "1h")]
    total = _count(details.get("cache_creation"))
    return total or sum(n for n in by_lifetime if n) or total


def _was_cached(said: BaseMessage, run_id: Any) -> bool:
    """Tell whether LangChain's own cache gave this message.

    It marks one by a total cost of 0. Before it did so, the id is the only sign: it names the run that made the
    message. That sign is not used where the mark exists: a model that passes on another's message bears it too.
    """
    if _HITS_ARE_MARKED:
        usage = said.__dict__.get("usage_metadata")
        return isinstance(usage, Mapping) and usage.get("total_cost") == 0
    made_by = _RUN_OF_MESSAGE.match(said.id or "")
    return made_by is not None and made_by[1] != str(run_id)


def _details(usage: Mapping[str, Any], *keys: str) -> Mapping[str, Any]:
    return next((usage[key] for key in keys if isinstance(usage.get(key), Mapping)), {})


def _count(value: Any) -> int | None:
    return value if type(value) is int and value >= 0 else None


def _first_count(values: Mapping[str, Any], *keys: str) -> int | None:
    for key in keys:
        found = _count(values.get(key))
        if found is not None:
            return found
    return None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _first_text(values: Mapping[str, Any], keys: Iterable[str]) -> str | None:
    for key in keys:
        found = values.get(key)
        if found and isinstance(found, str):
            return found
    return None
