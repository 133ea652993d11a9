"""Server-side request forgery: the server connects to its configured providers, and to no other address."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

PAREA = "/api/parea/v1"


class Listener:
    """A port on loopback that counts connections."""

    def __init__(self) -> None:
        self.visits: list[bytes] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(1)
                self.visits.append(connection.recv(4096))
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")

    def close(self) -> None:
        """Stop listening."""
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()


@pytest.fixture(scope="module")
def inside() -> Iterator[Listener]:
    """A service on this machine that is not a provider."""
    listener = Listener()
    yield listener
    listener.close()


@pytest.fixture(scope="module")
def gateway(start_victim: Callable[..., Any], shared_provider: Any) -> Any:
    """A server with one provider of each kind, all of them the fake one, after one request to each."""
    providers = {
        "openai": {"kind": "openai", "base_url": shared_provider.base_url, "api_key": "sk-fake"},
        "anthropic": {"kind": "anthropic", "base_url": shared_provider.root, "api_key": "sk-fake"},
    }
    server = start_victim(providers=providers)
    with server.client() as client:
        for model in ("gpt-4o", "claude-3-5-haiku-latest"):
            assert ask(client, model=model)["status"] == "success"
    return server


def ask(client: Any, path: str = "completion", **fields: Any) -> Any:
    """Send a completion request with fields of the configuration, and return the response."""
    body = {
        "llm_configuration": {"messages": [{"role": "user", "content": "hello"}], "model": "gpt-4o", **fields},
        "cache": False,
    }
    answer = client.post(f"{PAREA}/{path}", json=body)
    assert answer.status_code < 500, answer.text
    return answer.json() if path == "completion" and answer.status_code == 200 else answer


def went_to(server: Any, since: int) -> set[str]:
    """Return the addresses that the server's process connected to or looked up."""
    return {event[2] for event in server.events(since) if event[0] == "socket.connect"} | {
        event[1] for event in server.events(since) if event[0] == "socket.getaddrinfo"
    }


def test_no_field_of_a_request_is_used_as_a_url(gateway: Any, shared_provider: Any, inside: Listener) -> None:
    """Base URLs come from the server's settings; in a request they are ignored, or just names of models."""
    hosts = [
        "127.0.0.1",
        "[::1]",
        "localhost",
        "0x7f000001",
        "2130706433",
        "127.1",
        "[::ffff:127.0.0.1]",
        "0.0.0.0",
        "127.0.0.1.nip.io",
    ]
    targets = [f"http://{host}:{inside.port}/v1" for host in hosts] + [
        "http://169.254.169.254/latest/meta-data",
        f"gopher://127.0.0.1:{inside.port}/_x",
    ]
    since = gateway.seen()
    with gateway.client() as client:
        for target in targets:
            for path in ("completion", "completion/stream"):
                ask(client, path, model=target)
                ask(client, path, provider=target)
                ask(client, path, provider="openai", base_url=target, api_base=target, endpoint=target)
                ask(client, path, model_params={"temp": 0.1, "base_url": target, "extra_headers": {"host": target}})
                ask(
                    client,
                    path,
                    messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": target}}]}],
                )
            for body in (
                {"base_url": target, "api_base": target, "provider_api_key": target, "webhook": target},
                {"deployment_id": target},
                {"project_uuid": target, "metadata": {"base_url": target}, "experiment_uuid": target},
            ):
                answer = client.post(f"{PAREA}/completion", json={"llm_configuration": {"model": "gpt-4o"}, **body})
                assert answer.status_code < 500
            deployment = {
                "name": "n",
                "model": "gpt-4o",
                "provider": target,
                "base_url": target,
                "messages": [{"role": "user", "content": "x"}],
            }
            response = client.post("/api/deployments", json=deployment)
            if response.status_code == 200:
                client.post(f"{PAREA}/completion", json={"deployment_id": response.json()["deployment_id"]})
            log = {
                "trace_id": "x",
                "start_timestamp": "2026-10-18T12:00:00Z",
                "images": [{"url": target}],
                "inputs": {"url": target},
            }
            client.post(f"{PAREA}/trace_log", json=log)
            client.get(f"{PAREA}/trace_log/x")
    assert inside.visits == []
    allowed = shared_provider.root.rpartition(":")[2]
    assert {place for place in went_to(gateway, since) if allowed not in place and place != "127.0.0.1"} == set()
    gateway.is_well()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("model", ["gpt-4o", "claude-3-5-haiku-latest"])
@pytest.mark.parametrize("path", ["completion", "completion/stream"])
def test_a_provider_that_redirects(
    gateway: Any, shared_provider: Any, inside: Listener, path: str, model: str, status: int
) -> None:
    """A redirect of a provider is a failure; it is not followed."""
    shared_provider.default.status, shared_provider.default.body = status, b"{}"
    shared_provider.default.headers = {"location": f"http://127.0.0.1:{inside.port}/v1/chat/completions"}
    before = len(inside.visits)
    try:
        with gateway.client() as client:
            answer = client.post(
                f"{PAREA}/{path}",
                json={
                    "llm_configuration": {"model": model, "messages": [{"role": "user", "content": "x"}]},
                    "cache": False,
                },
            )
            assert answer.status_code < 600
            if path == "completion" and answer.status_code == 200:
                assert answer.json()["status"] == "error"
    finally:
        shared_provider.default.status, shared_provider.default.body, shared_provider.default.headers = 200, None, {}
    assert len(inside.visits) == before
