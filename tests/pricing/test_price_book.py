"""Prices agree with the price list's own calculation, and an unknown price is None."""

from __future__ import annotations

import random
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from everycall._pricing.catalogue import unnamed_models
from everycall._pricing.cost import Consumption, Price, Unpriced
from everycall._pricing.model_names import candidates
from everycall._pricing.price_book import PriceBook, price
from everycall._pricing.records import unpriced_reason
from everycall.record import Record, to_raw

AT = 1_750_000_000_000_000_000
AUTUMN_2026 = 1_793_000_000_000_000_000
BOOK = PriceBook()
price_record = BOOK.price_record


def record(**fields: Any) -> Record:
    defaults = {"kind": "llm", "model": "gpt-4o", "provider": "openai", "input_tokens": 1000, "output_tokens": 100}
    return Record(inference_id="i", trace_id="t", start_time_unix_nano=AT, **{**defaults, **fields})


def test_a_known_model_has_a_price_with_its_source_and_version() -> None:
    import genai_prices

    result = price("gpt-4o", "openai", 1_000_000, 1_000_000, {}, AT)
    assert result == Price(12.5, "genai-prices", genai_prices.__version__)


def test_cached_tokens_are_part_of_the_input_and_cost_less() -> None:
    whole = price("gpt-4o", "openai", 1_000_000, 0, {}, AT)
    cached = price("gpt-4o", "openai", 1_000_000, 0, {"cached": 1_000_000}, AT)
    assert whole is not None
    assert cached is not None
    assert (whole.cost, cached.cost) == (2.5, 1.25)


@pytest.mark.parametrize(
    ("model", "provider", "reason"),
    [
        ("SmolLM2-135M", "local", "unknown provider"),
        ("gpt-4o", "local", "unknown provider"),  # the same name on another machine is not OpenAI's price
        ("gpt-4o", "my-openai-proxy", "unknown provider"),
        ("gpt-4o", "openai_compatible", "unknown provider"),
        ("gpt-4o", "aws.sagemaker", "unknown provider"),
        ("no-such-model", "openai", "unknown model"),
        ("ft:gpt-4o:acme::abc", "openai", "unknown model"),
        ("", "openai", "unknown model"),
        ("no-such-model", None, "provider not told"),
        ("gpt-oss:20b", None, "provider not told"),
        ("gpt-oss-120b", None, "provider not told"),
        ("deepseek-r1:8b", None, "provider not told"),
        ("mistral-7b", None, "provider not told"),
        ("openai/gpt-4o", None, "provider not told"),
        ("kimi-k2", "", "provider not told"),
    ],
)
def test_an_unknown_model_or_provider_has_no_price(model: str, provider: str | None, reason: str) -> None:
    assert BOOK.price(Consumption(model, provider, 10, 10, {}, AT)) == Unpriced(reason)
    assert price(model, provider, 10, 10, {}, AT) is None


@pytest.mark.parametrize(
    ("model", "vendor"),
    [
        ("gpt-4o", "openai"),
        ("gpt-4o-2024-08-06", "openai"),
        ("o3", "openai"),
        ("text-embedding-3-small", "openai"),
        ("claude-sonnet-4-5", "anthropic"),
        ("gemini-2.5-flash", "google"),
        ("grok-4", "x-ai"),
    ],
)
def test_a_model_name_of_a_single_vendor_gives_the_provider(model: str, vendor: str) -> None:
    result = price(model, None, 1000, 0, {}, AT)
    assert result is not None
    assert result == price(model, vendor, 1000, 0, {}, AT)


@pytest.mark.parametrize(
    ("usage", "reason"),
    [
        ({"cached": 11}, "the parts exceed the whole"),
        ({"cache_write": 6, "cached": 5}, None),  # no separate rate for this model: it costs what input costs
        ({"unpriced.dream_tokens": 1}, "unpriced tokens: dream_tokens"),
        ({"unpriced.dream_tokens": 0}, None),
        ({"holograms": 5}, None),
    ],
)
def test_parts_of_the_tokens_have_their_own_rates(usage: dict[str, int], reason: str | None) -> None:
    result = BOOK.price(Consumption("gpt-4o", "openai", 10, 0, usage, AT))
    assert (result.reason if isinstance(result, Unpriced) else None) == reason


