"""How the contract suite and the tests here make and ask Anthropic's clients."""

from __future__ import annotations

from typing import Any

import anthropic
import pydantic
import pytest

import everycall_anthropic
from everycall_testkit import client_bench
from everycall_testkit.client_bench import Clients
from everycall_testkit.client_contract import Failure, StainlessAdapter, Timeout, Way, parametrize_ways
from everycall_testkit.provider import FakeProvider

clean_environment, no_internal_failure = client_bench.clean_environment, client_bench.no_internal_failure
clients, provider, records = client_bench.clients, client_bench.provider, client_bench.records
nothing_wrapped = client_bench.nothing_wrapped

MODEL = "claude-test"
MESSAGES = [{"role": "user", "content": "hi"}]
REQUEST: dict[str, Any] = {"model": MODEL, "max_tokens": 9, "messages": MESSAGES}
PROMPT: dict[str, Any] = {"model": MODEL, "max_tokens_to_sample": 9, "prompt": "hi"}
USAGE = {"input_tokens": 22, "output_tokens": 189, "total_tokens": 211, "usage": {"cached": 10, "cache_write": 5}}
FIRST_USAGE = {"input_tokens": 22, "usage": {"cached": 10, "cache_write": 5}}
"""What a stream's first event reports: the input has been counted, the output has not."""


class Answer(pydantic.BaseModel):
    city: str


SCHEMA = {
    "type": "object",
    "title": "Answer",
    "properties": {"city": {"type": "string", "title": "City"}},
    "additionalProperties": False,
    "required": ["city"],
}


def way(ask: Any, returns: Any = "answer", *, legacy: bool = False, **params: Any) -> Way:
    """Return one way of asking, with these parameters of the request in its record."""
    limit = {"max_tokens_to_sample": 9} if legacy else {"max_tokens": 9}
    if returns != "answer":
        params["stream"] = True
    request = {
        "name": f"text_completion {MODEL}" if legacy else f"chat {MODEL}",
        "kind": "llm",
        "project_name": "default",
        "status": "success",
        "model": MODEL,
        "provider": "anthropic",
        "scope": "everycall_anthropic",
        "llm_configuration": {
            "model": MODEL,
            "provider": "anthropic",
            "model_params": {**limit, **params},
            "messages": MESSAGES,
        },
    }
    attributes = {"gen_ai.response.id": "msg_1"}
    if legacy:
        attributes = {"gen_ai.response.id": "compl_1", "anthropic.response.log_id": "compl_1"}
    reason = "stop_sequence" if legacy else "end_turn"
    answer = {
        **({} if legacy else USAGE),
        "attributes": {**attributes, "gen_ai.response.finish_reasons": [reason]},
    }
    return Way(ask, request, answer, {**({} if legacy else FIRST_USAGE), "attributes": attributes}, returns)


WAYS = {
    "messages": way(lambda c: c.messages.create(**REQUEST, stop_sequences=["x"]), stop_sequences=["x"]),
    "beta": way(lambda c: c.beta.messages.create(**REQUEST)),
    "messages stream": way(lambda c: c.messages.create(**REQUEST, stream=True), "stream"),
    "beta stream": way(lambda c: c.beta.messages.create(**REQUEST, stream=True), "stream"),
    "messages stream()": way(lambda c: c.messages.stream(**REQUEST), "manager"),
    "by hand": way(lambda c: c.post("/v1/messages", body=REQUEST, cast_to=anthropic.types.Message)),
}
if hasattr(anthropic.resources, "Completions"):
    WAYS |= {
        "complete": way(lambda c: c.completions.create(**PROMPT), legacy=True),
        "complete stream": way(lambda c: c.completions.create(**PROMPT, stream=True), "stream", legacy=True),
    }
if hasattr(anthropic.resources.beta.messages.Messages, "stream"):
    WAYS["beta stream()"] = way(lambda c: c.beta.messages.stream(**REQUEST), "manager")
if hasattr(anthropic.resources.messages.Messages, "parse"):
    FORMAT = {"format": {"schema": SCHEMA, "type": "json_schema"}}
    WAYS["parse"] = way(lambda c: c.messages.parse(**REQUEST, output_format=Answer), output_config=FORMAT)
    WAYS["parse stream()"] = way(
        lambda c: c.messages.stream(**REQUEST, output_format=Answer), "manager", output_config=FORMAT
    )


