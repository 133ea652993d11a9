"""Which provider a request goes to, and which ones follow if it fails. Called by `preparation.py`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from everycall.server.gateway.provider_request import ProviderRequest
from everycall.server.problems import ProblemError, problem
from everycall.server.provider_settings import Fallback, ProviderSettings

__all__ = ["Candidate", "Routes", "UnusableFallback", "provider_of"]

_MODELS = (
    (re.compile(r"^claude\b"), "anthropic"),
    (re.compile(r"^(?:ft:)?(?:gpt-|chatgpt-|o\d|codex)"), "openai"),
)
_WITHOUT_SETTINGS = {
    "openai": ProviderSettings("openai", "openai"),
    "anthropic": ProviderSettings("anthropic", "anthropic"),
}
_REMEDIES = {
    "openai": "Set OPENAI_API_KEY",
    "anthropic": "Set ANTHROPIC_API_KEY",
    "azure": "Set AZURE_OPENAI_ENDPOINT, AZURE_OPENAI_API_KEY and OPENAI_API_VERSION",
}


@dataclass(frozen=True, slots=True)
class Candidate:
    """A provider that can be asked, and what it would be asked."""

    settings: ProviderSettings
    request: ProviderRequest


@dataclass(frozen=True, slots=True)
class UnusableFallback:
    """A fallback that cannot be asked, and why."""

    provider: str
    model: str
    error: ProblemError


def provider_of(model: str) -> str | None:
    """Return the provider that a model's name implies, or None."""
    return next((name for pattern, name in _MODELS if pattern.match(model)), None)


class Routes:
    """The configured providers by name."""

    def __init__(self, settings: Mapping[str, ProviderSettings]) -> None:
        self._settings = {name.lower(): value for name, value in settings.items()}

    def route(self, request: ProviderRequest, caller_key: str | None) -> Candidate:
        """Return the provider to ask, with its name in the request.

        In this order: the provider named; the one that the model's name implies (Parea's old prefix `azure_` implies
        Azure); the only one configured, if it can serve any model. Raise `ProblemError` 422 if there is none, or if it
        has no key and the caller brings none.
        """
        name, model = request.provider, request.model
        if name is None and model.startswith("azure_") and "azure" in self._settings:
            name, model = "azure", model.removeprefix("azure_")
        if name is None:
            name = provider_of(model)
            if name not in self._settings and not (name and caller_key) and (only := self._only_provider(name)):
                name = only
        if name is None:
            raise self._unknown(f"The model {model[:128]!r} does not say which provider serves it.")
        name = name.lower()
        settings = self._settings.get(name) or (_WITHOUT_SETTINGS.get(name) if caller_key else None)
        if settings is None:
            raise self._unknown(f"The provider {name[:128]!r} is not configured.", name)
        keyless = settings.kind == "openai_compatible" or (settings.kind == "openai" and settings.base_url is not None)
        if not (keyless or settings.api_key or caller_key):
            raise self._unknown(f"The provider {name!r} has no API key.", name)
        return Candidate(settings, replace(request, provider=settings.name, model=model))

    def fallbacks(
        self, first: Candidate, caller_key: str | None, fallbacks: Sequence[Fallback]
    ) -> list[Candidate | UnusableFallback]:
        """Return what is asked after `first`, in order: `fallbacks`, or if there are none, those of its provider.

        A caller's own key is for the first provider alone; other providers are not asked at the server's expense.
        """
        candidates: list[Candidate | UnusableFallback] = []
        for fallback in fallbacks or first.settings.fallbacks_of(first.request.model):
            model = fallback.model or first.request.model
            try:
                candidate = self.route(replace(first.request, provider=fallback.provider, model=model), caller_key)
                if caller_key and candidate.settings.name != first.settings.name:
                    raise problem(
                        "not_with_own_key", 422, "A key of the request", "It is not sent to another provider."
                    )
            except ProblemError as error:
                candidates.append(UnusableFallback(fallback.provider or "", model, error))
            else:
                candidates.append(candidate)
        return candidates

    def _only_provider(self, implied: str | None) -> str | None:
        if len(self._settings) != 1:
            return None
        (name, settings), *_ = self._settings.items()
        return name if implied is None or settings.kind == "openai_compatible" else None

    def _unknown(self, detail: str, name: str | None = None) -> Exception:
        configured = ", ".join(sorted(self._settings)) or "none"
        remedy = _REMEDIES.get(name or "", "Name one in llm_configuration.provider, or add it")
        return problem(
            "unknown_provider",
            422,
            "No provider for this model",
            f"{detail} Configured: {configured}. {remedy} in the server's environment or in providers.toml; "
            "then restart.",
            field="llm_configuration.provider",
        )
