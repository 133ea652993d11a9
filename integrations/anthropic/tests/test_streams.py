"""A stream stays the library's own, however it is read; and every way to stop reading it ends its call, once."""

from __future__ import annotations

import asyncio
import gc
import json
import subprocess
import sys
import threading
from typing import Any

import anthropic
import pytest
from opentelemetry.context import get_current

import everycall
import everycall_anthropic
from everycall.integration import current

ASKED: dict[str, Any] = {"model": "claude-test", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
PIECES = ["storks", " fly", " south"]
HAS_SPEECH = 3
"""A stream's first events before its first piece: of the message, of its block, and that piece."""


def said(events: list[Any]) -> str:
    return "".join(event.delta.text for event in events if event.type == "content_block_delta")


async def opened(both: Any, client: Any, **more: Any) -> Any:
    return await both.wait(client.messages.create(**ASKED, stream=True, **more))


async def test_the_stream_is_the_librarys_own(both: Any, provider: Any, records: Any) -> None:
    """Its class, its members, its response and its pieces are those of a client that is not wrapped."""
    provider.default.pieces = PIECES
    plain, traced = await opened(both, both.client()), await opened(both, both.wrapped())
    assert type(traced) is type(plain) is (anthropic.AsyncStream if both.is_async else anthropic.Stream)
    assert dir(traced) == dir(plain)
    assert type(traced.response) is type(plain.response)
    assert traced.response.status_code == 200
    expected = [event.to_dict() for event in await both.all(plain)]
    assert [event.to_dict() for event in await both.all(traced)] == expected
    assert len(records) == 1


async def test_read_by_hand(both: Any, provider: Any, records: Any) -> None:
    """With `next()`, in turns with a loop; past its end it stays ended."""
    provider.reply(pieces=PIECES)
    stream = await opened(both, both.wrapped())
    events = [await both.next(stream) for _ in range(HAS_SPEECH)]
    events += await both.all(stream)
    assert said(events) == "storks fly south"
    assert [r.content for r in records] == ["storks fly south"]
    assert await both.next(stream) is None
    assert await both.all(stream) == []
    await both.wait(stream.close())
    assert len(records) == 1


async def test_break_and_read_on(both: Any, provider: Any, records: Any) -> None:
    """`break` ends nothing: the stream can be read on, as ever."""
    provider.reply(pieces=PIECES)
    stream = await opened(both, both.wrapped())
    events = []
    if both.is_async:
        async for event in stream:
            events.append(event)
            break
    else:
        for event in stream:
            events.append(event)
            break
    assert records == []
    assert said(events + await both.all(stream)) == "storks fly south"
    assert [(r.error_type, r.content) for r in records] == [(None, "storks fly south")]


async def test_its_response_is_closed(both: Any, provider: Any, records: Any) -> None:
    stream = await opened(both, both.wrapped())
    await both.wait(stream.response.aclose() if both.is_async else stream.response.close())
    assert [(r.error_type, r.content, r.input_tokens) for r in records] == [("abandoned", None, None)]


async def test_with_and_read_to_the_end(both: Any, provider: Any, records: Any) -> None:
    stream = await opened(both, both.wrapped())
    assert await both.enter(stream) is stream
    await both.all(stream)
    await both.leave(stream)
    assert [(r.error_type, r.content) for r in records] == [(None, "hello")]


async def test_left_once_the_model_has_said_all(both: Any, provider: Any, records: Any) -> None:
    """Who stops at the event with the reason for the end has all there is, its tokens too."""
    stream = await opened(both, both.wrapped())
    while (await both.next(stream)).type != "message_delta":
        pass
    await both.wait(stream.close())
    assert [(r.error_type, r.content, r.output_tokens) for r in records] == [(None, "hello", 189)]


async def test_left_before_it_is_read(both: Any, provider: Any, records: Any) -> None:
    """Dropped as it came, after a piece, or in the middle of a loop: abandoned all the same."""
    replies = [provider.reply(pieces=PIECES, pause_after=1) for _ in range(2)]
    client = both.wrapped()
    unread = await opened(both, client)
    begun = await opened(both, client)
    for _ in range(HAS_SPEECH):
        await both.next(begun)
    del unread, begun
    gc.collect()
    for _ in range(200):  # an asynchronous generator that is dropped is closed by the loop, in its own time
        if len(records) == 2:
            break
        await asyncio.sleep(0.01)
    for reply in replies:
        reply.go.set()
    assert sorted((r.status, r.error_type, r.content or "") for r in records) == [
        ("success", "abandoned", ""),
        ("success", "abandoned", "storks"),
    ]


async def test_time_to_first_token_is_that_of_the_first_word(both: Any, provider: Any, records: Any) -> None:
    """Not of the opening events, which have no word."""
    reply = provider.reply(pieces=PIECES, pause_after=0)
    stream = await opened(both, both.wrapped())
    await both.next(stream)
    threading.Timer(0.2, reply.go.set).start()
    await both.all(stream)
    assert 0.2 <= records[0].time_to_first_token <= records[0].latency


async def test_no_context_is_left_attached(both: Any, provider: Any, records: Any) -> None:
    """Between two events the reader is in its own context, and what it opens there is not below the stream's call."""
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
    async def one(number: int) -> None:
        with everycall.span(f"s{number}"):
            asked = {**ASKED, "messages": [{"role": "user", "content": str(number)}]}
            stream = await client.messages.create(**asked, stream=True)
        async for _ in stream:
            await asyncio.sleep(0)

    async with anthropic.AsyncAnthropic(base_url=provider.root, api_key="k", max_retries=0) as client:
        everycall_anthropic.wrap(client)
        await asyncio.gather(*(one(number) for number in range(40)))
    above = {record.inference_id: record for record in records if record.name.startswith("s")}
    answers = [record for record in records if record.kind == "llm"]
    assert len(answers) == len(above) == 40
    for answer in answers:
        asked = json.loads(bytes(answer.llm_configuration))["messages"][0]["content"]
        assert above[answer.parent_id].name == f"s{asked}"
        assert answer.content == "hello"


# --- the library's helper: `messages.stream()` ---


async def test_the_helpers_events_and_final_message(both: Any, provider: Any, records: Any) -> None:
    """They are what they are without us."""
    provider.default.pieces = PIECES
    found = []
    for client in (both.client(), both.wrapped()):
        manager = client.messages.stream(**ASKED)
        stream = await both.enter(manager)
        kinds = [event.type for event in await both.all(stream)]
        final = await both.wait(stream.get_final_message())
        text = await both.wait(stream.get_final_text())
        await both.leave(manager)
        found.append((type(manager), type(stream), kinds, final.to_dict(), text, stream.current_message_snapshot))
    assert found[0] == found[1]
    assert found[1][4] == "storks fly south"
    assert [(r.content, r.input_tokens, r.output_tokens) for r in records] == [("storks fly south", 22, 189)]


async def test_the_text_stream(both: Any, provider: Any, records: Any) -> None:
    provider.reply(pieces=PIECES)
    manager = both.wrapped().messages.stream(**ASKED)
    stream = await both.enter(manager)
    assert await both.all(stream.text_stream) == PIECES
    await both.leave(manager)
    assert [r.content for r in records] == ["storks fly south"]


async def test_until_done(both: Any, provider: Any, records: Any) -> None:
    manager = both.wrapped().messages.stream(**ASKED)
    stream = await both.enter(manager)
    await both.wait(stream.until_done())
    await both.leave(manager)
    assert [(r.content, r.error_type) for r in records] == [("hello", None)]


async def test_a_helper_that_is_never_entered(both: Any, provider: Any, records: Any) -> None:
    """Nothing is sent, so nothing is recorded."""
    manager = both.wrapped().messages.stream(**ASKED)
    if both.is_async:  # the request is a coroutine that nobody awaits
        vars(manager)["_AsyncMessageStreamManager__api_request"].close()
    del manager
    gc.collect()
    assert (records, provider.requests) == ([], [])


# --- processes ---

LEFT_OPEN = """
import os, sys
import anthropic, everycall, everycall_anthropic

client = everycall_anthropic.wrap(anthropic.Anthropic(base_url=sys.argv[1], api_key="k"))
stream = client.messages.create(model="claude-test", max_tokens=9, messages=[], stream=True)
next(stream); next(stream); next(stream)
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
        [sys.executable, "-W", "ignore", "-c", LEFT_OPEN, provider.root, end],
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
