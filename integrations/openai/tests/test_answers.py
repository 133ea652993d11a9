"""What a record keeps of requests and answers: tools, structured answers, media, reasoning, and token reports."""

from __future__ import annotations

import base64
import hashlib
import json
from importlib.util import find_spec
from typing import Any

import openai
import pydantic
import pytest

from everycall import limits
from everycall.integration import media_reference, usage_fields
from everycall.record import Record
from everycall_testkit.client_bench import Clients, decode
from everycall_testkit.provider import FakeProvider

MESSAGES = [{"role": "user", "content": "hi"}]
CHAT_REQUEST: dict[str, Any] = {"model": "gpt-4o", "messages": MESSAGES}
CALLS = [("weather", {"city": "Rome"}), ("time", {"zone": "CET"})]
ASSISTANT_MESSAGE = {
    "role": "assistant",
    "content": "let me see",
    "tool_calls": [
        {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": {"city": "Rome"}}},
        {"id": "call_2", "type": "function", "function": {"name": "time", "arguments": {"zone": "CET"}}},
    ],
}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
PNG = b"\x89PNG" + bytes(range(256)) * 4
PICTURE = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
PICTURE_REFERENCE = f"<image/png, 1028 bytes, sha256 {hashlib.sha256(PNG).hexdigest()}>"
has_responses = pytest.mark.skipif(
    find_spec("openai.resources.responses") is None, reason="this version has no Responses API"
)


async def ask(clients: Clients, client: Any, stream: bool, **more: Any) -> None:
    answer = await clients.wait(client.chat.completions.create(**{**CHAT_REQUEST, **more}, stream=stream))
    if stream:
        await clients.all(answer)


@pytest.mark.parametrize("stream", [False, True])
async def test_tool_calls(stream: bool, clients: Clients, provider: FakeProvider, records: list[Record]) -> None:
    """A message has its tool calls, with their arguments as objects, streamed or not."""
    provider.reply(content="let me see", tool_calls=CALLS)
    await ask(clients, clients.wrapped(), stream, tools=[TOOL], tool_choice="auto")
    configuration = decode(records[0].llm_configuration)
    assert (configuration["functions"], configuration["function_call"]) == ([TOOL["function"]], "auto")
    assert (decode(records[0].output), records[0].content) == (ASSISTANT_MESSAGE, "let me see")
    assert decode(records[0].attributes)["gen_ai.response.finish_reasons"] == ["tool_calls"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_refusal(stream: bool, clients: Clients, provider: FakeProvider, records: list[Record]) -> None:
    provider.reply(content=None, refusal="I will not")
    await ask(clients, clients.wrapped(), stream)
    assert decode(records[0].output) == {"role": "assistant", "content": None, "refusal": "I will not"}
    assert (records[0].status, records[0].content) == ("success", None)


@pytest.mark.parametrize("stream", [False, True])
async def test_reasoning_of_other_hosts(
    stream: bool, clients: Clients, provider: FakeProvider, records: list[Record]
) -> None:
    """DeepSeek, vLLM and others send it beside the content."""
    provider.reply(message={"reasoning_content": "hm"})
    await ask(clients, clients.wrapped(), stream)
    assert decode(records[0].output) == {"role": "assistant", "content": "hello", "reasoning_content": "hm"}


@pytest.mark.parametrize("stream", [False, True])
async def test_several_choices(stream: bool, clients: Clients, provider: FakeProvider, records: list[Record]) -> None:
    await ask(clients, clients.wrapped(), stream, n=3)
    assert decode(records[0].output) == [{"role": "assistant", "content": "hello"}] * 3
    assert decode(records[0].attributes)["gen_ai.response.finish_reasons"] == ["stop"] * 3
    assert (records[0].content, records[0].output_tokens) == ("hello", 189)


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_cut_at_its_limit(
    stream: bool, clients: Clients, provider: FakeProvider, records: list[Record]
) -> None:
    provider.reply(finish="length")
    await ask(clients, clients.wrapped(), stream)
    assert decode(records[0].attributes)["gen_ai.response.finish_reasons"] == ["length"]
    assert records[0].status == "success"


async def test_a_spoken_answer(clients: Clients, provider: FakeProvider, records: list[Record]) -> None:
    """The transcript is kept; the sound by reference, in a stream too, whose pieces are cut anywhere."""
    sound = bytes(range(256)) * 3
    audio = {"id": "audio_1", "data": base64.b64encode(sound).decode(), "transcript": "hello", "expires_at": 1}
    provider.default.content, provider.default.message = None, {"audio": audio}
    client = clients.wrapped()
    parameters = {"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "wav"}}
    await ask(clients, client, False, extra_body=parameters)
    await ask(clients, client, True)
    reference = f"<audio, 768 bytes, sha256 {hashlib.sha256(sound).hexdigest()}>"
    whole, streamed = (decode(record.output)["audio"] for record in records)
    assert decode(records[0].llm_configuration)["model_params"] == parameters
    assert whole == {"id": "audio_1", "transcript": "hello", "data": reference, "expires_at": 1}
    assert streamed == whole


async def test_media_are_shown_by_reference(clients: Clients, provider: FakeProvider, records: list[Record]) -> None:
    """The request is sent unchanged. The record has no base64; the hash identifies the file."""
    sound = base64.b64encode(PNG).decode()
    parts = [
        {"type": "text", "text": "what is this?"},
        {"type": "image_url", "image_url": {"url": PICTURE, "detail": "low"}},
        {"type": "image_url", "image_url": {"url": "https://example.com/stork.png"}},
        {"type": "input_audio", "input_audio": {"data": sound, "format": "wav"}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": PICTURE.replace("image/png", "application/pdf")}},
    ]
    await ask(clients, clients.wrapped(), False, messages=[{"role": "user", "content": parts}])
    assert provider.requests[0].messages == [{"role": "user", "content": parts}]
    digest = hashlib.sha256(PNG).hexdigest()
    assert decode(records[0].llm_configuration)["messages"][0]["content"] == [
        parts[0],
        {"type": "image_url", "image_url": {"url": PICTURE_REFERENCE, "detail": "low"}},
        parts[2],
        {"type": "input_audio", "input_audio": {"data": f"<audio/wav, 1028 bytes, sha256 {digest}>", "format": "wav"}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": f"<application/pdf, 1028 bytes, sha256 {digest}>"}},
    ]


def test_references() -> None:
    """Media too large to hash are kept by size. Text that is not base64 stays as it is."""
    large = "data:image/png;base64," + "A" * (limits.MEDIA_HASH_BYTES_MAX * 4 // 3 + 8)
    assert media_reference(large) == f"<image/png, {(len(large) - 22) * 3 // 4} bytes>"
    assert media_reference("data:text/plain,hello") == "data:text/plain,hello"
    assert media_reference("data:;base64,aGk=").startswith("<text/plain, 2 bytes, sha256 8f4343")
    assert media_reference("data:image/png;base64,a") == "<image/png, not base64>"
    assert media_reference("café") == "café"


async def test_only_known_parameters_are_kept(clients: Clients, provider: FakeProvider, records: list[Record]) -> None:
    """A body may have keys, such as those of Azure's data sources."""
    secret = {"data_sources": [{"parameters": {"authentication": {"key": "canary"}}}], "top_k": 5}
    await ask(clients, clients.wrapped(), False, temperature=0.0, user="u-7", seed=1, extra_body=secret)
    assert provider.requests[0].body["data_sources"] == secret["data_sources"]
    assert decode(records[0].llm_configuration)["model_params"] == {
        "temperature": 0.0,
        "user": "u-7",
        "seed": 1,
        "top_k": 5,
    }
    assert b"canary" not in bytes(records[0].llm_configuration)


async def test_inputs_are_kept_as_they_were(clients: Clients, provider: FakeProvider, records: list[Record]) -> None:
    """Changes that the program makes to its messages later are not in the record."""
    messages = [{"role": "user", "content": "before"}]
    stream = await clients.wait(
        clients.wrapped().chat.completions.create(model="gpt-4o", messages=messages, stream=True)
    )
    messages[0]["content"] = "after"
    messages.append({"role": "user", "content": "more"})
    await clients.all(stream)
    assert decode(records[0].llm_configuration)["messages"] == [{"role": "user", "content": "before"}]


async def test_the_librarys_own_messages(clients: Clients, provider: FakeProvider, records: list[Record]) -> None:
    """An answer put back among the messages is read like any other message."""
    provider.reply(content=None, tool_calls=CALLS[:1])
    client = clients.wrapped()
    answer = await clients.wait(client.chat.completions.create(**CHAT_REQUEST))
    back = [*MESSAGES, answer.choices[0].message, {"role": "tool", "tool_call_id": "call_1", "content": "sunny"}]
    await clients.wait(client.chat.completions.create(model="gpt-4o", messages=back))
    sent_messages = decode(records[1].llm_configuration)["messages"]
    assert [message["role"] for message in sent_messages] == ["user", "assistant", "tool"]
    assert sent_messages[1]["tool_calls"][0]["function"] == {"name": "weather", "arguments": '{"city": "Rome"}'}


async def test_an_answer_that_does_not_fit_its_format(
    clients: Clients, provider: FakeProvider, records: list[Record], chat_helpers: Any
) -> None:
    """`parse` raises; the answer, which was paid for, is recorded."""

    class Answer(pydantic.BaseModel):
        city: str

    provider.reply(content='{"city": "Ro', finish="length")
    with pytest.raises(openai.LengthFinishReasonError):
        await clients.wait(chat_helpers(clients.wrapped()).parse(**CHAT_REQUEST, response_format=Answer))
    assert (records[0].content, records[0].input_tokens, records[0].output_tokens) == ('{"city": "Ro', 22, 189)
    # `parse` was not yet part of the request in the first versions: there the request is a success
    assert records[0].error_type in ("openai.LengthFinishReasonError", None)
    assert len(records) == 1


# --- legacy completions ---


async def test_several_prompts(clients: Clients, provider: FakeProvider, records: list[Record]) -> None:
    client = clients.wrapped()
    await clients.wait(client.completions.create(model="davinci", prompt=["a", "b"]))
    await clients.wait(client.completions.create(model="davinci", prompt=[15, 16]))
    first, second = records
    assert decode(first.llm_configuration)["messages"] == [
        {"role": "user", "content": "a"},
        {"role": "user", "content": "b"},
    ]
    assert (first.content, decode(first.output)) == ("hello", ["hello", "hello"])
    assert decode(second.llm_configuration)["messages"] == [{"role": "user", "content": [15, 16]}]
    assert (second.content, decode(second.output)) == ("hello", None)


# --- the Responses API ---


@has_responses
@pytest.mark.parametrize("stream", [False, True])
async def test_a_response_with_tool_calls(
    stream: bool, clients: Clients, provider: FakeProvider, records: list[Record]
) -> None:
    provider.reply(content="let me see", tool_calls=CALLS[:1])
    tool = {"type": "function", "name": "weather", "parameters": {"type": "object"}, "strict": False}
    messages = [{"role": "user", "content": [{"type": "input_image", "image_url": PICTURE, "detail": "low"}]}]
    client = clients.wrapped()
    answer = await clients.wait(
        client.responses.create(model="gpt-4o", input=messages, instructions="be brief", tools=[tool], stream=stream)
    )
    if stream:
        await clients.all(answer)
    configuration = decode(records[0].llm_configuration)
    assert configuration["messages"] == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [{"type": "input_image", "image_url": PICTURE_REFERENCE, "detail": "low"}]},
    ]
    assert configuration["functions"] == [tool]
    message, call = decode(records[0].output)
    assert message["content"][0]["text"] == records[0].content == "let me see"
    assert (call["type"], call["name"], json.loads(call["arguments"])) == ("function_call", "weather", CALLS[0][1])


@has_responses
@pytest.mark.parametrize("stream", [False, True])
async def test_a_response_that_failed(
    stream: bool, clients: Clients, provider: FakeProvider, records: list[Record]
) -> None:
    """The library raises nothing. The record is an error, because the model gave no answer."""
    provider.reply(finish="failed", error="the model broke")
    answer = await clients.wait(clients.wrapped().responses.create(model="gpt-4o", input="hi", stream=stream))
    if stream:
        assert (await clients.all(answer))[-1].type == "response.failed"
    assert [(r.status, r.error, r.input_tokens) for r in records] == [("error", "server_error: the model broke", None)]


@has_responses
@pytest.mark.parametrize("stream", [False, True])
async def test_a_response_that_is_incomplete(
    stream: bool, clients: Clients, provider: FakeProvider, records: list[Record]
) -> None:
    provider.reply(finish="incomplete")
    answer = await clients.wait(clients.wrapped().responses.create(model="gpt-4o", input="hi", stream=stream))
    if stream:
        await clients.all(answer)
    assert (records[0].status, records[0].content, records[0].output_tokens) == ("success", "hello", 189)
    assert decode(records[0].attributes)["gen_ai.response.finish_reasons"] == ["max_output_tokens"]


@has_responses
@pytest.mark.parametrize("stream", [False, True])
async def test_a_response_that_refuses(
    stream: bool, clients: Clients, provider: FakeProvider, records: list[Record]
) -> None:
    provider.reply(refusal="I will not")
    answer = await clients.wait(clients.wrapped().responses.create(model="gpt-4o", input="hi", stream=stream))
    if stream:
        await clients.all(answer)
    assert decode(records[0].output)[0]["content"] == [{"type": "refusal", "refusal": "I will not"}]
    assert records[0].content is None


@has_responses
async def test_a_refusal_that_is_interrupted(clients: Clients, provider: FakeProvider, records: list[Record]) -> None:
    reply = provider.reply(refusal="I will not", tool_calls=CALLS[:1], pause_after=1)
    stream = await clients.wait(clients.wrapped().responses.create(model="gpt-4o", input="hi", stream=True))
    while (await clients.next(stream)).type != "response.refusal.delta":
        pass
    await clients.wait(stream.close())
    reply.go.set()
    message = {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed"}
    items = [{**message, "content": [{"type": "refusal", "refusal": "I will not"}]}]
    assert (decode(records[0].output), records[0].error_type) == (items, "abandoned")


# --- tokens ---

CHAT = {"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150}
REPORTS = {
    "chat, in all its parts": (
        {
            **CHAT,
            "prompt_tokens_details": {"cached_tokens": 40, "cache_write_tokens": 5, "audio_tokens": 7},
            "completion_tokens_details": {"reasoning_tokens": 30, "audio_tokens": 3, "accepted_prediction_tokens": 1},
        },
        (100, 50, 150),
        {"cached": 40, "cache_write": 5, "reasoning": 30, "input_audio": 7, "output_audio": 3},
    ),
    "a measured zero is no unknown": (
        {**CHAT, "prompt_tokens_details": {"cached_tokens": 0}, "completion_tokens_details": None},
        (100, 50, 150),
        {"cached": 0},
    ),
    "responses": (
        {
            "input_tokens": 100,
            "input_tokens_details": {"cached_tokens": 40},
            "output_tokens": 50,
            "output_tokens_details": {"reasoning_tokens": 30},
            "total_tokens": 150,
        },
        (100, 50, 150),
        {"cached": 40, "reasoning": 30},
    ),
    "xAI counts reasoning beside the completion": (
        {**CHAT, "total_tokens": 180, "completion_tokens_details": {"reasoning_tokens": 30}},
        (100, 80, 180),
        {"reasoning": 30},
    ),
    "DeepSeek names its cache": (
        {**CHAT, "prompt_cache_hit_tokens": 64, "prompt_cache_miss_tokens": 36},
        (100, 50, 150),
        {"cached": 64},
    ),
    "nothing that is a count": (
        {"prompt_tokens": None, "completion_tokens": "50", "total_tokens": -1, "prompt_tokens_details": []},
        (None, None, None),
        {},
    ),
    "no total": ({"prompt_tokens": 3, "completion_tokens": 4}, (3, 4, 7), {}),
}


@pytest.mark.parametrize(("usage", "counts", "parts"), REPORTS.values(), ids=REPORTS.keys())
def test_reports_of_tokens(usage: dict[str, Any], counts: tuple[Any, ...], parts: dict[str, int]) -> None:
    """Input includes cached tokens, output includes reasoning; a count that is not reported is missing."""
    fields = usage_fields(usage)
    assert (fields.get("input_tokens"), fields.get("output_tokens"), fields.get("total_tokens")) == counts
    assert fields.get("usage", {}) == parts


@pytest.mark.parametrize("stream", [False, True])
async def test_a_charge_that_the_provider_states(
    stream: bool, clients: Clients, provider: FakeProvider, records: list[Record]
) -> None:
    provider.reply(usage={**CHAT, "cost": 0.0146, "is_byok": False})
    await ask(clients, clients.wrapped(), stream)
    assert (records[0].cost, records[0].cost_source, records[0].input_tokens) == (0.0146, "provider", 100)


@has_responses
@pytest.mark.parametrize("stream", [False, True])
async def test_searches_of_a_response(
    stream: bool, clients: Clients, provider: FakeProvider, records: list[Record]
) -> None:
    """Their number stands beside the usage."""
    search = {
        "type": "web_search_call",
        "id": "ws_1",
        "status": "completed",
        "action": {"type": "search", "query": "q"},
    }
    response = {
        "id": "resp_1",
        "object": "response",
        "created_at": 1,
        "model": "gpt-5",
        "status": "completed",
        "output": [search],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": {
            "input_tokens": 100,
            "output_tokens": 50,
            "total_tokens": 150,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens_details": {"reasoning_tokens": 0},
        },
        "tool_usage": {"web_search": {"num_requests": 2}},
    }
    event = {"type": "response.completed", "sequence_number": 0, "response": response}
    body = f"event: response.completed\ndata: {json.dumps(event)}\n\n" if stream else json.dumps(response)
    kind = "text/event-stream" if stream else "application/json"
    provider.reply(body=body.encode(), headers={"content-type": kind})
    answer = await clients.wait(clients.wrapped().responses.create(model="gpt-5", input="hi", stream=stream))
    if stream:
        await clients.all(answer)
    assert records[0].usage == {"cached": 0, "reasoning": 0, "web_searches": 2}


@pytest.mark.parametrize("stream", [False, True])
async def test_no_report_of_tokens(
    stream: bool, clients: Clients, provider: FakeProvider, records: list[Record]
) -> None:
    """Unknown, not 0."""
    provider.reply(usage=None)
    await ask(clients, clients.wrapped(), stream)
    assert (records[0].input_tokens, records[0].output_tokens, records[0].total_tokens) == (None, None, None)
    assert records[0].usage == {}


async def test_groqs_report_in_a_stream(clients: Clients, provider: FakeProvider, records: list[Record]) -> None:
    """It comes in a chunk without choices, also if it was not requested."""
    body = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "llama"}
    last = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "x_groq": {"usage": CHAT}}
    provider.reply(body=f"data: {json.dumps({**body, **last})}\n\ndata: [DONE]\n\n".encode())
    await ask(clients, clients.wrapped(provider="groq"), True)
    assert (records[0].input_tokens, records[0].output_tokens) == (100, 50)


async def test_a_very_long_answer_is_cut_and_marked(
    clients: Clients, provider: FakeProvider, records: list[Record]
) -> None:
    provider.reply(pieces=["x" * 300_000] * 5)
    await ask(clients, clients.wrapped(), True)
    assert len(str(records[0].content)) <= limits.FIELD_BYTES_MAX
    assert "content" in records[0].truncated
