"""The provider gateway: runs completions on OpenAI, Azure, Anthropic and compatible servers."""

from everycall.server.gateway.gateway import Gateway
from everycall.server.gateway.request import CompletionRequest, CompletionResponse
from everycall.server.provider_settings import ProviderSettings, provider_settings

__all__ = ["CompletionRequest", "CompletionResponse", "Gateway", "ProviderSettings", "provider_settings"]
