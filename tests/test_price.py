"""Prices: they agree with the price list's own calculation, and what is not known is None."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from everycall._price import Price, price, price_record
from everycall.record import Record

AT = 1_750_000_000_000_000_000


def record(**fields: Any) -> Record:
    given = {"kind": "llm", "model": "gpt-4o", "provider": "openai", "input_tokens": 1000, "output_tokens": 100}
    return Record(inference_id="i", trace_id="t", start_time_unix_nano=AT, **{**given, **fields})


def test_a_known_model_has_a_price_with_its_source_and_version() -> None:
    import genai_prices

    found = price("gpt-4o", "openai", 1_000_000, 1_000_000, {}, AT)
    assert found == Price(12.5, "genai-prices", genai_prices.__version__)


def test_cached_tokens_are_part_of_the_input_and_cost_less() -> None:
    whole = price("gpt-4o", "openai", 1_000_000, 0, {}, AT)
    cached = price("gpt-4o", "openai", 1_000_000, 0, {"cached": 1_000_000}, AT)
    assert whole is not None
    assert cached is not None
    assert (whole.cost, cached.cost) == (2.5, 1.25)


@pytest.mark.parametrize(
    ("model", "provider"),
    [
        ("SmolLM2-135M", "local"),
        ("gpt-4o", "local"),  # the same name on another machine is not OpenAI's price
        ("no-such-model", "openai"),
        ("", "openai"),
        ("no-such-model", None),
    ],
)
def test_an_unknown_model_or_provider_has_no_price(model: str, provider: str | None) -> None:
    assert price(model, provider, 10, 10, {}, AT) is None


def test_parts_that_exceed_their_whole_have_no_price() -> None:
    assert price("gpt-4o", "openai", 10, 0, {"cached": 11}, AT) is None


@pytest.mark.parametrize("at", [0, 1, 2**63 - 1])
def test_no_instant_makes_it_raise(at: int) -> None:
    assert price("deepseek-chat", "deepseek", 10, 10, {}, at) is None or price(
        "deepseek-chat", "deepseek", 10, 10, {}, at
    )


@pytest.mark.parametrize(
    ("name", "same_as"),
    [("azure.ai.openai", "azure"), ("x_ai", "x-ai"), ("mistral_ai", "mistral"), ("gcp.gemini", "google")],
)
def test_names_of_the_semantic_conventions_are_understood(name: str, same_as: str) -> None:
    models = {"azure": "gpt-4o", "x-ai": "grok-3", "mistral": "mistral-large-latest", "google": "gemini-2.0-flash"}
    found = price(models[same_as], name, 1000, 1000, {}, AT)
    assert found is not None
    assert found == price(models[same_as], same_as, 1000, 1000, {}, AT)


def test_the_provider_that_parea_leaks_counts_as_none() -> None:
    found = price("gpt-4o", "BaseProvider('gpt-4o')", 1000, 1000, {}, AT)
    assert found is not None
    assert found == price("gpt-4o", None, 1000, 1000, {}, AT)


def test_every_model_costs_what_the_price_list_calculates() -> None:
    """Our fast sum against `genai_prices.calc_price`, over the whole list, with parts and tiers."""
    from genai_prices import Usage, calc_price
    from genai_prices.data_snapshot import get_snapshot

    rng = random.Random(7)
    when = datetime.fromtimestamp(AT / 1e9, UTC)
    compared = 0
    for provider in get_snapshot().providers:
        for model in provider.models:
            given, made = rng.choice([90, 250_000]), rng.randrange(1, 5000)
            parts = {"cached": rng.choice([0, 30]), "cache_write": rng.choice([0, 20]), "reasoning": rng.choice([0, 1])}
            ours = price(model.id, provider.id, given, made, parts, AT)
            if ours is None:
                continue
            usage = Usage(
                input_tokens=given,
                output_tokens=made,
                cache_read_tokens=parts["cached"],
                cache_write_tokens=parts["cache_write"],
                output_reasoning_tokens=parts["reasoning"],
            )
            theirs = calc_price(usage, model.id, provider_id=provider.id, genai_request_timestamp=when)
            assert ours.cost == pytest.approx(float(theirs.total_price), rel=1e-9, abs=1e-12), (provider.id, model.id)
            compared += 1
    assert compared > 1000


def test_a_record_is_priced_once() -> None:
    priced = price_record(record())
    assert (priced.cost, priced.cost_source) == (0.0035, "genai-prices")
    assert price_record(priced) is priced


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "chain"},
        {"kind": "tool"},
        {"model": None},
        {"input_tokens": None},
        {"output_tokens": None},
        {"cost": 0.0},
        {"model": "no-such-model"},
    ],
    ids=str,
)
def test_a_record_that_cannot_or_need_not_be_priced_is_left_alone(fields: dict[str, Any]) -> None:
    given = record(**fields)
    assert price_record(given) is given


def test_an_embedding_needs_no_output_tokens() -> None:
    priced = price_record(record(kind="embedding", model="text-embedding-3-small", output_tokens=None))
    assert priced.cost is not None
    assert priced.cost > 0
    assert msgspec.structs.replace(priced, cost=None).output_tokens is None


def test_a_clients_cache_hit_costs_nothing_and_says_what_it_saved() -> None:
    """Cost 0 on a cache hit stays 0; the price of its tokens is `saved_cost`, and None when it is not known."""
    hit = price_record(record(cost=0.0, cost_source="cache", cache_hit=True))
    paid = price_record(record())
    assert (hit.cost, hit.cost_source, hit.saved_cost) == (0.0, "cache", paid.cost)
    unknown = price_record(record(cost=0.0, cache_hit=True, model="no-such-model"))
    assert (unknown.cost, unknown.saved_cost) == (0.0, None)
