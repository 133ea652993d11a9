"""What the tests share: a provider on loopback, `client` and `client.aio` that talk to it, and records as plain values.

A test is written once for both: `both` is either, and waits where it has to.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from google import genai
from google.genai import types

import everycall_google
from everycall_testkit import client_bench as bench

clean_environment, no_failure_of_ours = bench.clean_environment, bench.no_failure_of_ours
provider, records, told, value = bench.provider, bench.records, bench.told, bench.value


class Both(bench.Both):  # type: ignore[misc, name-defined]
    """A client or its `aio`, whose `models` and `chats` a test uses."""

    def __init__(self, kind: str, address: str) -> None:
        super().__init__(kind, genai.Client, everycall_google.wrap)
        self._address = address

    def client(self, timeout: float | None = None, hook: Any = None, **settings: Any) -> Any:
        """Make a client that is not wrapped. `hook` sees what is sent."""
        hooks = {"request": [hook] if hook is not None else []}
        options: dict[str, Any] = {"base_url": self._address}
        if timeout is not None:
            options["timeout"] = int(timeout * 1000)
        if "client_args" in types.HttpOptions.model_fields:  # loading certificates takes most of a test's time
            mine, other = {"verify": False, "event_hooks": hooks}, {"verify": False}
            arguments = (other, mine) if self.is_async else (mine, other)
            options |= {"client_args": arguments[0], "async_client_args": arguments[1]}
        made = super().client(**{"api_key": "k", **settings}, http_options=types.HttpOptions(**options))
        if "client_args" not in options:
            sender = made._api_client
            (sender._async_httpx_client if self.is_async else sender._httpx_client).event_hooks = hooks
        return made.aio if self.is_async else made

    def wrapped(self, timeout: float | None = None, settings: Any = None, **options: Any) -> Any:
        """Make a wrapped client."""
        return everycall_google.wrap(self.client(timeout, **(settings or {})), **options)

    async def close(self) -> None:
        for made in self._made:  # older versions have no `close`
            made._api_client._httpx_client.close()
            await made._api_client._async_httpx_client.aclose()

    async def leave(self, stream: Any) -> None:
        """Close a stream. What the library's generators hold of each other is closed by the loop, in turns of it."""
        await self.wait(stream.aclose() if self.is_async else stream.close())
        await self.settle()

    async def settle(self) -> None:
        """Let the loop close what was dropped."""
        for _ in range(20):
            await asyncio.sleep(0)


@pytest.fixture(params=["sync", "async"])
async def both(request: pytest.FixtureRequest, provider: Any) -> Any:
    made = Both(request.param, provider.root)
    yield made
    await made.close()
