"""The provider by class and host, and the library's clients of other platforms."""

from __future__ import annotations

from inspect import isawaitable
from typing import Any

import anthropic
import pytest

import everycall_anthropic
from everycall.record import Record
from everycall_anthropic._providers import provider_of
from everycall_testkit.provider import FakeProvider

HOSTS = {
    "https://api.anthropic.com": "anthropic",
    "https://api.deepseek.com/anthropic": "deepseek",
    "https://api.moonshot.ai/anthropic": "moonshot_ai",
    "https://openrouter.ai/api": "openrouter",
    "https://my.services.ai.azure.com/anthropic/": "azure.ai.inference",
    "http://localhost:11434": "ollama",
    "http://127.0.0.1:8000": None,
    "https://llm.example.com": None,
    "https://notanthropic.com": None,
    "https://api.anthropic.com.example.org": None,
}
GATEWAY = "https://gateway.example.com/v1"
REQUEST: dict[str, Any] = {"model": "claude-test", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}


@pytest.mark.parametrize(("base_url", "provider"), HOSTS.items(), ids=HOSTS.keys())
def test_the_host_names_the_provider(base_url: str, provider: str | None) -> None:
    with anthropic.Anthropic(api_key="k", base_url=base_url) as client:
        assert provider_of(client) == provider


PLATFORMS: dict[str, tuple[dict[str, Any], str]] = {
    "AnthropicVertex": ({"region": "r", "project_id": "p", "access_token": "t"}, "gcp.vertex_ai"),
    "AnthropicBedrock": ({"aws_region": "r", "aws_access_key": "a", "aws_secret_key": "s"}, "aws.bedrock"),
    "AnthropicBedrockMantle": ({"aws_region": "r", "api_key": "k"}, "aws.bedrock"),
    "AnthropicFoundry": ({"api_key": "k"}, "azure.ai.inference"),
    "AnthropicAWS": ({"aws_region": "r", "api_key": "k", "workspace_id": "w"}, "anthropic"),
}


@pytest.mark.parametrize("prefix", ["", "Async"])
@pytest.mark.parametrize(("name", "settings", "provider"), [(n, *p) for n, p in PLATFORMS.items()], ids=PLATFORMS)
def test_the_class_names_the_provider(prefix: str, name: str, settings: dict[str, Any], provider: str) -> None:
    """Also behind a gateway of your own."""
    kind = getattr(anthropic, f"{prefix}{name}", None)
    if kind is None:
        pytest.skip("this version has no such client")
    client = kind(**settings, base_url=GATEWAY)
    assert provider_of(client) == provider
    assert everycall_anthropic.wrap(client) is client


async def ask(client: Any) -> None:
    """Ask once whole, once in a stream, and close."""
    answer = client.messages.create(**REQUEST)
    answer = await answer if isawaitable(answer) else answer
    assert answer.content[0].text == "hello"
    stream = client.with_options(timeout=5).messages.create(**REQUEST, stream=True)
    if isawaitable(stream):
        assert [event async for event in await stream][-1].type == "message_stop"
    else:
        assert list(stream)[-1].type == "message_stop"
    closed = client.close()
    if isawaitable(closed):
        await closed


@pytest.mark.parametrize("kind", [anthropic.AnthropicVertex, anthropic.AsyncAnthropicVertex])
async def test_vertex(kind: Any, provider: FakeProvider, records: list[Record]) -> None:
    """The path names the model; the record has the model that answered."""
    settings = {"region": "r", "project_id": "p", "access_token": "t", "max_retries": 0}
    await ask(everycall_anthropic.wrap(kind(**settings, base_url=provider.base_url)))
    assert [request.path.rpartition("/")[2] for request in provider.requests] == [
        "claude-test:rawPredict",
        "claude-test:streamRawPredict",
    ]
    fields = [(r.provider, r.name, r.model, r.content, r.input_tokens) for r in records]
    assert fields == [("gcp.vertex_ai", "chat claude-test", "claude-test", "hello", 22)] * 2


@pytest.mark.parametrize("name", ["AnthropicFoundry", "AsyncAnthropicFoundry"])
async def test_foundry(name: str, provider: FakeProvider, records: list[Record]) -> None:
    kind = getattr(anthropic, name, None)
    if kind is None:
        pytest.skip("this version has no such client")
    await ask(everycall_anthropic.wrap(kind(api_key="k", base_url=f"{provider.root}/anthropic", max_retries=0)))
    assert [(r.provider, r.content) for r in records] == [("azure.ai.inference", "hello")] * 2


@pytest.mark.parametrize("name", ["AnthropicBedrock", "AsyncAnthropicBedrock"])
async def test_bedrock(name: str, provider: FakeProvider, records: list[Record]) -> None:
    """Not streamed: streams come in AWS's own frames, which only AWS's package reads."""
    kind = getattr(anthropic, name)
    try:
        client = kind(aws_region="r", api_key="k", base_url=provider.root, max_retries=0)
    except TypeError:
        pytest.skip("this version signs with AWS's own package alone")
    answer = everycall_anthropic.wrap(client).messages.create(**{**REQUEST, "model": "us.anthropic.claude-test:0"})
    answer = await answer if isawaitable(answer) else answer
    closed = client.close()
    if isawaitable(closed):
        await closed
    assert provider.requests[0].path == "/model/us.anthropic.claude-test:0/invoke"
    assert [(r.provider, r.model, r.content) for r in records] == [
        ("aws.bedrock", "us.anthropic.claude-test:0", answer.content[0].text)
    ]
