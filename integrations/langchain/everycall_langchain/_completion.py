"""A model's request and answer, from LangChain's objects to the fields of a completion. Called by the handler.

Nothing here is guessed: a provider is named only when LangChain's word for it is known, and what was not reported
stays unknown. Only known parameters of a request are kept: the rest of a model object may hold keys or canned answers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import Any, Final, NamedTuple

from langchain_core.messages import BaseMessage
from langchain_core.outputs import LLMResult

from everycall import limits
from everycall.integration import usage_fields
from everycall_langchain import _render

__all__ = ["Request", "answer", "has_output", "request", "text_request"]

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
_FIXED: Final = frozenset({str, bool})
_MODEL_KEYS: Final = ("model", "model_name", "model_id", "deployment_name", "azure_deployment")
_ANSWERED_MODEL_KEYS: Final = ("model_name", "model", "model_id")
_ASKED: Final = frozenset({*_PARAMETERS, *_MODEL_KEYS, "tools", "functions", "tool_choice", "function_call"})
_REASON_KEYS: Final = ("finish_reason", "stop_reason", "done_reason")
_RUN_OF_MESSAGE: Final = re.compile(r"(?:lc_)?run-{1,2}([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})")

_NOTHING: Final[Mapping[str, Any]] = {}
_HITS_ARE_MARKED: Final = tuple(int(part) for part in re.findall(r"\d+", version("langchain-core"))[:3]) >= (0, 3, 73)


class Request(NamedTuple):
    """A request as a record has it. `is_own` says that nobody else has any part of it that can change."""

    configuration: dict[str, Any]
    is_own: bool


def request(
    messages: Sequence[Sequence[BaseMessage]], params: Mapping[str, Any], metadata: Mapping[str, Any]
) -> Request:
    """Return a request to a chat model.

    `params` are LangChain's invocation parameters, `metadata` holds its `ls_*` keys. One run has one list of messages;
    several are put one after the other.
    """
    shown: list[dict[str, Any]] = []
    room = limits.CAPTURE_TEXT_MAX
    for chat in messages:
        for item in chat:
            said = _render.short_message(item)
            if said is None:
                room, said = -1, _render.message(item)
            elif room >= 0:
                room -= len(said["content"])
            shown.append(said)
    return _request(shown, params, metadata, is_own=room >= 0)


def text_request(prompts: Sequence[str], params: Mapping[str, Any], metadata: Mapping[str, Any]) -> Request:
    """Return the same for a text model, each prompt as a user's message."""
    return _request([{"role": "user", "content": prompt} for prompt in prompts], params, metadata, is_own=False)


def _request(
    messages: list[dict[str, Any]], params: Mapping[str, Any], metadata: Mapping[str, Any], *, is_own: bool
) -> Request:
    asked = {key: value for key, value in params.items() if value is not None and key in _ASKED}
    provider = metadata.get("ls_provider")
    configuration: dict[str, Any] = {
        "model": _text(metadata.get("ls_model_name")) or (_first_text(asked, _MODEL_KEYS) if asked else None),
        "provider": PROVIDERS.get(provider) if isinstance(provider, str) else None,
        "model_params": asked,
        "messages": messages,
    }
    if not asked:
        return Request(configuration, is_own)
    configuration["model_params"] = {key: value for key, value in asked.items() if key in _PARAMETERS}
    tools = asked.get("tools") or asked.get("functions")
    if isinstance(tools, Sequence) and not isinstance(tools, str):
        configuration["functions"] = [
            tool["function"] if isinstance(tool, Mapping) and "function" in tool else tool for tool in tools
        ]
    choice = asked.get("tool_choice", asked.get("function_call"))
    if choice is not None:
        configuration["function_call"] = choice
    return Request(configuration, is_own and all(type(value) in _FIXED for value in asked.values()))


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
    choices = [choice for batch in response.generations for choice in batch]
    if not choices:
        return {}
    first = _message_of(choices[0])
    told = first.get("response_metadata") or _NOTHING
    overall: Mapping[str, Any] = response.llm_output or _NOTHING
    content = first.get("content")
    fields: dict[str, Any] = {"content": _render.text(content)}
    if len(choices) > 1:
        fields["output"] = [_shown(choice) for choice in choices]
    elif first.get("tool_calls") or first.get("invalid_tool_calls") or not isinstance(content, str):
        fields["output"] = _shown(choices[0])
    if told or overall:
        model = _first_text(told, _ANSWERED_MODEL_KEYS) or _first_text(overall, _ANSWERED_MODEL_KEYS)
        if model:
            fields["model"] = model
    usage = _usage(first, told, overall, several=len(choices) > 1)
    if usage:
        fields.update(usage_fields(usage))
    message_id = first.get("id")
    if _was_cached(first, run_id):
        fields.update(cache=True, cache_hit=True, cost=0.0, cost_source="cache")
    answer_id = _text(told.get("id")) or message_id
    if answer_id and not answer_id.startswith("lc_run-") and not _RUN_OF_MESSAGE.match(answer_id):
        fields["gen_ai.response.id"] = answer_id
    reasons = [reason for choice in choices if (reason := _finish_reason(choice))]
    if reasons:
        fields["gen_ai.response.finish_reasons"] = reasons
    return fields


def _message_of(choice: Any) -> Mapping[str, Any]:
    """Return the fields of a choice's message, read where pydantic stores them; of a text model its text as one."""
    said = choice.__dict__.get("message")
    return {"content": choice.__dict__.get("text") or ""} if said is None else said.__dict__


def _shown(choice: Any) -> dict[str, Any]:
    said = choice.__dict__.get("message")
    return {"role": "assistant", **_message_of(choice)} if said is None else _render.message(said)


def _finish_reason(choice: Any) -> str | None:
    told, about = _message_of(choice).get("response_metadata"), choice.__dict__.get("generation_info")
    return (_first_text(told, _REASON_KEYS) if told else None) or (_first_text(about, _REASON_KEYS) if about else None)


def _usage(
    first: Mapping[str, Any], told: Mapping[str, Any], overall: Mapping[str, Any], *, several: bool
) -> Mapping[str, Any] | None:
    """Return the report of tokens to believe: the message's own, except that several choices share one bill."""
    own = first.get("usage_metadata")
    if own is None and not told and not overall:
        return None
    bill: Mapping[str, Any] | None = overall.get("token_usage") or overall.get("usage")
    if several and bill:
        return bill
    if isinstance(own, Mapping) and "input_tokens" in own:
        return own
    found: Mapping[str, Any] | None = told.get("token_usage") or told.get("usage") or bill
    return found


def _was_cached(said: Mapping[str, Any], run_id: Any) -> bool:
    """Tell whether LangChain's own cache gave this message.

    It marks one by a total cost of 0. Before it did so, the id is the only sign: it names the run that made the
    message. That sign is not used where the mark exists: a model that passes on another's message bears it too.
    """
    if _HITS_ARE_MARKED:
        usage = said.get("usage_metadata")
        return usage is not None and isinstance(usage, Mapping) and usage.get("total_cost") == 0
    made_by = _RUN_OF_MESSAGE.match(said.get("id") or "")
    return made_by is not None and made_by[1] != str(run_id)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _first_text(values: Mapping[str, Any], keys: Iterable[str]) -> str | None:
    for key in keys:
        found = values.get(key)
        if found and isinstance(found, str):
            return found
    return None
