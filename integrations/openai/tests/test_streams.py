"""A stream stays the library's own, however it is read; and every way to stop reading it ends its call, once."""

from __future__ import annotations

import asyncio
import gc
import json
import subprocess
import sys
import threading
from importlib.util import find_spec
from typing import Any

import openai
import pytest
from opentelemetry.context import get_current

import everycall
from everycall.integration import current

ASKED: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}
PIECES = ["storks", " fly", " south"]


def said(chunks: list[Any]) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


async def opened(both: Any, client: Any, **more: Any) -> Any:
    return await both.wait(client.chat.completions.create(**ASKED, stream=True, **more))


async def test_the_stream_is_the_librarys_own(both: Any, provider: Any, records: Any) -> None:
    """Its class, its members, its response and its pieces are those of a client that is not wrapped."""
    provider.default.pieces = PIECES
    plain, traced = await opened(both, both.client()), await opened(both, both.wrapped())
    assert type(traced) is type(plain) is (openai.AsyncStream if both.is_async else openai.Stream)
    assert vars(traced).keys() == vars(plain).keys()
    assert dir(traced) == dir(plain)
    assert type(traced.response) is type(plain.response)
    assert traced.response.status_code == 200
    expected = [chunk.to_dict() for chunk in await both.all(plain)]
    assert [chunk.to_dict() for chunk in await both.all(traced)] == expected
    assert len(records) == 1


async def test_the_chunk_with_usage_is_hidden(both: Any, provider: Any, records: Any) -> None:
    """It is asked for, recorded, and not seen: the caller has what it would have had."""
    chunks = await both.all(await opened(both, both.wrapped()))
    assert provider.requests[0].body["stream_options"] == {"include_usage": True}
    assert all(chunk.choices and "usage" not in chunk.to_dict() for chunk in chunks)
    assert (records[0].input_tokens, records[0].output_tokens) == (22, 189)


async def test_a_caller_that_asks_gets_the_chunk(both: Any, provider: Any, records: Any) -> None:
    chunks = await both.all(await opened(both, both.wrapped(), stream_options={"include_usage": True}))
    assert chunks[-1].usage.prompt_tokens == 22
    assert chunks[0].to_dict()["usage"] is None
    assert records[0].input_tokens == 22


async def test_a_caller_that_declines_is_obeyed(both: Any, provider: Any, records: Any) -> None:
    await both.all(await opened(both, both.wrapped(), stream_options={"include_usage": False}))
    assert provider.requests[0].body["stream_options"] == {"include_usage": False}
    assert (records[0].input_tokens, records[0].content) == (None, "hello")


async def test_other_options_of_a_stream_stay(both: Any, provider: Any, records: Any) -> None:
    options = {"include_obfuscation": False}
    await both.all(await opened(both, both.wrapped(), stream_options=options))
    assert provider.requests[0].body["stream_options"] == {"include_obfuscation": False, "include_usage": True}
    assert options == {"include_obfuscation": False}


@pytest.mark.parametrize("options", [{"provider": None}, {"stream_usage": False}])
async def test_tokens_are_unknown_where_nobody_asks(
    options: dict[str, Any], both: Any, provider: Any, records: Any
) -> None:
    await both.all(await opened(both, both.wrapped(**options)))
    assert "stream_options" not in provider.requests[0].body
    assert (records[0].input_tokens, records[0].usage, records[0].content) == (None, {}, "hello")


async def test_a_host_can_be_asked_by_option(both: Any, provider: Any, records: Any) -> None:
    await both.all(await opened(both, both.wrapped(provider="vllm", stream_usage=True)))
    assert (records[0].input_tokens, records[0].provider) == (22, "vllm")


@pytest.mark.parametrize("status", [400, 422])
async def test_a_server_that_refuses_to_tell_usage(status: int, both: Any, provider: Any, records: Any) -> None:
    """The request goes as the caller made it, once; later ones do not ask, nor do those of a copied client."""
    provider.reply(status=status, error="Unrecognized request argument supplied: stream_options")
    client = both.wrapped()
    assert said(await both.all(await opened(both, client))) == "hello"
    assert said(await both.all(await opened(both, client.with_options(timeout=20)))) == "hello"
    assert ["stream_options" in seen.body for seen in provider.requests] == [True, False, False]
    assert [(r.status, r.content, r.input_tokens) for r in records] == [("success", "hello", None)] * 2


async def test_another_refusal_is_the_callers(both: Any, provider: Any, records: Any) -> None:
    provider.reply(status=400, error="messages: too long")
    with pytest.raises(openai.BadRequestError):
        await opened(both, both.wrapped())
    assert len(provider.requests) == len(records) == 1


