"""Fixtures for every test: a clean environment, a started server, a fake provider on loopback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from everycall_testkit.provider import FakeProvider
from everycall_testkit.stream_provider import StreamProvider

FOREIGN_PREFIXES = ("EVERYCALL_", "OTEL_", "OPENAI_", "AZURE_OPENAI_", "ANTHROPIC_", "PAREA_")


def pytest_make_parametrize_id(config: pytest.Config, val: object, argname: str) -> str | None:
    """Name long bytes by their length: compressed ones hold the time, and every worker must collect the same names."""
    return f"{argname}-{len(val)}-bytes" if isinstance(val, bytes) and len(val) > 16 else None


@pytest.fixture(autouse=True)
def clean_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test has a separate state directory, and no environment variable configures it."""
    for name in list(os.environ):
        if name.startswith(FOREIGN_PREFIXES):
            monkeypatch.delenv(name)
    monkeypatch.setenv("EVERYCALL_HOME", str(tmp_path / "home"))


@pytest.fixture
def server_options(tmp_path: Path) -> Any:
    """The options of the `server` fixture; a test module may override it."""
    from everycall.server.options import ServerOptions

    return ServerOptions(data_dir=tmp_path / "data", port=0)


@pytest.fixture
def server(server_options: Any) -> Iterator[Any]:
    """A started server with an empty SQLite store."""
    from everycall.server.runner import Server

    with Server(server_options) as started:
        yield started


@pytest.fixture
def client(server: Any) -> Iterator[httpx.Client]:
    """An HTTP client of `server` with its local key."""
    with httpx.Client(base_url=server.address, headers={"x-api-key": server.key}, timeout=30) as opened:
        yield opened


@pytest.fixture(params=["sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Any]:
    """An open store, of each kind that there is (`everycall_testkit.store_records.STORES`)."""
    from everycall_testkit.store_records import STORES

    opened = STORES[request.param](tmp_path)
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
def make_key(client: httpx.Client) -> Callable[..., str]:
    """Make a key of `server` and return its secret: `make_key(project, role="write")`."""

    def make(project: str, role: str = "write") -> str:
        answer = client.post("/api/keys", json={"name": f"{project} {role}", "project": project, "role": role})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["secret"])

    return make


@pytest.fixture
def provider() -> Iterator[Any]:
    """A started fake provider: a real HTTP server on loopback with scriptable replies."""
    fake = FakeProvider()
    fake.start()
    try:
        yield fake
    finally:
        fake.stop()


@pytest.fixture
def streaming_provider() -> Iterator[Any]:
    """A started fake provider whose streams go as a test says, which also sees its clients hang up."""
    with StreamProvider() as started:
        yield started


@pytest.fixture
def gateway_server(tmp_path: Path, provider: Any) -> Iterator[Any]:
    """A started server whose provider `openai` is the fake one."""
    from everycall.server.options import ServerOptions
    from everycall.server.provider_settings import ProviderSettings
    from everycall.server.runner import Server

    settings = ProviderSettings("openai", "openai", base_url=provider.base_url, api_key="sk-fake")
    options = ServerOptions(data_dir=tmp_path / "gateway-data", port=0, providers={"openai": settings})
    with Server(options) as started:
        yield started


@pytest.fixture
def server_process(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Start a server in a child process: `server_process(data_dir=..., port=0)`; it ends with the test.

    The process object has `.address` and `.key` once the server accepts requests; a server that does not start is
    returned with `.address` None and its complaint in `.stderr`.
    """
    program = (
        "import json, sys\n"
        "from pathlib import Path\n"
        "from everycall.errors import EverycallError\n"
        "from everycall.server.options import ServerOptions\n"
        "from everycall.server.runner import run\n"
        "options = ServerOptions(data_dir=Path(sys.argv[1]), port=int(sys.argv[2]), local_key='process-local-key')\n"
        "try:\n"
        "    run(options, lambda address, login: print(json.dumps([address, login]), flush=True))\n"
        "except EverycallError as error:\n"
        "    sys.exit(f'{type(error).__name__}: {error}')\n"
    )
    started: list[subprocess.Popen[str]] = []

    def start(data_dir: Path | None = None, port: int = 0) -> Any:
        process: Any = subprocess.Popen(
            [sys.executable, "-c", program, str(data_dir or tmp_path / "process-data"), str(port)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        line = process.stdout.readline()
        process.address, process.login = json.loads(line) if line else (None, None)
        process.key = "process-local-key"
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()
