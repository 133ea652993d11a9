"""What a request asks: the endpoint it goes to, and the fields of a record that its body gives. Called by exchanges.

Only known parameters of a request are kept: what else a body holds may be keys, such as those of MCP servers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import anthropic

from everycall.integration import Gathering, plain, plain_messages, read
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
_NOT_GIVEN: Final = tuple(
    found for name in ("Omit", "NotGiven") if isinstance(found := getattr(anthropic, name, None), type)
)
"""What stands for a parameter that the caller left out, until the library drops it."""
_BATCHES: Final = "messages/batches/"
_RESULTS: Final = "/results"

Body = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class MessageEndpoint:
    """One kind of request to a model; see `everycall.integration.StainlessExchange`."""

    operation: str
    asks: Callable[[Body], list[Any]]
    answers: Callable[[Any], dict[str, Any]]
    gathers: Callable[[bool], Gathering] | None
    kind: str = "llm"

    def fields(self, body: Body, provider: str | None) -> dict[str, Any]:
        """Return `llm_configuration`, with Anthropic's own shape of messages and tools."""
        given = {name: value for name, value in body.items() if value is not None and not isinstance(value, _NOT_GIVEN)}
        configuration: dict[str, Any] = {
            "model": given.get("model"),
            "provider": provider,
            "model_params": {
                name: plain(value)
                for name, value in given.items()
                if name in _PARAMETERS and not (name == "stream" and value is False)
            },
            "messages": self.asks(given),
        }
        if "tools" in given:
            configuration["functions"] = plain(given["tools"])
        if "tool_choice" in given:
            configuration["function_call"] = given["tool_choice"]
        if "mcp_servers" in given:
            configuration["model_params"]["mcp_servers"] = [read(server, "name") for server in given["mcp_servers"]]
        return {"llm_configuration": configuration}


def _messages(body: Body) -> list[Any]:
    """Return the messages, that of the system first: a text, or blocks."""
    messages = plain_messages(body.get("messages"))
    system = body.get("system")
    return messages if system is None else [{"role": "system", "content": plain(system)}, *messages]


def _prompt(body: Body) -> list[Any]:
    return [{"role": "user", "content": body.get("prompt")}]


_ENDPOINTS: Final = {
    "messages": MessageEndpoint("chat", _messages, _responses.message, _accumulators.Message),
    "complete": MessageEndpoint("text_completion", _prompt, _responses.completion, _accumulators.Completion),
}


@dataclass(frozen=True, slots=True)
class BatchEndpoint:
    """The results of one batch of requests, which are read like a stream."""

    batch: str
    operation: str = "message_batch"
    kind: str = "chain"
    gathers: None = None

    def answers(self, answer: Any) -> dict[str, Any]:  # noqa: ARG002 - results are never here whole
        """Return nothing."""
        return {}

    def fields(self, body: Body, provider: str | None) -> dict[str, Any]:  # noqa: ARG002 - as every endpoint
        """Return the batch that is asked for."""
        return {"inputs": {"message_batch_id": self.batch}}


def endpoint_of(request: Any) -> MessageEndpoint | BatchEndpoint | None:
    """Return the endpoint of a request that is recorded; None for all the others."""
    if request is None:
        return None
    path = urlsplit(request.url).path.strip("/")
    if request.method.lower() == "post":
        return _ENDPOINTS.get(path.removeprefix("v1/"))
    _, _, rest = path.partition(_BATCHES)
    batch = rest.removesuffix(_RESULTS)
    return BatchEndpoint(batch) if rest != batch and batch and "/" not in batch else None
