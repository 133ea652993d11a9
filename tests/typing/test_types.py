"""That a type checker sees the original's type: mypy, strict, over `cases.py`, as a user's program would be checked."""

from __future__ import annotations

import runpy
from pathlib import Path

from mypy import api

CASES = Path(__file__).with_name("cases.py")
ROOT = CASES.parents[2]


def test_mypy_agrees_with_every_case() -> None:
    report, failure, status = api.run(
        ["--config-file", str(ROOT / "pyproject.toml"), "--follow-imports", "silent", "--no-error-summary", str(CASES)]
    )
    assert (report, failure, status) == ("", "", 0)


def test_a_wrong_case_is_detected(tmp_path: Path) -> None:
    """That the test above can fail: the same cases with one type changed."""
    wrong = tmp_path / "wrong.py"
    text = CASES.read_text(encoding="utf-8")
    wrong.write_text(text.replace("assert_type(called(1), str)", "assert_type(called(1), int)"), encoding="utf-8")
    report, _, status = api.run(
        ["--config-file", str(ROOT / "pyproject.toml"), "--follow-imports", "silent", "--no-error-summary", str(wrong)]
    )
    assert status == 1
    assert report.count("error:") == 1
    assert 'Expression is of type "str", not "int"' in report


def test_the_cases_run() -> None:
    """What is checked is also a program."""
    from everycall.testing import capture_records

    with capture_records():
        cases = runpy.run_path(str(CASES))
        assert cases["through_another"](1) == "1"
        assert cases["Data"](1).get() == 1
        assert cases["overloaded"]("a") == "a"
