"""Which providers the server may call, with their addresses and keys. Read once when the server starts.

Addresses come from here only, never from a request: a request cannot make the server connect anywhere.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.parse import urlsplit

from everycall import limits
from everycall.errors import ConfigurationError

__all__ = ["Fallback", "ProviderKind", "ProviderSettings", "on_loopback", "provider_settings"]

ProviderKind = Literal["openai", "azure", "anthropic", "openai_compatible"]

_KEYS = frozenset({"kind", "base_url", "api_key", "api_key_env", "api_version", "timeout_s", "fallbacks", "models"})
_TEXT_KEYS = ("base_url", "api_key", "api_key_env", "api_version")
ANY_MODEL = "*"
"""In a table of fallbacks: every model without its own entry."""


@dataclass(frozen=True, slots=True)
class Fallback:
    """A fallback for a failed provider. Provider None: the one that the model's name implies. Model None: the same."""

    provider: str | None
    model: str | None


@dataclass(frozen=True, slots=True)
class ProviderSettings:
    """One provider: `name` is what requests and records call it, `kind` is which API it has.

    `base_url` None is the provider's own address. For `azure` it is the resource's endpoint
    (`https://NAME.openai.azure.com`), and `api_version` is required. `api_key` is never shown. `timeout_s` is for one
    try. `fallbacks` are by model (`ANY_MODEL` for the others), in order. `models` says which model a name stands for,
    where names are free, as those of Azure's deployments are.
    """

    name: str
    kind: ProviderKind
    base_url: str | None = None
    api_key: str | None = field(default=None, repr=False)
    api_version: str | None = None
    timeout_s: float = limits.PROVIDER_TIMEOUT_S
    fallbacks: Mapping[str, tuple[Fallback, ...]] = field(default_factory=dict)
    models: Mapping[str, str] = field(default_factory=dict)

    def fallbacks_of(self, model: str) -> tuple[Fallback, ...]:
        """Return the fallbacks of a model of this provider, in order."""
        return self.fallbacks.get(model, self.fallbacks.get(ANY_MODEL, ()))


def provider_settings(environment: Mapping[str, str], toml_path: Path) -> dict[str, ProviderSettings]:
    """Return the providers by name: those of the environment, and those of the file, which override them.

    Environment: `OPENAI_API_KEY`, `OPENAI_BASE_URL`; `AZURE_OPENAI_API_KEY`, `AZURE_OPENAI_ENDPOINT`,
    `OPENAI_API_VERSION`; `ANTHROPIC_API_KEY`, `ANTHROPIC_BASE_URL`. File: one table a provider, such as

        [local]
        kind = "openai_compatible"
        base_url = "http://127.0.0.1:8080/v1"
        api_key_env = "LOCAL_KEY"        # or api_key = "..."
        fallbacks = ["openai/gpt-4o-mini"]      # or by model: [local.fallbacks] with llama = ["openai/gpt-4o-mini"]
        models = {my-name = "gpt-4o"}           # which model a name stands for

    A fallback is "provider/model", or "provider" for the same model there.

    Raise `ConfigurationError` naming the file, the table and the values it may have.
    """
    providers = {settings.name: settings for settings in _from_environment(environment)}
    for name, table in _tables(toml_path).items():
        providers[name.lower()] = _from_table(name, table, environment, toml_path)
    for settings in providers.values():
        for fallback in (fallback for fallbacks in settings.fallbacks.values() for fallback in fallbacks):
            if fallback.provider not in providers:
                raise ConfigurationError(
                    f"{toml_path}, provider [{settings.name}]: the fallback {fallback.provider!r} is not a configured "
                    f"provider; configured are {', '.join(sorted(providers))}"
                )
    return providers


def on_loopback(url: str | None) -> bool:
    """Return whether an address is on this machine, and so never reached through a proxy."""
    host = urlsplit(url or "").hostname or ""
    return host in ("localhost", "::1") or host.startswith("127.")


