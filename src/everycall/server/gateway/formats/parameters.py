"""Which model parameters a provider takes, and in which range. Checked before the provider refuses them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from everycall.server.gateway.formats.base import refused

__all__ = ["check_choice", "check_known", "check_range", "check_schema", "stop_sequences", "unsupported"]


def check_known(params: Mapping[str, Any], known: Collection[str], provider: str) -> None:
    """Raise `ProblemError` 422 for the first parameter that the provider does not have.

    False, 0 and what is empty ask for nothing, except for a `seed`.
    """
    for name, value in params.items():
        if name not in known and (value or (name == "seed" and value is not None)):
            raise unsupported(name, provider, f"leave out {name}")


def check_range(params: Mapping[str, Any], name: str, minimum: float, maximum: float, provider: str) -> None:
    """Raise `ProblemError` 422 for a number that the provider refuses."""
    value = params.get(name)
    if value is not None and not minimum <= value <= maximum:
        raise unsupported(name, provider, f"it may be {minimum:g} to {maximum:g}")


def check_choice(params: Mapping[str, Any], name: str, choices: Collection[str], provider: str) -> None:
    """Raise `ProblemError` 422 for a value that the provider does not know."""
    if params.get(name) is not None and params[name] not in choices:
        raise unsupported(name, provider, f"it may be {', '.join(choices)}")


def check_schema(schema: Any, place: str, provider: str) -> None:
    """Raise `ProblemError` 422 if the schema of a function's parameters is not that of an object with named members."""
    if not isinstance(schema, Mapping) or schema.get("type", "object") != "object":
        title, detail = "A function's parameters are an object", "must be a JSON Schema of type object"
        raise refused(place, title, f"{place} {detail}.", "invalid_request")
    if not isinstance(schema.get("properties", {}), Mapping):
        raise refused(place, "Properties are an object", f"{place}.properties must be an object.", "invalid_request")
    for name in ("oneOf", "anyOf", "allOf"):
        if name in schema:
            detail = f"{place}.{name} cannot be sent to {provider}: use it inside of a property."
            raise refused(f"{place}.{name}", f"{provider} does not take this schema", detail)


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
