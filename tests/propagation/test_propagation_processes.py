"""Two real processes: a service and its client over HTTP, and the children of process pools, forked and spawned."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from everycall_testkit.shipping import ship
from everycall_testkit.sink import Sink

pytestmark = pytest.mark.process

SERVICE = """
import json, sys
import everycall, uvicorn
from everycall.propagation import ASGIMiddleware

everycall.init(exit_timeout_s=1.0)

@everycall.trace("look up", kind="retriever")
async def look_up(question):
    return {"answer": "OUTPUT-of-the-service"}

async def app(scope, receive, send):
    assert scope["type"] == "http"
    await look_up("INPUT-of-the-service")
    seen = {name.decode(): value.decode() for name, value in scope["headers"]}
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": json.dumps(seen).encode()})

config = uvicorn.Config(ASGIMiddleware(app), port=0, lifespan="off", log_level="error")
listening = config.bind_socket()
listening.listen(128)
print(listening.getsockname()[1], flush=True)
uvicorn.Server(config).run([listening])
"""
CLIENT = """
import sys
import everycall, {library}

everycall.init(propagate_to=["127.0.0.1"])
with everycall.context(trace_id="order-42", trace_name="support", end_user_identifier="u-7", session_id="s-1",
                       log_omit_inputs=True):
    with everycall.span("ask", inputs={{"question": "INPUT-of-the-client"}}) as call:
        call.update(output="OUTPUT-of-the-client")
        print({library}.get(sys.argv[1]).text)
"""


@pytest.fixture
def sink() -> Iterator[Sink]:
    with Sink() as started:
        yield started


@pytest.fixture
def environment(sink: Sink) -> dict[str, str]:
    return {**os.environ, "EVERYCALL_ENDPOINT": sink.address}


@pytest.fixture
def service(environment: dict[str, str]) -> Iterator[Any]:
    process: Any = subprocess.Popen([sys.executable, "-c", SERVICE], env=environment, stdout=subprocess.PIPE, text=True)
    process.port = process.stdout.readline().strip()
    yield process
    process.kill()
    process.communicate()


def ask(url: str, library: str, environment: dict[str, str]) -> dict[str, str]:
    """Run the client's process; returns the headers that the service saw."""
    program = CLIENT.format(library=library)
    done = subprocess.run(
        [sys.executable, "-c", program, url], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, str] = json.loads(done.stdout)
    return result


@pytest.mark.parametrize("library", ["httpx", "httpx2", "requests"])
def test_a_service_continues_the_trace(
    library: str, service: Any, sink: Sink, environment: dict[str, str]
) -> None:  # fmt: skip
    """One trace over two processes: ids, labels and parent are the client's, and so is what must not be recorded."""
    result = ask(f"http://127.0.0.1:{service.port}/", library, environment)
    assert {"traceparent", "baggage"} <= result.keys()
    service.send_signal(signal.SIGTERM)
    service.communicate(timeout=120)
    ship(sink.address)
    client, served = sorted(sink.records, key=lambda r: r["name"])
    for field, value in (
        ("trace_id", "order-42"),
        ("trace_name", "support"),
        ("end_user_identifier", "u-7"),
        ("session_id", "s-1"),
    ):
        assert client[field] == served[field] == value
    assert served["parent_id"] == client["inference_id"]
    assert (client["omitted"], served["omitted"]) == (["inputs"], ["inputs"])
    everything = b"".join(sink.bodies)
    assert b"OUTPUT-of-the-client" in everything
    assert b"OUTPUT-of-the-service" in everything
    assert b"INPUT" not in everything


@pytest.mark.parametrize("library", ["httpx", "httpx2", "requests"])
def test_a_host_that_is_not_listed_gets_no_headers(
    library: str, service: Any, sink: Sink, environment: dict[str, str]
) -> None:  # fmt: skip
    """The same service under another name: no header at all, and a separate trace."""
    result = ask(f"http://localhost:{service.port}/", library, environment)
    assert not {"traceparent", "tracestate", "baggage"} & result.keys()
    assert "order-42" not in json.dumps(result)
    service.send_signal(signal.SIGTERM)
    service.communicate(timeout=120)
    ship(sink.address)
    client, served = sorted(sink.records, key=lambda r: r["name"])
    assert client["trace_id"] == "order-42"
    assert served["trace_id"] != "order-42"
    assert "parent_id" not in served


CHILDREN = """
import multiprocessing, sys
from concurrent.futures import ProcessPoolExecutor
import everycall
from everycall.propagation import carry

@everycall.trace
def work(n):
    return n * n

if __name__ == "__main__":
    everycall.init()
    method = multiprocessing.get_context(sys.argv[1])
    with ProcessPoolExecutor(2, mp_context=method) as pool:
        for order in ("order-1", "order-2"):
            with everycall.context(trace_id=order, session_id="s", tags=["beta"], metadata={"team": "a"},
                                   log_omit_inputs=True):
                with everycall.span("above", inputs="CANARY"):
                    assert list(pool.map(carry(work), range(4))) == [0, 1, 4, 9]
        assert list(pool.map(carry(work), range(4))) == [0, 1, 4, 9]
    with everycall.context(trace_id="order-3"), everycall.span("above"):
        child = method.Process(target=carry(work), args=(5,))
        child.start()
        child.join()
        assert child.exitcode == 0
        with method.Pool(1) as workers:
            assert workers.map(carry(work), [6]) == [36]
"""


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_process_pools(method: str, sink: Sink, environment: dict[str, str], tmp_path: Path) -> None:
    """Workers that serve one call after another: each task is filed under the call that carried it, or under none."""
    script = tmp_path / "program.py"
    script.write_text(textwrap.dedent(CHILDREN), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(script), method], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    ship(sink.address)
    records = {r["inference_id"]: r for r in sink.records}.values()
    above = {r["trace_id"]: r for r in records if r["name"] == "above"}
    tasks = [r for r in records if r["name"] == "work"]
    assert len(tasks) == 14
    for order in ("order-1", "order-2"):
        mine = [r for r in tasks if r["trace_id"] == order]
        assert [r["parent_id"] for r in mine] == [above[order]["inference_id"]] * 4
        assert {(r["session_id"], *r["tags"], r["metadata"]["team"], *r["omitted"]) for r in mine} == {
            ("s", "beta", "a", "inputs")
        }
    roots = [r for r in tasks if "parent_id" not in r]
    assert len(roots) == len({r["trace_id"] for r in roots}) == 4
    assert not any(r.get("tags") or r.get("session_id") for r in roots)
    third = [r for r in tasks if r["trace_id"] == "order-3"]
    assert [r["parent_id"] for r in third] == [above["order-3"]["inference_id"]] * 2
    assert b"CANARY" not in b"".join(sink.bodies)
