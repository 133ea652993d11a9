"""The store's contract for client reports, deployments, keys, sessions and cached responses."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest

from everycall import limits
from everycall.server.store.base import Store
from everycall.server.store.errors import NoEarlierVersion, StoreError, VersionConflict
from everycall.server.store.values import (
    ApiKey,
    ClientReport,
    Deployment,
    DeploymentUse,
)
from everycall_testkit.store_records import (
    NOON,
    P,
    call,
)


async def test_clients_report_their_balance(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CLIENTS_MAX", 3)
    for number in range(5):
        await store.commit(P, [call(number)], ClientReport(f"host:{number}:1", {"recorded": number}, number + 1))
    await store.commit(P, [], ClientReport("host:3:1", {"recorded": 99, "dropped": {"refused": 1}}, 10))
    await store.commit(P, [], ClientReport("host:3:1", {"recorded": 1}, 9))  # came late
    assert [(report.client, report.balance["recorded"]) for report in await store.clients(P)] == [
        ("host:3:1", 99),
        ("host:4:1", 4),
        ("host:2:1", 2),
    ]
    odd = ClientReport("host:9:1", {"recorded": {1, 2}, "x": object()}, 20)
    assert (await store.commit(P, [call(9)], odd)).committed == 1  # a report never costs a record
    assert (await store.commit(P, [], ClientReport("host:8:1", {"recorded": 2}))).committed == 0
    assert (await store.clients(P))[0].seen_unix_nano > NOON


async def test_a_report_without_records_reaches_the_projects_of_its_client(store: Store) -> None:
    for project in ("a", "b"):
        await store.commit(project, [call(1)], ClientReport("host:1:1", {"recorded": 1}, 1))
    await store.commit("c", [call(1)], ClientReport("host:2:1", {"recorded": 7}, 1))
    await store.report("a", ClientReport("host:1:1", {"recorded": 2}, 2))
    await store.report("other", ClientReport("host:1:1", {"recorded": 3}, 3), everywhere=True)
    await store.report("new", ClientReport("host:3:1", {"recorded": 4}, 4), everywhere=True)
    await store.report("a", ClientReport("host:1:1", {"recorded": 1}, 1))  # came late
    reports = {
        project: [(report.client, report.balance["recorded"]) for report in await store.clients(project)]
        for project in ("a", "b", "c", "other", "new")
    }
    assert reports == {
        "a": [("host:1:1", 3)],
        "b": [("host:1:1", 3)],
        "c": [("host:2:1", 7)],
        "other": [],
        "new": [("host:3:1", 4)],
    }


def prompt(**fields: Any) -> Deployment:
    messages = ({"role": "user", "content": "I want a Hello World program in {{x}}. 🦉\x00"},)
    return Deployment(
        **{
            "deployment_id": "p-1",
            "version": 0,
            "project_name": P,
            "name": "hello",
            "messages": messages,
            "model": "gpt-4o",
            "provider": "openai",
            **fields,
        }
    )


async def test_deployments_are_versions_that_never_change(store: Store) -> None:
    first = await store.put_deployment(prompt(model_params={"temp": 0.5}, function_call={"name": "f"}))
    assert (first.version, first.active, first.messages) == (1, True, prompt().messages)
    assert first.created_unix_nano > NOON
    assert await store.put_deployment(prompt(model_params={"temp": 0.5}, function_call={"name": "f"})) == first
    second = await store.put_deployment(prompt(functions=({"name": "f", "parameters": {}},), name="renamed"))
    assert second.version == 2
    assert await store.deployment(P, "p-1") == second
    assert await store.deployment(P, "p-1", 1) == replace(first, active=False)
    assert await store.deployment(P, "p-1", 3) is None
    assert await store.deployment(P, "p-2") is None
    assert await store.deployment("other", "p-1") is None
    again = await store.put_deployment(prompt(model_params={"temp": 0.5}, function_call={"name": "f"}))
    assert again == first  # the content of an old version is that version
    assert await store.deployment(P, "p-1", 2) == replace(second, active=False)
    await store.put_deployment(prompt(deployment_id="p-0", name="a"))
    await store.put_deployment(prompt(project_name="other"))
    assert [(d.deployment_id, d.version) for d in await store.deployments(P)] == [("p-0", 1), ("p-1", 1)]
    with pytest.raises(StoreError):
        await store.put_deployment(prompt(model_params={"x": object()}))


async def test_the_served_version_and_its_history(store: Store) -> None:
    for number in (1, 2, 3):
        version = await store.put_deployment(prompt(name=f"v{number}\x00\x1e", created_by="ci"), activate=number != 3)
        assert (version.version, version.active) == (number, number != 3)
    served = await store.deployment(P, "p-1")
    assert served is not None
    assert served.version == 2
    would = await store.put_deployment(prompt(name="v4"), dry_run=True)
    assert (would.version, would.active) == (4, True)
    rows = await store.deployment_versions(P, "p-1")
    assert [(row.version, row.active, row.name, row.created_by) for row in rows] == [
        (3, False, "v3\x00\x1e", "ci"),
        (2, True, "v2\x00\x1e", "ci"),
        (1, False, "v1\x00\x1e", "ci"),
    ]
    assert [row.version for row in await store.deployment_versions(P, "p-1", before=3, limit=1)] == [2]
    for change in (
        store.activate_deployment(P, "p-1", 1, expected=1),
        store.roll_back_deployment(P, "p-1", expected=0),
        store.put_deployment(prompt(name="v4"), expected=3),
    ):
        with pytest.raises(VersionConflict) as raised:
            await change
        assert raised.value.active == 2
    assert await store.activate_deployment(P, "p-1", 4) is None
    assert await store.activate_deployment("other", "p-1", 1) is None
    assert await store.roll_back_deployment(P, "p-2") is None
    third = await store.activate_deployment(P, "p-1", 3, by="ann", expected=2)
    assert third is not None
    assert (third.version, third.active) == (3, True)
    back = await store.roll_back_deployment(P, "p-1", by="bob")
    assert back is not None
    assert (back.version, back.active) == (2, True)
    history = await store.deployment_activations(P, "p-1")
    assert [(one.version, one.by, one.roll_back_to) for one in history] == [
        (2, "bob", 1),
        (3, "ann", 2),
        (2, "ci", 1),
        (1, "ci", None),
    ]
    assert await store.deployment_activations("other", "p-1") == []
    await store.roll_back_deployment(P, "p-1")
    with pytest.raises(NoEarlierVersion):
        await store.roll_back_deployment(P, "p-1")
    archived = await store.activate_deployment(P, "p-1", 0, by="ann")
    assert archived is not None
    assert (archived.version, archived.active) == (3, False)
    assert await store.deployment(P, "p-1") is None
    assert list(await store.deployments(P)) == []
    assert [one.version for one in await store.deployments(P, active=False)] == [3]


async def test_deployments_are_listed_in_pages(store: Store) -> None:
    for number in range(5):
        await store.put_deployment(prompt(deployment_id=f"p-{number}", name=f"n{number % 2}"))
    first = await store.deployments(P, limit=3)
    rest = await store.deployments(P, after=(first[-1].name, first[-1].deployment_id), limit=3)
    assert [one.deployment_id for one in (*first, *rest)] == ["p-0", "p-2", "p-4", "p-1", "p-3"]


async def test_how_deployments_were_used(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    records = [
        call(
            number, deployment_id="p-1", cost=None if number == 3 else 0.5, status="error" if number == 2 else "success"
        )
        for number in range(1, 5)
    ]
    await store.commit(P, [*records, call(9, deployment_id="p-2"), call(10)])
    await store.commit("other", [call(1, deployment_id="p-1", cost=100.0)])
    latest = max(record.start_time_unix_nano for record in records)
    uses = await store.deployment_uses(P, ["p-1", "p-none"], 0)
    assert uses == {
        "p-1": DeploymentUse(4, 1, 1.5, 1, 4, latest, whole=True),
        "p-none": DeploymentUse(0, 0, None, 0, 0, None, whole=True),
    }
    later = await store.deployment_uses(P, ["p-1"], latest + 1)
    assert later == {"p-1": DeploymentUse(0, 0, None, 0, 0, latest, whole=True)}
    monkeypatch.setattr(limits, "DEPLOYMENT_COSTS_MAX", 4)
    shared = await store.deployment_uses(P, ["p-1", "p-none"], 0)  # two for each, the latest first
    assert shared["p-1"] == DeploymentUse(4, 1, 0.5, 1, 2, latest, whole=True)
    monkeypatch.setattr(limits, "DEPLOYMENT_USES_MAX", 3)
    assert (await store.deployment_uses(P, ["p-1"], 0))["p-1"].whole is False


async def test_failed_calls_of_a_deployment_without_tokens_are_not_unpriced(store: Store) -> None:
    failed = {"deployment_id": "p-1", "status": "error"}
    await store.commit(P, [call(1, **failed), call(2, **failed, output_tokens=4), call(3, deployment_id="p-1")])
    use = (await store.deployment_uses(P, ["p-1"], 0))["p-1"]
    assert (use.completions, use.errors, use.unpriced, use.costed) == (3, 2, 2, 3)


async def test_ended_sessions_are_kept_until_they_run_out(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ENDED_SESSIONS_MAX", 2)
    later = int(time.time()) + 1_000
    assert await store.ended_sessions() == {}
    await store.end_session("old", 5)
    await store.end_session("a", later)
    assert await store.ended_sessions() == {"a": later}
    await store.end_session("b", later + 1)
    await store.end_session("c", later + 2)
    assert await store.ended_sessions() == {"b": later + 1, "c": later + 2}


async def test_keys_are_stored_and_revoked(store: Store) -> None:
    key = ApiKey("aa", "ci", P, "write", 2)
    await store.put_key(key)
    await store.put_key(ApiKey("bb", "old", "other", "admin", 1))
    await store.put_key(replace(key, revoked_unix_nano=5))
    assert list(await store.keys()) == [ApiKey("bb", "old", "other", "admin", 1), replace(key, revoked_unix_nano=5)]


async def test_responses_are_cached_and_the_least_used_go(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CACHE_BYTES_MAX", 100)
    for key in ("a", "b", "c"):
        await store.cache(P, key, b"x" * 29)
    await store.cache("other", "a", b"other" * 10)
    hit = await store.cached(P, "a", 60)
    assert hit is not None
    assert (hit.body, hit.created_unix_nano > NOON) == (b"x" * 29, True)
    await store.cache(P, "d", b"y" * 30)  # 4 of them are too many: b, not used since, goes
    assert [(await store.cached(P, key, 60)) is not None for key in "abcd"] == [True, False, True, True]
    await store.cache(P, "a", b"z" * 29)  # takes the place of itself
    hit = await store.cached(P, "a", 60)
    assert hit is not None
    assert hit.body == b"z" * 29
    assert await store.cached(P, "a", 0) is None
    assert await store.cached(P, "none", 60) is None
    await store.cache(P, "big", b"x" * 101)
    assert await store.cached(P, "big", 60) is None
    assert await store.clear_cache(P) == 3
    assert await store.cached(P, "a", 60) is None
    assert await store.cached("other", "a", 60) is not None
    for key in ("e", "f", "g"):
        await store.cache(P, key, b"x" * 30)
    assert await store.clear_cache(P) == 3
    monkeypatch.setattr(limits, "CACHE_AGE_MAX_S", -1.0)
    await store.cache(P, "h", b"")
    await store.cache(P, "i", b"")
    assert await store.cached(P, "h", 60) is None
