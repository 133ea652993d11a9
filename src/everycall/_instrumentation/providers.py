"""The provider of a model, by the host of its URL. Integrations of clients use it.

Names are those of OpenTelemetry's GenAI conventions (`gen_ai.provider.name`) where it has one. Many providers speak the
protocol of another, so the URL says more than the client's class.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final
from urllib.parse import urlsplit

__all__ = ["provider_at"]

AZURE: Final = "azure.ai.openai"
AZURE_INFERENCE: Final = "azure.ai.inference"
_BY_HOST: Final = {
    "openai.com": "openai",
    "openai.azure.com": AZURE,
    "cognitiveservices.azure.com": AZURE,
    "services.ai.azure.com": AZURE_INFERENCE,
    "models.ai.azure.com": AZURE_INFERENCE,
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
    "aiplatform.eu.rep.googleapis.com": "gcp.vertex_ai",
    "aiplatform.us.rep.googleapis.com": "gcp.vertex_ai",
    "generativelanguage.googleapis.com": "gcp.gemini",
    "ml.cloud.ibm.com": "ibm.watsonx.ai",
    "api.avian.io": "avian",
    "api.cerebras.ai": "cerebras",
    "api.githubcopilot.com": "github-copilot",
    "api.inference.crusoecloud.com": "crusoe",
    "api.minimax.io": "minimax",
    "api.minimaxi.com": "minimax",
    "api.novita.ai": "novita",
    "api.voyageai.com": "voyageai",
    "api.z.ai": "zai",
    "inference.baseten.co": "baseten",
    "oai.endpoints.kepler.ai.cloud.ovh.net": "ovhcloud",
    "open.bigmodel.cn": "zhipuai",
    "snowflakecomputing.com": "snowflake",
    "api.fireworks.ai": "fireworks",
    "api.together.ai": "together",
    "api.together.xyz": "together",
    "integrate.api.nvidia.com": "nvidia",
    "ollama.com": "ollama",
    "openrouter.ai": "openrouter",
    "router.huggingface.co": "huggingface",
}
"""Providers by host name, or by the end of a host name after a dot."""
_GOOGLE_REGION: Final = re.compile(r"[a-z0-9-]+-(?=aiplatform\.googleapis\.com\Z)")
_OLLAMA_PORT: Final = 11434


@lru_cache(maxsize=1_024)
def provider_at(base_url: str) -> str | None:
    """Return the provider at a URL; None for an unknown host or an invalid URL."""
    try:
        url = urlsplit(base_url)
        host, port = (url.hostname or "").rstrip("."), url.port
    except ValueError:
        return None
    if port == _OLLAMA_PORT:
        return "ollama"  # no other model server uses this port, and Ollama's models have the names of priced ones
    host = _GOOGLE_REGION.sub("", host)
    for suffix in (host, *(host[dot.end() :] for dot in re.finditer(r"\.", host))):
        provider = _BY_HOST.get(suffix)
        if provider is not None:
            return AZURE if provider == AZURE_INFERENCE and url.path.startswith("/openai") else provider
    return None
