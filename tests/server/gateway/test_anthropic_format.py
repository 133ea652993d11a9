"""Anthropic's messages API: what is sent, and answers as they were reported. Nothing of either is lost."""

from __future__ import annotations

import json
from typing import Any

import pytest

from everycall.server.gateway.formats.anthropic_messages import AnthropicMessages, max_tokens_of
from everycall.server.gateway.formats.anthropic_response import MessageStreamParser, read_response
from everycall.server.gateway.provider_request import ProviderRequest
from everycall.server.gateway.provider_response import ProviderError, ProviderResponse
from everycall.server.gateway.providers import ProviderClient
from everycall.server.problems import ProblemError
from everycall.server.provider_settings import ProviderSettings

MODEL = "claude-haiku-4-5"
SETTINGS = ProviderSettings("anthropic", "anthropic", "http://127.0.0.1:1", "k")
IMAGE = {"type": "image_url"}
NATIVE_CALL = {"type": "tool_use", "id": "t1", "name": "f", "input": {}}
NATIVE_RESULT = {"type": "tool_result", "tool_use_id": "t1", "content": "3"}
EPHEMERAL = {"cache_control": {"type": "ephemeral"}}


def user(content: Any, **fields: Any) -> dict[str, Any]:
    return {"role": "user", "content": content, **fields}


def assistant(content: Any, *calls: str, **fields: Any) -> dict[str, Any]:
    made = [{"id": one, "type": "function", "function": {"name": "f", "arguments": "{}"}} for one in calls]
    return {"role": "assistant", "content": content, **({"tool_calls": made} if calls else {}), **fields}


def result(call_id: str | None, content: Any = "ok", **fields: Any) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": content, **fields}


def body(*messages: dict[str, Any], model: str = MODEL, functions: Any = (), choice: Any = None, **params: Any) -> Any:
    request = ProviderRequest("anthropic", model, params, messages, functions, choice)
    return AnthropicMessages(SETTINGS).body(request, stream=False)


def refusal(*messages: dict[str, Any], **fields: Any) -> str:
    """Return the field that a request is refused for."""
    with pytest.raises(ProblemError) as raised:
        body(*messages, **fields)
    assert raised.value.problem.status == 422
    return str((raised.value.problem.extensions or {})["field"])


# --- the conversation ---


def test_results_of_parallel_calls_are_one_turn() -> None:
    turns = body(user("q"), assistant("", "a", "b"), result("a"), result("b"), user("and?"))["messages"]
    assert [turn["role"] for turn in turns] == ["user", "assistant", "user"]
    assert [block["type"] for block in turns[2]["content"]] == ["tool_result", "tool_result", "text"]


def test_results_come_first_in_their_turn() -> None:
    turns = body(user("q"), assistant("", "a"), user("meanwhile"), result("a"))["messages"]
    assert [block["type"] for block in turns[2]["content"]] == ["tool_result", "text"]


@pytest.mark.parametrize("empty", ["", " \n", None, [], [{"type": "text", "text": ""}]], ids=repr)
def test_empty_turns_and_texts_are_left_out(empty: Any) -> None:
    assert body(user("hi"), assistant(empty), user("still there?"))["messages"] == [
        {"role": "user", "content": [{"type": "text", "text": "hi"}, {"type": "text", "text": "still there?"}]}
    ]


def test_a_prefilled_answer_has_no_white_space_at_its_end() -> None:
    assert body(user("q"), assistant("The answer is "))["messages"][1] == {
        "role": "assistant",
        "content": "The answer is",
    }
    assert refusal(user("q"), assistant("The"), model="claude-opus-4-6") == "messages"


def test_the_older_function_call_is_a_tool_call() -> None:
    legacy = assistant(None, function_call={"name": "f", "arguments": '{"x": 1}'})
    turns = body(user("q"), legacy, {"role": "function", "name": "f", "content": "3"})["messages"]
    use, answer = turns[1]["content"][0], turns[2]["content"][0]
    assert (use["type"], use["name"], use["input"]) == ("tool_use", "f", {"x": 1})
    assert (answer["type"], answer["tool_use_id"], answer["content"]) == ("tool_result", use["id"], "3")


