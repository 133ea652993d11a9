"""The endpoints that are recorded, and the fields of a record that a request's body gives. Used by requests.

A request is read as the library is about to send it. Whatever the caller passed as contents, tools or schema (texts,
dicts, the library's objects, images, Python functions, classes) has one form there. Only known members are kept:
headers and keys are in none of them. Of a tool that the provider runs only the name is kept, for some have keys.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from everycall.integration import Fields, StreamAccumulator, members
from everycall_google import _accumulators, _responses
from everycall_google._content import items, message, parts, python_names, snake_case

__all__ = ["Endpoint", "EndpointRequest", "parse_request"]

_PATH: Final = re.compile(r"(?P<model>[^?]+):(?P<verb>[A-Za-z]+)(?:\?.*)?\Z", re.DOTALL)
_MODEL: Final = re.compile(r"(?:projects/[^/]+/locations/[^/]+/)?(?:publishers/google/)?(?:models/)?(?P<name>.+)")
_GENERATION_PARAMETERS: Final = ("safetySettings", "cachedContent", "labels", "serviceTier")
"""Parameters that stand beside `generationConfig`."""
_EMBEDDING_PARAMETERS: Final = frozenset({"task_type", "title", "output_dimensionality", "auto_truncate", "mime_type"})

Body = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One kind of request: its names, and functions that read its body, its response and the chunks of a stream.

    `operation` is OpenTelemetry's name, `kind` everycall's. `read_input` returns `llm_configuration` without the model
    and the provider, and `inputs`.
    """

    operation: str
    kind: str
    read_input: Callable[[Body], tuple[Fields, Any]]
    read_response: Callable[[Any], Fields]
    accumulator: Callable[[bool], StreamAccumulator] | None = None


@dataclass(frozen=True, slots=True)
class EndpointRequest:
    """One request that is recorded: its endpoint, its model and its body."""

    endpoint: Endpoint
    model: str
    body: Body

    @property
    def name(self) -> str:
        """The name of its call: the operation and the model."""
        return f"{self.endpoint.operation} {self.model}"

    def fields(self, provider: str | None) -> Fields:
        """Return `llm_configuration` and `inputs`, as `Call.update` takes them."""
        configuration, inputs = self.endpoint.read_input(self.body)
        return {"llm_configuration": {"model": self.model, "provider": provider, **configuration}, "inputs": inputs}


def _generation_input(body: Body) -> tuple[Fields, Any]:
    messages = [message(content) for content in items(body.get("contents"))]
    system = body.get("systemInstruction")
    if system is not None:
        messages.insert(0, {**message(system), "role": "system"})
    parameters = {name: body[name] for name in _GENERATION_PARAMETERS if body.get(name) is not None}
    configuration: Fields = {
        "model_params": python_names({**members(body.get("generationConfig")), **parameters}),
        "messages": messages,
    }
    tools = [function for tool in items(body.get("tools")) for function in _functions(members(tool))]
    if tools:
        configuration["functions"] = tools
    choice = body.get("toolConfig")
    if choice is not None:
        configuration["function_call"] = python_names(choice)
    return configuration, None


def _functions(tool: Body) -> list[Any]:
    """Return a tool's functions as they are declared, and the names of tools that the provider runs."""
    functions: list[Any] = []
    for name, value in tool.items():
        if snake_case(name) == "function_declarations":
            functions += [python_names(function) for function in items(value)]
        elif value is not None:
            functions.append({"type": snake_case(name)})
    return functions


def _embedding_input(body: Body) -> tuple[Fields, Any]:
    """Read a request for embeddings, in each of the three forms that Google's hosts accept."""
    requests = [members(request) for request in items(body.get("requests") or body.get("instances"))]
    if not requests:
        requests = [members(body)]
    first = requests[0]
    sources = (
        first,
        members(first.get("embedContentConfig")),
        members(body.get("parameters")),
        members(body.get("embedContentConfig")),
    )
    options = {snake_case(name): value for source in sources for name, value in source.items()}
    parameters = {name: value for name, value in options.items() if name in _EMBEDDING_PARAMETERS}
    inputs = [_embedded_content(request.get("content")) for request in requests]
    return {"model_params": python_names(parameters)}, {"input": inputs}


def _embedded_content(content: object) -> Any:
    """Return the content that is embedded: a text if it is one text, else its parts."""
    if isinstance(content, str):
        return content
    content_parts = parts(members(content).get("parts"))
    if len(content_parts) == 1 and content_parts[0].get("type") == "text":
        return content_parts[0]["text"]
    return content_parts


_GENERATE: Final = Endpoint(
    "generate_content", "llm", _generation_input, _responses.generation, _accumulators.Generation
)
_EMBED: Final = Endpoint("embeddings", "embedding", _embedding_input, _responses.embedding)
_ENDPOINTS: Final = {
    "generateContent": _GENERATE,
    "streamGenerateContent": _GENERATE,
    "batchEmbedContents": _EMBED,
    "embedContent": _EMBED,
    "predict": _EMBED,
}


def parse_request(method: object, path: object, body: object) -> EndpointRequest | None:
    """Return the endpoint, model and body of a request; None if the request is not recorded."""
    if type(body) is not dict or str(method).lower() != "post" or not isinstance(path, str):
        return None
    match = _PATH.match(path)
    if match is None:
        return None
    endpoint = _ENDPOINTS.get(match["verb"])
    if endpoint is None or (match["verb"] == "predict" and not _is_embedding(body)):
        return None
    name = _MODEL.match(match["model"])
    return EndpointRequest(endpoint, match["model"] if name is None else name["name"], body)


def _is_embedding(body: Body) -> bool:
    """Whether a `predict` of Vertex AI embeds texts; prompts for images have the same verb."""
    instances = items(body.get("instances"))
    return bool(instances) and all("content" in members(instance) for instance in instances)
