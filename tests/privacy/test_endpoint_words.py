"""What an endpoint says is not ours to repeat: it may be what was sent to it. Nor does a record hold the process's own.

These calls have no flags: their content is on the wire and in the spool. It is in no line of a log all the same.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import everycall
from everycall import _guard, _runtime


class Echo:
    """An endpoint that gives back what it gets, in each place where an answer has words."""

    def __init__(self, way: str) -> None:
        self.bodies: list[bytes] = []
        self.arrived = threading.Event()
        echo = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                echo.bodies.append(body)
                line = body.replace(b"\n", b" ")[-6_000:]
                if way == "status line":
                    self.wfile.write(line + b"\r\n\r\n")
                elif way == "reason phrase":
                    self.wfile.write(b"HTTP/1.1 503 " + line + b"\r\ncontent-length: 0\r\n\r\n")
                elif way == "header":
                    self.wfile.write(b"HTTP/1.1 429 x\r\nretry-after: " + line + b"\r\ncontent-length: 0\r\n\r\n")
                elif way == "length":
                    self.wfile.write(b"HTTP/1.1 200 x\r\ntransfer-encoding: chunked\r\n\r\n" + line + b"\r\n")
                elif way == "detail":
                    self._json(400, {"detail": line.decode()})
                else:
                    refused = [{"index": n, "reason": line.decode()} for n in range(body.count(b"\n"))]
                    self._json(200, {"committed": 0, "refused": refused})
                self.close_connection = True
                echo.arrived.set()

            def _json(self, status: int, answer: dict[str, Any]) -> None:
                data = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


WAYS = ["status line", "reason phrase", "header", "length", "detail", "refusal"]


@pytest.fixture(params=WAYS)
def echo(request: pytest.FixtureRequest) -> Iterator[Echo]:
    started = Echo(request.param)
    yield started
    everycall.shutdown(0.2)
    started.stop()


def test_logs_do_not_repeat_the_endpoints_text(
    echo: Echo, canary: str, written_output: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever comes back: our log at DEBUG, the standard streams and the line at exit have no word of it."""
    monkeypatch.setattr(_guard, "_warned_at", {})  # warnings of the last minute are repeated
    everycall.init(endpoint=echo.address)
    with everycall.span(canary, inputs=f"i-{canary}"):
        pass
    everycall.flush(0.2)
    assert echo.arrived.wait(30)
    assert any(canary.encode() in body for body in echo.bodies)
    everycall.shutdown(0.2)
    _runtime._at_exit()
    assert canary not in written_output()


def test_the_exit_line_does_not_repeat_the_endpoints_text(echo: Echo, canary: str, tmp_path: Path) -> None:
    """A process that ends while its endpoint talks nonsense says how many records are left, and nothing of them."""
    program = (
        "import sys, logging, everycall\n"
        "logging.basicConfig(level=logging.DEBUG)\n"
        "with everycall.span(sys.stdin.read()): pass\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "EVERYCALL_ENDPOINT": echo.address, "EVERYCALL_EXIT_TIMEOUT": "0.5"},
        input=f"i-{canary}",
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert any(canary.encode() in body for body in echo.bodies)
    assert canary not in ended.stdout + ended.stderr


def test_an_omitted_record_that_is_refused_is_kept_without_content(
    sink: Any, canary: str, written_output: Callable[[], str], tmp_path: Path
) -> None:
    """The file of refused records has the record as it was sent: without what a flag covers."""
    sink.mode = "refuse:entry"
    everycall.init(endpoint=sink.address)
    flags: Any = {"log_omit_inputs": True, "log_omit_outputs": True}
    with everycall.span("entry", inputs=canary, **flags) as call:
        call.update(output=canary)
    assert everycall.flush(10).dropped == 1
    (refused_file,) = [path for path in tmp_path.rglob("*.jsonl") if path.parent.name == "refused"]
    assert json.loads(refused_file.read_text())["record"]["name"] == "entry"
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or canary.encode() not in path.read_bytes(), path
    assert canary not in written_output()


PROGRAM = """
import os, sys, everycall
from langchain_core.language_models import FakeListChatModel
from langchain_core.prompts import ChatPromptTemplate
from everycall_langchain import CallbackHandler

@everycall.trace
def work(question):
    with everycall.span("inner", kind="tool", inputs={"q": question}) as call:
        call.update(output="fine")
    chain = ChatPromptTemplate.from_template("{q}") | FakeListChatModel(responses=["fine"])
    chain.invoke({"q": question}, {"callbacks": [CallbackHandler()]})
    if question == "fail":
        raise ValueError("failed")

work("hello")
try:
    work("fail")
except ValueError:
    pass
assert everycall.flush(10).spooled == 0
"""


def test_no_record_has_the_environment_or_the_command_line(sink: Any, canary: str, tmp_path: Path) -> None:
    """Variables of any name, those that LangChain's own tracer sends too, and arguments; the key is in its header."""
    secrets = {
        name: f"{name}-{canary}"
        for name in (
            "MY_SECRET",
            "OPENAI_API_KEY",
            "LANGSMITH_CANARY",
            "LANGCHAIN_PROJECT",
            "AWS_SECRET_ACCESS_KEY",
            "USER",
        )
    }
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, f"--password=argument-{canary}"],
        env={
            **os.environ,
            **secrets,
            "EVERYCALL_ENDPOINT": sink.address,
            "EVERYCALL_API_KEY": f"key-{canary}",
            "LANGSMITH_TRACING": "false",
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    assert {record["scope"] for record in sink.records} == {"everycall", "everycall_langchain"}
    headers = [{name: value for name, value in each.items() if name != "x-api-key"} for each in sink.headers]
    assert {each["x-api-key"] for each in sink.headers} == {f"key-{canary}"}
    files = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert canary.encode() not in b"\n".join(sink.bodies) + json.dumps(headers).encode() + files