@pytest.mark.parametrize("call_id", ["call:1|x", "größe", "a b", "x" * 200])
def test_foreign_ids_become_ids_that_anthropic_takes(call_id: str) -> None:
    turns = body(user("q"), assistant("", call_id, "fine"), result(call_id), result("fine"))["messages"]
    used = [block["id"] for block in turns[1]["content"]]
    assert used == [block["tool_use_id"] for block in turns[2]["content"]]
    assert used[0] != call_id
    assert used[1] == "fine"
    assert all(character.isascii() and (character.isalnum() or character in "_-") for character in used[0])


def test_ids_may_be_missing() -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": {}}}
    turns = body(
        user("q"), {"role": "assistant", "content": "", "tool_calls": [call, call]}, result(None), result(None)
    )
    used = [block["id"] for block in turns["messages"][1]["content"]]
    assert len(set(used)) == 2
    assert used == [block["tool_use_id"] for block in turns["messages"][2]["content"]]


def test_an_id_that_an_earlier_turn_has_is_sent_as_another_one() -> None:
    rounds = [user("q"), assistant("", "call_0"), result("call_0", "1"), assistant("", "call_0"), result("call_0", "2")]
    turns = body(*rounds)["messages"]
    used = [block["id"] for turn in (turns[1], turns[3]) for block in turn["content"]]
    assert used == ["call_0", "call_0_2"]
    assert [(turn["content"][0]["tool_use_id"], turn["content"][0]["content"]) for turn in (turns[2], turns[4])] == [
        ("call_0", "1"),
        ("call_0_2", "2"),
    ]


def test_calls_and_results_in_anthropics_own_form_pass_as_they_are() -> None:
    turns = body(user("q"), assistant([NATIVE_CALL]), user([NATIVE_RESULT]))["messages"]
    assert (turns[1]["content"], turns[2]["content"]) == ([NATIVE_CALL], [NATIVE_RESULT])


def test_a_refusal_of_the_assistant_is_a_text() -> None:
    turns = body(user("q"), assistant(None, refusal="I will not."), user("please"))["messages"]
    assert turns[1] == {"role": "assistant", "content": "I will not."}


@pytest.mark.parametrize(
    ("messages", "field"),
    [
        ([user("q"), assistant("", "a", "b"), result("a")], "messages[1].tool_calls[1]"),
        ([user("q"), result("a")], "messages[1].tool_call_id"),
        ([user("q"), assistant("", "a", "a"), result("a")], "messages[1].tool_calls[1]"),
        ([user("q", name="ann")], "messages[0].name"),
        ([user("q"), assistant("a", reasoning_content="hm"), user("?")], "messages[1].reasoning_content"),
        ([user([{"type": "input_audio", "input_audio": {}}])], "messages[0].content[0].type"),
        ([user([{"type": "file", "file": {"file_id": "f"}}])], "messages[0].content[0]"),
        (
            [user([{"type": "image_url", "image_url": {"url": "data:image/tiff;base64,AAAA"}}])],
            "messages[0].content[0]",
        ),
        ([{"role": "system", "content": [{"type": "image"}]}, user("q")], "messages[0].content[0].type"),
        ([user("")], "messages"),
        ([user("q", tool_call_id="a")], "messages[0].tool_call_id"),
        ([user("q", refusal="no")], "messages[0].refusal"),
        ([{**assistant("", "a"), "role": "user"}, result("a")], "messages[0].tool_calls"),
        ([user([{"type": "text", "text": "x", "bold": True}])], "messages[0].content[0].bold"),
        ([user([IMAGE | {"image_url": {"url": "http://example.com/a.png"}}])], "messages[0].content[0].image_url"),
        (
            [user([IMAGE | {"image_url": {"url": "https://example.com/a.png", "crop": "left"}}])],
            "messages[0].content[0].image_url.crop",
        ),
        (
            [user([{"type": "image", "source": {"type": "url", "url": "http://example.com/a.png"}}])],
            "messages[0].content[0].source",
        ),
        (
            [user("q"), assistant("", "a", tool_calls=[{"id": "a", "function": {"name": "f"}, "secret": 1}])],
            "messages[1].tool_calls[0].secret",
        ),
        ([user("q"), assistant([NATIVE_CALL]), user("go on")], "messages"),
        ([user("q"), assistant([NATIVE_CALL | {"id": "a:b"}]), user([NATIVE_RESULT])], "messages"),
        ([user([NATIVE_RESULT])], "messages"),
        ([user([{"type": "text", "text": str(n), **EPHEMERAL} for n in range(5)])], "messages"),
    ],
)
def test_what_cannot_be_sent_is_named(messages: list[dict[str, Any]], field: str) -> None:
    assert refusal(*messages) == field


