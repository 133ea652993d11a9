"""One request, one record that counts; and what is made while a request runs is below it."""

from __future__ import annotations

import sys
from typing import Any

import anthropic
import pytest

import everycall
import everycall_anthropic
from everycall.integration import active, start_call

ASKED: dict[str, Any] = {"model": "claude-test", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}


def counted(records: list[Any]) -> int:
    """The tokens of a trace, as a server sums them: those of all its models."""
    return sum(r.input_tokens or 0 for r in records if r.kind == "llm")


async def test_a_call_of_ones_own_around_a_request(both: Any, records: Any) -> None:
    """`@trace(kind="llm")` may hold several requests: each has its record and its tokens, the outer one has none."""
    client = both.wrapped()

    @everycall.trace(kind="llm")
    async def ask() -> str:
        for _ in range(2):
            answer = await both.wait(client.messages.create(**ASKED))
        return str(answer.content[0].text)

    await ask()
    first, second, outer = records
    assert first.parent_id == second.parent_id == outer.inference_id
    assert (outer.input_tokens, outer.usage) == (None, {})
    assert counted(records) == 44


# --- a framework that says which of its calls runs ---


def framework_call() -> Any:
    return start_call("FrameworkModel", kind="llm", scope="everycall_langchain", model="claude-test")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_frameworks_call_is_the_record(
    stream: bool, both: Any, provider: Any, records: Any, value: Any
) -> None:
    """It learns what only the client knows: tokens, the answer's id and tier, who answers. Its end is its own."""
    usage = {"input_tokens": 7, "cache_read_input_tokens": 10, "output_tokens": 9, "service_tier": "priority"}
    provider.reply(usage=usage)
    client = both.wrapped()
    call = framework_call()
    with active(call):
        answer = await both.wait(client.messages.create(**ASKED, stream=stream))
        if stream:
            await both.all(answer)
    assert (records, call.ended) == ([], False)
    call.update(content="the framework's")
    call.end()
    (record,) = records
    assert (record.input_tokens, record.output_tokens, record.usage) == (17, 9, {"cached": 10})
    assert (record.content, record.model, record.provider) == ("the framework's", "claude-test", "anthropic")
    assert value(record.attributes) == {
        "gen_ai.response.id": "msg_1",
        "everycall.service_tier": "priority",
        "anthropic.response.service_tier": "priority",
    }
    assert value(record.llm_configuration) is None


async def test_a_frameworks_request_that_fails(both: Any, provider: Any, records: Any) -> None:
    """The error is the framework's to record: it may try again."""
    provider.reply(status=529)
    call = framework_call()
    with active(call):
        with pytest.raises(anthropic.InternalServerError):
            await both.wait(both.wrapped().messages.create(**ASKED))
        await both.wait(both.wrapped().messages.create(**ASKED))
    assert not call.ended
    call.end()
    assert [(r.status, r.input_tokens) for r in records] == [("success", 22)]


async def test_a_frameworks_omission_holds(both: Any, records: Any) -> None:
    call = start_call("FrameworkModel", kind="llm", scope="everycall_langchain", log_omit_outputs=True)
    with active(call):
        await both.wait(both.wrapped().messages.create(**ASKED))
    call.end()
    assert records[0].input_tokens == 22
    assert "hello" not in repr(records[0])


# --- LangChain ---


