"""The asynchronous client sends its requests with aiohttp where that is installed: they are recorded all the same."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from google.genai import errors

import everycall_google
from everycall.record import Record
from everycall_testkit.provider import FakeProvider

pytest.importorskip("aiohttp")
pytestmark = [
    pytest.mark.filterwarnings("ignore:Inheritance class AiohttpClientSession:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),  # what the library leaves open
]

REQUEST: dict[str, Any] = {"model": "gemini-2.5-flash", "contents": "hi"}
PIECES = ["storks", " fly", " south"]


@pytest.fixture
async def client(adapter: Any, provider: FakeProvider) -> AsyncIterator[Any]:
    client = adapter.new_client(provider, is_async=True, uses_aiohttp=True)
    if not hasattr(client, "aclose") or not getattr(client._api_client, "_use_aiohttp", lambda: False)():
        pytest.skip("this version of the library does not use aiohttp")
    yield everycall_google.wrap(client)
    await client.aclose()


async def test_an_answer(client: Any, records: list[Record]) -> None:
    answer = await client.models.generate_content(**REQUEST)
    assert [(r.content, r.input_tokens) for r in records] == [(answer.text, 22)]


async def test_a_stream(client: Any, provider: FakeProvider, records: list[Record]) -> None:
    provider.reply(pieces=PIECES)
    chunks = [chunk.text async for chunk in await client.models.generate_content_stream(**REQUEST)]
    assert "".join(text or "" for text in chunks) == "storks fly south"
    assert [(r.content, r.output_tokens) for r in records] == [("storks fly south", 189)]


async def test_a_stream_that_is_closed(client: Any, provider: FakeProvider, records: list[Record]) -> None:
    reply = provider.reply(pieces=PIECES, pause_after=1)
    stream = await client.models.generate_content_stream(**REQUEST)
    await anext(stream)
    await stream.aclose()
    for _ in range(20):  # the event loop closes what the library's generators hold, over several turns
        await asyncio.sleep(0)
    reply.go.set()
    assert [(r.status, r.error_type, r.content) for r in records] == [("success", "abandoned", "storks")]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_an_error(stream: bool, client: Any, provider: FakeProvider, records: list[Record]) -> None:
    provider.reply(status=429, error="slow down")

    async def ask() -> None:
        if stream:
            async for _ in await client.models.generate_content_stream(**REQUEST):
                pass
        else:
            await client.models.generate_content(**REQUEST)

    with pytest.raises(errors.ClientError, match="slow down"):
        await ask()
    assert [(r.status, r.error_type) for r in records] == [("error", "google.genai.errors.ClientError")]