def test_media_are_where_they_were() -> None:
    png = {"type": "image_url", "image_url": {"url": "data:image/jpg;charset=utf-8;base64,AAAA"}}
    pdf = {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,AAAA"}}
    note = {"type": "file", "file": {"filename": "a.txt", "file_data": "data:text/plain;base64,aGk="}}
    link = {"type": "image_url", "image_url": "https://example.com/a.png"}
    turns = body(user([png, pdf, note, link]), assistant("", "a"), result("a", [png, pdf]))["messages"]
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/jpeg", "data": "AAAA"}}
    source = {"type": "base64", "media_type": "application/pdf", "data": "AAAA"}
    document = {"type": "document", "source": source, "title": "a.pdf"}
    text = {"type": "text", "media_type": "text/plain", "data": "hi"}
    assert turns[0]["content"] == [
        image,
        document,
        {"type": "document", "source": text, "title": "a.txt"},
        {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}},
    ]
    assert turns[2]["content"][0]["content"] == [image, document]


def test_cache_control_is_where_it_was() -> None:
    sent = body(
        {"role": "system", "content": [{"type": "text", "text": "manual", **EPHEMERAL}]},
        user("q", **EPHEMERAL),
        assistant("", "a"),
        result("a", **EPHEMERAL),
        functions=[{"name": "f", **EPHEMERAL}],
    )
    assert sent["system"] == [{"type": "text", "text": "manual", **EPHEMERAL}]
    assert sent["messages"][0]["content"] == [{"type": "text", "text": "q", **EPHEMERAL}]
    assert sent["messages"][2]["content"][0]["cache_control"] == EPHEMERAL["cache_control"]
    assert sent["tools"][0]["cache_control"] == EPHEMERAL["cache_control"]


@pytest.mark.parametrize(
    ("choice", "sent"),
    [
        ("auto", {"type": "auto"}),
        ("none", {"type": "none"}),
        ("required", {"type": "any"}),
        ("any", {"type": "any"}),
        ({"name": "f.g"}, {"type": "tool", "name": "f_g_"}),
        ({"type": "function", "function": {"name": "f.g"}}, {"type": "tool", "name": "f_g_"}),
        ({"type": "tool", "name": "f.g"}, {"type": "tool", "name": "f_g_"}),
    ],
)
def test_every_form_of_a_choice(choice: Any, sent: dict[str, Any]) -> None:
    got = body(user("q"), functions=[{"name": "f.g"}], choice=choice)["tool_choice"]
    assert got["type"] == sent["type"]
    assert got.get("name", "").startswith(sent.get("name", ""))


def test_parameters() -> None:
    sent = body(user("q"), functions=[{"name": "f"}], stop="x", top_k=3, service_tier="auto", parallel_tool_calls=False)
    assert (sent["stop_sequences"], sent["top_k"], sent["service_tier"]) == (["x"], 3, "auto")
    assert sent["tool_choice"] == {"type": "auto", "disable_parallel_tool_use": True}
    for name, value in {"seed": 1, "logit_bias": {"1": 1}, "temp": 1.5, "stop": [" "], "verbosity": "low"}.items():
        assert refusal(user("q"), **{name: value}) == f"llm_configuration.model_params.{name}"
    assert refusal(user("q"), temp=0.5, top_p=0.5) == "llm_configuration.model_params.top_p"
    assert body(user("q"), model="claude-3-haiku-20240307", temp=0.5, top_p=0.5)["top_p"] == 0.5


# --- the length ---


