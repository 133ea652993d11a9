"""README's table of environment variables: made of `settings.ENVIRONMENT`, and complete."""

from __future__ import annotations

import re
from pathlib import Path

from everycall.settings import ENVIRONMENT

ROOT = Path(__file__).parents[2]


def test_readme_has_the_table_of_the_settings() -> None:
    """Every variable, its default and its meaning, as the settings have them."""
    rows = [f"| `{one.name}` | {one.default} | {one.meaning} |" for one in ENVIRONMENT]
    table = "\n".join(["| variable | default | meaning |", "|---|---|---|", *rows])
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"<!-- environment -->\n{table}\n<!-- /environment -->" in text


def test_every_variable_that_is_read_is_in_the_table() -> None:
    """No `EVERYCALL_*` name stands in the source that the table does not have."""
    variables = {
        name
        for path in [*(ROOT / "src").rglob("*.py"), *(ROOT / "integrations").glob("*/everycall_*/**/*.py")]
        for name in re.findall(r"\bEVERYCALL_[A-Z_]+\b", path.read_text(encoding="utf-8"))
    }
    assert variables == {one.name for one in ENVIRONMENT}