def test_a_longer_cache_lifetime_needs_its_own_rate() -> None:
    """The five-minute rate would be wrong for an hour, and a part for an hour cannot exceed all that was written."""
    hour = {"cache_write": 100, "cache_write_1h": 100}
    assert BOOK.price(Consumption("claude-sonnet-4-5", "anthropic", 100, 0, hour, AT)) == Price(
        0.0006,
        "genai-prices",
        BOOK.price(Consumption("gpt-4o", "openai", 1, 1, {}, AT)).version,  # type: ignore[union-attr]
    )
    bedrock = Consumption("us.anthropic.claude-sonnet-4-20250514-v1:0", "aws.bedrock", 100, 0, hour, AT)
    assert BOOK.price(bedrock) == Unpriced("no price of cache_write_1h")
    more = {"cache_write": 50, "cache_write_1h": 100}
    assert BOOK.price(Consumption("claude-sonnet-4-5", "anthropic", 100, 0, more, AT)) == Unpriced(
        "the parts exceed the whole"
    )


def test_cached_audio_must_be_reported_if_it_has_a_rate() -> None:
    def cost(usage: dict[str, int]) -> Price | Unpriced:
        return BOOK.price(Consumption("gemini-2.5-flash", "google", 1000, 0, usage, AT))

    assert cost({"cached": 500, "input_audio": 200}) == Unpriced("not told how much of input_audio was cached")
    overlapping = cost({"cached": 500, "input_audio": 200, "cached_audio": 100})
    assert isinstance(overlapping, Price)
    assert overlapping.cost == pytest.approx((400 * 0.3 + 100 * 1.0 + 400 * 0.03 + 100 * 0.1) / 1e6)
    assert cost({"cached": 500, "input_audio": 200, "cached_audio": 600}) == Unpriced("the parts exceed the whole")


@pytest.mark.parametrize("tier", ["batch", "flex", "priority"])
def test_a_service_tier_without_a_price_is_unpriced(tier: str) -> None:
    """The list has these tiers of gpt-5 since autumn 2026. Before that, and for other models, they are unknown."""
    standard = BOOK.price(Consumption("gpt-5", "openai", 1000, 1000, {}, AUTUMN_2026))
    result = BOOK.price(Consumption("gpt-5", "openai", 1000, 1000, {}, AUTUMN_2026, tier))
    assert isinstance(result, Price)
    assert isinstance(standard, Price)
    assert result.cost == standard.cost * {"batch": 0.5, "flex": 0.5, "priority": 2.0}[tier]
    for consumption in (
        Consumption("gpt-5", "openai", 1000, 1000, {}, AT, tier),
        Consumption("deepseek-chat", "deepseek", 1000, 1000, {}, AUTUMN_2026, tier),
    ):
        assert BOOK.price(consumption) == Unpriced(f"no price of service tier {tier}")


@pytest.mark.parametrize("tier", [None, "", "default", "auto", "standard", "ON_DEMAND"])
def test_the_standard_tier_has_several_names(tier: str | None) -> None:
    standard = BOOK.price(Consumption("gpt-4o", "openai", 1000, 1000, {}, AT))
    assert BOOK.price(Consumption("gpt-4o", "openai", 1000, 1000, {}, AT, tier)) == standard


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"openai.response.service_tier": "flex"}, "no price of service tier flex"),
        ({"everycall.service_tier": "batch"}, "no price of service tier batch"),
        ({"openai.request.service_tier": "priority"}, "no price of service tier priority"),
        ({"openai.request.service_tier": "priority", "openai.response.service_tier": "default"}, None),
        ({"openai.request.service_tier": "auto"}, None),
        ({"service_tier": 5}, None),
        ({"service_tier": "my secret words"}, "no price of service tier of-another-name"),
        ({"note": "service_tier"}, None),
    ],
    ids=str,
)
def test_the_tier_is_read_from_a_records_attributes(attributes: dict[str, Any], reason: str | None) -> None:
    assert unpriced_reason(price_record(record(attributes=to_raw(attributes)))) == reason


def test_parts_that_exceed_their_whole_have_no_price() -> None:
    assert price("gpt-4o", "openai", 10, 0, {"cached": 11}, AT) is None


@pytest.mark.parametrize("at", [0, 1, 2**63 - 1])
def test_pricing_never_raises_for_any_time(at: int) -> None:
    assert price("deepseek-chat", "deepseek", 10, 10, {}, at) is None or price(
        "deepseek-chat", "deepseek", 10, 10, {}, at
    )


@pytest.mark.parametrize(
    ("name", "same_as"),
    [("azure.ai.openai", "azure"), ("x_ai", "x-ai"), ("mistral_ai", "mistral"), ("gcp.gemini", "google")],
)
def test_names_of_the_semantic_conventions_are_understood(name: str, same_as: str) -> None:
    models = {"azure": "gpt-4o", "x-ai": "grok-3", "mistral": "mistral-large-latest", "google": "gemini-2.0-flash"}
    result = price(models[same_as], name, 1000, 1000, {}, AT)
    assert result is not None
    assert result == price(models[same_as], same_as, 1000, 1000, {}, AT)


