"""How the contract suite and the tests here make and ask OpenAI's clients."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import openai
import pydantic
import pytest

import everycall_openai
from everycall_testkit import client_bench
from everycall_testkit.client_bench import Clients
from everycall_testkit.client_contract import (
    Embedding,
    Failure,
    StainlessAdapter,
    Timeout,
    Way,
    parametrize_ways,
)
from everycall_testkit.provider import FakeProvider

clean_environment, no_internal_failure = client_bench.clean_environment, client_bench.no_internal_failure
clients, provider, records = client_bench.clients, client_bench.provider, client_bench.records
nothing_wrapped = client_bench.nothing_wrapped

HAS_RESPONSES = find_spec("openai.resources.responses") is not None
MESSAGES = [{"role": "user", "content": "hi"}]
CHAT = {"model": "gpt-4o", "messages": MESSAGES}
PROMPT = {"model": "gpt-4o", "prompt": "hi"}
INPUT = {"model": "gpt-4o", "input": "hi"}


class Answer(pydantic.BaseModel):
    city: str


SCHEMA = {
    "properties": {"city": {"title": "City", "type": "string"}},
    "required": ["city"],
    "title": "Answer",
    "type": "object",
    "additionalProperties": False,
}
CHAT_FORMAT = {"type": "json_schema", "json_schema": {"schema": SCHEMA, "name": "Answer", "strict": True}}
RESPONSE_FORMAT = {"format": {"type": "json_schema", "strict": True, "name": "Answer", "schema": SCHEMA}}

TOKENS = {"input_tokens": 22, "output_tokens": 189, "total_tokens": 211}
CHAT_USAGE = {"cached": 10, "reasoning": 64, "input_audio": 0, "output_audio": 0}
RESPONSE_USAGE = {"cached": 10, "cache_write": 0, "reasoning": 64}
IDS = {"chat": "chatcmpl-1", "completions": "cmpl-1", "responses": "resp_1"}


def way(ask: Any, api: str = "chat", returns: Any = "answer", **params: Any) -> Way:
    """Return one way of asking an API, with these parameters of the request in its record."""
    if returns != "answer":
        params["stream"] = True
    configuration = {"model": "gpt-4o", "provider": "openai", "model_params": params, "messages": MESSAGES}
    request = {
        "name": "text_completion gpt-4o" if api == "completions" else "chat gpt-4o",
        "kind": "llm",
        "project_name": "default",
        "status": "success",
        "model": "gpt-4o",
        "provider": "openai",
        "scope": "everycall_openai",
        "llm_configuration": configuration,
    }
    attributes = {"gen_ai.response.id": IDS[api]}
    reason = "completed" if api == "responses" else "stop"
    answer = {
        **TOKENS,
        "usage": RESPONSE_USAGE if api == "responses" else CHAT_USAGE,
        "model": "gpt-4o-2024-08-06",
        "attributes": {**attributes, "gen_ai.response.finish_reasons": [reason]},
    }
    return Way(ask, request, answer, {"model": "gpt-4o-2024-08-06", "attributes": attributes}, returns)


def chat_helpers(client: Any) -> Any:
    """Return where `parse` and `stream` of chats are: they left `beta` in openai 1.92."""
    completions = client.chat.completions
    return completions if hasattr(completions, "stream") else client.beta.chat.completions


WAYS = {
    "chat": way(lambda c: c.chat.completions.create(**CHAT, temperature=0.5), temperature=0.5),
    "chat parse": way(lambda c: chat_helpers(c).parse(**CHAT, response_format=Answer), response_format=CHAT_FORMAT),
    "completions": way(lambda c: c.completions.create(**PROMPT), "completions"),
    "chat stream": way(lambda c: c.chat.completions.create(**CHAT, stream=True), returns="stream"),
    "chat stream()": way(lambda c: chat_helpers(c).stream(**CHAT), returns="manager"),
    "completions stream": way(lambda c: c.completions.create(**PROMPT, stream=True), "completions", "stream"),
}
if HAS_RESPONSES:
    WAYS |= {
        "responses": way(lambda c: c.responses.create(**INPUT), "responses"),
        "responses parse": way(
            lambda c: c.responses.parse(**INPUT, text_format=Answer), "responses", text=RESPONSE_FORMAT
        ),
        "responses stream": way(lambda c: c.responses.create(**INPUT, stream=True), "responses", "stream"),
        "responses stream()": way(lambda c: c.responses.stream(**INPUT), "responses", "manager"),
    }


class OpenAIAdapter(StainlessAdapter):
    name = "openai"
    integration = everycall_openai
    library = openai
    client_types = (openai.OpenAI, openai.AsyncOpenAI)
    provider = "openai"
    wrap_options = {"provider": "openai"}
    """The host on loopback has no name, so the provider is given."""
    ways = WAYS
    embedding = Embedding(
        lambda client, text: client.embeddings.create(
            model="text-embedding-3-small", input=text, dimensions=8, encoding_format="float"
        ),
        {
            "name": "embeddings text-embedding-3-small",
            "kind": "embedding",
            "project_name": "default",
            "status": "success",
            "scope": "everycall_openai",
            "llm_configuration": {
                "model": "text-embedding-3-small",
                "provider": "openai",
                "model_params": {"dimensions": 8, "encoding_format": "float"},
            },
            "model": "text-embedding-3-small",
            "provider": "openai",
            "input_tokens": 7,
            "output_tokens": 0,
            "total_tokens": 7,
        },
    )

    rate_limited = Failure(
        429,
        openai.RateLimitError,
        "openai.RateLimitError",
        {"http.response.status_code": 429, "openai.request_id": "req_7", "openai.error.type": "error"},
        {"x-request-id": "req_7"},
    )
    bad_request = Failure(400, openai.BadRequestError, "openai.BadRequestError")
    server_error = Failure(500, openai.InternalServerError, "openai.InternalServerError")
    timeout = Timeout(openai.APITimeoutError, r"^Request timed out\.$", "openai.APITimeoutError")
    stream_error = Failure(200, openai.APIError, "openai.APIError", {"openai.error.type": "overloaded_error"})
    opening_pieces = 1

    framework_tokens = (22, 189, CHAT_USAGE)
    framework_attributes = {"gen_ai.response.id": "chatcmpl-1"}

    refusal = r"wrap\(\) takes a client such as openai\.OpenAI\(\)"
    strange_answers = (
        b'{"id": "x"}',
        b'{"choices": null, "usage": {"prompt_tokens": "many"}}',
        b"[]",
        b'"text"',
        b"null",
    )
    patched = ((openai._base_client.SyncAPIClient, "request"), (openai._base_client.AsyncAPIClient, "request"))
    library_modules = r"openai\._base_client"
    wrong_calls = ((lambda client: client.request(object), TypeError, "options"),)
    retry_reply = {"status": 503, "headers": {"retry-after-ms": "1"}}

    request = CHAT
    raw_stream_tokens = (None, None)
    """Usage is not asked for: it cannot be hidden from a reader of bytes."""
    last_lines = ("data: [DONE]", "")

    @property
    def call_name(self) -> str:
        return "chat gpt-4o"

    def new_client(self, provider: FakeProvider, is_async: bool, **settings: Any) -> Any:
        hook = settings.pop("hook", None)
        if "http_client" not in settings:
            settings["http_client"] = self.new_http_client(is_async, hook)
        defaults = {"base_url": provider.base_url, "api_key": "sk-fake", "max_retries": 0}
        client_class = settings.pop("client_class", self.client_class(is_async))
        return client_class(**{**defaults, **settings})

    def plain_http_client(self, is_async: bool, **settings: Any) -> Any:
        return (openai.DefaultAsyncHttpxClient if is_async else openai.DefaultHttpxClient)(verify=False, **settings)

    def resource(self, client: Any) -> Any:
        return client.chat.completions

    def answer_text(self, answer: Any) -> str:
        return str(answer.choices[0].message.content)

    def piece_text(self, piece: Any) -> str | None:
        if getattr(piece, "type", None) in ("content.delta", "response.output_text.delta"):
            return str(piece.delta)
        choices = getattr(piece, "choices", None)
        if not choices:
            return None
        text: str | None = choices[0].delta.content if hasattr(choices[0], "delta") else choices[0].text
        return text

    def is_final(self, piece: Any) -> bool:
        return bool(piece.choices[0].finish_reason)

    def stream_traits(self, stream: Any, is_async: bool) -> Any:
        return super().stream_traits(stream, is_async), vars(stream).keys()

    def program(self) -> str:
        return """
import sys
import openai, everycall, everycall_openai

client = everycall_openai.wrap(openai.OpenAI(base_url=f"{sys.argv[1]}/v1", api_key="k"), provider="openai")
stream = client.chat.completions.create(model="gpt-4o", messages=[], stream=True)
next(stream); next(stream)
"""

    async def other_requests(self, clients: Clients, client: Any) -> None:
        with pytest.raises(openai.APIStatusError):
            await clients.wait(client.moderations.create(input="hi"))
        with pytest.raises(openai.APIStatusError):
            await clients.wait(client.models.retrieve("gpt-4o"))

    def set_up_readme(self, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OPENAI_API_KEY", "k")
        monkeypatch.setenv("OPENAI_BASE_URL", provider.base_url)


ADAPTER = OpenAIAdapter()


@pytest.fixture
def adapter() -> OpenAIAdapter:
    return ADAPTER


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    parametrize_ways(metafunc, ADAPTER)


@pytest.fixture(name="chat_helpers")
def _chat_helpers() -> Any:
    return chat_helpers
