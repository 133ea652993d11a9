"""Thousands of connections without a key: their number is bounded, the server answers on, and the log stays short."""

from __future__ import annotations

import resource
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Any

import httpx
import pytest

from everycall.server.connections import Activity, Connections

OPEN_FILES = 1024
REQUEST = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n"


@pytest.fixture
def many_files() -> Iterator[None]:
    """Let this process have 12 000 files open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 12_000:
        pytest.skip("this process may not open 12 000 files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 12_000), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def flood(victim: Any, stack: ExitStack, count: int, data: bytes = b"") -> list[socket.socket]:
    opened = []
    for _ in range(count):
        connection = stack.enter_context(victim.connect(timeout=120))
        with suppress(ConnectionError):
            connection.sendall(data)
        opened.append(connection)
    return opened


def healthy(victim: Any, times: int = 13) -> int:
    """Request `/healthz` on new connections; return how many requests were answered."""
    answers = 0
    for _ in range(times):
        with suppress(httpx.TransportError):
            answers += httpx.get(f"{victim.address}/healthz", timeout=5).json() == {"status": "ok"}
    return answers


@pytest.mark.parametrize(
    "data", [b"", b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nx: ", b"POST /login HTTP/1.1\r\n", REQUEST],
    ids=["silent", "half a head", "one line", "kept alive"],
)  # fmt: skip
def test_more_connections_than_the_server_may_have_files(
    start_victim: Callable[..., Any], many_files: None, data: bytes
) -> None:
    """1300 connections at 1024 open files: health answers 13 of 13 throughout, the log has one line."""
    victim = start_victim(open_files=OPEN_FILES)
    with ExitStack() as stack:
        flood(victim, stack, 650, data)
        assert healthy(victim) == 13
        flood(victim, stack, 650, data)
        assert healthy(victim) == 13
        process = victim.process()
        assert process.num_fds() <= OPEN_FILES - 100  # a reserve for files and providers
        with victim.client() as client:
            record = b'{"inference_id":"a","trace_id":"t","kind":"llm"}'
            assert client.post("/v1/records", content=record).json()["committed"] == 1
            assert client.get("/api/records").status_code == 200
    log = victim.log()
    assert len(log.splitlines()) == 1
    assert "connections from one address is reached by 127.0.0.1" in log
    victim.is_well()


def test_bodies_that_never_end(start_victim: Callable[..., Any], many_files: None) -> None:
    """The login reads bodies without a key: connections that never finish one are closed for new ones, too."""
    victim = start_victim(open_files=OPEN_FILES)
    with ExitStack() as stack:
        head = b"POST /login HTTP/1.1\r\nhost: localhost\r\norigin: http://localhost\r\ncontent-length: 900\r\n\r\nkey="
        flood(victim, stack, 1_300, head)
        assert healthy(victim) == 13
    victim.is_well()


def test_five_thousand_connections(start_victim: Callable[..., Any], many_files: None) -> None:
    """The server keeps working beside them, and they take little memory and CPU time."""
    victim = start_victim()
    process = victim.process()
    memory, busy = process.memory_info().rss, sum(process.cpu_times()[:2])
    with ExitStack() as stack:
        flood(victim, stack, 5_000)
        assert healthy(victim) == 13
        grown = process.memory_info().rss - memory
        spent = sum(process.cpu_times()[:2]) - busy
        print(f"5 000 connections: {grown / 2**20:.0f} MiB, {spent:.1f} s of CPU, {process.num_fds()} descriptors")
        assert grown < 200 * 2**20
        assert process.num_fds() < 4_300
        with victim.client() as client:
            for number in range(20):
                record = f'{{"inference_id":"{number}","trace_id":"t"}}'.encode()
                assert client.post("/v1/records", content=record).json()["committed"] == 1
    assert len(victim.log()) < 1_000
    victim.is_well()


def test_a_request_in_progress_is_not_closed_by_a_flood(
    start_victim: Callable[..., Any], shared_provider: Any, many_files: None
) -> None:
    """A completion that waits for its provider is answered, although its connection is the oldest one."""
    settings = {"local": {"kind": "openai_compatible", "base_url": shared_provider.base_url, "api_key": None}}
    victim = start_victim(open_files=OPEN_FILES, providers=settings)
    hold = threading.Event()
    shared_provider.reply(hold=hold)
    body = b'{"llm_configuration":{"model":"m","provider":"local","messages":[{"role":"user","content":"hi"}]}}'
    head = (
        f"POST /api/parea/v1/completion HTTP/1.1\r\nhost: localhost\r\nx-api-key: {victim.key}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    ).encode()
    with ExitStack() as stack, victim.connect() as waiting:
        waiting.sendall(head + body)
        assert shared_provider.arrived.acquire(timeout=30)
        flood(victim, stack, 1_300)
        hold.set()
        answer = victim.answer(waiting)
        assert answer.startswith(b"HTTP/1.1 200 "), answer[:300]


class Peer:
    """A connection without a socket."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.closed = False

    def displace(self) -> None:
        self.closed = True


