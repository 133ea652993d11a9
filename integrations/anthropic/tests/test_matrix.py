"""Every way to ask a model, by every way it can end, in both kinds of client: the whole record each time."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import anthropic
import pydantic
import pytest

MODEL = "claude-test"
MESSAGES = [{"role": "user", "content": "hi"}]
USAGE = {"input_tokens": 22, "output_tokens": 189, "total_tokens": 211, "usage": {"cached": 10, "cache_write": 5}}
BEGUN_USAGE = {"input_tokens": 22, "usage": {"cached": 10, "cache_write": 5}}
"""What a stream's first event tells: what was asked is counted, what is answered is not yet."""
PIECES = ['{"city": ', '"Rome"}']
SAID = "".join(PIECES)


class Answer(pydantic.BaseModel):
    city: str


SCHEMA = {
    "type": "object",
    "title": "Answer",
    "properties": {"city": {"type": "string", "title": "City"}},
    "additionalProperties": False,
    "required": ["city"],
}


@dataclass(frozen=True)
class Way:
    """One way to ask: `ask` of a client, and what of a record it decides. A way with `is_raw` tells its status."""

    ask: Callable[[Any], Any]
    how: str = "whole"  # "whole", "stream" or "manager": what `ask` returns
    params: dict[str, Any] = field(default_factory=dict)
    is_legacy: bool = False

    def asked(self) -> dict[str, Any]:
        """The fields that the request alone decides."""
        limit = {"max_tokens_to_sample": 9} if self.is_legacy else {"max_tokens": 9}
        configuration = {
            "model": MODEL,
            "provider": "anthropic",
            "model_params": {**limit, **self.params},
            "messages": MESSAGES,
        }
        return {
            "name": f"text_completion {MODEL}" if self.is_legacy else f"chat {MODEL}", "kind": "llm",
            "project_name": "default", "status": "success", "model": MODEL, "provider": "anthropic",
            "scope": "everycall_anthropic", "llm_configuration": configuration,
        }  # fmt: skip

    def attributes(self, reason: str | None) -> dict[str, Any]:
        found: dict[str, Any] = {"gen_ai.response.id": "compl_1" if self.is_legacy else "msg_1"}
        return found if reason is None else {**found, "gen_ai.response.finish_reasons": [reason]}

    def answered(self) -> dict[str, Any]:
        """A whole record of a success."""
        reason = "stop_sequence" if self.is_legacy else "end_turn"
        usage = {} if self.is_legacy else USAGE
        return {**self.asked(), **usage, "content": SAID, "attributes": self.attributes(reason)}

    def begun(self) -> dict[str, Any]:
        """A record of a stream of which one piece has come."""
        usage = {} if self.is_legacy else BEGUN_USAGE
        return {**self.asked(), **usage, "content": PIECES[0], "attributes": self.attributes(None)}


ASKED: dict[str, Any] = {"model": MODEL, "max_tokens": 9, "messages": MESSAGES}
PROMPT: dict[str, Any] = {"model": MODEL, "max_tokens_to_sample": 9, "prompt": "hi"}
STREAM = {"stream": True}
WAYS = {
    "messages": Way(lambda c: c.messages.create(**ASKED, stop_sequences=["x"]), params={"stop_sequences": ["x"]}),
    "beta": Way(lambda c: c.beta.messages.create(**ASKED)),
    "messages stream": Way(lambda c: c.messages.create(**ASKED, stream=True), "stream", STREAM),
    "beta stream": Way(lambda c: c.beta.messages.create(**ASKED, stream=True), "stream", STREAM),
    "messages stream()": Way(lambda c: c.messages.stream(**ASKED), "manager", STREAM),
    "by hand": Way(lambda c: c.post("/v1/messages", body=ASKED, cast_to=anthropic.types.Message)),
}
if hasattr(anthropic.resources, "Completions"):
    WAYS |= {
        "complete": Way(lambda c: c.completions.create(**PROMPT), is_legacy=True),
        "complete stream": Way(lambda c: c.completions.create(**PROMPT, stream=True), "stream", STREAM, is_legacy=True),
    }
