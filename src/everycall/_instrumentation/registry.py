"""Installed integrations, switched on and off by name: `everycall.instrument("openai")`.

An integration registers an entry point in the group `everycall.integrations`: a module with `instrument(**labels)` and
`uninstrument()`. The module and its library are imported when the integration is switched on.
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
_active: dict[str, ModuleType] = {}


def instrument(*names: str, **labels: Unpack[SharedLabels]) -> tuple[str, ...]:
    """Record the calls that integrations see in this process, as in `everycall.instrument("openai", "langchain")`.

    Without names, all installed integrations are switched on; one that cannot be imported is skipped with a warning.
    `labels` are passed to each of them. Another call replaces the labels. Returns the names that this call switched on.

    Raises `ConfigurationError` if a named integration is not installed or cannot be imported. Nothing is switched on
    then.
    """
    entry_points = {entry.name: entry for entry in importlib.metadata.entry_points(group=_GROUP)}
    if unknown := [name for name in names if name not in entry_points]:
        installed = ", ".join(sorted(entry_points)) or "none"
        raise ConfigurationError(
            f"no integration {unknown[0]!r} is installed; installed: {installed}. "
            f"Install it with: pip install everycall-{unknown[0]}"
        )
    modules: dict[str, ModuleType] = {}
    for name in names or sorted(entry_points):
        try:
            modules[name] = entry_points[name].load()
        except ImportError as error:
            if names:
                raise ConfigurationError(f"the integration {name!r} cannot be imported: {error}") from error
            warn_once(f"integration {name}", "the integration %s cannot be imported: %s", name, error)
    for name, module in modules.items():
        module.instrument(**labels)
        _active[name] = module
    return tuple(modules)


def uninstrument(*names: str) -> None:
    """Undo `instrument` for the named integrations, or for all. A name that is not switched on is ignored."""
    for name in names or tuple(_active):
        module = _active.pop(name, None)
        if module is not None:
            module.uninstrument()
