"""The body of a completion: taken in by the same bounded reader as records, and only of who may send one."""

from __future__ import annotations

import gzip
import json
import socket
import zlib
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import zstandard

from everycall import limits

PATHS = ["/api/parea/v1/completion", "/api/parea/v1/completion/stream"]
BODY = json.dumps({"llm_configuration": {"model": "gpt-3.5-turbo", "messages": [{"content": "hi"}]}}).encode()


def exchange(server: Any, head: str, body: bytes = b"") -> tuple[bytes, bytes]:
    """Send these bytes, and return the head and the body of what comes until the server hangs up."""
    address = urlsplit(server.address)
    with socket.create_connection((address.hostname, address.port), timeout=20) as connection:
        connection.sendall(f"{head}\r\nhost: localhost\r\nconnection: close\r\n".encode() + body)
        answer = b""
        while chunk := connection.recv(65_536):
            answer += chunk
    before, _, after = answer.partition(b"\r\n\r\n")
    return before, after


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("encoding", "packed"),
    [
        ("gzip", gzip.compress(BODY)),
        ("zstd", zstandard.ZstdCompressor().compress(BODY)),
        ("deflate", zlib.compress(BODY)),
        ("identity", BODY),
    ],
)
def test_encodings(gateway_server: Any, provider: Any, path: str, encoding: str, packed: bytes) -> None:
    headers = {"x-api-key": gateway_server.key, "content-encoding": encoding}
    answer = httpx.post(f"{gateway_server.address}{path}", content=packed, headers=headers, timeout=30)
    assert answer.status_code == 200
    assert "hello" in answer.text
    assert provider.requests[0].messages == [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("encoding", "body", "status"),
    [
        ("br", BODY, 415),
        ("gzip", BODY, 400),
        ("gzip", gzip.compress(BODY)[:-9], 400),
        ("gzip", gzip.compress(bytes(limits.BODY_BYTES_MAX + 1)), 413),
        ("identity", b"\xff\xfe", 400),
        ("identity", b"[" * 100_000, 422),
    ],
    ids=["unknown", "not packed", "cut off", "a bomb", "no text", "deep"],
)
def test_what_cannot_be_read_is_refused(
    gateway_server: Any, provider: Any, path: str, encoding: str, body: bytes, status: int
) -> None:
    headers = {"x-api-key": gateway_server.key, "content-encoding": encoding}
    answer = httpx.post(f"{gateway_server.address}{path}", content=body, headers=headers, timeout=30)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert provider.requests == []


@pytest.mark.parametrize("path", PATHS)
def test_a_slow_body_times_out(gateway_server: Any, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BODY_TIMEOUT_S", 0.2)
    head = f"POST {path} HTTP/1.1\r\nx-api-key: {gateway_server.key}\r\ncontent-length: 1000"
    before, after = exchange(gateway_server, head, b"\r\n" + BODY[:10])
    assert b" 408 " in before.partition(b"\r\n")[0]
    assert json.loads(after)["type"] == "urn:everycall:error:slow_body"


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("key", ["", "x-api-key: ek_wrong\r\n"], ids=["no key", "a wrong key"])
def test_who_may_not_send_it_is_told_before_it_is_read(gateway_server: Any, path: str, key: str) -> None:
    before, _ = exchange(gateway_server, f"POST {path} HTTP/1.1\r\n{key}content-length: 10000000", b"\r\n")
    assert b" 401 " in before.partition(b"\r\n")[0]


@pytest.mark.parametrize("path", PATHS)
def test_who_may_only_read_makes_no_completion(gateway_server: Any, provider: Any, path: str) -> None:
    made = httpx.post(
        f"{gateway_server.address}/api/keys",
        json={"name": "reader", "role": "read"},
        headers={"x-api-key": gateway_server.key},
        timeout=120,
    )
    headers = {"x-api-key": made.json()["secret"]}
    answer = httpx.post(f"{gateway_server.address}{path}", content=BODY, headers=headers, timeout=30)
    assert answer.status_code == 403
    assert provider.requests == []
