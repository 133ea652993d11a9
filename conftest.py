"""How every test runs: with or without workers, in random order, and which tests are the quick ones.

Used by the tests of the core (`tests/`) and of each integration (`integrations/*/tests/`).
"""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path
from typing import Any

import hypothesis
import pytest

ROOT = Path(__file__).parent
WORKERS = 3
"""More than cores: many tests wait for a process or a server more than they compute."""

UNIT_FOLDERS = tuple(
    ROOT / "tests" / name
    for name in ("call", "capture", "delivery", "instrumentation", "pricing", "propagation", "redaction", "usage")
)
SERVER_FIXTURES = frozenset({"server", "gateway_server", "server_process"})

_path: Path | None = None
"""The file of the test that ran last."""
_paused: Any = None
"""The measurement of `scripts/coverage` while it pauses."""

# A machine that is busy makes an example slow; that is no failure.
hypothesis.settings.register_profile("everycall", hypothesis.settings.default, deadline=None)
hypothesis.settings.load_profile("everycall")

# The contract suite asserts: its failures are shown in detail, as those of a test module are.
pytest.register_assert_rewrite("everycall_testkit.client_contract")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Return how many workers `-n auto` starts: none for single files and tests, which they would only delay."""
    paths = [Path(argument.partition("::")[0]) for argument in config.args]
    return WORKERS if all("::" not in argument for argument in config.args) and any(map(Path.is_dir, paths)) else 0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that need a server, and of the core's folders those that need neither one nor much time."""
    for item in items:
        if SERVER_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker("process")
        in_unit_folder = any(folder in item.path.parents for folder in UNIT_FOLDERS)
        if in_unit_folder and not any(item.get_closest_marker(name) for name in ("process", "slow")):
            item.add_marker("unit")


def pytest_collection_finish() -> None:
    """Prepare the process for its tests.

    What imports made is set aside: tests that collect garbage look at their own objects only, which is much quicker.
    `scripts/coverage` measures this process, and not the programs that tests start: many of them are killed, and some
    tests look at what a program imports.
    """
    os.environ.pop("COVERAGE_PROCESS_START", None)
    gc.collect()
    gc.freeze()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Set aside what is there before the tests of each file: tests import too, and a collection looks at it all."""
    global _path
    if item.path != _path:
        _path = item.path
        _measure(ROOT / "integrations" not in item.path.parents)
        gc.collect()
        gc.freeze()


def _measure(is_measured: bool) -> None:
    """Go on or pause measuring coverage.

    The tests of integrations would cost as much time as all others, and reach few lines of `src` that those do not.
    """
    global _paused
    if is_measured and _paused is not None:
        _paused.start()
        _paused = None
    elif not is_measured and _paused is None and (coverage := sys.modules.get("coverage")) is not None:
        _paused = coverage.Coverage.current()
        if _paused is not None:
            _paused.stop()
