"""One request, one record that counts; and what is made while a request runs is below it."""

from __future__ import annotations

import sys
from typing import Any

import openai
import pytest

import everycall
import everycall_openai
from everycall.integration import active, start_call

ASKED: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}


def counted(records: list[Any]) -> int:
    """The tokens of a trace, as a server sums them: those of all its models and embeddings."""
    return sum(r.input_tokens or 0 for r in records if r.kind in ("llm", "embedding"))


async def test_a_call_of_ones_own_around_a_request(both: Any, records: Any) -> None:
    """`@trace(kind="llm")` may hold several requests: each has its record and its tokens, the outer one has none."""
    client = both.wrapped()

    @everycall.trace(kind="llm")
    async def ask() -> str:
        for _ in range(2):
            answer = await both.wait(client.chat.completions.create(**ASKED))
        return str(answer.choices[0].message.content)

    await ask()
    first, second, outer = records
    assert [r.kind for r in records] == ["llm"] * 3
    assert first.parent_id == second.parent_id == outer.inference_id
    assert (outer.input_tokens, outer.usage) == (None, {})
    assert counted(records) == 44


# --- a framework that says which of its calls runs ---


def framework_call() -> Any:
    return start_call("FrameworkModel", kind="llm", scope="everycall_langchain", model="gpt-4o")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_frameworks_call_is_the_record(
    stream: bool, both: Any, provider: Any, records: Any, value: Any
) -> None:
    """It learns what only the client knows: tokens, the answer's id, who answers. Its end is the framework's."""
    client = both.wrapped()
    call = framework_call()
    with active(call):
        answer = await both.wait(client.chat.completions.create(**ASKED, stream=stream))
        if stream:
            await both.all(answer)
    assert (records, call.ended) == ([], False)
    call.update(content="the framework's")
    call.end()
    (record,) = records
    assert (record.input_tokens, record.output_tokens, record.usage["cached"]) == (22, 189, 10)
    assert (record.content, record.model, record.provider) == ("the framework's", "gpt-4o", "openai")
    assert value(record.attributes) == {"gen_ai.response.id": "chatcmpl-1"}
    assert value(record.llm_configuration) is None


async def test_what_a_framework_knows_better_stays(both: Any, records: Any) -> None:
    """It has the last word, for it speaks last."""
    call = framework_call()
    with active(call):
        await both.wait(both.wrapped().chat.completions.create(**ASKED))
    call.update(input_tokens=1, output_tokens=2, total_tokens=3)
    call.end()
    assert (records[0].input_tokens, records[0].total_tokens) == (1, 3)


async def test_a_frameworks_request_that_fails(both: Any, provider: Any, records: Any) -> None:
    """The error is the framework's to record: it may try again."""
    provider.reply(status=500)
    call = framework_call()
    with active(call):
        with pytest.raises(openai.InternalServerError):
            await both.wait(both.wrapped().chat.completions.create(**ASKED))
        await both.wait(both.wrapped().chat.completions.create(**ASKED))
    assert not call.ended
    call.end()
    assert [(r.status, r.input_tokens) for r in records] == [("success", 22)]


async def test_an_embedding_within_a_frameworks_model_has_its_own_record(both: Any, records: Any) -> None:
    call = framework_call()
    with active(call):
        await both.wait(both.wrapped().embeddings.create(model="e", input="a"))
    call.end()
    embedding, outer = records
    assert (embedding.kind, embedding.parent_id, embedding.input_tokens) == ("embedding", outer.inference_id, 7)
    assert outer.input_tokens is None


async def test_a_call_below_a_frameworks_is_not_it(both: Any, records: Any) -> None:
    """A tool that runs within a model's run asks for itself."""
    call = framework_call()
    with active(call), everycall.span("tool", kind="tool"):
        await both.wait(both.wrapped().chat.completions.create(**ASKED))
    call.end()
    assert [(r.name, r.input_tokens) for r in records] == [
        ("chat gpt-4o", 22),
        ("tool", None),
        ("FrameworkModel", None),
    ]