def opened(connections: Connections, address: str) -> Peer | None:
    if not connections.make_room(address):
        return None
    peer = Peer(address)
    connections.add(peer)
    return peer


def test_the_longest_idle_connection_is_closed_first() -> None:
    connections = Connections(4, 4)
    first, second, third, fourth = (opened(connections, f"10.0.0.{n}") for n in range(4))
    assert first is not None
    assert second is not None
    assert third is not None
    assert fourth is not None
    connections.set_activity(first, Activity.RESPONDING)
    connections.set_activity(second, Activity.TRANSFERRING)
    connections.set_activity(fourth, Activity.RESPONDING)
    connections.set_activity(fourth, Activity.IDLE)
    for expected in (third, fourth):
        assert opened(connections, "10.0.0.9")
        assert expected.closed
    assert not first.closed
    assert not second.closed
    assert len(connections) == 4


def test_connections_with_a_request_are_not_closed() -> None:
    connections = Connections(2, 2)
    peers = [opened(connections, "10.0.0.1"), opened(connections, "10.0.0.2")]
    for peer in peers:
        assert peer is not None
        connections.set_activity(peer, Activity.RESPONDING)
    assert opened(connections, "10.0.0.3") is None
    assert connections.refused == 1
    assert not any(peer.closed for peer in peers if peer)


def test_an_address_displaces_its_own_connections() -> None:
    connections = Connections(100, 10, is_exempt=lambda address: address == "10.0.0.2")
    others = [opened(connections, f"10.1.0.{n}") for n in range(5)]
    mine = [opened(connections, "10.0.0.1") for _ in range(30)]
    assert sum(not peer.closed for peer in mine if peer) == 10
    assert not any(peer.closed for peer in others if peer)
    through_proxy = [opened(connections, "10.0.0.2") for _ in range(30)]
    assert not any(peer.closed for peer in through_proxy if peer)


@pytest.mark.parametrize(
    ("one", "other", "are_one"),
    [
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("::ffff:10.0.0.1", "10.0.0.1", True),
        ("fe80::1%eth0", "fe80::2%eth0", True),
        ("10.0.0.1", "10.0.0.2", False),
    ],
)
def test_addresses_are_grouped_by_network(one: str, other: str, are_one: bool) -> None:
    connections = Connections(100, 1)
    first = opened(connections, one)
    assert opened(connections, other)
    assert first is not None
    assert first.closed is are_one


def test_the_log_has_one_line_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    connections = Connections(2, 2, clock=lambda: now)
    for _ in range(100):
        opened(connections, "10.0.0.1")
    assert len(caplog.messages) == 1
    now = 61.0
    opened(connections, "10.0.0.1")
    assert len(caplog.messages) == 2
    assert "98 idle connections were closed or new ones refused" in caplog.messages[1]
