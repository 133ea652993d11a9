"""Every way to ask a model, by every way it can end, in both kinds of client: the whole record each time."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import openai
import pydantic
import pytest

MESSAGES = [{"role": "user", "content": "hi"}]
USAGE = {"input_tokens": 22, "output_tokens": 189, "total_tokens": 211}
CHAT_PARTS = {"cached": 10, "reasoning": 64, "input_audio": 0, "output_audio": 0}
RESPONSE_PARTS = {"cached": 10, "cache_write": 0, "reasoning": 64}
PIECES = ['{"city": ', '"Rome"}']
SAID = "".join(PIECES)


class Answer(pydantic.BaseModel):
    city: str


SCHEMA = {
    "properties": {"city": {"title": "City", "type": "string"}},
    "required": ["city"],
    "title": "Answer",
    "type": "object",
    "additionalProperties": False,
}
CHAT_FORMAT = {"type": "json_schema", "json_schema": {"schema": SCHEMA, "name": "Answer", "strict": True}}
RESPONSE_FORMAT = {"format": {"type": "json_schema", "strict": True, "name": "Answer", "schema": SCHEMA}}


@dataclass(frozen=True)
class Way:
    """One way to ask: `ask` of a client, and what of a record it decides."""

    ask: Callable[[Any], Any]
    name: str
    params: dict[str, Any]
    parts: dict[str, int]
    api: str = "chat"
    how: str = "whole"  # "whole", "stream" or "manager": what `ask` returns

    def asked(self, provider: str | None = "openai") -> dict[str, Any]:
        """The fields that the request alone decides."""
        configuration = {"model": "gpt-4o", "provider": provider, "model_params": self.params, "messages": MESSAGES}
        return {
            "name": self.name, "kind": "llm", "project_name": "default", "status": "success", "model": "gpt-4o",
            "provider": provider, "scope": "everycall_openai", "llm_configuration": configuration,
        }  # fmt: skip

    def attributes(self, reason: str | None) -> dict[str, Any]:
        ids = {"chat": "chatcmpl-1", "completions": "cmpl-1", "responses": "resp_1"}
        found: dict[str, Any] = {"gen_ai.response.id": ids[self.api]}
        return found if reason is None else {**found, "gen_ai.response.finish_reasons": [reason]}

    @property
    def reason(self) -> str:
        return "completed" if self.api == "responses" else "stop"

    def answered(self) -> dict[str, Any]:
        """A whole record of a success."""
        return {
            **self.asked(), **USAGE, "usage": self.parts, "model": "gpt-4o-2024-08-06", "content": SAID,
            "attributes": self.attributes(self.reason),
        }  # fmt: skip


def helpers(client: Any) -> Any:
    completions = client.chat.completions
    return completions if hasattr(completions, "stream") else client.beta.chat.completions


ASKED = {"model": "gpt-4o", "messages": MESSAGES}
PROMPT = {"model": "gpt-4o", "prompt": "hi"}
INPUT = {"model": "gpt-4o", "input": "hi"}
WAYS = {
    "chat": Way(lambda c: c.chat.completions.create(**ASKED, temperature=0.5), "chat gpt-4o",
                {"temperature": 0.5}, CHAT_PARTS),
    "chat parse": Way(lambda c: helpers(c).parse(**ASKED, response_format=Answer), "chat gpt-4o",
                      {"response_format": CHAT_FORMAT}, CHAT_PARTS),
    "completions": Way(lambda c: c.completions.create(**PROMPT), "text_completion gpt-4o", {}, CHAT_PARTS,
                       "completions"),
    "chat stream": Way(lambda c: c.chat.completions.create(**ASKED, stream=True), "chat gpt-4o",
                       {"stream": True}, CHAT_PARTS, "chat", "stream"),
    "chat stream()": Way(lambda c: helpers(c).stream(**ASKED), "chat gpt-4o", {"stream": True}, CHAT_PARTS, "chat",
                         "manager"),
    "completions stream": Way(lambda c: c.completions.create(**PROMPT, stream=True), "text_completion gpt-4o",
                              {"stream": True}, CHAT_PARTS, "completions", "stream"),
}  # fmt: skip
if find_spec("openai.resources.responses") is not None:
    WAYS |= {
        "responses": Way(lambda c: c.responses.create(**INPUT), "chat gpt-4o", {}, RESPONSE_PARTS, "responses"),
        "responses parse": Way(lambda c: c.responses.parse(**INPUT, text_format=Answer), "chat gpt-4o",
                               {"text": RESPONSE_FORMAT}, RESPONSE_PARTS, "responses"),
        "responses stream": Way(lambda c: c.responses.create(**INPUT, stream=True), "chat gpt-4o", {"stream": True},
                                RESPONSE_PARTS, "responses", "stream"),
        "responses stream()": Way(lambda c: c.responses.stream(**INPUT), "chat gpt-4o", {"stream": True},
                                  RESPONSE_PARTS, "responses", "manager"),
    }  # fmt: skip
every_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
every_stream = pytest.mark.parametrize("way", [w for w in WAYS.values() if w.how != "whole"],
                                       ids=[n for n, w in WAYS.items() if w.how != "whole"])  # fmt: skip

a_task_alone = pytest.mark.parametrize("both", ["async"], indirect=True)
"""A thread cannot be cancelled."""


async def run(both: Any, way: Way, client: Any) -> None:
    """Ask, and read what there is to read to its end."""
    if way.how == "whole":
        await both.wait(way.ask(client))
    elif way.how == "stream":
        await both.all(await both.wait(way.ask(client)))
    else:
        manager = way.ask(client)
        stream = await both.enter(manager)
        try:
            await both.all(stream)
        finally:
            await both.leave(manager)


@every_way
async def test_ok(way: Way, both: Any, provider: Any, records: Any, told: Any) -> None:
    provider.reply(pieces=PIECES)
    await run(both, way, both.wrapped())
    assert [told(record) for record in records] == [way.answered()]
    assert (records[0].time_to_first_token is None) == (way.how == "whole")


@every_way
async def test_an_error_is_the_librarys_own_and_recorded(
    way: Way, both: Any, provider: Any, records: Any, told: Any
) -> None:
    provider.reply(status=429, error="slow down", headers={"x-request-id": "req_7"})
    with pytest.raises(openai.RateLimitError) as caught:
        await run(both, way, both.wrapped())
    assert told(records[0]) == {
        **way.asked(),
        "status": "error",
        "error": f"openai.RateLimitError: {caught.value}",
        "error_type": "openai.RateLimitError",
        "attributes": {"http.response.status_code": 429, "openai.request_id": "req_7"},
    }
    assert "slow down" in str(caught.value)
    assert len(records) == len(provider.requests) == 1


@every_way
async def test_a_timeout(way: Way, both: Any, provider: Any, records: Any, told: Any) -> None:
    held = threading.Event()
    provider.reply(hold=held)
    with pytest.raises(openai.APITimeoutError):
        await run(both, way, both.wrapped(timeout=0.1))
    held.set()
    assert told(records[0]) == {
        **way.asked(),
        "status": "error",
        "error": "openai.APITimeoutError: Request timed out.",
        "error_type": "openai.APITimeoutError",
    }
    assert len(records) == 1


@every_way
@a_task_alone
async def test_cancelled_before_the_answer(way: Way, both: Any, provider: Any, records: Any, told: Any) -> None:
    held = threading.Event()
    provider.reply(hold=held)
    task = asyncio.create_task(run(both, way, both.wrapped()))
    await asyncio.to_thread(provider.arrived.acquire)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    held.set()
    assert told(records[0]) == {**way.asked(), "status": "error", "error": "cancelled", "error_type": "cancelled"}
    assert len(records) == 1


@every_way
@pytest.mark.parametrize("flag", ["log_omit_inputs", "log_omit_outputs", "log_omit"])
async def test_omitted(flag: str, way: Way, both: Any, provider: Any, records: Any, told: Any) -> None:
    provider.reply(pieces=PIECES)
    await run(both, way, both.wrapped(**{flag: True}))
    if flag == "log_omit":
        assert records == []
        return
    found = told(records[0])
    expected = way.answered()
    expected.pop("attributes")
    for name in ("llm_configuration",) if flag == "log_omit_inputs" else ("content",):
        expected.pop(name)
    assert found == {**expected, "omitted": ["attributes", flag.removeprefix("log_omit_")]}


@every_way
async def test_omitted_with_an_error(way: Way, both: Any, provider: Any, records: Any) -> None:
    """No byte of what an error says passes a flag: providers quote the request in it."""
    provider.reply(status=400, error="you said: hi canary")
    with pytest.raises(openai.BadRequestError):
        await run(both, way, both.wrapped(log_omit_inputs=True))
    assert records[0].error_type == "openai.BadRequestError"
    assert "canary" not in repr(records[0])


# --- streams that are not read to their end ---


@every_stream
async def test_a_stream_broken_off_by_the_server(way: Way, both: Any, provider: Any, records: Any, told: Any) -> None:
    """An error, with what came before it."""
    provider.reply(pieces=PIECES, break_after=1)
    with pytest.raises(Exception) as caught:
        await run(both, way, both.wrapped())
    assert told(records[0]) == {
        **way.asked(),
        "status": "error",
        "model": "gpt-4o-2024-08-06",
        "content": PIECES[0],
        "error": f"{type(caught.value).__module__}.{type(caught.value).__name__}: {caught.value}",
        "error_type": f"{type(caught.value).__module__}.{type(caught.value).__name__}",
        "attributes": way.attributes(None),
    }
    assert records[0].time_to_first_token is not None
    assert len(records) == 1


async def begin(both: Any, way: Way, client: Any) -> tuple[Any, Any]:
    """Open a stream, and read until the model has said its first piece."""
    opened = way.ask(client)
    stream = await both.enter(opened) if way.how == "manager" else await both.wait(opened)
    while True:
        piece = json.loads((await both.next(stream)).to_json())
        if PIECES[0] in json.dumps(piece).replace("\\", "") or PIECES[0] in str(piece):
            return opened if way.how == "manager" else stream, stream


@every_stream
async def test_a_stream_left_by_its_reader_is_abandoned(
    way: Way, both: Any, provider: Any, records: Any, told: Any
) -> None:
    """No error: with what came, and without tokens, which nobody knows."""
    reply = provider.reply(pieces=PIECES, pause_after=1)
    manager, _ = await begin(both, way, both.wrapped())
    assert records == []
    await both.leave(manager)
    reply.go.set()
    assert [told(record) for record in records] == [
        {
            **way.asked(),
            "model": "gpt-4o-2024-08-06",
            "content": PIECES[0],
            "error_type": "abandoned",
            "attributes": way.attributes(None),
        }
    ]
    assert records[0].time_to_first_token is not None


@every_stream
async def test_a_reader_that_fails_abandons_its_stream(way: Way, both: Any, provider: Any, records: Any) -> None:
    reply = provider.reply(pieces=PIECES, pause_after=1)
    manager, _ = await begin(both, way, both.wrapped())
    await both.leave(manager, ValueError("the reader's own"))
    reply.go.set()
    assert [(r.status, r.error_type, r.content) for r in records] == [("success", "abandoned", PIECES[0])]


@every_stream
@a_task_alone
async def test_cancelled_in_the_middle(way: Way, both: Any, provider: Any, records: Any, told: Any) -> None:
    reply = provider.reply(pieces=PIECES, pause_after=1)
    manager, stream = await begin(both, way, both.wrapped())
    task = asyncio.create_task(both.all(stream))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    reply.go.set()
    await both.leave(manager)
    assert [told(record) for record in records] == [
        {
            **way.asked(),
            "model": "gpt-4o-2024-08-06",
            "content": PIECES[0],
            "status": "error",
            "error": "cancelled",
            "error_type": "cancelled",
            "attributes": way.attributes(None),
        }
    ]


@every_stream
async def test_a_timeout_in_the_middle(way: Way, both: Any, provider: Any, records: Any) -> None:
    reply = provider.reply(pieces=PIECES, pause_after=1)
    manager, stream = await begin(both, way, both.wrapped(timeout=0.2))
    with pytest.raises(Exception, match=r"imed out|Timeout|^$") as caught:
        await both.all(stream)
    reply.go.set()
    await both.leave(manager)
    assert [(r.status, r.content, r.input_tokens) for r in records] == [("error", PIECES[0], None)]
    assert records[0].error_type.rpartition(".")[2] == type(caught.value).__name__


# --- embeddings have no streams ---


async def test_embeddings(both: Any, provider: Any, records: Any, told: Any) -> None:
    client = both.wrapped()
    answer = await both.wait(client.embeddings.create(model="text-embedding-3-small", input=["a", "b"], dimensions=8))
    assert len(answer.data[0].embedding) == 8
    found = told(records[0])
    assert found.pop("llm_configuration")["model_params"]["dimensions"] == 8
    assert found == {
        "name": "embeddings text-embedding-3-small",
        "kind": "embedding",
        "project_name": "default",
        "status": "success",
        "scope": "everycall_openai",
        "inputs": {"input": ["a", "b"]},
        "output": {"embeddings": 2, "dimensions": 8},
        "model": "text-embedding-3-small",
        "provider": "openai",
        "input_tokens": 7,
        "total_tokens": 7,
        "output_tokens": 0,
    }


async def test_embeddings_in_base64(both: Any, provider: Any, records: Any, value: Any) -> None:
    client = both.wrapped()
    answer = await both.wait(client.embeddings.create(model="e", input="a", encoding_format="base64"))
    assert isinstance(answer.data[0].embedding, str)
    assert value(records[0].output) == {"embeddings": 1, "dimensions": 4}


@pytest.mark.parametrize("flag", ["log_omit_inputs", "log_omit_outputs", "log_omit"])
async def test_embeddings_omitted(flag: str, both: Any, provider: Any, records: Any, told: Any) -> None:
    await both.wait(both.wrapped(**{flag: True}).embeddings.create(model="e", input="canary"))
    if flag == "log_omit":
        assert records == []
        return
    found = told(records[0])
    assert found["input_tokens"] == 7
    assert ("inputs" in found, "output" in found) == (flag == "log_omit_outputs", flag == "log_omit_inputs")
    assert ("canary" in repr(found)) == (flag == "log_omit_outputs")


async def test_embeddings_that_fail(both: Any, provider: Any, records: Any) -> None:
    provider.reply(status=500, error="no")
    with pytest.raises(openai.InternalServerError):
        await both.wait(both.wrapped().embeddings.create(model="e", input="a"))
    assert [(r.kind, r.status, r.error_type) for r in records] == [("embedding", "error", "openai.InternalServerError")]
