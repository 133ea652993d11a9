"""Answers of OpenAI and of servers that call themselves compatible, as they were reported: nothing of them is lost."""

from __future__ import annotations

import json
from typing import Any

import pytest

from everycall.server.gateway.formats.openai_chat import OpenAIChat
from everycall.server.gateway.formats.openai_response import ChatStreamParser, read_response
from everycall.server.gateway.provider_errors import http_error
from everycall.server.gateway.provider_request import ProviderRequest
from everycall.server.gateway.provider_response import ProviderError, ProviderResponse
from everycall.server.gateway.providers import ProviderClient
from everycall.server.provider_settings import ProviderSettings

USAGE = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}


def request(model: str = "m", functions: Any = (), **params: Any) -> ProviderRequest:
    return ProviderRequest("local", model, params, [{"role": "user", "content": "hi"}], functions, None)


def chat(message: Any, finish: str | None = "stop", **body: Any) -> dict[str, Any]:
    choice = {"index": 0, "finish_reason": finish, **({"message": message} if message is not None else {})}
    return {"id": "c1", "model": "m", "choices": [choice], "usage": USAGE, **body}


def read(body: dict[str, Any]) -> ProviderResponse:
    return read_response(body, request(), "local")


def stream(*deltas: dict[str, Any], finish: str = "stop", **last: Any) -> tuple[list[str], ProviderResponse]:
    """Return the texts of a stream, and the response that it is."""
    parser = ChatStreamParser(request(), "local")
    chunks = [{"id": "c1", "choices": [{"index": 0, "delta": delta}]} for delta in deltas]
    chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}], **last})
    texts = [parser.feed(json.dumps(chunk).encode()) for chunk in chunks]
    texts.append(parser.end())
    assert parser.finished
    return [text for text in texts if text], parser.response()


def calls_of(response: ProviderResponse) -> list[tuple[str, Any]]:
    calls = [part["function"] for part in response.output or () if part.get("type") == "function"]
    return [(call["name"], call["arguments"]) for call in calls]


# --- errors inside a response ---


@pytest.mark.parametrize(
    ("error", "summary", "is_transient"),
    [
        ({"message": "slow down", "code": 429}, "RateLimitError (429)", True),
        ({"message": "slow down", "code": "429"}, "RateLimitError (429)", True),
        ({"message": "upstream", "code": 502}, "InternalServerError (502)", True),
        ({"message": "upstream", "code": 424}, "APIStatusError (424)", True),
        ({"message": "no credit", "code": 402}, "APIStatusError (402)", False),
        ({"message": "no", "type": "invalid_request_error", "code": None}, "ResponseError", False),
        ({"message": "overloaded", "type": "server_error"}, "ResponseError", True),
        ("out of memory", "ResponseError", True),
    ],
)
def test_an_error_with_status_200_is_what_its_code_says(error: Any, summary: str, is_transient: bool) -> None:
    for body in ({"error": error}, {**chat({"content": ""}), "error": error}, {"choices": None, "error": error}):
        with pytest.raises(ProviderError) as raised:
            read(body)
        assert (raised.value.summary, raised.value.is_transient) == (summary, is_transient)
        assert (error if isinstance(error, str) else error["message"]) in raised.value.message
    parser = ChatStreamParser(request(), "local")
    with pytest.raises(ProviderError) as streamed:
        parser.feed(json.dumps({"error": error}).encode())
    assert streamed.value.is_transient is is_transient


def test_a_finish_reason_may_be_an_error() -> None:
    choice = {"index": 0, "finish_reason": "error", "error": {"code": 502, "message": "overloaded"}, "message": {}}
    with pytest.raises(ProviderError, match="InternalServerError"):
        read({"choices": [choice]})
    with pytest.raises(ProviderError, match="InternalServerError"):
        ChatStreamParser(request(), "local").feed(json.dumps({"choices": [choice]}).encode())


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"object": "error", "message": "too long", "code": 400}, "too long"),
        ({"type": "error", "error": {"type": "overloaded_error", "message": "busy"}}, "busy"),
        ({"choices": None, "base_resp": {"status_code": 1002, "status_msg": "rate limit"}}, "rate limit"),
        ({"choices": [{"index": 0, "finish_reason": "network_error", "delta": {}, "message": {}}]}, "network_error"),
    ],
    ids=["vLLM", "Anthropic's", "MiniMax", "GLM"],
)
def test_errors_of_other_servers_are_errors(body: dict[str, Any], message: str) -> None:
    for read_it in (read, lambda one: ChatStreamParser(request(), "local").feed(json.dumps(one).encode())):
        with pytest.raises(ProviderError) as raised:
            read_it(body)
        assert message in raised.value.message
    assert read({**chat({"content": "4"}), "base_resp": {"status_code": 0, "status_msg": ""}}).content == "4"


