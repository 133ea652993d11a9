"""Names of providers: what senders write, as OpenTelemetry's GenAI conventions name them."""

from __future__ import annotations

from typing import Final

__all__ = ["provider_name"]

_SPELLINGS: Final = {
    "az.ai.openai": "azure.ai.openai",
    "azure": "azure.ai.openai",
    "azure_openai": "azure.ai.openai",
    "azureopenai": "azure.ai.openai",
    "azure-openai": "azure.ai.openai",
    "az.ai.inference": "azure.ai.inference",
    "aws": "aws.bedrock",
    "bedrock": "aws.bedrock",
    "amazon_bedrock": "aws.bedrock",
    "amazon-bedrock": "aws.bedrock",
    "gemini": "gcp.gemini",
    "google": "gcp.gemini",
    "google_genai": "gcp.gemini",
    "google-genai": "gcp.gemini",
    "google-gla": "gcp.gemini",
    "google.generative-ai": "gcp.gemini",
    "gcp.gen_ai": "gcp.gemini",
    "vertexai": "gcp.vertex_ai",
    "vertex_ai": "gcp.vertex_ai",
    "google-vertex": "gcp.vertex_ai",
    "google.vertex": "gcp.vertex_ai",
    "google_vertexai": "gcp.vertex_ai",
    "mistral": "mistral_ai",
    "mistralai": "mistral_ai",
    "moonshot": "moonshot_ai",
    "moonshotai": "moonshot_ai",
    "xai": "x_ai",
    "watsonx": "ibm.watsonx.ai",
}
_FRAMEWORKS: Final = frozenset(
    {
        *("autogen", "crewai", "dspy", "haystack", "langchain", "langgraph", "llamaindex", "llama_index", "mlflow"),
        *("microsoft.agent_framework", "openai_agents", "openai-agents", "pydantic-ai", "pydantic_ai", "smolagents"),
        *("semantic_kernel", "strands", "strands-agents", "strands_agents", "unknown", "vercel", "workflow"),
    }
)
"""Frameworks that senders write in place of the provider, which stays unknown."""
_ENDPOINTS: Final = frozenset(
    {"chat", "completion", "completions", "embedding", "embeddings", "image", "messages", "responses", "transcription"}
)


def provider_name(value: object) -> str | None:
    """Return a provider's name, or None for any other value, such as a framework."""
    if not isinstance(value, str):
        return None
    name = value.strip().lower()
    if "." in name and name.rpartition(".")[2] in _ENDPOINTS:  # Vercel's "openai.chat"
        name = name.rpartition(".")[0]
    if not name or name in _FRAMEWORKS:
        return None
    return _SPELLINGS.get(name, name)
