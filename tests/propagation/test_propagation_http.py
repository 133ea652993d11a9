"""HTTP: the hooks of httpx and requests against a real server, and the middlewares with real applications."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from typing import Any, cast
from wsgiref.handlers import SimpleHandler
from wsgiref.util import FileWrapper, setup_testing_defaults
from wsgiref.validate import validator

import httpx
import httpx2
import pytest
import requests
from opentelemetry import trace as otel_trace

import everycall
from everycall import _guard
from everycall._call.call import OwnedCall
from everycall.propagation import (
    ASGIMiddleware,
    WSGIMiddleware,
    extract,
    instrument_httpx,
    instrument_requests,
    uninstrument,
)
from everycall.record import Record
from everycall.settings import Settings
from everycall.testing import capture_records

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"


@pytest.fixture
def settings() -> Settings:
    return Settings(propagate_to=("127.0.0.1",))


@pytest.fixture(autouse=True)
def records(settings: Settings) -> Iterator[list[Record]]:
    before = dict(_guard.failures)
    with capture_records(settings) as captured:
        yield captured
    assert _guard.failures == before


@everycall.trace
def child(n: int = 0) -> int:
    return n


# --- the clients' hooks, against a real server ---


@pytest.fixture
def echo() -> Iterator[Any]:
    """A server that keeps the headers of each request; `/to?URL` redirects. 127.0.0.1 and localhost both lead to it."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            path, _, target = self.path.partition("?")
            server.seen.append((self.headers["host"].split(":")[0], {k.lower(): v for k, v in self.headers.items()}))
            self.send_response(302 if path == "/to" else 200)
            if path == "/to":
                self.send_header("location", target)
            self.send_header("content-length", "0")
            self.end_headers()

        do_POST = do_GET

    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.seen = []
    server.at = f"http://127.0.0.1:{server.server_address[1]}"
    server.elsewhere = f"http://localhost:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def by_httpx(url: str, **headers: str) -> Any:
    with httpx.Client(follow_redirects=True) as client:
        return client.get(url, headers=headers)


def by_httpx_async(url: str, **headers: str) -> Any:
    async def main() -> Any:
        async with httpx.AsyncClient(follow_redirects=True) as client:
            return await client.get(url, headers=headers)

    return asyncio.run(main())


def by_httpx2(url: str, **headers: str) -> Any:
    with httpx2.Client(follow_redirects=True) as client:
        return client.get(url, headers=headers)


def by_requests(url: str, **headers: str) -> Any:
    with requests.Session() as session:
        return session.get(url, headers=headers, timeout=10)


CLIENTS = [by_httpx, by_httpx_async, by_httpx2, by_requests]
OURS = {"traceparent", "tracestate", "baggage"}


@pytest.fixture
def hooked() -> Iterator[None]:
    before = original_functions()
    instrument_httpx()
    instrument_requests()
    instrument_httpx()
    yield
    uninstrument()
    assert original_functions() == before


def original_functions() -> list[Any]:
    return [
        *(vars(c)["_send_single_request"] for m in (httpx, httpx2) for c in (m.Client, m.AsyncClient)),
        vars(requests.adapters.HTTPAdapter)["send"],
    ]


@pytest.mark.parametrize("get", CLIENTS)
@pytest.mark.usefixtures("hooked")
def test_a_request_to_a_listed_host_has_headers(get: Any, echo: Any) -> None:
    """The call in progress is the parent; the request object that the program sees has none of it afterwards."""
    with everycall.context(trace_id="order-42", session_id="s", log_omit_inputs=True), everycall.span("a") as call:
        answer = get(echo.at, colour="red")
    ((_, headers),) = echo.seen
    assert headers["traceparent"] == f"00-{cast(OwnedCall, call).trace_hex}-{cast(OwnedCall, call).span_id}-01"
    assert headers["baggage"] == "everycall.omit=inputs,everycall.trace_id=order-42,everycall.session_id=s"
    assert headers["colour"] == "red"
    assert OURS & {name.lower() for name in answer.request.headers} == set()


