"""One client for each provider, created at first use and reused. Called by `provider_calls.py`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import msgspec

from everycall._pricing import price_book
from everycall.server.gateway.formats.base import ApiFormat
from everycall.server.gateway.formats.text import decode_response
from everycall.server.gateway.provider_errors import http_error
from everycall.server.gateway.provider_request import ProviderRequest
from everycall.server.gateway.provider_response import ProviderError, ProviderResponse
from everycall.server.problems import ProblemError, problem
from everycall.server.provider_settings import ProviderSettings

if TYPE_CHECKING:
    from everycall.server.gateway.provider_http import StreamedResponse
    from everycall.server.gateway.provider_stream import ProviderStream

__all__ = ["ProviderClient", "Providers"]

logger = logging.getLogger("everycall.server.gateway")

_encoder = msgspec.json.Encoder()
_REFUSED = (400, 422)
"""The statuses with which a provider refuses a body."""


class ProviderClient:
    """One provider: its API's format, and the connections to it. Raise `ValueError` for settings it cannot use."""

    def __init__(self, settings: ProviderSettings) -> None:
        from everycall.server.gateway.provider_http import ProviderConnection

        self._settings = settings
        self._format = _format_of(settings)
        self._connection = ProviderConnection(settings)

    async def ask(self, request: ProviderRequest, caller_key: str | None) -> ProviderResponse:
        """Ask once; again only if the provider refuses a parameter that it can be asked without.

        Raise `ProviderError`, and `ProblemError` 422 for what this provider cannot be asked.
        """
        url, headers = self._format.url(request), self._format.headers(caller_key or self._settings.api_key)
        with _Redacted(self._settings, caller_key):
            while True:
                body = self._format.body(request, stream=False)
                response = await self._connection.post(url, headers, _encoder.encode(body))
                if 200 <= response.status < 300:
                    return self._format.response(decode_response(response.data, self._settings.name), request)
                error = http_error(response.status, response.headers, response.data)
                if response.status not in _REFUSED or not self._format.adapt(request, body, error):
                    raise error

    def stream(self, request: ProviderRequest, caller_key: str | None) -> ProviderStream:
        """Return the answer as it will arrive; nothing is sent before its texts are read.

        Raise `ProblemError` 422 for what this provider cannot be asked.
        """
        from everycall.server.gateway.provider_stream import ProviderStream

        self._format.body(request, stream=True)
        return ProviderStream(
            lambda: self._open(request, caller_key),
            self._format.stream_parser(request),
            lambda data: self._format.response(decode_response(data, self._settings.name), request),
            self._settings.name,
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._connection.close()

    @asynccontextmanager
    async def _open(self, request: ProviderRequest, caller_key: str | None) -> AsyncIterator[StreamedResponse]:
        """Send a request for a stream, as `ask` does."""
        url, headers = self._format.url(request), self._format.headers(caller_key or self._settings.api_key)
        with _Redacted(self._settings, caller_key):
            while True:
                body = self._format.body(request, stream=True)
                async with self._connection.stream(url, headers, _encoder.encode(body)) as response:
                    if 200 <= response.status < 300:
                        yield response
                        return
                    error = http_error(response.status, response.headers, await response.read())
                if response.status not in _REFUSED or not self._format.adapt(request, body, error):
                    raise error


class Providers:
    """The clients of all providers, by name. Safe to use from many tasks of one event loop."""

    def __init__(self) -> None:
        self._clients: dict[str, ProviderClient] = {}
        self._creating = asyncio.Lock()

    async def client(self, settings: ProviderSettings) -> ProviderClient:
        """Return a provider's client, created if needed. Raise `ProblemError` 422 for settings that cannot be used."""
        client = self._clients.get(settings.name)
        if client is not None:
            return client
        async with self._creating:
            if settings.name not in self._clients:
                # In a thread: the imports, and reading the price list, take a second that would block other requests.
                self._clients[settings.name] = await asyncio.to_thread(_create_client, settings)
        return self._clients[settings.name]

    async def close(self) -> None:
        """Close all connections."""
        for client in self._clients.values():
            await client.close()
        self._clients.clear()


class _Redacted:
    """Removes keys from the errors that leave the block, and makes unforeseen ones errors of the provider."""

    def __init__(self, settings: ProviderSettings, caller_key: str | None) -> None:
        self._settings = settings
        self._secrets = (settings.api_key, caller_key)

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        if error is None or isinstance(error, ProblemError) or not isinstance(error, Exception):
            return
        if isinstance(error, ProviderError):
            error.redact(self._secrets)
            return
        logger.warning("a response of %s could not be read: %s", self._settings.name, type(error).__name__)
        failure = ProviderError(type(error).__name__, None, str(error))
        failure.redact(self._secrets)
        raise failure from None


def _format_of(settings: ProviderSettings) -> ApiFormat:
    if settings.kind == "anthropic":
        from everycall.server.gateway.formats.anthropic_messages import AnthropicMessages

        return AnthropicMessages(settings)
    from everycall.server.gateway.formats.openai_chat import OpenAIChat

    return OpenAIChat(settings)


def _create_client(settings: ProviderSettings) -> ProviderClient:
    price_book.price("gpt-4o", "openai", 1, 1, {}, 0)  # loads the price list, here where it blocks nobody
    try:
        return ProviderClient(settings)
    except ValueError as error:  # such as Azure without api_version
        raise problem(
            "unusable_provider", 422, "The provider's settings cannot be used", f"Provider {settings.name!r}: {error}."
        ) from None
