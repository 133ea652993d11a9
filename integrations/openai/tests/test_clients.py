"""What OpenAI's clients have beside the contract: requests by hand, and the client of the module."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest

import everycall_openai
from everycall.record import Record
from everycall_testkit.client_bench import Clients, decode
from everycall_testkit.provider import FakeProvider

CHAT: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture
def instrument() -> Iterator[Callable[..., None]]:
    """`instrument`, undone after the test."""
    yield everycall_openai.instrument
    everycall_openai.uninstrument()


async def test_a_request_by_hand(clients: Clients, records: list[Record]) -> None:
    """`client.post(...)`, as for endpoints that a version of the library does not know."""
    client = clients.wrapped()
    answer = await clients.wait(client.post("chat/completions", body=CHAT, cast_to=object))
    assert answer["choices"][0]["message"]["content"] == "hello"
    assert [(r.content, r.input_tokens) for r in records] == [("hello", 22)]


async def test_a_stream_of_an_unknown_shape(clients: Clients, provider: FakeProvider, records: list[Record]) -> None:
    provider.reply(pieces=["a"], message={"content": None, "tool_calls": [{"index": None, "id": "c", "x": 1}]})
    await clients.all(await clients.wait(clients.wrapped().chat.completions.create(**CHAT, stream=True)))
    assert [(r.status, r.content) for r in records] == [("success", "a")]


async def test_embeddings_in_base64(clients: Clients, records: list[Record]) -> None:
    client = clients.wrapped()
    answer = await clients.wait(client.embeddings.create(model="e", input="a", encoding_format="base64"))
    assert isinstance(answer.data[0].embedding, str)
    assert decode(records[0].output) == {"embeddings": 1, "dimensions": 4}


async def test_embeddings_as_numbers(clients: Clients, records: list[Record]) -> None:
    client = clients.wrapped()
    answer = await clients.wait(client.embeddings.create(model="e", input=["a", "b"], dimensions=8))
    assert len(answer.data[0].embedding) == 8


async def test_the_client_of_the_module(
    provider: FakeProvider, records: list[Record], instrument: Callable[..., None]
) -> None:
    """`openai.chat.completions.create(...)`, with no client made by hand."""
    instrument()
    saved = openai.api_key, openai.base_url
    openai.api_key, openai.base_url = "sk-fake", f"{provider.base_url}/"
    try:
        assert openai.chat.completions.create(**CHAT).choices[0].message.content == "hello"
    finally:
        openai.api_key, openai.base_url = saved
        openai._reset_client()
    assert [r.content for r in records] == ["hello"]
