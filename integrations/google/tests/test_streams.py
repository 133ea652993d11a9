"""A stream stays the library's own kind, however it is read; and every way to stop reading it ends its call, once."""

from __future__ import annotations

import asyncio
import gc
import inspect
import json
import subprocess
import sys
import threading
import time
from typing import Any

import pytest
from google import genai
from google.genai import types
from opentelemetry.context import get_current

import everycall
import everycall_google
from everycall.integration import current

ASKED: dict[str, Any] = {"model": "gemini-2.5-flash", "contents": "hi"}
PIECES = ["storks", " fly", " south"]
makers = pytest.mark.parametrize("of", ["models", "chat"])


def said(chunks: list[Any]) -> str:
    return "".join(chunk.text or "" for chunk in chunks)


async def opened(both: Any, client: Any, of: str = "models") -> Any:
    if of == "chat":
        return await both.wait(client.chats.create(model="gemini-2.5-flash").send_message_stream("hi"))
    return await both.wait(client.models.generate_content_stream(**ASKED))


@makers
async def test_the_stream_is_what_the_library_returns(of: str, both: Any, provider: Any, records: Any) -> None:
    """A generator, or an async one, of the same name, with the same pieces."""
    provider.default.pieces = PIECES
    plain, traced = await opened(both, both.client(), of), await opened(both, both.wrapped(), of)
    assert type(traced) is type(plain)
    assert (inspect.isgenerator(traced), inspect.isasyncgen(traced)) == (not both.is_async, both.is_async)
    assert (traced.__name__, traced.__qualname__) == (plain.__name__, plain.__qualname__)
    expected = [chunk.candidates for chunk in await both.all(plain)]
    assert [chunk.candidates for chunk in await both.all(traced)] == expected
    assert len(records) == 1


async def test_read_by_hand(both: Any, provider: Any, records: Any) -> None:
    """With `next()`, in turns with a loop; past its end it stays ended."""
    provider.reply(pieces=PIECES)
    stream = await opened(both, both.wrapped())
    chunks = [await both.next(stream), await both.next(stream)]
    chunks += await both.all(stream)
    assert said(chunks) == "storks fly south"
    assert [r.content for r in records] == ["storks fly south"]
    assert await both.next(stream) is None
    await both.leave(stream)
    assert len(records) == 1


async def test_break_and_read_on(both: Any, provider: Any, records: Any) -> None:
    """`break` ends nothing as long as the stream is kept."""
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
    await both.settle()
    assert records == []
    assert said(chunks + await both.all(stream)) == "storks fly south"
    assert [(r.error_type, r.content) for r in records] == [(None, "storks fly south")]


async def test_dropped_in_a_loop(both: Any, provider: Any, records: Any) -> None:
    """`for ... in client.models.generate_content_stream(...): break`, the most common way to stop."""
    reply = provider.reply(pieces=PIECES, pause_after=2)
    client = both.wrapped()
    if both.is_async:
        async for _ in await client.models.generate_content_stream(**ASKED):
            break
    else:
        for _ in client.models.generate_content_stream(**ASKED):
            break
    await both.settle()
    reply.go.set()
    assert [(r.status, r.error_type, r.content) for r in records] == [("success", "abandoned", "storks")]


async def test_a_reader_that_fails_abandons_its_stream(both: Any, provider: Any, records: Any) -> None:
    reply = provider.reply(pieces=PIECES, pause_after=1)

    async def read() -> None:
        stream = await opened(both, both.wrapped())
        await both.next(stream)
        raise ValueError("the reader's own")

    with pytest.raises(ValueError, match="the reader's own"):
        await read()
    gc.collect()
    await both.settle()
    reply.go.set()
    assert [(r.status, r.error_type, r.content) for r in records] == [("success", "abandoned", "storks")]


async def test_left_once_the_model_has_said_all(both: Any, provider: Any, records: Any) -> None:
    """Who stops at the reason for the end has read the whole answer."""
    stream = await opened(both, both.wrapped())
    while not (await both.next(stream)).candidates[0].finish_reason:
        pass
    await both.leave(stream)
    assert [(r.error_type, r.content, r.output_tokens) for r in records] == [(None, "hello", 189)]


async def test_a_stream_that_is_never_read_asks_nothing(both: Any, provider: Any, records: Any) -> None:
    """The library sends its request with the first step: no request, no record."""
    stream = await opened(both, both.wrapped())
    del stream
    gc.collect()
    await both.settle()
    assert (records, provider.requests) == ([], [])


async def test_time_to_first_token(both: Any, provider: Any, records: Any) -> None:
    reply = provider.reply(pieces=PIECES, pause_after=0)

    def speak() -> None:
        provider.arrived.acquire()
        time.sleep(0.2)
        reply.go.set()

    threading.Thread(target=speak).start()
    await both.all(await opened(both, both.wrapped()))
    assert 0.2 <= records[0].time_to_first_token <= records[0].latency