def test_what_the_provider_behind_a_router_said_is_kept() -> None:
    error = {"message": "Provider returned error", "code": 429, "metadata": {"raw": "quota of the region"}}
    with pytest.raises(ProviderError) as raised:
        read({"error": error})
    assert raised.value.message == "Provider returned error: quota of the region"


def test_a_filtered_choice_without_a_message_is_an_answer_with_its_tokens() -> None:
    response = read(chat(None, "content_filter"))
    assert (response.content, response.finish_reasons, response.tokens.total) == ("", ["content_filter"], 7)
    assert not response.is_complete(has_limit=True)


# --- what is beside the text ---


@pytest.mark.parametrize(
    "message",
    [
        {"content": "4", "reasoning_content": "2+2"},
        {"content": "4", "reasoning": "2+2"},
        {
            "content": [
                {"type": "thinking", "thinking": [{"type": "text", "text": "2+2"}]},
                {"type": "text", "text": "4"},
            ]
        },
    ],
    ids=["reasoning_content", "reasoning", "thinking"],
)
def test_reasoning_is_kept(message: dict[str, Any]) -> None:
    expected = [{"type": "reasoning", "text": "2+2"}, {"type": "text", "text": "4"}]
    assert (read(chat(message)).content, read(chat(message)).output) == ("4", expected)
    texts, response = stream(message)
    assert (texts, response.output) == (["4"], expected)


def test_reasoning_comes_in_pieces_and_is_not_streamed_as_text() -> None:
    texts, response = stream({"reasoning": "2"}, {"reasoning": "+2"}, {"content": "4"})
    assert texts == ["4"]
    assert response.output == [{"type": "reasoning", "text": "2+2"}, {"type": "text", "text": "4"}]


@pytest.mark.parametrize("name", ["annotations", "images", "executed_tools"])
def test_other_members_of_a_message_are_kept(name: str) -> None:
    value = [{"type": "x", "url": "https://example.com"}]
    expected = [{"type": name, name: value}, {"type": "text", "text": "4"}]
    assert read(chat({"content": "4", name: value})).output == expected
    assert stream({"content": "4"}, {name: value})[1].output == expected


def test_further_choices_and_sources_are_kept() -> None:
    body = chat({"content": "4"}, citations=["https://example.com"])
    body["choices"].append({"index": 1, "message": {"content": "four"}})
    output = read(body).output or []
    assert {"type": "citations", "citations": ["https://example.com"]} in output
    assert {"type": "choice", "choice": body["choices"][1]} in output


def test_the_signature_of_a_thought_beside_a_call_is_kept_in_the_output_alone() -> None:
    signature = {"extra_content": {"google": {"thought_signature": "c2ln"}}}
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    expected = {**call, "function": {"name": "f", "arguments": {}}}
    for response in (
        read(chat({"content": None, "tool_calls": [{**call, **signature}]})),
        stream({"tool_calls": [{**call, **signature, "index": 0}]})[1],
    ):
        assert response.output == [{**expected, **signature}]
        assert json.loads(response.content) == [expected]


SAFE = {"hate": {"filtered": False, "severity": "safe"}, "jailbreak": {"filtered": False, "detected": False}}
PROMPT = [{"prompt_index": 0, "content_filter_results": SAFE}]


