"""What the tests share: a provider on loopback, clients of both kinds that talk to it, and records as plain values.

A test is written once for the synchronous and the asynchronous client: `both` is either, and waits where it has to.
"""

from __future__ import annotations

import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

import everycall_openai
from everycall.record import Record, to_json
from everycall.settings import Settings
from everycall.testing import capture_records

FAKES = Path(__file__).parents[3] / "tests" / "fakes"
IDS_AND_TIMES = ("inference_id", "trace_id", "latency", "time_to_first_token", "start_time_unix_nano",
                 "end_time_unix_nano", "sdk")  # fmt: skip
JSON_FIELDS = ("llm_inputs", "llm_configuration", "inputs", "output", "target", "metadata", "attributes")


@pytest.fixture(autouse=True)
def clean_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing from outside configures a test or a client."""
    for name in list(os.environ):
        if name.startswith(("EVERYCALL_", "OTEL_", "OPENAI_", "AZURE_OPENAI_")):
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
    name = "everycall_fakes_provider"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, FAKES / "provider.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    with sys.modules[name].FakeProvider() as started:
        yield started


@pytest.fixture
def records() -> Iterator[list[Record]]:
    """Return the list that every record joins when its call ends, having passed the whole chain."""
    with capture_records(Settings(propagate_threads=False)) as captured:
        yield captured


class Both:
    """A client, synchronous or not, and how to use it in a test that is the same for both."""

    def __init__(self, kind: str, base_url: str) -> None:
        self.is_async = kind == "async"
        self._base_url = base_url
        self._made: list[Any] = []

    def client(self, **settings: Any) -> Any:
        """Make a client that is not wrapped."""
        make = openai.AsyncOpenAI if self.is_async else openai.OpenAI
        if "http_client" not in settings:  # loading certificates, which nobody needs here, takes most of a test's time
            http = openai.DefaultAsyncHttpxClient if self.is_async else openai.DefaultHttpxClient
            settings["http_client"] = http(verify=False)
        made = make(**{"base_url": self._base_url, "api_key": "sk-fake", "max_retries": 0, **settings})
        self._made.append(made)
        return made

    def wrapped(self, timeout: float = 30.0, **options: Any) -> Any:
        """Make a wrapped client that takes the fake provider for OpenAI."""
        return everycall_openai.wrap(self.client(timeout=timeout), **{"provider": "openai", **options})

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


@pytest.fixture(params=["sync", "async"])
async def both(request: pytest.FixtureRequest, provider: Any) -> Any:
    made = Both(request.param, provider.base_url)
    yield made
    await made.close()


@pytest.fixture
def told() -> Callable[[Record], dict[str, Any]]:
    """Return a reader of a whole record: all that is in it, but for ids and times, whose sense is checked here."""

    def read(record: Record) -> dict[str, Any]:
        assert record.inference_id.startswith(f"{record.trace_id}-")
        assert record.latency is not None
        assert record.start_time_unix_nano + int(record.latency * 1e9) == pytest.approx(record.end_time_unix_nano)
        if record.time_to_first_token is not None:
            assert 0 < record.time_to_first_token <= record.latency
        found = {}
        for name in record.__struct_fields__:
            value = to_json(getattr(record, name)) if name in JSON_FIELDS else getattr(record, name)
            if name not in IDS_AND_TIMES and value not in (None, [], {}):
                found[name] = value
        attributes = found.get("attributes", {})
        for name in ("exception.stacktrace", "code.location"):
            attributes.pop(name, None)
        return found if attributes else {name: value for name, value in found.items() if name != "attributes"}

    return read


@pytest.fixture
def value() -> Callable[[Any], Any]:
    """Return a reader of a record's JSON fields."""
    return to_json


def chat_helpers(client: Any) -> Any:
    """Return where `parse` and `stream` of chats are: they left `beta` in openai 1.92."""
    completions = client.chat.completions
    return completions if hasattr(completions, "stream") else client.beta.chat.completions


@pytest.fixture(name="chat_helpers")
def _chat_helpers() -> Callable[[Any], Any]:
    return chat_helpers
