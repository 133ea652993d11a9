"""Reports of usage: whatever they contain, counts are kept, sums include their parts, and nothing is raised."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everycall.integration import usage_fields as exported
from everycall.usage import usage_fields


class _Object:
    def __init__(self, **members: Any) -> None:
        self.__dict__.update(members)


class _Slots:
    __slots__ = ()


def test_integrations_use_the_public_function() -> None:
    assert exported is usage_fields


@pytest.mark.parametrize(
    "report", [None, {}, [], "usage", 5, _Slots(), {"prompt_tokens": None}, {"prompt_tokens": "5"}, {"cost": 1.5}]
)
def test_no_counts_give_no_fields(report: Any) -> None:
    assert usage_fields(report) == {}


def test_objects_are_read_like_json() -> None:
    details = _Object(cached_tokens=40)
    report = _Object(prompt_tokens=100, completion_tokens=20, total_tokens=120, prompt_tokens_details=details)
    assert usage_fields(report) == {
        "input_tokens": 100,
        "output_tokens": 20,
        "total_tokens": 120,
        "usage": {"cached": 40},
    }


@pytest.mark.parametrize("bad", [-1, 1.5, True, "7", None, {"a": 1}])
def test_values_that_are_not_counts_are_unknown(bad: Any) -> None:
    assert usage_fields({"prompt_tokens": 5, "completion_tokens": bad}) == {"input_tokens": 5, "usage": {}}


def test_a_partial_report_gives_partial_fields() -> None:
    """A stream that was cut off reports only its input; the rest is unknown, not 0."""
    assert usage_fields({"input_tokens": 7, "cache_read_input_tokens": 5}) == {
        "input_tokens": 12,
        "usage": {"cached": 5},
    }


@pytest.mark.parametrize(
    ("report", "tier"),
    [
        ({"service_tier": "standard"}, None),
        ({"service_tier": "batch"}, "batch"),
        ({"service_tier": None, "speed": "fast"}, "fast"),
        ({"service_tier": "standard", "speed": "standard", "inference_geo": "not_available"}, None),
        ({"service_tier": "standard", "inference_geo": "us"}, "geo-us"),
        ({"trafficType": "ON_DEMAND"}, None),
        ({"trafficType": "ON_DEMAND_FLEX"}, "flex"),
        ({"trafficType": "PROVISIONED_THROUGHPUT"}, "provisioned_throughput"),
        ({"serviceTier": "PRIORITY"}, "priority"),
    ],
    ids=str,
)
def test_a_tier_other_than_standard_is_returned(report: dict[str, Any], tier: str | None) -> None:
    fields = usage_fields({"input_tokens": 1, "output_tokens": 1, **report})
    assert fields.get("everycall.service_tier") == tier


NAMES = st.sampled_from(
    [
        "prompt_tokens", "completion_tokens", "total_tokens", "input_tokens", "output_tokens",
        "cache_read_input_tokens", "cache_creation_input_tokens", "promptTokenCount", "candidatesTokenCount",
        "thoughtsTokenCount",
        "totalTokenCount", "inputTokens", "outputTokens", "cacheReadInputTokens", "gen_ai.usage.input_tokens",
        "gen_ai.usage.cache_read.input_tokens", "prompt_tokens_details", "input_token_details", "cache_creation",
        "promptTokensDetails", "cacheDetails", "iterations", "odd_tokens", "odd",
    ]
)  # fmt: skip
# A small alphabet: for all of Unicode hypothesis first loads a table, which takes seconds.
TEXTS = st.text("0123456789.-a", max_size=3)
COUNTS = st.integers(-2, 2**70) | st.none() | st.booleans() | st.floats() | TEXTS
DETAILS = st.dictionaries(
    st.sampled_from(["cached_tokens", "cache_read", "audio", "ttl", "modality", "tokenCount", "inputTokens", "odd"]),
    COUNTS,
    max_size=4,
)
REPORTS = st.dictionaries(NAMES, COUNTS | DETAILS | st.lists(DETAILS | COUNTS, max_size=3), max_size=8)


@given(REPORTS)
def test_any_report_gives_valid_counts(report: dict[str, Any]) -> None:
    fields = usage_fields(report)
    assert fields.keys() <= {"input_tokens", "output_tokens", "total_tokens", "usage", "everycall.service_tier"}
    for name in ("input_tokens", "output_tokens", "total_tokens"):
        assert type(fields.get(name, 0)) is int
        assert 0 <= fields.get(name, 0) <= 2**53
    assert all(type(count) is int and count >= 0 for count in fields.get("usage", {}).values())
    assert all(isinstance(name, str) and name for name in fields.get("usage", {}))


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6))
def test_anthropics_count_and_langchains_are_the_same(fresh: int, cached: int, written: int, made: int) -> None:
    """One call, as reported by Anthropic (without the cache), by LangChain (with it) and by Bedrock."""
    whole = fresh + cached + written
    anthropic = usage_fields(
        {
            "input_tokens": fresh,
            "output_tokens": made,
            "cache_read_input_tokens": cached,
            "cache_creation_input_tokens": written,
        }
    )
    langchain = usage_fields(
        {
            "input_tokens": whole,
            "output_tokens": made,
            "total_tokens": whole + made,
            "input_token_details": {"cache_read": cached, "cache_creation": written},
        }
    )
    bedrock = usage_fields(
        {
            "inputTokens": fresh,
            "outputTokens": made,
            "totalTokens": whole + made,
            "cacheReadInputTokens": cached,
            "cacheWriteInputTokens": written,
        }
    )
    assert anthropic == langchain == bedrock
    assert anthropic["input_tokens"] == whole