def _from_environment(environment: Mapping[str, str]) -> list[ProviderSettings]:
    def value(name: str) -> str | None:
        return environment.get(name) or None

    providers: list[ProviderSettings] = []
    if value("OPENAI_API_KEY") or value("OPENAI_BASE_URL"):
        providers.append(ProviderSettings("openai", "openai", value("OPENAI_BASE_URL"), value("OPENAI_API_KEY")))
    if value("AZURE_OPENAI_ENDPOINT"):
        endpoint, key, version = map(value, ("AZURE_OPENAI_ENDPOINT", "AZURE_OPENAI_API_KEY", "OPENAI_API_VERSION"))
        providers.append(ProviderSettings("azure", "azure", endpoint, key, version))
    if value("ANTHROPIC_API_KEY") or value("ANTHROPIC_BASE_URL"):
        key = value("ANTHROPIC_API_KEY")
        providers.append(ProviderSettings("anthropic", "anthropic", value("ANTHROPIC_BASE_URL"), key))
    return providers


def _tables(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not valid TOML: {error}") from error


def _from_table(name: str, table: Any, environment: Mapping[str, str], path: Path) -> ProviderSettings:
    def wrong(what: str) -> ConfigurationError:
        return ConfigurationError(f"{path}, provider [{name}]: {what}")

    if not isinstance(table, dict):
        raise wrong("must be a table, such as [local] with kind, base_url and api_key")
    if unknown := sorted(table.keys() - _KEYS):
        raise wrong(f"unknown key {unknown[0]!r}; it may have {', '.join(sorted(_KEYS))}")
    kind: ProviderKind | None = table.get("kind")
    if kind is None or kind not in get_args(ProviderKind):
        raise wrong(f"kind must be one of {', '.join(get_args(ProviderKind))}")
    for key in _TEXT_KEYS:
        if not isinstance(table.get(key, ""), str):
            raise wrong(f"{key} must be a string")
    base_url = table.get("base_url")
    if kind in ("azure", "openai_compatible") and not base_url:
        raise wrong(f"base_url is needed for kind {kind!r}")
    if base_url and urlsplit(base_url).scheme not in ("http", "https"):
        raise wrong("base_url must start with http:// or https://")
    timeout_s = table.get("timeout_s", limits.PROVIDER_TIMEOUT_S)
    if isinstance(timeout_s, bool) or not isinstance(timeout_s, int | float) or timeout_s <= 0:
        raise wrong("timeout_s must be a positive number of seconds")
    api_key = table.get("api_key")
    if variable := table.get("api_key_env"):
        api_key = environment.get(variable) or api_key
        if not api_key:
            raise wrong(f"the environment variable {variable} named by api_key_env is not set")
    models = table.get("models", {})
    if not isinstance(models, dict) or not all(isinstance(model, str) and model for model in models.values()):
        raise wrong('models must be a table of names such as {my-deployment = "gpt-4o"}')
    api_version = table.get("api_version")
    if kind == "azure":
        api_version = api_version or environment.get("OPENAI_API_VERSION")
    try:
        fallbacks = _fallbacks(table.get("fallbacks", {}))
    except (TypeError, ValueError) as error:
        raise wrong(str(error)) from None
    return ProviderSettings(
        name.lower(), kind, base_url, api_key, api_version, float(timeout_s), fallbacks=fallbacks, models=models
    )


def _fallbacks(table: Any) -> dict[str, tuple[Fallback, ...]]:
    """Return fallbacks by model, from a list (for any model) or a table of lists. Raise `TypeError` or `ValueError`."""
    fallbacks: dict[str, tuple[Fallback, ...]] = {}
    for model, names in (table if isinstance(table, dict) else {ANY_MODEL: table}).items():
        if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
            raise TypeError('fallbacks must be a list such as ["azure/gpt-4o", "local"], or a table of lists by model')
        if len(names) > limits.FALLBACKS_MAX:
            raise ValueError(f"one list may have at most {limits.FALLBACKS_MAX} fallbacks")
        parts = [name.partition("/") for name in names]
        fallbacks[model] = tuple(Fallback(provider.lower(), its_model or None) for provider, _, its_model in parts)
    return fallbacks
