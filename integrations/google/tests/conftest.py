"""How the contract suite and the tests here make and ask Google's clients."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from google import genai
from google.genai import chats, errors, models, types
from google.genai._api_client import BaseApiClient

import everycall_google
from everycall_google import _clients, _generators
from everycall_testkit import client_bench
from everycall_testkit.client_bench import Clients
from everycall_testkit.client_contract import (
    ClientAdapter,
    Embedding,
    Failure,
    Timeout,
    Way,
    parametrize_ways,
)
from everycall_testkit.provider import FakeProvider

clean_environment, no_internal_failure = client_bench.clean_environment, client_bench.no_internal_failure
clients, provider, records = client_bench.clients, client_bench.provider, client_bench.records

MODEL = "gemini-2.5-flash"
ANSWERED = f"{MODEL}-001"
REQUEST: dict[str, Any] = {"model": MODEL, "contents": "hi", "config": {"temperature": 0.5}}
USAGE = {
    "input_tokens": 22,
    "output_tokens": 189,
    "total_tokens": 211,
    "usage": {"cached": 10, "reasoning": 64},
}
FIRST_USAGE = {"input_tokens": 22, "output_tokens": 1, "total_tokens": 23}
"""What the first piece reports: each piece has the tokens so far."""


def way(ask: Any, returns: Any = "answer", **params: Any) -> Way:
    """Return one way of asking, with these parameters of the request in its record."""
    request = {
        "name": f"generate_content {MODEL}",
        "kind": "llm",
        "project_name": "default",
        "status": "success",
        "model": MODEL,
        "provider": "gcp.gemini",
        "scope": "everycall_google",
        "llm_configuration": {
            "model": MODEL,
            "provider": "gcp.gemini",
            "model_params": params,
            "messages": [{"role": "user", "content": "hi"}],
        },
    }
    attributes = {"gen_ai.response.id": "resp-1"}
    answer = {**USAGE, "model": ANSWERED, "attributes": {**attributes, "gen_ai.response.finish_reasons": ["STOP"]}}
    return Way(ask, request, answer, {**FIRST_USAGE, "model": ANSWERED, "attributes": attributes}, returns)


class GoogleAdapter(ClientAdapter):
    name = "google"
    integration = everycall_google
    library = genai
    client_types = (genai.Client, genai.client.AsyncClient)
    provider = "gcp.gemini"
    reply = {"model": ANSWERED}
    ways = {
        "models": way(lambda c: c.models.generate_content(**REQUEST), temperature=0.5),
        "models stream": way(lambda c: c.models.generate_content_stream(**REQUEST), "stream", temperature=0.5),
        "chat": way(lambda c: c.chats.create(model=MODEL).send_message("hi")),
        "chat stream": way(lambda c: c.chats.create(model=MODEL).send_message_stream("hi"), "stream"),
    }
    embedding = Embedding(
        lambda client, text: client.models.embed_content(
            model="text-embedding-004",
            contents=text,
            config={"output_dimensionality": 8, "task_type": "RETRIEVAL_QUERY"},
        ),
        {
            "name": "embeddings text-embedding-004",
            "kind": "embedding",
            "project_name": "default",
            "status": "success",
            "scope": "everycall_google",
            "llm_configuration": {
                "model": "text-embedding-004",
                "provider": "gcp.gemini",
                "model_params": {"output_dimensionality": 8, "task_type": "RETRIEVAL_QUERY"},
            },
            "model": "text-embedding-004",
            "provider": "gcp.gemini",
        },
    )

    rate_limited = Failure(
        429,
        errors.ClientError,
        "google.genai.errors.ClientError",
        {"http.response.status_code": 429, "google.error.status": "RESOURCE_EXHAUSTED"},
    )
    bad_request = Failure(400, errors.ClientError, "google.genai.errors.ClientError")
    server_error = Failure(503, errors.ServerError, "google.genai.errors.ServerError")
    timeout = Timeout(Exception, r"timed out|^$", ".ReadTimeout")
    stream_error = Failure(200, errors.ServerError)
    stream_error_text = "503 UNAVAILABLE. "
    raises_stream_error = False
    opening_pieces = 0
    is_sent_when_read = True
    tokens_before_end = 189

    framework_tokens = (22, 189, {"cached": 10, "reasoning": 64})
    framework_attributes = {"gen_ai.response.id": "resp-1"}

    refusal = r"wrap\(\) takes a client such as genai\.Client\(\)"
    strange_answers = (
        b"{}",
        b"[]",
        b'{"candidates": null, "usageMetadata": {"promptTokenCount": "many"}}',
        b'{"candidates": [{"content": {"parts": [{"text": 7}]}}]}',
        b"no json",
        b"null",
        b"",
    )
    patched = (
        (BaseApiClient, "request"),
        (BaseApiClient, "async_request"),
        (BaseApiClient, "request_streamed"),
        (BaseApiClient, "async_request_streamed"),
        (models.Models, "generate_content_stream"),
        (models.AsyncModels, "generate_content_stream"),
        (chats.Chat, "send_message_stream"),
        (chats.AsyncChat, "send_message_stream"),
    )
    library_modules = r"google\.genai\..+"
    wrong_calls = (
        (lambda client: client.models.generate_content(model="m"), TypeError, "contents"),
        (
            lambda client: client.models.generate_content(model="m", contents="hi", config={"NotAModel": 1}),
            ValueError,
            r"NotAModel|validation error",
        ),
    )
    retries = "retry_options" in types.HttpOptions.model_fields
    retry_reply = {"status": 503}

    @property
    def call_name(self) -> str:
        return f"generate_content {MODEL}"

    def new_client(self, provider: FakeProvider, is_async: bool, **settings: Any) -> Any:
        hook, timeout = settings.pop("hook", None), settings.pop("timeout", None)
        uses_aiohttp = settings.pop("uses_aiohttp", False)
        options: dict[str, Any] = {"base_url": provider.root}
        if timeout is not None:
            options["timeout"] = int(timeout * 1000)
        hooks = {"request": [_async_hook(hook) if is_async else hook] if hook is not None else []}
        has_arguments = "client_args" in types.HttpOptions.model_fields
        if has_arguments and not uses_aiohttp:
            # Loading certificates, which are not needed here, takes most of a test's time. With a transport of ours,
            # the library uses httpx even if aiohttp is installed.
            options["client_args"] = {"verify": False, "event_hooks": {} if is_async else hooks}
            options["async_client_args"] = {
                "transport": httpx.AsyncHTTPTransport(verify=False),
                "event_hooks": hooks if is_async else {},
            }
        client_class = settings.pop("client_class", genai.Client)
        client = client_class(**{"api_key": "k", **settings}, http_options=types.HttpOptions(**options))
        if not has_arguments:
            sender: Any = client._api_client
            (sender._async_httpx_client if is_async else sender._httpx_client).event_hooks = hooks
        return client.aio if is_async else client

    def client_class(self, is_async: bool) -> type:
        return genai.Client

    async def close(self, client: Any, is_async: bool) -> None:
        """Close both HTTP clients; older versions have no `close`."""
        client._api_client._httpx_client.close()
        await client._api_client._async_httpx_client.aclose()

    def ask(self, client: Any, prompt: str = "hi") -> Any:
        return client.models.generate_content(model=MODEL, contents=prompt)

    def stream(self, client: Any, prompt: str = "hi") -> Any:
        return client.models.generate_content_stream(model=MODEL, contents=prompt)

    def answer_text(self, answer: Any) -> str:
        return str(answer.text)

    def piece_text(self, piece: Any) -> str | None:
        text: str | None = piece.text
        return text

    def is_final(self, piece: Any) -> bool:
        return bool(piece.candidates[0].finish_reason)

    def plain_piece(self, piece: Any) -> Any:
        return piece.candidates

    def stream_traits(self, stream: Any, is_async: bool) -> Any:
        assert (inspect.isgenerator(stream), inspect.isasyncgen(stream)) == (not is_async, is_async)
        return stream.__name__, stream.__qualname__

    async def leave_stream(self, clients: Clients, opened: Any, error: BaseException | None = None) -> None:
        """Close a generator. The event loop closes what the library's generators hold, over several turns."""
        await self.close_stream(clients, opened)

    async def close_stream(self, clients: Clients, stream: Any) -> None:
        await clients.wait(stream.aclose() if clients.is_async else stream.close())
        await clients.settle()

    def program(self) -> str:
        return """
import sys
from google import genai
from google.genai import types
import everycall, everycall_google

client = everycall_google.wrap(genai.Client(api_key="k", http_options=types.HttpOptions(base_url=sys.argv[1])))
stream = client.models.generate_content_stream(model="gemini-2.5-flash", contents="hi")
next(stream)
"""

    def methods(self, client: Any) -> Any:
        assert type(client.models) is (
            models.AsyncModels if isinstance(client, self.client_types[1]) else models.Models
        )
        return client.models.generate_content, client.models.generate_content_stream, client.models.embed_content

    def resources(self, client: Any) -> Any:
        taken, chat = client.models, client.chats.create(model=MODEL)
        return (
            lambda: taken.generate_content(model=MODEL, contents="hi"),
            lambda: chat.send_message("hi"),
        )

    async def other_requests(self, clients: Clients, client: Any) -> None:
        counted = await clients.wait(client.models.count_tokens(model=MODEL, contents="hi"))
        assert counted.total_tokens == 7
        with pytest.raises(errors.APIError):
            await clients.wait(client.models.get(model=MODEL))

    def ask_with_retries(self, clients: Clients) -> Any:
        retries = types.HttpRetryOptions(attempts=3, initial_delay=0.001, max_delay=0.001)
        config = types.GenerateContentConfig(http_options=types.HttpOptions(retry_options=retries))
        return clients.wrapped().models.generate_content(model=MODEL, contents="hi", config=config)

    def set_up_readme(self, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("GOOGLE_API_KEY", "k")
        options = types.HttpOptions(base_url=provider.root)
        monkeypatch.setattr(genai, "Client", functools.partial(genai.Client, http_options=options))

    def close_readme(self, client: Any) -> None:
        client._api_client._httpx_client.close()


def _async_hook(hook: Any) -> Any:
    async def call(request: Any) -> None:
        hook(request)

    return call


ADAPTER = GoogleAdapter()


@pytest.fixture
def adapter() -> GoogleAdapter:
    return ADAPTER


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    parametrize_ways(metafunc, ADAPTER)


@pytest.fixture
def nothing_wrapped(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process in which no client has been wrapped yet."""
    _generators.leave_contexts()
    monkeypatch.setattr(_clients._State, "has_wrapped", False)
    yield
    _generators.leave_contexts()
