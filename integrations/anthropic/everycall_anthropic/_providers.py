"""Who answers: the provider of a client, by its class and the host it talks to. Called at the start of each request.

A host that is not known has no name: others speak Anthropic's protocol too, and a wrong name is a wrong price.
"""

from __future__ import annotations

from functools import lru_cache
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
"""The last two are Anthropic's own platform, sold by others."""
_BY_CLASS: Final[tuple[tuple[type, str], ...]] = tuple(
    (found, provider)
    for platform, provider in _PLATFORMS.items()
    for name in (f"Anthropic{platform}", f"AsyncAnthropic{platform}")
    if isinstance(found := getattr(anthropic, name, None), type)
)


def provider_of(client: Any) -> str | None:
    """Return the provider that a client talks to; None when its host is not a known one."""
    kind: Any = type(client)
    return _of_class(kind) or provider_at(str(client.base_url))


@lru_cache(maxsize=1_024)
def _of_class(kind: Any) -> str | None:
    return next((provider for known, provider in _BY_CLASS if issubclass(kind, known)), None)
