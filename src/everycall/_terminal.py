"""Output of the commands: tables with box lines, steps with a tick, and colours if the terminal supports them.

The commands and the demo call it. Colours only on a terminal that has not said `NO_COLOR`; a pipe gets plain text, the
same characters, and never a control sequence.
"""

from __future__ import annotations

import os
import shutil
import sys
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import TextIO

__all__ = ["Column", "Terminal", "width_of"]

WIDTH_DEFAULT = 100  # of a pipe: fits a log's column and a README
WIDTH_MIN = 40
CELL_MIN = 6
UNKNOWN = "—"

_STYLES: Mapping[str, str] = {
    "bold": "1",
    "dim": "2",
    "red": "31",
    "green": "32",
    "yellow": "33",
    "blue": "34",
    "cyan": "36",
}


@dataclass(frozen=True, slots=True)
class Column:
    """A table's column. `right` aligns numbers; `shrinks` is the column that is cut when the table is too wide."""

    title: str
    right: bool = False
    shrinks: bool = False


class Terminal:
    """A stream and what it can show.

    `colour` is None to decide by the stream and the environment: a terminal, no `NO_COLOR`, and not `TERM=dumb`.
    """

    def __init__(self, out: TextIO | None = None, *, colour: bool | None = None, width: int | None = None) -> None:
        self.out = sys.stdout if out is None else out
        self.is_terminal = self.out.isatty()
        if colour is None:
            colour = self.is_terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        self.colour = colour
        self._width = width
        self._ascii = not _takes(self.out, "─✓—")

    @property
    def width(self) -> int:
        """The columns there are: the terminal's, else `COLUMNS`, else 100."""
        if self._width is not None:
            return self._width
        return max(WIDTH_MIN, shutil.get_terminal_size((WIDTH_DEFAULT, 24)).columns)

    def style(self, text: str, *names: str) -> str:
        """Return the text in these styles, or as it is where colours are off."""
        if not self.colour or not names:
            return text
        return f"\x1b[{';'.join(_STYLES[name] for name in names)}m{text}\x1b[0m"

    def line(self, text: str = "") -> None:
        """Write a line, at once."""
        self.out.write(f"{_plain(text) if self._ascii else text}\n")
        self.out.flush()

    def heading(self, text: str) -> None:
        """Write a heading with an empty line above it."""
        self.line()
        self.line(self.style(text, "bold"))

    def done(self, text: str, seconds: float) -> None:
        """Write a step that succeeded, with the time it took."""
        self._step(self.style("✓", "green"), text, seconds)

    def failed(self, text: str, seconds: float) -> None:
        """Write a step that failed, with the time it took."""
        self._step(self.style("✗", "red", "bold"), text, seconds)

    def note(self, text: str) -> None:
        """Write a line that belongs to the step above it."""
        self.line(self.style(f"    {text}", "dim"))

    @contextmanager
    def step(self, text: str) -> Iterator[None]:
        """Show a step: on a terminal its name while it runs; then the name with a tick or a cross, and the time."""
        started = perf_counter()
        if self.is_terminal and self.colour:
            self.out.write(f"  … {text}")
            self.out.flush()
        try:
            yield
        except BaseException:
            self._restart_line()
            self.failed(text, perf_counter() - started)
            raise
        self._restart_line()
        self.done(text, perf_counter() - started)

    def table(self, columns: Sequence[Column], rows: Sequence[Sequence[str | None]]) -> None:
        """Write a table within the terminal's width; None is shown as —. Cells are one line, cut with an ellipsis."""
        cells = [[UNKNOWN if cell is None else _one_line(cell) for cell in row] for row in rows]
        widths = [max(width_of(c.title), *(width_of(row[i]) for row in cells), 1) for i, c in enumerate(columns)]
        _narrow(columns, widths, self.width)
        self.line(self._rule("┌", "┬", "┐", widths))
        titles = [self.style(_fit(c.title, w, right=c.right), "bold") for c, w in zip(columns, widths, strict=True)]
        self.line(self._row(titles))
        self.line(self._rule("├", "┼", "┤", widths))
        for row in cells:
            fitted = [_fit(cell, w, right=c.right) for cell, c, w in zip(row, columns, widths, strict=True)]
            self.line(self._row([self._cell(text) for text in fitted]))
        self.line(self._rule("└", "┴", "┘", widths))

    def _step(self, mark: str, text: str, seconds: float) -> None:
        took = f"{seconds:.2f} s"
        gap = max(2, min(self.width, WIDTH_DEFAULT) - 4 - width_of(text) - len(took))
        self.line(f"  {mark} {text}{' ' * gap}{self.style(took, 'dim')}")

    def _restart_line(self) -> None:
        if self.is_terminal and self.colour:
            self.out.write("\r\x1b[2K")

    def _rule(self, left: str, middle: str, right: str, widths: Sequence[int]) -> str:
        return self.style(left + middle.join("─" * (w + 2) for w in widths) + right, "dim")

    def _row(self, cells: Sequence[str]) -> str:
        bar = self.style("│", "dim")
        return bar + bar.join(f" {cell} " for cell in cells) + bar

    def _cell(self, text: str) -> str:
        match text.strip():
            case "success" | "hit" | "delivered" | "created" | "written":
                return self.style(text, "green")
            case "changed" | "activated" | "overwritten":
                return self.style(text, "yellow")
            case "error" | "refused":
                return self.style(text, "red")
            case "—" | "miss" | "off" | "unchanged":
                return self.style(text, "dim")
        return text


def width_of(text: str) -> int:
    """Return the columns that a text takes on a terminal: wide characters two, combining ones none."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _one_line(text: str) -> str:
    # A record's name is a stranger's text: no control character of it reaches the terminal.
    return "".join(c if c.isprintable() else " " for c in text).strip()


def _narrow(columns: Sequence[Column], widths: list[int], width: int) -> None:
    """Take what is too wide from the columns that give way, the widest first, then from any."""
    for may_give in (lambda c: c.shrinks, lambda c: not c.right, lambda _: True):
        candidates = [i for i, column in enumerate(columns) if may_give(column)]
        while candidates and sum(widths) + 3 * len(widths) + 1 > width:
            widest = max(candidates, key=lambda i: widths[i])
            if widths[widest] <= CELL_MIN:
                break
            widths[widest] -= 1


def _fit(text: str, width: int, *, right: bool) -> str:
    if width_of(text) > width:
        while text and width_of(text) > width - 1:
            text = text[:-1]
        text += "…"
    padding = " " * (width - width_of(text))
    return padding + text if right else text + padding


_ASCII = str.maketrans(
    {
        **dict.fromkeys("┌┬┐├┼┤└┴┘", "+"),
        "─": "-",
        "│": "|",
        "✓": "+",
        "✗": "x",
        "—": "-",
        "…": ".",
        "·": "-",
        "→": ">",
    }
)


def _plain(text: str) -> str:
    return text.translate(_ASCII).encode("ascii", "replace").decode()


def _takes(out: TextIO, text: str) -> bool:
    try:
        text.encode(out.encoding or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
