"""The spool of a running program is truncated or deleted: it keeps running, and later records are not lost."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pytest

from everycall_testkit.shipping import ship
from everycall_testkit.sink import Sink

PROGRAM = """
import json, sys
import everycall

@everycall.trace
def numbered(n, pad=""):
    return n

n = 0
for line in sys.stdin:  # "calls COUNT", "check" or "end"
    what, _, count = line.partition(" ")
    if what == "calls":
        for n in range(n, n + int(count)):
            numbered(n, "x" * (n % 7 * 500))
        n += 1
    elif what == "flush":
        everycall.flush(float(count))
    balance = everycall.stats()
    print(json.dumps([balance.recorded, balance.delivered, balance.spooled, balance.dropped]), flush=True)
"""


class Program:
    """A program that makes calls on request, and reports its balance sheet."""

    def __init__(self, sink: Sink) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            env={**os.environ, "EVERYCALL_ENDPOINT": sink.address, "EVERYCALL_EXIT_TIMEOUT": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def tell(self, command: str) -> list[Any]:
        """Send a command; return recorded, delivered, spooled and dropped, which are in balance."""
        stdin, stdout = self._pipes()
        stdin.write(command + "\n")
        stdin.flush()
        line = stdout.readline()
        assert line, self.process.communicate()
        balance: list[Any] = json.loads(line)
        recorded, delivered, spooled, dropped = balance
        assert recorded == delivered + spooled + sum(dropped.values())
        return balance

    def end(self) -> str:
        """Let it end; return its standard error."""
        _, errors = self.process.communicate(timeout=120)
        assert self.process.returncode == 0, (self.process.returncode, errors)
        return errors

    def _pipes(self) -> tuple[IO[str], IO[str]]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        return self.process.stdin, self.process.stdout


@pytest.fixture
def sink() -> Iterator[Sink]:
    with Sink() as started:
        yield started


@pytest.fixture
def program(sink: Sink) -> Iterator[Program]:
    started = Program(sink)
    yield started
    started.process.kill()
    started.process.communicate()


def segments() -> list[Path]:
    return sorted(Path(os.environ["EVERYCALL_HOME"]).rglob("*.spool"))


def test_a_segment_is_truncated_repeatedly(
    sink: Sink, program: Program, record_property: Callable[[str, object], None]
) -> None:
    """With the endpoint down, its file is cut to many lengths: the program lives, and counts what that cost."""
    sink.stop()
    for round_ in range(30):
        program.tell("calls 100")
        for path in segments():
            os.truncate(path, round_ * 997)
    recorded, _, _, _ = program.tell("calls 100")
    assert recorded == 3_100
    sink.start()
    _, delivered, spooled, dropped = program.tell("flush 20")
    program.end()
    assert spooled == 0
    assert set(dropped) == {"spool_corrupt"}
    numbers = sink.numbers()
    assert len(numbers) == delivered == 3_100 - dropped["spool_corrupt"]
    assert set(range(3_000, 3_100)) <= set(numbers)
    record_property("fault", (delivered, len(numbers), len(sink.records) - len(numbers), delivered - len(numbers)))


def test_a_segment_is_cut_while_the_program_writes(
    sink: Sink, program: Program, record_property: Callable[[str, object], None]
) -> None:
    """The file is cut while calls are being written to it, as fast as both go."""
    sink.stop()
    stdin, stdout = program._pipes()
    stdin.write("calls 60000\n")
    stdin.flush()
    cuts = 0
    os.set_blocking(stdout.fileno(), False)
    while not (line := stdout.readline()):
        for path in segments():
            with contextlib.suppress(FileNotFoundError):  # damaged ones go once they are read
                os.truncate(path, cuts % 4_096)
                cuts += 1
    os.set_blocking(stdout.fileno(), True)
    recorded, delivered, spooled, dropped = json.loads(line)
    assert cuts > 10
    assert recorded == delivered + spooled + sum(dropped.values())
    sink.start()
    recorded, delivered, spooled, dropped = program.tell("flush 30")
    program.end()
    assert (recorded, spooled) == (60_000, 0)
    numbers = sink.numbers()
    record_property("fault", (delivered, len(numbers), len(sink.records) - len(numbers), delivered - len(numbers)))
    assert len(numbers) == delivered == 60_000 - sum(dropped.values())


@pytest.mark.parametrize("what", ["files", "folder", "home"])
@pytest.mark.parametrize("up", [True, False], ids=["endpoint up", "endpoint down"])
def test_the_folder_is_deleted(
    sink: Sink, program: Program, what: str, up: bool, record_property: Callable[[str, object], None]
) -> None:
    """Deleted between calls: every call arrives, those from before included, and the exit line says where they are."""
    if not up:
        sink.stop()
    program.tell("calls 100")
    program.tell("flush 0.5")
    (path,) = {path.parent for path in segments()}
    if what == "files":
        for segment in segments():
            segment.unlink()
    else:
        shutil.rmtree(path if what == "folder" else os.environ["EVERYCALL_HOME"])
    program.tell("calls 100")
    program.tell("flush 0.5")
    program.tell("calls 100")
    errors = program.end()
    if not up:
        (line,) = errors.splitlines()
        assert (
            f"300 of 300 records not delivered yet (ConnectionRefusedError: Connection refused); kept in {path}" in line
        )
        assert segments() != []
        sink.start()
        ship(sink.address)
    assert set(sink.numbers()) == set(range(300))
    assert len(sink.records) == 300
    record_property("fault", (300, len(sink.numbers()), len(sink.records) - len(sink.numbers()), 0))


def test_a_folder_that_cannot_be_created_again(sink: Sink, program: Program) -> None:
    """A file lies where the spool was: what was in the spool is sent while the program runs, or counted at its end."""
    sink.stop()
    program.tell("calls 100")
    home = Path(os.environ["EVERYCALL_HOME"])
    shutil.rmtree(home)
    home.write_text("not a directory")
    program.tell("flush 0.5")
    program.tell("calls 100")
    errors = program.end()
    assert "200 of 200 records lost (spool_unwritable: 200): ConnectionRefusedError: Connection refused" in errors
    assert "kept in" not in errors.splitlines()[-1]
