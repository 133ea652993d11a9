"""What a traced function returns and that runs later is followed: generators, coroutines, bodies of responses."""

from __future__ import annotations

import asyncio
import gc
import inspect
import types
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any

import pytest

from everycall import current, span, trace
from everycall.record import Record, to_json
from everycall.testing import capture_records


def words() -> Iterator[str]:
    for word in ("a", "b", "c"):
        with span("model", inputs=f"prompt {word}"):
            pass
        yield word


async def async_words() -> AsyncIterator[str]:
    for word in words():
        await asyncio.sleep(0)
        yield word


async def answer() -> str:
    with span("model", inputs="prompt"):
        await asyncio.sleep(0)
    return "abc"


async def collect(items: AsyncIterator[Any]) -> list[Any]:
    return [item async for item in items]


def check_below(records: list[Record], count: int = 3) -> Record:
    """The last record is that of the function; the others are below it, and in its session."""
    *below, outer = records
    assert [record.name for record in below] == ["model"] * count
    assert {record.parent_id for record in below} == {outer.inference_id}
    assert {record.session_id for record in records} == {"s"}
    assert outer.end_time_unix_nano is not None
    assert all((record.end_time_unix_nano or 0) <= outer.end_time_unix_nano for record in below)
    return outer


def test_a_returned_generator() -> None:
    @trace(session_id="s")
    def returns() -> Iterator[str]:
        return words()

    with capture_records() as records:
        steps = returns()
        assert records == []
        assert type(steps) is types.GeneratorType
        assert steps.__name__ == "words"
        assert list(steps) == ["a", "b", "c"]
    assert to_json(check_below(records).output) == "abc"


def test_a_returned_generator_of_a_coroutine() -> None:
    @trace(session_id="s")
    async def returns() -> AsyncIterator[str]:
        return async_words()

    async def run() -> list[str]:
        steps = await returns()
        assert inspect.isasyncgen(steps)
        assert not current().inference_id
        return await collect(steps)

    with capture_records() as records:
        assert asyncio.run(run()) == ["a", "b", "c"]
    assert to_json(check_below(records).output) == "abc"


def test_a_returned_async_generator() -> None:
    @trace(session_id="s")
    def returns() -> AsyncIterator[str]:
        return async_words()

    with capture_records() as records:
        assert asyncio.run(collect(returns())) == ["a", "b", "c"]
    assert to_json(check_below(records).output) == "abc"


def test_a_returned_coroutine() -> None:
    @trace(session_id="s")
    def returns() -> Coroutine[Any, Any, str]:
        return answer()

    with capture_records() as records:
        waiting = returns()
        assert inspect.iscoroutine(waiting)
        assert waiting.__qualname__ == "answer"
        assert asyncio.run(waiting) == "abc"
    assert to_json(check_below(records, 1).output) == "abc"


def test_a_returned_coroutine_that_fails() -> None:
    async def fail() -> None:
        raise ValueError("no")

    with capture_records() as records:
        with pytest.raises(ValueError, match="no") as info:
            asyncio.run(trace(lambda: fail())())
    assert (records[0].status, records[0].error) == ("error", "ValueError: no")
    assert info.value.__context__ is None


def test_a_returned_coroutine_of_a_coroutine_and_a_generator() -> None:
    async def later() -> Iterator[str]:
        return words()

    with capture_records() as records:
        steps = asyncio.run(trace(session_id="s")(lambda: later())())
        assert list(steps) == ["a", "b", "c"]
    assert to_json(check_below(records).output) == "abc"


def test_omit_flags_hold_for_what_runs_later() -> None:
    @trace(log_omit_inputs=True, session_id="s")
    def returns() -> Iterator[str]:
        return words()

    with capture_records() as records:
        list(returns())
    check_below(records)
    assert {to_json(record.inputs) for record in records} == {None}
    assert {tuple(record.omitted) for record in records} == {("inputs",)}


def test_a_generator_that_is_left_early() -> None:
    @trace
    def returns() -> Iterator[str]:
        return words()

    with capture_records() as records:
        steps = returns()
        assert next(steps) == "a"
        del steps
        gc.collect()
    assert (records[-1].error_type, to_json(records[-1].output)) == ("abandoned", "a")


def test_a_generator_that_is_never_begun() -> None:
    closed: list[str] = []

    def steps() -> Iterator[int]:
        closed.append("begun")
        yield 1

    with capture_records() as records:
        trace(lambda: steps())()
        gc.collect()
    assert closed == []
    assert records[0].error_type == "abandoned"


@pytest.mark.filterwarnings("ignore:coroutine '.*' was never awaited:RuntimeWarning")
def test_a_coroutine_that_is_never_awaited() -> None:
    with capture_records() as records:
        trace(lambda: answer())()  # type: ignore[unused-coroutine]
        gc.collect()
    assert [record.error_type for record in records] == ["abandoned"]


def test_a_generator_that_somebody_else_holds_goes_on() -> None:
    """Each use of the property takes one item: the generator must not be closed with what the property returned."""

    class Reader:
        def __init__(self) -> None:
            self._lines = words()

        @property
        def lines(self) -> Iterator[str]:
            return self._lines

    traced = trace(vars(Reader)["lines"].fget)
    reader = Reader()
    with capture_records() as records:
        assert traced(reader) is reader._lines
        assert [next(traced(reader)), next(traced(reader)), next(reader._lines)] == ["a", "b", "c"]
    outer = [record for record in records if record.name != "model"]
    assert [to_json(record.output) for record in outer] == ["<generator>"] * 3


