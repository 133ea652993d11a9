"""Who answers: the provider of a client, by its class and the host it talks to. Called at the start of each request.

Names are those of OpenTelemetry's GenAI conventions (`gen_ai.provider.name`) where it has one. A host that is not known
has no name: half of the world speaks OpenAI's protocol, and a wrong name is a wrong price.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final
from urllib.parse import urlsplit

import openai

__all__ = ["provider_of", "tells_usage"]

AZURE: Final = "azure.ai.openai"
_BY_CLASS: Final[tuple[tuple[type, str], ...]] = tuple(
    (found, provider)
    for name, provider in (
        ("AzureOpenAI", AZURE),
        ("AsyncAzureOpenAI", AZURE),
        ("BedrockOpenAI", "aws.bedrock"),
        ("AsyncBedrockOpenAI", "aws.bedrock"),
    )
    if isinstance(found := getattr(openai, name, None), type)
)
_BY_HOST: Final = {
    "openai.com": "openai",
    "openai.azure.com": AZURE,
    "cognitiveservices.azure.com": AZURE,
    "services.ai.azure.com": "azure.ai.inference",
    "models.ai.azure.com": "azure.ai.inference",
    "amazonaws.com": "aws.bedrock",
    "api.aws": "aws.bedrock",
    "anthropic.com": "anthropic",
    "api.cohere.ai": "cohere",
    "api.cohere.com": "cohere",
    "api.deepseek.com": "deepseek",
    "api.groq.com": "groq",
    "api.mistral.ai": "mistral_ai",
    "api.moonshot.ai": "moonshot_ai",
    "api.moonshot.cn": "moonshot_ai",
    "api.perplexity.ai": "perplexity",
    "api.x.ai": "x_ai",
    "aiplatform.googleapis.com": "gcp.vertex_ai",
    "generativelanguage.googleapis.com": "gcp.gemini",
    "ml.cloud.ibm.com": "ibm.watsonx.ai",
    "api.cerebras.ai": "cerebras",
    "api.fireworks.ai": "fireworks",
    "api.together.ai": "together",
    "api.together.xyz": "together",
    "integrate.api.nvidia.com": "nvidia",
    "ollama.com": "ollama",
    "openrouter.ai": "openrouter",
    "router.huggingface.co": "huggingface",
}
"""A host, or what it ends in after a dot."""
_GOOGLE_REGION: Final = re.compile(r"[a-z0-9-]+-(?=aiplatform\.googleapis\.com\Z)")
_OLLAMA_PORT: Final = 11434
_TELL_USAGE: Final = frozenset({"openai", "deepseek", "groq"})
_AZURE_TELLS_SINCE: Final = "2024-09-01"
_DATED: Final = re.compile(r"\d{4}-\d{2}-\d{2}")


def provider_of(client: Any) -> str | None:
    """Return the provider that a client talks to; None when its host is not a known one."""
    kind: Any = type(client)
    return _of_class(kind) or _at(str(client.base_url))


@lru_cache(maxsize=1_024)
def _of_class(kind: Any) -> str | None:
    return next((provider for known, provider in _BY_CLASS if issubclass(kind, known)), None)


@lru_cache(maxsize=1_024)
def _at(base_url: str) -> str | None:
    try:
        address = urlsplit(base_url)
        host, port = (address.hostname or "").rstrip("."), address.port
    except ValueError:
        return None
    if port == _OLLAMA_PORT:
        return "ollama"  # nothing else of note listens there, and its models have the names of priced ones
    host = _GOOGLE_REGION.sub("", host)
    for part in (host, *(host[found.end() :] for found in re.finditer(r"\.", host))):
        provider = _BY_HOST.get(part)
        if provider is not None:
            return AZURE if provider == "azure.ai.inference" and address.path.startswith("/openai") else provider
    return None


def tells_usage(provider: str | None, client: Any, body: Mapping[str, Any]) -> bool:
    """Tell whether this provider is known to take `stream_options.include_usage` with this request.

    Azure does so since version 2024-09-01-preview of its API, except for requests with `data_sources`.
    """
    if provider != AZURE:
        return provider in _TELL_USAGE
    if "data_sources" in body:
        return False
    version = client.default_query.get("api-version")
    if not isinstance(version, str):
        return "/openai/v1" in str(client.base_url)
    dated = _DATED.match(version)
    return dated is None or dated[0] >= _AZURE_TELLS_SINCE
