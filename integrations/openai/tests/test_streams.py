"""Usage in OpenAI's streams, which everycall requests and hides; and the library's own helpers for streams."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import openai
import pytest

from everycall.record import Record
from everycall_testkit.client_bench import Clients
from everycall_testkit.provider import FakeProvider

CHAT: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}
PIECES = ["storks", " fly", " south"]


def text_of(chunks: list[Any]) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


async def open_stream(clients: Clients, client: Any, **more: Any) -> Any:
    return await clients.wait(client.chat.completions.create(**CHAT, stream=True, **more))


async def test_the_chunk_with_usage_is_hidden(clients: Clients, provider: FakeProvider, records: list[Record]) -> None:
    """everycall requests it and records it. The caller gets the chunks it would get without everycall."""
    chunks = await clients.all(await open_stream(clients, clients.wrapped()))
    assert provider.requests[0].body["stream_options"] == {"include_usage": True}
    assert all(chunk.choices and "usage" not in chunk.to_dict() for chunk in chunks)
    assert (records[0].input_tokens, records[0].output_tokens) == (22, 189)


async def test_a_caller_that_asks_gets_the_chunk(
    clients: Clients, provider: FakeProvider, records: list[Record]
) -> None:
    chunks = await clients.all(await open_stream(clients, clients.wrapped(), stream_options={"include_usage": True}))
    assert chunks[-1].usage.prompt_tokens == 22
    assert chunks[0].to_dict()["usage"] is None
    assert records[0].input_tokens == 22


async def test_a_caller_that_declines_usage_gets_none(
    clients: Clients, provider: FakeProvider, records: list[Record]
) -> None:
    await clients.all(await open_stream(clients, clients.wrapped(), stream_options={"include_usage": False}))
    assert provider.requests[0].body["stream_options"] == {"include_usage": False}
    assert (records[0].input_tokens, records[0].content) == (None, "hello")


async def test_other_stream_options_are_kept(clients: Clients, provider: FakeProvider, records: list[Record]) -> None:
    options = {"include_obfuscation": False}
    await clients.all(await open_stream(clients, clients.wrapped(), stream_options=options))
    assert provider.requests[0].body["stream_options"] == {"include_obfuscation": False, "include_usage": True}
    assert options == {"include_obfuscation": False}


@pytest.mark.parametrize("options", [{"provider": None}, {"stream_usage": False}])
async def test_tokens_are_unknown_if_not_requested(
    options: dict[str, Any], clients: Clients, provider: FakeProvider, records: list[Record]
) -> None:
    await clients.all(await open_stream(clients, clients.wrapped(**options)))
    assert "stream_options" not in provider.requests[0].body
    assert (records[0].input_tokens, records[0].usage, records[0].content) == (None, {}, "hello")


async def test_usage_can_be_requested_by_option(
    clients: Clients, provider: FakeProvider, records: list[Record]
) -> None:
    await clients.all(await open_stream(clients, clients.wrapped(provider="vllm", stream_usage=True)))
    assert (records[0].input_tokens, records[0].provider) == (22, "vllm")


@pytest.mark.parametrize("status", [400, 422])
async def test_a_server_that_refuses_stream_options(
    status: int, clients: Clients, provider: FakeProvider, records: list[Record]
) -> None:
    """The request is sent again as the caller made it. Later ones, also of a copied client, do not ask for usage."""
    provider.reply(status=status, error="Unrecognized request argument supplied: stream_options")
    client = clients.wrapped()
    assert text_of(await clients.all(await open_stream(clients, client))) == "hello"
    assert text_of(await clients.all(await open_stream(clients, client.with_options(timeout=20)))) == "hello"
    assert ["stream_options" in request.body for request in provider.requests] == [True, False, False]
    assert [(r.status, r.content, r.input_tokens) for r in records] == [("success", "hello", None)] * 2


async def test_other_refusals_are_raised(clients: Clients, provider: FakeProvider, records: list[Record]) -> None:
    provider.reply(status=400, error="messages: too long")
    with pytest.raises(openai.BadRequestError):
        await open_stream(clients, clients.wrapped())
    assert len(provider.requests) == len(records) == 1


async def test_usage_is_not_requested_if_nothing_is_recorded(clients: Clients, provider: FakeProvider) -> None:
    await clients.all(await open_stream(clients, clients.wrapped(log_omit=True)))
    assert "stream_options" not in provider.requests[0].body


async def test_usage_is_not_requested_for_a_raw_response(
    clients: Clients, provider: FakeProvider, records: list[Record]
) -> None:
    """It cannot be hidden from a reader of bytes."""
    raw = await clients.wait(clients.wrapped().chat.completions.with_raw_response.create(**CHAT, stream=True))
    chunks = await clients.all(raw.parse())
    assert chunks[1].choices[0].delta.content == "hello"
    assert "stream_options" not in provider.requests[0].body
    assert [(r.content, r.input_tokens) for r in records] == [("hello", None)]


# The library's helpers: `stream()`.


async def test_the_helpers_snapshots_and_final_completion(
    clients: Clients, provider: FakeProvider, records: list[Record], chat_helpers: Any
) -> None:
    """They are the same as without everycall: no usage, because the caller did not ask for it."""
    provider.default.pieces = PIECES
    results = []
    for client in (clients.new(), clients.wrapped()):
        manager = chat_helpers(client).stream(**CHAT)
        stream = await clients.enter(manager)
        kinds = [event.type for event in await clients.all(stream)]
        final = await clients.wait(stream.get_final_completion())
        await clients.leave(manager)
        results.append((type(manager), type(stream), kinds, final.to_dict(), stream.current_completion_snapshot))
    assert results[0] == results[1]
    assert results[1][3]["choices"][0]["message"]["content"] == "storks fly south"
    assert [(r.content, r.input_tokens) for r in records] == [("storks fly south", 22)]


async def test_until_done(clients: Clients, provider: FakeProvider, records: list[Record], chat_helpers: Any) -> None:
    manager = chat_helpers(clients.wrapped()).stream(**CHAT)
    stream = await clients.enter(manager)
    await clients.wait(stream.until_done())
    await clients.leave(manager)
    assert [(r.content, r.input_tokens) for r in records] == [("hello", 22)]


@pytest.mark.skipif(find_spec("openai.resources.responses") is None, reason="this version has no Responses API")
async def test_the_final_response(clients: Clients, provider: FakeProvider, records: list[Record]) -> None:
    manager = clients.wrapped().responses.stream(model="gpt-4o", input="hi")
    stream = await clients.enter(manager)
    final = await clients.wait(stream.get_final_response())
    await clients.leave(manager)
    assert (final.output_text, final.usage.input_tokens) == ("hello", 22)
    assert [(r.content, r.input_tokens) for r in records] == [("hello", 22)]
