"""Calls that outlive what they began in, and exits: `init`, `shutdown` and exit handlers lose no call.

Real processes against sinks on loopback.
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

PRELUDE = """
import atexit, json, sys, threading, time
FIRST, SECOND = {first!r}, {second!r}
def tell(*values):
    sys.stdout.write(json.dumps(values) + chr(10)); sys.stdout.flush()
"""
CALL = """
import everycall

@everycall.trace
def numbered(n):
    return n

def sheet():
    balance = everycall.stats()
    assert balance.recorded == balance.delivered + balance.spooled + balance.lost, balance
    return balance.recorded
"""


@pytest.fixture
def sink() -> Iterator[Sink]:
    with Sink() as started:
        yield started


@pytest.fixture
def second() -> Iterator[Sink]:
    with Sink() as started:
        yield started


def run(sink: Sink, body: str, second: Sink | None = None, **environment: str) -> tuple[list[Any], str]:
    """Run a program to its end; return the lists that it printed, and its standard error."""
    code = PRELUDE.format(first=sink.address, second=second.address if second else None) + textwrap.dedent(body)
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "EVERYCALL_ENDPOINT": sink.address, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def assert_once(sink: Sink, expected: set[int], record_property: Callable[[str, object], None]) -> None:
    numbers = sink.numbers()
    twice = sum(numbers[n] > 1 for n in expected)
    record_property("fault", (len(expected), len(expected & set(numbers)) - twice, twice, len(expected - set(numbers))))
    assert set(numbers) == expected
    assert set(numbers.values()) == {1}


def test_a_call_that_spans_init(sink: Sink, record_property: Callable[[str, object], None]) -> None:
    """The same destination again: one sheet, one spool, and the call is in both."""
    lines, errors = run(
        sink,
        CALL
        + """
@everycall.trace
def outer(n):
    everycall.init(sample_rate=1.0)
    return numbered(n + 1)
numbered(0)
outer(1)
tell(sheet(), everycall.flush(20).spooled)
""",
    )
    assert (lines, errors) == ([[3, 0]], "")
    assert_once(sink, {0, 1, 2}, record_property)


def test_a_call_that_spans_init_to_another_endpoint(
    sink: Sink, second: Sink, record_property: Callable[[str, object], None]
) -> None:
    """It goes to where it was bound for; later ones go to the other; the sheet has them all."""
    lines, errors = run(
        sink,
        CALL
        + """
@everycall.trace
def outer(n):
    everycall.init(endpoint=SECOND)
    return numbered(n + 100)
numbered(0)
outer(1)
tell(sheet(), everycall.flush(20).spooled)
""",
        second,
    )
    assert (lines, errors) == ([[3, 0]], "")
    assert second.numbers() == {101: 1}
    assert_once(sink, {0, 1}, record_property)


@pytest.mark.parametrize("up", [True, False], ids=["endpoint up", "endpoint down"])
def test_a_call_that_spans_shutdown(sink: Sink, up: bool, record_property: Callable[[str, object], None]) -> None:
    """It counts and arrives; one that begins after the shutdown is not recorded."""
    if not up:
        sink.stop()
    lines, _ = run(
        sink,
        CALL
        + """
@everycall.trace
def outer(n):
    everycall.shutdown(0.3)
    return numbered(100)
numbered(0)
outer(1)
tell(sheet())
""",
    )
    assert lines == [[2]]
    if not up:
        sink.start()
        ship(sink.address)
    assert_once(sink, {0, 1}, record_property)


@pytest.mark.parametrize("up", [True, False], ids=["endpoint up", "endpoint down"])
def test_exit_handlers_that_run_after_ours(
    sink: Sink, up: bool, record_property: Callable[[str, object], None]
) -> None:
    """Handlers registered before everycall's run after it: their calls count, and are delivered as they end."""
    if not up:
        sink.stop()
    lines, errors = run(
        sink,
        """
@atexit.register
def last():
    tell(sheet())
@atexit.register
def late():
    for n in (1, 2, 3):
        numbered(n)
"""
        + CALL
        + "numbered(0)\n",
    )
    assert lines == [[4]]
    if up:
        assert errors == ""
    else:
        assert len(errors.splitlines()) == 1
        sink.start()
        ship(sink.address)
    assert_once(sink, {0, 1, 2, 3}, record_property)


def test_the_first_call_in_an_exit_handler(sink: Sink, record_property: Callable[[str, object], None]) -> None:
    """Recording begins while the interpreter ends: the calls arrive all the same."""
    lines, errors = run(
        sink,
        """
@atexit.register
def last():
    tell(sheet())
@atexit.register
def late():
    for n in range(5):
        numbered(n)
"""
        + CALL,
    )
    assert (lines, errors) == ([[5]], "")
    assert_once(sink, set(range(5)), record_property)


def test_threads_make_calls_during_repeated_init(
    sink: Sink, second: Sink, record_property: Callable[[str, object], None]
) -> None:
    """Four threads call without a pause through 40 `init`s to two endpoints: every call is at one of them, once."""
    lines, errors = run(
        sink,
        CALL
        + """
made, running = [0] * 4, True
def work(worker):
    while running:
        numbered(worker * 1_000_000 + made[worker])
        made[worker] += 1
everycall.init(endpoint=FIRST)
workers = [threading.Thread(target=work, args=(w,)) for w in range(4)]
[w.start() for w in workers]
for round_ in range(40):
    time.sleep(0.005)
    everycall.init(endpoint=SECOND if round_ % 3 == 0 else FIRST, project_name=f"p{round_ % 2}")
running = False
[w.join() for w in workers]
left = everycall.flush(30).spooled
tell(sheet() - sum(made), left, *made)
""",
        second,
    )
    difference, left, *made = lines[0]
    assert (difference, left, errors) == (0, 0, "")
    expected = {worker * 1_000_000 + n for worker in range(4) for n in range(made[worker])}
    assert not set(sink.numbers()) & set(second.numbers())
    sink.records += second.records
    assert_once(sink, expected, record_property)


