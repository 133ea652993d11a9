"""The endpoints that are recorded, and the fields of a record that a request's body gives. Used by requests.

Only known parameters of a request are kept: other members of a body may hold keys, such as those of Azure's data
sources.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from everycall.integration import Fields, StreamAccumulator, get_member, to_plain, to_plain_messages
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


class RequestInput(NamedTuple):
    """What a request gives a model: messages, or `inputs` that are none; and parameters that are part of them."""

    messages: list[Any] | None = None
    inputs: object = None
    parameters: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One kind of request: its names, and functions that read its body, its response and the chunks of a stream.

    `operation` is OpenTelemetry's name, `kind` everycall's. `usage_needs_option` says that a stream reports usage only
    if `stream_options.include_usage` asks for it.
    """

    operation: str
    kind: str
    read_input: Callable[[Body], RequestInput]
    read_response: Callable[[Any], Fields]
    accumulator: Callable[[bool], StreamAccumulator] | None
    usage_needs_option: bool = False

    def request_fields(self, body: Body, provider: str | None) -> Fields:
        """Return `llm_configuration` and `inputs`, as `Call.update` takes them."""
        request_input = self.read_input(body)
        configuration: Fields = {
            "model": body.get("model"),
            "provider": provider,
            "model_params": {
                name: to_plain(value)
                for name, value in body.items()
                if name in _PARAMETERS and value is not None and name not in request_input.parameters
                if not (name == "stream" and value is False)  # which `parse` sends and `create` does not
            },
        }
        if request_input.messages is not None:
            configuration["messages"] = request_input.messages
        tools = body.get("tools") or body.get("functions")
        if isinstance(tools, list):
            configuration["functions"] = [to_plain(get_member(tool, "function") or tool) for tool in tools]
        choice = body.get("tool_choice", body.get("function_call"))
        if choice is not None:
            configuration["function_call"] = choice
        return {"llm_configuration": configuration, "inputs": request_input.inputs}


def _chat_input(body: Body) -> RequestInput:
    return RequestInput(to_plain_messages(body.get("messages")))


def _responses_input(body: Body) -> RequestInput:
    """Return the instructions and the input as messages. Items of other kinds stay as they are."""
    value = body.get("input")
    messages: list[Any]
    if value is None:
        messages = []
    elif isinstance(value, str):
        messages = [{"role": "user", "content": value}]
    else:
        messages = to_plain_messages(value)
    instructions = body.get("instructions")
    if instructions is not None:
        messages = [{"role": "system", "content": instructions}, *messages]
    return RequestInput(messages)


def _completions_input(body: Body) -> RequestInput:
    """Return each prompt as a user's message. A prompt is a text, or a list of tokens."""
    prompt = body.get("prompt")
    prompts = prompt if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int) else [prompt]
    return RequestInput([{"role": "user", "content": item} for item in prompts], parameters=("prompt",))


def _embeddings_input(body: Body) -> RequestInput:
    return RequestInput(inputs={"input": body.get("input")})


_ENDPOINTS: Final = {
    "chat/completions": Endpoint("chat", "llm", _chat_input, _responses.chat, _accumulators.Chat, True),
    "completions": Endpoint(
        "text_completion", "llm", _completions_input, _responses.completion, _accumulators.Completion, True
    ),
    "responses": Endpoint("chat", "llm", _responses_input, _responses.response, _accumulators.Response),
    "embeddings": Endpoint("embeddings", "embedding", _embeddings_input, _responses.embeddings, None),
}


def endpoint_of(options: Any) -> Endpoint | None:
    """Return the endpoint of a request; None if the request is not recorded."""
    if options is None or options.method.lower() != "post":
        return None
    return _ENDPOINTS.get(options.url.partition("?")[0].strip("/"))
