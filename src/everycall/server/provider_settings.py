"""Which providers the server may call, with their addresses and keys. Read once at start, by `server/options.py`.

Addresses come from here alone, never from a request: a request cannot make the server connect anywhere.
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

_KEYS = frozenset({"kind", "base_url", "api_key", "api_key_env", "api_version", "timeout_s", "fallbacks"})
_TEXT_KEYS = ("base_url", "api_key", "api_key_env", "api_version")
ANY_MODEL = "*"
"""In a table of fallbacks: the models that it does not name."""


@dataclass(frozen=True, slots=True)
class Fallback:
    """What is asked where a provider does not answer. Provider None: the one that the model's name tells; model None:
    the same model.
    """

    provider: str | None
    model: str | None


@dataclass(frozen=True, slots=True)
class ProviderSettings:
    """One provider: `name` is what requests and records call it, `kind` how it is spoken to.

    `base_url` None is the provider's own address. For `azure` it is the resource's endpoint
    (`https://NAME.openai.azure.com`) and `api_version` is needed. `api_key` is never shown. `timeout_s` is for one try.
    `fallbacks` says by model (`ANY_MODEL` for the others) what is asked where this provider does not answer, in order.
    """

    name: str
    kind: ProviderKind
    base_url: str | None = None
    api_key: str | None = field(default=None, repr=False)
    api_version: str | None = None
    timeout_s: float = limits.PROVIDER_TIMEOUT_S
    fallbacks: Mapping[str, tuple[Fallback, ...]] = field(default_factory=dict)

    def fallbacks_of(self, model: str) -> tuple[Fallback, ...]:
        """Return what is asked in the place of a model of this provider, in order."""
        return self.fallbacks.get(model, self.fallbacks.get(ANY_MODEL, ()))


def provider_settings(environment: Mapping[str, str], toml_path: Path) -> dict[str, ProviderSettings]:
    """Return the providers by name: those of the environment, then those of the file, which win.

    Environment: `OPENAI_API_KEY`, `OPENAI_BASE_URL`; `AZURE_OPENAI_API_KEY`, `AZURE_OPENAI_ENDPOINT`,
    `OPENAI_API_VERSION`; `ANTHROPIC_API_KEY`, `ANTHROPIC_BASE_URL`. File: one table a provider, such as

        [local]
        kind = "openai_compatible"
        base_url = "http://127.0.0.1:8080/v1"
        api_key_env = "LOCAL_KEY"        # or api_key = "..."
        fallbacks = ["openai/gpt-4o-mini"]      # or by model: [local.fallbacks] with llama = ["openai/gpt-4o-mini"]

    A fallback is "provider/model", or "provider" for the same model there.

    Raises `ConfigurationError` naming the file, the table and what it may hold.
    """
    found = {settings.name: settings for settings in _from_environment(environment)}
    for name, table in _tables(toml_path).items():
        found[name.lower()] = _from_table(name, table, environment, toml_path)
    for settings in found.values():
        for fallback in (one for several in settings.fallbacks.values() for one in several):
            if fallback.provider not in found:
                raise ConfigurationError(
                    f"{toml_path}, provider [{settings.name}]: the fallback {fallback.provider!r} is no provider that "
                    f"is configured; there are {', '.join(sorted(found))}"
                )
    return found


def on_loopback(url: str | None) -> bool:
    """Return whether an address is on this machine: such a connection never goes through a proxy."""
    host = urlsplit(url or "").hostname or ""
    return host in ("localhost", "::1") or host.startswith("127.")


def _from_environment(environment: Mapping[str, str]) -> list[ProviderSettings]:
    def given(name: str) -> str | None:
        return environment.get(name) or None

    found: list[ProviderSettings] = []
    if given("OPENAI_API_KEY") or given("OPENAI_BASE_URL"):
        found.append(
            ProviderSettings("openai", "openai", base_url=given("OPENAI_BASE_URL"), api_key=given("OPENAI_API_KEY"))
        )
    if given("AZURE_OPENAI_ENDPOINT"):
        found.append(
            ProviderSettings(
                "azure",
                "azure",
                base_url=given("AZURE_OPENAI_ENDPOINT"),
                api_key=given("AZURE_OPENAI_API_KEY"),
                api_version=given("OPENAI_API_VERSION"),
            )
        )
    if given("ANTHROPIC_API_KEY") or given("ANTHROPIC_BASE_URL"):
        found.append(
            ProviderSettings(
                "anthropic", "anthropic", base_url=given("ANTHROPIC_BASE_URL"), api_key=given("ANTHROPIC_API_KEY")
            )
        )
    return found


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
    try:
        fallbacks = _fallbacks(table.get("fallbacks", {}))
    except (TypeError, ValueError) as error:
        raise wrong(str(error)) from None
    return ProviderSettings(
        name.lower(), kind, base_url, api_key, table.get("api_version"), timeout_s=float(timeout_s), fallbacks=fallbacks
    )


def _fallbacks(given: Any) -> dict[str, tuple[Fallback, ...]]:
    """Return a list (for any model) or a table of lists by model. Raises `TypeError` or `ValueError` for others."""
    found: dict[str, tuple[Fallback, ...]] = {}
    for model, names in (given if isinstance(given, dict) else {ANY_MODEL: given}).items():
        if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
            raise TypeError('fallbacks must be a list such as ["azure/gpt-4o", "local"], or a table of those by model')
        if len(names) > limits.FALLBACKS_MAX:
            raise ValueError(f"at most {limits.FALLBACKS_MAX} fallbacks may stand in one list")
        split = [name.partition("/") for name in names]
        found[model] = tuple(Fallback(provider.lower(), its_model or None) for provider, _, its_model in split)
    return found
