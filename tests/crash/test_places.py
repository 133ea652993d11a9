"""Places where programs run: without a home, without a disk, without what POSIX has, in the C locale.

Each is a real process that is put into that place before it begins to record; its calls arrive all the same.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from everycall_testkit.shipping import ship
from everycall_testkit.sink import Sink

CALLS = """
import json, sys
import everycall

@everycall.trace
def numbered(n):
    return n

for n in range(300):
    assert numbered(n) == n
flushed = everycall.flush({flush})
print(json.dumps([flushed.delivered, flushed.spooled, flushed.dropped]))
"""
AS_NOBODY = """
import concurrent.futures.thread, os
from everycall._delivery import transport
transport.preload("https://example.org", is_remote=True)
os.setgid(54321)
os.setuid(54321)
"""
"""Become a user without a name or a home. What such a user could not import is imported before."""
NOT_POSIX = """
import os, select, sys
sys.modules["fcntl"] = sys.modules["pwd"] = sys.modules["resource"] = None
for name in ("fork", "forkpty", "register_at_fork", "posix_fallocate", "pread", "pwrite", "fdatasync", "geteuid",
             "getuid", "fchmod", "O_NOFOLLOW", "O_CLOEXEC", "O_DIRECTORY", "O_NONBLOCK"):
    delattr(os, name)
os.supports_dir_fd = set()
del select.poll
"""
"""Hide what Windows does not have."""


@pytest.fixture
def sink() -> Iterator[Sink]:
    with Sink() as started:
        yield started


def run(sink: Sink, body: str, flush: float = 20, **environment: str) -> tuple[list[Any], str]:
    """Run a program that makes 300 calls; return the result of its flush, and its standard error."""
    env = {name: value for name, value in os.environ.items() if name not in ("HOME", "EVERYCALL_HOME")}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(body) + CALLS.format(flush=flush)],
        env={**env, "EVERYCALL_ENDPOINT": sink.address, "EVERYCALL_EXIT_TIMEOUT": "0.5", **environment},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return json.loads(done.stdout), done.stderr


def assert_all(sink: Sink, record_property: Callable[[str, object], None]) -> None:
    numbers = sink.numbers()
    once = sum(numbers[n] == 1 for n in range(300))
    record_property("fault", (300, once, sum(numbers[n] > 1 for n in range(300)), 300 - once))
    assert set(numbers) == set(range(300))
    assert set(numbers.values()) == {1}


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("begin", ["", "everycall.init()\n"], ids=["first call", "init"])
def test_a_user_without_a_home(sink: Sink, begin: str, record_property: Callable[[str, object], None]) -> None:
    """An unknown user id and no HOME: calls are recorded from memory, with one warning that says what to set."""
    flushed, errors = run(sink, "import everycall\n" + AS_NOBODY + begin)
    assert flushed == [300, 0, 0]
    assert_all(sink, record_property)
    assert len(errors.splitlines()) == 1
    assert "EVERYCALL_HOME" in errors


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become another user")
def test_a_read_only_root(sink: Sink, tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    """A state directory that is not writable: the same."""
    (tmp_path / "state").mkdir(mode=0o755)
    flushed, errors = run(sink, AS_NOBODY, EVERYCALL_HOME=str(tmp_path / "state"))
    assert flushed == [300, 0, 0]
    assert_all(sink, record_property)
    assert len(errors.splitlines()) == 1
    assert "cannot write its spool" in errors


def test_records_in_memory_at_exit_are_reported(sink: Sink) -> None:
    """No disk and no endpoint: the exit says how many records are lost, and for which reason."""
    sink.stop()
    flushed, errors = run(sink, "", flush=0.1, EVERYCALL_SPOOL_DIR="/proc/nowhere")
    assert flushed == [0, 300, 0]
    assert errors.splitlines()[-1] == (
        "everycall: 300 of 300 records lost (spool_unwritable: 300): ConnectionRefusedError: Connection refused"
    )


def test_a_platform_without_posix_locks(sink: Sink, record_property: Callable[[str, object], None]) -> None:
    """Without file locks, forks and block reservation, importing and tracing work, and records go from memory."""
    flushed, errors = run(sink, NOT_POSIX)
    assert flushed == [300, 0, 0]
    assert_all(sink, record_property)
    assert len(errors.splitlines()) == 1
    assert "no file locks" in errors


@pytest.mark.parametrize("up", [True, False], ids=["endpoint up", "endpoint down"])
@pytest.mark.parametrize("locale", ["C", "POSIX"])
def test_a_project_name_outside_the_locales_encoding(
    sink: Sink, tmp_path: Path, locale: str, up: bool, record_property: Callable[[str, object], None]
) -> None:
    """In the C locale, a project that is not ASCII is recorded under its own name."""
    if not up:
        sink.stop()
    environment = {"LC_ALL": locale, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "EVERYCALL_PROJECT": "grün-日本"}
    flushed, _ = run(sink, "", 20 if up else 0.1, EVERYCALL_HOME=str(tmp_path / "grün"), **environment)
    assert flushed == ([300, 0, 0] if up else [0, 300, 0])
    if not up:
        sink.start()
        ship(sink.address, EVERYCALL_HOME=str(tmp_path / "grün"))
    assert_all(sink, record_property)
    assert {record["project_name"] for record in sink.records} == {"grün-日本"}
    assert [path for path in (tmp_path / "grün").rglob("*") if not path.name.isascii()] == []


@pytest.mark.parametrize("path", ["gr\\u00fcn", "a\\0b", "x" * 5_000], ids=["no such letter", "NUL", "too long"])
def test_a_spool_directory_that_no_file_can_be_in(
    sink: Sink, tmp_path: Path, path: str, record_property: Callable[[str, object], None]
) -> None:
    """A path that the locale cannot encode, or that no system takes: calls are recorded from memory."""
    environment = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "EVERYCALL_HOME": str(tmp_path)}
    flushed, errors = run(sink, f"import everycall\neverycall.init(spool_dir='/tmp/{path}')\n", 20, **environment)
    assert flushed == [300, 0, 0]
    assert_all(sink, record_property)
    assert len(errors.splitlines()) == 1
    assert "spool" in errors


@pytest.mark.parametrize("hidden", ["fcntl", "mmap", "os.fork", "os.posix_fallocate", "select.poll"])
def test_a_platform_that_lacks_one_thing(
    sink: Sink, tmp_path: Path, hidden: str, record_property: Callable[[str, object], None]
) -> None:
    """Whatever is not there, importing and tracing work, and everything arrives."""
    module, _, name = hidden.partition(".")
    hide = f"import {module}; del {hidden}\n" if name else f"import sys; sys.modules[{module!r}] = None\n"
    flushed, errors = run(sink, hide, EVERYCALL_HOME=str(tmp_path))
    assert flushed == [300, 0, 0]
    assert_all(sink, record_property)
    assert len(errors.splitlines()) == (1 if hidden == "fcntl" else 0)
