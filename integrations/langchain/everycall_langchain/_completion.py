"""A model's request and response, from LangChain's objects to the fields of a completion.

Nothing is guessed: a provider is named only if LangChain's name for it is known, and what was not reported stays
unknown. Only known parameters of a request are kept: the rest of a model object may hold keys or scripted answers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import Any, Final, NamedTuple

from langchain_core.messages import BaseMessage
from langchain_core.outputs import LLMResult

from everycall import limits
from everycall_langchain import _render, _usage

__all__ = ["Request", "has_output", "request", "response_fields", "text_request"]

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
"""LangChain's `ls_provider`, with the name in OpenTelemetry's GenAI conventions (`gen_ai.provider.name`).

A model class that names no provider has its own class name as `ls_provider`, which is not in this table.
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
_SERVER_KEYS: Final = frozenset({"authorization", "authorization_token"})
"""Members of a remote server among the tools that hold a key."""
_IMMUTABLE: Final = frozenset({str, bool})
_MODEL_KEYS: Final = ("model", "model_name", "model_id", "deployment_name", "azure_deployment")
_RESPONSE_MODEL_KEYS: Final = ("model_name", "model", "model_id")
_REQUEST_KEYS: Final = frozenset({*_PARAMETERS, *_MODEL_KEYS, "tools", "functions", "tool_choice", "function_call"})
_RESPONSE_MEMBERS: Final = ("content", "tool_calls", "invalid_tool_calls", "additional_kwargs", "usage_metadata")
"""Members of a message that hold what a model has said or used."""
_PLAIN_MEMBERS: Final = frozenset({"role", "content", "name"})
_RECORDED_METADATA: Final = frozenset(
    {"token_usage", "usage", "headers", "body", "metadata", "incomplete_details", "ResponseMetadata", "metrics"}
)
"""Members of `response_metadata` that are recorded elsewhere, or are of the transport."""
_REASON_KEYS: Final = ("finish_reason", "stop_reason", "done_reason")
_RUN_ID: Final = re.compile(r"(?:lc_)?run-{1,2}([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})")

_EMPTY: Final[Mapping[str, Any]] = {}
_HITS_ARE_MARKED: Final = tuple(int(part) for part in re.findall(r"\d+", version("langchain-core"))[:3]) >= (0, 3, 73)


class Request(NamedTuple):
    """A request as it is recorded. `is_own` says that nobody else holds any part of it that can change."""

    configuration: dict[str, Any]
    is_own: bool


def request(
    messages: Sequence[Sequence[BaseMessage]], params: Mapping[str, Any], metadata: Mapping[str, Any]
) -> Request:
    """Return a request to a chat model.

    `params` are LangChain's invocation parameters; `metadata` has its `ls_*` keys. A run has one list of messages;
    several are joined.
    """
    rendered: list[dict[str, Any]] = []
    remaining_chars = limits.CAPTURE_TEXT_MAX
    for chat in messages:
        for message in chat:
            short = _render.short_message(message)
            if short is None:
                remaining_chars = -1
                rendered.append(_render.message(message))
            else:
                if remaining_chars >= 0:
                    remaining_chars -= len(short["content"])
                rendered.append(short)
    return _request(rendered, params, metadata, is_own=remaining_chars >= 0)


def text_request(prompts: Sequence[str], params: Mapping[str, Any], metadata: Mapping[str, Any]) -> Request:
    """Return a request to a text model, each prompt as a user's message."""
    return _request([{"role": "user", "content": prompt} for prompt in prompts], params, metadata, is_own=False)


def _request(
    messages: list[dict[str, Any]], params: Mapping[str, Any], metadata: Mapping[str, Any], *, is_own: bool
) -> Request:
    parameters = {key: value for key, value in params.items() if value is not None and key in _REQUEST_KEYS}
    provider = metadata.get("ls_provider")
    configuration: dict[str, Any] = {
        "model": _text(metadata.get("ls_model_name")) or (_first_text(parameters, _MODEL_KEYS) if parameters else None),
        "provider": PROVIDERS.get(provider) if isinstance(provider, str) else None,
        "model_params": parameters,
        "messages": messages,
    }
    if not parameters:
        return Request(configuration, is_own)
    configuration["model_params"] = {key: value for key, value in parameters.items() if key in _PARAMETERS}
    tools = parameters.get("tools") or parameters.get("functions")
    if isinstance(tools, Sequence) and not isinstance(tools, str):
        configuration["functions"] = [_tool(tool) for tool in tools]
    choice = parameters.get("tool_choice", parameters.get("function_call"))
    if choice is not None:
        configuration["function_call"] = choice
    return Request(configuration, is_own and all(type(value) in _IMMUTABLE for value in parameters.values()))


