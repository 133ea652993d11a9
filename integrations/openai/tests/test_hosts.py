"""What hosts of OpenAI's protocol add to it, each by one example of its shape, whole and streamed."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

import openai
import pytest

from everycall.record import Record
from everycall_testkit.client_bench import Clients, content_of, decode
from everycall_testkit.provider import FakeProvider, Reply

REQUEST: dict[str, Any] = {"model": "m-1", "messages": [{"role": "user", "content": "hi"}]}
ABOUT = {"id": "c-1", "object": "chat.completion", "created": 1, "model": "m-1"}
USAGE = {"prompt_tokens": 7, "completion_tokens": 9, "total_tokens": 16}

both_ways = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])


def send(provider: FakeProvider, *chunks: dict[str, Any]) -> None:
    """Let the provider answer the next request with these chunks."""
    events = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks]
    body = "".join([*events, "data: [DONE]\n\n"]).encode()
    provider.reply(body=body, headers={"content-type": "text/event-stream"})


def chunk(delta: dict[str, Any], finish_reason: str | None = None, **others: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return {**ABOUT, "object": "chat.completion.chunk", "choices": [choice], **others}


async def ask(clients: Clients, stream: bool = False) -> Any:
    response = await clients.wait(clients.wrapped().chat.completions.create(**REQUEST, stream=stream))
    return await clients.all(response) if stream else response


async def test_parallel_calls_with_one_index(clients: Clients, provider: FakeProvider, records: list[Record]) -> None:
    """Gemini sends each whole, with index 0 and an id of its own."""

    def call(number: int, name: str, arguments: str) -> dict[str, Any]:
        function = {"name": name, "arguments": arguments}
        return {"tool_calls": [{"index": 0, "id": f"call_{number}", "type": "function", "function": function}]}

    send(
        provider,
        chunk({"role": "assistant", **call(1, "get_weather", '{"city": "Oslo"}')}),
        chunk(call(2, "get_time", '{"tz": "UTC"}'), "tool_calls"),
    )
    await ask(clients, stream=True)
    assert decode(records[0].output)["tool_calls"] == [
        {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": {"city": "Oslo"}}},
        {"id": "call_2", "type": "function", "function": {"name": "get_time", "arguments": {"tz": "UTC"}}},
    ]


@both_ways
async def test_content_in_parts(stream: bool, clients: Clients, provider: FakeProvider, records: list[Record]) -> None:
    """Mistral's content is a list once the model thinks; `content` has the text."""
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": "2 and 2"}]}
    text = {"type": "text", "text": "it is 4"}
    if stream:
        first = {"type": "thinking", "thinking": [{"type": "text", "text": "2 and"}]}
        second = {"type": "thinking", "thinking": [{"type": "text", "text": " 2"}]}
        send(provider, chunk({"content": [first]}), chunk({"content": [second]}), chunk({"content": "it is"}),
             chunk({"content": " 4"}, "stop"))  # fmt: skip
    else:
        message = {"role": "assistant", "content": [thinking, text]}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        provider.reply(body=json.dumps({**ABOUT, "choices": [choice]}).encode())
    await ask(clients, stream)
    assert records[0].content == "it is 4"
    assert decode(records[0].output) == {"role": "assistant", "content": [thinking, text]}


@both_ways
async def test_groqs_tools_and_its_counts_by_model(
    stream: bool, clients: Clients, provider: FakeProvider, records: list[Record]
) -> None:
    """A stream has a tool twice, the second time with its result, and the counts in `x_groq`."""
    started = {"index": 0, "type": "search", "arguments": '{"query": "storks"}'}
    tool = {**started, "output": "Storks fly.", "search_results": {"results": [{"url": "http://a.example"}]}}
    counts = {"usage": USAGE, "usage_breakdown": {"models": [{"model": "m-2", "usage": USAGE}]}}
    if stream:
        send(provider, chunk({"executed_tools": [started]}, x_groq={"id": "req-1"}), chunk({"executed_tools": [tool]}),
             chunk({"content": "ok"}), chunk({}, "stop", x_groq={"id": "req-1", **counts}))  # fmt: skip
    else:
        message = {"role": "assistant", "content": "ok", "executed_tools": [tool]}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        body = {**ABOUT, "choices": [choice], "x_groq": {"id": "req-1"}, **counts}
        provider.reply(body=json.dumps(body).encode())
    await ask(clients, stream)
    (record,) = records
    assert decode(record.output) == {"role": "assistant", "content": "ok", "executed_tools": [tool]}
    assert (record.input_tokens, record.output_tokens, record.total_tokens) == (7, 9, 16)
    attributes = decode(record.attributes)
    assert attributes["openai.response.usage_breakdown"] == counts["usage_breakdown"]
    assert attributes["openai.response.x_groq"] == {"id": "req-1"}


