"""What a connection does with requests that its parser treats differently from others."""

from __future__ import annotations

import contextlib
import json
import socket
from typing import Any

import httpx
import pytest

from everycall import limits

BODY = json.dumps({"inference_id": "i-1", "trace_id": "t", "name": "n"}).encode() + b"\n"


def connect(server: Any) -> socket.socket:
    host, _, port = server.address.removeprefix("http://").partition(":")
    return socket.create_connection((host, int(port)), timeout=20)


def head(server: Any, *lines: str, target: str = "POST /v1/records") -> bytes:
    fixed = (f"{target} HTTP/1.1", "host: localhost", f"x-api-key: {server.key}")
    return "\r\n".join([*fixed, *lines, "", ""]).encode()


def answer(connection: socket.socket) -> tuple[int, bytes]:
    """Return the status and the body of one response with a length."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += connection.recv(65_536) or pytest.fail(f"closed after {data!r}")
    top, _, body = data.partition(b"\r\n\r\n")
    length = next(int(line[15:]) for line in top.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    while len(body) < length:
        body += connection.recv(65_536)
    return int(top.split()[1]), body


@pytest.mark.parametrize("upgrade", ["h2c", "websocket", "nonsense"])
def test_a_request_that_offers_an_upgrade_is_answered(server: Any, upgrade: str) -> None:
    """Java's client offers h2c with every request. Its body is read, and the connection stays open."""
    length = f"content-length: {len(BODY)}"
    offer = head(
        server, "connection: Upgrade, HTTP2-Settings", f"upgrade: {upgrade}", "http2-settings: AAEAAEAA", length
    )
    with connect(server) as connection:
        for request in (offer + BODY, head(server, length) + BODY, offer + BODY):
            connection.sendall(request)
            assert answer(connection) == (200, b'{"committed":1,"refused":[],"refused_count":0}')


def test_trailers_are_not_headers(server: Any) -> None:
    """Trailers could otherwise change the caller's identity after the key was checked."""
    chunk = b"%x\r\n%b\r\n0\r\nx-everycall-balance: {}\r\ncontent-encoding: gzip\r\n\r\n" % (len(BODY), BODY)
    with connect(server) as connection:
        connection.sendall(head(server, "transfer-encoding: chunked", "trailer: content-encoding"))
        connection.sendall(chunk)
        assert answer(connection)[0] == 200


def test_a_body_with_too_much_framing_is_refused(server: Any) -> None:
    """Chunk extensions and trailers are no content, so no bound of the body would ever be reached."""
    sent_bytes = 0
    with connect(server) as connection:
        connection.sendall(head(server, "transfer-encoding: chunked") + b"1\r\nx\r\n0\r\nx-endless: ")
        with contextlib.suppress(ConnectionError):
            while sent_bytes < 64 * limits.MIB:
                sent_bytes += connection.send(b"a" * 65_536)
    assert sent_bytes < 64 * limits.MIB  # what was sent beyond the bound was in the buffers of the connection


def test_small_chunks_are_accepted(server: Any) -> None:
    with connect(server) as connection:
        connection.sendall(head(server, "transfer-encoding: chunked"))
        record = BODY.rstrip() + b" " * 100_000 + b"\n"
        connection.sendall(b"".join(b"1\r\n%c\r\n" % byte for byte in record) + b"0\r\n\r\n")
        assert answer(connection)[0] == 200


def test_pipelined_requests_are_answered_in_order(server: Any) -> None:
    with connect(server) as connection:
        connection.sendall(head(server, target="GET /healthz") * 3 + head(server, target="GET /nowhere"))
        data = b""
        while data.count(b"HTTP/1.1 ") < 4 or b"}" not in data.rpartition(b"HTTP/1.1 ")[2]:
            data += connection.recv(65_536)
        statuses = [part[:3] for part in data.split(b"HTTP/1.1 ")[1:]]
        assert statuses == [b"200", b"200", b"200", b"404"]


def test_an_idle_connection_outlasts_the_pools_of_clients() -> None:
    """A server that closes a connection first loses the request that is on its way.

    `tests/attacks/test_bombs.py` sees that an idle connection is closed after this time.
    """
    assert 2 * (httpx.Limits().keepalive_expiry or 0) < limits.KEEP_ALIVE_S
