"""What Anthropic's clients have beside the contract: middleware, and the library's own helper for streams."""

from __future__ import annotations

import gc
import inspect
from typing import Any

import anthropic
import pytest

import everycall
from everycall.record import Record
from everycall_testkit.client_bench import Clients
from everycall_testkit.provider import FakeProvider

REQUEST: dict[str, Any] = {"model": "claude-test", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
PIECES = ["storks", " fly", " south"]


def test_every_call_style_is_one_of_the_librarys() -> None:
    """A method that a new version adds has to be tested here too."""
    public = {
        name
        for name, _ in inspect.getmembers(anthropic.resources.Messages, inspect.isfunction)
        if not name.startswith("_")
    }
    assert public - {"create", "stream", "parse", "count_tokens"} == set()


@pytest.mark.skipif(not hasattr(anthropic.Anthropic, "with_middleware"), reason="this version has no middleware")
async def test_a_client_with_middleware_is_recorded_once(
    clients: Clients, provider: FakeProvider, records: list[Record]
) -> None:
    """The requests that a middleware makes of one are below it. The record has the answer that the caller gets."""

    def twice(request: Any, call_next: Any) -> Any:
        call_next(request)
        return call_next(request)

    async def twice_async(request: Any, call_next: Any) -> Any:
        await call_next(request)
        return await call_next(request)

    client = clients.wrapped().with_middleware(twice_async if clients.is_async else twice)
    await clients.wait(client.messages.create(**REQUEST))
    assert (len(provider.requests), [r.content for r in records]) == (2, ["hello"])


async def test_the_helpers_events_and_final_message(
    clients: Clients, provider: FakeProvider, records: list[Record]
) -> None:
    """They are the same as without everycall."""
    provider.default.pieces = PIECES
    results = []
    for client in (clients.new(), clients.wrapped()):
        manager = client.messages.stream(**REQUEST)
        stream = await clients.enter(manager)
        kinds = [event.type for event in await clients.all(stream)]
        final = await clients.wait(stream.get_final_message())
        text = await clients.wait(stream.get_final_text())
        await clients.leave(manager)
        results.append((type(manager), type(stream), kinds, final.to_dict(), text, stream.current_message_snapshot))
    assert results[0] == results[1]
    assert results[1][4] == "storks fly south"
    assert [(r.content, r.input_tokens, r.output_tokens) for r in records] == [("storks fly south", 22, 189)]


async def test_the_text_stream(clients: Clients, provider: FakeProvider, records: list[Record]) -> None:
    provider.reply(pieces=PIECES)
    manager = clients.wrapped().messages.stream(**REQUEST)
    stream = await clients.enter(manager)
    assert await clients.all(stream.text_stream) == PIECES
    await clients.leave(manager)
    assert [r.content for r in records] == ["storks fly south"]


async def test_until_done(clients: Clients, provider: FakeProvider, records: list[Record]) -> None:
    manager = clients.wrapped().messages.stream(**REQUEST)
    stream = await clients.enter(manager)
    await clients.wait(stream.until_done())
    await clients.leave(manager)
    assert [(r.content, r.error_type) for r in records] == [("hello", None)]


async def test_a_helper_that_is_never_entered(clients: Clients, provider: FakeProvider, records: list[Record]) -> None:
    """Nothing is sent, so nothing is recorded."""
    manager = clients.wrapped().messages.stream(**REQUEST)
    if clients.is_async:  # the request is a coroutine that nobody awaits
        vars(manager)["_AsyncMessageStreamManager__api_request"].close()
    del manager
    gc.collect()
    assert (records, provider.requests) == ([], [])


async def test_langchains_run_is_not_propagated(
    clients: Clients, provider: FakeProvider, records: list[Record]
) -> None:
    """A client that traces itself does not see the call of a run either, whether a handler records it or not."""
    pytest.importorskip("langchain_core")
    handlers = pytest.importorskip("everycall_langchain")
    from everycall_testkit.client_contract.langchain_model import ClientModel

    chain: Any = (lambda x: x) | ClientModel(clients=clients, client=clients.wrapped())
    config = {"callbacks": [handlers.CallbackHandler()]}

    async def invoke() -> None:
        await (chain.ainvoke("hi", config) if clients.is_async else clients.wait(chain.invoke("hi", config)))

    await invoke()
    with everycall.span("outer"):
        await invoke()
    assert len(provider.requests) == 2
    assert [
        name for request in provider.requests for name in request.headers if name in ("traceparent", "baggage")
    ] == []