@both_ways
async def test_reasoning_details_without_reasoning(
    stream: bool, clients: Clients, provider: FakeProvider, records: list[Record]
) -> None:
    """OpenRouter's. An encrypted one is kept by reference."""
    secret = base64.b64encode(bytes(300)).decode()
    about = {"format": "openai-responses-v1", "index": 0}
    encrypted = {"type": "reasoning.encrypted", "data": secret, "id": "rs_1", **about}
    summary = {"type": "reasoning.summary", **about}
    if stream:
        send(provider, chunk({"reasoning_details": [{**summary, "summary": "plan"}]}),
             chunk({"reasoning_details": [{**summary, "summary": " it"}]}), chunk({"reasoning_details": [encrypted]}),
             chunk({"content": "ok"}, "stop"))  # fmt: skip
    else:
        details = [{**summary, "summary": "plan it"}, encrypted]
        choice = {"index": 0, "message": {"content": "ok", "reasoning_details": details}, "finish_reason": "stop"}
        provider.reply(body=json.dumps({**ABOUT, "choices": [choice]}).encode())
    await ask(clients, stream)
    reference = f"<base64, 300 bytes, sha256 {hashlib.sha256(bytes(300)).hexdigest()}>"
    assert decode(records[0].output)["reasoning_details"] == [
        {**summary, "summary": "plan it"},
        {**encrypted, "data": reference},
    ]


async def test_thinking_that_is_closed_is_one_part(
    clients: Clients, provider: FakeProvider, records: list[Record]
) -> None:
    first: dict[str, Any] = {"type": "thinking", "thinking": [{"type": "text", "text": "2 and"}]}
    last = {"type": "thinking", "thinking": [{"type": "text", "text": " 2"}], "closed": True}
    send(provider, chunk({"content": [first]}), chunk({"content": [last]}), chunk({"content": "4"}, "stop"))
    await ask(clients, stream=True)
    assert decode(records[0].output)["content"] == [
        {"type": "thinking", "thinking": [{"type": "text", "text": "2 and 2"}], "closed": True},
        {"type": "text", "text": "4"},
    ]


async def test_tokens_in_a_choice(clients: Clients, provider: FakeProvider, records: list[Record]) -> None:
    """Moonshot's streams have them there."""
    last = {"index": 0, "delta": {}, "finish_reason": "stop", "usage": USAGE}
    send(provider, chunk({"content": "ok"}), {**chunk({}), "choices": [last]})
    await ask(clients, stream=True)
    assert (records[0].input_tokens, records[0].output_tokens, records[0].total_tokens) == (7, 9, 16)


async def test_moderation_in_two_chunks(clients: Clients, provider: FakeProvider, records: list[Record]) -> None:
    before, after = {"input": {"flagged": True}}, {"output": {"flagged": False}}
    send(provider, {**ABOUT, "choices": [], "moderation": before}, chunk({"content": "ok"}, "stop"),
         {**ABOUT, "choices": [], "moderation": after})  # fmt: skip
    await ask(clients, stream=True)
    assert decode(records[0].attributes)["openai.response.moderation"] == {**before, **after}


