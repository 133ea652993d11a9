"""Clients that Stainless generated (OpenAI's, Anthropic's): raw responses, streams with a response, copies."""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from everycall.record import Record
from everycall_testkit.client_bench import Clients, content_of
from everycall_testkit.client_contract.adapter import PIECES, TEXT, ClientAdapter
from everycall_testkit.provider import FakeProvider

__all__ = ["RawResponses", "StainlessAdapter"]


class StainlessAdapter(ClientAdapter):
    """What such clients have in common."""

    request: Mapping[str, Any]
    """The request of `ask`."""
    raw_stream_tokens: tuple[int | None, int | None]
    """The tokens of a stream that is read from a raw response."""
    last_lines: Sequence[str]
    """The last lines of a streamed response."""

    @abstractmethod
    def resource(self, client: Any) -> Any:
        """Return the object whose `create` is `ask`."""

    @abstractmethod
    def plain_http_client(self, is_async: bool, **settings: Any) -> Any:
        """Return the library's HTTP client, which does not load certificates."""

    def new_http_client(self, is_async: bool, hook: Any = None) -> Any:
        """Return an HTTP client that calls `hook` with each request."""
        if hook is None:
            return self.plain_http_client(is_async)

        async def async_hook(request: Any) -> None:
            hook(request)

        return self.plain_http_client(is_async, event_hooks={"request": [async_hook if is_async else hook]})

    def ask(self, client: Any, prompt: str = "hi") -> Any:
        return self.resource(client).create(**self.prompted(prompt))

    def ask_raw(self, client: Any) -> Any:
        """Send a request for a raw response."""
        return self.resource(client).with_raw_response.create(**self.request)

    def stream(self, client: Any, prompt: str = "hi") -> Any:
        return self.resource(client).create(**self.prompted(prompt), stream=True)

    def prompted(self, prompt: str) -> dict[str, Any]:
        """Return the request with a prompt."""
        return {**self.request, "messages": [{"role": "user", "content": prompt}]}

    def plain_piece(self, piece: Any) -> Any:
        return piece.to_dict()

    def stream_traits(self, stream: Any, is_async: bool) -> Any:
        assert type(stream) is getattr(self.library, "AsyncStream" if is_async else "Stream")
        assert stream.response.status_code == 200
        return dir(stream), type(stream.response)

    def methods(self, client: Any) -> Sequence[Any]:
        assert inspect.iscoroutinefunction(client.request) == isinstance(client, self.client_types[1])
        return self.resource(client).create, client.request, client.with_options

    def resources(self, client: Any) -> Sequence[Any]:
        resource = self.resource(client)
        return (lambda: resource.create(**self.request),)

    def copies(self, client: Any) -> Sequence[Any]:
        copied = client.with_options(timeout=9).copy(max_retries=1)
        assert (copied.timeout, copied.max_retries) == (9, 1)
        assert copied.with_options.__self__ is copied
        return client.with_options(timeout=8), copied

    def ask_with_retries(self, clients: Clients) -> Any:
        return self.ask(clients.wrap(clients.new(max_retries=2)))


