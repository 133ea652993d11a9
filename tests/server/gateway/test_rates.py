"""How many completions a key may ask for in a minute."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from everycall.server.gateway.rates import Rates
from everycall.server.problems import ProblemError
from everycall.server.store.values import ApiKey, KeyLimits

PATH = "/api/parea/v1/completion"


def key(name: str = "ci", most: int | None = 3) -> ApiKey:
    return ApiKey(name * 32, name, "default", "write", 0, limits=KeyLimits(requests_per_minute=most))


def wait_of(rates: Rates, one: ApiKey) -> int:
    """The Retry-After of a refusal; 0 when there was none."""
    try:
        rates.enter(one)
    except ProblemError as error:
        refused = error
    else:
        return 0
    wait = int(refused.headers["retry-after"])
    assert (refused.problem.status, refused.problem.code) == (429, "rate_limited")
    assert refused.problem.extensions == {"limit": one.limits.requests_per_minute, "retry_after_s": wait}
    return wait


def test_any_60_seconds_have_at_most_so_many() -> None:
    now = [1_000.0]
    rates = Rates(lambda: now[0])
    seen: list[int] = []
    for moment in (0, 10, 20, 30, 59.5, 60, 65, 70, 80, 85):
        now[0] = 1_000.0 + moment
        seen.append(wait_of(rates, key()))
    assert seen == [0, 0, 0, 30, 1, 0, 5, 0, 0, 35]


def test_a_refused_request_does_not_count_and_a_wait_is_enough() -> None:
    now = [0.0]
    rates = Rates(lambda: now[0])
    for _ in range(50):
        wait = wait_of(rates, key())
    now[0] += wait
    assert wait_of(rates, key()) == 0


def test_keys_count_apart_and_none_without_a_limit() -> None:
    rates = Rates(lambda: 0.0)
    for _ in range(10):
        assert wait_of(rates, key("b", None)) == 0
    rates.enter(None)
    assert [wait_of(rates, key("a", 1)), wait_of(rates, key("c", 1)), wait_of(rates, key("a", 1))] == [0, 0, 60]


def test_a_limit_that_is_lowered_holds_at_once() -> None:
    now = [0.0]
    rates = Rates(lambda: now[0])
    for n in range(6):
        now[0] = float(n)
        assert wait_of(rates, key(most=6)) == 0
    assert wait_of(rates, key(most=2)) == 59  # until the fifth of the six has left the minute
    now[0] += 59
    assert wait_of(rates, key(most=2)) == 0


@pytest.mark.parametrize("path", [PATH, f"{PATH}/stream"])
def test_over_http_before_a_body_is_read(gateway_server: Any, provider: Any, path: str) -> None:
    admin = {"x-api-key": gateway_server.key}
    with httpx.Client(base_url=gateway_server.address, timeout=30) as api:
        made = api.post("/api/keys", json={"name": "ci", "requests_per_minute": 2}, headers=admin).json()
        headers = {"x-api-key": made["secret"]}
        body = {"llm_configuration": {"model": "gpt-3.5-turbo", "messages": [{"content": "hi"}]}}
        answers = [api.post(path, json=body, headers=headers) for _ in range(2)]
        assert [one.status_code for one in answers] == [200, 200]
        refused = api.post(path, content=b"{" * 1_000, headers=headers)
        assert (refused.status_code, refused.json()["type"]) == (429, "urn:everycall:error:rate_limited")
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert "'ci' may request 2 completions a minute" in refused.json()["detail"]
        assert api.get("/api/records", headers=headers).status_code == 200  # other routes have no such limit
        assert api.post(path, json=body, headers=admin).status_code == 200
    assert len(provider.requests) == 1
