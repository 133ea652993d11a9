"""However a process ends, what its traced calls recorded is on the server once, after the next process has shipped it.

Real processes against a sink on loopback. Each program prints the number of every traced call that has returned.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from everycall_testkit.sink import Sink

PRELUDE = """
import os, sys, time, signal
import everycall
everycall.init(endpoint={endpoint!r})
@everycall.trace
def numbered(n, pad=""):
    return n
def call(n):
    numbered(n)
    sys.stdout.write(str(n) + chr(10)); sys.stdout.flush()
"""


@pytest.fixture
def sink() -> Iterator[Sink]:
    with Sink() as started:
        yield started


def start(sink: Sink, body: str) -> subprocess.Popen[str]:
    code = PRELUDE.format(endpoint=sink.address) + textwrap.dedent(body)
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(sink: Sink, body: str, timeout: float = 30) -> tuple[int, set[int], str]:
    """Run a program to its end; return its exit code, the calls that returned, and its standard error."""
    process = start(sink, body)
    out, err = process.communicate(timeout=timeout)
    return process.returncode, {int(line) for line in out.split()}, err


def ship(sink: Sink) -> None:
    """Run a later process that records nothing, and adopts the files that it finds."""
    code = f"""
import sys
from everycall._ledger import Balance
from everycall._delivery.batch import ship_segments
from everycall._delivery.segment import adoptable
from everycall._delivery.transport import Transport
from everycall.paths import spool_root
transport = Transport({sink.address!r}, compress=False, client="ship:1:1", user_agent="test")
for folder in sorted(spool_root().iterdir()):
    for segment in adoptable(folder):
        ship_segments([segment], transport, None, Balance(0, 0, 0), folder)
left = [p for p in spool_root().rglob("*.spool")]
sys.exit(len(left))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(autouse=True)
def table(record_property: Callable[[str, object], None]) -> None:
    """Let `assert_once` add its counts to the fault table of the run."""
    COUNTED[:] = [record_property]


COUNTED: list[Callable[[str, object], None]] = []


def assert_once(sink: Sink, returned: set[int]) -> None:
    """Every call that returned is stored, once by its id; calls that did not return may be."""
    numbers = sink.numbers()
    once = sum(numbers[n] == 1 for n in returned)
    COUNTED[0]("fault", (len(returned), once, sum(numbers[n] > 1 for n in returned), len(returned - set(numbers))))
    assert returned <= set(numbers), sorted(returned - set(numbers))[:5]
    assert set(numbers.values()) == {1}


@pytest.mark.parametrize("up", [True, False], ids=["endpoint up", "endpoint down"])
def test_kill_9_right_after_the_call(sink: Sink, up: bool) -> None:
    """SIGKILL in the statement after the traced call: the record is shipped by the next process."""
    if not up:
        sink.stop()
    code, returned, _ = run(sink, "for n in range(100): call(n)\nos.kill(os.getpid(), signal.SIGKILL)")
    assert code == -signal.SIGKILL
    assert returned == set(range(100))
    if not up:
        sink.start()
    ship(sink)
    assert_once(sink, returned)


def test_kill_9_at_any_moment(sink: Sink) -> None:
    """SIGKILL from outside, at many moments: whatever had returned is there, nothing is torn, nothing twice."""
    everything: set[int] = set()
    for index in range(8):
        process = start(sink, f"n = {index * 1_000_000}\nwhile True:\n    call(n); n += 1")
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.01 * index)
        process.kill()
        out, _ = process.communicate(timeout=120)
        everything |= {int(line) for line in out.split("\n")[:-1] if line}
    ship(sink)
    assert everything
    assert_once(sink, everything)


@pytest.mark.parametrize(
    ("ending", "code"),
    [
        ("sys.exit(3)", 3),
        ("os._exit(4)", 4),
        ("raise RuntimeError('uncaught')", 1),
        ("os.kill(os.getpid(), signal.SIGTERM); time.sleep(5)", -signal.SIGTERM),
        # a shell's background jobs begin with the signal ignored
        ("signal.signal(2, signal.default_int_handler); os.kill(os.getpid(), 2); time.sleep(5)", -signal.SIGINT),
        ("os.abort()", -signal.SIGABRT),
        ("signal.signal(signal.SIGTERM, lambda *a: sys.exit(0)); os.kill(os.getpid(), signal.SIGTERM)", 0),
    ],
)
def test_every_other_way_to_end(sink: Sink, ending: str, code: int) -> None:
    """Exit, `os._exit`, an uncaught exception, signals: the exit code is kept and nothing is missing."""
    exit_code, returned, _ = run(sink, f"for n in range(50): call(n)\n{ending}")
    assert exit_code == code
    ship(sink)
    assert_once(sink, returned)
    assert returned == set(range(50))


