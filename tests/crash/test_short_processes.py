"""Many short processes: the files they leave are small, bounded, and delivered by running processes."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from everycall_testkit.shipping import ship
from everycall_testkit.sink import Sink

PRELUDE = """
import json, multiprocessing, os, sys, time, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # a fork beside other threads: what is tested here
import everycall

@everycall.trace
def numbered(n, pad=""):
    return n

def work(child):
    for n in range(300):
        numbered(1000 * child + n)
"""


@pytest.fixture
def sink() -> Iterator[Sink]:
    with Sink() as started:
        yield started


def start(sink: Sink, tmp_path: Path, body: str, **environment: str) -> subprocess.Popen[str]:
    script = tmp_path / "program.py"
    script.write_text(PRELUDE + textwrap.dedent(body), encoding="utf-8")
    env = {**os.environ, "EVERYCALL_ENDPOINT": sink.address, **environment}
    return subprocess.Popen(
        [sys.executable, str(script)],
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> None:
    _, errors = process.communicate("\n", timeout=120)
    assert process.returncode == 0, errors
    assert "Traceback" not in errors


def assert_once(sink: Sink, expected: set[int], record_property: Callable[[str, object], None]) -> None:
    """Every call is there under one id: what a child had sent when it ended may come again, and the server knows it."""
    numbers = sink.numbers()
    twice = sum(numbers[n] > 1 for n in expected)
    record_property("fault", (len(expected), len(expected & set(numbers)) - twice, twice, len(expected - set(numbers))))
    assert set(numbers) == expected
    assert set(numbers.values()) == {1}


POOLS = {
    "os.fork": """
        for child in (1, 2, 3):
            if os.fork() == 0:
                work(child)
                os._exit(0)
        for child in (1, 2, 3):
            os.wait()
        """,
    "fork": """
        children = [multiprocessing.get_context("fork").Process(target=work, args=(c,)) for c in (1, 2, 3)]
        [c.start() for c in children]; [c.join() for c in children]
        """,
    "spawn": """
        children = [multiprocessing.get_context("spawn").Process(target=work, args=(c,)) for c in (1, 2, 3)]
        [c.start() for c in children]; [c.join() for c in children]
        """,
    "pool": """
        with multiprocessing.get_context("fork").Pool(3) as pool:
            pool.map(work, (1, 2, 3))
        """,
}


@pytest.mark.parametrize("own_calls", [50, 0])
@pytest.mark.parametrize("pool", list(POOLS))
def test_a_running_parent_delivers_its_childrens_records(
    sink: Sink, tmp_path: Path, pool: str, own_calls: int, record_property: Callable[[str, object], None]
) -> None:
    """The children leave by `os._exit` at once; the parent lives on, and everything arrives without another process."""
    body = f"""
if __name__ == "__main__":
    everycall.init()
    for n in range({own_calls}):
        numbered(n)
{textwrap.indent(textwrap.dedent(POOLS[pool]), "    ")}
    print("ended", flush=True)
    sys.stdin.readline()
    os._exit(0)
"""
    process = start(sink, tmp_path, body)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ended\n"
        expected = {*range(own_calls), *(1000 * c + n for c in (1, 2, 3) for n in range(300))}
        sink.wait_until(lambda: expected <= set(sink.numbers()))
    finally:
        finish(process)
    assert_once(sink, expected, record_property)


@pytest.mark.parametrize("pool", list(POOLS))
def test_a_parent_that_exits_at_once_delivers_its_childrens_records(
    sink: Sink, tmp_path: Path, pool: str, record_property: Callable[[str, object], None]
) -> None:
    """It ends right after its children: its exit delivers what they left, within the exit's time."""
    body = f"""
if __name__ == "__main__":
    everycall.init(exit_timeout_s=20)
    for n in range(50):
        numbered(n)
{textwrap.indent(textwrap.dedent(POOLS[pool]), "    ")}
"""
    finish(start(sink, tmp_path, body))
    expected = {*range(50), *(1000 * c + n for c in (1, 2, 3) for n in range(300))}
    assert_once(sink, expected, record_property)