async def test_a_frameworks_omission_holds(both: Any, records: Any) -> None:
    call = start_call("FrameworkModel", kind="llm", scope="everycall_langchain", log_omit_outputs=True)
    with active(call):
        await both.wait(both.wrapped().chat.completions.create(**ASKED))
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
        is_raw: bool = False

        @property
        def _llm_type(self) -> str:
            return "over-openai"

        @property
        def _asks(self) -> Any:
            completions = self.client.chat.completions
            return (completions.with_raw_response if self.is_raw else completions).create

        def _result(self, answer: Any) -> ChatResult:
            answer = answer.parse() if self.is_raw else answer
            return ChatResult(generations=[ChatGeneration(message=AIMessage(answer.choices[0].message.content))])

        def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **_: Any) -> ChatResult:
            return self._result(self._asks(**ASKED))

        async def _agenerate(self, messages: Any, stop: Any = None, run_manager: Any = None, **_: Any) -> ChatResult:
            return self._result(await self._asks(**ASKED))

        def _stream(self, messages: Any, stop: Any = None, run_manager: Any = None, **_: Any) -> Any:
            for chunk in self.client.chat.completions.create(**ASKED, stream=True):
                yield ChatGenerationChunk(message=AIMessageChunk(content=chunk.choices[0].delta.content or ""))

        async def _astream(self, messages: Any, stop: Any = None, run_manager: Any = None, **_: Any) -> Any:
            async for chunk in await self.client.chat.completions.create(**ASKED, stream=True):
                yield ChatGenerationChunk(message=AIMessageChunk(content=chunk.choices[0].delta.content or ""))

    model = Model(client=both.wrapped())
    return model, {"callbacks": [handlers.CallbackHandler()]}


async def ask_chain(both: Any, chain: Any, config: Any = None) -> Any:
    return await chain.ainvoke("hi", config) if both.is_async else chain.invoke("hi", config)


@pytest.mark.parametrize("is_raw", [False, True])
async def test_langchains_model_is_one_record(
    is_raw: bool, both: Any, chains: Any, provider: Any, records: Any
) -> None:
    model, config = chains
    model.is_raw = is_raw
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


async def test_many_chains_at_once(both: Any, chains: Any, records: Any) -> None:
    model, config = chains
    answers = await model.abatch(["hi"] * 20, config) if both.is_async else model.batch(["hi"] * 20, config)
    assert [answer.content for answer in answers] == ["hello"] * 20
    assert [(r.name, r.scope) for r in records] == [("Model", "everycall_langchain")] * 20


async def test_langchain_without_a_handler_is_recorded_as_the_request(both: Any, chains: Any, records: Any) -> None:
    model, _ = chains
    await ask_chain(both, model)
    assert [(r.name, r.scope, r.input_tokens) for r in records] == [("chat gpt-4o", "everycall_openai", 22)]


async def test_a_tool_that_asks_for_itself(both: Any, chains: Any, records: Any) -> None:
    """LangChain's tool runs code of one's own: its request is no model's run, and has a record below the tool."""
    from langchain_core.tools import StructuredTool

    client, (_, config) = both.wrapped(), chains

    def look_up(question: str, run_manager: Any = None) -> str:
        return str(client.chat.completions.create(**ASKED).choices[0].message.content)

    async def look_up_later(question: str) -> str:
        return str((await client.chat.completions.create(**ASKED)).choices[0].message.content)

    tool = StructuredTool.from_function(
        None if both.is_async else look_up, coroutine=look_up_later if both.is_async else None, description="looks up",
        name="look_up",
    )  # fmt: skip
    await (
        tool.ainvoke({"question": "q"}, config) if both.is_async else both.wait(tool.invoke({"question": "q"}, config))
    )
    answer, outer = records
    assert (answer.scope, answer.input_tokens) == ("everycall_openai", 22)
    assert (outer.name, answer.parent_id) == ("look_up", outer.inference_id)


# --- what runs while a request does ---


async def test_the_call_is_current_while_the_request_runs(both: Any, provider: Any, records: Any) -> None:
    """A span that the HTTP client's own instrumentation opens is below the request; nothing is attached after it."""
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
    client = everycall_openai.wrap(both.client(http_client=made))
    with everycall.span("outer"):
        await both.wait(client.chat.completions.create(**ASKED))
        with everycall.span("after"):
            pass
    by_name = {record.name: record for record in records}
    assert by_name["http"].parent_id == by_name["chat gpt-4o"].inference_id
    assert by_name["chat gpt-4o"].parent_id == by_name["after"].parent_id == by_name["outer"].inference_id