def test_send_throw_and_close_reach_the_returned_generator() -> None:
    log: list[Any] = []

    def steps() -> Any:
        try:
            while True:
                try:
                    log.append((yield len(log)))
                except KeyError as error:
                    log.append(error)
        finally:
            log.append("closed")

    error = KeyError("x")
    with capture_records():
        generator = trace(lambda: steps())()
        assert (next(generator), generator.send("hello"), generator.throw(error)) == (0, 1, 2)
        generator.close()
    assert log == ["hello", error, "closed"]


def test_a_traced_generator_that_is_returned_is_below() -> None:
    with capture_records() as records:
        assert list(trace(lambda: traced())()) == [1]
    assert [record.name.rpartition(".")[2] for record in records] == ["traced", "<lambda>"]
    assert records[0].parent_id == records[1].inference_id


@trace
def traced() -> Iterator[int]:
    yield 1


def test_a_function_that_is_decorated_for_each_request_is_freed() -> None:
    """A traced function is freed as an undecorated one would be, also one that reaches itself."""
    import weakref

    class Marker:
        pass

    def make() -> list[weakref.ref[Any]]:
        marker = Marker()

        @trace
        def countdown(n: int) -> int:
            assert marker is not None
            return n if n == 0 else int(countdown(n - 1))

        countdown(2)
        again = trace(log_omit=True)(countdown)
        again(1)
        return [weakref.ref(marker), weakref.ref(countdown), weakref.ref(again)]

    with capture_records():
        references = [reference for _ in range(20) for reference in make()]
        gc.collect()
        assert [reference() for reference in references] == [None] * 60


# --- responses of web frameworks ---


def chunks() -> Iterator[bytes]:
    for word in ("a", "é", "c"):
        with span("model", inputs=word):
            pass
        yield word.encode()


async def async_chunks() -> AsyncIterator[str]:
    for chunk in chunks():
        yield chunk.decode()


@pytest.mark.parametrize("body", [chunks, async_chunks])
@pytest.mark.parametrize("is_async", [True, False])
async def test_starlette(body: Callable[[], Any], is_async: bool) -> None:
    import httpx
    from starlette.applications import Starlette
    from starlette.responses import StreamingResponse
    from starlette.routing import Route

    def work() -> StreamingResponse:
        return StreamingResponse(body(), media_type="text/plain")

    async def async_work() -> StreamingResponse:
        return work()

    async def endpoint(request: Any) -> StreamingResponse:
        return await trace(session_id="s")(async_work)() if is_async else trace(session_id="s")(work)()

    app = Starlette(routes=[Route("/", endpoint)])
    with capture_records() as records:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app") as http:
            assert (await http.get("/")).text == "aéc"
    assert to_json(check_below(records).output) == "aéc"


def test_flask() -> None:
    import flask

    app = flask.Flask("app")
    closed: list[str] = []

    def body() -> Iterator[bytes]:
        try:
            yield from chunks()
        finally:
            closed.append("body")

    @app.get("/")
    @trace(session_id="s")
    def endpoint() -> flask.Response:
        return flask.Response(flask.stream_with_context(body()))

    @app.get("/generator")
    @trace(session_id="s")
    def generator() -> Iterator[bytes]:
        return body()

    for path in ("/", "/generator"):
        with capture_records() as records:
            assert app.test_client().get(path).get_data(as_text=True) == "aéc"
        outer = check_below(records)
        assert closed.pop() == "body"
    assert outer.name.endswith("generator")


def test_a_plain_response_is_left_as_it_is() -> None:
    import flask

    response = flask.Response("whole")
    body = response.response
    with capture_records() as records:
        assert trace(lambda: response)() is response
    assert response.response is body
    assert len(records) == 1


@pytest.mark.parametrize("is_async", [False, True])
def test_django(is_async: bool) -> None:
    from django.conf import settings

    if not settings.configured:
        settings.configure(DEFAULT_CHARSET="utf-8")
    from django.http import StreamingHttpResponse

    async def read(response: Any) -> bytes:
        return b"".join([part async for part in response])

    with capture_records() as records:
        response: Any = trace(session_id="s")(lambda: StreamingHttpResponse(async_chunks() if is_async else chunks()))()
        assert type(response) is StreamingHttpResponse
        assert response.is_async is is_async
        content = asyncio.run(read(response)) if is_async else b"".join(response)
        response.close()
    assert content.decode() == "aéc"
    assert to_json(check_below(records).output) == "aéc"


async def test_litestar() -> None:
    from litestar import Litestar, get
    from litestar.response import Stream
    from litestar.testing import AsyncTestClient

    def respond() -> Any:
        return Stream(async_chunks())

    respond.__annotations__["return"] = Stream
    endpoint = get("/", sync_to_thread=False)(trace(session_id="s")(respond))

    with capture_records() as records:
        async with AsyncTestClient(Litestar([endpoint])) as http:
            assert (await http.get("/")).text == "aéc"
    assert to_json(check_below(records).output) == "aéc"
