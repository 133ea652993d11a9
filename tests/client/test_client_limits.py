"""`Parea` against limits and its own bounds: a key's budget, time, connections; one record and one payment each."""

from __future__ import annotations

import asyncio
import socketserver
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any

import httpx
import pytest

from everycall import errors, limits
from everycall.client import Completion, LLMInputs, Message, Parea

PROMPT = LLMInputs(model="gpt-3.5-turbo", messages=[Message("hi")])
PAID = 0.000411


def request(n: int, **fields: Any) -> Completion:
    return Completion(llm_configuration=LLMInputs(model="gpt-3.5-turbo", messages=[Message(f"number {n}")]), **fields)


def complete(parea: Parea, completion: Completion, asynchronous: bool) -> Any:
    return asyncio.run(parea.acompletion(completion)) if asynchronous else parea.completion(completion)


@pytest.fixture
def key(gateway_server: Any) -> Any:
    """Make a key with these limits: `key(budget_usd_per_day=1.0)` returns its secret."""

    def make(**key_limits: Any) -> str:
        headers, body = {"x-api-key": gateway_server.key}, {"name": "ci", **key_limits}
        response = httpx.post(f"{gateway_server.address}/api/keys", json=body, headers=headers, timeout=30)
        return str(response.json()["secret"])

    return make


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_spent_budget_is_raised_at_once(gateway_server: Any, key: Any, provider: Any, asynchronous: bool) -> None:
    """The client does not wait for tomorrow: the error says what the limit is and when it ends."""
    with Parea(key(budget_usd_per_day=PAID), base_url=gateway_server.address) as parea:
        assert complete(parea, request(1), asynchronous).status == "success"
        with pytest.raises(errors.RequestError, match="429 The key's budget for today is spent") as raised:
            complete(parea, request(2), asynchronous)
        with pytest.raises(errors.RequestError, match="budget for today"):
            list(parea.stream(request(3)))
        assert complete(parea, request(1), asynchronous).cache_hit
    problem = raised.value.problem
    assert (problem.code, problem.extensions["limit"]) == ("budget_exceeded", PAID)  # type: ignore[index]
    assert len(provider.requests) == 1


def test_a_rate_limit_is_waited_for_or_raised(gateway_server: Any, key: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with Parea(key(requests_per_minute=1), base_url=gateway_server.address, timeout_s=5) as parea:
        parea.completion(request(1))
        with pytest.raises(errors.RequestError) as raised:
            parea.completion(request(1))
        assert raised.value.problem.code == "rate_limited"
        monkeypatch.setattr("everycall.server.gateway.rates.WINDOW_S", 0.5)
        assert parea.completion(request(1)).cache_hit


def test_a_completion_that_takes_longer_than_an_attempt_is_paid_once(
    gateway_server: Any, provider: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client's connection breaks while the provider works: the next attempt waits for the same answer."""
    monkeypatch.setattr(limits, "BACKOFF_FIRST_S", 0.01)
    hold = threading.Event()
    provider.reply(hold=hold)
    with Parea(gateway_server.key, base_url=gateway_server.address) as parea:
        attempts: list[float] = []
        first_s = iter([0.5])

        def timeout(attempts_left: Any, read_s: float | None = None) -> httpx.Timeout:
            attempts.append(attempts_left.left_s)
            return httpx.Timeout(next(first_s, 20.0))

        monkeypatch.setattr("everycall.client._timeout", timeout)
        threading.Timer(1.0, hold.set).start()
        answer = parea.completion(request(1, cache=False))
    assert (answer.status, len(attempts), len(provider.requests)) == ("success", 2, 1)
    headers = {"x-api-key": gateway_server.key}
    (record,) = httpx.get(f"{gateway_server.address}/api/records", headers=headers, timeout=30).json()["records"]
    assert record["inference_id"] == answer.inference_id


class Counting:
    """An endpoint that counts its connections, and answers after `delay_s` or never."""

    def __init__(self) -> None:
        self.connections = 0
        self.delay_s = 0.0
        self.hang = threading.Event()
        counting = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                counting.connections += 1
                super().setup()

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                if counting.delay_s and counting.hang.wait(counting.delay_s):
                    return
                body = (
                    b'{"inference_id": "i", "content": "c", "latency": 0, "input_tokens": 1, "output_tokens": 2, '
                    b'"total_tokens": 3, "cost": 0.5, "model": "m", "provider": "p", "cache_hit": false, '
                    b'"status": "success", "start_timestamp": "", "end_timestamp": ""}'
                )
                self.send_response(200)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                pass

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass

        self._server = Server(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def stop(self) -> None:
        self.hang.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def counting() -> Iterator[Counting]:
    endpoint = Counting()
    yield endpoint
    endpoint.stop()


def test_connections_are_reused(counting: Counting) -> None:
    with Parea("k", base_url=counting.address) as parea:
        for _ in range(5):
            parea.completion(Completion(llm_configuration=PROMPT))
        assert counting.connections == 1

        async def run() -> None:
            async with parea:
                for _ in range(5):
                    await parea.acompletion(Completion(llm_configuration=PROMPT))

        asyncio.run(run())
        assert counting.connections == 2


@pytest.mark.parametrize("asynchronous", [False, True])
def test_the_time_out_covers_all_attempts_together(counting: Counting, asynchronous: bool) -> None:
    counting.delay_s = 60.0
    parea = Parea("k", base_url=counting.address, timeout_s=0.5)
    with parea, pytest.raises(errors.UnreachableError, match="after 1 tries; the last: ReadTimeout"):
        complete(parea, Completion(llm_configuration=PROMPT), asynchronous)
    assert counting.connections == 1
