"""Automatic function calling: the library sends the results of functions in further requests, each a record."""

from __future__ import annotations

from typing import Any

import pytest
from google.genai import errors, types

import everycall
from everycall.record import Record
from everycall_testkit.client_bench import Clients, decode
from everycall_testkit.provider import FakeProvider

REQUEST: dict[str, Any] = {"model": "gemini-2.5-flash", "contents": "hi"}
NAME = "generate_content gemini-2.5-flash"


async def ask(clients: Clients, client: Any, stream: bool = False, **more: Any) -> Any:
    if stream:
        return await clients.all(await clients.wait(client.models.generate_content_stream(**REQUEST, **more)))
    return await clients.wait(client.models.generate_content(**REQUEST, **more))


def tool(clients: Clients) -> Any:
    """A function that the library runs and the program traces."""

    def get_weather(city: str) -> str:
        """Tell the weather of a city."""
        return f"sunny in {city}"

    get_weather.__annotations__ = {"city": str, "return": str}  # older versions cannot read those of this file
    return everycall.trace(name="get_weather", kind="tool")(get_weather)


@pytest.mark.parametrize("of", ["models", "models stream", "chat", "chat stream"])
async def test_each_request_of_function_calling_is_a_record(
    of: str, clients: Clients, provider: FakeProvider, records: list[Record]
) -> None:
    """Requests and the functions between them are beside each other, below the call that asked."""
    provider.reply(content=None, tool_calls=[("get_weather", {"city": "Rome"})])
    client, config = clients.wrapped(), types.GenerateContentConfig(tools=[tool(clients)])
    with everycall.span("asks"):
        if of == "models":
            await ask(clients, client, config=config)
        elif of == "models stream":
            await ask(clients, client, stream=True, config=config)
        else:
            chat = client.chats.create(model="gemini-2.5-flash", config=config)
            if of == "chat":
                await clients.wait(chat.send_message("hi"))
            else:
                await clients.all(await clients.wait(chat.send_message_stream("hi")))
    first, weather, second, asks = sorted(records, key=lambda r: (r.name == "asks", r.start_time_unix_nano))
    assert [r.name for r in (first, weather, second)] == [NAME, "get_weather", NAME]
    assert {r.parent_id for r in (first, weather, second)} == {asks.inference_id}
    assert decode(first.output)["content"][-1] == {
        "type": "tool_call",
        "name": "get_weather",
        "arguments": {"city": "Rome"},
    }
    assert decode(weather.output) == "sunny in Rome"
    assert decode(second.llm_configuration)["messages"][-1]["content"][0]["response"] == {"result": "sunny in Rome"}
    assert second.content == "hello"
    assert sum(record.input_tokens or 0 for record in records) == 44
    assert len(provider.requests) == 2


async def test_function_calling_that_fails(clients: Clients, provider: FakeProvider, records: list[Record]) -> None:
    """Only the second request's record is an error."""
    provider.reply(content=None, tool_calls=[("get_weather", {"city": "Rome"})])
    provider.reply(status=503)
    with pytest.raises(errors.ServerError):
        await ask(clients, clients.wrapped(), config=types.GenerateContentConfig(tools=[tool(clients)]))
    assert [(r.kind, r.status) for r in records] == [("llm", "success"), ("tool", "success"), ("llm", "error")]
