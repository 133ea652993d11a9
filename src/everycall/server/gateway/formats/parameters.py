"""Which model parameters a provider takes, and in which range. Checked before the provider refuses them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from everycall.server.gateway.formats.base import refused

__all__ = ["check_known", "check_range", "stop_sequences", "unsupported"]


def check_known(params: Mapping[str, Any], known: Collection[str], provider: str) -> None:
    """Raise `ProblemError` 422 for the first parameter that the provider does not have. False and 0 ask for nothing."""
    for name, value in params.items():
        if name not in known and value not in (False, 0, None):
            raise unsupported(name, provider, f"leave out {name}")


def check_range(params: Mapping[str, Any], name: str, minimum: float, maximum: float, provider: str) -> None:
    """Raise `ProblemError` 422 for a number that the provider refuses."""
    value = params.get(name)
    if value is not None and not minimum <= value <= maximum:
        raise unsupported(name, provider, f"it may be {minimum:g} to {maximum:g}")


def stop_sequences(params: Mapping[str, Any], provider: str, count_max: int | None = None) -> list[str]:
    """Return the stop sequences as a list. Raise `ProblemError` 422 for an empty one, and for too many."""
    stop = params.get("stop")
    if stop is None:
        return []
    sequences = [stop] if isinstance(stop, str) else list(stop)
    if not all(sequences):
        raise unsupported("stop", provider, "none may be empty")
    if count_max is not None and len(sequences) > count_max:
        raise unsupported("stop", provider, f"there may be {count_max} at most")
    return sequences


def unsupported(name: str, provider: str, remedy: str) -> Exception:
    """Return the 422 to raise for a parameter."""
    return refused(
        f"llm_configuration.model_params.{name}",
        f"{provider} does not take this {name}",
        f"model_params.{name} cannot be sent to {provider}: {remedy}.",
    )
