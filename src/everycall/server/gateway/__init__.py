"""The provider gateway: runs completions on OpenAI, Azure, Anthropic and compatible servers."""

from everycall.server.gateway.gateway import Gateway
from everycall.server.gateway.request import CompletionAnswer, CompletionRequest
from everycall.server.provider_settings import ProviderSettings, provider_settings

__all__ = ["CompletionAnswer", "CompletionRequest", "Gateway", "ProviderSettings", "provider_settings"]