async def test_read_by_hand(both: Any, provider: Any, records: Any) -> None:
    """With `next()`, in turns with a loop; past its end it stays ended."""
    provider.reply(pieces=PIECES)
    stream = await opened(both, both.wrapped())
    chunks = [await both.next(stream), await both.next(stream)]
    chunks += await both.all(stream)
    assert said(chunks) == "storks fly south"
    assert [r.content for r in records] == ["storks fly south"]
    assert await both.next(stream) is None
    assert await both.all(stream) == []
    await both.wait(stream.close())
    assert len(records) == 1


async def test_break_and_read_on(both: Any, provider: Any, records: Any) -> None:
    """`break` ends nothing: the stream can be read on, as ever."""
    provider.reply(pieces=PIECES)
    stream = await opened(both, both.wrapped())
    chunks = []
    if both.is_async:
        async for chunk in stream:
            chunks.append(chunk)
            break
    else:
        for chunk in stream:
            chunks.append(chunk)
            break
    assert records == []
    assert said(chunks + await both.all(stream)) == "storks fly south"
    assert [(r.error_type, r.content) for r in records] == [(None, "storks fly south")]


async def test_close(both: Any, provider: Any, records: Any) -> None:
    reply = provider.reply(pieces=PIECES, pause_after=2)
    stream = await opened(both, both.wrapped())
    for _ in range(3):
        await both.next(stream)
    await both.wait(stream.close())
    await both.wait(stream.close())
    reply.go.set()
    assert stream.response.is_closed
    assert [(r.status, r.error_type, r.content) for r in records] == [("success", "abandoned", "storks fly")]


async def test_its_response_is_closed(both: Any, provider: Any, records: Any) -> None:
    stream = await opened(both, both.wrapped())
    await both.wait(stream.response.aclose() if both.is_async else stream.response.close())
    assert [(r.error_type, r.content) for r in records] == [("abandoned", None)]


async def test_with_and_read_to_the_end(both: Any, provider: Any, records: Any) -> None:
    stream = await opened(both, both.wrapped())
    assert await both.enter(stream) is stream
    await both.all(stream)
    await both.leave(stream)
    assert [(r.error_type, r.content) for r in records] == [(None, "hello")]


async def test_left_once_the_model_has_said_all(both: Any, provider: Any, records: Any) -> None:
    """Who stops at the reason for the end has read the whole answer, only not its tokens."""
    stream = await opened(both, both.wrapped())
    while not (await both.next(stream)).choices[0].finish_reason:
        pass
    await both.wait(stream.close())
    assert [(r.error_type, r.content, r.input_tokens) for r in records] == [(None, "hello", None)]


async def test_collected_unread(both: Any, provider: Any, records: Any) -> None:
    reply = provider.reply(pieces=PIECES, pause_after=1)
    stream = await opened(both, both.wrapped())
    await both.next(stream)
    await both.next(stream)
    del stream
    gc.collect()
    await asyncio.sleep(0)
    reply.go.set()
    assert [(r.status, r.error_type, r.content) for r in records] == [("success", "abandoned", "storks")]


async def test_an_error_event(both: Any, provider: Any, records: Any) -> None:
    provider.reply(pieces=PIECES, error_after=2)
    with pytest.raises(openai.APIError, match="overloaded in the middle"):
        await both.all(await opened(both, both.wrapped()))
    assert [(r.status, r.error_type, r.content) for r in records] == [("error", "openai.APIError", "storks fly")]


async def test_time_to_first_token_is_that_of_the_first_word(both: Any, provider: Any, records: Any) -> None:
    """Not of the opening chunk, which has a role and no word."""
    reply = provider.reply(pieces=PIECES, pause_after=0)
    stream = await opened(both, both.wrapped())
    await both.next(stream)
    threading.Timer(0.2, reply.go.set).start()
    await both.all(stream)
    assert 0.2 <= records[0].time_to_first_token <= records[0].latency


async def test_no_context_is_left_attached(both: Any, provider: Any, records: Any) -> None:
    """Between two pieces the reader is in its own context, and what it opens there is not below the stream's call."""
    provider.reply(pieces=PIECES)
    before = get_current()
    stream = await opened(both, both.wrapped())
    assert get_current() is before
    assert current() is None
    await both.next(stream)
    assert get_current() is before
    with everycall.span("between"):
        await both.next(stream)
    await both.all(stream)
    assert get_current() is before
    between, answer = records
    assert (between.name, between.parent_id, answer.parent_id) == ("between", None, None)


