"""One request, one record that counts; and what is made while a request runs is below it."""

from __future__ import annotations

from typing import Any

import pytest
from google.genai import errors, types

import everycall
from everycall.integration import active, start_call

ASKED: dict[str, Any] = {"model": "gemini-2.5-flash", "contents": "hi"}
NAME = "generate_content gemini-2.5-flash"
stream_or_not = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])


def counted(records: list[Any]) -> int:
    """The tokens of a trace, as a server sums them: those of all its models and embeddings."""
    return sum(r.input_tokens or 0 for r in records if r.kind in ("llm", "embedding"))


async def ask(both: Any, client: Any, stream: bool = False, **more: Any) -> Any:
    if stream:
        return await both.all(await both.wait(client.models.generate_content_stream(**ASKED, **more)))
    return await both.wait(client.models.generate_content(**ASKED, **more))


async def test_a_call_of_ones_own_around_a_request(both: Any, records: Any) -> None:
    """`@trace(kind="llm")` may hold several requests: each has its record and its tokens, the outer one has none."""
    client = both.wrapped()

    @everycall.trace(kind="llm")
    async def twice() -> str:
        for _ in range(2):
            answer = await ask(both, client)
        return str(answer.text)

    await twice()
    first, second, outer = records
    assert [r.kind for r in records] == ["llm"] * 3
    assert first.parent_id == second.parent_id == outer.inference_id
    assert (outer.input_tokens, outer.usage) == (None, {})
    assert counted(records) == 44


# --- automatic function calling: the library asks again with what functions returned ---


def tool(both: Any) -> Any:
    """A function that the library runs, and which the program traces."""

    def get_weather(city: str) -> str:
        """Tell the weather of a city."""
        return f"sunny in {city}"

    get_weather.__annotations__ = {"city": str, "return": str}  # older versions cannot read those of this file
    return everycall.trace(name="get_weather", kind="tool")(get_weather)


@pytest.mark.parametrize("of", ["models", "models stream", "chat", "chat stream"])
async def test_each_request_of_function_calling_is_a_record(
    of: str, both: Any, provider: Any, records: Any, value: Any
) -> None:
    """Requests and the functions between them stand beside each other, below the call that asked."""
    provider.reply(content=None, tool_calls=[("get_weather", {"city": "Rome"})])
    client, config = both.wrapped(), types.GenerateContentConfig(tools=[tool(both)])
    with everycall.span("asks"):
        if of == "models":
            await ask(both, client, config=config)
        elif of == "models stream":
            await ask(both, client, stream=True, config=config)
        else:
            chat = client.chats.create(model="gemini-2.5-flash", config=config)
            if of == "chat":
                await both.wait(chat.send_message("hi"))
            else:
                await both.all(await both.wait(chat.send_message_stream("hi")))
    first, weather, second, asks = sorted(records, key=lambda r: (r.name == "asks", r.start_time_unix_nano))
    assert [r.name for r in (first, weather, second)] == [NAME, "get_weather", NAME]
    assert {r.parent_id for r in (first, weather, second)} == {asks.inference_id}
    assert value(first.output)["content"][-1] == {
        "type": "tool_call",
        "name": "get_weather",
        "arguments": {"city": "Rome"},
    }
    assert value(weather.output) == "sunny in Rome"
    assert value(second.llm_configuration)["messages"][-1]["content"][0]["response"] == {"result": "sunny in Rome"}
    assert second.content == "hello"
    assert counted(records) == 44
    assert len(provider.requests) == 2


async def test_function_calling_that_fails(both: Any, provider: Any, records: Any) -> None:
    """The second request's error is its own."""
    provider.reply(content=None, tool_calls=[("get_weather", {"city": "Rome"})])
    provider.reply(status=503)
    with pytest.raises(errors.ServerError):
        await ask(both, both.wrapped(), config=types.GenerateContentConfig(tools=[tool(both)]))
    assert [(r.kind, r.status) for r in records] == [("llm", "success"), ("tool", "success"), ("llm", "error")]


# --- a framework that says which of its calls runs ---


def framework_call() -> Any:
    return start_call("FrameworkModel", kind="llm", scope="everycall_langchain", model="gemini")