async def test_no_context_is_left_attached(both: Any, provider: Any, records: Any) -> None:
    """Between two pieces the reader is in its own context, and what it opens there is not below the stream's call."""
    provider.reply(pieces=PIECES)
    before = get_current()
    stream = await opened(both, both.wrapped())
    assert get_current() is before
    await both.next(stream)
    assert get_current() is before
    assert current() is None
    with everycall.span("between"):
        await both.next(stream)
    await both.all(stream)
    assert get_current() is before
    between, answer = records
    assert (between.name, between.parent_id, answer.parent_id) == ("between", None, None)


# --- a stream belongs where it was asked for ---


@makers
async def test_a_stream_stays_in_the_trace_it_was_asked_for_in(of: str, both: Any, provider: Any, records: Any) -> None:
    """Read by another task or thread, within another call."""
    client = both.wrapped()
    with everycall.span("asks"):
        stream = await opened(both, client, of)

    with everycall.span("reads"):
        if both.is_async:
            await asyncio.create_task(both.all(stream))
        else:
            await asyncio.to_thread(list, stream)
    by_name = {record.name: record for record in records}
    answer = by_name["generate_content gemini-2.5-flash"]
    assert (answer.parent_id, answer.content) == (by_name["asks"].inference_id, "hello")
    assert answer.trace_id != by_name["reads"].trace_id


@makers
async def test_a_stream_stays_under_the_flags_it_was_asked_for_under(
    of: str, both: Any, provider: Any, records: Any
) -> None:
    client = both.wrapped()
    with everycall.context(log_omit_outputs=True, trace_id="order-42"):
        stream = await opened(both, client, of)
    await both.all(stream)
    assert [(r.trace_id, r.content, r.omitted) for r in records] == [("order-42", None, ["attributes", "outputs"])]
    with everycall.context(log_omit=True):
        stream = await opened(both, client, of)
    await both.all(stream)
    assert len(records) == 1


async def test_a_stream_asked_for_outside_stays_outside(both: Any, records: Any) -> None:
    stream = await opened(both, both.wrapped())
    with everycall.span("reads"):
        await both.all(stream)
    by_name = {record.name: record for record in records}
    assert by_name["generate_content gemini-2.5-flash"].parent_id is None


async def test_everywhere_too(both: Any, records: Any) -> None:
    everycall_google.instrument()
    try:
        for of in ("models", "chat"):
            with everycall.span("asks"):
                stream = await opened(both, both.client(), of)
            await both.all(stream)
            assert records[-1].parent_id == records[-2].inference_id
    finally:
        everycall_google.uninstrument()


async def test_what_is_thrown_into_a_stream_is_its_own(both: Any, provider: Any, records: Any) -> None:
    """As the library's generator has it: it ends with it."""
    provider.default.pieces = PIECES
    for client in (both.client(), both.wrapped()):
        stream = await opened(both, client)
        await both.next(stream)
        with pytest.raises(ZeroDivisionError):
            await both.wait((stream.athrow if both.is_async else stream.throw)(ZeroDivisionError()))
        assert await both.next(stream) is None
    gc.collect()
    await both.settle()
    assert [(r.error_type, r.content) for r in records] == [("abandoned", "storks")]


async def test_many_streams_at_once(provider: Any, records: Any) -> None:
    client: Any = genai.Client(api_key="k", http_options=types.HttpOptions(base_url=provider.root))
    everycall_google.wrap(client)

    async def one(number: int) -> None:
        with everycall.span(f"s{number}"):
            stream = await client.aio.models.generate_content_stream(model="gemini-2.5-flash", contents=str(number))
        async for _ in stream:
            await asyncio.sleep(0)

    await asyncio.gather(*(one(number) for number in range(40)))
    await client._api_client._async_httpx_client.aclose()
    client._api_client._httpx_client.close()
    above = {record.inference_id: record for record in records if record.name.startswith("s")}
    answers = [record for record in records if record.kind == "llm"]
    assert len(answers) == len(above) == 40
    for answer in answers:
        asked = json.loads(bytes(answer.llm_configuration))["messages"][0]["content"]
        assert above[answer.parent_id].name == f"s{asked}"
        assert answer.content == "hello"


# --- processes ---

LEFT_OPEN = """
import asyncio, os, sys
from google import genai
from google.genai import types
import everycall, everycall_google

client = everycall_google.wrap(genai.Client(api_key="k", http_options=types.HttpOptions(base_url=sys.argv[1])))
asked = {"model": "gemini-2.5-flash", "contents": "hi"}
if sys.argv[2] == "loop":
    async def main():
        global stream
        stream = await client.aio.models.generate_content_stream(**asked)
        await anext(stream)
    asyncio.run(main())
else:
    stream = client.models.generate_content_stream(**asked)
    next(stream)
if sys.argv[2] == "fork":
    child = os.fork()
    if child == 0:
        sys.exit()
    os.waitpid(child, 0)
    rest = list(stream)
"""


@pytest.mark.parametrize(("end", "kinds"), [("exit", ["abandoned"]), ("loop", ["abandoned"]), ("fork", [None])])
def test_a_stream_open_at_the_end_of_the_process(end: str, kinds: list[Any], provider: Any, tmp_path: Any) -> None:
    """It is recorded when the process or its loop ends, and by that process alone: a forked child has no part in it."""
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
