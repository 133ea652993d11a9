"""Integrations that are installed, switched on and off by name: `everycall.instrument("openai")`. Layer 3.

An integration names itself by an entry point of the group `everycall.integrations`: a module with
`instrument(**labels)` and `uninstrument()`. It is imported when it is asked for, and its library with it.
"""

from __future__ import annotations

import importlib.metadata
from types import ModuleType
from typing import Final, Unpack

from everycall._guard import warn_once
from everycall._instrumentation.request import SharedLabels
from everycall.errors import ConfigurationError

__all__ = ["instrument", "uninstrument"]

_GROUP: Final = "everycall.integrations"
_on: dict[str, ModuleType] = {}


def instrument(*names: str, **labels: Unpack[SharedLabels]) -> tuple[str, ...]:
    """Record what integrations see in this process, such as `everycall.instrument("openai", "langchain")`.

    Without names: all that are installed and whose library is; one that fails to load is named in a warning and left.
    `labels` go to each of them. Returns the names of those that are on by this call. A second call replaces the labels.

    Raises `ConfigurationError` for a name that is not installed, or does not load; nothing is switched on then.
    """
    found = {entry.name: entry for entry in importlib.metadata.entry_points(group=_GROUP)}
    if unknown := [name for name in names if name not in found]:
        installed = ", ".join(sorted(found)) or "none"
        raise ConfigurationError(
            f"there is no integration {unknown[0]!r} here; installed: {installed}. "
            f"Install it with: pip install everycall-{unknown[0]}"
        )
    loaded: dict[str, ModuleType] = {}
    for name in names or sorted(found):
        try:
            loaded[name] = found[name].load()
        except ImportError as error:
            if names:
                raise ConfigurationError(f"the integration {name!r} does not load: {error}") from error
            warn_once(f"integration {name}", "the integration %s does not load: %s", name, error)
    for name, module in loaded.items():
        module.instrument(**labels)
        _on[name] = module
    return tuple(loaded)


def uninstrument(*names: str) -> None:
    """Undo `instrument`, for these or for all. One that is not on is passed over."""
    for name in names or tuple(_on):
        module = _on.pop(name, None)
        if module is not None:
            module.uninstrument()