async def test_a_stream_stays_in_the_trace_it_was_opened_in(both: Any, provider: Any, records: Any) -> None:
    """Read by another task or thread, outside of the call that opened it."""
    with everycall.span("asks"):
        stream = await opened(both, both.wrapped())
    if both.is_async:
        await asyncio.create_task(both.all(stream))
    else:
        await asyncio.to_thread(list, stream)
    asks, answer = records
    assert (answer.parent_id, answer.trace_id, answer.content) == (asks.inference_id, asks.trace_id, "hello")


async def test_many_streams_at_once(provider: Any, records: Any) -> None:
    import everycall_openai

    async def one(number: int) -> None:
        with everycall.span(f"s{number}"):
            stream = await client.chat.completions.create(
                model="gpt-4o", messages=[{"role": "user", "content": str(number)}], stream=True
            )
        async for _ in stream:
            await asyncio.sleep(0)

    async with openai.AsyncOpenAI(base_url=provider.base_url, api_key="k", max_retries=0) as client:
        everycall_openai.wrap(client, provider="openai")
        await asyncio.gather(*(one(number) for number in range(40)))
    above = {record.inference_id: record for record in records if record.name.startswith("s")}
    answers = [record for record in records if record.kind == "llm"]
    assert len(answers) == len(above) == 40
    for answer in answers:
        asked = json.loads(bytes(answer.llm_configuration))["messages"][0]["content"]
        assert above[answer.parent_id].name == f"s{asked}"
        assert answer.content == "hello"


# --- the library's helpers: `stream()` ---


async def test_the_helpers_snapshots_and_final_completion(
    both: Any, provider: Any, records: Any, chat_helpers: Any
) -> None:
    """They are what they are without us: no usage, since the caller did not ask for it."""
    provider.default.pieces = PIECES
    found = []
    for client in (both.client(), both.wrapped()):
        manager = chat_helpers(client).stream(**ASKED)
        stream = await both.enter(manager)
        kinds = [event.type for event in await both.all(stream)]
        final = await both.wait(stream.get_final_completion())
        await both.leave(manager)
        found.append((type(manager), type(stream), kinds, final.to_dict(), stream.current_completion_snapshot))
    assert found[0] == found[1]
    assert found[1][3]["choices"][0]["message"]["content"] == "storks fly south"
    assert [(r.content, r.input_tokens) for r in records] == [("storks fly south", 22)]


async def test_until_done(both: Any, provider: Any, records: Any, chat_helpers: Any) -> None:
    manager = chat_helpers(both.wrapped()).stream(**ASKED)
    stream = await both.enter(manager)
    await both.wait(stream.until_done())
    await both.leave(manager)
    assert [(r.content, r.input_tokens) for r in records] == [("hello", 22)]


@pytest.mark.skipif(find_spec("openai.resources.responses") is None, reason="this version has no Responses API")
async def test_the_final_response(both: Any, provider: Any, records: Any) -> None:
    manager = both.wrapped().responses.stream(model="gpt-4o", input="hi")
    stream = await both.enter(manager)
    final = await both.wait(stream.get_final_response())
    await both.leave(manager)
    assert (final.output_text, final.usage.input_tokens) == ("hello", 22)
    assert [(r.content, r.input_tokens) for r in records] == [("hello", 22)]


# --- processes ---

LEFT_OPEN = """
import os, sys
import openai, everycall, everycall_openai

client = everycall_openai.wrap(openai.OpenAI(base_url=sys.argv[1], api_key="k"), provider="openai")
stream = client.chat.completions.create(model="gpt-4o", messages=[], stream=True)
next(stream); next(stream)
if sys.argv[2] == "fork":
    child = os.fork()
    if child == 0:
        sys.exit()
    os.waitpid(child, 0)
    rest = list(stream)
"""


@pytest.mark.parametrize(("end", "kinds"), [("exit", ["abandoned"]), ("fork", [None])])
def test_a_stream_open_at_the_end_of_the_process(end: str, kinds: list[Any], provider: Any, tmp_path: Any) -> None:
    """It is recorded when the process ends, and by that process alone: a forked child has no part in it."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LEFT_OPEN, provider.base_url, end],
        env={"EVERYCALL_HOME": str(tmp_path), "EVERYCALL_ENDPOINT": "http://127.0.0.1:9", "PATH": ""},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()).decode("utf-8", "replace")
    lines = [line[line.index('{"inference_id"') :] for line in written.splitlines() if '{"inference_id"' in line]
    found = [json.JSONDecoder().raw_decode(line)[0] for line in lines]
    assert [record.get("error_type") for record in found] == kinds
    assert found[0]["content"] == "hello"