@pytest.mark.parametrize("name", ["content_filter_results", "content_filter_result"])
def test_the_verdicts_of_azures_filter_are_kept(name: str) -> None:
    body = chat({"content": "4"}, prompt_filter_results=PROMPT)
    body["choices"][0][name] = SAFE
    expected = [
        {"type": "prompt_filter_results", "prompt_filter_results": PROMPT},
        {"type": name, name: SAFE},
        {"type": "text", "text": "4"},
    ]
    assert (read(body).content, read(body).output) == ("4", expected)
    parser = ChatStreamParser(request(), "azure")
    parser.feed(json.dumps({"id": "", "choices": [], "prompt_filter_results": PROMPT}).encode())
    assert not parser.has_begun  # a fallback may still answer
    for delta, verdicts in (({"content": "4"}, SAFE), ({}, {})):
        choice = {"index": 0, "delta": delta, name: verdicts}
        parser.feed(json.dumps({"id": "c1", "choices": [choice]}).encode())
    assert parser.response().output == expected


def test_the_severest_verdict_on_the_pieces_of_a_stream_is_kept() -> None:
    verdicts: list[dict[str, dict[str, Any]]] = [
        {"hate": {"filtered": False, "severity": "safe"}, "sexual": {"filtered": False, "severity": "low"}},
        {"hate": {"filtered": True, "severity": "medium"}, "sexual": {"filtered": False, "severity": "safe"}},
        {"hate": {"filtered": False, "severity": "high"}, "protected_material_code": {"detected": True}},
    ]
    parser = ChatStreamParser(request(), "azure")
    for one in verdicts:
        choice = {"index": 0, "delta": {"content": "a"}, "content_filter_results": one}
        parser.feed(json.dumps({"choices": [choice]}).encode())
    part = (parser.response().output or [])[0]
    assert part["content_filter_results"] == {
        "hate": verdicts[1]["hate"], "sexual": verdicts[0]["sexual"], "protected_material_code": {"detected": True}
    }  # fmt: skip


def test_a_filtered_choice_without_a_message_keeps_its_verdict() -> None:
    body = chat(None, "content_filter")
    body["choices"][0]["content_filter_results"] = SAFE
    response = read(body)
    assert response.output == [{"type": "content_filter_results", "content_filter_results": SAFE}]
    assert (response.content, response.tokens.total) == ("", 7)


def test_the_error_of_a_filtered_prompt_names_the_categories() -> None:
    verdicts = {**SAFE, "violence": {"filtered": True, "severity": "medium"}, "jailbreak": {"detected": True}}
    error = {"message": "The prompt was filtered.", "code": "content_filter", "status": 400,
             "innererror": {"code": "ResponsibleAIPolicyViolation", "content_filter_result": verdicts}}  # fmt: skip
    refusal = http_error(400, {}, json.dumps({"error": error}).encode())
    assert refusal.message == "The prompt was filtered. (filtered: jailbreak, violence medium)"
    assert refusal.code == "content_filter"


def test_groqs_usage_has_a_place_of_its_own() -> None:
    _, response = stream({"content": "4"}, x_groq={"id": "r", "usage": USAGE})
    assert (response.tokens.input, response.tokens.output, response.tokens.total) == (5, 2, 7)


def test_the_tier_of_a_stream_is_read() -> None:
    _, response = stream({"content": "4"}, usage=USAGE, service_tier="flex")
    assert response.tokens.tier == "flex"


# --- tool calls in streams ---

A, B = {"name": "a", "arguments": '{"x": 1}'}, {"name": "b", "arguments": '{"x": 2}'}
BOTH = [("a", {"x": 1}), ("b", {"x": 2})]


