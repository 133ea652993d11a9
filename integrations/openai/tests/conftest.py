"""What the tests share: a provider on loopback, clients of both kinds that talk to it, and records as plain values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import openai
import pytest

import everycall_openai
from everycall_testkit import client_bench as bench

clean_environment, no_failure_of_ours = bench.clean_environment, bench.no_failure_of_ours
provider, records, told, value = bench.provider, bench.records, bench.told, bench.value


@pytest.fixture(params=["sync", "async"])
async def both(request: pytest.FixtureRequest, provider: Any) -> Any:
    """Clients of both kinds; a wrapped one takes the fake provider for OpenAI."""

    def make(**settings: Any) -> Any:
        kind = openai.AsyncOpenAI if request.param == "async" else openai.OpenAI
        if "http_client" not in settings:  # loading certificates, which nobody needs here, takes most of a test's time
            http = openai.DefaultAsyncHttpxClient if request.param == "async" else openai.DefaultHttpxClient
            settings["http_client"] = http(verify=False)
        return kind(**{"base_url": provider.base_url, "api_key": "sk-fake", "max_retries": 0, **settings})

    def wrap(client: Any, **options: Any) -> Any:
        return everycall_openai.wrap(client, **{"provider": "openai", **options})

    made = bench.Both(request.param, make, wrap)
    yield made
    await made.close()


def chat_helpers(client: Any) -> Any:
    """Return where `parse` and `stream` of chats are: they left `beta` in openai 1.92."""
    completions = client.chat.completions
    return completions if hasattr(completions, "stream") else client.beta.chat.completions


@pytest.fixture(name="chat_helpers")
def _chat_helpers() -> Callable[[Any], Any]:
    return chat_helpers
