"""A stream of a wrapped client stays the library's own, however it is read, and its call ends once."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.context import get_current

import everycall
from everycall.integration import current
from everycall.record import Record
from everycall_testkit.client_bench import Clients, decode, run_program
from everycall_testkit.client_contract.adapter import PIECES, TEXT, ClientAdapter, Way
from everycall_testkit.provider import FakeProvider

__all__ = ["Streams"]

_WAIT_STEPS = 200


async def collect(clients: Clients, records: list[Record], number: int = 1) -> None:
    """Collect garbage, and wait until the event loop has closed the generators that were dropped."""
    for _ in range(_WAIT_STEPS):
        gc.collect()
        await clients.settle()
        if len(records) >= number:
            break
        await asyncio.sleep(0.01)


class Streams:
    """Reading, leaving, dropping and moving streams."""

    async def open(self, clients: Clients, client: Any) -> Any:
        return await clients.wait(clients.adapter.stream(client))

    async def read_to_text(self, clients: Clients, stream: Any) -> list[Any]:
        pieces = [await clients.next(stream)]
        while not clients.adapter.piece_text(pieces[-1]):
            pieces.append(await clients.next(stream))
        return pieces

    def text(self, clients: Clients, pieces: list[Any]) -> str:
        return "".join(clients.adapter.piece_text(piece) or "" for piece in pieces)

    async def test_the_stream_is_the_librarys_own(
        self,
        bare_stream_way: Way,
        adapter: ClientAdapter,
        clients: Clients,
        provider: FakeProvider,
        records: list[Record],
    ) -> None:
        """Its class, its members and its pieces are those of a client that is not wrapped."""
        provider.default.pieces = PIECES
        bare = await clients.wait(bare_stream_way.ask(clients.new()))
        traced = await clients.wait(bare_stream_way.ask(clients.wrapped()))
        assert type(traced) is type(bare)
        assert adapter.stream_traits(traced, clients.is_async) == adapter.stream_traits(bare, clients.is_async)
        expected = [adapter.plain_piece(piece) for piece in await clients.all(bare)]
        assert [adapter.plain_piece(piece) for piece in await clients.all(traced)] == expected
        assert len(records) == 1

    async def test_read_by_hand(
        self, adapter: ClientAdapter, clients: Clients, provider: FakeProvider, records: list[Record]
    ) -> None:
        """With `next()`, then with a loop; past its end it stays ended."""
        provider.reply(pieces=PIECES)
        stream = await self.open(clients, clients.wrapped())
        pieces = await self.read_to_text(clients, stream)
        assert len(pieces) == adapter.opening_pieces + 1
        pieces += await clients.all(stream)
        assert self.text(clients, pieces) == TEXT
        assert [record.content for record in records] == [TEXT]
        assert await clients.next(stream) is None
        assert await clients.all(stream) == []
        await adapter.close_stream(clients, stream)
        await clients.settle()
        assert len(records) == 1

    async def test_break_and_read_on(self, clients: Clients, provider: FakeProvider, records: list[Record]) -> None:
        """`break` ends nothing as long as the stream is kept."""
        provider.reply(pieces=PIECES)
        stream = await self.open(clients, clients.wrapped())
        pieces = [await clients.first(stream)]
        await clients.settle()
        assert records == []
        assert self.text(clients, pieces + await clients.all(stream)) == TEXT
        assert [(record.error_type, record.content) for record in records] == [(None, TEXT)]

    async def test_dropped_in_a_loop(
        self, adapter: ClientAdapter, clients: Clients, provider: FakeProvider, records: list[Record]
    ) -> None:
        """`for piece in ...: break` without a name for the stream, the most common way to stop."""
        reply = provider.reply(pieces=PIECES, pause_after=1)
        client = clients.wrapped()
        await clients.first(await self.open(clients, client))
        await collect(clients, records)
        reply.go.set()
        content = None if adapter.opening_pieces else PIECES[0]
        assert [(r.status, r.error_type, r.content) for r in records] == [("success", "abandoned", content)]

    async def test_dropped_after_its_first_text(
        self, clients: Clients, provider: FakeProvider, records: list[Record]
    ) -> None:
        reply = provider.reply(pieces=PIECES, pause_after=1)
        stream = await self.open(clients, clients.wrapped())
        await self.read_to_text(clients, stream)
        del stream
        await collect(clients, records)
        reply.go.set()
        assert [(r.status, r.error_type, r.content) for r in records] == [("success", "abandoned", PIECES[0])]

    async def test_dropped_unread(
        self, adapter: ClientAdapter, clients: Clients, provider: FakeProvider, records: list[Record]
    ) -> None:
        """Abandoned; or nothing, where the library sends its request with the first step."""
        stream = await self.open(clients, clients.wrapped())
        del stream
        await collect(clients, records, number=0 if adapter.is_sent_when_read else 1)
        if adapter.is_sent_when_read:
            assert (records, provider.requests) == ([], [])
        else:
            assert [(r.status, r.error_type, r.content) for r in records] == [("success", "abandoned", None)]

    async def test_closed_after_the_model_has_finished(
        self, adapter: ClientAdapter, clients: Clients, provider: FakeProvider, records: list[Record]
    ) -> None:
        """The reason for the end has come, so the answer is complete, with the tokens that are known by then."""
        stream = await self.open(clients, clients.wrapped())
        while not adapter.is_final(await clients.next(stream)):
            pass
        await adapter.close_stream(clients, stream)
        await clients.settle()
        assert [(r.error_type, r.content, r.output_tokens) for r in records] == [
            (None, "hello", adapter.tokens_before_end)
        ]

    async def test_time_to_first_token_is_that_of_the_first_text(
        self, adapter: ClientAdapter, clients: Clients, provider: FakeProvider, records: list[Record]
    ) -> None:
        """It is not that of the opening pieces, which have no text."""
        reply = provider.reply(pieces=PIECES, pause_after=0)
        stream = await self.open(clients, clients.wrapped())
        for _ in range(adapter.opening_pieces):
            await clients.next(stream)
        released = []

        def release() -> None:
            provider.arrived.acquire()
            time.sleep(0.1)
            released.append(time.time_ns())
            reply.go.set()

        thread = threading.Thread(target=release)
        thread.start()
        await clients.all(stream)
        thread.join()
        (record,) = records
        assert record.time_to_first_token is not None
        assert record.latency is not None
        assert record.start_time_unix_nano + int(record.time_to_first_token * 1e9) >= released[0] - 20_000_000
        assert record.time_to_first_token <= record.latency

    async def test_no_context_is_left_attached(
        self, clients: Clients, provider: FakeProvider, records: list[Record]
    ) -> None:
        """Between two pieces the reader is in its own context; what it opens there is not below the stream's call."""
        provider.reply(pieces=PIECES)
        before = get_current()
        stream = await self.open(clients, clients.wrapped())
        assert get_current() is before
        assert current() is None
        await clients.next(stream)
        assert get_current() is before
        assert current() is None
        with everycall.span("between"):
            await clients.next(stream)
        await clients.all(stream)
        assert get_current() is before
        between, answer = records
        assert (between.name, between.parent_id, answer.parent_id) == ("between", None, None)

    async def test_a_stream_stays_in_the_trace_it_was_opened_in(
        self, bare_stream_way: Way, clients: Clients, records: list[Record]
    ) -> None:
        """Also when it is read by another task or thread, within another call."""
        client = clients.wrapped()
        with everycall.span("asks"):
            stream = await clients.wait(bare_stream_way.ask(client))
        with everycall.span("reads"):
            if clients.is_async:
                await asyncio.create_task(clients.all(stream))
            else:
                await asyncio.to_thread(list, stream)
        by_name = {record.name: record for record in records}
        answer = by_name[bare_stream_way.request["name"]]
        assert (answer.parent_id, answer.content) == (by_name["asks"].inference_id, "hello")
        assert answer.trace_id == by_name["asks"].trace_id != by_name["reads"].trace_id

    async def test_a_stream_keeps_the_flags_it_was_opened_under(
        self, bare_stream_way: Way, clients: Clients, records: list[Record]
    ) -> None:
        client = clients.wrapped()
        with everycall.context(log_omit_outputs=True, trace_id="order-42"):
            stream = await clients.wait(bare_stream_way.ask(client))
        await clients.all(stream)
        assert [(r.trace_id, r.content, r.omitted) for r in records] == [("order-42", None, ["attributes", "outputs"])]
        with everycall.context(log_omit=True):
            stream = await clients.wait(bare_stream_way.ask(client))
        await clients.all(stream)
        assert len(records) == 1

    async def test_a_stream_opened_outside_stays_outside(self, clients: Clients, records: list[Record]) -> None:
        stream = await self.open(clients, clients.wrapped())
        with everycall.span("reads"):
            await clients.all(stream)
        by_name = {record.name: record for record in records}
        assert by_name[clients.adapter.call_name].parent_id is None

    async def test_a_stream_of_an_instrumented_client_stays_in_its_trace(
        self, bare_stream_way: Way, adapter: ClientAdapter, clients: Clients, records: list[Record]
    ) -> None:
        adapter.integration.instrument()
        try:
            with everycall.span("asks"):
                stream = await clients.wait(bare_stream_way.ask(clients.new()))
            await clients.all(stream)
        finally:
            adapter.integration.uninstrument()
        asks, answer = records
        assert answer.parent_id == asks.inference_id

    @pytest.mark.parametrize("clients", ["async"], indirect=True)
    async def test_many_streams_at_once(self, adapter: ClientAdapter, clients: Clients, records: list[Record]) -> None:
        client = clients.wrapped()

        async def ask(number: int) -> None:
            with everycall.span(f"s{number}"):
                stream = await adapter.stream(client, str(number))
            async for _ in stream:
                await asyncio.sleep(0)

        await asyncio.gather(*(ask(number) for number in range(40)))
        parents = {record.inference_id: record for record in records if record.name.startswith("s")}
        answers = [record for record in records if record.kind == "llm"]
        assert len(answers) == len(parents) == 40
        for answer in answers:
            prompt = decode(answer.llm_configuration)["messages"][0]["content"]
            assert parents[str(answer.parent_id)].name == f"s{prompt}"
            assert answer.content == "hello"

    @pytest.mark.parametrize("end", ["exit", "fork"])
    def test_a_stream_open_at_the_end_of_the_process(
        self, end: str, adapter: ClientAdapter, provider: FakeProvider, tmp_path: Path
    ) -> None:
        """It is recorded when the process ends, and by that process alone: a forked child has no part in it."""
        program = adapter.program() + (_FORK if end == "fork" else "")
        spooled = run_program(program, provider.root, home=tmp_path)
        assert [record.get("error_type") for record in spooled] == ["abandoned" if end == "exit" else None]
        assert spooled[0]["content"] == "hello"


_FORK = """
import os
child = os.fork()
if child == 0:
    raise SystemExit
os.waitpid(child, 0)
rest = list(stream)
"""
