"""Every recorded sender through a real server: each field of each call is right, or the sender does not send it.

`not_sent.toml` names what a sender does not send, by scenario and field. An entry that turns out right fails too, and a
field that is not sent must be unknown (null), unless the table says what the sender tells in its place.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from everycall_testkit.corpus import FIELDS, SENDERS, Check, checks, post, records_of, scenarios
from everycall_testkit.otlp_table import table

HERE = Path(__file__).parent
DOCS = Path(__file__).parents[2] / "docs"
NOT_SENT: dict[str, Any] = tomllib.loads((HERE / "not_sent.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def corpus_client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of a started server."""
    from everycall.server.options import ServerOptions
    from everycall.server.runner import Server

    with Server(ServerOptions(data_dir=tmp_path_factory.mktemp("corpus"), port=0)) as server:
        with httpx.Client(base_url=server.address, headers={"x-api-key": server.key}, timeout=30) as client:
            yield client


def compared(client: httpx.Client, sender: str, suffix: str = "", order: int = 1) -> tuple[list[Check], dict[str, int]]:
    """Send all of a sender's bodies; return each comparison, and how many calls its records count by scenario."""
    found: list[Check] = []
    counts: dict[str, int] = {}
    for scenario in scenarios(sender):
        project = f"{sender} {scenario.name}{suffix}"
        for file in scenario.files[::order]:
            answer = post(client, project, file)
            assert (answer.status_code, answer.content) == (200, b""), file
        records = records_of(client, project)
        counts[scenario.name] = len(records)
        found.extend(checks(scenario, records))
    return found, counts


@pytest.mark.parametrize("sender", SENDERS)
def test_every_field_that_a_sender_sends_is_right(corpus_client: httpx.Client, sender: str) -> None:
    """Field by field against what happened; the number of calls too."""
    found, counts = compared(corpus_client, sender)
    told = NOT_SENT.get(sender, {})
    wrong = {f"{check.scenario}.{check.field}" for check in found if not check.right}
    missing = set(told.get("fields", ()))
    details = [check for check in found if not check.right and f"{check.scenario}.{check.field}" not in missing]
    assert details == []
    assert missing - wrong == set(), "these are sent after all"
    told_instead = set(told.get("told_instead", ()))
    invented = [
        check
        for check in found
        if not check.right and check.found and f"{check.scenario}.{check.field}" not in told_instead
    ]
    assert invented == []
    expected = {scenario.name: len(scenario.calls) for scenario in scenarios(sender)}
    assert counts == {**expected, **told.get("calls", {})}


@pytest.mark.parametrize("sender", SENDERS)
def test_the_order_of_arrival_does_not_matter(corpus_client: httpx.Client, sender: str) -> None:
    """All bodies the other way round, then all of them again: the same records."""
    before, counts = compared(corpus_client, sender)
    for suffix, order in ((" reversed", -1), (" reversed", 1), ("", 1)):
        assert compared(corpus_client, sender, suffix, order) == (before, counts)


def test_the_table_in_the_docs_is_what_was_measured(corpus_client: httpx.Client) -> None:
    """docs/otlp.md has the table of senders and fields, as these tests find it."""
    measured = {sender: compared(corpus_client, sender)[0] for sender in SENDERS}
    assert table(measured) in (DOCS / "otlp.md").read_text(encoding="utf-8")
    assert FIELDS