@pytest.mark.parametrize(
    ("model", "tokens"),
    [
        ("claude-3-haiku-20240307", 4_096),
        ("claude-3-5-sonnet-latest", 8_192),
        ("claude-3-7-sonnet-20250219", 64_000),
        ("claude-sonnet-4-20250514", 64_000),
        ("claude-opus-4-20250514", 32_000),
        ("claude-opus-4-1", 32_000),
        ("claude-opus-4-5-20251101", 64_000),
        ("claude-haiku-4-5", 64_000),
        ("claude-opus-4-6", 128_000),
        ("anthropic.claude-opus-4-1-20250805-v1:0", 32_000),
    ],
)
def test_a_model_is_asked_for_all_that_it_may_answer(model: str, tokens: int) -> None:
    assert max_tokens_of(model) == body(user("q"), model=model)["max_tokens"] == tokens
    assert body(user("q"), model=model, max_length=7)["max_tokens"] == 7


def test_a_seed_of_zero_is_a_seed() -> None:
    assert refusal(user("q"), seed=0) == "llm_configuration.model_params.seed"
    assert "seed" not in body(user("q"), frequency_penalty=0)


def test_more_than_a_model_can_answer_is_refused() -> None:
    for model, tokens in (("claude-3-haiku-20240307", 4_097), ("claude-haiku-4-5", 64_001)):
        assert refusal(user("q"), model=model, max_length=tokens) == "llm_configuration.model_params.max_length"
    assert body(user("q"), model="claude-next", max_length=200_000)["max_tokens"] == 200_000


@pytest.mark.parametrize(
    ("schema", "field"),
    [
        ({"anyOf": [{"type": "object"}]}, "functions[0].parameters.anyOf"),
        ({"properties": {"größe": {}}}, "functions[0].parameters.properties"),
        ({"properties": {"x" * 65: {}}}, "functions[0].parameters.properties"),
        ({"properties": []}, "functions[0].parameters"),
        ({"type": "string"}, "functions[0].parameters"),
    ],
)
def test_a_schema_that_anthropic_refuses_is_named(schema: Any, field: str) -> None:
    assert refusal(user("q"), functions=[{"name": "f", "parameters": schema}]) == field


async def test_a_model_that_answers_less_is_asked_for_that(provider: Any) -> None:
    provider.reply(status=400, error="max_tokens: 64000 > 9000, which is the maximum allowed number of output tokens")
    client = ProviderClient(ProviderSettings("anthropic", "anthropic", provider.root, "k"))
    for _ in range(2):
        await client.ask(ProviderRequest("anthropic", "claude-next", {}, [user("q")], [], None), None)
    await client.close()
    assert [seen.body["max_tokens"] for seen in provider.requests] == [64_000, 9_000, 9_000]


# --- answers ---


def parsed(*events: dict[str, Any]) -> tuple[str, ProviderResponse]:
    request = ProviderRequest("anthropic", MODEL, {}, [user("q")], [{"name": "f.g"}], None)
    parser = MessageStreamParser(request, "anthropic")
    text = "".join(parser.feed(json.dumps(event).encode()) for event in events) + parser.end()
    return text, parser.response()


def block(index: int, start: dict[str, Any], *deltas: dict[str, Any]) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = [{"type": "content_block_start", "index": index, "content_block": start}]
    events += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
    return [*events, {"type": "content_block_stop", "index": index}]


def start(**usage: Any) -> dict[str, Any]:
    return {"type": "message_start", "message": {"id": "m1", "model": MODEL, "usage": usage}}


def end(reason: Any = "end_turn", **usage: Any) -> dict[str, Any]:
    return {"type": "message_delta", "delta": {"stop_reason": reason}, "usage": usage}


def test_a_call_without_arguments_has_an_empty_object() -> None:
    use = {"type": "tool_use", "id": "t", "name": "f", "input": {}}
    for deltas in ([], [{"type": "input_json_delta", "partial_json": ""}]):
        _, response = parsed(start(), *block(0, use, *deltas), end("tool_use"))
        assert [part["function"]["arguments"] for part in response.output or ()] == [{}]


