"""What a request asks: the endpoint it goes to, and the fields of a record that its body gives. Called by exchanges.

Only known parameters of a request are kept: what else a body holds may be keys, such as those of Azure's data sources.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from everycall.integration import Gathering, plain, plain_messages, read
from everycall_openai import _accumulators, _responses

__all__ = ["Endpoint", "endpoint_of"]

_PARAMETERS: Final = frozenset(
    {
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "n",
        "best_of",
        "echo",
        "suffix",
        "max_tokens",
        "max_completion_tokens",
        "max_output_tokens",
        "max_tool_calls",
        "stop",
        "seed",
        "frequency_penalty",
        "presence_penalty",
        "repetition_penalty",
        "logit_bias",
        "logprobs",
        "top_logprobs",
        "response_format",
        "text",
        "parallel_tool_calls",
        "reasoning",
        "reasoning_effort",
        "verbosity",
        "service_tier",
        "stream",
        "stream_options",
        "modalities",
        "audio",
        "prediction",
        "web_search_options",
        "truncation",
        "previous_response_id",
        "conversation",
        "prompt",
        "include",
        "background",
        "store",
        "metadata",
        "user",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "dimensions",
        "encoding_format",
    }
)

Body = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One kind of request: what it is called, and who reads its body, its answer, and the pieces of a streamed one.

    `operation` is OpenTelemetry's name of it, `kind` everycall's. `asks` returns what is asked, beside the
    configuration. `streams_usage` says that a stream has usage only if `stream_options.include_usage` asks for it.
    """

    operation: str
    kind: str
    asks: Callable[[Body], dict[str, Any]]
    answers: Callable[[Any], dict[str, Any]]
    gathers: Callable[[bool], Gathering] | None
    streams_usage: bool = False

    def fields(self, body: Body, provider: str | None) -> dict[str, Any]:
        """Return `llm_configuration` and what else a record says of a request, as `Call.update` takes it."""
        asked = self.asks(body)
        configuration: dict[str, Any] = {
            "model": body.get("model"),
            "provider": provider,
            "model_params": {
                name: plain(value)
                for name, value in body.items()
                if name in _PARAMETERS and value is not None and name not in asked.get("but", ())
                if not (name == "stream" and value is False)  # which `parse` says and `create` does not
            },
        }
        messages = asked.get("messages")
        if messages is not None:
            configuration["messages"] = messages
        tools = body.get("tools") or body.get("functions")
        if isinstance(tools, list):
            configuration["functions"] = [plain(read(tool, "function") or tool) for tool in tools]
        choice = body.get("tool_choice", body.get("function_call"))
        if choice is not None:
            configuration["function_call"] = choice
        return {"llm_configuration": configuration, "inputs": asked.get("inputs")}


def _chat_input(body: Body) -> dict[str, Any]:
    return {"messages": plain_messages(body.get("messages"))}


def _responses_input(body: Body) -> dict[str, Any]:
    """Return the instructions and the input as messages; items that are no messages stay what they are."""
    asked = body.get("input")
    messages: list[Any]
    if asked is None:
        messages = []
    elif isinstance(asked, str):
        messages = [{"role": "user", "content": asked}]
    else:
        messages = plain_messages(asked)
    instructions = body.get("instructions")
    if instructions is not None:
        messages = [{"role": "system", "content": instructions}, *messages]
    return {"messages": messages}


def _completions_input(body: Body) -> dict[str, Any]:
    """Return each prompt as a user's message: a text, or the tokens it was given as."""
    prompt = body.get("prompt")
    prompts = prompt if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int) else [prompt]
    return {"messages": [{"role": "user", "content": item} for item in prompts], "but": ("prompt",)}


def _embeddings_input(body: Body) -> dict[str, Any]:
    return {"inputs": {"input": body.get("input")}}


_ENDPOINTS: Final = {
    "chat/completions": Endpoint("chat", "llm", _chat_input, _responses.chat, _accumulators.Chat, streams_usage=True),
    "completions": Endpoint(
        "text_completion",
        "llm",
        _completions_input,
        _responses.completion,
        _accumulators.Completion,
        streams_usage=True,
    ),
    "responses": Endpoint("chat", "llm", _responses_input, _responses.response, _accumulators.Response),
    "embeddings": Endpoint("embeddings", "embedding", _embeddings_input, _responses.embeddings, None),
}


def endpoint_of(options: Any) -> Endpoint | None:
    """Return the endpoint of a request that is recorded; None for all the others."""
    if options is None or options.method.lower() != "post":
        return None
    return _ENDPOINTS.get(options.url.partition("?")[0].strip("/"))