def test_threads_make_calls_during_a_shutdown(sink: Sink, record_property: Callable[[str, object], None]) -> None:
    """Whatever had begun when recording was shut down is recorded; the program's end delivers it."""
    lines, errors = run(
        sink,
        CALL
        + """
returned, running = [], True
@everycall.trace
def slow(n):
    time.sleep(0.002)
    returned.append((n, everycall.current().inference_id))
    return n
def work(worker):
    n = worker * 1_000_000
    while running:
        slow(n); n += 1
everycall.init()
workers = [threading.Thread(target=work, args=(w,)) for w in range(4)]
[w.start() for w in workers]
while len(returned) < 200:
    time.sleep(0.005)
everycall.shutdown(5)
before = len(returned)
while len(returned) < before + 50:
    time.sleep(0.005)
running = False
[w.join() for w in workers]
tell(sheet())
""",
    )
    assert errors == ""
    assert sum(sink.numbers().values()) == lines[0][0]
    assert set(sink.numbers().values()) == {1}
    assert lines[0][0] > 100
    record_property("fault", (lines[0][0], len(sink.numbers()), 0, 0))


# --- flush and exit while the endpoint fails ---


@pytest.mark.parametrize("mode", ["status:503", "reset", "status:401"])
def test_a_flush_does_not_hammer(sink: Sink, mode: str) -> None:
    """One attempt at once, then the back-off: few requests in three seconds, however many wait."""
    sink.mode = mode
    lines, _ = run(
        sink,
        CALL
        + """
for n in range(100):
    numbered(n)
threads = [threading.Thread(target=everycall.flush, args=(3,)) for _ in range(4)]
[t.start() for t in threads]
tell(everycall.flush(3).spooled)
[t.join() for t in threads]
""",
        EVERYCALL_EXIT_TIMEOUT="0",
    )
    assert lines == [[100]]
    assert 2 <= len(sink.times) <= 10


def test_many_short_flushes_do_not_hammer(sink: Sink) -> None:
    """A loop of flushes makes an attempt each, but not more than four a second."""
    sink.mode = "status:503"
    lines, _ = run(
        sink,
        CALL
        + """
begun = time.monotonic()
numbered(0)
for _ in range(40):
    everycall.flush(0.05)
tell(time.monotonic() - begun)
""",
        EVERYCALL_EXIT_TIMEOUT="0",
    )
    ((seconds,),) = lines
    assert 2 <= len(sink.times) <= 4 * seconds + 2  # the first attempt, and one at the exit


def test_a_429_after_a_wrong_key_does_not_hide_it(sink: Sink) -> None:
    """The endpoint answers 401 first, and 429 from then on."""
    sink.script = ["status:401"]
    sink.mode = "status:429"
    _, errors = run(sink, CALL + "numbered(0)\neverycall.flush(2)\n", EVERYCALL_EXIT_TIMEOUT="0.5")
    assert len(sink.times) > 1
    (line,) = errors.splitlines()
    assert "the endpoint answered 401: the key is missing or not accepted" in line


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        ("down", "ConnectionRefusedError: Connection refused"),
        ("hang", "no answer in time"),
        ("status:503", "the endpoint answered 503"),
        ("status:401", "the endpoint answered 401: the key is missing or not accepted"),
        ("reset", "ConnectionResetError: Connection reset by peer"),
    ],
)
def test_one_line_at_exit_reports_the_records_left(sink: Sink, mode: str, reason: str) -> None:
    """What is left, the true reason, and where it really is."""
    if mode == "down":
        sink.stop()
    sink.mode = mode
    code = CALL + "for n in range(20):\n    numbered(n)\n"
    if mode != "hang":  # a busy machine may need longer than the exit's time for one attempt
        code += "while everycall._runtime._current.sender.last_failure is None:\n    everycall.flush(0.1)\n"
    _, errors = run(sink, code, EVERYCALL_EXIT_TIMEOUT="0.7")
    (line,) = errors.splitlines()
    start, end = f"everycall: 20 of 20 records not delivered yet ({reason}); kept in ", ", sent by the next process"
    assert line.startswith(start)
    directory = line[len(start) : line.index(end)]
    assert sum(b'"n":' in path.read_bytes() for path in Path(directory).glob("*.spool")) == 1


def test_an_attempt_without_an_end_is_a_reason(sink: Sink) -> None:
    """The first attempt is still waiting for its answer when the program ends, which does not wait at all."""
    sink.mode = "hang"
    _, errors = run(
        sink,
        CALL
        + """
numbered(0)
from everycall import _runtime
while not _runtime._current.sender.problem:
    everycall.flush(0.05)
""",
        EVERYCALL_EXIT_TIMEOUT="0",
    )
    (line,) = errors.splitlines()
    assert line.startswith("everycall: 1 of 1 records not delivered yet (no answer in time); kept in ")
