"""Totals: for any tree in any order of arrival, a trace costs what its model calls cost, each counted once."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everycall.record import Record, to_raw
from everycall.server.options import ServerOptions
from everycall.server.runner import Server
from everycall.server.store.answers import counted_in

T0 = 1_790_000_000_000_000_000
COUNTER = itertools.count()
LEAF = ("llm", "embedding", "reranker")


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of one server for all examples; each example has its own trace."""
    options = ServerOptions(tmp_path_factory.mktemp("totals"), port=0, local_key="totals-local-key")
    with Server(options) as server:
        headers = {"x-api-key": server.key}
        with httpx.Client(base_url=server.address, headers=headers, timeout=30) as client:
            yield client


def send(api: httpx.Client, records: list[dict[str, Any]], seed: int) -> None:
    """Send records in a seeded order and in seeded batches, some of them twice."""
    rng = random.Random(seed)
    shuffled = [*records, *rng.sample(records, len(records) // 3)]
    rng.shuffle(shuffled)
    while shuffled:
        size = rng.randint(1, len(shuffled))
        batch, shuffled = shuffled[:size], shuffled[size:]
        post(api, batch)


def post(api: httpx.Client, records: list[dict[str, Any]]) -> None:
    """Send a batch. The name of each trace is its id, so lists find it by name."""
    lines = [json.dumps({"trace_name": record["trace_id"], **record}) for record in records]
    assert api.post("/v1/records", content="\n".join(lines)).json()["refused"] == []


def read(api: httpx.Client, trace_id: str) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Return a trace's sums and records, after checking that the list, the page and the API agree."""
    answer = api.get(f"/api/traces/{trace_id}").json()
    listed = api.get("/api/traces", params={"trace_name": trace_id}).json()["traces"]
    page = api.get(f"/traces/{trace_id}.json").json()
    assert [answer["trace"]] == listed == [page["trace"]]
    return answer["trace"], {record["inference_id"]: record for record in answer["records"]}


def total(records: list[dict[str, Any]], name: str) -> Any:
    known_values = [Decimal(repr(record[name])) for record in records if record.get(name) is not None]
    return float(sum(known_values)) if known_values else None


def check_sums(trace: dict[str, Any], counted: list[dict[str, Any]]) -> None:
    """Compare the sums with the exact sum over the records that count."""
    assert trace["leaves"] == len(counted)
    assert trace["cost"] == pytest.approx(total(counted, "cost"), abs=1e-9)
    assert trace["unpriced"] == sum("cost" not in record for record in counted)
    assert trace["saved_cost"] == pytest.approx(total(counted, "saved_cost"), abs=1e-9)
    for name in ("input_tokens", "output_tokens"):
        assert trace[name] == total(counted, name)


NODE = st.fixed_dictionaries(
    {
        "above": st.integers(0, 30),  # of the nodes before it; 0 is none
        "kind": st.sampled_from([*LEAF, "llm", "llm", "agent", "chain", "tool"]),
        "model": st.sampled_from(["gpt-4o", "no-such-model", None]),
        "input_tokens": st.none() | st.integers(0, 10**6),
        "output_tokens": st.none() | st.integers(0, 10**6),
        "cost": st.none() | st.sampled_from([0.0, 0.1, 0.25, 1e-9]),
        "cache_hit": st.none() | st.booleans(),
        "wrappers": st.integers(0, 2),
        "step_between": st.booleans(),
    }
)


@settings(max_examples=60, deadline=None)
@given(nodes=st.lists(NODE, min_size=1, max_size=9), seed=st.integers(0, 10**6))
def test_a_trace_costs_what_its_leaves_cost(api: httpx.Client, nodes: list[dict[str, Any]], seed: int) -> None:
    """Random trees, with frameworks around some of the calls and sums on the agents: each response counts once."""
    trace_id = f"tree-{next(COUNTER)}"
    records: list[dict[str, Any]] = []
    inner_of: dict[str, str] = {}
    own: list[str] = []
    for number, node in enumerate(nodes):
        parent = own[node["above"] % number] if number and node["above"] else None
        wrapped = number and node["kind"] == "llm" and not node["cache_hit"]
        tokens = {name: node[name] for name in ("input_tokens", "output_tokens", "cost")}
        if wrapped:
            tokens = {"input_tokens": 10 + number, "output_tokens": 5, "cost": node["cost"]}
        identity = f"{trace_id}-{number}"
        for level in range(node["wrappers"] if wrapped else 0):
            outer = {"inference_id": f"{identity}-outer{level}", "kind": "llm", "scope": f"framework{level}"}
            inner_of[outer["inference_id"]] = identity
            records.append(_record(trace_id, parent, number, level, outer | tokens | {"cost": 0.5}, f"answer-{number}"))
            parent = outer["inference_id"]
            if node["step_between"]:
                step = {"inference_id": f"{identity}-step{level}", "kind": "chain"}
                records.append(_record(trace_id, parent, number, level, step, None))
                parent = step["inference_id"]
        fields = {"inference_id": identity, "kind": node["kind"], "model": node["model"], "scope": "provider"}
        fields |= tokens | {"provider": "openai", "cache_hit": node["cache_hit"]}
        answer = f"answer-{number}" if wrapped else "the same for all" if node["cache_hit"] else None
        records.append(_record(trace_id, parent, number, 5, fields, answer))
        own.append(identity)
    send(api, records, seed)
    trace, stored = read(api, trace_id)
    assert {key: record["counted_in"] for key, record in stored.items() if "counted_in" in record} == inner_of
    assert trace["counted_elsewhere"] == len(inner_of)
    assert trace["records"] == len(records)
    check_sums(trace, [r for key, r in stored.items() if r["kind"] in LEAF and key not in inner_of])


def _record(
    trace_id: str, parent: str | None, number: int, level: int, fields: dict[str, Any], answer: str | None
) -> dict[str, Any]:
    attributes = {"gen_ai.response.id": answer} if answer else {}
    times = {
        "start_time_unix_nano": T0 + number * 10**9 + level,
        "end_time_unix_nano": T0 + number * 10**9 + 1000 - level,
    }
    given_fields = {name: value for name, value in fields.items() if value is not None}
    return {"trace_id": trace_id, "parent_id": parent, "attributes": attributes, **times, **given_fields}


TWIN = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(["llm", "llm", "llm", "chain"]),
        "scope": st.sampled_from(["a", "b", "c"]),
        "answer": st.sampled_from(["x", "x", "y", None]),
        "above": st.none() | st.integers(0, 6),
        "start": st.integers(0, 5),
        "length": st.integers(0, 5),
        "tokens": st.none() | st.integers(1, 9),
        "cache_hit": st.none() | st.just(True),
    }
)


