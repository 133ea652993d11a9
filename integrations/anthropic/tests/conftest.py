"""What the tests share: a provider on loopback, clients of both kinds that talk to it, and records as plain values."""

from __future__ import annotations

from typing import Any

import anthropic
import pytest

import everycall_anthropic
from everycall_testkit import client_bench as bench

clean_environment, no_failure_of_ours = bench.clean_environment, bench.no_failure_of_ours
provider, records, told, value = bench.provider, bench.records, bench.told, bench.value


@pytest.fixture(params=["sync", "async"])
async def both(request: pytest.FixtureRequest, provider: Any) -> Any:
    """Clients of both kinds; a wrapped one takes the fake provider for Anthropic."""

    def make(**settings: Any) -> Any:
        kind = anthropic.AsyncAnthropic if request.param == "async" else anthropic.Anthropic
        if "http_client" not in settings:  # loading certificates, which nobody needs here, takes most of a test's time
            http = anthropic.DefaultAsyncHttpxClient if request.param == "async" else anthropic.DefaultHttpxClient
            settings["http_client"] = http(verify=False)
        return kind(**{"base_url": provider.root, "api_key": "sk-fake", "max_retries": 0, **settings})

    def wrap(client: Any, **options: Any) -> Any:
        return everycall_anthropic.wrap(client, **{"provider": "anthropic", **options})

    made = bench.Both(request.param, make, wrap)
    yield made
    await made.close()


@pytest.fixture
def all_of() -> Any:
    """Return a reader of a record whose latency nobody knows: all that is in it, but for ids and times."""
    return bench.all_of


def batches_of(client: Any) -> Any:
    """Return where batches are: they left `beta` in anthropic 0.41."""
    messages = client.messages
    return messages.batches if hasattr(messages, "batches") else client.beta.messages.batches


@pytest.fixture(name="batches_of")
def _batches_of() -> Any:
    return batches_of
