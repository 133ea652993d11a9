"""The terminal: tables that fit, colours only where they are wanted, and no stranger's control characters."""

from __future__ import annotations

import io
import re

import pytest

from everycall._terminal import Column, Terminal, width_of

COLUMNS = (Column("name", shrinks=True), Column("cost", right=True), Column("status"))
ROWS = (("seed call", "0.0008", "success"), ("a rather long name of a call", None, "error"))


class _Screen(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def table(width: int, rows: tuple[tuple[str | None, ...], ...] = ROWS) -> list[str]:
    out = io.StringIO()
    Terminal(out, width=width).table(COLUMNS, rows)
    return out.getvalue().splitlines()


def test_a_table_shows_unknown_as_a_dash() -> None:
    """None is — in its column, numbers stand right, text left."""
    assert table(100) == [
        "┌──────────────────────────────┬────────┬─────────┐",
        "│ name                         │   cost │ status  │",
        "├──────────────────────────────┼────────┼─────────┤",
        "│ seed call                    │ 0.0008 │ success │",
        "│ a rather long name of a call │      — │ error   │",
        "└──────────────────────────────┴────────┴─────────┘",
    ]


@pytest.mark.parametrize("width", [40, 45, 51, 120])
def test_a_table_keeps_within_the_width(width: int) -> None:
    """What is too wide is cut where the table says it may be, with an ellipsis; all lines are equally wide."""
    lines = table(width)
    assert len({width_of(line) for line in lines}) == 1
    assert width_of(lines[0]) <= width
    assert "success" in lines[3]
    assert ("…" in lines[4]) == (width < 51)


def test_wide_and_combining_characters_take_their_columns() -> None:
    """CJK takes two columns and a combining accent none, so that the bars stay in line."""
    lines = table(100, (("日本語", "1", "success"), ("e\u0301clair", "2", "success")))
    assert {width_of(line) for line in lines} == {width_of(lines[0])}
    assert width_of("日本語") == 6
    assert width_of("e\u0301") == 1


def test_control_characters_are_not_written_to_the_terminal() -> None:
    """A call's name is anybody's text: an escape sequence or a newline in it is a space."""
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", "\n".join(table(100, (("a\x1b[2Jb\nc", "1", "success"),))))


def test_a_pipe_gets_no_control_sequence() -> None:
    """Steps, notes, headings and tables are plain text when the output is no terminal."""
    out = io.StringIO()
    terminal = Terminal(out)
    terminal.heading("Steps")
    with terminal.step("first"):
        pass
    terminal.note("a note")
    terminal.table(COLUMNS, ROWS)
    assert "\x1b" not in out.getvalue()
    assert "\r" not in out.getvalue()
    assert "✓ first" in out.getvalue()


def test_a_terminal_gets_colours_unless_it_says_no(monkeypatch: pytest.MonkeyPatch) -> None:
    """NO_COLOR and TERM=dumb are honoured."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert Terminal(_Screen()).colour
    monkeypatch.setenv("NO_COLOR", "1")
    assert not Terminal(_Screen()).colour
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert not Terminal(_Screen()).colour


def test_a_failed_step_shows_a_cross_and_raises() -> None:
    """The error is raised again; the line names the step."""
    out = io.StringIO()
    with pytest.raises(ValueError, match="no"), Terminal(out).step("second"):
        raise ValueError("no")
    assert out.getvalue().startswith("  ✗ second")


def test_a_step_on_a_terminal_is_replaced_by_its_result() -> None:
    """The line that says that a step runs is overwritten by the one that says how it went."""
    out = _Screen()
    terminal = Terminal(out, colour=True, width=60)
    with terminal.step("third"):
        assert out.getvalue() == "  … third"
    assert out.getvalue().startswith("  … third\r\x1b[2K  \x1b[32m✓\x1b[0m third")


def test_an_ascii_stream_gets_ascii() -> None:
    """A C locale's output shows plus and minus signs, and does not fail."""
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii", newline="\n")
    terminal = Terminal(out)
    with terminal.step("naïve"):
        pass
    terminal.table(COLUMNS, ROWS)
    out.seek(0)
    text = out.read()
    assert "+ na?ve" in text
    assert "| seed call" in text
