"""LangChain's model over an instrumented client: one request is one record, with what both sides know."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from langchain_core.output_parsers import StrOutputParser
from langchain_core.runnables import RunnableConfig, RunnableLambda

import everycall
from everycall_langchain import CallbackHandler
from everycall_langchain._runs import RUNS

openai = pytest.importorskip("openai")
langchain_openai = pytest.importorskip("langchain_openai", reason="langchain-openai is not installed")
everycall_openai = pytest.importorskip("everycall_openai")

HANDLER: RunnableConfig = {"callbacks": [CallbackHandler()]}


@pytest.fixture(autouse=True)
def instrumented() -> Iterator[None]:
    """Every client of the package is recorded."""
    everycall_openai.instrument(provider="openai")
    yield
    everycall_openai.uninstrument()
    assert len(RUNS.by_key) == 0
    assert RUNS.models == {}


@pytest.fixture(params=[{}, {"use_responses_api": True}], ids=["chat", "responses"])
async def model(request: pytest.FixtureRequest, provider: Any) -> AsyncIterator[Any]:
    async with openai.DefaultAsyncHttpxClient(verify=False) as later:
        with openai.DefaultHttpxClient(verify=False) as http:
            yield langchain_openai.ChatOpenAI(
                model="gpt-4o",
                base_url=provider.base_url,
                api_key="k",
                max_retries=0,
                http_client=http,
                http_async_client=later,
                **request.param,
            )


def tokens(records: list[Any]) -> tuple[int, int]:
    """Return the tokens of a trace, as the server sums them: those of its models and embeddings."""
    leaves = [record for record in records if record.kind in ("llm", "embedding")]
    return sum(r.input_tokens or 0 for r in leaves), sum(r.output_tokens or 0 for r in leaves)


async def test_one_request_is_one_record(run: Any, model: Any, tree: Any, provider: Any, value: Any) -> None:
    with everycall.span("around"):
        await run(model | StrOutputParser(), "hi", HANDLER)
    assert len(provider.requests) == 1
    (record,) = tree.of_kind("llm")
    assert tree.path(record) == ["around", "RunnableSequence", "ChatOpenAI"]
    assert (record.scope, record.provider, record.model) == ("everycall_langchain", "openai", "gpt-4o-2024-08-06")
    assert (record.content, record.input_tokens, record.output_tokens) == ("hello", 22, 189)
    assert (record.usage["cached"], record.usage["reasoning"]) == (10, 64)
    assert value(record.attributes)["gen_ai.response.id"] in ("chatcmpl-1", "resp_1")
    assert tokens(tree.records) == (22, 189)


async def test_one_request_of_the_model_alone(run: Any, model: Any, tree: Any, provider: Any) -> None:
    await run(model, "hi", HANDLER)
    assert [(record.name, record.scope) for record in tree.records] == [("ChatOpenAI", "everycall_langchain")]
    assert tokens(tree.records) == (22, 189)


async def test_without_a_handler_the_request_is_the_record(model: Any, tree: Any) -> None:
    model.invoke("hi")
    await model.ainvoke("hi")
    assert [(record.scope, record.input_tokens) for record in tree.records] == [("everycall_openai", 22)] * 2


async def test_a_failed_request(model: Any, tree: Any, provider: Any) -> None:
    provider.reply(status=500)
    with pytest.raises(openai.InternalServerError):
        await model.ainvoke("hi", HANDLER)
    (record,) = tree.records
    assert (record.status, record.scope, record.input_tokens) == ("error", "everycall_langchain", None)


async def test_beside_another_request_of_the_same_step(model: Any, tree: Any, provider: Any) -> None:
    """With another client in the step that calls the model, both requests count."""
    with openai.OpenAI(
        base_url=provider.base_url, api_key="k", http_client=openai.DefaultHttpxClient(verify=False)
    ) as client:

        def step(x: Any) -> Any:
            client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "first"}])
            return model.invoke(x)

        await RunnableLambda(step).ainvoke("hi", HANDLER)
    assert len(provider.requests) == 2
    assert sorted(tree.path(record) for record in tree.of_kind("llm")) == [
        ["step", "ChatOpenAI"],
        ["step", "chat gpt-4o"],
    ]
    assert tokens(tree.records) == (44, 378)


async def test_embeddings_have_records_of_their_own(tree: Any, provider: Any) -> None:
    """LangChain has no callbacks for embeddings."""
    with openai.DefaultHttpxClient(verify=False) as http:
        embeddings = langchain_openai.OpenAIEmbeddings(
            model="text-embedding-3-small",
            base_url=provider.base_url,
            api_key="k",
            check_embedding_ctx_length=False,
            http_client=http,
        )
        RunnableLambda(lambda x: embeddings.embed_query(x), name="step").invoke("hi", HANDLER)
    (record,) = tree.of_kind("embedding")
    assert tree.path(record)[0] == "step"
    assert record.input_tokens == 7