if hasattr(anthropic.resources.beta.messages.Messages, "stream"):
    WAYS["beta stream()"] = Way(lambda c: c.beta.messages.stream(**ASKED), "manager", STREAM)
if hasattr(anthropic.resources.messages.Messages, "parse"):
    FORMAT = {"output_config": {"format": {"schema": SCHEMA, "type": "json_schema"}}}
    WAYS["parse"] = Way(lambda c: c.messages.parse(**ASKED, output_format=Answer), params=FORMAT)
    WAYS["parse stream()"] = Way(lambda c: c.messages.stream(**ASKED, output_format=Answer), "manager", STREAM | FORMAT)
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
    provider.reply(status=529, error="slow down", headers={"request-id": "req_7"})
    with pytest.raises(anthropic.InternalServerError) as caught:
        await run(both, way, both.wrapped())
    name = f"{type(caught.value).__module__}.{type(caught.value).__name__}"
    assert told(records[0]) == {
        **way.asked(),
        "status": "error",
        "error": f"{name}: {caught.value}",
        "error_type": name,
        "attributes": {
            "http.response.status_code": 529,
            "anthropic.request.id": "req_7",
            "error.type": "overloaded_error",
        },
    }
    assert "slow down" in str(caught.value)
    assert len(records) == len(provider.requests) == 1


@every_way
async def test_a_timeout(way: Way, both: Any, provider: Any, records: Any, told: Any) -> None:
    held = threading.Event()
    provider.reply(hold=held)
    with pytest.raises(anthropic.APITimeoutError) as caught:
        await run(both, way, both.wrapped(timeout=0.1))
    held.set()
    assert told(records[0]) == {
        **way.asked(),
        "status": "error",
        "error": f"anthropic.APITimeoutError: {caught.value}",
        "error_type": "anthropic.APITimeoutError",
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
    expected = way.answered()
    expected.pop("attributes")
    expected.pop("llm_configuration" if flag == "log_omit_inputs" else "content")
    assert told(records[0]) == {**expected, "omitted": ["attributes", flag.removeprefix("log_omit_")]}


@every_way
async def test_omitted_with_an_error(way: Way, both: Any, provider: Any, records: Any) -> None:
    """No byte of what an error says passes a flag: providers quote the request in it."""
    provider.reply(status=400, error="you said: hi canary")
    with pytest.raises(anthropic.BadRequestError):
        await run(both, way, both.wrapped(log_omit_inputs=True))
    assert records[0].error_type == "anthropic.BadRequestError"
    assert "canary" not in repr(records[0])


# --- streams that are not read to their end ---


@every_stream
async def test_a_stream_broken_off_by_the_server(way: Way, both: Any, provider: Any, records: Any, told: Any) -> None:
    """An error, with what came before it."""
    provider.reply(pieces=PIECES, break_after=1)
    with pytest.raises(Exception) as caught:
        await run(both, way, both.wrapped())
    name = f"{type(caught.value).__module__}.{type(caught.value).__name__}"
    assert [told(record) for record in records] == [
        {**way.begun(), "status": "error", "error": f"{name}: {caught.value}", "error_type": name}
    ]
    assert records[0].time_to_first_token is not None


@every_stream
async def test_an_error_in_the_middle(way: Way, both: Any, provider: Any, records: Any, told: Any) -> None:
    """The server answered 200, and tells of its trouble in an event."""
    provider.reply(pieces=PIECES, error_after=1, headers={"request-id": "req_7"})
    with pytest.raises(anthropic.APIStatusError, match="overloaded in the middle") as caught:
        await run(both, way, both.wrapped())
    found = told(records[0])
    attributes = {**way.attributes(None), "http.response.status_code": 200, "anthropic.request.id": "req_7"}
    name = f"{type(caught.value).__module__}.{type(caught.value).__name__}"
    assert found == {
        **way.begun(),
        "status": "error",
        "error": f"{name}: {caught.value}",
        "error_type": name,
        "attributes": {**attributes, "error.type": "overloaded_error"},
    }
    assert len(records) == 1


async def begin(both: Any, way: Way, client: Any) -> tuple[Any, Any]:
    """Open a stream, and read until the model has said its first piece."""
    opened = way.ask(client)
    stream = await both.enter(opened) if way.how == "manager" else await both.wait(opened)
    while True:
        piece = await both.next(stream)
        assert piece is not None
        said = getattr(piece, "completion", None) or getattr(getattr(piece, "delta", None), "text", None)
        if said == PIECES[0]:
            return opened if way.how == "manager" else stream, stream


@every_stream
async def test_a_stream_left_by_its_reader_is_abandoned(
    way: Way, both: Any, provider: Any, records: Any, told: Any
) -> None:
    """No error: with what came, and without the count of what the model said, which nobody knows."""
    reply = provider.reply(pieces=PIECES, pause_after=1)
    manager, _ = await begin(both, way, both.wrapped())
    assert records == []
    await both.leave(manager)
    reply.go.set()
    assert [told(record) for record in records] == [{**way.begun(), "error_type": "abandoned"}]
    assert records[0].time_to_first_token is not None


@every_stream
async def test_a_stream_that_is_closed_is_abandoned(way: Way, both: Any, provider: Any, records: Any) -> None:
    reply = provider.reply(pieces=PIECES, pause_after=1)
    manager, stream = await begin(both, way, both.wrapped())
    await both.wait(stream.close())
    await both.wait(stream.close())
    reply.go.set()
    await both.leave(manager)
    assert [(r.status, r.error_type, r.content) for r in records] == [("success", "abandoned", PIECES[0])]


@every_stream
async def test_the_readers_own_error_leaves_the_stream(way: Way, both: Any, provider: Any, records: Any) -> None:
    """What goes wrong in the loop's body is not the request's error."""
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
        {**way.begun(), "status": "error", "error": "cancelled", "error_type": "cancelled"}
    ]