def test_a_signal_handler_may_call_and_flush_at_any_moment(sink: Sink) -> None:
    """Even if the interrupted call or flush is just waking the sender: there is no deadlock."""
    sink.stop()
    code, returned, _ = run(
        sink,
        """
import random
numbers = iter(range(1, 1_000_000))
def handle(*_):
    call(next(numbers))
    everycall.flush(0)
signal.signal(signal.SIGALRM, handle)
call(0)
for _ in range(5_000):
    signal.setitimer(signal.ITIMER_REAL, random.uniform(2e-6, 6e-5))
    everycall.flush(0)
signal.setitimer(signal.ITIMER_REAL, 0)
""",
    )
    assert code == 0
    assert len(returned) > 100


@pytest.mark.parametrize("mode", ["down", "hang", "status:500", "status:413"])
def test_exit_is_not_delayed(sink: Sink, mode: str) -> None:
    """With an endpoint that is down, hangs or answers wrongly, the process is gone in time and says what is left."""
    if mode == "down":
        sink.stop()
    else:
        sink.mode = mode
    code, returned, stderr = run(sink, "for n in range(20): call(n)")
    assert code == 0
    assert len(returned) == 20
    if mode != "status:413":
        lines = stderr.splitlines()
        assert len(lines) == 1, stderr
        assert "20 of 20 records not delivered yet" in lines[0]
        if mode == "down":
            sink.start()
        sink.mode = "ok"
        ship(sink)
        assert_once(sink, returned)
    else:
        assert "lost" in stderr


def test_stopped_right_after_the_call(sink: Sink) -> None:
    """SIGSTOP right after a call returned (a frozen lambda): the record is on disk, and sent when it continues."""
    sink.stop()
    process = start(sink, "call(0)\nos.kill(os.getpid(), signal.SIGSTOP)\neverycall.flush(10)")
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "0\n"
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        home = Path(os.environ["EVERYCALL_HOME"])
        assert b'"n":0' in b"".join(p.read_bytes() for p in home.rglob("*.spool"))
        sink.start()
        process.send_signal(signal.SIGCONT)
        process.communicate(timeout=120)
    finally:
        process.kill()
        process.communicate()
    assert_once(sink, {0})


