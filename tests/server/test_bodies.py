"""Request bodies: every encoding, every kind of error, and compression bombs that cost the server nothing."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import threading
import zlib
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
import pytest
import zstandard

from everycall import limits
from everycall.server.problems import ProblemError
from everycall.server.request_bodies import Bodies

LINES = b"\n".join(b'{"inference_id":"r-%d","trace_id":"t","name":"n"}' % number for number in range(3))
MIB = limits.MIB


def bare_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush()


def streamed_zstd(data: bytes) -> bytes:
    """A frame without the size of its content, as streaming clients write it."""
    packer = zstandard.ZstdCompressor(write_content_size=False).compressobj()
    return packer.compress(data) + packer.flush()


def zeros(encoding: str, size: int) -> bytes:
    """A bomb of that many zero bytes."""
    if encoding == "zstd":
        packer: Any = zstandard.ZstdCompressor(level=1).compressobj()
    else:
        packer = zlib.compressobj(9, zlib.DEFLATED, 31 if encoding == "gzip" else 15)
    piece = bytes(MIB)
    return b"".join([*(packer.compress(piece) for _ in range(size // MIB)), packer.flush()])


@pytest.mark.parametrize(
    ("encoding", "packed"),
    [
        (None, LINES),
        ("identity", LINES),
        ("gzip", gzip.compress(LINES)),
        ("x-gzip", gzip.compress(LINES)),
        ("GZIP", gzip.compress(LINES)),
        ("gzip", gzip.compress(LINES[:30]) + gzip.compress(LINES[30:])),
        ("deflate", zlib.compress(LINES)),
        ("deflate", bare_deflate(LINES)),
        ("zstd", zstandard.ZstdCompressor().compress(LINES)),
        ("zstd", streamed_zstd(LINES)),
        ("zstd", streamed_zstd(LINES[:30]) + streamed_zstd(LINES[30:])),
    ],
)
def test_encodings(client: httpx.Client, encoding: str | None, packed: bytes) -> None:
    """All contain the same three records."""
    headers = {"content-encoding": encoding} if encoding else {}
    answer = client.post("/v1/records", content=packed, headers=headers)
    assert answer.json() == {"committed": 3, "refused": [], "refused_count": 0}


@pytest.mark.parametrize("encoding", ["br", "gzip, gzip", "snappy", "lz4", "gzip;q=1"])
def test_unknown_encodings(client: httpx.Client, encoding: str) -> None:
    answer = client.post("/v1/records", content=gzip.compress(LINES), headers={"content-encoding": encoding})
    assert answer.status_code == 415
    assert "zstd" in answer.headers["accept-encoding"]


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", b"not gzip at all"),
        ("gzip", gzip.compress(LINES)[:-9]),
        ("gzip", gzip.compress(LINES)[:-4] + b"\0\0\0\0"),
        ("gzip", gzip.compress(LINES) + b"garbage"),
        ("gzip", gzip.compress(b"") * (limits.GZIP_MEMBERS_MAX + 1)),
        ("deflate", b"\x00\x01\x02"),
        ("deflate", zlib.compress(LINES)[:-3]),
        ("deflate", zlib.compress(LINES) + b"garbage"),
        ("zstd", b"not zstd"),
        ("zstd", zstandard.ZstdCompressor().compress(LINES)[:-2]),
        ("zstd", zstandard.ZstdCompressor().compress(LINES)[:6]),
        ("zstd", zstandard.ZstdCompressor().compress(b"") * (limits.GZIP_MEMBERS_MAX + 1)),
    ],
)
def test_broken_bodies_are_bad_requests(client: httpx.Client, encoding: str, body: bytes) -> None:
    """Nothing of a batch that cannot be decompressed completely is stored."""
    answer = client.post("/v1/records", content=body, headers={"content-encoding": encoding})
    assert answer.status_code == 400, answer.text
    assert client.get("/api/records").json()["records"] == []


def test_a_zstd_frame_that_requires_much_memory_is_refused(client: httpx.Client) -> None:
    """RFC 9659: a window of 8 MiB at most."""
    parameters = zstandard.ZstdCompressionParameters(window_log=31)
    packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    body = packer.compress(LINES) + packer.flush()
    answer = client.post("/v1/records", content=body, headers={"content-encoding": "zstd"})
    assert answer.status_code == 400
    assert "memory" in answer.json()["detail"]


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "zstd"])
def test_a_body_larger_than_the_bound_when_decompressed_is_refused(client: httpx.Client, encoding: str) -> None:
    for size, status in ((limits.BODY_BYTES_MAX, 200), (limits.BODY_BYTES_MAX + MIB, 413)):
        answer = client.post("/v1/records", content=zeros(encoding, size), headers={"content-encoding": encoding})
        assert answer.status_code == status
        if status == 200:
            assert answer.json()["refused_count"] == 1
        else:
            assert answer.json()["bytes_max"] == limits.BODY_BYTES_MAX


def test_a_body_too_large_as_sent_is_refused_before_it_is_read(server: Any) -> None:
    address = urlsplit(server.address)
    head = f"POST /v1/records HTTP/1.1\r\nhost: localhost\r\nx-api-key: {server.key}\r\n"
    with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
        connection.sendall(f"{head}content-length: {limits.BODY_WIRE_BYTES_MAX + 1}\r\n\r\n".encode())
        assert b" 413 " in connection.recv(4096).partition(b"\r\n")[0]


def test_a_body_of_unknown_length_is_refused_at_the_bound(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BODY_WIRE_BYTES_MAX", 100_000)
    answer = httpx.post(
        f"{server.address}/v1/records", headers={"x-api-key": server.key}, content=(b" " * 10_000 for _ in range(20))
    )
    assert answer.status_code == 413


def test_a_slow_body_times_out(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that stops in the middle does not occupy memory forever."""
    monkeypatch.setattr(limits, "BODY_TIMEOUT_S", 0.2)
    address = urlsplit(server.address)
    head = f"POST /v1/records HTTP/1.1\r\nhost: localhost\r\nx-api-key: {server.key}\r\ncontent-length: 100\r\n\r\n"
    with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
        connection.sendall(head.encode() + b"half")
        answer = b""
        while chunk := connection.recv(4096):
            answer += chunk
    assert b" 408 " in answer.partition(b"\r\n")[0]
    assert b"connection: close" in answer.lower()
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["type"] == "urn:everycall:error:slow_body"


