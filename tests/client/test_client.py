"""`Parea` against a running server: answers, errors, repetition, and its place in the trace of the calls around it."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from everycall import errors, limits, paths
from everycall._local_server import proof_of
from everycall.client import Completion, CompletionResponse, LLMInputs, Message, ModelParams, Parea

PROMPT = LLMInputs(model="gpt-3.5-turbo", messages=[Message("hi {{x}}")])


@pytest.fixture
def parea(gateway_server: Any) -> Iterator[Parea]:
    with Parea(api_key=gateway_server.key, base_url=gateway_server.address) as opened:
        yield opened


def records(server: Any, **query: Any) -> list[dict[str, Any]]:
    answer = httpx.get(f"{server.address}/api/records", params=query, headers={"x-api-key": server.key})
    return list(answer.json()["records"])


class Stub:
    """An endpoint with scripted responses: (status, body, headers), or None to close the connection."""

    def __init__(self) -> None:
        self.script: deque[tuple[int, bytes, dict[str, str]] | None] = deque()
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.local_key = ""
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                """Prove that this is the server of the user whose local key is `stub.local_key`."""
                challenge = self.path.partition("?nonce=")[2]
                body = json.dumps({"proof": proof_of(stub.local_key, challenge, stub.port)}).encode()
                self.send_response(200)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_POST(self) -> None:
                stub.bodies.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
                stub.keys.append(self.headers["x-api-key"])
                reply = stub.script.popleft() if len(stub.script) > 1 else stub.script[0]
                if reply is None:
                    self.close_connection = True
                    return
                status, body, headers = reply
                self.send_response(status)
                for name, value in {"content-length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = int(self._server.server_address[1])
        self.address = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    monkeypatch.setattr(limits, "BACKOFF_FIRST_S", 0.001)
    endpoint = Stub()
    yield endpoint
    endpoint.stop()


ANSWER = json.dumps(
    {
        "inference_id": "i", "content": "c", "latency": 0, "input_tokens": 1, "output_tokens": 2, "total_tokens": 3,
        "cost": 0.5, "model": "m", "provider": "p", "cache_hit": False, "status": "success", "error": None,
        "start_timestamp": "2023-07-24 18:05:17 ", "end_timestamp": "2023-07-24 18:05:17 ", "trace_id": "unknown key",
    }
).encode()  # fmt: skip


def test_a_completion(parea: Parea, gateway_server: Any, provider: Any) -> None:
    answer = parea.completion(
        Completion(
            llm_configuration=LLMInputs(
                model="gpt-3.5-turbo", model_params=ModelParams(temp=0.5), messages=[Message("{{x}}", role="system")]
            ),
            llm_inputs={"x": "Golang"},
            metadata={"purpose": "testing"},
            tags=["a"],
            target="gold",
        )
    )
    assert isinstance(answer, CompletionResponse)
    assert (answer.content, answer.total_tokens, answer.cache_hit, answer.error) == ("hello", 211, False, None)
    assert provider.requests[0].messages == [{"role": "system", "content": "Golang"}]
    (record,) = records(gateway_server)
    assert record["inference_id"] == answer.inference_id
    assert record["trace_id"] == answer.inference_id[:32]
    assert (record["metadata"], record["tags"], record["target"]) == ({"purpose": "testing"}, ["a"], "gold")


def test_a_completion_overrides_the_clients_cache_setting(parea: Parea, gateway_server: Any) -> None:
    request = Completion(llm_configuration=PROMPT)
    with Parea(gateway_server.key, base_url=gateway_server.address, cache=False) as uncached:
        hits = [client.completion(request).cache_hit for client in (parea, parea, uncached)]
        hits.append(uncached.completion(Completion(llm_configuration=PROMPT, cache=True)).cache_hit)
    assert hits == [False, True, False, True]


def test_a_providers_failure_is_a_response(parea: Parea, provider: Any) -> None:
    provider.reply(status=400, error="no")
    answer = parea.completion(Completion(llm_configuration=PROMPT))
    assert (answer.status, answer.content, answer.error) == ("error", "", "BadRequestError (400): no")


def test_two_event_loops_one_after_the_other(parea: Parea, provider: Any) -> None:
    request = Completion(llm_configuration=PROMPT, cache=False)
    assert [asyncio.run(parea.acompletion(request)).content for _ in range(2)] == ["hello", "hello"]
    assert len(provider.requests) == 2


def test_async_with_shares_connections_in_its_loop(gateway_server: Any, provider: Any) -> None:
    parea = Parea(gateway_server.key, base_url=gateway_server.address)

    async def run() -> list[str]:
        async with parea as p:
            answers = [p.acompletion(Completion(llm_configuration=PROMPT, cache=False)) for _ in range(3)]
            return [answer.content for answer in await asyncio.gather(*answers)]

    assert asyncio.run(run()) == asyncio.run(run()) == ["hello"] * 3


def test_a_closed_client_can_be_used_again(parea: Parea) -> None:
    parea.completion(Completion(llm_configuration=PROMPT))
    parea.close()
    assert parea.completion(Completion(llm_configuration=PROMPT)).cache_hit


def test_errors(parea: Parea, gateway_server: Any) -> None:
    with pytest.raises(errors.NotFoundError) as missing:
        parea.completion(Completion(deployment_id="p-none"))
    assert missing.value.problem.code == "unknown_deployment"
    with pytest.raises(errors.RequestError) as wrong:
        parea.completion(Completion())
    assert (wrong.value.problem.status, wrong.value.problem.code) == (422, "nothing_to_complete")
    with Parea("wrong-key", base_url=gateway_server.address) as stranger:
        with pytest.raises(errors.AuthenticationError) as refused:
            stranger.completion(Completion(llm_configuration=PROMPT))
    assert refused.value.problem.status == 401


@pytest.mark.parametrize("value", [object(), {1, 2, object()}], ids=["object", "set"])
def test_a_value_that_is_not_json_is_a_type_error(parea: Parea, value: Any) -> None:
    with pytest.raises(TypeError):
        parea.completion(Completion(llm_configuration=PROMPT, llm_inputs={"x": value}))
    with pytest.raises(TypeError, match="takes a Completion, not dict"):
        parea.completion({"deployment_id": "p"})  # type: ignore[arg-type]


def test_a_value_that_contains_itself_is_a_type_error(parea: Parea) -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(TypeError, match="contains itself"):
        parea.completion(Completion(llm_configuration=PROMPT, llm_inputs={"x": loop}))


@pytest.mark.parametrize(
    "passing", [None, (503, b"", {}), (500, b"<html>", {}), (429, b"{}", {"retry-after": "0"})], ids=str
)
@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_transient_failure_is_retried_with_the_same_id(stub: Stub, passing: Any, asynchronous: bool) -> None:
    stub.script.extend([passing, passing, (200, ANSWER, {})])
    with Parea("k", base_url=stub.address) as parea:
        request = Completion(llm_configuration=PROMPT)
        answer = asyncio.run(parea.acompletion(request)) if asynchronous else parea.completion(request)
    assert answer.content == "c"
    ids = [body["inference_id"] for body in stub.bodies]
    assert len(ids) == 3
    assert len(set(ids)) == 1


@pytest.mark.parametrize("passing", [None, (503, b'{"title": "Busy", "detail": "try again"}', {})])
def test_retries_are_bounded(stub: Stub, passing: Any) -> None:
    stub.script.append(passing)
    with Parea("k", base_url=stub.address) as parea, pytest.raises(errors.UnreachableError, match="after 3 tries"):
        parea.completion(Completion(llm_configuration=PROMPT))
    assert len(stub.bodies) == 3


def test_a_wait_longer_than_the_time_out_is_not_started(stub: Stub) -> None:
    stub.script.append((503, b"", {"retry-after": "100"}))
    with (
        Parea("k", base_url=stub.address, timeout_s=5) as parea,
        pytest.raises(errors.UnreachableError, match="1 tries"),
    ):
        parea.completion(Completion(llm_configuration=PROMPT))


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"{}", ANSWER.replace(b'"cost": 0.5, ', b"")])
def test_a_response_of_another_shape_is_unreachable(stub: Stub, body: bytes) -> None:
    stub.script.append((200, body, {}))
    with Parea("k", base_url=stub.address) as parea, pytest.raises(errors.UnreachableError, match="not a completion"):
        parea.completion(Completion(llm_configuration=PROMPT))


def test_the_error_of_another_server_is_in_the_message(stub: Stub) -> None:
    stub.script.append((418, b"short and stout", {}))
    with Parea("k", base_url=stub.address) as parea, pytest.raises(errors.RequestError, match="short and stout"):
        parea.completion(Completion(llm_configuration=PROMPT))
    assert len(stub.bodies) == 1


def test_endpoint_and_key_come_from_arguments_or_environment(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    stub.script.append((200, ANSWER, {}))
    request = Completion(llm_configuration=PROMPT)
    path = paths.local_key_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    for base_url in (stub.address, f"{stub.address}/", f"{stub.address}/api/parea/v1"):
        with Parea(base_url=base_url) as parea:
            parea.completion(request)
    path.write_text("local-key\n")
    stub.local_key = "local-key"
    monkeypatch.setenv("EVERYCALL_ENDPOINT", stub.address)
    with Parea() as parea:
        parea.completion(request)
        monkeypatch.setenv("EVERYCALL_API_KEY", "environment-key")
        parea.completion(request)
    with Parea() as parea:
        parea.completion(request)
    with Parea("given-key") as parea:
        parea.completion(request)
    assert stub.keys == [None, None, None, "local-key", "local-key", "environment-key", "given-key"]


def test_a_local_key_is_not_sent_to_other_hosts() -> None:
    path = paths.local_key_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("local-key")
    assert Parea(base_url="http://127.0.0.1:1")._headers()["x-api-key"] == "local-key"
    assert "x-api-key" not in Parea(base_url="https://everycall.example")._headers()


@pytest.mark.parametrize("base_url", ["ftp://x", "nowhere", "http://"])
def test_an_invalid_url_is_refused_at_once(base_url: str) -> None:
    with pytest.raises(errors.ConfigurationError, match="http"):
        Parea(base_url=base_url)


def test_keys_are_not_in_representations() -> None:
    assert "sk-1" not in repr(Completion(provider_api_key="sk-1"))


def test_a_completion_inside_a_call_is_its_child(parea: Parea, gateway_server: Any, tmp_path: Path) -> None:
    from everycall._call.call import OwnedCall
    from everycall._call.context import attach, context, current_node, detach
    from everycall._call.recorder import Recorder
    from everycall.settings import Settings

    recorder = Recorder(Settings(), sink=_Nowhere(), ledger=None)  # type: ignore[arg-type]
    with context(trace_id="order-42", trace_name="support", end_user_identifier="u-7", session_id="s-1"):
        call = OwnedCall("answer", "chain", current_node(), recorder, "test")
        token = attach(call, call)
        try:
            inside = parea.completion(Completion(llm_configuration=PROMPT))
            response = parea.completion(
                Completion(llm_configuration=PROMPT, trace_name="own", end_user_identifier="u-8")
            )
            apart = parea.completion(Completion(llm_configuration=PROMPT, trace_id="another"))
        finally:
            detach(token)
        beside = parea.completion(Completion(llm_configuration=PROMPT))
    by_id = {record["inference_id"]: record for record in records(gateway_server)}
    assert len(by_id) == 4
    first = by_id[inside.inference_id]
    assert (first["trace_id"], first["parent_id"], first["trace_name"]) == ("order-42", call.inference_id, "support")
    assert (first["end_user_identifier"], first["session_id"]) == ("u-7", "s-1")
    second = by_id[response.inference_id]
    assert (second["trace_id"], second["trace_name"], second["end_user_identifier"]) == ("order-42", "own", "u-8")
    assert (by_id[apart.inference_id]["trace_id"], by_id[apart.inference_id].get("parent_id")) == ("another", None)
    assert (by_id[beside.inference_id]["trace_id"], by_id[beside.inference_id].get("parent_id")) == ("order-42", None)


class _Nowhere:
    def append(self, line: bytes) -> None:
        raise AssertionError("a completion has one record, and that is the server's")


@pytest.mark.parametrize(
    ("around", "own", "flags"),
    [
        ({}, {}, (False, False, False)),
        ({"log_omit_inputs": True}, {}, (False, True, False)),
        ({"log_omit_inputs": True}, {"log_omit_outputs": True}, (False, True, True)),
        ({"log_omit": True}, {"log_omit": False}, (True, False, False)),
    ],
    ids=str,
)
def test_the_strictest_omit_flag_wins(stub: Stub, around: Any, own: Any, flags: tuple[bool, ...]) -> None:
    from everycall._call.context import context

    stub.script.append((200, ANSWER, {}))
    with Parea("k", base_url=stub.address) as parea, context(**around):
        parea.completion(Completion(llm_configuration=PROMPT, **own))
    (body,) = stub.bodies
    assert (body["log_omit"], body["log_omit_inputs"], body["log_omit_outputs"]) == flags


def test_the_environments_omit_flags_count(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVERYCALL_LOG_OMIT", "outputs")
    stub.script.append((200, ANSWER, {}))
    with Parea("k", base_url=stub.address) as parea:
        parea.completion(Completion(llm_configuration=PROMPT))
    assert stub.bodies[0]["log_omit_outputs"] is True


def test_creating_a_client_imports_neither_httpx_nor_the_price_list() -> None:
    code = (
        "import sys, everycall.client as c\n"
        "c.Parea(base_url='http://127.0.0.1:1')\n"
        "print([m for m in ('httpx', 'openai', 'genai_prices', 'pydantic') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
