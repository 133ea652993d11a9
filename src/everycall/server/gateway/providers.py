"""The configured providers: which one a request goes to, and one client each, made at first use and reused."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import replace

from everycall._pricing import price_book
from everycall.server.gateway.provider_request import ProviderRequest
from everycall.server.gateway.provider_response import Backend, ProviderError, ProviderResponse, redact_secrets
from everycall.server.gateway.sse import ProviderStream
from everycall.server.problems import ProblemError, problem
from everycall.server.provider_settings import Fallback, ProviderSettings

__all__ = ["Providers", "provider_of"]

logger = logging.getLogger("everycall.server.gateway")

_asking: ContextVar[bool] = ContextVar("everycall-asking", default=False)
"""Whether the running task works for a completion of ours."""

_MODELS = (
    (re.compile(r"^claude\b"), "anthropic"),
    (re.compile(r"^(?:ft:)?(?:gpt-|chatgpt-|o\d|codex)"), "openai"),
)
_WITHOUT_SETTINGS = {
    "openai": ProviderSettings("openai", "openai"),
    "anthropic": ProviderSettings("anthropic", "anthropic"),
}
_HOW = {
    "openai": "Set OPENAI_API_KEY",
    "anthropic": "Set ANTHROPIC_API_KEY",
    "azure": "Set AZURE_OPENAI_ENDPOINT, AZURE_OPENAI_API_KEY and OPENAI_API_VERSION",
}


def provider_of(model: str) -> str | None:
    """Return the provider that a model's name tells, or None."""
    return next((name for pattern, name in _MODELS if pattern.match(model)), None)


class Providers:
    """The providers by name, and their clients. Safe to use from many tasks of one event loop."""

    def __init__(self, settings: Mapping[str, ProviderSettings]) -> None:
        self._settings = {name.lower(): value for name, value in settings.items()}
        self._backends: dict[str, Backend] = {}
        self._building = asyncio.Lock()

    def route(self, asked: ProviderRequest, caller_key: str | None) -> tuple[ProviderSettings, ProviderRequest]:
        """Return the provider to ask, and what to ask with its name in it.

        The provider named; else the one that the model's name tells (`azure_` before a model is Parea's old way to
        name Azure); else the only one configured, when it can serve any model. Raises `ProblemError` 422 when there
        is none, or it has no key and the request brings none.
        """
        name, model = asked.provider, asked.model
        if name is None and model.startswith("azure_") and "azure" in self._settings:
            name, model = "azure", model.removeprefix("azure_")
        if name is None:
            name = provider_of(model)
            if name not in self._settings and not (name and caller_key) and (only := self._only_one(name)):
                name = only
        if name is None:
            raise self._unknown(f"The model {model[:128]!r} does not say whose it is.")
        name = name.lower()
        settings = self._settings.get(name) or (_WITHOUT_SETTINGS.get(name) if caller_key else None)
        if settings is None:
            raise self._unknown(f"The provider {name[:128]!r} is not configured.", name)
        keyless = settings.kind == "openai_compatible" or (settings.kind == "openai" and settings.base_url is not None)
        if not (keyless or settings.api_key or caller_key):
            raise self._unknown(f"The provider {name!r} has no API key.", name)
        return settings, replace(asked, provider=settings.name, model=model)

    def fallback(
        self, asked: ProviderRequest, to: Fallback, caller_key: str | None
    ) -> tuple[ProviderSettings, ProviderRequest]:
        """Return the provider that a fallback goes to, and what to ask it.

        Raises `ProblemError` 422 as `route` does, and where the request brought a key of its own: that is for the first
        provider alone, and what its caller pays for is not asked at the server's expense.
        """
        settings, again = self.route(replace(asked, provider=to.provider, model=to.model or asked.model), caller_key)
        if caller_key and again.provider != asked.provider:
            raise problem("not_with_own_key", 422, "A key of the request", "It is not sent to another provider.")
        return settings, again

    async def prepare(self, settings: ProviderSettings) -> None:
        """Make the provider's client, once. Raises `ProblemError` 422 when its settings cannot be used.

        From here on the provider's package tells no details of what this task does.
        """
        _asking.set(True)
        if settings.name in self._backends:
            return
        async with self._building:
            if settings.name not in self._backends:
                # In a thread: importing a provider's package takes a second that other requests need not wait.
                self._backends[settings.name] = await asyncio.to_thread(_backend, settings)
                _keep_requests_out_of_logs()

    async def ask(self, settings: ProviderSettings, asked: ProviderRequest, caller_key: str | None) -> ProviderResponse:
        """Ask a prepared provider. Raises `ProviderError`, and `ProblemError` 422 for what it cannot be asked."""
        try:
            return await self._backends[settings.name].ask(asked, caller_key)
        except (ProviderError, ProblemError):
            raise
        except Exception as error:  # noqa: BLE001 - whatever a provider's package raises is a failure to be recorded
            logger.warning("the client of %s raised %s", settings.name, type(error).__name__)
            message = redact_secrets(str(error), (settings.api_key, caller_key))
            raise ProviderError(type(error).__name__, None, message) from None

    def stream(self, settings: ProviderSettings, asked: ProviderRequest, caller_key: str | None) -> ProviderStream:
        """Return the answer of a prepared provider as it will come. Raises `ProblemError` 422 as `ask` does."""
        return self._backends[settings.name].stream(asked, caller_key)

    async def close(self) -> None:
        """Close the clients' connections."""
        for backend in self._backends.values():
            await backend.close()
        self._backends.clear()

    def _only_one(self, told: str | None) -> str | None:
        if len(self._settings) != 1:
            return None
        (name, settings), *_ = self._settings.items()
        return name if told is None or settings.kind == "openai_compatible" else None

    def _unknown(self, detail: str, name: str | None = None) -> Exception:
        configured = ", ".join(sorted(self._settings)) or "none"
        how = _HOW.get(name or "", "Name one in llm_configuration.provider, or add it")
        return problem(
            "unknown_provider",
            422,
            "No provider for this model",
            f"{detail} Configured: {configured}. {how} in the server's environment or in providers.toml; then restart.",
            field="llm_configuration.provider",
        )


class _NoRequests(logging.Filter):
    """Drops what a provider's package, and the HTTP ones below it, log at DEBUG about our requests and their answers.

    The former repeats prompts; the latter repeat the headers of answers, where a provider may repeat anything.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a line may be logged."""
        return record.levelno > logging.DEBUG or not _asking.get()


_CHATTY = frozenset({"openai", "anthropic", "httpx", "httpx2", "httpcore", "httpcore2"})
_no_requests = _NoRequests()


def _keep_requests_out_of_logs() -> None:
    for name in list(logging.root.manager.loggerDict):
        if name.partition(".")[0] in _CHATTY:
            logging.getLogger(name).addFilter(_no_requests)  # adding it again changes nothing


def _backend(settings: ProviderSettings) -> Backend:
    price_book.price("gpt-4o", "openai", 1, 1, {}, 0)  # reads the price list, here where it holds nobody up
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
