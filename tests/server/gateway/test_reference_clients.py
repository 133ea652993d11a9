"""The providers' official clients as the reference: the same request on the wire, the same answer, the same errors."""

from __future__ import annotations

from typing import Any

import anthropic
import openai
import pytest

from everycall.server.gateway.provider_request import ProviderRequest
from everycall.server.gateway.provider_response import ProviderError
from everycall.server.gateway.providers import ProviderClient
from everycall.server.provider_settings import ProviderSettings

KEY = "sk-reference-1234567"
STATUSES = [400, 401, 403, 404, 408, 409, 413, 422, 429, 500, 502, 503, 529]
FUNCTION = {"name": "weather", "description": "of a city", "parameters": {"type": "object", "properties": {}}}
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Bern"}'}}
MESSAGES: dict[str, list[dict[str, Any]]] = {
    "a question": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "grüße"}],
    "a tool": [
        {"role": "user", "content": "weather?"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
    ],
    "an image": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "look"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "low"}},
            ],
        }
    ],
}


def settings(kind: Any, provider: Any) -> ProviderSettings:
    base_url = provider.base_url if kind == "openai" else provider.root
    return ProviderSettings(kind, kind, base_url, KEY, "2024-10-21" if kind == "azure" else None)


def request(kind: str, messages: list[dict[str, Any]], **params: Any) -> ProviderRequest:
    model = "claude-haiku-4-5" if kind == "anthropic" else "gpt-4o"
    return ProviderRequest(kind, model, params, messages, [FUNCTION], None)


def ask_officially(kind: str, provider: Any, body: dict[str, Any]) -> Any:
    """Send a body with the official client, and return its answer."""
    options: dict[str, Any] = {"api_key": KEY, "max_retries": 0}
    if kind == "anthropic":
        http = anthropic.DefaultHttpxClient(follow_redirects=False)
        with anthropic.Anthropic(base_url=provider.root, http_client=http, **options) as client:
            return client.messages.create(**body)
    options["http_client"] = openai.DefaultHttpxClient(follow_redirects=False)
    if kind == "azure":
        azure = openai.AzureOpenAI(azure_endpoint=provider.root, api_version="2024-10-21", **options)
        with azure:
            return azure.chat.completions.create(**body)
    with openai.OpenAI(base_url=provider.base_url, **options) as plain:
        return plain.chat.completions.create(**body)


@pytest.mark.parametrize("messages", MESSAGES.values(), ids=MESSAGES)
@pytest.mark.parametrize("kind", ["openai", "azure", "anthropic"])
async def test_the_same_request_and_the_same_answer(provider: Any, kind: str, messages: Any) -> None:
    client = ProviderClient(settings(kind, provider))
    answer = await client.ask(request(kind, messages, max_length=50), None)
    await client.close()
    ours = provider.requests.pop()
    reference = ask_officially(kind, provider, ours.body)
    theirs = provider.requests.pop()
    assert (ours.path, ours.body) == (theirs.path, theirs.body)
    for header in ("api-key", "content-type", "accept"):
        assert ours.headers.get(header) == theirs.headers.get(header), header
    if kind == "anthropic":  # the API's version that has sampling parameters, and the header that it has for keys
        assert (ours.headers["anthropic-version"], ours.headers["x-api-key"]) == ("2023-06-01", KEY)
    else:
        assert ours.headers.get("authorization") == theirs.headers.get("authorization")
    text = reference.content[0].text if kind == "anthropic" else reference.choices[0].message.content
    assert (answer.content, answer.model, answer.response_id) == (text, reference.model, reference.id)


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("kind", ["openai", "anthropic"])
async def test_the_same_errors(provider: Any, kind: str, status: int) -> None:
    provider.reply(status=status, error=f"because of {status}")
    client = ProviderClient(settings(kind, provider))
    with pytest.raises(ProviderError) as ours:
        await client.ask(request(kind, MESSAGES["a question"], max_length=50), None)
    await client.close()
    body = provider.requests[-1].body
    provider.reply(status=status, error=f"because of {status}")
    base = anthropic.APIStatusError if kind == "anthropic" else openai.APIStatusError
    with pytest.raises(base) as theirs:
        ask_officially(kind, provider, body)
    assert isinstance(theirs.value, anthropic.APIStatusError | openai.APIStatusError)
    assert ours.value.status == theirs.value.status_code
    names = {ours.value.error_type, type(theirs.value).__name__}
    # The two packages name some statuses differently; the gateway has one name for each.
    assert len(names) == 1 or status in (408, 413, 503, 529)
    assert ours.value.message == f"because of {status}"


async def test_no_connection_has_the_name_of_the_official_clients() -> None:
    client = ProviderClient(ProviderSettings("openai", "openai", "http://127.0.0.1:9/v1", KEY))
    with pytest.raises(ProviderError) as ours:
        await client.ask(request("openai", MESSAGES["a question"]), None)
    await client.close()
    with openai.OpenAI(base_url="http://127.0.0.1:9/v1", api_key=KEY, max_retries=0) as reference:
        with pytest.raises(openai.APIConnectionError) as theirs:
            reference.models.list()
    assert (ours.value.error_type, ours.value.message) == (type(theirs.value).__name__, theirs.value.message)


@pytest.mark.parametrize("kind", ["openai", "anthropic"])
async def test_a_provider_that_is_silent_has_the_name_of_the_official_clients(provider: Any, kind: str) -> None:
    import threading

    hold = threading.Event()
    provider.reply(hold=hold)
    base_url = provider.base_url if kind == "openai" else provider.root
    client = ProviderClient(ProviderSettings(kind, kind, base_url, KEY, timeout_s=0.2))  # type: ignore[arg-type]
    with pytest.raises(ProviderError) as ours:
        await client.ask(request(kind, MESSAGES["a question"]), None)
    hold.set()
    await client.close()
    assert ours.value.error_type == openai.APITimeoutError.__name__ == anthropic.APITimeoutError.__name__
    assert ours.value.is_transient


def test_the_organisation_of_the_environment_is_sent_to_openai_alone(
    provider: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from everycall.server.gateway.formats.openai_chat import OpenAIChat

    monkeypatch.setenv("OPENAI_ORG_ID", "org-1")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj-1")
    openais = OpenAIChat(settings("openai", provider)).headers(KEY)
    assert (openais["OpenAI-Organization"], openais["OpenAI-Project"]) == ("org-1", "proj-1")
    for kind in ("azure", "openai_compatible"):
        assert "org-1" not in str(OpenAIChat(settings(kind, provider)).headers(KEY))
