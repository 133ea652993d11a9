"""Forks at random moments beside a sender at work: no child hangs, and every call arrives once.

Real processes against a sink on loopback. `FORKS` is how many forks each test makes; set EVERYCALL_TEST_FORKS for a
longer run, and EVERYCALL_TEST_PYTHON for another interpreter that has everycall installed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from everycall_testkit.certificates import make_certificate
from everycall_testkit.shipping import ship
from everycall_testkit.sink import Sink

FORKS = int(os.environ.get("EVERYCALL_TEST_FORKS", "24"))
PYTHON = os.environ.get("EVERYCALL_TEST_PYTHON", sys.executable)

PRELUDE = """
import json, multiprocessing, os, random, subprocess, sys, threading, time, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # a fork beside other threads: what is tested here
import everycall

@everycall.trace
def numbered(n):
    return n

def fork(n):
    '''Fork a child that makes a call, imports what a sender imports, and tries to deliver.'''
    pid = os.fork()
    if pid:
        return pid
    try:
        numbered(n)
        import encodings.idna, email.utils, gzip, http.client, ssl, urllib.request
        everycall.flush({child_flush})
    finally:
        os._exit(0)

def reap(pids):
    '''Wait for all of them; return how many had to be killed.'''
    hung, deadline = 0, time.monotonic() + 60
    for pid in pids:
        while os.waitpid(pid, os.WNOHANG)[0] == 0:
            if time.monotonic() > deadline:
                hung += 1
                os.kill(pid, 9)
                os.waitpid(pid, 0)
                break
            time.sleep(0.002)
    return hung
"""

WAYS = """
def child(n):
    numbered(n)
    everycall.flush({child_flush})

def by_fork(n):
    return reap([fork(n)])

def by_multiprocessing(n):
    process = multiprocessing.get_context("fork").Process(target=child, args=(n,))
    process.start()
    process.join(20)
    if process.exitcode is None:
        process.kill()
        process.join()
        return 1
    assert process.exitcode == 0
    return 0

def by_subprocess(n):
    '''The child makes its call before it becomes another program.'''
    done = []
    def run():
        done.append(subprocess.run([sys.executable, "-c", ""], preexec_fn=lambda: numbered(n)).returncode)
    thread = threading.Thread(target=run, daemon=True); thread.start()
    thread.join(20)
    return 0 if done == [0] else 1

ways = [by_fork, by_multiprocessing, by_subprocess]
"""

BESIDE_A_BUSY_SENDER = """
def work():
    n = 1_000_000
    while running:
        numbered(n); n += 1
        everycall.flush(0.05)
        called[0] = n
called, running, hung = [1_000_000], True, 0
thread = threading.Thread(target=work); thread.start()
for n in range({forks}):
    numbered(n)
    time.sleep(random.random() * 0.03)
    hung += ways[n % 3](100_000 + n)
