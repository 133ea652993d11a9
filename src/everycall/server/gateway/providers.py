"""One client for each provider, created at first use and reused. Called by `executor.py`."""

from __future__ import annotations

import asyncio
import logging
from contextvars import ContextVar

from everycall._pricing import price_book
from everycall.server.gateway.provider_request import ProviderRequest
from everycall.server.gateway.provider_response import Backend, ProviderError, ProviderResponse, redact_secrets
from everycall.server.gateway.sse import ProviderStream
from everycall.server.problems import ProblemError, problem
from everycall.server.provider_settings import ProviderSettings

__all__ = ["Providers"]

logger = logging.getLogger("everycall.server.gateway")

_in_completion: ContextVar[bool] = ContextVar("everycall-in-completion", default=False)
"""Whether the running task works for a completion of the gateway."""


class Providers:
    """The clients of the providers, by name. Safe to use from many tasks of one event loop."""

    def __init__(self) -> None:
        self._backends: dict[str, Backend] = {}
        self._creating = asyncio.Lock()

    async def ask(
        self, settings: ProviderSettings, request: ProviderRequest, caller_key: str | None
    ) -> ProviderResponse:
        """Ask once. Raise `ProviderError`, or `ProblemError` 422 for a request or settings that cannot be used."""
        backend = await self.connect(settings)
        try:
            return await backend.ask(request, caller_key)
        except (ProviderError, ProblemError):
            raise
        except Exception as error:  # noqa: BLE001 - whatever a provider's package raises becomes a recorded failure
            logger.warning("the client of %s raised %s", settings.name, type(error).__name__)
            message = redact_secrets(str(error), (settings.api_key, caller_key))
            raise ProviderError(type(error).__name__, None, message) from None

    async def stream(
        self, settings: ProviderSettings, request: ProviderRequest, caller_key: str | None
    ) -> ProviderStream:
        """Return a streamed answer; nothing is sent until it is read. Raise `ProblemError` 422 as `ask` does."""
        return (await self.connect(settings)).stream(request, caller_key)

    async def connect(self, settings: ProviderSettings) -> Backend:
        """Return the provider's client, created if needed. Raise `ProblemError` 422 for settings that cannot be used.

        From here on the provider's package logs no details of what this task does.
        """
        _in_completion.set(True)
        if settings.name not in self._backends:
            async with self._creating:
                if settings.name not in self._backends:
                    # In a thread: importing a provider's package takes a second, which would block other requests.
                    self._backends[settings.name] = await asyncio.to_thread(_create_backend, settings)
                    _keep_requests_out_of_logs()
        return self._backends[settings.name]

    async def close(self) -> None:
        """Close the clients' connections."""
        for backend in self._backends.values():
            await backend.close()
        self._backends.clear()


class _NoRequests(logging.Filter):
    """Drops what a provider's package, and the HTTP packages below it, log at DEBUG about our requests.

    The former log prompts. The latter log the headers of responses, where a provider may repeat anything.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a line may be logged."""
        return record.levelno > logging.DEBUG or not _in_completion.get()


_VERBOSE_LOGGERS = frozenset({"openai", "anthropic", "httpx", "httpx2", "httpcore", "httpcore2"})
_no_requests = _NoRequests()


def _keep_requests_out_of_logs() -> None:
    for name in list(logging.root.manager.loggerDict):
        if name.partition(".")[0] in _VERBOSE_LOGGERS:
            logging.getLogger(name).addFilter(_no_requests)  # adding a filter twice changes nothing


def _create_backend(settings: ProviderSettings) -> Backend:
    price_book.price("gpt-4o", "openai", 1, 1, {}, 0)  # loads the price list, here where it blocks nobody
    try:
        if settings.kind == "anthropic":
            from everycall.server.gateway.anthropic_messages import AnthropicMessages

            return AnthropicMessages(settings)
        from everycall.server.gateway.openai_chat import OpenAIChat

        return OpenAIChat(settings)
    except ValueError as error:  # such as Azure without api_version
        raise problem(
            "unusable_provider", 422, "The provider's settings cannot be used", f"Provider {settings.name!r}: {error}."
        ) from None
