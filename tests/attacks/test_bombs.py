"""Requests that use up memory or time: compressed, endless, huge, slow. They are refused; others are answered.

`tests/server/test_bodies.py` holds the bounds of one body, and gzip bombs of 50 MiB and 5000 MiB.
"""

from __future__ import annotations

import gzip
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import httpx
import pytest
import zstandard

MIB = 1 << 20
LINE = b'{"inference_id":"r","trace_id":"t"}'
GROWTH_MAX = 96 * MIB
"""Growth of the process: a body of 20 MiB as sent and decompressed, twice, and what the allocator keeps."""


@contextmanager
def watched(server: Any) -> Iterator[None]:
    """Assert that the server's memory stays bounded, and that it answers other requests meanwhile."""
    process = server.process()
    before = process.memory_info().rss
    peak, health, done = [before], [], threading.Event()

    def measure() -> None:
        while not done.wait(0.01):
            peak.append(process.memory_info().rss)

    def ask() -> None:
        with server.client(None) as client:
            while not done.wait(0.1):
                health.append(client.get("/healthz").status_code)

    threads = [threading.Thread(target=measure), threading.Thread(target=ask)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert set(health) <= {200}
    assert max(peak) - before < GROWTH_MAX
    server.is_well()


def head(server: Any, *headers: str, path: str = "/v1/records", key: bool = True) -> bytes:
    """Return a request's head."""
    lines = [
        f"POST {path} HTTP/1.1",
        "host: localhost",
        *([f"x-api-key: {server.key}"] if key else []),
        *headers,
        "",
        "",
    ]
    return "\r\n".join(lines).encode()


def status_of(answer: bytes) -> int:
    """Return the status of a raw response; 0 if there was none."""
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.1 ") else 0


def zeros(encoding: str, size: int) -> bytes:
    """Return `size` zeros, compressed in pieces."""
    if encoding == "gzip":
        packer: Any = zlib.compressobj(9, zlib.DEFLATED, 31)
    elif encoding == "deflate":
        packer = zlib.compressobj(9)
    else:
        packer = zstandard.ZstdCompressor(level=19).compressobj()
    pieces: list[bytes] = [packer.compress(bytes(MIB)) for _ in range(size // MIB)]
    return b"".join([*pieces, packer.flush()])


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "zstd"])
def test_many_bombs_at_once(victim: Any, encoding: str) -> None:
    """Eight connections, three bombs of 50 MiB each: 413 for each."""
    bomb = zeros(encoding, 50 * MIB)
    statuses: list[int] = []

    def send() -> None:
        with victim.client(headers={"content-encoding": encoding}) as client:
            statuses.extend(client.post("/v1/records", content=bomb).status_code for _ in range(3))

    with watched(victim):
        senders = [threading.Thread(target=send) for _ in range(8)]
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join()
    assert statuses == [413] * 24


def zstd_window(bits: int) -> bytes:
    """A zstd frame that declares a window of 2**bits bytes (RFC 8878 3.1.1.1.2), and one small block."""
    block = struct.pack("<I", (len(LINE) << 3) | 1)[:3] + LINE
    return b"\x28\xb5\x2f\xfd" + bytes([0x00, (bits - 10) << 3]) + block


@pytest.mark.parametrize(
    ("encoding", "body", "status"),
    [
        pytest.param("zstd", zstd_window(31), 400, id="a window of 2 GiB"),
        pytest.param("zstd", zstd_window(41), 400, id="a window of 2 TiB"),
        pytest.param("gzip, gzip", gzip.compress(gzip.compress(LINE, mtime=0), mtime=0), 415, id="packed twice"),
        pytest.param(",".join(["gzip"] * 10), b"x", 415, id="ten encodings"),
        pytest.param("gzip", gzip.compress(zeros("gzip", 200 * MIB), mtime=0), 200, id="a bomb within: unpacked once"),
        pytest.param("gzip", gzip.compress(LINE + b"\n", mtime=0) * 65, 400, id="too many members"),
        pytest.param("zstd", zstandard.compress(b"") * 65, 400, id="too many frames"),
        pytest.param("gzip", gzip.compress(LINE, mtime=0)[:-4], 400, id="cut off"),
    ],
)
def test_unusual_compressions(victim: Any, encoding: str, body: bytes, status: int) -> None:
    """Each is answered; the memory that a body declares is not allocated."""
    with watched(victim), victim.client(headers={"content-encoding": encoding}) as client:
        answer = client.post("/v1/records", content=body)
        assert answer.status_code == status, answer.text
        if status == 200:  # the inner bomb is one line that is not JSON
            assert answer.json()["committed"] == 0


@pytest.mark.parametrize(
    "path", ["/v1/records", "/api/parea/v1/trace_log", "/api/parea/v1/completion", "/api/keys", "/login"]
)
def test_endless_chunks(victim: Any, path: str) -> None:
    """An endless body is refused at the bound (of forms: much sooner), and the connection is closed."""
    sent_bytes = 0
    with watched(victim), victim.connect() as connection:
        connection.sendall(head(victim, "transfer-encoding: chunked", path=path))
        chunk = b"100000\r\n" + b" " * MIB + b"\r\n"
        with suppress(ConnectionError, TimeoutError):
            while sent_bytes < 200 * MIB:
                connection.settimeout(10)
                connection.sendall(chunk)
                sent_bytes += MIB
                connection.settimeout(0.0)
                with suppress(BlockingIOError):
                    if connection.recv(1 << 16, socket.MSG_PEEK):
                        break
        connection.settimeout(20)
        assert status_of(connection.recv(1 << 16)) in (413, 403)
    assert sent_bytes <= 60 * MIB


def test_a_body_of_100_mib(victim: Any) -> None:
    """Refused by its content-length, without being read; if that is wrong, at the bound."""
    with watched(victim):
        with victim.client() as client:
            assert client.post("/v1/records", content=b" " * (100 * MIB)).status_code == 413
        assert status_of(victim.raw(head(victim, f"content-length: {10**30}"), b"x")) in (400, 413)
        small = head(victim, "content-length: 2", "connection: close") + b"{}" + b"x" * (10 * MIB)
        assert status_of(victim.raw(small)) == 200, "what is beyond the length is no body"


def test_many_large_bodies_at_once(victim: Any) -> None:
    """Twelve incomplete bodies of 19 MiB: some get 503, and memory stays bounded."""
    piece = b" " * MIB
    with watched(victim), ExitStack() as stack:
        connections = [stack.enter_context(victim.connect()) for _ in range(12)]
        for connection in connections:
            connection.sendall(head(victim, f"content-length: {19 * MIB}"))
        for _ in range(18):
            for connection in connections:
                with suppress(ConnectionError):
                    connection.sendall(piece)
        with victim.client() as client:
            assert client.get("/api/records").status_code == 200
        refused = 0
        for connection in connections:
            connection.settimeout(0.2)
            with suppress(TimeoutError, ConnectionError):
                refused += status_of(connection.recv(1 << 16)) == 503
        assert refused >= 8


@pytest.fixture(scope="module")
def hasty(start_victim: Callable[..., Any]) -> Any:
    """A server with timeouts of one second, to keep the tests short."""
    names = ("HEAD_TIMEOUT_S", "UNREAD_TIMEOUT_S", "BODY_TIMEOUT_S", "KEEP_ALIVE_S")
    return start_victim(limits=dict.fromkeys(names, 1.0))


def drip(connection: socket.socket, data: bytes, seconds: float = 0.05) -> bytes:
    """Send a byte at a time until the server responds; return the response."""
    connection.setblocking(False)
    for place in range(len(data)):
        try:
            connection.send(data[place : place + 1])
        except OSError:
            break
        time.sleep(seconds)
        with suppress(BlockingIOError):
            return connection.recv(1 << 16)
    connection.settimeout(10)
    with suppress(ConnectionError):
        return connection.recv(1 << 16)
    return b""


def test_slow_heads(hasty: Any) -> None:
    """200 connections that send their head byte by byte: all are closed, and none delays others."""
    with watched(hasty), ExitStack() as stack:
        slow = []
        for number in range(200):
            slow.append(stack.enter_context(hasty.connect()))
            slow[-1].sendall(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nx-slow: " if number % 2 else b"")
        answer = drip(slow[1], b"y" * 400)
        assert status_of(answer) == 408
        assert b"urn:everycall:error:slow_head" in answer
        assert b"connection: close" in answer.lower()
        for number, connection in enumerate(slow[2:]):
            connection.settimeout(30)
            response = b""
            while piece := connection.recv(1 << 16):
                response += piece
            assert status_of(response) == (408 if number % 2 else 0)
    assert len(hasty.process().net_connections()) <= 2


def test_the_second_request_of_a_connection_is_bounded_like_the_first(hasty: Any) -> None:
    """The timeout starts with its own first byte."""
    with hasty.connect() as connection:
        for _ in range(3):
            connection.sendall(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
            assert status_of(hasty.answer(connection)) == 200
            time.sleep(0.6)
        assert status_of(drip(connection, b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nx: " + b"y" * 400)) == 408


@pytest.mark.parametrize("path", ["/v1/records", "/api/parea/v1/completion", "/login", "/api/deployments"])
def test_slow_bodies(hasty: Any, path: str) -> None:
    """408, whatever the route."""
    with hasty.connect() as connection:
        connection.sendall(head(hasty, "content-length: 1000", path=path))
        assert status_of(drip(connection, b"{" * 400)) == 408


@pytest.mark.parametrize("key", [True, False])
def test_an_unread_body_ends_after_its_response(hasty: Any, key: bool) -> None:
    """A request that is refused before its body: the body is dropped for a moment, then the connection is closed."""
    path = "/nowhere" if key else "/v1/records"
    with hasty.connect() as connection:
        connection.sendall(head(hasty, "transfer-encoding: chunked", path=path, key=key))
        assert status_of(hasty.answer(connection)) == (404 if key else 401)
        connection.setblocking(False)
        ended = False
        for _ in range(400):
            try:
                connection.send(b"1\r\nx\r\n")
                ended = connection.recv(1) == b""
            except BlockingIOError:
                time.sleep(0.02)
            except OSError:
                ended = True
            if ended:
                break
        assert ended
    hasty.is_well()


def test_an_idle_connection_is_closed(hasty: Any) -> None:
    """One that never sends anything, and one that sends nothing after a request."""
    with hasty.connect() as silent, hasty.connect() as done:
        done.sendall(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert status_of(hasty.answer(done)) == 200
        silent.settimeout(20)
        done.settimeout(20)
        assert silent.recv(1) == b""
        assert done.recv(1) == b""
    assert httpx.get(f"{hasty.address}/healthz").status_code == 200