running = False
thread.join()
print(json.dumps([hung, called[0]]))
"""

AT_THE_FIRST_CALL = """
numbered({base})
time.sleep(random.random() * {within})
pids = [fork({base} + 1 + n) for n in range(4)]
print(json.dumps([reap(pids), 0]))
"""


def run(body: str, **environment: str) -> list[Any]:
    """Run a program with everycall configured by its environment alone; returns what it printed."""
    done = subprocess.run(
        [PYTHON, "-c", textwrap.dedent(body)],
        env={**os.environ, "EVERYCALL_EXIT_TIMEOUT": "0.5", **environment},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    printed: list[Any] = json.loads(done.stdout)
    return printed


def assert_once(sink: Sink, expected: set[int], record_property: Callable[[str, object], None]) -> None:
    numbers = sink.numbers()
    missing = expected - set(numbers)
    twice = sum(count > 1 for count in numbers.values())
    record_property("fault", (len(expected), len(expected & set(numbers)) - twice, twice, len(missing)))
    assert not missing, sorted(missing)[:5]
    assert set(numbers.values()) == {1}
    assert set(numbers) == expected


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    return make_certificate(tmp_path / "certificate.pem")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("mode", ["ok", "close", "hang", "reset", "slow:0.02"])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_forks_beside_a_busy_sender(
    scheme: str, mode: str, certificate: Path, record_property: Callable[[str, object], None]
) -> None:
    """The parent calls and sends all the time, on one connection, on a new one each time, or without an answer.

    Children come by `os.fork`, by `multiprocessing`, and by `subprocess` with a function that runs before the program.
    """
    with Sink(mode, certificate if scheme == "https" else None) as sink:
        program = PRELUDE + WAYS + BESIDE_A_BUSY_SENDER
        code = program.format(child_flush=0.2 if mode in ("hang", "reset") else 10, forks=FORKS)
        hung, call_count = run(code, EVERYCALL_ENDPOINT=sink.address, SSL_CERT_FILE=str(certificate))
        assert hung == 0
        sink.mode = "ok"
        sink.release()
        ship(sink.address, SSL_CERT_FILE=str(certificate))
        expected = {*range(FORKS), *range(100_000, 100_000 + FORKS), *range(1_000_000, call_count)}
        assert_once(sink, expected, record_property)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("within", [0.0, 0.05, 0.2])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_forks_at_the_first_call(
    scheme: str, within: float, certificate: Path, record_property: Callable[[str, object], None]
) -> None:
    """Started from the environment alone, one call and forks at once: the sender imports and connects meanwhile."""
    with Sink(certificate=certificate if scheme == "https" else None) as sink:
        bases = range(0, max(FORKS // 4, 1) * 5, 5)
        for base in bases:
            code = PRELUDE.format(child_flush=10) + AT_THE_FIRST_CALL.format(base=base, within=within)
            hung, _ = run(code, EVERYCALL_ENDPOINT=sink.address, SSL_CERT_FILE=str(certificate))
            assert hung == 0
        ship(sink.address, SSL_CERT_FILE=str(certificate))
        assert_once(sink, {base + n for base in bases for n in range(5)}, record_property)


def test_the_sender_imports_nothing(certificate: Path) -> None:
    """Everything that the sender's thread needs is imported by the thread that starts it, for http and https."""
    body = """
    import sys, json
    import everycall
    from everycall._delivery import sender
    original = sender.Sender._run
    before = []
    def run(self, *arguments):
        before.append(set(sys.modules))
        original(self, *arguments)
    sender.Sender._run = run
    everycall.trace(lambda: 1)()
    everycall.flush(1)
    print(json.dumps([everycall.stats().delivered, sorted(set(sys.modules) - before[0])]))
    """
    for tls in (None, certificate):
        with Sink(certificate=tls) as sink:
            assert run(body, EVERYCALL_ENDPOINT=sink.address, SSL_CERT_FILE=str(certificate)) == [1, []]
            sink.mode = "retry_after:Wed, 21 Oct 2015 07:28:00 GMT"
            assert run(body, EVERYCALL_ENDPOINT=sink.address, SSL_CERT_FILE=str(certificate)) == [0, []]
    assert run(body, EVERYCALL_ENDPOINT="https://nowhere.invalid:9") == [0, []]  # a remote one: compressed, by a proxy


def test_a_fork_waits_for_an_import_but_not_for_a_hanging_name_look_up() -> None:
    """The sender is held in the gate: an import is waited for longer than a look-up, which may never end."""
    body = """
    import json, os, threading, warnings
    warnings.simplefilter("ignore", DeprecationWarning)
    import everycall
    from everycall import limits
    from everycall._delivery.fork_gate import gate
    limits.FORK_WAIT_S = 0.05
    everycall.init()
    entered, done, told = threading.Event(), threading.Event(), []
    def work():
        with gate:
            gate.is_looking_up = is_look_up
            entered.set()
            done.wait(20 if is_look_up else 0.5)
            gate.is_looking_up = False
    for is_look_up in (True, False):
        entered.clear()
        thread = threading.Thread(target=work); thread.start()
        entered.wait()
        if (pid := os.fork()) == 0:
            everycall.trace(lambda: 1)()
            os._exit(int(gate.was_open))
        done.set()
        told.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        done.clear()
        thread.join()
    print(json.dumps(told))
    """
    with Sink() as sink:
        assert run(body, EVERYCALL_ENDPOINT=sink.address) == [0, 1]


def test_a_client_that_was_in_use_when_a_child_was_forked() -> None:
    """A thread of the parent held the client's lock: it works in the child, on a separate connection."""
    body = """
    import json, os, warnings
    warnings.simplefilter("ignore", DeprecationWarning)
    import everycall
    client = everycall.Parea(api_key="key")
    with client._process_lock():
        if (pid := os.fork()) == 0:
            client._sync_client()
            client.close()
            os._exit(0)
        print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])]))
    """
    with Sink() as sink:
        assert run(body, EVERYCALL_ENDPOINT=sink.address) == [0]