@pytest.mark.parametrize("ending", ["sys.exit(0)", "os._exit(0)"])
def test_forked_children(sink: Sink, ending: str) -> None:
    """Parent initialises and calls, forked children call: all arrive, ids differ even after random.seed(0) in each."""
    code, returned, stderr = run(
        sink,
        f"""
        import random
        for n in range(50): call(n)
        for child in range(3):
            if os.fork() == 0:
                random.seed(0)
                for n in range(300): call(1000 * (child + 1) + n)
                {ending}
        for _ in range(3): os.wait()
        """,
    )
    assert code == 0, stderr
    assert len(returned) == 950
    ship(sink)
    assert_once(sink, returned)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_multiprocessing_children_that_exit_at_once(sink: Sink, method: str, tmp_path: Path) -> None:
    """`multiprocessing` children end by `os._exit`, without atexit: what they recorded arrives all the same."""
    script = tmp_path / "program.py"
    script.write_text(
        textwrap.dedent(f"""
        import multiprocessing, sys
        import everycall
        @everycall.trace
        def numbered(n):
            return n
        def work(child):
            everycall.init(endpoint={sink.address!r})
            for n in range(300):
                numbered(1000 * child + n)
        if __name__ == "__main__":
            everycall.init(endpoint={sink.address!r})
            for n in range(50): numbered(n)
            context = multiprocessing.get_context({method!r})
            children = [context.Process(target=work, args=(c,)) for c in (1, 2, 3)]
            [c.start() for c in children]; [c.join(30) for c in children]
            sys.exit(sum(c.exitcode != 0 for c in children))
        """)
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    ship(sink)
    assert_once(sink, set(range(50)) | {1000 * c + n for c in (1, 2, 3) for n in range(300)})


def test_fork_while_the_sender_is_busy(sink: Sink) -> None:
    """Forks in the middle of sending and calling, many times: no child hangs, nothing is missing."""
    code, returned, stderr = run(
        sink,
        """
        for child in range(60):
            call(child)
            pid = os.fork()
            if pid == 0:
                call(1000 + child)
                os._exit(0)
            os.waitpid(pid, 0)
        """,
        timeout=120,
    )
    assert code == 0, stderr
    assert len(returned) == 120
    ship(sink)
    assert_once(sink, returned)


def test_two_processes_share_one_directory(sink: Sink) -> None:
    """Two running processes with the same destination never use each other's files."""
    sink.stop()
    processes = [start(sink, f"for n in range({base}, {base} + 200): call(n)") for base in (0, 1000)]
    returned: set[int] = set()
    for process in processes:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        returned |= {int(line) for line in out.split()}
    sink.start()
    ship(sink)
    assert returned == set(range(200)) | set(range(1000, 1200))
    assert_once(sink, returned)


@pytest.mark.parametrize("spool", ["/proc/nowhere", "/dev/null/x"])
def test_no_spool_directory(sink: Sink, spool: str) -> None:
    """A directory that cannot be written: calls work, records are sent from memory, and there is one warning."""
    code, returned, stderr = run(
        sink, f"everycall.init(endpoint={sink.address!r}, spool_dir={spool!r})\nfor n in range(100): call(n)"
    )
    assert code == 0, stderr
    assert_once(sink, returned)
    assert len(returned) == 100
    assert stderr.count("cannot write its spool") == 1
    assert "Traceback" not in stderr


def test_no_spool_directory_and_no_endpoint(sink: Sink) -> None:
    """With neither disk nor network the loss is counted and named, and the exit is quick."""
    sink.stop()
    code, returned, stderr = run(
        sink, f"everycall.init(endpoint={sink.address!r}, spool_dir='/proc/nowhere')\nfor n in range(100): call(n)"
    )
    assert code == 0
    assert len(returned) == 100
    assert "100 of 100 records lost (spool_unwritable: 100): ConnectionRefusedError: Connection refused" in stderr


def test_a_clock_that_goes_back(sink: Sink) -> None:
    """Durations come from the monotonic clock: none is negative when the wall clock jumps back an hour."""
    code, returned, stderr = run(
        sink,
        """
        from everycall import _call
        import itertools
        times = itertools.chain([1_700_000_000 * 10**9] * 5, itertools.repeat(1_699_996_400 * 10**9))
        _call._clock = lambda: next(times)
        for n in range(10): call(n)
        """,
    )
    assert code == 0, stderr
    assert_once(sink, returned)
    assert all(r["latency"] >= 0 and r["end_time_unix_nano"] >= r["start_time_unix_nano"] for r in sink.records)


def test_an_outage_of_the_server_loses_nothing(sink: Sink) -> None:
    """The endpoint goes away in the middle of the program and comes back: every call once."""
    process = start(sink, "for n in range(1000):\n    call(n)\n    time.sleep(0.001)\neverycall.flush(20)")
    time.sleep(0.4)
    sink.stop()
    time.sleep(1.0)
    sink.start()
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    returned = {int(line) for line in out.split()}
    assert returned == set(range(1000))
    assert_once(sink, returned)


@pytest.mark.parametrize(
    "fault",
    ["status:500", "status:503", "retry_after:1", "reset", "swallow", "lost_ack", "garbage", "hang", "slow:0.3"],
)
def test_an_endpoint_that_fails_for_a_while(sink: Sink, fault: str) -> None:
    """Any wrong behaviour of the endpoint for the first second of the program, then health: every call once."""
    sink.mode = fault
    process = start(sink, "for n in range(1000):\n    call(n)\n    time.sleep(0.0005)\neverycall.flush(30)")
    time.sleep(1.2)
    sink.mode = "ok"
    sink.release()
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    ship(sink)
    returned = {int(line) for line in out.split()}
    assert returned == set(range(1000))
    assert_once(sink, returned)


def test_a_burst(sink: Sink) -> None:
    """50 000 calls as fast as they go: none is lost and the program is not held up at its end."""
    code, _, stderr = run(
        sink,
        """
        for n in range(50_000): numbered(n)
        left = everycall.flush(40).spooled
        sheet = everycall.stats()
        assert left == 0 and sheet.recorded == sheet.delivered == 50_000, sheet
        """,
        timeout=120,
    )
    assert code == 0, stderr
    assert_once(sink, set(range(50_000)))