@pytest.mark.parametrize(
    "deltas",
    [
        [[{"index": 0, "id": "1", "function": A}], [{"index": 1, "id": "2", "function": B}]],
        [[{"index": 0, "id": "1", "function": A}], [{"index": 0, "id": "2", "function": B}]],
        [[{"id": "1", "function": A}], [{"id": "2", "function": B}]],
        [[{"id": "1", "function": A}, {"id": "2", "function": B}]],
        [[{"function": A}, {"function": B}]],
        [[{"function": A}], [{"function": B}]],
        [[{"index": 0, "id": "", "function": A}], [{"index": 0, "id": "", "function": B}]],
        [
            [{"index": 0, "id": "1", "function": {"name": "a", "arguments": ""}}],
            [{"index": 0, "function": {"arguments": '{"x"'}}],
            [{"index": 0, "function": {"arguments": ": 1}"}}],
            [{"index": 0, "id": "2", "function": {"name": "b", "arguments": ""}}],
            [{"index": 0, "function": {"arguments": '{"x": 2}'}}],
        ],
        [
            [{"index": 0, "id": "1", "function": {"name": "a", "arguments": '{"x"'}}],
            [{"index": 1, "id": "2", "function": {"name": "b", "arguments": '{"x"'}}],
            [{"index": 0, "id": "1", "function": {"name": "a", "arguments": ": 1}"}}],
            [{"index": 1, "id": "2", "function": {"name": "b", "arguments": ": 2}"}}],
        ],
        [[{"index": 0, "id": "1", "function": {"name": "a", "arguments": {"x": 1}}}], [{"index": 1, "function": B}]],
        *[
            [
                [{**index, "id": "1", "function": {"name": "a", "arguments": '{"x"'}}],
                [{**index, "id": "2", "function": {"name": "b", "arguments": '{"x"'}}],
                [{**index, "id": "1", "function": {"arguments": ": 1}"}}],
                [{**index, "id": "2", "function": {"arguments": ": 2}"}}],
            ]
            for index in ({"index": 0}, {})
        ],
        [[{"index": 0, "id": "x", "function": A}], [{"index": 1, "id": "x", "function": B}]],
        [
            [{"index": 0, "function": A}],
            [{"index": 0, "function": {"name": "b", "arguments": ""}}],
            [{"index": 0, "function": {"arguments": '{"x": 2}'}}],
        ],
    ],
    ids=["usual", "same index", "no index", "one chunk", "no ids", "no ids apart", "empty ids", "pieces", "names again",
         "objects", "same index in turn", "no index in turn", "same id", "names apart"],
)  # fmt: skip
def test_parallel_calls_are_several_calls(deltas: list[Any]) -> None:
    _, response = stream(*({"tool_calls": calls} for calls in deltas), finish="tool_calls")
    assert calls_of(response) == BOTH
    assert json.loads(response.content)[1]["function"]["name"] == "b"


@pytest.mark.parametrize("arguments", ["", None, "{}"])
def test_a_call_without_arguments_has_an_empty_object(arguments: Any) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "a", "arguments": arguments}}
    assert calls_of(read(chat({"tool_calls": [call]}))) == [("a", {})]
    assert calls_of(stream({"tool_calls": [{"index": 0, **call}]})[1]) == [("a", {})]


def test_names_of_functions_come_back_as_they_were_asked_for() -> None:
    asked = request("gpt-4o", [{"name": "weather.get"}])
    format_ = OpenAIChat(ProviderSettings("openai", "openai", "http://127.0.0.1:1/v1"))
    sent = format_.body(asked, stream=False)["tools"][0]["function"]["name"]
    assert sent != "weather.get"
    call = {"id": "1", "type": "function", "function": {"name": sent, "arguments": "{}"}}
    assert calls_of(format_.response(chat({"tool_calls": [call]}), asked)) == [("weather.get", {})]


# --- characters ---


def test_a_character_in_two_chunks_is_one_character() -> None:
    parser = ChatStreamParser(request(), "local")
    texts = [
        parser.feed(b'{"choices": [{"index": 0, "delta": {"content": "%b"}}]}' % content)
        for content in (b"Hi ", b"\\ud83d", b"\\ude00", b" \\ud83d")
    ]
    assert [*texts, parser.end()] == ["Hi ", "", "😀", " ", "\ufffd"]
    assert parser.response().content == "Hi 😀 \ufffd"


async def test_a_bad_character_costs_no_answer(provider: Any) -> None:
    body = json.dumps(chat({"content": "cut CUT"})).replace("CUT", "\\ud83d").encode()
    client = ProviderClient(ProviderSettings("local", "openai_compatible", provider.base_url))
    for content in (body, body.replace(b"\\ud83d", b"\xff"), body.replace(b"\\ud83d", b"\x01")):
        provider.reply(body=content)
        assert (await client.ask(request(), None)).content[:4] == "cut "
    await client.close()


# --- what a server refuses ---


def sent(provider: Any, name: str) -> list[Any]:
    return [seen.body.get(name) for seen in provider.requests]