@stream_or_not
async def test_a_frameworks_call_is_the_record(
    stream: bool, both: Any, provider: Any, records: Any, value: Any
) -> None:
    """It learns what only the client knows: tokens, the answer's id, who answers. Its end is the framework's."""
    client = both.wrapped()
    call = framework_call()
    with active(call):
        await ask(both, client, stream)
    assert (records, call.ended) == ([], False)
    call.update(content="the framework's")
    call.end()
    (record,) = records
    assert (record.input_tokens, record.output_tokens, record.usage["reasoning"]) == (22, 189, 64)
    assert (record.content, record.model, record.provider) == ("the framework's", "gemini", "gcp.gemini")
    assert value(record.attributes) == {"gen_ai.response.id": "resp-1"}
    assert value(record.llm_configuration) is None


async def test_a_frameworks_request_that_fails(both: Any, provider: Any, records: Any) -> None:
    """The error is the framework's to record: it may try again."""
    provider.reply(status=500)
    call = framework_call()
    with active(call):
        with pytest.raises(errors.ServerError):
            await ask(both, both.wrapped())
        await ask(both, both.wrapped())
    assert not call.ended
    call.end()
    assert [(r.status, r.input_tokens) for r in records] == [("success", 22)]


async def test_an_embedding_within_a_frameworks_model_has_its_own_record(both: Any, records: Any) -> None:
    call = framework_call()
    with active(call):
        await both.wait(both.wrapped().models.embed_content(model="e", contents="a"))
    call.end()
    embedding, outer = records
    assert (embedding.kind, embedding.parent_id) == ("embedding", outer.inference_id)
    assert outer.input_tokens is None


async def test_a_call_below_a_frameworks_is_not_it(both: Any, records: Any) -> None:
    """A tool that runs within a model's run asks for itself."""
    call = framework_call()
    with active(call), everycall.span("tool", kind="tool"):
        await ask(both, both.wrapped())
    call.end()
    assert [(r.name, r.input_tokens) for r in records] == [(NAME, 22), ("tool", None), ("FrameworkModel", None)]


async def test_a_frameworks_omission_holds(both: Any, records: Any) -> None:
    call = start_call("FrameworkModel", kind="llm", scope="everycall_langchain", log_omit_outputs=True)
    with active(call):
        await ask(both, both.wrapped())
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
            return "over-google"

        def _result(self, answer: Any) -> ChatResult:
            return ChatResult(generations=[ChatGeneration(message=AIMessage(answer.text))])

        def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **_: Any) -> ChatResult:
            return self._result(self.client.models.generate_content(**ASKED))

        async def _agenerate(self, messages: Any, stop: Any = None, run_manager: Any = None, **_: Any) -> ChatResult:
            return self._result(await self.client.models.generate_content(**ASKED))

        def _stream(self, messages: Any, stop: Any = None, run_manager: Any = None, **_: Any) -> Any:
            for chunk in self.client.models.generate_content_stream(**ASKED):
                yield ChatGenerationChunk(message=AIMessageChunk(content=chunk.text or ""))

        async def _astream(self, messages: Any, stop: Any = None, run_manager: Any = None, **_: Any) -> Any:
            async for chunk in await self.client.models.generate_content_stream(**ASKED):
                yield ChatGenerationChunk(message=AIMessageChunk(content=chunk.text or ""))

    model = Model(client=both.wrapped())
    return model, {"callbacks": [handlers.CallbackHandler()]}


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


async def test_many_chains_at_once(both: Any, chains: Any, records: Any) -> None:
    model, config = chains
    answers = await model.abatch(["hi"] * 20, config) if both.is_async else model.batch(["hi"] * 20, config)
    assert [answer.content for answer in answers] == ["hello"] * 20
    assert [(r.name, r.scope) for r in records] == [("Model", "everycall_langchain")] * 20


async def test_langchain_without_a_handler_is_recorded_as_the_request(both: Any, chains: Any, records: Any) -> None:
    model, _ = chains
    await ask_chain(both, model)
    assert [(r.name, r.scope, r.input_tokens) for r in records] == [(NAME, "everycall_google", 22)]


# --- what runs while a request does ---


async def test_the_call_is_current_while_the_request_runs(both: Any, provider: Any, records: Any) -> None:
    """A span that the HTTP client's own instrumentation opens is below the request; nothing is attached after it."""

    def send(request: Any) -> None:
        with everycall.span("http", kind="tool"):
            pass

    async def send_later(request: Any) -> None:
        send(request)

    client = both.wrapped(settings={"hook": send_later if both.is_async else send})
    for stream in (False, True):
        records.clear()
        with everycall.span("outer"):
            await ask(both, client, stream)
            with everycall.span("after"):
                pass
        by_name = {record.name: record for record in records}
        assert by_name["http"].parent_id == by_name[NAME].inference_id
        assert by_name[NAME].parent_id == by_name["after"].parent_id == by_name["outer"].inference_id
