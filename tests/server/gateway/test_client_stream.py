"""`Parea` against a running server: streams, deployed prompts, feedback; what is sent again and what never is."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from everycall import errors, limits
from everycall.client import (
    Completion,
    FeedbackRequest,
    LLMInputs,
    Message,
    Parea,
    UseDeployedPrompt,
)
from everycall_testkit.stream_provider import StreamProvider

PROMPT = LLMInputs(model="gpt-3.5-turbo", messages=[Message("hi {{x}}")])


@pytest.fixture
def provider() -> Iterator[Any]:
    with StreamProvider() as started:
        yield started


@pytest.fixture
def parea(gateway_server: Any) -> Iterator[Parea]:
    with Parea(api_key=gateway_server.key, base_url=gateway_server.address) as opened:
        yield opened


def record(server: Any, inference_id: str) -> dict[str, Any]:
    """The record, once it is there."""
    for _ in range(3_000):
        answer = httpx.get(f"{server.address}/api/records/{inference_id}", headers={"x-api-key": server.key})
        if answer.status_code == 200:
            return dict(answer.json())
        threading.Event().wait(0.01)
    raise AssertionError("no record came")


async def aread(parea: Parea, completion: Completion) -> tuple[list[str], Any]:
    stream = parea.astream(completion)
    return [text async for text in stream], stream.response


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_stream(parea: Parea, gateway_server: Any, provider: Any, asynchronous: bool) -> None:
    provider.stream(pieces=["he", "\n\r\n\u2028", "data: ", "\N{OWL}"])
    given = Completion(llm_configuration=PROMPT, llm_inputs={"x": "there"})
    if asynchronous:
        texts, response = asyncio.run(aread(parea, given))
    else:
        stream = parea.stream(given)
        assert (provider.requests, stream.response) == ([], None)
        texts, response = list(stream), stream.response
    assert texts == ["he", "\n\r\n\u2028", "data: ", "\N{OWL}"]
    assert (response.content, response.total_tokens, response.status) == ("".join(texts), 211, "success")
    assert response.cost == pytest.approx(0.000411)
    assert provider.requests[0].messages == [{"role": "user", "content": "hi there"}]
    found = record(gateway_server, response.inference_id)
    assert found["content"] == "".join(texts)
    assert found["time_to_first_token"] <= found["latency"]


def test_a_long_answer(parea: Parea, provider: Any) -> None:
    long = "data: \N{OWL} line\r\n" * 20_000
    provider.stream(pieces=[long])
    given = Completion(llm_configuration=PROMPT)
    assert "".join(parea.stream(given)) == long
    assert "".join(parea.stream(given)) == long
    assert len(provider.requests) == 1


def test_texts_come_one_by_one(parea: Parea, provider: Any) -> None:
    scripted = provider.stream(pieces=["first", "second"], pause_after=1)
    with parea.stream(Completion(llm_configuration=PROMPT)) as stream:
        assert next(stream) == "first"
        scripted.go.set()
        assert list(stream) == ["second"]


def test_a_stream_inside_a_call_is_below_it(parea: Parea, gateway_server: Any) -> None:
    from everycall._call.context import context

    with context(trace_id="order-42", trace_name="support", end_user_identifier="u-7", log_omit_outputs=True):
        stream = parea.stream(Completion(llm_configuration=PROMPT))
    assert "".join(stream) == "hello"
    assert stream.response is not None
    found = record(gateway_server, stream.response.inference_id)
    assert (found["trace_id"], found["trace_name"], found["end_user_identifier"]) == ("order-42", "support", "u-7")
    assert (found["omitted"], found.get("content")) == (["outputs"], None)


def test_hanging_up(parea: Parea, gateway_server: Any, provider: Any) -> None:
    scripted = provider.stream(pieces=["he", "llo"], pause_after=1)
    with parea.stream(Completion(llm_configuration=PROMPT, inference_id="left")) as stream:
        assert next(stream) == "he"
    assert scripted.gone.wait(30)
    assert stream.response is None
    found = record(gateway_server, "left")
    assert (found["error_type"], found["content"]) == ("abandoned", "he")
    with pytest.raises(errors.RequestError, match="went away"):
        list(parea.stream(Completion(llm_configuration=PROMPT, inference_id="left")))


def test_hanging_up_on_an_event_loop(parea: Parea, gateway_server: Any, provider: Any) -> None:
    scripted = provider.stream(pieces=["he", "llo"], pause_after=1)

    async def run() -> None:
        async with parea, parea.astream(Completion(llm_configuration=PROMPT, inference_id="left")) as stream:
            assert await anext(stream) == "he"

    asyncio.run(run())
    assert scripted.gone.wait(30)
    assert record(gateway_server, "left")["error_type"] == "abandoned"


@pytest.mark.parametrize("asynchronous", [False, True])
def test_failures_of_the_provider(parea: Parea, provider: Any, asynchronous: bool) -> None:
    def read(inference_id: str, into: list[str]) -> None:
        given = Completion(llm_configuration=PROMPT, cache=False, inference_id=inference_id)

        async def aread() -> None:
            async for text in parea.astream(given):
                into.append(text)

        if asynchronous:
            asyncio.run(aread())
        else:
            for text in parea.stream(given):
                into.append(text)

    texts: list[str] = []
    provider.reply(status=400, error="too spicy")
    with pytest.raises(errors.RequestError, match="too spicy") as before:
        read("before", texts)
    assert (before.value.problem.code, texts, len(provider.requests)) == ("provider_failed", [], 1)
    provider.stream(pieces=["he", "llo"], error_after=1)
    with pytest.raises(errors.RequestError, match="overloaded in the middle"):
        read("after", texts)
    assert (texts, len(provider.requests)) == (["he"], 2)


def test_refusals(parea: Parea, gateway_server: Any) -> None:
    with pytest.raises(errors.NotFoundError):
        list(parea.stream(Completion(deployment_id="p-none")))
    with Parea("wrong-key", base_url=gateway_server.address) as stranger, pytest.raises(errors.AuthenticationError):
        list(stranger.stream(Completion(llm_configuration=PROMPT)))
    with pytest.raises(TypeError, match="takes a Completion"):
        parea.stream("x")  # type: ignore[arg-type]


class Wire:
    """An endpoint that sends the bytes it is told, one list of pieces for each connection."""

    def __init__(self, *replies: list[bytes]) -> None:
        self.requests: list[bytes] = []
        self._replies = list(replies)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        for pieces in self._replies:
            connection, _ = self._listening.accept()
            with connection:
                data = b""
                while b"\r\n\r\n" not in data:
                    data += connection.recv(65_536)
                head, _, body = data.partition(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                while len(body) < length:
                    body += connection.recv(65_536)
                self.requests.append(body)
                for piece in pieces:
                    connection.sendall(piece)

    def close(self) -> None:
        self._thread.join()
        self._listening.close()


OK = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
LONG = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 1000\r\n\r\n"
BUSY = b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


@pytest.mark.parametrize("first", [[], [BUSY]], ids=["no answer", "busy"])
def test_what_has_no_text_yet_is_sent_again(monkeypatch: pytest.MonkeyPatch, first: list[bytes]) -> None:
    monkeypatch.setattr(limits, "BACKOFF_FIRST_S", 0.001)
    wire = Wire(first, [OK, b'data: {"chunk": "a"}\r\n\r\n', b'data: {"chu', b'nk": "b"}\n\ndata: {"chunk": "c"}\n\n'])
    with Parea("k", base_url=wire.address) as parea:
        stream = parea.stream(Completion(llm_configuration=PROMPT))
        assert list(stream) == ["a", "b", "c"]
    wire.close()
    assert stream.response is None  # this endpoint does not say how it went
    one, two = (json.loads(body)["inference_id"] for body in wire.requests)
    assert one == two


@pytest.mark.parametrize("asynchronous", [False, True])
def test_what_has_a_text_is_never_sent_again(asynchronous: bool) -> None:
    wire = Wire([LONG, b'data: {"chunk": "a"}\r\n\r\n'])
    given = Completion(llm_configuration=PROMPT)
    with Parea("k", base_url=wire.address) as parea:
        with pytest.raises(errors.UnreachableError, match="broke off"):
            asyncio.run(aread(parea, given)) if asynchronous else list(parea.stream(given))
    wire.close()
    assert len(wire.requests) == 1


def test_what_is_no_stream() -> None:
    wire = Wire([OK, b"data: <html>\r\n\r\n"])
    with Parea("k", base_url=wire.address) as parea, pytest.raises(errors.UnreachableError, match="unexpected stream"):
        list(parea.stream(Completion(llm_configuration=PROMPT)))
    wire.close()


@pytest.fixture
def deployment_id(gateway_server: Any) -> str:
    body = {
        "name": "hello",
        "messages": [{"content": "Say {{x}}"}],
        "model": "gpt-3.5-turbo",
        "functions": [{"name": "f"}],
    }
    answer = httpx.post(
        f"{gateway_server.address}/api/deployments", json=body, headers={"x-api-key": gateway_server.key}
    )
    return str(answer.json()["deployment_id"])


def test_a_deployed_prompt(parea: Parea, deployment_id: str) -> None:
    found = parea.get_prompt(UseDeployedPrompt(deployment_id, {"x": "hello"}))
    assert found == asyncio.run(parea.aget_prompt(UseDeployedPrompt(deployment_id, {"x": "hello"})))
    assert (found.version_number, found.name, found.functions) == (1, "hello", ['{"name":"f"}'])
    assert found.prompt is not None
    assert found.prompt.raw_messages == [{"role": "user", "content": "Say {{x}}"}]
    assert found.prompt.messages == [{"role": "user", "content": "Say hello"}]
    with pytest.raises(errors.NotFoundError):
        parea.get_prompt(UseDeployedPrompt("p-none"))
    with pytest.raises(TypeError, match="takes a UseDeployedPrompt"):
        parea.get_prompt(deployment_id)  # type: ignore[arg-type]


def test_feedback(parea: Parea, gateway_server: Any) -> None:
    answer = parea.completion(Completion(llm_configuration=PROMPT))
    parea.record_feedback(FeedbackRequest(1.0, answer.inference_id))
    asyncio.run(parea.arecord_feedback(FeedbackRequest(score=0.25, inference_id=answer.inference_id, comment="meh")))
    log = httpx.get(
        f"{gateway_server.address}/api/parea/v1/trace_log/{answer.inference_id}",
        headers={"x-api-key": gateway_server.key},
    ).json()
    assert (log["feedback_score"], log["comments"][0]["comment"]) == (0.25, "meh")
    for wrong in ({"score": 2.0, "trace_id": "x"}, {"score": float("nan"), "trace_id": "x"}, {"score": 1.0}):
        with pytest.raises(ValueError):
            FeedbackRequest(**wrong)
    with pytest.raises(TypeError, match="takes a FeedbackRequest"):
        parea.record_feedback({"score": 1})  # type: ignore[arg-type]
