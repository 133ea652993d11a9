"""The endpoints that are recorded, and the fields of a record that a request's body gives. Used by requests.

Only known parameters of a request are kept: other members of a body may hold keys, such as those of MCP servers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import anthropic

from everycall.integration import Fields, StreamAccumulator, get_member, to_plain, to_plain_messages
from everycall_anthropic import _accumulators, _responses

__all__ = ["SCOPE", "BatchEndpoint", "MessageEndpoint", "endpoint_of"]

SCOPE: Final = "everycall_anthropic"

_PARAMETERS: Final = frozenset(
    {
        *("max_tokens", "max_tokens_to_sample", "temperature", "top_p", "top_k", "stop_sequences", "stream"),
        *("thinking", "output_config", "output_format", "service_tier", "inference_geo", "speed", "metadata"),
        *("cache_control", "container", "context_management", "compaction", "billing_policy", "diagnostics"),
        *("fallbacks", "thread"),
    }
)
_OMITTED: Final = tuple(cls for name in ("Omit", "NotGiven") if isinstance(cls := getattr(anthropic, name, None), type))
"""What stands for a parameter that the caller left out, until the library removes it."""
_BATCHES_PATH: Final = "messages/batches/"
_RESULTS_PATH: Final = "/results"

Body = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class MessageEndpoint:
    """One kind of request to a model; see `everycall.integration.StainlessRequest`."""

    operation: str
    read_messages: Callable[[Body], list[Any]]
    read_response: Callable[[Any], Fields]
    accumulator: Callable[[bool], StreamAccumulator] | None
    kind: str = "llm"

    def request_fields(self, body: Body, provider: str | None) -> Fields:
        """Return `llm_configuration`, with messages and tools in Anthropic's own shape."""
        values = {name: value for name, value in body.items() if value is not None and not isinstance(value, _OMITTED)}
        parameters = {
            name: to_plain(value)
            for name, value in values.items()
            if name in _PARAMETERS and not (name == "stream" and value is False)
        }
        if "mcp_servers" in values:
            parameters["mcp_servers"] = [get_member(server, "name") for server in values["mcp_servers"]]
        configuration: Fields = {
            "model": values.get("model"),
            "provider": provider,
            "model_params": parameters,
            "messages": self.read_messages(values),
        }
        if "tools" in values:
            configuration["functions"] = to_plain(values["tools"])
        if "tool_choice" in values:
            configuration["function_call"] = values["tool_choice"]
        return {"llm_configuration": configuration}


def _messages(body: Body) -> list[Any]:
    """Return the messages, with the system prompt (a text, or blocks) first."""
    messages = to_plain_messages(body.get("messages"))
    system = body.get("system")
    return messages if system is None else [{"role": "system", "content": to_plain(system)}, *messages]


def _prompt(body: Body) -> list[Any]:
    return [{"role": "user", "content": body.get("prompt")}]


_ENDPOINTS: Final = {
    "messages": MessageEndpoint("chat", _messages, _responses.message, _accumulators.Message),
    "complete": MessageEndpoint("text_completion", _prompt, _responses.completion, _accumulators.Completion),
}


@dataclass(frozen=True, slots=True)
class BatchEndpoint:
    """The results of one batch of requests, which are read as a stream."""

    batch_id: str
    operation: str = "message_batch"
    kind: str = "chain"
    accumulator: None = None

    def read_response(self, response: object) -> Fields:  # noqa: ARG002 - the results never come as a whole
        """Return nothing."""
        return {}

    def request_fields(self, body: Body, provider: str | None) -> Fields:  # noqa: ARG002 - as every endpoint
        """Return the batch whose results are read."""
        return {"inputs": {"message_batch_id": self.batch_id}}


def endpoint_of(request: Any) -> MessageEndpoint | BatchEndpoint | None:
    """Return the endpoint of a request; None if the request is not recorded."""
    if request is None:
        return None
    path = urlsplit(request.url).path.strip("/")
    if request.method.lower() == "post":
        return _ENDPOINTS.get(path.removeprefix("v1/"))
    _, _, rest = path.partition(_BATCHES_PATH)
    batch_id = rest.removesuffix(_RESULTS_PATH)
    has_results = rest != batch_id
    return BatchEndpoint(batch_id) if has_results and batch_id and "/" not in batch_id else None
