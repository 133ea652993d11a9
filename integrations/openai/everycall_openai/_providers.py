"""Who answers: the provider of a client, by its class and the host it talks to. Called at the start of each request.

A host that is not known has no name: half of the world speaks OpenAI's protocol, and a wrong name is a wrong price.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

import openai

from everycall.integration import provider_at

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
_TELL_USAGE: Final = frozenset({"openai", "deepseek", "groq"})
_AZURE_TELLS_SINCE: Final = "2024-09-01"
_DATED: Final = re.compile(r"\d{4}-\d{2}-\d{2}")


def provider_of(client: Any) -> str | None:
    """Return the provider that a client talks to; None when its host is not a known one."""
    kind: Any = type(client)
    return _of_class(kind) or provider_at(str(client.base_url))


@lru_cache(maxsize=1_024)
def _of_class(kind: Any) -> str | None:
    return next((provider for known, provider in _BY_CLASS if issubclass(kind, known)), None)


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
