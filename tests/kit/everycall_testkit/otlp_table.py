"""The table of docs/otlp.md: which sender sends which field, as the recorded requests show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from everycall_testkit.corpus import FIELDS, Check

__all__ = ["table"]

SHOWN = [field for field in FIELDS if field not in ("kind", "status")]


def table(measured: Mapping[str, Sequence[Check]]) -> str:
    """Return the table in Markdown: `yes` right wherever it occurs, `part` in some scenarios, `-` not sent."""
    lines = [
        "| sender | " + " | ".join(FIELDS[field] for field in SHOWN) + " |",
        "|---|" + "---|" * len(SHOWN),
    ]
    for sender, found in measured.items():
        cells = [_cell([check for check in found if check.field == field]) for field in SHOWN]
        lines.append(f"| {sender} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(found: Sequence[Check]) -> str:
    asked = [check for check in found if check.truth is not None]
    if not asked:
        return ""
    right = sum(check.right for check in asked)
    return "yes" if right == len(asked) else "part" if right else "-"
