"""The architecture page: its layers are those of the import contracts, and the modules and files it names exist."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "everycall"
PAGE = (ROOT / "docs" / "architecture.md").read_text()


def section(title: str) -> str:
    return PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def test_the_layers_are_those_of_the_contract() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = (contract["layers"] for contract in contracts if contract["type"] == "layers")
    # an optional layer, in parentheses, is left out of the page while it does not exist
    expected = [
        [name for name in re.findall(r"\w+", layer) if (SOURCE / name).exists() or (SOURCE / f"{name}.py").exists()]
        for layer in layers
    ]
    rows = re.findall(r"^\| (`.*`) \|$", section("Layers"), re.MULTILINE)
    assert [re.findall(r"`(\w+)`", row) for row in rows] == expected


def test_the_tree_names_every_package() -> None:
    tree = section("The packages")
    packages = {path.parent.name for path in SOURCE.glob("*/__init__.py")}
    names = set(re.findall(r"(?<![\w/])(\w+)/(?=[ ,])", tree))
    assert packages <= names
    for name in names:
        assert any(path.is_dir() for path in SOURCE.rglob(name)), name


@pytest.mark.parametrize("place", re.findall(r"`([\w./]+/[\w./]*|\w+\.(?:py|md))`", section("Where do I change ...?")))
def test_a_place_to_change_exists(place: str) -> None:
    assert (SOURCE / place).exists() or (ROOT / place).exists()
