"""Fixtures of the attacks: real server processes, raw connections, and the list of all requests."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
import pytest

from everycall_testkit import attack_surface
from everycall_testkit import mutations as damage
from everycall_testkit.provider import FakeProvider

HERE = Path(__file__).parent
KEY = "ek-local-key-of-the-attacked-server"


class Nursery:
    """The process that forks servers (`launch.py`)."""

    def __init__(self, home: Path) -> None:
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("EVERYCALL_", "OTEL_"))
        }
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "launch.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**environment, "EVERYCALL_HOME": str(home)},
        )

    def ask(self, **command: Any) -> dict[str, Any]:
        """Send a command and return its answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


class Victim:
    """A server in a child process."""

    def __init__(self, nursery: Nursery, directory: Path, options: dict[str, Any]) -> None:
        self._nursery = nursery
        self.directory = directory
        self.data = directory / "data"
        self.log_path = directory / "server.log"
        self.audit_path = directory / "audit.log"
        self.key = KEY
        self.pid = 0
        self.address = ""
        self.login = ""
        self._options = options
        self.start()

    def start(self) -> None:
        """Start the server, or start it again on the same data."""
        started = self._nursery.ask(
            data_dir=str(self.data), log=str(self.log_path), audit=str(self.audit_path), key=KEY, **self._options
        )
        assert started["address"], self.log()
        self.pid, self.address, self.login = started["pid"], started["address"], started["login"]

    def end(self, number: int = signal.SIGKILL) -> int:
        """Send a signal, wait for the end, and return the exit code (negative for a signal)."""
        os.kill(self.pid, number)
        return self.wait()

    def wait(self) -> int:
        """Wait for the end and return the exit code."""
        pid, self.pid = self.pid, 0
        return int(self._nursery.ask(wait=pid)["code"])

    def process(self) -> psutil.Process:
        """Return the process, to measure it."""
        return psutil.Process(self.pid)

    def log(self) -> str:
        """Return everything the server wrote to its standard output and error."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def events(self, since: int = 0) -> list[list[str]]:
        """Return the events of its audit hook after a mark from `seen`."""
        with self.audit_path.open("rb") as file:
            file.seek(since)
            return [json.loads(line) for line in file.read().splitlines()]

    def seen(self) -> int:
        """Return a mark for `events`: the present size of the audit file."""
        return self.audit_path.stat().st_size

    def client(self, key: str | None = KEY, **options: Any) -> httpx.Client:
        """Return an HTTP client, with a key unless it is None."""
        headers = {**({} if key is None else {"x-api-key": key}), **options.pop("headers", {})}
        return httpx.Client(base_url=self.address, headers=headers, timeout=30, **options)

    def make_key(self, project: str, role: str) -> str:
        """Create a key and return its secret."""
        body = {"name": f"{project} {role}", "project": project, "role": role}
        answer = httpx.post(f"{self.address}/api/keys", json=body, headers={"x-api-key": self.key})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["secret"])

    def connect(self, timeout: float = 30) -> socket.socket:
        """Return a raw connection."""
        parts = urlsplit(self.address)
        return socket.create_connection((str(parts.hostname), int(parts.port or 0)), timeout=timeout)

    def raw(self, *pieces: bytes) -> bytes:
        """Send raw bytes and return everything until the server closes the connection."""
        with self.connect() as connection:
            with suppress(ConnectionError):
                for piece in pieces:
                    connection.sendall(piece)
            data = b""
            with suppress(ConnectionError):
                while chunk := connection.recv(65_536):
                    data += chunk
            return data

    @staticmethod
    def answer(connection: socket.socket) -> bytes:
        """Return one complete response from a raw connection, or what came before its end."""
        data = b""
        with suppress(ConnectionError):
            while piece := connection.recv(65_536):
                data += piece
                head, _, body = data.partition(b"\r\n\r\n")
                length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
                if length is not None and len(body) >= int(length[1]):
                    break
        return data

    def rows(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """Return rows of the server's database."""
        with closing(sqlite3.connect(f"file:{self.data / 'everycall.db'}?mode=ro", uri=True)) as database:
            return database.execute(statement, values).fetchall()

    def every_row(self) -> dict[str, list[tuple[Any, ...]]]:
        """Return all rows of all tables, to see that nothing changed."""
        names = [name for (name,) in self.rows("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        return {name: self.rows(f'SELECT * FROM "{name}"') for name in names if not name.startswith("sqlite_")}

    def is_well(self) -> None:
        """Assert that the server answers, its log has no traceback, and its database is intact."""
        assert httpx.get(f"{self.address}/healthz", timeout=30).json() == {"status": "ok"}
        for sign in ("Traceback", 'File "', "failed: "):  # how Python and the server log a defect
            assert sign not in self.log(), self.log()[-4000:]
        assert self.rows("PRAGMA integrity_check") == [("ok",)]


@pytest.fixture(scope="session")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    """One nursery for all tests of this worker."""
    new_nursery = Nursery(tmp_path_factory.mktemp("nursery"))
    yield new_nursery
    new_nursery.close()


@pytest.fixture(scope="module")
def start_victim(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Victim]]:
    """Start server processes, such as `start_victim(hosts=[...])`. They end with the module's tests."""
    started: list[Victim] = []

    def start(**options: Any) -> Victim:
        started.append(Victim(nursery, tmp_path_factory.mktemp("victim"), options))
        return started[-1]

    yield start
    for one in started:
        if one.pid:
            one.end()


@pytest.fixture(scope="module")
def victim(start_victim: Callable[..., Victim]) -> Victim:
    """A server process that the module's tests share."""
    return start_victim()


@pytest.fixture(scope="module")
def shared_provider() -> Iterator[Any]:
    """A fake provider that the module's tests share."""
    fake = FakeProvider()
    fake.start()
    yield fake
    fake.stop()


@pytest.fixture(scope="session")
def surface() -> Any:
    """The list of all requests (`everycall_testkit.attack_surface`)."""
    return attack_surface


@pytest.fixture(scope="session")
def routes(surface: Any, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, str]]:
    """Each registered method and path of the real app."""
    from everycall.server.app import create_app
    from everycall.server.gateway import Gateway
    from everycall.server.options import ServerOptions
    from everycall.server.store.sqlite import SqliteStore

    folder = tmp_path_factory.mktemp("router")
    store = SqliteStore(folder / "unused.db")
    app = create_app(ServerOptions(data_dir=folder, local_key=KEY), store, Gateway(store, {}))
    return sorted(set(surface.routes_of(app)))


@pytest.fixture(scope="session")
def mutations() -> Any:
    """Seeded damage to bodies (`everycall_testkit.mutations`)."""
    return damage