@pytest.mark.parametrize("get", CLIENTS)
@pytest.mark.usefixtures("hooked")
def test_no_other_host_gets_headers(get: Any, echo: Any) -> None:
    """Not by name, not by a redirect from a named host; one that is redirected to a named host tells that one alone."""
    with everycall.span("a"):
        get(echo.elsewhere)
        get(f"{echo.at}/to?{echo.elsewhere}/")
        get(f"{echo.elsewhere}/to?{echo.at}/")
    get(echo.at)
    assert [(host, bool(OURS & headers.keys())) for host, headers in echo.seen] == [
        ("localhost", False),
        ("127.0.0.1", True), ("localhost", False),
        ("localhost", False), ("127.0.0.1", True),
        ("127.0.0.1", False),
    ]  # fmt: skip


@pytest.mark.parametrize("get", CLIENTS)
@pytest.mark.usefixtures("hooked")
def test_the_programs_headers_take_precedence(get: Any, echo: Any) -> None:
    with everycall.context(session_id="s"), everycall.span("a"):
        answer = get(echo.at, traceparent=PARENT, baggage="a=1")
    ((_, headers),) = echo.seen
    assert (headers["traceparent"], headers["baggage"]) == (PARENT, "everycall.session_id=s,a=1")
    assert answer.request.headers["baggage"] == "a=1"


@pytest.mark.parametrize("get", CLIENTS)
def test_without_hooks_no_headers_are_sent(get: Any, echo: Any) -> None:
    with everycall.span("a"):
        get(echo.at)
    assert OURS & echo.seen[0][1].keys() == set()


@pytest.mark.parametrize("get", CLIENTS)
@pytest.mark.usefixtures("hooked")
def test_a_failing_request_fails_as_without_everycall(get: Any) -> None:
    """The library's own error, for a listed host."""
    with everycall.span("a"), pytest.raises((httpx.ConnectError, httpx2.ConnectError, requests.ConnectionError)):
        get("http://127.0.0.1:9/")


def test_init_installs_the_hooks_and_shutdown_undoes_them(echo: Any, tmp_path: Any) -> None:
    """`propagate_to` is enough: no further word, and only where it is given."""
    before = original_functions()
    everycall.init(spool_dir=tmp_path)
    assert original_functions() == before
    everycall.init(spool_dir=tmp_path, propagate_to=["127.0.0.1"])
    assert not set(map(id, original_functions())) & set(map(id, before))
    with everycall.span("a"):
        by_httpx(echo.at)
    assert "traceparent" in echo.seen[0][1]
    everycall.shutdown(0)
    assert original_functions() == before


# --- incoming requests ---

HEADERS = [(b"traceparent", PARENT.encode()), (b"baggage", b"everycall.session_id=s"), (b"host", b"a")]


async def serve(app: Any, scope: dict[str, Any]) -> list[Any]:
    messages = []

    async def send(message: Any) -> None:
        messages.append(message)

    async def receive() -> Any:
        return {"type": "http.request"}

    await app(scope, receive, send)
    return messages


@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_asgi_continues_the_callers_trace(kind: str, records: list[Record]) -> None:
    """For requests and websockets, in the app and in tasks that it starts; messages pass unchanged."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert not everycall.current().inference_id
        for n in range(3):
            child()
            await send({"n": n})
        await asyncio.create_task(asyncio.to_thread(child))

    assert await serve(ASGIMiddleware(app), {"type": kind, "headers": HEADERS}) == [{"n": n} for n in range(3)]
    child()
    assert [(r.trace_id, r.parent_id, r.session_id) for r in records[:4]] == [(TRACE, f"{TRACE}-{SPAN}", "s")] * 4
    assert records[4].parent_id is None


async def test_asgi_changes_nothing_else(records: list[Record]) -> None:
    """`lifespan`, requests that say nothing, headers given twice; exceptions pass, and leave nothing behind."""
    scopes = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scopes.append((scope, receive, send))
        child()
        raise RuntimeError("the app's own")

    async def never(*args: Any) -> None:
        raise AssertionError

    for scope in (
        {"type": "lifespan", "headers": HEADERS},
        {"type": "http"},
        {"type": "http", "headers": [HEADERS[0], HEADERS[0]]},
        {"type": "http", "headers": [(b"x" * 1_000_000, b""), (b"baggage", b"\xff\xff")]},
        {"type": "http", "headers": HEADERS},
    ):
        with pytest.raises(RuntimeError, match="the app's own"):
            await ASGIMiddleware(app)(scope, never, never)  # type: ignore[arg-type]
        assert scopes[-1] == (scope, never, never)
        assert extract({}) is None
    child()
    assert [r.trace_id == TRACE for r in records] == [False] * 4 + [True, False]


def call_wsgi(app: Any, **environ: Any) -> bytes:
    """Serve one request with the standard library's server side, its validator around the app."""
    out = BytesIO()
    setup_testing_defaults(environ)
    environ.setdefault("QUERY_STRING", "")
    handler = SimpleHandler(BytesIO(), out, BytesIO(), environ, multithread=False)  # type: ignore[arg-type]
    handler.run(validator(app))
    return out.getvalue()


