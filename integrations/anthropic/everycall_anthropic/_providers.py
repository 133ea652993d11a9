"""The provider of a client, by its class and its host. Called at the start of each request.

An unknown host has no provider: other servers speak Anthropic's protocol too, and a wrong provider means a wrong price.
"""

from __future__ import annotations

from typing import Any, Final

import anthropic

from everycall.integration import provider_at

__all__ = ["provider_of"]

_PLATFORMS: Final = {
    "Bedrock": "aws.bedrock",
    "BedrockMantle": "aws.bedrock",
    "Vertex": "gcp.vertex_ai",
    "Foundry": "azure.ai.inference",
    "AWS": "anthropic",
    "GoogleCloud": "anthropic",
}
"""The last two are Anthropic's own platform, which others sell."""
_BY_CLASS: Final[tuple[tuple[type, str], ...]] = tuple(
    (cls, provider)
    for platform, provider in _PLATFORMS.items()
    for name in (f"Anthropic{platform}", f"AsyncAnthropic{platform}")
    if isinstance(cls := getattr(anthropic, name, None), type)
)
_CLIENTS: Final = frozenset({anthropic.Anthropic, anthropic.AsyncAnthropic})
"""The clients whose provider only their host tells."""


def provider_of(client: Any) -> str | None:
    """Return the provider of a client; None if its host is unknown."""
    return _provider_of_class(type(client)) or provider_at(str(client.base_url))


def _provider_of_class(cls: type) -> str | None:
    if cls in _CLIENTS:
        return None
    return next((provider for base, provider in _BY_CLASS if issubclass(cls, base)), None)
