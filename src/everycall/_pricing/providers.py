"""Names of providers, as records have them and as the price list spells them."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["list_id", "normalized"]

_LIST_IDS: Final = {
    "azure.ai.openai": "azure",
    "azure.ai.inference": "azure",
    "az.ai.openai": "azure",
    "az.ai.inference": "azure",
    "azure_openai": "azure",
    "azure-openai": "azure",
    "azureopenai": "azure",
    "azure_ai": "azure",
    "aws.bedrock": "aws",
    "bedrock": "aws",
    "amazon_bedrock": "aws",
    "amazon-bedrock": "aws",
    "bedrock_converse": "aws",
    "gcp.gemini": "google",
    "gcp.vertex_ai": "google",
    "gcp.gen_ai": "google",
    "gemini": "google",
    "google_genai": "google",
    "google_vertexai": "google",
    "google_anthropic_vertex": "google",
    "google-vertex": "google",
    "google-gla": "google",
    "vertex": "google",
    "vertex_ai": "google",
    "vertexai": "google",
    "x_ai": "x-ai",
    "xai": "x-ai",
    "mistral_ai": "mistral",
    "mistralai": "mistral",
    "moonshot_ai": "moonshotai",
    "moonshot": "moonshotai",
    "together_ai": "together",
    "together-ai": "together",
    "fireworks_ai": "fireworks",
    "fireworks-ai": "fireworks",
    "z.ai": "zai",
    "z_ai": "zai",
    "voyage": "voyageai",
}
"""Names in OpenTelemetry, LangChain and Parea, each with the price list's id where that differs."""
_APIS: Final = frozenset({"chat", "responses", "completion", "messages", "embedding", "generative-ai"})
"""The last part of a provider's name in Vercel's AI SDK, as in `openai.responses`."""
_LEAKED_CLASS: Final = re.compile(r"^BaseProvider\('.*'\)$")
"""What Parea's API answers for some models instead of a provider."""


def normalized(provider: str | None) -> str | None:
    """Return a provider's name in lower case, or None if the record has none."""
    if provider is None or _LEAKED_CLASS.match(provider):
        return None
    name = provider.strip().lower()
    return None if name in ("", "langchain") else name


def list_id(provider: str) -> str:
    """Return the price list's id of a normalized name: the name itself if no other is known."""
    vendor, _, api = provider.rpartition(".")
    name = vendor if api in _APIS else provider
    return _LIST_IDS.get(name, name)
