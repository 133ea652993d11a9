"""What Google's clients have beside the contract: both sides of a client, chats, Vertex AI, generators as streams."""

from __future__ import annotations

import gc
import warnings
from pathlib import Path
from typing import Any

import pytest

import everycall_google
from everycall.record import Record
from everycall_testkit.client_bench import Clients, decode, run_program
from everycall_testkit.provider import FakeProvider

REQUEST: dict[str, Any] = {"model": "gemini-2.5-flash", "contents": "hi"}
PIECES = ["storks", " fly", " south"]


async def test_both_sides_of_a_client_are_wrapped(clients: Clients, records: list[Record]) -> None:
    """`wrap(client)` and `wrap(client.aio)` are the same: both send with the same object."""
    client = clients.adapter.new_client(clients.provider, False)
    everycall_google.wrap(client.aio if clients.is_async else client, session_id="s-1")
    client.models.generate_content(**REQUEST)
    await client.aio.models.generate_content(**REQUEST)
    client.chats.create(model="gemini-2.5-flash").send_message("hi")
    assert [(r.content, r.session_id) for r in records] == [("hello", "s-1")] * 3
    await clients.adapter.close(client, False)


async def test_a_chat_has_its_turns(clients: Clients, provider: FakeProvider, records: list[Record]) -> None:
    chat = clients.wrapped().chats.create(model="gemini-2.5-flash")
    await clients.wait(chat.send_message("hi"))
    await clients.all(await clients.wait(chat.send_message_stream("and?")))
    assert decode(records[1].llm_configuration)["messages"] == [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "hello"},
        {"role": "user", "content": "and?"},
    ]


def vertex(clients: Clients, **options: Any) -> Any:
    return clients.wrap(clients.new(vertexai=True), **options)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_vertex_ai(stream: bool, clients: Clients, provider: FakeProvider, records: list[Record]) -> None:
    client = vertex(clients)
    if stream:
        await clients.all(await clients.wait(client.models.generate_content_stream(**REQUEST)))
    else:
        await clients.wait(client.models.generate_content(**REQUEST))
    (record,) = records
    assert (record.provider, record.name) == ("gcp.vertex_ai", "generate_content gemini-2.5-flash")
    assert (record.model, record.content, record.output_tokens) == ("gemini-2.5-flash", "hello", 189)
    assert "/publishers/google/models/" in provider.requests[0].path


async def test_embeddings_of_vertex_ai(clients: Clients, provider: FakeProvider, records: list[Record]) -> None:
    await clients.wait(vertex(clients).models.embed_content(model="text-embedding-005", contents=["a", "b"]))
    (record,) = records
    assert (record.name, record.provider) == ("embeddings text-embedding-005", "gcp.vertex_ai")
    assert (decode(record.inputs), decode(record.output)) == ({"input": ["a", "b"]}, {"embeddings": 2, "dimensions": 4})
    assert (record.input_tokens, record.total_tokens) == (6, 6)


async def test_images_of_vertex_ai_are_not_embeddings(
    clients: Clients, provider: FakeProvider, records: list[Record]
) -> None:
    """Both have the verb `predict`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the library's, of its next version
        response = await clients.wait(
            vertex(clients).models.generate_images(model="imagen-3.0-generate-002", prompt="a stork")
        )
    assert len(response.generated_images) == 1
    assert records == []


async def test_other_clients_are_not_changed(clients: Clients, records: list[Record]) -> None:
    """Its streams are the library's own generators."""
    clients.wrapped()
    stream = await clients.wait(clients.new().models.generate_content_stream(**REQUEST))
    code = stream.ag_code if clients.is_async else stream.gi_code
    assert code.co_filename.endswith("models.py")
    await clients.all(stream)
    assert records == []


async def test_a_reader_that_fails_abandons_its_stream(
    clients: Clients, provider: FakeProvider, records: list[Record]
) -> None:
    reply = provider.reply(pieces=PIECES, pause_after=1)

    async def get_member() -> None:
        stream = await clients.wait(clients.wrapped().models.generate_content_stream(**REQUEST))
        await clients.next(stream)
        raise ValueError("the reader's own")

    with pytest.raises(ValueError, match="the reader's own"):
        await get_member()
    gc.collect()
    await clients.settle()
    reply.go.set()
    assert [(r.status, r.error_type, r.content) for r in records] == [("success", "abandoned", "storks")]


async def test_an_exception_thrown_into_a_stream_reaches_it(
    clients: Clients, provider: FakeProvider, records: list[Record]
) -> None:
    """The stream ends with it, as the library's generator does."""
    provider.default.pieces = PIECES
    for client in (clients.new(), clients.wrapped()):
        stream = await clients.wait(client.models.generate_content_stream(**REQUEST))
        await clients.next(stream)
        with pytest.raises(ZeroDivisionError):
            await clients.wait((stream.athrow if clients.is_async else stream.throw)(ZeroDivisionError()))
        assert await clients.next(stream) is None
    gc.collect()
    await clients.settle()
    assert [(r.error_type, r.content) for r in records] == [("abandoned", "storks")]


LEFT_OPEN = """
import asyncio, sys
from google import genai
from google.genai import types
import everycall, everycall_google

client = everycall_google.wrap(genai.Client(api_key="k", http_options=types.HttpOptions(base_url=sys.argv[1])))

async def main():
    global stream
    stream = await client.aio.models.generate_content_stream(model="gemini-2.5-flash", contents="hi")
    await anext(stream)

asyncio.run(main())
"""


def test_a_stream_open_at_the_end_of_its_loop(provider: FakeProvider, tmp_path: Path) -> None:
    spooled = run_program(LEFT_OPEN, provider.root, home=tmp_path)
    assert [(record.get("error_type"), record["content"]) for record in spooled] == [("abandoned", "hello")]