@both_ways
async def test_members_of_a_response_outside_the_message(
    stream: bool, clients: Clients, provider: FakeProvider, records: list[Record]
) -> None:
    """Filter categories, moderation, seeds and times are attributes, empty ones and padding are not."""
    filters = {"hate": {"filtered": False, "severity": "safe"}}
    others = {"moderation": {"input": {"flagged": False}}, "provider": "WandB", "x_empty": {"a": ""}, "p": "abcdef"}
    usage = {**USAGE, "queue_time": 0.25}
    beside = {"content_filter_results": filters, "native_finish_reason": "completed", "seed": 12}
    if stream:
        choice = {"index": 0, "delta": {"content": "ok"}, "finish_reason": None, "content_filter_results": filters}
        last = {"index": 0, "delta": {}, "finish_reason": "stop", **beside}
        send(provider, {**ABOUT, "choices": [choice]}, {**ABOUT, "choices": [last]},
             {**ABOUT, "choices": [], "usage": usage, "x_empty": others["x_empty"], "p": others["p"]},
             {**ABOUT, "choices": [], "moderation": others["moderation"], "provider": "WandB"})  # fmt: skip
    else:
        choice = {"index": 0, "message": {"content": "ok"}, "finish_reason": "stop", **beside}
        provider.reply(body=json.dumps({**ABOUT, "choices": [choice], "usage": usage, **others}).encode())
    await ask(clients, stream)
    assert (records[0].content, decode(records[0].output)) == ("ok", None)
    assert decode(records[0].attributes) == {
        "gen_ai.response.id": "c-1",
        "gen_ai.response.finish_reasons": ["stop"],
        "openai.response.content_filter_results": filters,
        "openai.response.native_finish_reason": "completed",
        "openai.response.seed": 12,
        "openai.response.moderation": {"input": {"flagged": False}},
        "openai.response.provider": "WandB",
        "openai.usage.queue_time": 0.25,
    }


async def test_chunks_without_the_usual_members(
    clients: Clients, provider: FakeProvider, records: list[Record]
) -> None:
    """Some hosts leave out `object`, `created` or the id; what a chunk has is kept all the same."""
    choice: dict[str, Any] = {"index": 0, "delta": {"content": "o"}}
    last = {**choice, "delta": {"content": "k"}, "finish_reason": "stop"}
    send(provider, {"choices": [choice]}, {"choices": [last], "model": "m-2"}, {"choices": [], "usage": USAGE})
    await ask(clients, stream=True)
    assert [(r.content, r.model, r.input_tokens) for r in records] == [("ok", "m-2", 7)]


async def test_a_service_tier_in_a_late_chunk(clients: Clients, provider: FakeProvider, records: list[Record]) -> None:
    send(provider, chunk({"content": "ok"}, service_tier="auto"), chunk({}, "stop", service_tier="priority"))
    await ask(clients, stream=True)
    assert decode(records[0].attributes)["openai.response.service_tier"] == "priority"


# Errors


async def test_an_error_has_its_code(clients: Clients, provider: FakeProvider, records: list[Record]) -> None:
    """Its members are attributes: Groq's `failed_generation` is what the model had said."""
    error = {
        "message": "Failed to call a function",
        "type": "invalid_request_error",
        "code": "tool_use_failed",
        "failed_generation": "<function=look_up>",
    }
    provider.reply(status=400, body=json.dumps({"error": error}).encode())
    with pytest.raises(openai.BadRequestError):
        await ask(clients)
    assert content_of(records[0])["attributes"] == {
        "http.response.status_code": 400,
        "openai.error.type": "invalid_request_error",
        "openai.error.code": "tool_use_failed",
        "openai.error.failed_generation": "<function=look_up>",
    }


async def test_an_error_in_place_of_a_stream(clients: Clients, provider: FakeProvider, records: list[Record]) -> None:
    """The library finds no events in the JSON, and returns an empty stream."""
    provider.reply(body=json.dumps({"error": {"message": "no credit", "code": 402}}).encode())
    assert await ask(clients, stream=True) == []
    assert [(record.status, record.error) for record in records] == [("error", "402: no credit")]


@pytest.mark.parametrize("where", ["response", "choice"])
async def test_an_error_with_status_200(
    where: str, clients: Clients, provider: FakeProvider, records: list[Record]
) -> None:
    """OpenRouter's. The library raises nothing; the record is an error, with the tokens there are."""
    error = {"message": "Provider returned error", "code": 502, "metadata": {"provider_name": "Google"}}
    choice = {"index": 0, "message": {"content": "half"}, "finish_reason": "error", "error": error}
    response = {**ABOUT, "error": error} if where == "response" else {**ABOUT, "choices": [choice], "usage": USAGE}
    provider.reply(body=json.dumps(response).encode())
    await ask(clients)
    (record,) = records
    assert (record.status, record.error) == ("error", "502: Provider returned error")
    assert (record.content, record.input_tokens) == ((None, None) if where == "response" else ("half", 7))
    attributes = decode(record.attributes)
    assert attributes["openai.error.code"] == 502
    assert attributes["openai.error.metadata"] == {"provider_name": "Google"}


