"""Every way to ask a model, by every way it can end, in both kinds of client: the whole record each time."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from google.genai import errors

MODEL = "gemini-2.5-flash"
MESSAGES = [{"role": "user", "content": "hi"}]
USAGE = {
    "input_tokens": 22,
    "output_tokens": 189,
    "total_tokens": 211,
    "usage": {"cached": 10, "reasoning": 64},
}
SO_FAR = {"input_tokens": 22, "output_tokens": 1, "total_tokens": 23}
PIECES = ["storks", " fly"]
SAID = "".join(PIECES)


@dataclass(frozen=True)
class Way:
    """One way to ask: `ask` of a client, and what of a record it decides."""

    ask: Callable[[Any], Any]
    params: dict[str, Any]
    is_stream: bool = False

    def asked(self) -> dict[str, Any]:
        """The fields that the request alone decides."""
        configuration = {"model": MODEL, "provider": "gcp.gemini", "model_params": self.params, "messages": MESSAGES}
        return {
            "name": f"generate_content {MODEL}", "kind": "llm", "project_name": "default", "status": "success",
            "model": MODEL, "provider": "gcp.gemini", "scope": "everycall_google", "llm_configuration": configuration,
        }  # fmt: skip

    def answered(self) -> dict[str, Any]:
        """A whole record of a success."""
        return {**self.asked(), **USAGE, "model": f"{MODEL}-001", "content": SAID, "attributes": attributes("STOP")}


def attributes(reason: str | None) -> dict[str, Any]:
    found: dict[str, Any] = {"gen_ai.response.id": "resp-1"}
    return found if reason is None else {**found, "gen_ai.response.finish_reasons": [reason]}


ASKED: dict[str, Any] = {"model": MODEL, "contents": "hi", "config": {"temperature": 0.5}}
WAYS = {
    "models": Way(lambda c: c.models.generate_content(**ASKED), {"temperature": 0.5}),
    "models stream": Way(lambda c: c.models.generate_content_stream(**ASKED), {"temperature": 0.5}, is_stream=True),
    "chat": Way(lambda c: c.chats.create(model=MODEL).send_message("hi"), {}),
    "chat stream": Way(lambda c: c.chats.create(model=MODEL).send_message_stream("hi"), {}, is_stream=True),
}
every_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
every_stream = pytest.mark.parametrize("way", [w for w in WAYS.values() if w.is_stream],
                                       ids=[n for n, w in WAYS.items() if w.is_stream])  # fmt: skip
a_task_alone = pytest.mark.parametrize("both", ["async"], indirect=True)
"""A thread cannot be cancelled."""


async def run(both: Any, way: Way, client: Any) -> None:
    """Ask, and read what there is to read to its end."""
    answer = await both.wait(way.ask(client))
    if way.is_stream:
        await both.all(answer)


async def begin(both: Any, way: Way, client: Any) -> Any:
    """Open a stream, and read the first thing the model says."""
    stream = await both.wait(way.ask(client))
    assert (await both.next(stream)).text == PIECES[0]
    return stream


@every_way
async def test_ok(way: Way, both: Any, provider: Any, records: Any, told: Any) -> None:
    provider.reply(pieces=PIECES, model=f"{MODEL}-001")
    await run(both, way, both.wrapped())
    assert [told(record) for record in records] == [way.answered()]
    assert (records[0].time_to_first_token is not None) == way.is_stream


@every_way
async def test_an_error_is_the_librarys_own_and_recorded(
    way: Way, both: Any, provider: Any, records: Any, told: Any
) -> None:
    provider.reply(status=429, error="slow down")
    with pytest.raises(errors.ClientError) as caught:
        await run(both, way, both.wrapped())
    assert told(records[0]) == {
        **way.asked(),
        "status": "error",
        "error": f"google.genai.errors.ClientError: {caught.value}",
        "error_type": "google.genai.errors.ClientError",
        "attributes": {"http.response.status_code": 429, "google.error.status": "RESOURCE_EXHAUSTED"},
    }
    assert "slow down" in str(caught.value)
    assert len(records) == len(provider.requests) == 1


@every_way
async def test_a_failing_server(way: Way, both: Any, provider: Any, records: Any) -> None:
    provider.reply(status=503, error="overloaded")
    with pytest.raises(errors.ServerError):
        await run(both, way, both.wrapped())
    assert [(r.status, r.error_type) for r in records] == [("error", "google.genai.errors.ServerError")]


@every_way
async def test_a_timeout(way: Way, both: Any, provider: Any, records: Any, told: Any) -> None:
    held = threading.Event()
    provider.reply(hold=held)
    with pytest.raises(Exception, match=r"timed out|^$") as caught:
        await run(both, way, both.wrapped(timeout=0.1))
    held.set()
    kind = f"{type(caught.value).__module__}.{type(caught.value).__name__}"
    assert kind.endswith(".ReadTimeout")
    message = f"{kind}: {caught.value}" if str(caught.value) else kind
    assert told(records[0]) == {**way.asked(), "status": "error", "error": message, "error_type": kind}
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
    provider.reply(pieces=PIECES, model=f"{MODEL}-001")
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
    with pytest.raises(errors.ClientError):
        await run(both, way, both.wrapped(log_omit_inputs=True))
    assert records[0].error_type == "google.genai.errors.ClientError"
    assert "canary" not in repr(records[0])


# --- streams that are not read to their end ---


@every_stream
async def test_a_stream_broken_off_by_the_server(way: Way, both: Any, provider: Any, records: Any, told: Any) -> None:
    """An error, with what came before it: tokens too, since each piece tells those so far."""
    provider.reply(pieces=PIECES, break_after=1)
    with pytest.raises(Exception) as caught:
        await run(both, way, both.wrapped())
    kind = f"{type(caught.value).__module__}.{type(caught.value).__name__}"
    assert told(records[0]) == {
        **way.asked(),
        **SO_FAR,
        "status": "error",
        "content": PIECES[0],
        "error": f"{kind}: {caught.value}",
        "error_type": kind,
        "attributes": attributes(None),
    }
    assert records[0].time_to_first_token is not None
    assert len(records) == 1


@every_stream
async def test_a_stream_that_ends_with_an_error(way: Way, both: Any, provider: Any, records: Any) -> None:
    """Recorded as one also where an older library ends the stream without a word of it."""
    provider.reply(pieces=PIECES, error_after=1)
    with contextlib.suppress(errors.ServerError):
        await run(both, way, both.wrapped())
    assert [(r.status, r.content) for r in records] == [("error", PIECES[0])]
    assert "503 UNAVAILABLE. " in records[0].error
    assert "overloaded" in records[0].error


@every_stream
async def test_a_stream_left_by_its_reader_is_abandoned(
    way: Way, both: Any, provider: Any, records: Any, told: Any
) -> None:
    """No error: with what came."""
    reply = provider.reply(pieces=PIECES, pause_after=1)
    stream = await begin(both, way, both.wrapped())
    assert records == []
    await both.leave(stream)
    reply.go.set()
    assert [told(record) for record in records] == [
        {
            **way.asked(),
            **SO_FAR,
            "content": PIECES[0],
            "error_type": "abandoned",
            "attributes": attributes(None),
        }
    ]
    assert records[0].time_to_first_token is not None


@every_stream
async def test_an_abandoned_stream_keeps_flags(way: Way, both: Any, provider: Any, records: Any) -> None:
    reply = provider.reply(pieces=PIECES, pause_after=1)
    stream = await begin(both, way, both.wrapped(log_omit_inputs=True, log_omit_outputs=True))
    await both.leave(stream)
    reply.go.set()
    (record,) = records
    assert (record.error_type, record.content, record.input_tokens) == ("abandoned", None, 22)
    assert "storks" not in repr(record)


@every_stream
@a_task_alone
async def test_cancelled_in_the_middle(way: Way, both: Any, provider: Any, records: Any, told: Any) -> None:
    reply = provider.reply(pieces=PIECES, pause_after=1)
    stream = await begin(both, way, both.wrapped())
    task = asyncio.create_task(both.all(stream))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    reply.go.set()
    assert [told(record) for record in records] == [
        {
            **way.asked(),
            **SO_FAR,
            "content": PIECES[0],
            "status": "error",
            "error": "cancelled",
            "error_type": "cancelled",
            "attributes": attributes(None),
        }
    ]


@every_stream
async def test_a_timeout_in_the_middle(way: Way, both: Any, provider: Any, records: Any) -> None:
    reply = provider.reply(pieces=PIECES, pause_after=1)
    stream = await begin(both, way, both.wrapped(timeout=0.2))
    with pytest.raises(Exception, match=r"timed out|^$") as caught:
        await both.all(stream)
    reply.go.set()
    assert [(r.status, r.content, r.input_tokens) for r in records] == [("error", PIECES[0], 22)]
    assert records[0].error_type.rpartition(".")[2] == type(caught.value).__name__ == "ReadTimeout"


# --- embeddings have no streams ---


EMBED: dict[str, Any] = {"model": "text-embedding-004", "contents": ["a", "b"]}


async def test_embeddings(both: Any, provider: Any, records: Any, told: Any) -> None:
    client = both.wrapped()
    config = {"output_dimensionality": 8, "task_type": "RETRIEVAL_QUERY"}
    answer = await both.wait(client.models.embed_content(**EMBED, config=config))
    assert len(answer.embeddings[0].values) == 8
    assert [told(record) for record in records] == [
        {
            "name": "embeddings text-embedding-004",
            "kind": "embedding",
            "project_name": "default",
            "status": "success",
            "scope": "everycall_google",
            "llm_configuration": {
                "model": "text-embedding-004",
                "provider": "gcp.gemini",
                "model_params": {"output_dimensionality": 8, "task_type": "RETRIEVAL_QUERY"},
            },
            "inputs": {"input": ["a", "b"]},
            "output": {"embeddings": 2, "dimensions": 8},
            "model": "text-embedding-004",
            "provider": "gcp.gemini",
        }
    ]


@pytest.mark.parametrize("flag", ["log_omit_inputs", "log_omit_outputs", "log_omit"])
async def test_embeddings_omitted(flag: str, both: Any, provider: Any, records: Any, told: Any) -> None:
    await both.wait(both.wrapped(**{flag: True}).models.embed_content(model="e", contents="canary"))
    if flag == "log_omit":
        assert records == []
        return
    found = told(records[0])
    assert ("inputs" in found, "output" in found) == (flag == "log_omit_outputs", flag == "log_omit_inputs")
    assert ("canary" in repr(found)) == (flag == "log_omit_outputs")


async def test_embeddings_that_fail(both: Any, provider: Any, records: Any) -> None:
    provider.reply(status=500, error="no")
    with pytest.raises(errors.ServerError):
        await both.wait(both.wrapped().models.embed_content(**EMBED))
    assert [(r.kind, r.status, r.error_type) for r in records] == [
        ("embedding", "error", "google.genai.errors.ServerError")
    ]