def test_a_client_that_disconnects_frees_its_memory(server: Any, client: httpx.Client) -> None:
    """Its half of a batch is not stored, and its memory is free again."""
    address = urlsplit(server.address)
    head = (
        f"POST /v1/records HTTP/1.1\r\nhost: localhost\r\nx-api-key: {server.key}\r\ncontent-length: 40000000\r\n\r\n"
    )
    head = head.replace("40000000", str(limits.BODY_WIRE_BYTES_MAX))
    for _ in range(5):
        with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
            connection.sendall(head.encode() + LINES + b"\n" + bytes(MIB))
    assert client.post("/v1/records", content=LINES).json()["committed"] == 3


async def receive_of(*chunks: bytes) -> Callable[[], Any]:
    messages = [
        {"type": "http.request", "body": chunk, "more_body": number < len(chunks) - 1}
        for number, chunk in enumerate(chunks)
    ]

    async def receive() -> Any:
        await asyncio.sleep(0)
        return messages.pop(0)

    return receive


async def test_all_bodies_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bodies beyond the common bound get 503, and their memory is freed."""
    monkeypatch.setattr(limits, "BODIES_BYTES_MAX", 1_000)
    bodies = Bodies()
    scope: Any = {"headers": []}
    async with bodies.body(scope, await receive_of(b"x" * 900)) as first:
        assert len(first) == 900
        with pytest.raises(ProblemError) as error:
            async with bodies.body(scope, await receive_of(b"y" * 200)):
                pass
        assert error.value.problem.status == 503
        assert error.value.headers == {"retry-after": "1"}
    async with bodies.body(scope, await receive_of(b"y" * 200, b"z" * 100)) as again:
        assert again == b"y" * 200 + b"z" * 100


async def test_decompressed_bodies_wait_for_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A complete body is not refused: it is decompressed when others are done."""
    monkeypatch.setattr(limits, "BODIES_BYTES_MAX", 1_000)
    bodies = Bodies()
    scope: Any = {"headers": [(b"content-encoding", b"gzip")]}
    order: list[str] = []

    async def second() -> None:
        async with bodies.body(scope, await receive_of(gzip.compress(b"b" * 800))) as data:
            order.append(f"second {len(data)}")

    async with bodies.body(scope, await receive_of(gzip.compress(b"a" * 800))):
        waiting = asyncio.create_task(second())
        for _ in range(50):
            await asyncio.sleep(0)
        order.append("first")
    await waiting
    assert order == ["first", "second 800"]


def test_compression_bombs_are_refused(server_process: Callable[..., Any]) -> None:
    """100 bombs of 50 MiB at once and one of 5000 MiB: 413 for each, and the process does not grow."""
    server = server_process()
    process = psutil.Process(server.pid)
    headers = {"x-api-key": server.key, "content-encoding": "gzip"}
    bomb = zeros("gzip", 50 * MIB)
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    member = packer.compress(bytes(100 * MIB)) + packer.flush(zlib.Z_FULL_FLUSH)
    body_start = len(packer.compress(b"")) + 10
    huge = member + member[body_start:] * 49  # deflate blocks repeat; the checksum is never reached
    statuses: list[int] = []
    with httpx.Client(base_url=server.address, headers=headers, timeout=60) as client:
        small = {"content-encoding": "gzip"}
        for _ in range(3):
            assert client.post("/v1/records", content=gzip.compress(LINES), headers=small).status_code == 200
        before = process.memory_info().rss
        peak = [before]
        done = threading.Event()

        def watch() -> None:
            while not done.wait(0.005):
                peak.append(process.memory_info().rss)

        def send() -> None:
            for _ in range(10):
                statuses.append(client.post("/v1/records", content=bomb).status_code)

        watcher = threading.Thread(target=watch)
        watcher.start()
        senders = [threading.Thread(target=send) for _ in range(10)]
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join()
        statuses.append(client.post("/v1/records", content=huge).status_code)
        zstd = {"content-encoding": "zstd"}
        statuses.append(client.post("/v1/records", content=zeros("zstd", 500 * MIB), headers=zstd).status_code)
        done.set()
        watcher.join()
        assert client.get("/healthz").status_code == 200
    assert statuses == [413] * 102
    assert max(peak) - before < 64 * MIB