class RawResponses:
    """Raw and streamed responses, and the response of a stream."""

    async def test_a_raw_response(self, adapter: StainlessAdapter, clients: Clients, records: list[Record]) -> None:
        """It has been read; looking at it leaves nothing behind."""
        bare = await clients.wait(adapter.ask_raw(clients.new()))
        raw = await clients.wait(adapter.ask_raw(clients.wrapped()))
        assert type(raw) is type(bare)
        assert raw._parsed_by_type == {}
        assert "parse" not in vars(raw)
        assert (await clients.wait(raw.parse())).to_dict() == (await clients.wait(bare.parse())).to_dict()
        answered = adapter.ways[next(iter(adapter.ways))].success["model"]
        assert [(r.content, r.input_tokens, r.model) for r in records] == [("hello", 22, answered)]
        assert content_of(records[0])["attributes"]["http.response.status_code"] == 200

    async def test_a_raw_response_that_is_a_stream(
        self, adapter: StainlessAdapter, clients: Clients, records: list[Record]
    ) -> None:
        resource = adapter.resource(clients.wrapped())
        raw = await clients.wait(resource.with_raw_response.create(**adapter.request, stream=True))
        assert records == []
        stream = await clients.wait(raw.parse())
        assert await clients.wait(raw.parse()) is stream
        pieces = await clients.all(stream)
        assert "".join(adapter.piece_text(piece) or "" for piece in pieces) == "hello"
        assert [(r.content, (r.input_tokens, r.output_tokens)) for r in records] == [
            ("hello", adapter.raw_stream_tokens)
        ]

    async def test_a_streamed_response_that_is_parsed(
        self, adapter: StainlessAdapter, clients: Clients, records: list[Record]
    ) -> None:
        manager = adapter.resource(clients.wrapped()).with_streaming_response.create(**adapter.request)
        raw = await clients.enter(manager)
        assert not raw.is_closed
        answer = await clients.wait(raw.parse())
        await clients.leave(manager)
        assert adapter.answer_text(answer) == "hello"
        assert [(r.content, r.input_tokens) for r in records] == [("hello", 22)]

    async def test_a_streamed_response_that_is_a_stream(
        self, adapter: StainlessAdapter, clients: Clients, provider: FakeProvider, records: list[Record]
    ) -> None:
        provider.reply(pieces=PIECES, pause_after=1).go.set()
        manager = adapter.resource(clients.wrapped()).with_streaming_response.create(**adapter.request, stream=True)
        raw = await clients.enter(manager)
        stream = await clients.wait(raw.parse())
        for _ in range(adapter.opening_pieces + 1):
            await clients.next(stream)
        await clients.leave(manager)
        assert [(r.content, r.error_type) for r in records] == [(PIECES[0], "abandoned")]

    async def test_a_streamed_response_that_is_read_as_lines(
        self, adapter: StainlessAdapter, clients: Clients, records: list[Record]
    ) -> None:
        """Its bytes are the caller's alone; the record has the latency and the status."""
        manager = adapter.resource(clients.wrapped()).with_streaming_response.create(**adapter.request, stream=True)
        raw = await clients.enter(manager)
        lines = await clients.all(raw.iter_lines())
        await clients.leave(manager)
        assert lines[-len(adapter.last_lines) :] == list(adapter.last_lines)
        content = content_of(records[0])
        assert content["attributes"] == {"http.response.status_code": 200}
        assert (content["status"], content["model"]) == ("success", adapter.request["model"])
        assert "content" not in content

    async def test_a_streamed_response_that_is_not_read(
        self, adapter: StainlessAdapter, clients: Clients, records: list[Record]
    ) -> None:
        manager = adapter.resource(clients.wrapped()).with_streaming_response.create(**adapter.request)
        await clients.enter(manager)
        assert records == []
        await clients.leave(manager)
        assert len(records) == 1

    async def test_an_error_of_a_raw_response(
        self, adapter: StainlessAdapter, clients: Clients, provider: FakeProvider, records: list[Record]
    ) -> None:
        provider.reply(status=404, error="no such model")
        error = adapter.library.NotFoundError
        with pytest.raises(error):
            await clients.wait(adapter.ask_raw(clients.wrapped()))
        assert [record.error_type for record in records] == [f"{adapter.library.__name__}.NotFoundError"]

    async def test_the_streams_response_is_closed_with_it(
        self, adapter: StainlessAdapter, clients: Clients, provider: FakeProvider, records: list[Record]
    ) -> None:
        reply = provider.reply(pieces=[*PIECES, "more"], pause_after=2)
        stream = await clients.wait(adapter.stream(clients.wrapped()))
        for _ in range(adapter.opening_pieces + 2):
            await clients.next(stream)
        await clients.wait(stream.close())
        await clients.wait(stream.close())
        reply.go.set()
        assert stream.response.is_closed
        assert [(r.status, r.error_type, r.content) for r in records] == [("success", "abandoned", TEXT)]

    async def test_closing_the_response_leaves_the_stream(
        self, adapter: StainlessAdapter, clients: Clients, records: list[Record]
    ) -> None:
        stream = await clients.wait(adapter.stream(clients.wrapped()))
        await clients.wait(stream.response.aclose() if clients.is_async else stream.response.close())
        assert [(r.error_type, r.content, r.input_tokens) for r in records] == [("abandoned", None, None)]

    async def test_a_with_block_that_reads_to_the_end(
        self, adapter: StainlessAdapter, clients: Clients, records: list[Record]
    ) -> None:
        stream = await clients.wait(adapter.stream(clients.wrapped()))
        assert await clients.enter(stream) is stream
        await clients.all(stream)
        await clients.leave(stream)
        assert [(r.error_type, r.content) for r in records] == [(None, "hello")]

    async def test_requests_that_are_not_recorded_are_not_changed(
        self, adapter: StainlessAdapter, clients: Clients, records: list[Record]
    ) -> None:
        """Under `log_omit` the stream's iterator is the library's."""
        stream = await clients.wait(adapter.stream(clients.wrapped(log_omit=True)))
        assert inspect.isasyncgen(stream._iterator) or inspect.isgenerator(stream._iterator)
        await clients.all(stream)
        assert records == []

    async def test_langchains_model_with_raw_responses_is_one_record(
        self, clients: Clients, provider: FakeProvider, records: list[Record]
    ) -> None:
        pytest.importorskip("langchain_core")
        handlers = pytest.importorskip("everycall_langchain")
        from everycall_testkit.client_contract.langchain_model import ClientModel

        model = ClientModel(clients=clients, client=clients.wrapped(), raw=True)
        config: Any = {"callbacks": [handlers.CallbackHandler()]}
        for chain in (model, (lambda x: x) | model):
            await (chain.ainvoke("hi", config) if clients.is_async else clients.wait(chain.invoke("hi", config)))
        models = [record for record in records if record.kind == "llm"]
        expected = [("ClientModel", "everycall_langchain", "hello")] * 2
        assert [(record.name, record.scope, record.content) for record in models] == expected
        assert len(provider.requests) == 2