def test_a_running_sibling_delivers(sink: Sink, tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    """A parent that records nothing: the child that lives delivers what the ones that ended have left."""
    body = """
    def last():
        numbered(0)
        print("ended", flush=True)
        os.read(0, 1)
        os._exit(0)
    if __name__ == "__main__":
        for child in (1, 2, 3):
            if os.fork() == 0:
                work(child)
                os._exit(0)
        if os.fork() == 0:
            last()
        for _ in range(4):
            os.wait()
    """
    process = start(sink, tmp_path, body)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ended\n"
        expected = {0, *(1000 * c + n for c in (1, 2, 3) for n in range(300))}
        sink.wait_until(lambda: expected <= set(sink.numbers()))
    finally:
        finish(process)
    assert_once(sink, expected, record_property)


MANY = {
    "os.fork": """
        pids = []
        for child in range(150):
            pid = os.fork()
            if pid == 0:
                numbered(child)
                os._exit(0)
            pids.append(pid)
        for pid in pids:
            os.waitpid(pid, 0)
        """,
    "multiprocessing": """
        context = multiprocessing.get_context("fork")
        for child in range(150):
            process = context.Process(target=numbered, args=(child,))
            process.start()
            process.join()
        """,
    "pool": """
        with multiprocessing.get_context("fork").Pool(4, maxtasksperchild=1) as pool:
            pool.map(numbered, range(150), chunksize=1)
        """,
}


@pytest.mark.slow
@pytest.mark.parametrize("pool", list(MANY))
def test_many_children_of_one_call_each(
    sink: Sink, tmp_path: Path, pool: str, record_property: Callable[[str, object], None]
) -> None:
    """150 children end right after their only call; the parent, which makes none, delivers them all while it lives."""
    body = f"""
everycall.init()
{textwrap.dedent(MANY[pool])}
print("ended", flush=True)
sys.stdin.readline()
os._exit(0)
"""
    process = start(sink, tmp_path, body)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ended\n"
        sink.wait_until(lambda: set(range(150)) <= set(sink.numbers()))
    finally:
        finish(process)
    assert_once(sink, set(range(150)), record_property)


def test_a_busy_parent_delivers_its_childrens_records(
    sink: Sink, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """Also while it calls without a pause."""
    body = """
    for child in (1, 2, 3):
        if os.fork() == 0:
            work(child)
            os._exit(0)
    for child in (1, 2, 3):
        os.wait()
    print("ended", flush=True)
    import threading
    threading.Thread(target=lambda: (sys.stdin.readline(), done.append(1)), daemon=True).start()
    done, n = [], 10_000
    while not done:
        numbered(n); n += 1
        time.sleep(0.0005)
    print(n)
    everycall.flush(20)
    """
    process = start(sink, tmp_path, body)
    assert process.stdout is not None
    assert process.stdout.readline() == "ended\n"
    children = {1000 * c + n for c in (1, 2, 3) for n in range(300)}
    sink.wait_until(lambda: children <= set(sink.numbers()))
    out, errors = process.communicate("\n", timeout=120)
    assert process.returncode == 0, errors
    assert_once(sink, children | set(range(10_000, int(out))), record_property)


def disk_usage(directory: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in directory.rglob("*.spool"))


def run_short(sink: Sink, count: int, code: str) -> None:
    """Run `count` processes that make one call each, two at a time."""

    def run(n: int) -> None:
        env: dict[str, Any] = {**os.environ, "EVERYCALL_ENDPOINT": sink.address, "EVERYCALL_EXIT_TIMEOUT": "0.4"}
        subprocess.run(
            [sys.executable, "-c", code.format(n=n)], env=env, stderr=subprocess.PIPE, timeout=120, check=True
        )

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(run, range(count)))


def test_short_processes_leave_only_their_records(sink: Sink, record_property: Callable[[str, object], None]) -> None:
    """With the endpoint down, each leaves what its one record takes, and nothing is lost."""
    sink.stop()
    run_short(sink, 20, "import everycall\neverycall.trace(lambda n: n, name='one')({n})")
    home = Path(os.environ["EVERYCALL_HOME"])
    assert len(list(home.rglob("*.spool"))) == 20
    assert disk_usage(home) <= 20 * 8 * 1024
    sink.start()
    ship(sink.address)
    assert_once(sink, set(range(20)), record_property)


def test_a_whole_spool_directory_is_bounded(sink: Sink) -> None:
    """The oldest files are deleted first, for all processes and endpoints."""
    sink.stop()
    home = Path(os.environ["EVERYCALL_HOME"])
    program = """
import everycall
from everycall import limits
limits.SPOOL_BYTES_MAX = 100_000
limits.OUTAGE_WARN_S = 60
everycall.init(project_name="p{n}")
everycall.trace(lambda n, pad: n, name="one")({n}, "x" * 20_000)
everycall.flush(0.3)
"""
    run_short(sink, 12, program)
    assert disk_usage(home) <= 100_000 + 2 * 49_152  # the two that run last count their own apart
    spooled = b"".join(path.read_bytes() for path in home.rglob("*.spool"))
    assert b'"n":11' in spooled
    assert b'"n":0' not in spooled
