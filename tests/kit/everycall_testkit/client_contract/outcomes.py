"""Every way of asking, with every way the request can end: the whole content of the record each time."""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
from typing import Any

import pytest

from everycall.integration import active, start_call
from everycall.record import Record
from everycall_testkit.client_bench import Clients, content_of
from everycall_testkit.client_contract.adapter import PIECES, ClientAdapter, Embedding, Way
from everycall_testkit.provider import FakeProvider, Reply

__all__ = ["Embeddings", "Outcomes", "StreamOutcomes", "ask", "open_to_text", "qualified_name"]

only_async = pytest.mark.parametrize("clients", ["async"], indirect=True)
"""A thread cannot be cancelled."""
_TIMED_OUT = re.compile(r"imed out|Timeout|^$")
each_flag = pytest.mark.parametrize("flag", ["log_omit_inputs", "log_omit_outputs", "log_omit"])


async def ask(clients: Clients, way: Way, client: Any) -> None:
    """Ask in one way, and read the answer to its end."""
    opened = way.ask(client)
    if way.returns == "answer":
        await clients.wait(opened)
    elif way.returns == "stream":
        await clients.all(await clients.wait(opened))
    else:
        stream = await clients.enter(opened)
        try:
            await clients.all(stream)
        finally:
            await clients.leave(opened)


async def open_to_text(clients: Clients, way: Way, client: Any) -> tuple[Any, Any]:
    """Open a stream and read the first text; returns what has to be left, and the stream."""
    opened = way.ask(client)
    stream = await clients.enter(opened) if way.returns == "manager" else await clients.wait(opened)
    while True:
        piece = await clients.next(stream)
        assert piece is not None
        if clients.adapter.piece_text(piece) == PIECES[0]:
            return (opened if way.returns == "manager" else stream), stream


def qualified_name(error: BaseException) -> str:
    """Return the `error_type` of an exception's record."""
    return f"{type(error).__module__}.{type(error).__name__}"


def failed(fields: dict[str, Any], error: BaseException, **more: Any) -> dict[str, Any]:
    """Return the content of a record that ended with an exception of the library's."""
    name = qualified_name(error)
    text = f"{name}: {error}" if str(error) else name
    return {**fields, "status": "error", "error": text, "error_type": name, **more}


class _Contract:
    """What the classes of the suite share: the provider's replies."""

    def reply(self, adapter: ClientAdapter, provider: FakeProvider, **fields: Any) -> Reply:
        return provider.reply(pieces=PIECES, **{**adapter.reply, **fields})


class Outcomes(_Contract):
    """Success, errors, time-outs, cancellation and omission, of every way of asking."""

    async def test_success(
        self, way: Way, adapter: ClientAdapter, clients: Clients, provider: FakeProvider, records: list[Record]
    ) -> None:
        self.reply(adapter, provider)
        await ask(clients, way, clients.wrapped())
        assert [content_of(record) for record in records] == [way.success]
        assert (records[0].time_to_first_token is None) == (way.returns == "answer")

    async def test_the_librarys_error_is_raised_and_recorded(
        self, way: Way, adapter: ClientAdapter, clients: Clients, provider: FakeProvider, records: list[Record]
    ) -> None:
        failure = adapter.rate_limited
        provider.reply(status=failure.status, error="slow down", headers=dict(failure.headers))
        with pytest.raises(failure.exception) as raised:
            await ask(clients, way, clients.wrapped())
        assert content_of(records[0]) == failed({**way.request}, raised.value, attributes=failure.attributes)
        assert failure.error_type in (None, records[0].error_type)
        assert "slow down" in str(raised.value)
        assert len(records) == len(provider.requests) == 1

    async def test_a_failing_server(
        self, way: Way, adapter: ClientAdapter, clients: Clients, provider: FakeProvider, records: list[Record]
    ) -> None:
        failure = adapter.server_error
        provider.reply(status=failure.status, error="overloaded")
        with pytest.raises(failure.exception):
            await ask(clients, way, clients.wrapped())
        assert [(record.status, record.error_type) for record in records] == [("error", failure.error_type)]

    async def test_a_timeout(
        self, way: Way, adapter: ClientAdapter, clients: Clients, provider: FakeProvider, records: list[Record]
    ) -> None:
        hold = threading.Event()
        provider.reply(hold=hold)
        with pytest.raises(adapter.timeout.exception, match=adapter.timeout.match) as raised:
            await ask(clients, way, clients.wrapped(timeout=0.1))
        hold.set()
        assert qualified_name(raised.value).endswith(adapter.timeout.name)
        assert [content_of(record) for record in records] == [failed({**way.request}, raised.value)]

    @only_async
    async def test_cancelled_before_the_answer(
        self, way: Way, clients: Clients, provider: FakeProvider, records: list[Record]
    ) -> None:
        hold = threading.Event()
        provider.reply(hold=hold)
        task = asyncio.create_task(ask(clients, way, clients.wrapped()))
        await asyncio.to_thread(provider.arrived.acquire)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        hold.set()
        cancelled = {**way.request, "status": "error", "error": "cancelled", "error_type": "cancelled"}
        assert [content_of(record) for record in records] == [cancelled]

    @each_flag
    async def test_omission(
        self,
        flag: str,
        way: Way,
        adapter: ClientAdapter,
        clients: Clients,
        provider: FakeProvider,
        records: list[Record],
    ) -> None:
        self.reply(adapter, provider)
        await ask(clients, way, clients.wrapped(**{flag: True}))
        if flag == "log_omit":
            assert records == []
            return
        expected = way.success
        expected.pop("attributes")
        expected.pop("llm_configuration" if flag == "log_omit_inputs" else "content")
        assert [content_of(record) for record in records] == [
            {**expected, "omitted": ["attributes", flag.removeprefix("log_omit_")]}
        ]

    async def test_omission_of_an_error(
        self, way: Way, adapter: ClientAdapter, clients: Clients, provider: FakeProvider, records: list[Record]
    ) -> None:
        """No byte of the error's text is kept: providers quote the request in it."""
        failure = adapter.bad_request
        provider.reply(status=failure.status, error="you said: hi canary")
        with pytest.raises(failure.exception):
            await ask(clients, way, clients.wrapped(log_omit_inputs=True))
        assert records[0].error_type == failure.error_type
        assert "canary" not in repr(records[0])


