"""One request is one record that counts, also within a framework; what runs during a request is below it."""

from __future__ import annotations

from typing import Any

import pytest

import everycall
from everycall.integration import OwnedCall, active, start_call
from everycall.record import Record
from everycall_testkit.client_bench import Clients, decode
from everycall_testkit.client_contract.adapter import ClientAdapter
from everycall_testkit.provider import FakeProvider

__all__ = ["Frameworks"]


def counted_tokens(records: list[Record]) -> int:
    """Return the input tokens of a trace as a server adds them up."""
    return sum(record.input_tokens or 0 for record in records if record.kind in ("llm", "embedding"))


def framework_call(**labels: Any) -> OwnedCall:
    """Start the call of a framework's model that is about to send a request."""
    return start_call("FrameworkModel", kind="llm", scope="everycall_langchain", model="model", **labels)


async def ask(clients: Clients, client: Any, *, stream: bool = False) -> Any:
    if stream:
        return await clients.all(await clients.wait(clients.adapter.stream(client)))
    return await clients.wait(clients.adapter.ask(client))


class Frameworks:
    """Calls around a request: the user's own, a framework's, LangChain's."""

    async def test_a_call_of_the_users_around_requests(
        self, adapter: ClientAdapter, clients: Clients, records: list[Record]
    ) -> None:
        """`@trace(kind="llm")` may hold several requests: each is a record with its tokens, the outer call has none."""
        client = clients.wrapped()

        @everycall.trace(kind="llm")
        async def twice() -> str:
            await ask(clients, client)
            return adapter.answer_text(await ask(clients, client))

        await twice()
        first, second, outer = records
        assert [record.kind for record in records] == ["llm"] * 3
        assert first.parent_id == second.parent_id == outer.inference_id
        assert (outer.input_tokens, outer.usage) == (None, {})
        assert counted_tokens(records) == 44

    @pytest.mark.parametrize("stream", [False, True], ids=["answer", "stream"])
    async def test_a_frameworks_call_is_the_record(
        self, stream: bool, adapter: ClientAdapter, clients: Clients, provider: FakeProvider, records: list[Record]
    ) -> None:
        """It gets what only the client knows: tokens, the answer's id, the provider. The framework ends it."""
        provider.reply(**adapter.framework_reply)
        client, call = clients.wrapped(), framework_call()
        with active(call):
            await ask(clients, client, stream=stream)
        assert (records, call.ended) == ([], False)
        call.set_fields(content="the framework's")
        call.end()
        (record,) = records
        input_tokens, output_tokens, parts = adapter.framework_tokens
        assert (record.input_tokens, record.output_tokens, record.usage) == (input_tokens, output_tokens, parts)
        assert (record.content, record.model, record.provider) == ("the framework's", "model", adapter.provider)
        assert decode(record.attributes) == adapter.framework_attributes
        assert decode(record.llm_configuration) is None

    async def test_values_of_the_framework_take_precedence(self, clients: Clients, records: list[Record]) -> None:
        """It is heard last, so it is right."""
        call = framework_call()
        with active(call):
            await ask(clients, clients.wrapped())
        call.set_fields(input_tokens=1, output_tokens=2, total_tokens=3)
        call.end()
        assert (records[0].input_tokens, records[0].total_tokens) == (1, 3)

    async def test_a_frameworks_request_that_fails(
        self, adapter: ClientAdapter, clients: Clients, provider: FakeProvider, records: list[Record]
    ) -> None:
        """The framework records the error: it may try again."""
        failure = adapter.server_error
        provider.reply(status=failure.status)
        call = framework_call()
        with active(call):
            with pytest.raises(failure.exception):
                await ask(clients, clients.wrapped())
            await ask(clients, clients.wrapped())
        assert not call.ended
        call.end()
        assert [(record.status, record.input_tokens) for record in records] == [("success", 22)]

    async def test_a_call_below_a_frameworks_call_is_separate(self, clients: Clients, records: list[Record]) -> None:
        """A tool that runs within a model's call sends its own requests."""
        call = framework_call()
        with active(call), everycall.span("tool", kind="tool"):
            await ask(clients, clients.wrapped())
        call.end()
        assert [(record.name, record.input_tokens) for record in records] == [
            (clients.adapter.call_name, 22),
            ("tool", None),
            ("FrameworkModel", None),
        ]

    async def test_a_frameworks_omission_applies(self, clients: Clients, records: list[Record]) -> None:
        call = framework_call(log_omit_outputs=True)
        with active(call):
            await ask(clients, clients.wrapped())
        call.end()
        assert records[0].input_tokens == 22
        assert "hello" not in repr(records[0])

    async def test_the_call_is_current_while_the_request_runs(self, clients: Clients, records: list[Record]) -> None:
        """A span that the HTTP client's own instrumentation opens is below the request; later ones are not."""

        def hook(request: Any) -> None:
            with everycall.span("http", kind="tool"):
                pass

        client = clients.wrap(clients.new(hook=hook))
        name = clients.adapter.call_name
        for stream in (False, True):
            records.clear()
            with everycall.span("outer"):
                await ask(clients, client, stream=stream)
                with everycall.span("after"):
                    pass
            by_name = {record.name: record for record in records}
            assert by_name["http"].parent_id == by_name[name].inference_id
            assert by_name[name].parent_id == by_name["after"].parent_id == by_name["outer"].inference_id

    # LangChain

    @pytest.fixture
    def model(self, clients: Clients) -> Any:
        """A chat model of LangChain's that sends requests of a wrapped client."""
        pytest.importorskip("langchain_core")
        from everycall_testkit.client_contract.langchain_model import ClientModel

        return ClientModel(clients=clients, client=clients.wrapped())

    @pytest.fixture
    def config(self) -> Any:
        """A configuration with everycall's handler."""
        handlers = pytest.importorskip("everycall_langchain")
        return {"callbacks": [handlers.CallbackHandler()]}

    async def invoke(self, clients: Clients, chain: Any, config: Any = None) -> Any:
        return await chain.ainvoke("hi", config) if clients.is_async else chain.invoke("hi", config)

    async def test_langchains_model_is_one_record(
        self, clients: Clients, model: Any, config: Any, provider: FakeProvider, records: list[Record]
    ) -> None:
        await self.invoke(clients, model, config)
        await self.invoke(clients, (lambda x: x) | model, config)
        models = [record for record in records if record.kind == "llm"]
        expected = [("ClientModel", "everycall_langchain", "hello")] * 2
        assert [(record.name, record.scope, record.content) for record in models] == expected
        assert len(provider.requests) == 2

    async def test_langchains_stream_is_one_record(
        self, clients: Clients, model: Any, config: Any, records: list[Record]
    ) -> None:
        if clients.is_async:
            pieces = [chunk.content async for chunk in model.astream("hi", config)]
        else:
            pieces = [chunk.content for chunk in model.stream("hi", config)]
        assert "".join(pieces) == "hello"
        assert [(record.name, record.content) for record in records] == [("ClientModel", "hello")]

    async def test_many_chains_at_once(self, clients: Clients, model: Any, config: Any, records: list[Record]) -> None:
        batch = model.abatch(["hi"] * 20, config) if clients.is_async else model.batch(["hi"] * 20, config)
        assert [answer.content for answer in await clients.wait(batch)] == ["hello"] * 20
        assert [(record.name, record.scope) for record in records] == [("ClientModel", "everycall_langchain")] * 20

    async def test_langchain_without_a_handler_is_recorded_as_the_request(
        self, adapter: ClientAdapter, clients: Clients, model: Any, records: list[Record]
    ) -> None:
        await self.invoke(clients, model)
        assert [(record.name, record.scope, record.input_tokens) for record in records] == [
            (adapter.call_name, adapter.scope, 22)
        ]

    async def test_a_tool_that_sends_requests(
        self, adapter: ClientAdapter, clients: Clients, config: Any, records: list[Record]
    ) -> None:
        """LangChain's tool runs the user's code: its request has a record below the tool."""
        from langchain_core.tools import StructuredTool

        client = clients.wrapped()

        def look_up(question: str) -> str:
            return adapter.answer_text(adapter.ask(client))

        async def look_up_async(question: str) -> str:
            return adapter.answer_text(await adapter.ask(client))

        function = {"coroutine": look_up_async} if clients.is_async else {"func": look_up}
        tool = StructuredTool.from_function(**function, name="look_up", description="looks up")
        question = {"question": "q"}
        await clients.wait(tool.ainvoke(question, config) if clients.is_async else tool.invoke(question, config))
        answer, outer = records
        assert (answer.scope, answer.input_tokens) == (adapter.scope, 22)
        assert (outer.name, answer.parent_id) == ("look_up", outer.inference_id)