def _tool(tool: Any) -> Any:
    """Return a tool of a request: a function as it is described, and a remote server without its keys."""
    if not isinstance(tool, Mapping):
        return tool
    if "function" in tool:
        return tool["function"]
    if tool.get("type") != "mcp":
        return tool
    masked = {name: _render.mask_headers(name, value) for name, value in tool.items()}
    return {name: _render.MASK if name in _SERVER_KEYS and value else value for name, value in masked.items()}


def has_output(result: LLMResult) -> bool:
    """Return whether a result, such as the partial one of a failed stream, has anything that a model said."""
    if not result.generations or not result.generations[0]:
        return False
    first = result.generations[0][0]
    message = getattr(first, "message", None)
    if message is None:
        return bool(first.text)
    stored = message.__dict__
    return any(stored.get(name) for name in _RESPONSE_MEMBERS)


def response_fields(result: LLMResult, run_id: Any) -> dict[str, Any]:
    """Return what a result says, for `Call.update`: fields of the record, and span attributes (id, finish reasons).

    `content` is the text of the first choice. `output` is the message if the text is not the whole answer: with tool
    calls, blocks other than text, reasoning, a refusal, citations; of several choices, the list of messages.
    """
    choices = [choice for batch in result.generations for choice in batch]
    if not choices:
        return {}
    first = _message_of(choices[0])
    metadata = first.get("response_metadata") or _EMPTY
    overall: Mapping[str, Any] = result.llm_output or _EMPTY
    content = first.get("content")
    fields: dict[str, Any] = {"content": content if type(content) is str else _render.text(content)}
    output = [_shown(choice) for choice in choices] if len(choices) > 1 else _output(choices[0], first, metadata)
    if output is not None:
        fields["output"] = output
    if metadata or overall:
        model = _first_text(metadata, _RESPONSE_MODEL_KEYS) or _first_text(overall, _RESPONSE_MODEL_KEYS)
        if model:
            fields["model"] = model
    if metadata or overall or first.get("usage_metadata") is not None:
        fields.update(_usage.response_usage(first, metadata, overall, has_several_choices=len(choices) > 1))
    message_id = first.get("id")
    if _is_cache_hit(first, run_id):
        fields.update(cache=True, cache_hit=True, cost=0.0, cost_source="cache")
    response_id = _text(metadata.get("id")) or message_id
    if response_id and not response_id.startswith("lc_run-") and not _RUN_ID.match(response_id):
        fields["gen_ai.response.id"] = response_id
    if reasons := _finish_reasons(choices):
        fields["gen_ai.response.finish_reasons"] = reasons
    return fields


def _output(choice: Any, message: Mapping[str, Any], metadata: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the message of a choice if it has more than a text; None otherwise."""
    is_text = isinstance(message.get("content"), str)
    if is_text and not (
        message.get("tool_calls")
        or message.get("invalid_tool_calls")
        or message.get("additional_kwargs")
        or _further_metadata(metadata)
    ):
        return None
    rendered = _shown(choice)
    return None if is_text and rendered.keys() <= _PLAIN_MEMBERS else rendered


def _message_of(choice: Any) -> Mapping[str, Any]:
    """Return the fields of a choice's message, read where pydantic stores them. A text model has only a text."""
    message = choice.__dict__.get("message")
    return {"content": choice.__dict__.get("text") or ""} if message is None else message.__dict__


def _shown(choice: Any) -> dict[str, Any]:
    message = choice.__dict__.get("message")
    if message is None:
        return {"role": "assistant", **_message_of(choice)}
    rendered = _render.message(message)
    further = _further_metadata(message.__dict__.get("response_metadata") or _EMPTY)
    return {**rendered, "response_metadata": further} if further else rendered


def _further_metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a provider says about its answer: citations, log probabilities, filters. Not single values."""
    return {
        name: value
        for name, value in metadata.items()
        if value and type(value) in (dict, list) and name not in _RECORDED_METADATA
    }


def _finish_reasons(choices: Sequence[Any]) -> list[str]:
    reasons = []
    for choice in choices:
        for values in (_message_of(choice).get("response_metadata"), choice.__dict__.get("generation_info")):
            if values and (reason := _first_text(values, _REASON_KEYS)):
                reasons.append(reason)
                break
    return reasons


def _is_cache_hit(message: Mapping[str, Any], run_id: Any) -> bool:
    """Return whether a message comes from LangChain's own cache.

    LangChain marks it by a total cost of 0. Older versions do not; there, the message's id names the run that made it.
    The id is not used with newer versions, where it is also that of a message which a model passes on.
    """
    if _HITS_ARE_MARKED:
        usage = message.get("usage_metadata")
        return usage is not None and isinstance(usage, Mapping) and usage.get("total_cost") == 0
    maker = _RUN_ID.match(message.get("id") or "")
    return maker is not None and maker[1] != str(run_id)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _first_text(values: Mapping[str, Any], keys: Iterable[str]) -> str | None:
    for key in keys:
        value = values.get(key)
        if value and isinstance(value, str):
            return value
    return None