@both_ways
async def test_an_error_without_a_member_of_its_own(
    stream: bool, clients: Clients, provider: FakeProvider, records: list[Record]
) -> None:
    """vLLM's. The library raises nothing."""
    error = {"object": "error", "message": "out of memory", "type": "InternalServerError", "code": 500}
    if stream:
        send(provider, chunk({"content": "half"}), error)
    else:
        provider.reply(body=json.dumps(error).encode())
    await ask(clients, stream)
    (record,) = records
    assert (record.status, record.error) == ("error", "500: out of memory")
    assert record.content == ("half" if stream else None)
    attributes = decode(record.attributes)
    assert (attributes["openai.error.code"], attributes["openai.error.type"]) == (500, "InternalServerError")
    assert "openai.response.message" not in attributes


@pytest.mark.parametrize(
    "error", [{"error": {"message": "no", "code": 402}}, {"object": "error", "message": "no", "code": 402}]
)
async def test_errors_with_status_200_of_other_endpoints(
    error: dict[str, Any], clients: Clients, provider: FakeProvider, records: list[Record]
) -> None:
    client = clients.wrapped()
    provider.script(*[Reply(body=json.dumps(error).encode()) for _ in range(3)])
    await clients.wait(client.completions.create(model="m-1", prompt="hi"))
    await clients.all(await clients.wait(client.completions.create(model="m-1", prompt="hi", stream=True)))
    await clients.wait(client.embeddings.create(model="m-1", input="hi", encoding_format="float"))
    assert [(record.status, record.error) for record in records] == [("error", "402: no")] * 3


async def test_groqs_error_at_the_end_of_a_stream(
    clients: Clients, provider: FakeProvider, records: list[Record]
) -> None:
    last = {**ABOUT, "choices": [], "x_groq": {"id": "r", "error": "over_capacity"}}
    send(provider, chunk({"content": "half"}), last)
    await ask(clients, stream=True)
    assert (records[0].status, records[0].error, records[0].content) == ("error", "over_capacity", "half")


async def test_an_error_that_is_a_text(clients: Clients, provider: FakeProvider, records: list[Record]) -> None:
    """The library's message says only that there was one."""
    send(provider, chunk({"content": "half"}), {"error": "disk full"})
    with pytest.raises(openai.APIError):
        await ask(clients, stream=True)
    provider.reply(status=400, body=b'{"error": "disk full"}')
    with pytest.raises(openai.BadRequestError):
        await ask(clients)
    assert [decode(record.attributes)["openai.error.message"] for record in records] == ["disk full"] * 2


async def test_an_error_in_a_list(clients: Clients, provider: FakeProvider, records: list[Record]) -> None:
    """Gemini's on OpenAI's protocol."""
    error = {"code": 400, "message": "not a valid key", "status": "INVALID_ARGUMENT"}
    provider.reply(status=400, body=json.dumps([{"error": error}]).encode())
    with pytest.raises(openai.BadRequestError):
        await ask(clients)
    assert content_of(records[0])["attributes"] == {
        "http.response.status_code": 400,
        **{f"openai.error.{name}": value for name, value in error.items()},
    }


async def test_tokens_in_a_chunk_with_an_error(clients: Clients, provider: FakeProvider, records: list[Record]) -> None:
    """The library raises the error and drops the chunk; its tokens were billed."""
    failed = chunk({"content": ""}, "error", error={"message": "Token limit reached", "code": 400}, usage=USAGE)
    send(provider, chunk({"content": "half"}), failed)
    with pytest.raises(openai.APIError, match="Token limit reached"):
        await ask(clients, stream=True)
    (record,) = records
    assert (record.status, record.content) == ("error", "half")
    assert (record.input_tokens, record.output_tokens) == (7, 9)
    assert decode(record.attributes)["openai.error.code"] == 400
