"""Every test that the guarantees name exists: a promise in words is held by something."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", (ROOT / "docs" / "guarantees.md").read_text())))


def test_the_page_names_tests() -> None:
    """The page is read as meant."""
    assert len(NAMED) > 20


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_a_named_test_exists(file: str, name: str) -> None:
    """The file is there, and in it the test."""
    tree = ast.parse((ROOT / file).read_text())
    tests = {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)}
    assert not name or name in tests
    assert any(test.startswith("test_") for test in tests)
