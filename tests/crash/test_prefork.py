"""Servers that fork: the parent initialises and makes calls, its workers make theirs, and nothing is lost or doubled.

Real processes against a sink on loopback. Workers end as gunicorn's do, after a number of requests, by `os._exit`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from everycall_testkit.shipping import ship
from everycall_testkit.sink import Sink

PREFORK = """
import os, random, signal, sys, warnings
from urllib.parse import parse_qs
from wsgiref.simple_server import WSGIRequestHandler, make_server
import everycall
from everycall.propagation import WSGIMiddleware

warnings.simplefilter("ignore", DeprecationWarning)  # fork beside the sender's thread: what is tested here
everycall.init(endpoint={endpoint!r}, exit_timeout_s=1.0)

@everycall.trace
def numbered(n, inner=None):
    if inner is not None:
        numbered(inner)
    return n

def unraisable(unraisable):
    if unraisable.exc_type is not SystemExit:  # of `stop` below, in a hook around a fork: Python goes on
        sys.__unraisablehook__(unraisable)
sys.unraisablehook = unraisable

served = 0
def app(environ, start_response):
    global served
    served += 1
    n = int(environ["QUERY_STRING"])
    numbered(n, n + 100_000 if n % 5 == 0 else None)
    start_response("200 OK", [("content-type", "text/plain")])
    yield str(os.getpid()).encode()
    numbered(n + 200_000)

class Quiet(WSGIRequestHandler):
    def log_message(self, *args):
        pass

server = make_server("127.0.0.1", 0, WSGIMiddleware(app), handler_class=Quiet)
server.socket.setblocking(False)  # a request that another worker took is no reason to wait
server.timeout = 0.1
parent = os.getpid()
random.seed(0)
for n in range(1_000_000, 1_000_020):
    numbered(n)

def work():
    random.seed(0)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    while served < {requests} and os.getppid() == parent:
        server.handle_request()
    {ending}

def fork():
    if os.fork() == 0:
        work()

stopping = False
def stop(*_):
    global stopping
    if os.getpid() != parent:
        os._exit(0)
    numbered(1_000_099)
    stopping = True
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
for _ in range(4):
    fork()
print(server.server_port, flush=True)
while True:
    pid, status = os.wait()
    if os.WIFSIGNALED(status):
        continue  # SIGTERM goes to the whole group
    assert status == 0, status
    numbered(2_000_000 + pid)
    fork()
    if stopping:  # the signal came in one of the hooks around a fork, where Python ignores what is raised
        sys.exit(0)
"""


@pytest.fixture
def sink() -> Iterator[Sink]:
    with Sink() as started:
        yield started


def trace_of(n: int) -> str:
    return f"{n + 1:032x}"


def headers_of(n: int) -> dict[str, str]:
    return {"traceparent": f"00-{trace_of(n)}-{n + 1:016x}-01", "baggage": f"everycall.session_id=s{n}"}


def ask(address: str, numbers: range) -> set[str]:
    """Make requests, several at a time, each in a separate trace; return the processes that answered."""
    with (
        httpx.Client(timeout=30, limits=httpx.Limits(max_keepalive_connections=0)) as client,
        ThreadPoolExecutor(8) as pool,
    ):
        responses = pool.map(lambda n: client.get(f"{address}/?{n}", headers=headers_of(n)), numbers)
        return {answer.raise_for_status().text for answer in responses}


def assert_nested(sink: Sink, numbers: range) -> None:
    """Every request's record is in its own caller's trace, below the caller's span, with its label; once."""
    unique = {r["inference_id"]: r for r in sink.records}
    by_number = {r["inputs"]["n"]: r for r in unique.values()}
    assert len(by_number) == len(unique)
    for n in numbers:
        record = by_number[n]
        assert record["trace_id"] == trace_of(n)
        assert record["parent_id"] == f"{trace_of(n)}-{n + 1:016x}"
        assert record["session_id"] == f"s{n}"


@pytest.mark.parametrize("ending", ["os._exit(0)", "sys.exit(0)"])
@pytest.mark.parametrize("up", [True, False], ids=["endpoint up", "endpoint down"])
def test_prefork_workers_lose_nothing(
    sink: Sink, ending: str, up: bool, record_property: Callable[[str, object], None]
) -> None:
    """200 requests to four workers, each replaced after 25: every call is on the server once, ids differ in all."""
    if not up:
        sink.stop()
    program = PREFORK.format(endpoint=sink.address, requests=25, ending=ending)
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        pids = ask(f"http://127.0.0.1:{port}", range(200))
        os.killpg(process.pid, signal.SIGTERM)
        _, stderr = process.communicate(timeout=120)
        assert process.returncode == 0, stderr
        assert "Traceback" not in stderr
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert len(pids) >= 8
    if not up:
        sink.start()
    ship(sink.address)
    expected = {
        *range(200), *range(100_000, 100_200, 5), *range(200_000, 200_200), *range(1_000_000, 1_000_020), 1_000_099,
    }  # fmt: skip
    numbers = sink.numbers()
    reaped = {n for n in numbers if n >= 2_000_000}
    twice = sum(numbers[n] > 1 for n in expected)
    record_property("fault", (len(expected), len(expected & set(numbers)) - twice, twice, len(expected - set(numbers))))
    assert set(numbers) - reaped == expected
    assert {str(n - 2_000_000) for n in reaped} <= pids
    assert set(numbers.values()) == {1}
    assert len(sink.counts()) == len(numbers)
    assert_nested(sink, range(200))
    unique = {r["inputs"]["n"]: r for r in sink.records}
    for n in range(0, 200, 5):
        assert unique[n + 100_000]["parent_id"] == unique[n]["inference_id"]
        assert unique[n + 100_000]["trace_id"] == trace_of(n)
        assert unique[n + 200_000]["trace_id"] == trace_of(n)


SERVICE = """
import os, time
import everycall
from everycall.propagation import ASGIMiddleware

@everycall.trace
async def served(n):
    return n

async def app(scope, receive, send):
    assert scope["type"] == "http"
    await served(int(scope["query_string"]))
    time.sleep(0.02)  # this worker is busy: the next request is the other's
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(os.getpid()).encode()})

app = ASGIMiddleware(app)
"""
RUN = """
import uvicorn
from uvicorn.supervisors import Multiprocess

if __name__ == "__main__":
    config = uvicorn.Config("service:app", port=0, workers=2, lifespan="off", log_level="error")
    listening = config.bind_socket()
    listening.listen(128)
    print(listening.getsockname()[1], flush=True)
    Multiprocess(config, sockets=[listening]).run()
"""


def test_uvicorn_with_two_workers(sink: Sink, tmp_path: Path) -> None:
    """Both workers answer, and every record lies below the span that its request named."""
    (tmp_path / "service.py").write_text(textwrap.dedent(SERVICE), encoding="utf-8")
    (tmp_path / "run.py").write_text(textwrap.dedent(RUN), encoding="utf-8")
    env: dict[str, Any] = {**os.environ, "EVERYCALL_ENDPOINT": sink.address}
    process = subprocess.Popen(
        [sys.executable, "run.py"], cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        pids: set[str] = set()
        request_count = 0
        while len(pids) < 2 and request_count < 2_000:  # the second worker may take a while to start
            pids |= ask(f"http://127.0.0.1:{port}", range(request_count, request_count + 40))
            request_count += 40
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=120)
    finally:
        process.kill()
        process.communicate()
    assert len(pids) == 2
    assert "Traceback" not in stderr
    ship(sink.address)
    assert set(sink.numbers()) == set(range(request_count))
    assert_nested(sink, range(request_count))
