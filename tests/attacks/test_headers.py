"""Hostile headers: host names, forwarded addresses, foreign traces, far too many headers, broken HTTP."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

LINE = b'{"inference_id":"r","trace_id":"t"}'
PAREA = "/api/parea/v1"


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.1 ") else 0


def head(*lines: str | bytes, host: str | None = "localhost") -> bytes:
    """Return the head of a request that closes the connection."""
    first, *more = (line.encode() if isinstance(line, str) else line for line in lines)
    hosts = [] if host is None else [f"host: {host}".encode()]
    return b"\r\n".join([first, *hosts, *more, b"connection: close", b"", b""])


@pytest.mark.parametrize(
    "host",
    ["evil.example", "localhost.evil.example", "127.0.0.1.nip.io", "127.0.0.1@evil.example", "[::1", "localhost/x",
    "localhost:x",
     "localhost#x", "localhost, evil.example", "0.0.0.0", "2130706433", "0x7f000001", "evil.example:80", "", " ",
     "everycall\t.local"],
)  # fmt: skip
def test_a_host_name_of_the_attacker(victim: Any, host: str) -> None:
    """DNS rebinding: a request with another host name is refused, with or without a key."""
    requests = [
        ("GET", "/healthz"),
        ("GET", "/login"),
        ("GET", "/api/records"),
        ("POST", "/v1/records"),
        ("GET", "/traces"),
    ]
    for method, path in requests:
        for key in ([], [f"x-api-key: {victim.key}"]):
            response = victim.raw(head(f"{method} {path} HTTP/1.1", *key, host=host))
            assert status_of(response) in (400, 421), response
    victim.is_well()


def test_every_route_checks_the_name(victim: Any, surface: Any) -> None:
    """421 for each, before anything else of the request is checked."""
    with victim.client(headers={"host": "evil.example"}) as client:
        for ask in surface.ASKS:
            method, address, body = ask.filled({})
            answer = client.request(method, address.replace("<", "").replace(">", ""), content=body)
            assert answer.status_code == 421, (method, address, answer.text)


def test_no_host_and_two(victim: Any) -> None:
    """Both are refused."""
    assert status_of(victim.raw(head("GET /healthz HTTP/1.1", host=None))) == 400
    assert status_of(victim.raw(head("GET /healthz HTTP/1.0", host=None))) == 400
    assert status_of(victim.raw(head("GET /healthz HTTP/1.1", "host: evil.example"))) == 400
    absolute = victim.raw(head("GET http://evil.example/api/records HTTP/1.1", f"x-api-key: {victim.key}"))
    assert status_of(absolute) in (400, 404, 421)


FORWARDED = {
    "x-forwarded-for": "10.9.8.7",
    "x-real-ip": "10.9.8.7",
    "forwarded": "for=10.9.8.7;host=evil.example;proto=https",
    "x-forwarded-host": "evil.example",
    "x-forwarded-proto": "https",
    "x-forwarded-prefix": "/evil",
    "x-original-url": "/healthz",
    "x-rewrite-url": "/healthz",
    "x-http-method-override": "DELETE",
    "x-forwarded-user": "admin",
    "remote-user": "admin",
}


def test_headers_of_untrusted_proxies_are_ignored(start_victim: Callable[..., Any]) -> None:
    """A header changes no address, host, scheme, path, method or user, and starts no new count of wrong keys."""
    server = start_victim()
    with server.client("ek_wrong", headers=FORWARDED) as attacker:
        codes = []
        for number in range(30):
            answer = attacker.get(
                "/api/records", headers={"x-forwarded-for": f"10.0.0.{number}", "x-real-ip": f"10.1.0.{number}"}
            )
            codes.append(answer.status_code)
        assert codes == [401] * 20 + [429] * 10
    with server.client(None, headers=FORWARDED) as nobody:
        assert nobody.get("/api/records").status_code == 401
        assert nobody.post("/api/records").status_code == 405
    with server.client(headers={**FORWARDED, "accept": "text/html"}) as client:
        page = client.get("/traces")
        assert page.status_code == 200
        assert "evil" not in page.text
        answer = client.get("/")
        assert answer.headers["location"] == "/traces"
        login = client.post("/login", data={"key": server.key})
        assert "evil" not in str(login.headers)
        assert "secure" not in login.headers["set-cookie"].lower()
    server.is_well()


TRACES = [
    "00-" + "f" * 32 + "-" + "f" * 16 + "-01", "garbage", "", "00-" + "0" * 32 + "-" + "0" * 16 + "-00", "ff-x",
    "00-" + "é" * 32 + "-1-1",
    "http://evil.example/", "../../etc/passwd", "{{7*7}}", "'; DROP TABLE records; --", "00-" + "a" * 100_000,
    "\u00ff" * 500,
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(TRACES)))
def test_incoming_trace_context(victim: Any, number: int) -> None:
    """Trace headers change nothing: no id, name, project or address is taken from them."""
    garbage = TRACES[number].encode("latin-1", "replace")
    headers = {
        b"traceparent": garbage,
        b"tracestate": garbage[:8000],
        b"baggage": b"everycall.project=evil,everycall.trace_name=" + garbage[:8000] + b",endpoint=http://evil.example",
        b"langsmith-project": b"evil",
        b"x-everycall-client": garbage[:8000],
        b"x-everycall-balance": b'{"recorded":' + garbage[:3000] + b"}",
    }
    since = victim.seen()
    with victim.client(headers=headers) as client:
        line = json.dumps({"inference_id": f"trace-context-{number}", "trace_id": "own"})
        answer = client.post("/v1/records", content=line)
        if len(garbage) > 60_000:
            assert answer.status_code in (200, 400)
        else:
            assert answer.json()["committed"] == 1
            stored = client.get(f"/api/records/trace-context-{number}").json()
            assert stored["trace_id"] == "own"
            assert "evil" not in json.dumps(stored)
        assert "evil" not in client.get("/api/projects").text
    assert [event for event in victim.events(since) if event[0] in ("socket.connect", "socket.getaddrinfo")] == []
    victim.is_well()


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param([b"baggage: " + b",".join(b"k%d=v" % n for n in range(10_000))], id="10 000 baggage members"),
        pytest.param([b"baggage: k%d=v" % n for n in range(10_000)], id="10 000 baggage headers"),
        pytest.param([b"x-large: " + b"a" * 1_000_000], id="one header of 1 MB"),
        pytest.param([b"cookie: " + b"; ".join(b"c%d=v" % n for n in range(20_000))], id="20 000 cookies"),
        pytest.param([b"x-%d: v" % n for n in range(50_000)], id="50 000 headers"),
        pytest.param([b"x-api-key: " + b"k" * 60_000], id="a key of 60 kB"),
        pytest.param([b"accept: " + b"text/html," * 5_000], id="5 000 media types"),
        pytest.param([b"content-encoding: " + b"gzip," * 5_000], id="5 000 encodings"),
    ],
)
def test_too_many_headers(victim: Any, lines: list[bytes]) -> None:
    """Accepted or refused; the process does not grow."""
    before = victim.process().memory_info().rss
    for _ in range(20):
        response = victim.raw(head("GET /healthz HTTP/1.1", *lines))
        assert status_of(response) in (200, 400, 0), response[:200]
    for _ in range(20):
        victim.raw(head("POST /v1/records HTTP/1.1", f"content-length: {len(LINE)}", *lines) + LINE)
    assert victim.process().memory_info().rss - before < 32 << 20
    victim.is_well()


def test_an_endless_head(victim: Any) -> None:
    """Refused at `limits.HEAD_BYTES_MAX`."""
    sent_bytes = 0
    with victim.connect() as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nx-endless: ")
        try:
            while sent_bytes < 64 << 20:
                connection.sendall(b"y" * 65_536)
                sent_bytes += 65_536
        except ConnectionError:
            pass
    assert sent_bytes < 16 << 20
    victim.is_well()


MALFORMED = [
    b"\x00\x01\x02\r\n\r\n", b"GET\r\n\r\n", b"GET /healthz HTTP/9.9\r\nhost: localhost\r\n\r\n",
    b"GET /\xff\xfe HTTP/1.1\r\nhost: localhost\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\nhost localhost\r\n\r\n", b"GET /healthz HTTP/1.1\r\nhost : localhost\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n x: folded\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\nhost: local\x00host\r\n\r\n",
    b"GET /healthz HTTP/1.1\nhost: localhost\n\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"GET /healthz HTTP/1.1\r\nhost: localhost\r\ncontent-length: -1\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1e3\r\n\r\n",
    b"POST /v1/records HTTP/1.1\r\nhost: localhost\r\ncontent-length: 4\r\ncontent-length: 5\r\n\r\nabcde",
    b"POST /v1/records HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\nZZZ\r\n",
    b"POST /v1/records HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFFFFFF\r\n",
    b"POST /v1/records HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nGARBAGE",
    b"\r\n" * 5_000, b"HTTP/1.1 200 OK\r\n\r\n", b"CONNECT evil.example:443 HTTP/1.1\r\nhost: evil.example\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nhost: localhost\r\n\r\n",
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(MALFORMED)))
def test_bytes_that_are_not_http(victim: Any, number: int) -> None:
    """An error in the usual shape with the security headers, or a closed connection; nothing in the log."""
    with victim.connect() as connection:
        connection.sendall(MALFORMED[number])
        connection.shutdown(1)
        response = b""
        try:
            while piece := connection.recv(65_536):
                response += piece
        except ConnectionError:
            pass
    assert response == b"" or 200 <= status_of(response) < 500
    if status_of(response) >= 400:
        assert b"application/problem+json" in response
        assert b"content-security-policy: default-src 'none'" in response.lower()
        assert b"nosniff" in response
    assert victim.log() == ""
    victim.is_well()


def test_a_body_that_fails_after_the_response(victim: Any) -> None:
    """Invalid bytes after a response: the connection is closed, and nothing is logged."""
    for key, path in ((b"", b"/v1/records"), (b"x-api-key: " + victim.key.encode() + b"\r\n", b"/nowhere")):
        with victim.connect() as connection:
            connection.sendall(
                b"POST " + path + b" HTTP/1.1\r\nhost: localhost\r\n" + key + b"transfer-encoding: chunked\r\n\r\n"
            )
            response = victim.answer(connection)
            assert status_of(response) in (401, 404)
            connection.sendall(b"ZZZ\r\n")
            assert connection.recv(65_536) == b""
    assert victim.log() == ""
    victim.is_well()


def test_a_request_hidden_in_a_body(victim: Any) -> None:
    """Request smuggling: bytes that a proxy takes for a body and the server for a request, or the reverse."""
    hidden = (
        b"GET /api/keys HTTP/1.1\r\nhost: localhost\r\nx-api-key: "
        + victim.key.encode()
        + b"\r\nconnection: close\r\n\r\n"
    )
    both = head(
        "POST /v1/records HTTP/1.1", f"x-api-key: {victim.key}", "content-length: 5", "transfer-encoding: chunked"
    )
    response = victim.raw(both.replace(b"connection: close\r\n", b"") + b"0\r\n\r\n" + hidden)
    assert status_of(response) == 400
    assert response.count(b"HTTP/1.1 ") == 1
    obscured = both.replace(b"content-length: 5\r\n", b"").replace(
        b"transfer-encoding: chunked", b"transfer-encoding: \x0bchunked"
    )
    assert victim.raw(obscured + b"0\r\n\r\n" + hidden).count(b"HTTP/1.1 200") == 0
    victim.is_well()


def test_ranges_and_conditions(victim: Any) -> None:
    """Headers that ask for ranges, pushes and upgrades change nothing."""
    headers = {"range": "bytes=0-" + ",0-" * 1000, "if-none-match": "*", "if-modified-since": "garbage",
    "te": "trailers", "upgrade": "h2c",
               "http2-settings": "AAMAAABk", "expect": "x",
               "content-type": "multipart/form-data; boundary=" + "-" * 5000}  # fmt: skip
    with victim.client(headers=headers) as client:
        for path in ("/api/records", "/traces", "/static/everycall.css", "/openapi.json", "/healthz"):
            assert client.get(path).status_code in (200, 303, 304, 404)
        assert client.post(f"{PAREA}/trace_log", content=b"x").status_code == 422
        assert client.post("/login", content=b"x").status_code in (401, 403, 429)
    assert httpx.get(f"{victim.address}/healthz").status_code == 200
    victim.is_well()