def test_the_placeholder_provider_of_parea_is_ignored() -> None:
    result = price("gpt-4o", "BaseProvider('gpt-4o')", 1000, 1000, {}, AT)
    assert result is not None
    assert result == price("gpt-4o", None, 1000, 1000, {}, AT)


def test_every_model_costs_what_the_price_list_calculates() -> None:
    """Our sums equal `genai_prices.calc_price` over the whole list, with parts and tiers."""
    from genai_prices import Usage, calc_price
    from genai_prices.data_snapshot import get_snapshot

    rng = random.Random(7)
    when = datetime.fromtimestamp(AT / 1e9, UTC)
    compared = 0
    for provider in get_snapshot().providers:
        for model in provider.models:
            input_tokens, output_tokens = rng.choice([90, 250_000]), rng.randrange(1, 5000)
            parts = {"cached": rng.choice([0, 30]), "cache_write": rng.choice([0, 20]), "reasoning": rng.choice([0, 1])}
            ours = price(model.id, provider.id, input_tokens, output_tokens, parts, AT)
            if ours is None:
                continue
            usage = Usage(
                input_tokens=input_tokens,
                output_tokens=output_tokens,
                cache_read_tokens=parts["cached"],
                cache_write_tokens=parts["cache_write"],
                output_reasoning_tokens=parts["reasoning"],
            )
            name = next(name for name in candidates(model.id, provider.id) if provider.find_model(name) is not None)
            theirs = calc_price(usage, name, provider_id=provider.id, genai_request_timestamp=when)
            assert ours.cost == pytest.approx(float(theirs.total_price), rel=1e-9, abs=1e-12), (provider.id, model.id)
            compared += 1
    assert compared > 1000


def test_every_model_of_the_price_list_is_found_by_a_name() -> None:
    """If an update of the list adds such models, make their names work, or list them here with a reason."""
    assert unnamed_models() == []


@pytest.mark.parametrize(
    ("name", "provider", "same_as"),
    [
        (" gpt-4o ", "openai", ("gpt-4o", "openai")),
        ("vertex_ai/gemini-2.5-flash", "vertex_ai", ("gemini-2.5-flash", "google")),
        ("bedrock/us.amazon.nova-lite-v1:0", "bedrock", ("us.amazon.nova-lite-v1:0", "aws")),
        ("openai.gpt-oss-120b", "aws.bedrock", ("openai.gpt-oss-120b-1:0", "aws")),
        ("openrouter/openai/gpt-4o", "openrouter", ("openai/gpt-4o", "openrouter")),
        ("openai/gpt-oss-120b", "groq", ("groq/openai/gpt-oss-120b", "groq")),
        ("gpt-oss-120b", "fireworks", ("accounts/fireworks/models/gpt-oss-120b", "fireworks_ai")),
        ("Qwen/Qwen3-32B:groq", "huggingface", ("Qwen/Qwen3-32B", "huggingface_groq")),
    ],
)  # fmt: skip
def test_a_model_has_the_same_price_under_all_its_names(name: str, provider: str, same_as: tuple[str, str]) -> None:
    other = price(*same_as, 1000, 1000, {}, AT)
    assert other is not None
    assert price(name, provider, 1000, 1000, {}, AT) == other


def test_searches_of_a_free_model_are_not_free() -> None:
    free = Consumption("acme/large:free", "openrouter", 10, 10, {"cached": 5}, AT, "flex")
    assert BOOK.price(free) == Price(0.0, "genai-prices", BOOK.price(Consumption("o3", "openai", 1, 1, {}, AT)).version)  # type: ignore[union-attr]
    searching = Consumption("acme/large:free", "openrouter", 10, 10, {"web_searches": 1}, AT)
    assert BOOK.price(searching) == Unpriced("no price of web_searches")


def test_a_record_is_priced_once() -> None:
    priced = price_record(record())
    assert (priced.cost, priced.cost_source) == (0.0035, "genai-prices")
    assert price_record(priced) is priced


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "chain"},
        {"kind": "agent", "cost": 3.0},  # the sum of what is below it
        {"kind": "tool"},
        {"cost": 0.0, "cost_source": "provider"},
        {"cost": 0.5, "cost_source": "client"},
    ],
    ids=str,
)
def test_a_record_that_need_not_be_priced_is_not_changed(fields: dict[str, Any]) -> None:
    original = record(**fields)
    assert price_record(original) is original
    assert unpriced_reason(original) is None


