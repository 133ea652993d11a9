"""What a record keeps of requests and answers of every shape, whole and streamed."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import threading
from typing import Any

import anthropic
import pydantic
import pytest

from everycall.record import Record
from everycall_testkit.client_bench import Clients, decode
from everycall_testkit.provider import FakeProvider

MODEL = "claude-test"
REQUEST: dict[str, Any] = {"model": MODEL, "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
SIGNATURE = base64.b64encode(b"s" * 300).decode()
CIPHER = base64.b64encode(b"c" * 300).decode()
SIGNATURE_SHOWN = f"<base64, 300 bytes, sha256 {hashlib.sha256(b's' * 300).hexdigest()}>"
CIPHER_REFERENCE = f"<base64, 300 bytes, sha256 {hashlib.sha256(b'c' * 300).hexdigest()}>"
whole_or_streamed = pytest.mark.parametrize("how", ["whole", "stream", "stream()"])


async def ask(clients: Clients, how: str, client: Any = None, **more: Any) -> Any:
    """Ask a wrapped client, and read the answer to its end."""
    client = client or clients.wrapped()
    if how == "whole":
        return await clients.wait(client.messages.create(**{**REQUEST, **more}))
    if how == "stream":
        return await clients.all(await clients.wait(client.messages.create(**{**REQUEST, **more}, stream=True)))
    manager = client.messages.stream(**{**REQUEST, **more})
    stream = await clients.enter(manager)
    events = await clients.all(stream)
    await clients.leave(manager)
    return events


@whole_or_streamed
async def test_tool_use(how: str, clients: Clients, provider: FakeProvider, records: list[Record]) -> None:
    """A message has its tool calls, with their arguments as objects, beside its text, streamed or not."""
    provider.reply(content="Let me look.", tool_calls=[("look_up", {"city": "Rome"}), ("stop", {})])
    await ask(clients, how)
    assert records[0].content == "Let me look."
    assert decode(records[0].output) == {
        "role": "assistant",
        "content": [
            {"type": "text", "text": "Let me look."},
            {"type": "tool_use", "id": "toolu_1", "name": "look_up", "input": {"city": "Rome"}},
            {"type": "tool_use", "id": "toolu_2", "name": "stop", "input": {}},
        ],
    }
    assert decode(records[0].attributes)["gen_ai.response.finish_reasons"] == ["tool_use"]


@whole_or_streamed
async def test_thinking(how: str, clients: Clients, provider: FakeProvider, records: list[Record]) -> None:
    """Thinking is kept; signatures and encrypted thinking by reference."""
    blocks = [
        {"type": "thinking", "thinking": "Is it Rome?", "signature": SIGNATURE},
        {"type": "redacted_thinking", "data": CIPHER},
        {"type": "text", "text": "It is Rome."},
    ]
    usage = {"input_tokens": 7, "output_tokens": 90, "output_tokens_details": {"thinking_tokens": 80}}
    provider.reply(message={"content": blocks}, usage=usage)
    await ask(clients, how, max_tokens=2048, extra_body={"thinking": {"type": "enabled", "budget_tokens": 1024}})
    assert records[0].content == "It is Rome."
    assert decode(records[0].output)["content"] == [
        {"type": "thinking", "thinking": "Is it Rome?", "signature": SIGNATURE_SHOWN},
        {"type": "redacted_thinking", "data": CIPHER_REFERENCE},
        {"type": "text", "text": "It is Rome."},
    ]
    assert (records[0].input_tokens, records[0].output_tokens, records[0].usage) == (7, 90, {"reasoning": 80})
    assert decode(records[0].llm_configuration)["model_params"]["thinking"]["budget_tokens"] == 1024
    assert records[0].time_to_first_token is None or how != "whole"


@whole_or_streamed
async def test_citations_and_server_tools(
    how: str, clients: Clients, provider: FakeProvider, records: list[Record]
) -> None:
    cited = {"type": "char_location", "cited_text": "Rome", "document_index": 0, "document_title": "Atlas",
             "start_char_index": 0, "end_char_index": 4}  # fmt: skip
    source = {"type": "web_search_result", "title": "Rome", "url": "https://rome.example", "encrypted_content": CIPHER}
    blocks = [
        {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "capital"}},
        {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": [source]},
        {"type": "text", "text": "It is "},
        {"type": "text", "text": "Rome.", "citations": [cited]},
    ]
    usage = {"input_tokens": 7, "output_tokens": 9, "service_tier": "priority",
             "server_tool_use": {"web_search_requests": 2, "web_fetch_requests": 1}}  # fmt: skip
    provider.reply(message={"content": blocks}, usage=usage)
    await ask(clients, how)
    assert records[0].content == "It is Rome."
    blocks = decode(records[0].output)["content"]
    assert blocks[1]["content"] == [{**source, "encrypted_content": CIPHER_REFERENCE}]
    assert blocks[0]["input"] == {"query": "capital"}
    assert blocks[3]["citations"] == [cited]
    assert records[0].usage == {"web_searches": 2}
    attributes = decode(records[0].attributes)
    assert attributes["anthropic.usage.server_tool_use.web_fetch_requests"] == 1
    assert attributes["anthropic.response.service_tier"] == attributes["everycall.service_tier"] == "priority"


@whole_or_streamed
async def test_a_refusal(how: str, clients: Clients, provider: FakeProvider, records: list[Record]) -> None:
    """It is an answer and not an error. The record says why the model stopped."""
    details = {"type": "refusal", "category": "cyber", "explanation": "no"}
    provider.reply(content="I", finish="refusal", message={"stop_details": details})
    await ask(clients, how)
    attributes = decode(records[0].attributes)
    assert (records[0].status, records[0].content) == ("success", "I")
    assert attributes["gen_ai.response.finish_reasons"] == ["refusal"]
    assert attributes["anthropic.stop_details"] == details


@whole_or_streamed
@pytest.mark.parametrize("reason", ["max_tokens", "stop_sequence", "pause_turn", "model_context_window_exceeded"])
async def test_reasons_for_the_end(
    reason: str, how: str, clients: Clients, provider: FakeProvider, records: list[Record]
) -> None:
    provider.reply(finish=reason, message={"stop_sequence": "END" if reason == "stop_sequence" else None})
    await ask(clients, how)
    attributes = decode(records[0].attributes)
    assert attributes["gen_ai.response.finish_reasons"] == [reason]
    assert attributes.get("anthropic.stop_sequence") == ("END" if reason == "stop_sequence" else None)
    assert records[0].error_type is None


@pytest.mark.parametrize("how", ["whole", "stream"])
async def test_an_error_with_status_200(
    how: str, clients: Clients, provider: FakeProvider, records: list[Record]
) -> None:
    """The library raises nothing. The record is an error, because the model gave no answer."""
    error = {"type": "overloaded_error", "message": "Overloaded"}
    provider.reply(body=json.dumps({"type": "error", "error": error}).encode())
    await ask(clients, how)
    (record,) = records
    assert (record.status, record.error) == ("error", "overloaded_error: Overloaded")
    assert decode(record.attributes)["error.type"] == "overloaded_error"


@whole_or_streamed
async def test_a_response_without_text(
    how: str, clients: Clients, provider: FakeProvider, records: list[Record]
) -> None:
    provider.reply(content=None)
    await ask(clients, how)
    assert (records[0].content, decode(records[0].output), records[0].output_tokens) == (None, None, 189)


@pytest.mark.parametrize("how", ["whole", "stream"])
async def test_no_report_of_tokens(how: str, clients: Clients, provider: FakeProvider, records: list[Record]) -> None:
    """Unknown, not 0."""
    provider.reply(usage=None)
    client = clients.wrapped()
    await ask(clients, how, client)
    assert (records[0].input_tokens, records[0].output_tokens, records[0].usage) == (None, None, {})


USAGES: dict[str, tuple[dict[str, Any], tuple[int, int, int], dict[str, int]]] = {
    "plain": ({"input_tokens": 7, "output_tokens": 9}, (7, 9, 16), {}),
    "cache": (
        {"input_tokens": 7, "cache_read_input_tokens": 10, "cache_creation_input_tokens": 5, "output_tokens": 9},
        (22, 9, 31),
        {"cached": 10, "cache_write": 5},
    ),
    "cache kept for an hour": (
        {"input_tokens": 7, "cache_read_input_tokens": 0, "cache_creation_input_tokens": 5, "output_tokens": 9,
         "cache_creation": {"ephemeral_5m_input_tokens": 2, "ephemeral_1h_input_tokens": 3}},
        (12, 9, 21),
        {"cached": 0, "cache_write": 5, "cache_write_1h": 3},
    ),
    "a compaction": (
        {"input_tokens": 7, "output_tokens": 9, "cache_read_input_tokens": 1, "cache_creation_input_tokens": 0,
         "iterations": [
             {"type": "compaction", "input_tokens": 100, "output_tokens": 20, "cache_read_input_tokens": 30,
              "cache_creation_input_tokens": 4,
              "cache_creation": {"ephemeral_5m_input_tokens": 1, "ephemeral_1h_input_tokens": 3}},
             {"type": "message", "input_tokens": 7, "output_tokens": 9, "cache_read_input_tokens": 1,
              "cache_creation_input_tokens": 0}]},
        (142, 29, 171),
        {"cached": 31, "cache_write": 4, "cache_write_1h": 3},
    ),
    "an advisor": (
        {"input_tokens": 7, "output_tokens": 9, "cache_read_input_tokens": 0, "cache_creation_input_tokens": 0,
         "iterations": [{"type": "advisor_message", "model": "claude-other", "input_tokens": 50, "output_tokens": 6,
                         "cache_read_input_tokens": 0, "cache_creation_input_tokens": 0}]},
        (7, 9, 16),
        {"cached": 0, "cache_write": 0, "unpriced.advisor_input_tokens": 50, "unpriced.advisor_output_tokens": 6},
    ),
}  # fmt: skip


@pytest.mark.parametrize("how", ["whole", "stream"])
@pytest.mark.parametrize(("usage", "counts", "parts"), USAGES.values(), ids=USAGES.keys())
async def test_reports_of_tokens(
    usage: dict[str, Any],
    counts: tuple[int, int, int],
    parts: dict[str, int],
    how: str,
    clients: Clients,
    provider: FakeProvider,
    records: list[Record],
) -> None:
    """Input includes cache reads and writes; a count that is not reported is missing."""
    provider.reply(usage=usage)
    await ask(clients, how)
    record = records[0]
    assert (record.input_tokens, record.output_tokens, record.total_tokens) == counts
    assert record.usage == parts


# --- what is asked ---


async def test_the_whole_request(clients: Clients, records: list[Record]) -> None:
    """The system prompt, tools and choice have fields of their own. Unknown parameters are not kept."""
    system = [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]
    tools = [{"name": "look_up", "description": "looks up", "input_schema": {"type": "object"}}]
    await ask(
        clients, "whole", system=system, tools=tools, tool_choice={"type": "any"}, stop_sequences=["END"],
        metadata={"user_id": "u-7"}, extra_body={"top_k": 3, "fallback_credit_token": "secret", "api_key": "secret"},
    )  # fmt: skip
    assert decode(records[0].llm_configuration) == {
        "model": MODEL,
        "provider": "anthropic",
        "model_params": {"max_tokens": 9, "stop_sequences": ["END"], "metadata": {"user_id": "u-7"}, "top_k": 3},
        "messages": [{"role": "system", "content": system}, *REQUEST["messages"]],
        "functions": tools,
        "function_call": {"type": "any"},
    }
    assert "secret" not in repr(records[0])


async def test_a_system_that_is_text(clients: Clients, records: list[Record]) -> None:
    await ask(clients, "whole", system="Be brief.")
    assert decode(records[0].llm_configuration)["messages"][0] == {"role": "system", "content": "Be brief."}


async def test_servers_of_tools_are_named_without_their_keys(clients: Clients, records: list[Record]) -> None:
    server = {"type": "url", "name": "wiki", "url": "https://wiki.example/?key=secret", "authorization_token": "secret"}
    await ask(clients, "whole", extra_body={"mcp_servers": [server]})
    assert decode(records[0].llm_configuration)["model_params"]["mcp_servers"] == ["wiki"]
    assert "secret" not in repr(records[0])


async def test_media_are_shown_by_reference(clients: Clients, provider: FakeProvider, records: list[Record]) -> None:
    """The request is sent unchanged. The record has no base64; the hash identifies the file."""
    data = bytes(range(256)) * 4
    encoded = base64.b64encode(data).decode()
    reference = f"{len(data)} bytes, sha256 {hashlib.sha256(data).hexdigest()}>"
    content = [
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": encoded}},
        {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": encoded}},
        {"type": "image", "source": {"type": "url", "url": "https://pictures.example/1.png"}},
        {"type": "text", "text": "What is this?"},
    ]
    await ask(clients, "whole", messages=[{"role": "user", "content": content}])
    assert provider.requests[0].messages[0]["content"] == content
    recorded = decode(records[0].llm_configuration)["messages"][0]["content"]
    assert [part.get("source", {}).get("data") for part in recorded] == [
        f"<image/png, {reference}",
        f"<application/pdf, {reference}",
        None,
        None,
    ]
    assert recorded[2:] == content[2:]
    assert encoded not in repr(records[0])


async def test_text_is_not_mistaken_for_base64(clients: Clients, records: list[Record]) -> None:
    """A tool's arguments and results may have any names and any text."""
    prose = "A long report, word for word, of what the tool has found out about storks. " * 8
    tool_use = {"type": "tool_use", "id": "toolu_1", "name": "write", "input": {"data": prose, "result": prose}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": prose}
    messages = [{"role": "assistant", "content": [tool_use]}, {"role": "user", "content": [result]}]
    await ask(clients, "whole", messages=messages)
    assert decode(records[0].llm_configuration)["messages"] == messages


async def test_inputs_are_kept_as_they_were(clients: Clients, provider: FakeProvider, records: list[Record]) -> None:
    """Changes that the program makes to its messages later are not in the record."""
    hold = threading.Event()
    provider.reply(hold=hold)
    messages = [{"role": "user", "content": "before"}]
    client = clients.wrapped()
    if clients.is_async:
        task = asyncio.create_task(client.messages.create(**{**REQUEST, "messages": messages}))
    else:
        task = asyncio.create_task(asyncio.to_thread(client.messages.create, **{**REQUEST, "messages": messages}))
    await asyncio.to_thread(provider.arrived.acquire)
    messages[0]["content"] = "after"
    hold.set()
    await task
    assert decode(records[0].llm_configuration)["messages"] == [{"role": "user", "content": "before"}]


async def test_the_librarys_own_messages(clients: Clients, provider: FakeProvider, records: list[Record]) -> None:
    """Blocks of an answer that are sent again are read as other messages are."""
    provider.reply(content=None, tool_calls=[("look_up", {"city": "Rome"})])
    client = clients.wrapped()
    answer = await ask(clients, "whole", client)
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "a city"}
    messages = [*REQUEST["messages"], {"role": "assistant", "content": answer.content},
                {"role": "user", "content": [result]}]  # fmt: skip
    await ask(clients, "whole", client, messages=messages)
    tool_use = {"type": "tool_use", "id": "toolu_1", "name": "look_up", "input": {"city": "Rome"}}
    recorded = decode(records[1].llm_configuration)["messages"]
    assert recorded[1] == {"role": "assistant", "content": [tool_use]}
    assert recorded[2]["content"] == [result]


