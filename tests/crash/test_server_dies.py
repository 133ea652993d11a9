"""The real server killed again and again while a real program calls: each call is in its store exactly once."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from everycall.paths import local_key_path

PROGRAM = """
import sys, threading, time
import everycall
everycall.init(endpoint={endpoint!r})
@everycall.trace
def numbered(n):
    return n
n = 0
told = threading.Event()
threading.Thread(target=lambda: (sys.stdin.readline(), told.set()), daemon=True).start()
while not (told.is_set() and n > 1_000):
    numbered(n); n += 1
    time.sleep(0.002)
print(n)
print(everycall.flush(40).spooled)
"""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def serve(port: int, data: Path) -> subprocess.Popen[bytes]:
    """Start a server process and wait until it answers."""
    process = subprocess.Popen(
        [sys.executable, "-m", "everycall", "serve", "--port", str(port), "--data", str(data)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, process.stderr.read() if process.stderr else b""
        try:
            if httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=1).status_code == 200:
                return process
        except httpx.HTTPError:
            time.sleep(0.02)
    raise AssertionError("the server did not start")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_server_killed_under_load_has_every_call_once(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """SIGKILL at five moments of ingest, restarted each time on the same store: stored = called, once each."""
    port, data = free_port(), tmp_path / "data"
    server = serve(port, data)
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(endpoint=f"http://127.0.0.1:{port}")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        for pause in (0.9, 0.73, 0.61, 0.97, 0.55):
            time.sleep(pause)
            server.kill()
            server.communicate()
            server = serve(port, data)
        out, err = program.communicate("end\n", timeout=90)
        call_count, left = (int(line) for line in out.split())
        assert left == 0, err
        key = local_key_path().read_text().strip()
        trace = httpx.get(f"http://127.0.0.1:{port}/api/records?limit=1", headers={"x-api-key": key}).json()
        assert trace["records"]
    finally:
        program.kill()
        program.communicate()
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0
        server.communicate()
    with sqlite3.connect(data / "everycall.db") as store:
        assert store.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        rows, distinct = store.execute("SELECT count(*), count(DISTINCT inference_id) FROM records").fetchone()
    record_property("fault", (call_count, distinct, rows - distinct, call_count - distinct))
    assert (rows, distinct) == (call_count, call_count)
    assert call_count > 1_000
    assert not list(Path(os.environ["EVERYCALL_HOME"]).rglob("*.spool"))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_twenty_seconds_without_a_server(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    """Server stopped while a thousand calls are made: a thousand records afterwards, once each."""
    port, data = free_port(), tmp_path / "data"
    server = serve(port, data)
    server.kill()
    server.communicate()
    code = f"""
import time, everycall
everycall.init(endpoint="http://127.0.0.1:{port}")
@everycall.trace
def numbered(n):
    return n
for n in range(1000):
    numbered(n); time.sleep(0.02)
print(everycall.flush(0.1).spooled, flush=True)
time.sleep(4)
print(everycall.flush(30).spooled)
"""
    program = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert program.stdout is not None
    assert program.stdout.readline() == "1000\n"
    server = serve(port, data)
    try:
        out, err = program.communicate(timeout=120)
        assert out == "0\n", err
        assert len([line for line in err.splitlines() if line]) <= 2, err
        key = local_key_path().read_text().strip()
        numbers: list[str] = []
        cursor: str | None = None
        while True:
            page = httpx.get(
                f"http://127.0.0.1:{port}/api/records",
                params={"limit": "500", **({"cursor": cursor} if cursor else {})},
                headers={"x-api-key": key},
            ).json()
            numbers += [str(r["inputs"]["n"]) for r in page["records"]]
            cursor = page["next_cursor"]
            if not cursor:
                break
        record_property("fault", (1000, len(set(numbers)), len(numbers) - len(set(numbers)), 1000 - len(set(numbers))))
        assert sorted(map(int, numbers)) == list(range(1000))
    finally:
        server.send_signal(signal.SIGTERM)
        server.communicate(timeout=120)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_memory_is_bounded_while_the_endpoint_is_down(tmp_path: Path) -> None:
    """50 000 calls of 2 KB with nothing listening: memory grows by at most 32 MB, and the spool holds them all."""
    code = f"""
import psutil, everycall
everycall.init(endpoint="http://127.0.0.1:{free_port()}")
@everycall.trace
def echo(text):
    return text
text = "x" * 1000
for _ in range(500):
    echo(text)
process = psutil.Process()
before = process.memory_info().rss
for n in range(49_500):
    echo(text)
print(process.memory_info().rss - before, everycall.stats().spooled)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=True)
    grown, spooled = (int(word) for word in done.stdout.split())
    assert spooled == 50_000
    assert grown <= 32 * 1024 * 1024