def test_a_cost_without_a_source_has_the_source_client() -> None:
    assert price_record(record(cost=0.5)) == record(cost=0.5, cost_source="client")


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"model": None}, "no model"),
        ({"input_tokens": None}, "no token counts"),
        ({"output_tokens": None}, "no token counts"),
        ({"model": "no-such-model"}, "unknown model"),
        ({"provider": "nobody"}, "unknown provider"),
    ],
    ids=str,
)
def test_a_record_without_a_price_says_why(fields: dict[str, Any], reason: str) -> None:
    result = price_record(record(**fields))
    assert (result.cost, result.cost_source, result.price_version) == (None, f"unpriced: {reason}", None)
    assert unpriced_reason(result) == reason
    assert price_record(result) == result


def test_no_reason_is_too_long_for_its_field() -> None:
    usage = {"unpriced." + "x" * 300: 1}
    for fields in ({"usage": usage}, {"attributes": to_raw({"service_tier": "y" * 300})}):
        result = price_record(record(**fields))
        assert result.cost is None
        assert len(result.cost_source or "") <= 64


def test_an_embedding_needs_no_output_tokens() -> None:
    priced = price_record(record(kind="embedding", model="text-embedding-3-small", output_tokens=None))
    assert priced.cost is not None
    assert priced.cost > 0
    assert msgspec.structs.replace(priced, cost=None).output_tokens is None


def test_a_cache_hit_costs_nothing_and_has_a_saved_cost() -> None:
    """The cost of a cache hit stays 0. The price of its tokens is `saved_cost`, or None if it is unknown."""
    uncached = price_record(record())
    for original in ({"cost": 0.0, "cost_source": "cache"}, {}):
        hit = price_record(record(cache_hit=True, **original))
        assert (hit.cost, hit.cost_source, hit.saved_cost) == (0.0, "cache", uncached.cost)
        assert price_record(hit) is hit
    unknown = price_record(record(cost=0.0, cache_hit=True, model="no-such-model"))
    assert (unknown.cost, unknown.cost_source, unknown.saved_cost) == (0.0, "cache", None)


CHANGES: dict[str, dict[str, Any]] = {
    "nothing": {},
    "content": {"content": "x"},
    "tokens": {"output_tokens": 500},
    "model": {"model": "gpt-4o-mini"},
    "a cost": {"cost": 0.7},
    "a cost and its source": {"cost": 0.7, "cost_source": "provider"},
    "no tokens": {"input_tokens": None},
}


@pytest.mark.parametrize("change", CHANGES)
def test_only_a_change_of_what_is_priced_changes_the_price(change: str) -> None:
    before = msgspec.structs.replace(price_record(record()), price_version="old list")
    after = BOOK.settle(before, msgspec.structs.replace(before, **CHANGES[change]))
    if change in ("nothing", "content"):
        assert (after.cost, after.price_version) == (before.cost, "old list")
    elif change in ("tokens", "model"):
        assert after == price_record(record(**CHANGES[change]))
    elif change == "no tokens":
        assert (after.cost, after.cost_source, after.price_version) == (None, "unpriced: no token counts", None)
    else:
        source = CHANGES[change].get("cost_source", "client")
        assert (after.cost, after.cost_source) == (0.7, source)


def test_repricing_keeps_costs_from_clients() -> None:
    ours = msgspec.structs.replace(price_record(record()), cost=9.0, price_version="old list")
    assert BOOK.reprice(ours) == price_record(record())
    lacking = record(cost_source="unpriced: unknown model")
    assert BOOK.reprice(lacking) == price_record(record())
    for fields in (
        {"cost": 0.5, "cost_source": "client"},
        {"cost": 0.5, "cost_source": "provider"},
        {"cost": 0.0, "cost_source": "cache", "cache_hit": True, "saved_cost": 1.0},
        {"kind": "agent", "cost": 1.0},
    ):
        original = record(**fields)
        assert BOOK.reprice(original) is original


@pytest.mark.process
def test_a_traced_program_never_reads_the_price_list(tmp_path: Path) -> None:
    """Neither the import nor a traced call with tokens loads prices: only the server does."""
    program = (
        "import sys, everycall\n"
        "from everycall.integration import start_call, usage_fields\n"
        f"everycall.init(endpoint='http://127.0.0.1:9', spool_dir={str(tmp_path)!r})\n"
        "call = start_call('ask', kind='llm', model='gpt-4o', provider='openai')\n"
        "call.update(**usage_fields({'prompt_tokens': 10, 'completion_tokens': 5, 'total_tokens': 15}))\n"
        "call.end()\n"
        "everycall.flush(0)\n"
        "print(sorted(m for m in sys.modules if m.startswith(('genai_prices', 'pydantic', 'everycall._pricing'))"
        "), everycall.stats().recorded)\n"
        "everycall.shutdown(0)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout == "[] 1\n", done.stderr