@pytest.fixture
def chains(both: Any) -> Any:
    """LangChain with everycall's handler, and a model of its kind over a wrapped client."""
    pytest.importorskip("langchain_core")
    handlers = pytest.importorskip("everycall_langchain")
    from langchain_core.language_models import BaseChatModel
    from langchain_core.messages import AIMessage, AIMessageChunk
    from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult

    class Model(BaseChatModel):
        client: Any

        @property
        def _llm_type(self) -> str:
            return "over-anthropic"

        def _result(self, answer: Any) -> ChatResult:
            return ChatResult(generations=[ChatGeneration(message=AIMessage(answer.content[0].text))])

        def _chunk(self, event: Any) -> Any:
            text = event.delta.text if event.type == "content_block_delta" else ""
            return ChatGenerationChunk(message=AIMessageChunk(content=text))

        def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **_: Any) -> ChatResult:
            return self._result(self.client.messages.create(**ASKED))

        async def _agenerate(self, messages: Any, stop: Any = None, run_manager: Any = None, **_: Any) -> ChatResult:
            return self._result(await self.client.messages.create(**ASKED))

        def _stream(self, messages: Any, stop: Any = None, run_manager: Any = None, **_: Any) -> Any:
            for event in self.client.messages.create(**ASKED, stream=True):
                yield self._chunk(event)

        async def _astream(self, messages: Any, stop: Any = None, run_manager: Any = None, **_: Any) -> Any:
            async for event in await self.client.messages.create(**ASKED, stream=True):
                yield self._chunk(event)

    return Model(client=both.wrapped()), {"callbacks": [handlers.CallbackHandler()]}


async def ask_chain(both: Any, chain: Any, config: Any = None) -> Any:
    return await chain.ainvoke("hi", config) if both.is_async else chain.invoke("hi", config)


async def test_langchains_model_is_one_record(both: Any, chains: Any, provider: Any, records: Any) -> None:
    model, config = chains
    await ask_chain(both, model, config)
    await ask_chain(both, (lambda x: x) | model, config)
    models = [r for r in records if r.kind == "llm"]
    assert [(r.name, r.scope, r.content) for r in models] == [("Model", "everycall_langchain", "hello")] * 2
    assert len(provider.requests) == 2


async def test_langchains_stream_is_one_record(both: Any, chains: Any, records: Any) -> None:
    model, config = chains
    if both.is_async:
        said = [chunk.content async for chunk in model.astream("hi", config)]
    else:
        said = [chunk.content for chunk in model.stream("hi", config)]
    assert "".join(said) == "hello"
    assert [(r.name, r.content) for r in records] == [("Model", "hello")]


async def test_langchain_without_a_handler_is_recorded_as_the_request(both: Any, chains: Any, records: Any) -> None:
    model, _ = chains
    await ask_chain(both, model)
    assert [(r.name, r.scope, r.input_tokens) for r in records] == [("chat claude-test", "everycall_anthropic", 22)]


async def test_langchains_run_is_not_told_to_the_provider(both: Any, chains: Any, provider: Any, records: Any) -> None:
    """A client that traces itself does not see the run's call either, recorded by the handler or not."""
    model, config = chains
    await ask_chain(both, (lambda x: x) | model, config)
    with everycall.span("outer"):
        await ask_chain(both, (lambda x: x) | model, config)
    assert [name for seen in provider.requests for name in seen.headers if name in ("traceparent", "baggage")] == []


# --- what runs while a request does ---


async def test_the_call_is_current_while_the_request_runs(both: Any, provider: Any, records: Any) -> None:
    """A call that is opened while the request is sent is below it; nothing is attached after it."""
    http = sys.modules["httpx2"] if "httpx2" in sys.modules else pytest.importorskip("httpx")

    def send(request: Any) -> None:
        with everycall.span("http", kind="tool"):
            pass

    async def send_async(request: Any) -> None:
        send(request)

    if both.is_async:
        made = http.AsyncClient(event_hooks={"request": [send_async]})
    else:
        made = http.Client(event_hooks={"request": [send]})
    client = everycall_anthropic.wrap(both.client(http_client=made))
    with everycall.span("outer"):
        await both.wait(client.messages.create(**ASKED))
        with everycall.span("after"):
            pass
    by_name = {record.name: record for record in records}
    assert by_name["http"].parent_id == by_name["chat claude-test"].inference_id
    assert by_name["chat claude-test"].parent_id == by_name["after"].parent_id == by_name["outer"].inference_id