@settings(max_examples=80, deadline=None)
@given(twins=st.lists(TWIN, min_size=2, max_size=7), seeds=st.lists(st.integers(0, 10**6), min_size=2, max_size=2))
def test_the_counted_record_does_not_depend_on_the_order_of_arrival(
    api: httpx.Client, twins: list[dict[str, Any]], seeds: list[int]
) -> None:
    """Records that share response ids in any way, even cycles of parents: two orders of arrival give one result."""
    results = []
    for seed in seeds:
        trace_id = f"order-{next(COUNTER)}"
        records = [
            {
                "inference_id": f"{trace_id}:{number}",
                "trace_id": trace_id,
                "parent_id": None if twin["above"] is None else f"{trace_id}:{twin['above']}",
                "kind": twin["kind"],
                "scope": twin["scope"],
                "model": "gpt-4o",
                "provider": "openai",
                "input_tokens": twin["tokens"],
                "output_tokens": twin["tokens"],
                "cache_hit": twin["cache_hit"],
                "start_time_unix_nano": T0 + twin["start"],
                "end_time_unix_nano": T0 + twin["start"] + twin["length"],
                "attributes": {"gen_ai.response.id": twin["answer"]},
            }
            for number, twin in enumerate(twins)
        ]
        send(api, records, seed)
        trace, stored = read(api, trace_id)
        counted = [r for r in stored.values() if r["kind"] in LEAF and "counted_in" not in r]
        check_sums(trace, counted)
        for record in stored.values():
            if "counted_in" in record:
                other = stored[record["counted_in"]]
                assert "counted_in" not in other
                assert other["attributes"] == record["attributes"]
        places = {key.partition(":")[2]: r.get("counted_in", "").partition(":")[2] for key, r in stored.items()}
        results.append((dict(sorted(places.items())), trace["cost"], trace["input_tokens"], trace["unpriced"]))
    assert results[0] == results[1]


def call(name: str, **fields: Any) -> Record:
    given_fields = {"kind": "llm", "input_tokens": 1, "start_time_unix_nano": 10, "end_time_unix_nano": 20, **fields}
    return Record(inference_id=name, trace_id="t", attributes=to_raw({"gen_ai.response.id": "x"}), **given_fields)