async def test_messages_that_can_be_read_once(clients: Clients, provider: FakeProvider, records: list[Record]) -> None:
    """All items of a generator are sent and recorded. An exception of the generator reaches the caller."""
    client = clients.wrapped()
    await ask(clients, "whole", client, messages=(message for message in REQUEST["messages"]))
    assert provider.requests[0].messages == REQUEST["messages"]
    assert decode(records[0].llm_configuration)["messages"] == REQUEST["messages"]

    def broken() -> Any:
        yield REQUEST["messages"][0]
        raise LookupError("the program's own")

    with pytest.raises(LookupError, match="the program's own"):
        await ask(clients, "whole", client, messages=broken())
    assert [(r.status, r.error_type) for r in records[1:]] in ([("error", "LookupError")], [])
    assert len(provider.requests) == 1


class Answer(pydantic.BaseModel):
    city: str


@pytest.mark.skipif(not hasattr(anthropic.resources.messages.Messages, "parse"), reason="this version has no parse")
async def test_an_answer_that_does_not_fit_its_format(
    clients: Clients, provider: FakeProvider, records: list[Record]
) -> None:
    """`parse` raises; the answer, which was paid for, is recorded."""
    provider.reply(content='{"city": 7}')
    with pytest.raises(pydantic.ValidationError):
        await clients.wait(clients.wrapped().messages.parse(**REQUEST, output_format=Answer))
    assert [(r.status, r.content, r.input_tokens) for r in records] == [("error", '{"city": 7}', 22)]


