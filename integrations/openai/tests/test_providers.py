"""The provider by class and host, and which providers report the usage of a stream."""

from __future__ import annotations

from inspect import isawaitable
from typing import Any

import openai
import pytest

import everycall_openai
from everycall.record import Record
from everycall_openai._providers import provider_of, reports_stream_usage
from everycall_testkit.provider import FakeProvider

HOSTS = {
    "https://api.openai.com/v1": "openai",
    "https://eu.api.openai.com/v1": "openai",
    "https://my-resource.openai.azure.com/openai/v1/": "azure.ai.openai",
    "https://my.services.ai.azure.com/openai/v1/": "azure.ai.openai",
    "https://my.services.ai.azure.com/models": "azure.ai.inference",
    "https://api.groq.com/openai/v1": "groq",
    "https://api.deepseek.com": "deepseek",
    "https://api.mistral.ai/v1": "mistral_ai",
    "https://api.x.ai/v1": "x_ai",
    "https://openrouter.ai/api/v1": "openrouter",
    "https://api.together.xyz/v1": "together",
    "https://api.z.ai/api/paas/v4": "zai",
    "https://open.bigmodel.cn/api/paas/v4": "zhipuai",
    "https://my-account.snowflakecomputing.com/api/v2/cortex/v1": "snowflake",
    "https://api.novita.ai/openai": "novita",
    "https://api.fireworks.ai/inference/v1": "fireworks",
    "https://api.perplexity.ai": "perplexity",
    "https://generativelanguage.googleapis.com/v1beta/openai/": "gcp.gemini",
    "https://us-central1-aiplatform.googleapis.com/v1": "gcp.vertex_ai",
    "https://bedrock-runtime.us-west-2.amazonaws.com/openai/v1": "aws.bedrock",
    "http://localhost:11434/v1": "ollama",
    "http://127.0.0.1:8000/v1": None,
    "http://localhost/v1": None,
    "https://llm.example.com/v1": None,
    "https://notopenai.com/v1": None,
    "https://api.openai.com.example.org/v1": None,
}


@pytest.mark.parametrize(("base_url", "provider"), HOSTS.items(), ids=HOSTS.keys())
def test_the_host_names_the_provider(base_url: str, provider: str | None) -> None:
    with openai.OpenAI(api_key="k", base_url=base_url) as client:
        assert provider_of(client) == provider


@pytest.mark.parametrize("kind", [openai.AzureOpenAI, openai.AsyncAzureOpenAI])
def test_azures_client_names_the_provider(kind: Any) -> None:
    """Also behind a gateway of your own."""
    client = kind(api_key="k", api_version="2024-10-21", base_url="https://gateway.example.com/openai")
    assert provider_of(client) == "azure.ai.openai"


AZURE = {
    "2023-05-15": False,
    "2024-08-01-preview": False,
    "2024-09-01-preview": True,
    "2024-10-21": True,
    "2025-04-01-preview": True,
    "preview": True,
}


@pytest.mark.parametrize(("version", "expected"), AZURE.items(), ids=AZURE.keys())
def test_azure_versions_that_report_usage(version: str, expected: bool) -> None:
    client = openai.AzureOpenAI(api_key="k", api_version=version, azure_endpoint="https://my.openai.azure.com")
    assert reports_stream_usage("azure.ai.openai", client, {}) is expected
    assert not reports_stream_usage("azure.ai.openai", client, {"data_sources": []})


@pytest.mark.parametrize(
    ("provider", "expected"),
    [("openai", True), ("deepseek", True), ("groq", True), ("mistral_ai", False), (None, False)],
)
def test_who_reports_stream_usage(provider: str | None, expected: bool) -> None:
    assert reports_stream_usage(provider, openai.OpenAI(api_key="k"), {}) is expected


def test_azures_v1_reports_stream_usage() -> None:
    client = openai.OpenAI(api_key="k", base_url="https://my.openai.azure.com/openai/v1/")
    assert reports_stream_usage("azure.ai.openai", client, {})


@pytest.mark.parametrize("kind", [openai.AzureOpenAI, openai.AsyncAzureOpenAI])
async def test_a_request_to_azure(kind: Any, provider: FakeProvider, records: list[Record]) -> None:
    """The path names the deployment; the record has the model that answered."""
    client = everycall_openai.wrap(
        kind(api_key="k", api_version="2024-10-21", azure_endpoint=provider.root, azure_deployment="my-gpt")
    )
    answer = client.chat.completions.create(model="my-gpt", messages=[{"role": "user", "content": "hi"}])
    answer = await answer if isawaitable(answer) else answer
    copied = client.with_options(timeout=5).chat.completions.create(model="my-gpt", messages=[], stream=True)
    chunks = [chunk async for chunk in await copied] if isawaitable(copied) else list(copied)
    assert all(chunk.choices for chunk in chunks)
    assert [request.path.partition("?")[0] for request in provider.requests] == [
        "/openai/deployments/my-gpt/chat/completions"
    ] * 2
    assert provider.requests[1].body["stream_options"] == {"include_usage": True}
    assert [(r.provider, r.model, r.input_tokens) for r in records] == [("azure.ai.openai", "my-gpt", 22)] * 2
    closed = client.close()
    if isawaitable(closed):
        await closed