@pytest.mark.parametrize(
    ("records", "verdict"),
    [
        ([call("f", scope="framework"), call("p", scope="provider", parent_id="f")], {"f": "p"}),
        ([call("f", scope="same"), call("p", scope="same", parent_id="f")], {}),  # one library: two requests
        (
            [call("f", scope="framework"), call("p", scope="provider", start_time_unix_nano=30, end_time_unix_nano=40)],
            {},  # one after the other, and neither below the other
        ),
        (
            [
                call("f", scope="framework", parent_id="step"),
                call("p", scope="provider", parent_id="step", start_time_unix_nano=30, end_time_unix_nano=40),
            ],
            {"f": "p"},
        ),
        (
            [call("f", scope="framework"), call("p", scope="provider", parent_id="f", input_tokens=None)],
            {"p": "f"},  # the inner one knows nothing of the tokens
        ),
        (
            [
                call("outer", scope="one"),
                call("middle", scope="two", parent_id="outer"),
                call("inner", scope="three", parent_id="middle"),
            ],
            {"outer": "inner", "middle": "inner"},
        ),
        (
            [call("a", scope="one", parent_id="b"), call("b", scope="two", parent_id="a", start_time_unix_nano=15)],
            {"a": "b"},
        ),
        (
            [call("f", scope="one", start_time_unix_nano=0), call("p", scope="two", start_time_unix_nano=0)],
            {},  # their times are unknown
        ),
        ([call(f"r{number}", scope=f"s{number}") for number in range(17)], {}),  # a constant, no id
    ],
    ids=[
        "nested", "one library", "apart", "siblings", "tokens outside", "three deep", "ring", "no times", "a constant",
    ],
)  # fmt: skip
def test_which_record_of_an_answer_counts(records: list[Record], verdict: dict[str, str]) -> None:
    assert counted_in(records) == verdict
    assert counted_in(list(reversed(records))) == verdict


def test_a_record_cannot_say_itself_where_it_is_counted(api: httpx.Client) -> None:
    line = {"inference_id": "own-claim", "trace_id": "own-claim", "kind": "llm", "counted_in": "elsewhere", "cost": 1.0}
    post(api, [line])
    trace, stored = read(api, "own-claim")
    assert "counted_in" not in stored["own-claim"]
    assert (trace["cost"], trace["counted_elsewhere"]) == (1.0, 0)


def test_records_all_count_if_too_many_share_a_response_id(api: httpx.Client) -> None:
    """Sixteen records of different libraries are one call; with a seventeenth, the id is a constant, and all count."""

    def line(number: int) -> dict[str, Any]:
        return {
            "inference_id": f"const-{number}",
            "trace_id": "constant",
            "kind": "llm",
            "scope": f"s{number}",
            "cost": 1.0,
            "start_time_unix_nano": T0,
            "end_time_unix_nano": T0 + 5,
            "attributes": {"gen_ai.response.id": "chatcmpl-1"},
        }

    for numbers, cost in ((range(16), 1.0), ([16], 17.0), ([17, 18], 19.0)):
        post(api, [line(number) for number in numbers])
        assert read(api, "constant")[0]["cost"] == cost


def test_a_call_that_failed_without_tokens_is_not_unpriced(api: httpx.Client) -> None:
    """Unlike one that failed after its tokens, and one that succeeded. A later copy with tokens is unpriced."""
    base = {"trace_id": "failed", "kind": "llm", "model": "no-such-model", "status": "error"}
    lines: list[dict[str, Any]] = [
        {**base, "inference_id": "failed"},
        {**base, "inference_id": "failed-late", "input_tokens": 5},
        {**base, "inference_id": "unknown", "status": "success"},
        {**base, "inference_id": "agent", "kind": "agent"},
    ]
    post(api, lines)
    trace, _ = read(api, "failed")
    assert (trace["leaves"], trace["errors"], trace["cost"], trace["unpriced"]) == (3, 3, None, 2)
    assert trace["uncounted"] == 3  # what they used is unknown, not 0
    post(api, [{**lines[0], "output_tokens": 7}])
    assert read(api, "failed")[0]["unpriced"] == 3


def test_tokens_that_come_later_are_priced_then(api: httpx.Client) -> None:
    """A record, a later copy with tokens, and one without: the price is that of all known tokens, without a reason."""
    base = {"inference_id": "late", "trace_id": "late", "kind": "llm", "model": "gpt-4o", "provider": "openai"}
    costs = []
    for fields in ({}, {"input_tokens": 1000, "output_tokens": 100}, {}, {"output_tokens": 200}, {"cost": 0.5}):
        post(api, [base | fields])
        record = read(api, "late")[1]["late"]
        costs.append((record.get("cost"), record["cost_source"]))
    assert costs == [
        (None, "unpriced: no token counts"),
        (0.0035, "genai-prices"),
        (0.0035, "genai-prices"),
        (0.0045, "genai-prices"),
        (0.5, "client"),
    ]
