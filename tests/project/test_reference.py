"""The documentation site's API reference: every public name has a docstring and a place."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path

import pytest

import everycall

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"
MODULES = ("client", "errors", "integration", "masks", "propagation", "record", "testing")
"""The public modules; each has a separate page."""


def documented(value: object) -> bool:
    """Whether a function, class or module has its own docstring; constants are explained where they are defined."""
    if not (inspect.isroutine(value) or inspect.isclass(value) or inspect.ismodule(value)):
        return True
    return bool((value.__doc__ or "").strip())


def test_every_name_of_the_package_is_in_the_reference() -> None:
    """Each name of `everycall.__all__` has a docstring, and is on the page of the package or of its module."""
    page = (REFERENCE / "everycall.md").read_text(encoding="utf-8")
    client = set(importlib.import_module("everycall.client").__all__)
    for name in everycall.__all__:
        if name.startswith("__") or name in client or name in MODULES:
            continue
        assert documented(getattr(everycall, name)), name
        assert f".{name}\n" in page, name


@pytest.mark.parametrize("module", MODULES)
def test_every_name_of_a_public_module_has_a_docstring(module: str) -> None:
    """What `__all__` names is explained, and the module's page shows it."""
    loaded = importlib.import_module(f"everycall.{module}")
    assert f"::: everycall.{module}" in (REFERENCE / f"{module}.md").read_text(encoding="utf-8")
    assert [name for name in loaded.__all__ if not documented(getattr(loaded, name))] == []
