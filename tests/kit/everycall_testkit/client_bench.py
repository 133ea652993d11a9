"""What the tests of every integration of a client share: fixtures, and a client of either kind under one handle.

A `conftest.py` loads this module by its path and gives the fixtures it wants names of its own. A test is written once
for the synchronous and the asynchronous client: `Both` is either, and waits where it has to.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from everycall.record import Record, to_json
from everycall.settings import Settings
from everycall.testing import capture_records
from everycall_testkit.provider import FakeProvider

__all__ = ["Both", "clean_environment", "no_failure_of_ours", "provider", "records", "told", "value"]

IDS_AND_TIMES = ("inference_id", "trace_id", "latency", "time_to_first_token", "start_time_unix_nano",
                 "end_time_unix_nano", "sdk")  # fmt: skip
JSON_FIELDS = ("llm_inputs", "llm_configuration", "inputs", "output", "target", "metadata", "attributes")
FOREIGN_PREFIXES = ("EVERYCALL_", "OTEL_", "OPENAI_", "AZURE_OPENAI_", "ANTHROPIC_", "AWS_", "GOOGLE_", "GEMINI_")


@pytest.fixture(autouse=True)
def clean_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing from outside configures a test or a client."""
    for name in list(os.environ):
        if name.startswith(FOREIGN_PREFIXES):
            monkeypatch.delenv(name)
    monkeypatch.setenv("EVERYCALL_HOME", str(tmp_path / "home"))


@pytest.fixture(autouse=True)
def no_failure_of_ours() -> Iterator[None]:
    """What the guard swallows is a defect: no test may need it."""
    from everycall._guard import failures

    failures.clear()
    yield
    assert failures == {}


@pytest.fixture
def provider() -> Iterator[Any]:
    """A started fake provider."""
    with FakeProvider() as started:
        yield started


@pytest.fixture
def records() -> Iterator[list[Record]]:
    """Return the list that every record joins when its call ends, having passed the whole chain."""
    with capture_records(Settings(propagate_threads=False)) as captured:
        yield captured


class Both:
    """Clients, synchronous or not, and how to use them in a test that is the same for both.

    `make(**settings)` makes a client that is not wrapped, `wrap(client, **options)` wraps one.
    """

    def __init__(self, kind: str, make: Callable[..., Any], wrap: Callable[..., Any]) -> None:
        self.is_async = kind == "async"
        self._make = make
        self._wrap = wrap
        self._made: list[Any] = []

    def client(self, **settings: Any) -> Any:
        """Make a client that is not wrapped."""
        made = self._make(**settings)
        self._made.append(made)
        return made

    def wrapped(self, timeout: float = 30.0, **options: Any) -> Any:
        """Make a wrapped client."""
        return self._wrap(self.client(timeout=timeout), **options)

    async def close(self) -> None:
        for made in self._made:
            await self.wait(made.close())

    async def wait(self, value: Any) -> Any:
        """Return a value, awaited if it must be."""
        return await value if inspect.isawaitable(value) else value

    async def next(self, stream: Any) -> Any:
        """Return the next piece of a stream; None at its end."""
        try:
            return await stream.__anext__() if self.is_async else next(stream)
        except (StopIteration, StopAsyncIteration):
            return None

    async def all(self, stream: Any) -> list[Any]:
        """Read a stream to its end, as a loop does."""
        return [piece async for piece in stream] if self.is_async else list(stream)

    async def enter(self, manager: Any) -> Any:
        return await manager.__aenter__() if self.is_async else manager.__enter__()

    async def leave(self, manager: Any, error: BaseException | None = None) -> None:
        about = (None, None, None) if error is None else (type(error), error, error.__traceback__)
        await self.wait(manager.__aexit__(*about) if self.is_async else manager.__exit__(*about))


def all_of(record: Record) -> dict[str, Any]:
    """Return all that is in a record, but for ids and times."""
    found = {}
    for name in record.__struct_fields__:
        held = to_json(getattr(record, name)) if name in JSON_FIELDS else getattr(record, name)
        if name not in IDS_AND_TIMES and held not in (None, [], {}):
            found[name] = held
    attributes = found.get("attributes", {})
    for name in ("exception.stacktrace", "code.location"):
        attributes.pop(name, None)
    return found if attributes else {name: held for name, held in found.items() if name != "attributes"}


@pytest.fixture
def told() -> Callable[[Record], dict[str, Any]]:
    """Return a reader of a whole record: all that is in it, but for ids and times, whose sense is checked here."""

    def read(record: Record) -> dict[str, Any]:
        assert record.inference_id.startswith(f"{record.trace_id}-")
        assert record.latency is not None
        assert record.start_time_unix_nano + int(record.latency * 1e9) == pytest.approx(record.end_time_unix_nano)
        if record.time_to_first_token is not None:
            assert 0 < record.time_to_first_token <= record.latency
        return all_of(record)

    return read


@pytest.fixture
def value() -> Callable[[Any], Any]:
    """Return a reader of a record's JSON fields."""
    return to_json