class StreamOutcomes(_Contract):
    """Streams that are not read to their end, of every way of asking for one."""

    async def test_a_lost_connection(
        self, stream_way: Way, adapter: ClientAdapter, clients: Clients, provider: FakeProvider, records: list[Record]
    ) -> None:
        """An error, with what had come before it."""
        self.reply(adapter, provider, break_after=1)
        with pytest.raises(Exception) as raised:
            await ask(clients, stream_way, clients.wrapped())
        assert [content_of(record) for record in records] == [failed(stream_way.started, raised.value)]
        assert records[0].time_to_first_token is not None

    async def test_an_error_event(
        self, stream_way: Way, adapter: ClientAdapter, clients: Clients, provider: FakeProvider, records: list[Record]
    ) -> None:
        """The server answered 200, and reports an error in the middle of the stream."""
        failure = adapter.stream_error
        self.reply(adapter, provider, error_after=1, headers=dict(failure.headers))
        if adapter.raises_stream_error:
            with pytest.raises(failure.exception, match=adapter.stream_error_text) as raised:
                await ask(clients, stream_way, clients.wrapped())
            attributes = {**stream_way.first_piece["attributes"], **failure.attributes}
            expected = failed(stream_way.started, raised.value, attributes=attributes)
            assert [content_of(record) for record in records] == [expected]
        else:
            with contextlib.suppress(failure.exception):
                await ask(clients, stream_way, clients.wrapped())
        assert [(record.status, record.content) for record in records] == [("error", PIECES[0])]
        assert adapter.stream_error_text in str(records[0].error)
        assert "overloaded" in str(records[0].error)
        assert failure.error_type in (None, records[0].error_type)

    async def test_closed_by_its_reader(
        self, stream_way: Way, adapter: ClientAdapter, clients: Clients, provider: FakeProvider, records: list[Record]
    ) -> None:
        """Abandoned, which is not an error: the text that arrived, and no unknown token count."""
        reply = self.reply(adapter, provider, pause_after=1)
        opened, _ = await open_to_text(clients, stream_way, clients.wrapped())
        assert records == []
        await adapter.leave_stream(clients, opened)
        reply.go.set()
        assert [content_of(record) for record in records] == [{**stream_way.started, "error_type": "abandoned"}]
        assert records[0].time_to_first_token is not None

    async def test_closed(
        self, stream_way: Way, adapter: ClientAdapter, clients: Clients, provider: FakeProvider, records: list[Record]
    ) -> None:
        """Closing twice ends the call once."""
        reply = self.reply(adapter, provider, pause_after=1)
        opened, stream = await open_to_text(clients, stream_way, clients.wrapped())
        await adapter.close_stream(clients, stream)
        await adapter.close_stream(clients, stream)
        reply.go.set()
        await adapter.leave_stream(clients, opened)
        assert [(r.status, r.error_type, r.content) for r in records] == [("success", "abandoned", PIECES[0])]

    async def test_a_reader_that_fails(
        self, stream_way: Way, adapter: ClientAdapter, clients: Clients, provider: FakeProvider, records: list[Record]
    ) -> None:
        """The error of the loop's body is not the request's."""
        reply = self.reply(adapter, provider, pause_after=1)
        opened, _ = await open_to_text(clients, stream_way, clients.wrapped())
        await adapter.leave_stream(clients, opened, ValueError("the reader's own"))
        reply.go.set()
        assert [(r.status, r.error_type, r.content) for r in records] == [("success", "abandoned", PIECES[0])]

    @only_async
    async def test_cancelled_in_the_middle(
        self, stream_way: Way, adapter: ClientAdapter, clients: Clients, provider: FakeProvider, records: list[Record]
    ) -> None:
        reply = self.reply(adapter, provider, pause_after=1)
        opened, stream = await open_to_text(clients, stream_way, clients.wrapped())
        task = asyncio.create_task(clients.all(stream))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        reply.go.set()
        await adapter.leave_stream(clients, opened)
        cancelled = {**stream_way.started, "status": "error", "error": "cancelled", "error_type": "cancelled"}
        assert [content_of(record) for record in records] == [cancelled]

    async def test_a_timeout_in_the_middle(
        self, stream_way: Way, adapter: ClientAdapter, clients: Clients, provider: FakeProvider, records: list[Record]
    ) -> None:
        timeout_s = 0.5
        while True:
            reply = self.reply(adapter, provider, pause_after=1)
            try:
                opened, stream = await open_to_text(clients, stream_way, clients.wrapped(timeout=timeout_s))
                break
            except Exception as error:  # a busy machine may need longer than that for the first text
                if timeout_s > 30 or not _TIMED_OUT.search(str(error)):
                    raise
                reply.go.set()
                records.clear()
                timeout_s *= 4
        with pytest.raises(Exception, match=_TIMED_OUT) as raised:
            await clients.all(stream)
        reply.go.set()
        with contextlib.suppress(type(raised.value)):
            await adapter.leave_stream(clients, opened)
        tokens = (stream_way.started.get("input_tokens"), stream_way.started.get("output_tokens"))
        assert [(r.status, r.content, (r.input_tokens, r.output_tokens)) for r in records] == [
            ("error", PIECES[0], tokens)
        ]
        assert str(records[0].error_type).rpartition(".")[2] == type(raised.value).__name__

    @pytest.mark.parametrize("flags", [("log_omit_outputs",), ("log_omit_inputs", "log_omit_outputs")])
    async def test_omission_of_a_stream_that_is_closed_early(
        self,
        flags: tuple[str, ...],
        stream_way: Way,
        adapter: ClientAdapter,
        clients: Clients,
        provider: FakeProvider,
        records: list[Record],
    ) -> None:
        """No text is kept; the tokens that are known are."""
        reply = self.reply(adapter, provider, pause_after=1)
        opened, _ = await open_to_text(clients, stream_way, clients.wrapped(**dict.fromkeys(flags, True)))
        await adapter.leave_stream(clients, opened)
        reply.go.set()
        (record,) = records
        assert (record.error_type, record.content) == ("abandoned", None)
        assert record.input_tokens == stream_way.started.get("input_tokens")
        assert "city" not in repr(record)