class AnthropicAdapter(StainlessAdapter):
    name = "anthropic"
    integration = everycall_anthropic
    library = anthropic
    client_types = (anthropic.Anthropic, anthropic.AsyncAnthropic)
    provider = "anthropic"
    wrap_options = {"provider": "anthropic"}
    """The host on loopback has no name, so the provider is given."""
    ways = WAYS

    rate_limited = Failure(
        529,
        anthropic.InternalServerError,
        None,
        {"http.response.status_code": 529, "anthropic.request.id": "req_7", "error.type": "overloaded_error"},
        {"request-id": "req_7"},
    )
    bad_request = Failure(400, anthropic.BadRequestError, "anthropic.BadRequestError")
    server_error = Failure(500, anthropic.InternalServerError, "anthropic.InternalServerError")
    timeout = Timeout(anthropic.APITimeoutError, "Request timed out", "anthropic.APITimeoutError")
    stream_error = Failure(
        200,
        anthropic.APIStatusError,
        None,
        {"http.response.status_code": 200, "anthropic.request.id": "req_7", "error.type": "overloaded_error"},
        {"request-id": "req_7"},
    )
    opening_pieces = 2
    tokens_before_end = 189

    framework_reply = {
        "usage": {
            "input_tokens": 7,
            "cache_read_input_tokens": 10,
            "output_tokens": 9,
            "service_tier": "priority",
        }
    }
    framework_tokens = (17, 9, {"cached": 10})
    framework_attributes = {
        "gen_ai.response.id": "msg_1",
        "everycall.service_tier": "priority",
        "anthropic.response.service_tier": "priority",
    }

    refusal = r"wrap\(\) takes a client such as anthropic\.Anthropic\(\)"
    strange_answers = (
        b'{"id": "x"}',
        b'{"content": null, "usage": {"input_tokens": "many"}}',
        b'{"content": [null, 7, "text", {"type": "text"}], "usage": []}',
        b"[]",
        b'"text"',
        b"null",
    )
    patched = (
        (anthropic._base_client.SyncAPIClient, "request"),
        (anthropic._base_client.AsyncAPIClient, "request"),
    )
    library_modules = r"anthropic\._base_client"
    wrong_calls = ((lambda client: client.request(object), TypeError, "options"),)
    retry_reply = {"status": 529, "headers": {"retry-after-ms": "1"}}

    request = REQUEST
    raw_stream_tokens = (22, 189)
    last_lines = ('data: {"type": "message_stop"}', "")

    @property
    def call_name(self) -> str:
        return f"chat {MODEL}"

    def new_client(self, provider: FakeProvider, is_async: bool, **settings: Any) -> Any:
        hook = settings.pop("hook", None)
        if "http_client" not in settings:
            settings["http_client"] = self.new_http_client(is_async, hook)
        defaults = {"base_url": provider.root, "api_key": "sk-fake", "max_retries": 0}
        client_class = settings.pop("client_class", self.client_class(is_async))
        return client_class(**{**defaults, **settings})

    def plain_http_client(self, is_async: bool, **settings: Any) -> Any:
        http = anthropic.DefaultAsyncHttpxClient if is_async else anthropic.DefaultHttpxClient
        return http(verify=False, **settings)

    def resource(self, client: Any) -> Any:
        return client.messages

    def answer_text(self, answer: Any) -> str:
        return str(answer.content[0].text)

    def piece_text(self, piece: Any) -> str | None:
        text: str | None = getattr(piece, "completion", None) or getattr(getattr(piece, "delta", None), "text", None)
        return text

    def is_final(self, piece: Any) -> bool:
        return bool(piece.type == "message_delta")

    def program(self) -> str:
        return """
import sys
import anthropic, everycall, everycall_anthropic

client = everycall_anthropic.wrap(anthropic.Anthropic(base_url=sys.argv[1], api_key="k"))
stream = client.messages.create(model="claude-test", max_tokens=9, messages=[], stream=True)
next(stream); next(stream); next(stream)
"""

    async def other_requests(self, clients: Clients, client: Any) -> None:
        """Counting tokens is free."""
        counted = await clients.wait(client.beta.messages.count_tokens(model=MODEL, messages=MESSAGES))
        assert counted.input_tokens == 22
        with pytest.raises(anthropic.NotFoundError):
            await clients.wait(client.get("/v1/models/claude-test", cast_to=object))

    def set_up_readme(self, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("ANTHROPIC_API_KEY", "k")
        monkeypatch.setenv("ANTHROPIC_BASE_URL", provider.root)


ADAPTER = AnthropicAdapter()


@pytest.fixture
def adapter() -> AnthropicAdapter:
    return ADAPTER


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    parametrize_ways(metafunc, ADAPTER)


@pytest.fixture(name="batches_of")
def _batches_of() -> Any:
    """Return a function from a client to its batches: they left `beta` in anthropic 0.41."""

    def batches_of(client: Any) -> Any:
        messages = client.messages
        return messages.batches if hasattr(messages, "batches") else client.beta.messages.batches

    return batches_of