@every_stream
async def test_a_timeout_in_the_middle(way: Way, both: Any, provider: Any, records: Any) -> None:
    reply = provider.reply(pieces=PIECES, pause_after=1)
    manager, stream = await begin(both, way, both.wrapped(timeout=0.2))
    with pytest.raises(Exception, match=r"imed out|Timeout|^$") as caught:
        await both.all(stream)
    reply.go.set()
    await both.leave(manager)
    assert [(r.status, r.content, r.output_tokens) for r in records] == [("error", PIECES[0], None)]
    assert records[0].error_type.rpartition(".")[2] == type(caught.value).__name__


@every_stream
async def test_omitted_outputs_of_a_stream_that_is_left(way: Way, both: Any, provider: Any, records: Any) -> None:
    """Nothing of what came is kept, and what is known of the tokens is."""
    reply = provider.reply(pieces=PIECES, pause_after=1)
    manager, _ = await begin(both, way, both.wrapped(log_omit_outputs=True))
    await both.leave(manager)
    reply.go.set()
    assert [(r.error_type, r.content, r.input_tokens) for r in records] == [
        ("abandoned", None, None if way.is_legacy else 22)
    ]
    assert "city" not in repr(records[0])


def test_every_way_is_one_of_the_librarys() -> None:
    """`create`, `stream` and `parse` are all there are; a method that a new version adds is to be tested here too."""
    public = {
        name
        for name, _ in inspect.getmembers(anthropic.resources.Messages, inspect.isfunction)
        if not name.startswith("_")
    }
    assert public - {"create", "stream", "parse", "count_tokens"} == set()
