"""Fixtures and helpers for the tests of client integrations.

A `conftest.py` imports the fixtures it wants. A test is written once for the synchronous and the asynchronous client:
`Clients` makes either, and awaits what has to be awaited.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from everycall.record import Record, to_json
from everycall.settings import Settings
from everycall.testing import capture_records
from everycall_testkit.provider import FakeProvider

if TYPE_CHECKING:
    from everycall_testkit.client_contract.adapter import ClientAdapter

__all__ = [
    "Clients",
    "clean_environment",
    "clients",
    "content_of",
    "decode",
    "no_internal_failure",
    "nothing_wrapped",
    "provider",
    "records",
    "run_program",
]

_IDS_AND_TIMES = frozenset(
    {
        *("inference_id", "trace_id", "sdk", "latency", "time_to_first_token"),
        *("start_time_unix_nano", "end_time_unix_nano"),
    }
)
_JSON_FIELDS = frozenset(
    {"llm_inputs", "llm_configuration", "inputs", "output", "target", "metadata", "attributes"},
)
_VARYING_ATTRIBUTES = ("exception.stacktrace", "code.location")
_FOREIGN_PREFIXES = ("EVERYCALL_", "OTEL_", "OPENAI_", "AZURE_OPENAI_", "ANTHROPIC_", "AWS_", "GOOGLE_", "GEMINI_")


@pytest.fixture(autouse=True)
def clean_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove every variable that configures everycall or a client, and give the test a separate home directory."""
    for name in list(os.environ):
        if name.startswith(_FOREIGN_PREFIXES):
            monkeypatch.delenv(name)
    monkeypatch.setenv("EVERYCALL_HOME", str(tmp_path / "home"))


@pytest.fixture(autouse=True)
def no_internal_failure() -> Iterator[None]:
    """Fail a test in which the guard swallowed an exception of everycall's own."""
    from everycall._guard import failures

    failures.clear()
    yield
    assert failures == {}


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    """A started fake provider."""
    with FakeProvider() as started:
        yield started


@pytest.fixture
def records() -> Iterator[list[Record]]:
    """The list that each record joins when its call ends, after masks and omission."""
    with capture_records(Settings(propagate_threads=False)) as captured:
        yield captured


@pytest.fixture(params=["sync", "async"])
async def clients(request: pytest.FixtureRequest, adapter: ClientAdapter, provider: FakeProvider) -> Any:
    """Clients of one kind, which talk to `provider` and are closed after the test."""
    made = Clients(adapter, provider, is_async=request.param == "async")
    yield made
    await made.close()


@pytest.fixture
def nothing_wrapped() -> None:
    """A process in which no client has been wrapped yet; an integration that keeps such a state overrides it."""


class Clients:
    """Clients that are synchronous or asynchronous, and the operations a test needs for both."""

    def __init__(self, adapter: ClientAdapter, provider: FakeProvider, *, is_async: bool) -> None:
        self.adapter = adapter
        self.provider = provider
        self.is_async = is_async
        self._open: list[Any] = []

    def new(self, **settings: Any) -> Any:
        """Return a client that is not wrapped; `ClientAdapter.new_client` names the settings."""
        client = self.adapter.new_client(self.provider, self.is_async, **settings)
        self._open.append(client)
        return client

    def wrap(self, client: Any, **options: Any) -> Any:
        """Wrap a client, with the options that the fake provider needs."""
        return self.adapter.integration.wrap(client, **{**self.adapter.wrap_options, **options})

    def wrapped(self, timeout: float = 30.0, **options: Any) -> Any:
        """Return a new client that is wrapped."""
        return self.wrap(self.new(timeout=timeout), **options)

    async def close(self) -> None:
        """Close all clients."""
        for client in self._open:
            await self.adapter.close(client, self.is_async)

    async def wait(self, value: Any) -> Any:
        """Return a value, awaited if it is awaitable."""
        return await value if inspect.isawaitable(value) else value

    async def next(self, stream: Any) -> Any:
        """Return the next piece of a stream, or None at its end."""
        try:
            return await stream.__anext__() if self.is_async else next(stream)
        except (StopIteration, StopAsyncIteration):
            return None

    async def all(self, stream: Any) -> list[Any]:
        """Read a stream to its end, as a loop does."""
        return [piece async for piece in stream] if self.is_async else list(stream)

    async def first(self, stream: Any) -> Any:
        """Return the first piece of a loop that is left at once."""
        if self.is_async:
            async for piece in stream:
                return piece
        else:
            for piece in stream:
                return piece
        return None

    async def enter(self, manager: Any) -> Any:
        """Enter a context manager of either kind."""
        return await manager.__aenter__() if self.is_async else manager.__enter__()

    async def leave(self, manager: Any, error: BaseException | None = None) -> None:
        """Leave a context manager of either kind, with an error where the block raised one."""
        about = (None, None, None) if error is None else (type(error), error, error.__traceback__)
        await self.wait(manager.__aexit__(*about) if self.is_async else manager.__exit__(*about))

    async def settle(self) -> None:
        """Let the event loop close the asynchronous generators that were dropped."""
        for _ in range(20):
            await asyncio.sleep(0)


def decode(value: Any) -> Any:
    """Return the value of a record's JSON field."""
    return to_json(value)


def content_of(record: Record) -> dict[str, Any]:
    """Return what a record holds except ids and times, which are checked here; fields without a value are left out."""
    assert record.inference_id.startswith(f"{record.trace_id}-")
    assert record.latency is not None
    assert record.start_time_unix_nano + int(record.latency * 1e9) == pytest.approx(record.end_time_unix_nano)
    if record.time_to_first_token is not None:
        assert 0 < record.time_to_first_token <= record.latency
    return content_without_times(record)


def content_without_times(record: Record) -> dict[str, Any]:
    """Return what a record holds except ids and times, also of a record whose latency is unknown."""
    content = {}
    for name in record.__struct_fields__:
        value = getattr(record, name)
        if name in _JSON_FIELDS:
            value = to_json(value)
        if name not in _IDS_AND_TIMES and value not in (None, [], {}):
            content[name] = value
    attributes = content.get("attributes", {})
    for name in _VARYING_ATTRIBUTES:
        attributes.pop(name, None)
    if not attributes:
        content.pop("attributes", None)
    return content


def run_program(program: str, *arguments: str, home: Path) -> list[dict[str, Any]]:
    """Run a program to its end with no endpoint, and return the records it left in its spool."""
    completed = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, *arguments],
        env={"EVERYCALL_HOME": str(home), "EVERYCALL_ENDPOINT": "http://127.0.0.1:9", "PATH": ""},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert completed.returncode == 0, completed.stderr
    spooled = b"".join(path.read_bytes() for path in home.rglob("*") if path.is_file()).decode("utf-8", "replace")
    start = '{"inference_id"'
    lines = [line[line.index(start) :] for line in spooled.splitlines() if start in line]
    return [json.JSONDecoder().raw_decode(line)[0] for line in lines]
