"""The provider of a client, by its class and its host. Called at the start of each request.

An unknown host has no provider: many servers speak OpenAI's protocol, and a wrong provider means a wrong price.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import openai

from everycall.integration import provider_at

__all__ = ["provider_of", "reports_stream_usage"]

AZURE: Final = "azure.ai.openai"
_BY_CLASS: Final[tuple[tuple[type, str], ...]] = tuple(
    (cls, provider)
    for name, provider in (
        ("AzureOpenAI", AZURE),
        ("AsyncAzureOpenAI", AZURE),
        ("BedrockOpenAI", "aws.bedrock"),
        ("AsyncBedrockOpenAI", "aws.bedrock"),
    )
    if isinstance(cls := getattr(openai, name, None), type)
)
_CLIENTS: Final = frozenset({openai.OpenAI, openai.AsyncOpenAI})
"""The clients whose provider only their host tells."""
_REPORT_STREAM_USAGE: Final = frozenset({"openai", "deepseek", "groq"})
_AZURE_USAGE_SINCE: Final = "2024-09-01"
_DATE: Final = re.compile(r"\d{4}-\d{2}-\d{2}")


def provider_of(client: openai.OpenAI | openai.AsyncOpenAI) -> str | None:
    """Return the provider of a client; None if its host is unknown."""
    return _provider_of_class(type(client)) or provider_at(str(client.base_url))


def _provider_of_class(cls: type) -> str | None:
    if cls in _CLIENTS:
        return None
    return next((provider for base, provider in _BY_CLASS if issubclass(cls, base)), None)


def reports_stream_usage(
    provider: str | None, client: openai.OpenAI | openai.AsyncOpenAI, body: Mapping[str, Any]
) -> bool:
    """Whether the provider is known to accept `stream_options.include_usage` with this request.

    Azure accepts it since version 2024-09-01-preview of its API, except for requests with `data_sources`.
    """
    if provider != AZURE:
        return provider in _REPORT_STREAM_USAGE
    if "data_sources" in body:
        return False
    version = client.default_query.get("api-version")
    if not isinstance(version, str):
        return "/openai/v1" in str(client.base_url)
    date = _DATE.match(version)
    return date is None or date[0] >= _AZURE_USAGE_SINCE
