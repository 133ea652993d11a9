"""What the searches share: a running server with a fake provider, and every byte of what they keep and say."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import everycall
from everycall_testkit.sink import Sink
from everycall_testkit.stream_provider import StreamProvider

NUMBERS = itertools.count()
KEY = "ek-of-the-privacy-tests"


def _provider() -> Any:
    """The fake provider that streams, with a way to remove scripted replies that were not used."""

    class Provider(StreamProvider):
        def forget(self) -> None:
            self._script.clear()
            self._streams.clear()

    return Provider()


class Endpoint:
    """A running server, its provider, and all that lies in its directory."""

    def __init__(self, server: Any, provider: Any, directory: Path) -> None:
        self.address: str = server.address
        self.key = KEY
        self.provider = provider
        self.directory = directory
        self.client = httpx.Client(base_url=server.address, headers={"x-api-key": KEY}, timeout=30)

    def every_byte(self) -> bytes:
        """Database, write-ahead log, index of it, and whatever else lies there."""
        return b"\n".join(path.read_bytes() for path in self.directory.rglob("*") if path.is_file())

    def record(self, inference_id: str) -> dict[str, Any] | None:
        """The record as the server returns it, or None."""
        answer = self.client.get(f"/api/records/{inference_id}")
        assert answer.status_code in (200, 404), answer.text
        return answer.json() if answer.status_code == 200 else None


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    """One server for a module's tests: each case has a separate canary."""
    from everycall.server.options import ServerOptions
    from everycall.server.provider_settings import ProviderSettings
    from everycall.server.runner import Server

    directory = tmp_path_factory.mktemp("endpoint")
    with _provider() as provider:
        providers = {
            "openai": ProviderSettings("openai", "openai", base_url=provider.base_url, api_key="sk-fake"),
            "anthropic": ProviderSettings("anthropic", "anthropic", base_url=provider.root, api_key="sk-fake"),
        }
        options = ServerOptions(directory, port=0, local_key=KEY, providers=providers)
        with Server(options) as server:
            new_endpoint = Endpoint(server, provider, directory)
            yield new_endpoint
            new_endpoint.client.close()


@pytest.fixture
def sink() -> Iterator[Any]:
    """The recording endpoint of the fakes."""
    with Sink() as started:
        yield started
    everycall.shutdown(0.5)


@pytest.fixture
def canary() -> str:
    """A word that is nowhere else."""
    return f"CANARY-{next(NUMBERS)}-7f3a"


@pytest.fixture
def written_output(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """Return a reader of all that was logged, by anybody at any level, and written to the standard streams."""
    caplog.set_level(logging.DEBUG)

    def read() -> str:
        lines = [record.getMessage() + str(record.exc_info or "") + str(record.args) for record in caplog.records]
        return "\n".join([caplog.text, *lines, *capfd.readouterr()])

    return read