@pytest.mark.parametrize(
    ("model", "kind", "refused_name", "other"),
    [
        ("my-deployment", "azure", "max_tokens", "max_completion_tokens"),
        ("gpt-5", "openai", "max_completion_tokens", "max_tokens"),
        ("any", "openai_compatible", "max_tokens", "max_completion_tokens"),
    ],
)
async def test_the_length_goes_under_its_other_name_once_refused(
    provider: Any, model: str, kind: Any, refused_name: str, other: str
) -> None:
    root = provider.root if kind == "azure" else provider.base_url
    client = ProviderClient(ProviderSettings("p", kind, root, "k", "2024-10-21"))
    message = f"Unsupported parameter: '{refused_name}' is not supported with this model. Use '{other}' instead."
    provider.reply(status=400, error=message)
    for _ in range(2):
        assert (await client.ask(request(model, max_length=9), None)).content == "hello"
    await client.close()
    assert sent(provider, refused_name) == [9, None, None]
    assert sent(provider, other) == [None, 9, 9]


async def test_stream_options_are_left_out_once_refused(provider: Any) -> None:
    provider.reply(status=400, error="Unrecognized request argument supplied: stream_options")
    client = ProviderClient(ProviderSettings("p", "openai_compatible", provider.base_url))
    for _ in range(2):
        assert [text async for text in client.stream(request(), None).texts()] == ["hello"]
    await client.close()
    assert [("stream_options" in seen.body) for seen in provider.requests] == [True, False, False]


@pytest.mark.parametrize(
    "message",
    [
        "Unsupported parameter: 'temperature' is not supported with this model.",
        "litellm.UnsupportedParamsError: O-series models don't support temperature.",
    ],
)
async def test_neutral_sampling_is_left_out_once_refused(provider: Any, message: str) -> None:
    provider.reply(status=400, error=message)
    client = ProviderClient(ProviderSettings("p", "azure", provider.root, "k", "2024-10-21"))
    for _ in range(2):
        await client.ask(request("my-o3", temp=1.0, top_p=1.0), None)
    await client.close()
    assert sent(provider, "temperature") == [1.0, None, None]
    assert sent(provider, "top_p") == [1.0, None, None]


async def test_a_wrong_value_is_refused_once(provider: Any) -> None:
    message = "max_tokens is too large: 99. This model supports at most 9 completion tokens."
    provider.reply(status=400, error=message)
    client = ProviderClient(ProviderSettings("p", "openai", provider.base_url, "k"))
    with pytest.raises(ProviderError, match="BadRequestError"):
        await client.ask(request("gpt-4o", max_length=99), None)
    await client.close()
    assert len(provider.requests) == 1


def test_the_model_of_azures_deployment_comes_from_the_settings() -> None:
    settings = ProviderSettings("azure", "azure", "http://127.0.0.1:1", "k", "v", models={"mine": "o3-mini"})
    body = OpenAIChat(settings).body(request("mine", temp=1.0, max_length=9), stream=False)
    assert (body["model"], body["max_completion_tokens"], "temperature" in body) == ("mine", 9, False)
    assert "/deployments/mine/" in OpenAIChat(settings).url(request("mine"))


@pytest.mark.parametrize("chunks", [[], [{"id": "x", "choices": [], "prompt_filter_results": []}]], ids=str)
async def test_a_stream_without_an_answer_is_a_failure(streaming_provider: Any, chunks: list[dict[str, Any]]) -> None:
    events = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks]
    streaming_provider.stream(raw="".join([*events, "data: [DONE]\n\n"]).encode())
    client = ProviderClient(ProviderSettings("p", "openai_compatible", streaming_provider.base_url))
    with pytest.raises(ProviderError, match="IncompleteAnswer") as raised:
        assert [text async for text in client.stream(request(), None).texts()] == []
    assert raised.value.is_transient
    await client.close()


async def test_a_server_that_answers_a_stream_with_one_document_is_understood(provider: Any) -> None:
    provider.reply(body=json.dumps(chat({"content": "hello", "reasoning": "hm"})).encode())
    client = ProviderClient(ProviderSettings("p", "openai_compatible", provider.base_url))
    answer = client.stream(request(), None)
    assert [text async for text in answer.texts()] == ["hello"]
    assert (answer.response().content, answer.response().tokens.total) == ("hello", 7)
    await client.close()
