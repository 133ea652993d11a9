"""What a request asks: the endpoint it goes to, and the fields of a record that its body gives. Called by exchanges.

A request is read as the library is about to send it: whatever a caller gave as contents, tools or schema (texts, dicts,
the library's objects, images, Python functions, classes) has one form there. Only known members are kept: headers and
keys are in none of them, and of tools that the provider runs the name alone, for some bear keys.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from everycall.integration import Gathering, members
from everycall_google import _accumulators, _responses
from everycall_google._content import items, message, named, parts, snake

__all__ = ["Endpoint", "Request", "request_of"]

_PATH: Final = re.compile(r"(?P<model>[^?]+):(?P<verb>[A-Za-z]+)(?:\?.*)?\Z", re.DOTALL)
_MODEL: Final = re.compile(r"(?:projects/[^/]+/locations/[^/]+/)?(?:publishers/google/)?(?:models/)?(?P<name>.+)")
_BESIDE: Final = ("safetySettings", "cachedContent", "labels", "serviceTier")
_EMBEDDED: Final = ("taskType", "title", "outputDimensionality", "autoTruncate", "mimeType")

Body = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One kind of request: what it is called, and who reads its body, its answer, and the pieces of a streamed one.

    `operation` is OpenTelemetry's name of it, `kind` everycall's. `asks` returns `llm_configuration` but for the model
    and the provider, and `inputs`.
    """

    operation: str
    kind: str
    asks: Callable[[Body], tuple[dict[str, Any], Any]]
    answers: Callable[[Any], dict[str, Any]]
    gathers: Callable[[bool], Gathering] | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """One request that is recorded: its endpoint, the model that is asked, and the body."""

    endpoint: Endpoint
    model: str
    body: Body

    @property
    def name(self) -> str:
        """The name of its call: the operation and the model."""
        return f"{self.endpoint.operation} {self.model}"

    def fields(self, provider: str | None) -> dict[str, Any]:
        """Return `llm_configuration` and what else a record says of a request, as `Call.update` takes it."""
        asked, inputs = self.endpoint.asks(self.body)
        return {"llm_configuration": {"model": self.model, "provider": provider, **asked}, "inputs": inputs}


def _generation(body: Body) -> tuple[dict[str, Any], Any]:
    messages = [message(content) for content in items(body.get("contents"))]
    system = body.get("systemInstruction")
    if system is not None:
        messages.insert(0, {**message(system), "role": "system"})
    beside = {name: body[name] for name in _BESIDE if body.get(name) is not None}
    asked: dict[str, Any] = {
        "model_params": named({**members(body.get("generationConfig")), **beside}),
        "messages": messages,
    }
    tools = [shown for tool in items(body.get("tools")) for shown in _tools(members(tool))]
    if tools:
        asked["functions"] = tools
    choice = body.get("toolConfig")
    if choice is not None:
        asked["function_call"] = named(choice)
    return asked, None


def _tools(tool: Body) -> list[Any]:
    """Return a tool's functions as they are declared, and the names of what the provider runs itself."""
    shown: list[Any] = []
    for name, value in tool.items():
        if snake(name) == "function_declarations":
            shown += [named(function) for function in items(value)]
        elif value is not None:
            shown.append({"type": snake(name)})
    return shown


def _embedding(body: Body) -> tuple[dict[str, Any], Any]:
    """Read a request for embeddings, of each of the three forms that Google's hosts take."""
    asked = [members(one) for one in items(body.get("requests") or body.get("instances"))] or [members(body)]
    beside = (members(body.get("parameters")), members(body.get("embedContentConfig")))
    inner = members(asked[0].get("embedContentConfig"))
    options = {snake(name): value for held in (asked[0], inner, *beside) for name, value in held.items()}
    given = [_embedded(one.get("content")) for one in asked]
    known = {snake(name) for name in _EMBEDDED}
    return {"model_params": named({k: v for k, v in options.items() if k in known})}, {"input": given}


def _embedded(content: Any) -> Any:
    """Return what is to be embedded: a text where it is one text, else its parts."""
    if isinstance(content, str):
        return content
    found = parts(members(content).get("parts"))
    return found[0]["text"] if len(found) == 1 and found[0].get("type") == "text" else found


_GENERATE: Final = Endpoint("generate_content", "llm", _generation, _responses.generated, _accumulators.Generated)
_EMBED: Final = Endpoint("embeddings", "embedding", _embedding, _responses.embedded)
_ENDPOINTS: Final = {
    "generateContent": _GENERATE,
    "streamGenerateContent": _GENERATE,
    "batchEmbedContents": _EMBED,
    "embedContent": _EMBED,
    "predict": _EMBED,
}


def request_of(method: Any, path: Any, body: Any) -> Request | None:
    """Return a request to a model that is recorded; None for all the others."""
    if type(body) is not dict or str(method).lower() != "post" or not isinstance(path, str):
        return None
    found = _PATH.match(path)
    endpoint = _ENDPOINTS.get(found["verb"]) if found is not None else None
    if found is None or endpoint is None or (found["verb"] == "predict" and not _is_embedding(body)):
        return None
    name = _MODEL.match(found["model"])
    return Request(endpoint, name["name"] if name is not None else found["model"], body)


def _is_embedding(body: Body) -> bool:
    """Tell texts to be embedded from prompts for images, which go the same way at Vertex AI."""
    instances = items(body.get("instances"))
    return bool(instances) and all("content" in members(one) for one in instances)
