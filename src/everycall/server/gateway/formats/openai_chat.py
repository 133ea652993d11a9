"""The format of OpenAI's chat completions API, for OpenAI, Azure and compatible servers. Used by `providers.py`."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from everycall import limits
from everycall.server.gateway.formats.openai_request import neutral, request_body
from everycall.server.gateway.formats.openai_response import ChatStreamParser, read_response
from everycall.server.gateway.provider_request import ProviderRequest
from everycall.server.gateway.provider_response import ProviderError, ProviderResponse
from everycall.server.provider_settings import ProviderSettings

__all__ = ["OpenAIChat"]

_OTHER_LENGTH = "other length"
_NO_STREAM_OPTIONS = "no stream_options"
_NO_NEUTRAL = "no neutral sampling"
_LENGTHS = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}


class OpenAIChat:
    """See `ApiFormat`. What a model was found to refuse is remembered, and not sent to it again.

    Raise `ValueError` for settings that cannot be used.
    """

    def __init__(self, settings: ProviderSettings) -> None:
        self._settings = settings
        self._refused: set[tuple[str, str]] = set()
        self._headers: dict[str, str] = {}
        base_url = (settings.base_url or "https://api.openai.com/v1").rstrip("/")
        self._url = f"{base_url}/chat/completions"
        if settings.kind == "azure":
            if not settings.api_version:
                raise ValueError("api_version is missing; set it in providers.toml, or OPENAI_API_VERSION")
            self._url = f"{base_url}/openai/deployments/{{}}/chat/completions?api-version={quote(settings.api_version)}"
        if settings.kind == "openai":
            for header, variable in (("OpenAI-Organization", "OPENAI_ORG_ID"), ("OpenAI-Project", "OPENAI_PROJECT_ID")):
                if value := os.environ.get(variable):
                    self._headers[header] = value

    def url(self, request: ProviderRequest) -> str:
        """See `ApiFormat.url`. Azure has the deployment in it."""
        if self._settings.kind != "azure":
            return self._url
        return self._url.format(quote(request.model, safe=""))

    def headers(self, api_key: str | None) -> Mapping[str, str]:
        """See `ApiFormat.headers`."""
        if not api_key:
            return self._headers
        if self._settings.kind == "azure":
            return {**self._headers, "api-key": api_key}
        return {**self._headers, "Authorization": f"Bearer {api_key}"}

    def body(self, request: ProviderRequest, *, stream: bool) -> dict[str, Any]:
        """See `ApiFormat.body`. A stream reports its tokens in the last event, where the server knows that option."""
        model = request.model
        family = self._settings.models.get(model, model)
        body = request_body(request, family, is_compatible=self._settings.kind == "openai_compatible")
        if (model, _OTHER_LENGTH) in self._refused:
            for name, other in _LENGTHS.items():
                if name in body:
                    body[other] = body.pop(name)
                    break
        if (model, _NO_NEUTRAL) in self._refused:
            for name in neutral(body):
                del body[name]
        if stream:
            body["stream"] = True
            if (model, _NO_STREAM_OPTIONS) not in self._refused:
                body["stream_options"] = {"include_usage": True}
        return body

    def adapt(self, request: ProviderRequest, body: Mapping[str, Any], error: ProviderError) -> bool:
        """See `ApiFormat.adapt`."""
        refusal = ""
        if "stream_options" in body and "stream_options" in error.message:
            refusal = _NO_STREAM_OPTIONS
        elif any(name in body and name in error.message for name in _LENGTHS) and _names_a_parameter(error):
            refusal = _OTHER_LENGTH
        elif error.param in neutral(body) or any(re.search(rf"\b{name}\b", error.message) for name in neutral(body)):
            refusal = _NO_NEUTRAL
        if not refusal or (request.model, refusal) in self._refused:
            return False
        if len(self._refused) >= limits.REFUSALS_LEARNED_MAX:
            self._refused.clear()
        self._refused.add((request.model, refusal))
        return True

    def response(self, body: Mapping[str, Any], request: ProviderRequest) -> ProviderResponse:
        """See `ApiFormat.response`."""
        return read_response(body, request, self._settings.name)

    def stream_parser(self, request: ProviderRequest) -> ChatStreamParser:
        """See `ApiFormat.stream_parser`."""
        return ChatStreamParser(request, self._settings.name)


def _names_a_parameter(error: ProviderError) -> bool:
    """Return whether an error says that the server does not have a parameter, rather than that its value is wrong."""
    words = ("unsupported", "not supported", "unrecognized", "unknown", "unexpected", "extra inputs", "instead")
    message = error.message.lower()
    return error.code in ("unsupported_parameter", "unknown_parameter") or any(word in message for word in words)