@pytest.mark.parametrize(
    ("first", "last", "counts"),
    [
        ({"input_tokens": 10, "cache_read_input_tokens": 5, "output_tokens": 1}, {"output_tokens": 50}, (15, 50)),
        ({"input_tokens": 10, "output_tokens": 1}, {"input_tokens": 10, "output_tokens": 50}, (10, 50)),
        ({"input_tokens": 10, "output_tokens": 1}, {"input_tokens": 0, "output_tokens": 50}, (10, 50)),
        ({"input_tokens": 10, "output_tokens": 1}, {"input_tokens": None, "output_tokens": 50}, (10, 50)),
        ({"input_tokens": 0, "output_tokens": 0}, {"input_tokens": 10, "output_tokens": 50}, (10, 50)),
        ({"input_tokens": 10, "output_tokens": 3}, {"output_tokens": 0}, (10, 3)),
        ({"input_tokens": 10, "output_tokens": 1}, {}, (10, None)),
    ],
)
def test_the_counts_of_start_and_end_are_one_report(first: Any, last: Any, counts: tuple[Any, Any]) -> None:
    _, response = parsed(start(**first), *block(0, {"type": "text", "text": "hi"}), end(**last))
    assert (response.tokens.input, response.tokens.output) == counts


def test_nested_counts_are_not_wiped_out() -> None:
    first = {"input_tokens": 1, "cache_creation_input_tokens": 9, "cache_creation": {"ephemeral_1h_input_tokens": 9}}
    last = {"output_tokens": 2, "cache_creation": {"ephemeral_1h_input_tokens": 0}}
    _, response = parsed(start(**first), end(**last))
    assert response.tokens.parts == {"cache_write": 9, "cache_write_1h": 9}


def test_thoughts_citations_and_other_blocks_are_kept() -> None:
    citation = {"type": "char_location", "cited_text": "a"}
    search = {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}
    text, response = parsed(
        start(),
        *block(0, {"type": "thinking", "thinking": ""}, {"type": "thinking_delta", "thinking": "hm"}),
        *block(1, search, {"type": "input_json_delta", "partial_json": '{"query": "x"}'}),
        *block(2, {"type": "text", "text": ""}, {"type": "text_delta", "text": "so"},
               {"type": "citations_delta", "citation": citation}),
        end(),
    )  # fmt: skip
    expected = [
        {"type": "reasoning", "text": "hm"},
        {**search, "input": {"query": "x"}},
        {"type": "citations", "citations": [citation]},
        {"type": "text", "text": "so"},
    ]
    assert (text, response.content, response.output) == ("so", "so", expected)
    whole = [{"type": "thinking", "thinking": "hm"}, {**search, "input": {"query": "x"}},
             {"type": "text", "text": "so", "citations": [citation]}]  # fmt: skip
    request = ProviderRequest("anthropic", MODEL, {}, [user("q")], [], None)
    assert read_response({"content": whole}, request, "anthropic").output == expected


def test_the_signatures_of_thoughts_are_kept() -> None:
    thought = {"type": "thinking", "thinking": "hm", "signature": "c2ln"}
    hidden = {"type": "redacted_thinking", "data": "aGlk"}
    _, response = parsed(
        start(),
        *block(0, {"type": "thinking", "thinking": "", "signature": ""},
               {"type": "thinking_delta", "thinking": "hm"}, {"type": "signature_delta", "signature": "c2ln"}),
        *block(1, hidden),
        *block(2, {"type": "text", "text": ""}, {"type": "text_delta", "text": "so"}),
        end(),
    )  # fmt: skip
    expected = [{"type": "reasoning", "text": "hm", "signature": "c2ln"}, hidden, {"type": "text", "text": "so"}]
    assert response.output == expected
    request = ProviderRequest("anthropic", MODEL, {}, [user("q")], [], None)
    body = {"content": [thought, hidden, {"type": "text", "text": "so"}]}
    assert read_response(body, request, "anthropic").output == expected


@pytest.mark.parametrize(
    ("kind", "is_transient"), [("overloaded_error", True), ("api_error", True), ("invalid_request_error", False)]
)
def test_errors_in_a_stream(kind: str, is_transient: bool) -> None:
    with pytest.raises(ProviderError) as raised:
        parsed(start(), {"type": "error", "error": {"type": kind, "message": "no"}})
    assert (raised.value.text, raised.value.is_transient) == ("StreamError: no", is_transient)
