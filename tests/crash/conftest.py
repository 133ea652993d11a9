"""The fault table: after the run, one row per scenario with what became of its calls."""

from __future__ import annotations

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print N calls / once / duplicated / lost for each scenario that recorded its counts."""
    rows = [
        (report.nodeid.split("::")[-1], *value)
        for report in terminalreporter.getreports("passed") + terminalreporter.getreports("failed")
        for name, value in report.user_properties
        if name == "fault" and report.when == "call"
    ]
    if not rows:
        return
    terminalreporter.section("what faults cost: calls that returned, and where they are after the next start")
    terminalreporter.write_line(f"{'scenario':64}{'calls':>8}{'once':>8}{'twice':>8}{'lost':>8}")
    for scenario, calls, once, twice, missing in rows:
        terminalreporter.write_line(f"{scenario:64.64}{calls:8,}{once:8,}{twice:8,}{missing:8,}")