async def test_truncated_arguments_of_a_tool(clients: Clients, provider: FakeProvider, records: list[Record]) -> None:
    """The part that had come is kept as text."""
    provider.reply(content=None, tool_calls=[("look_up", {"city": "Rome"})], break_after=2)
    with pytest.raises(Exception, match=r".+"):
        await ask(clients, "stream")
    (block,) = decode(records[0].output)["content"]
    assert (records[0].status, block["input"]) == ("error", '{"c')


async def test_a_very_long_answer_is_cut_and_marked(
    clients: Clients, provider: FakeProvider, records: list[Record]
) -> None:
    piece = "0123456789" * 20_000
    provider.reply(pieces=[piece] * 8)
    await ask(clients, "stream")
    assert "content" in records[0].truncated
    assert len(str(records[0].content)) < len(piece) * 8


@pytest.mark.skipif(not hasattr(anthropic.resources.beta.messages.Messages, "tool_runner"), reason="there is none")
async def test_the_tool_runner_is_a_record_for_each_request(
    clients: Clients, provider: FakeProvider, records: list[Record]
) -> None:
    """It asks, runs tools, and asks again."""
    make: Any = anthropic.beta_async_tool if clients.is_async else anthropic.beta_tool

    def look(city: str) -> str:
        """Look up a city.

        Args:
            city: its name
        """
        return f"{city} is a city"

    async def look_later(city: str) -> str:
        """Look up a city.

        Args:
            city: its name
        """
        return look(city)

    tool = make(look_later if clients.is_async else look)
    provider.reply(content=None, tool_calls=[(tool.name, {"city": "Rome"})])
    runner = clients.wrapped().beta.messages.tool_runner(**REQUEST, tools=[tool])
    final = await clients.wait(runner.until_done())
    assert final.content[0].text == "hello"
    assert [(r.name, r.content, r.input_tokens) for r in records] == [(f"chat {MODEL}", None, 22),
                                                                     (f"chat {MODEL}", "hello", 22)]  # fmt: skip