WSGI_HEADERS = {"HTTP_TRACEPARENT": PARENT, "HTTP_BAGGAGE": "everycall.session_id=s"}


class Streamed:
    def __init__(self) -> None:
        self.closed = False
        self.count = 0

    def __iter__(self) -> Any:
        child()
        return self

    def __next__(self) -> bytes:
        child()
        self.count += 1
        if self.count == 3:
            raise StopIteration
        return b"piece"

    def close(self) -> None:
        child()
        self.closed = True


def test_wsgi_continues_the_callers_trace(records: list[Record]) -> None:
    """While the app runs, while its body is produced piece by piece, and while it is closed; not in between."""
    between, bodies = [], []

    def app(environ: Any, start_response: Any) -> Any:
        child()
        start_response("200 OK", [("content-type", "text/plain")])
        bodies.append(Streamed())
        return bodies[-1]

    assert call_wsgi(WSGIMiddleware(app), **WSGI_HEADERS).endswith(b"piecepiece")
    assert bodies[0].closed
    assert [(r.trace_id, r.parent_id, r.session_id) for r in records] == [(TRACE, f"{TRACE}-{SPAN}", "s")] * 6
    environ = dict(WSGI_HEADERS)
    for _ in WSGIMiddleware(app)(environ, lambda *a: None):
        between.append(otel_trace.get_current_span())
    assert between == [otel_trace.INVALID_SPAN] * 2


def test_wsgi_returns_bodies() -> None:
    """Nothing is held back or wrapped that need not be; one piece still says that it is one."""

    class One:
        def __len__(self) -> int:
            return 1

        def __iter__(self) -> Any:
            return iter([b"x"])

    file = FileWrapper(BytesIO(b"x"))
    environ = {**WSGI_HEADERS, "wsgi.file_wrapper": FileWrapper}
    body: Any
    for body in ([b"x"], (b"x",), file):
        assert WSGIMiddleware(lambda e, s, body=body: body)(environ, lambda *a: None) is body  # type: ignore[misc]
    assert len(WSGIMiddleware(lambda e, s: One())(environ, lambda *a: None)) == 1  # type: ignore[arg-type]
    body = iter([b"x"])
    assert WSGIMiddleware(lambda e, s: body)({}, lambda *a: None) is body
    lazy = WSGIMiddleware(lambda e, s: (b"x" for _ in range(2)))(environ, lambda *a: None)
    assert not hasattr(lazy, "__len__")
    lazy.close()  # type: ignore[attr-defined]
    assert list(lazy) == []


def test_wsgi_exceptions_pass(records: list[Record]) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        raise RuntimeError("the app's own")

    def broken(environ: Any, start_response: Any) -> Any:
        yield b"x"
        raise RuntimeError("the body's own")

    with pytest.raises(RuntimeError, match="the app's own"):
        WSGIMiddleware(app)(dict(WSGI_HEADERS), lambda *a: None)
    body = iter(WSGIMiddleware(broken)(dict(WSGI_HEADERS), lambda *a: None))
    assert next(body) == b"x"
    with pytest.raises(RuntimeError, match="the body's own"):
        next(body)
    child()
    assert records[0].parent_id is None