class Embeddings:
    """Embeddings, where the integration records them."""

    @pytest.fixture
    def embedding(self, adapter: ClientAdapter) -> Embedding:
        assert adapter.embedding is not None
        return adapter.embedding

    async def test_embeddings(self, embedding: Embedding, clients: Clients, records: list[Record]) -> None:
        await clients.wait(embedding.ask(clients.wrapped(), ["a", "b"]))
        output = {"embeddings": 2, "dimensions": 8}
        assert [content_of(record) for record in records] == [
            {**embedding.record, "inputs": {"input": ["a", "b"]}, "output": output}
        ]

    @each_flag
    async def test_omission_of_embeddings(
        self, flag: str, embedding: Embedding, clients: Clients, records: list[Record]
    ) -> None:
        await clients.wait(embedding.ask(clients.wrapped(**{flag: True}), "canary"))
        if flag == "log_omit":
            assert records == []
            return
        content = content_of(records[0])
        assert content.get("input_tokens") == embedding.record.get("input_tokens")
        assert ("inputs" in content, "output" in content) == (flag == "log_omit_outputs", flag == "log_omit_inputs")
        assert ("canary" in repr(content)) == (flag == "log_omit_outputs")

    async def test_embeddings_that_fail(
        self,
        embedding: Embedding,
        adapter: ClientAdapter,
        clients: Clients,
        provider: FakeProvider,
        records: list[Record],
    ) -> None:
        failure = adapter.server_error
        provider.reply(status=failure.status, error="no")
        with pytest.raises(failure.exception):
            await clients.wait(embedding.ask(clients.wrapped(), "a"))
        assert [(r.kind, r.status, r.error_type) for r in records] == [("embedding", "error", failure.error_type)]

    async def test_embeddings_within_a_frameworks_model_have_their_own_record(
        self, embedding: Embedding, clients: Clients, records: list[Record]
    ) -> None:
        call = start_call("FrameworkModel", kind="llm", scope="everycall_langchain")
        with active(call):
            await clients.wait(embedding.ask(clients.wrapped(), "a"))
        call.end()
        inner, outer = records
        assert (inner.kind, inner.parent_id) == ("embedding", outer.inference_id)
        assert inner.input_tokens == embedding.record.get("input_tokens")
        assert outer.input_tokens is None
