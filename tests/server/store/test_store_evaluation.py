"""The store's contract for feedback, experiments, datasets and logs, as tests that every store has to pass."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from everycall import limits
from everycall.record import Record, to_raw
from everycall.server.store.base import Store
from everycall.server.store.errors import StoreError
from everycall.server.store.sqlite import SqliteStore
from everycall.server.store.values import Condition, Dataset, DatasetCase, Experiment, Feedback, LogQuery

P = "default"
NOON = 1_700_000_000 * 10**9


def call(number: int, trace: str = "t", **fields: Any) -> Record:
    """A record that starts `number` seconds after noon."""
    times = {"start_time_unix_nano": NOON + number * 10**9, "end_time_unix_nano": NOON + (number + 1) * 10**9}
    return Record(**{"inference_id": f"r{number}", "trace_id": trace, "name": f"call {number}", **times, **fields})


def of_experiment(uuid: str) -> dict[str, Any]:
    return {"attributes": to_raw({"parea.experiment_uuid": uuid})}


async def test_feedback_is_stored_in_order_and_once(store: Store) -> None:
    first = Feedback("r1", 1.0, comment="good", created_unix_nano=1)
    second = Feedback("r1", 0.0, target="gold", created_unix_nano=2)
    for one in (first, second, replace(second, created_unix_nano=3), Feedback("r2", 0.5, created_unix_nano=4)):
        await store.put_feedback(P, one)
    await store.put_feedback("other", Feedback("r1", 0.25, created_unix_nano=5))
    assert await store.feedback(P, ["r1", "r2", "r3"]) == {
        "r1": [first, second],
        "r2": [Feedback("r2", 0.5, created_unix_nano=4)],
    }
    assert await store.feedback("nobody", ["r1"]) == {}


async def test_feedback_is_bounded_and_stamped(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "FEEDBACK_MAX", 3)
    for number in range(5):
        await store.put_feedback(P, Feedback("r", number / 10))
    feedback = (await store.feedback(P, ["r"]))["r"]
    assert [one.score for one in feedback] == [0.2, 0.3, 0.4]
    assert all(one.created_unix_nano > NOON for one in feedback)


async def test_experiments(store: Store) -> None:
    one = Experiment("u1", P, "greeting", "run-1", metadata={"a": "b"}, is_public=True, created_unix_nano=1)
    two = Experiment("u2", P, "greeting", "run-2", created_unix_nano=2)
    assert await store.put_experiment(one)
    assert await store.put_experiment(two)
    assert not await store.put_experiment(Experiment("u3", P, "greeting", "run-1"))
    assert await store.put_experiment(Experiment("u3", P, "another", "run-1", created_unix_nano=3))
    assert await store.put_experiment(Experiment("u1", "other", "greeting", "run-1", created_unix_nano=4))
    done = replace(one, status="completed", statistics=({"name": "accuracy", "score": 0.5},), samples=2)
    assert await store.put_experiment(done)
    assert await store.experiment(P, "u1") == done
    assert await store.experiment(P, "u4") is None
    assert [experiment.uuid for experiment in await store.experiments(P)] == ["u3", "u2", "u1"]
    assert [experiment.uuid for experiment in await store.experiments("other")] == ["u1"]
    assert list(await store.projects()) == [P, "other"]


async def test_the_traces_of_an_experiment(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    await store.commit(P, [call(1, "b", **of_experiment("u")), call(2, "b"), call(3, "a", parent_id="r9")])
    await store.commit(P, [call(4, "c", **of_experiment("v")), call(5, "d", content="parea.experiment_uuid u")])
    await store.commit("other", [call(6, "e", **of_experiment("u"))])
    await store.merge(P, "r3", {"attributes": {"parea.experiment_uuid": "u"}})
    assert list(await store.experiment_traces(P, "u")) == ["a", "b"]
    assert list(await store.experiment_traces(P, "v")) == ["c"]
    assert list(await store.experiment_traces("other", "u")) == ["e"]
    monkeypatch.setattr(limits, "PAGE_ROWS_MAX", 1)
    assert list(await store.experiment_traces(P, "u")) == ["a"]
    assert list(await store.experiment_traces(P, "u", "a")) == ["b"]
    await store.merge(P, "r3", {"attributes": None})
    assert list(await store.experiment_traces(P, "u")) == ["b"]


async def test_trees_in_pages(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    await store.commit(P, [call(number, "abc"[number % 3]) for number in range(9)])
    await store.commit("other", [call(20, "a")])
    page = await store.trees(P, ["a", "c", "none"])
    assert [record.inference_id for record in page.records] == ["r0", "r2", "r3", "r5", "r6", "r8"]
    assert page.next_cursor is None
    monkeypatch.setattr(limits, "TRACE_RECORDS_MAX", 4)
    page = await store.trees(P, ["a", "c"])
    assert [record.inference_id for record in page.records] == ["r0", "r2", "r3", "r5"]
    page = await store.trees(P, ["a", "c"], page.next_cursor)
    assert [record.inference_id for record in page.records] == ["r6", "r8"]
    with pytest.raises(StoreError):
        await store.trees(P, ["a"], "made up")


async def ids(store: Store, query: LogQuery) -> tuple[list[str], int]:
    page = await store.logs(P, query)
    return [record.inference_id for record in page.records], page.total


async def test_logs_by_page(store: Store) -> None:
    await store.commit(P, [call(number, parent_id=f"r{number - 1}" if number % 2 else None) for number in range(6)])
    await store.commit(P, [call(6, parent_id="missing", status="error", error="x"), call(7, parent_id="r7")])
    await store.commit("other", [call(30)])
    assert await ids(store, LogQuery()) == ([f"r{number}" for number in range(7, -1, -1)], 8)
    assert await ids(store, LogQuery(roots=True)) == (["r7", "r6", "r4", "r2", "r0"], 5)
    assert await ids(store, LogQuery(roots=True, offset=1, limit=2)) == (["r6", "r4"], 5)
    assert await ids(store, LogQuery(offset=10, limit=2)) == ([], 8)
    assert await ids(store, LogQuery(status="error")) == (["r6"], 1)
    assert await ids(store, LogQuery(status="success", since=NOON + 5 * 10**9)) == (["r7", "r5"], 2)
    assert await ids(store, LogQuery(since=2**62)) == ([], 0)


FIELDS: dict[str, Any] = {
    "metadata": to_raw({"purpose": "testing", "a.b": "dot", "n": 3}),
    "tags": ["beta", "Alpha"],
    "cost": 0.25,
    "latency": 2.0,
    "content": "Hello World",
    "cache_hit": False,
    "inputs": to_raw({"question": "why", "deep": {"x": [1]}}),
    "attributes": to_raw(
        {
            "parea.scores": [{"name": "exact", "score": 0.5}, {"name": "other", "score": 1.0}],
            "parea.annotations": {"7": {"u": {"score": 1.0}}},
        }
    ),
}


@pytest.mark.parametrize(
    ("path", "operator", "value", "holds"),
    [
        ("metadata purpose", "equals", "testing", True),
        ("metadata purpose", "equals", "Testing", False),
        ("metadata purpose", "not_equals", "testing", False),
        ("metadata nothing", "not_equals", "testing", True),
        ("metadata a.b", "equals", "dot", True),
        ("metadata n", "equals", "3.0", True),
        ("metadata n", "in", "1, 2, 3", True),
        ("metadata n", "in", "[1, 2]", False),
        ("metadata n", "between", "2,4", True),
        ("metadata n", "between", "[4, 5]", False),
        ("metadata n", "between", "4", False),
        ("tags", "equals", "beta", True),
        ("tags", "equals", "gamma", False),
        ("tags", "like", "alp", True),
        ("cost", "greater_than", "0.2", True),
        ("cost", "greater_than", "0.25", False),
        ("cost", "greater_than_or_equal", "0.25", True),
        ("cost", "less_than", "1e3", True),
        ("latency", "less_than_or_equal", "10", True),
        ("content", "like", "WORLD", True),
        ("content", "like", "hello%", True),
        ("content", "like", "%hello", False),
        ("content", "like", "h%o%d", True),
        ("content", "like", "hello world%d", False),
        ("content", "greater_than", "Hallo", True),
        ("cache_hit", "equals", "false", True),
        ("cache_hit", "equals", "True", False),
        ("error", "is_null", None, True),
        ("content", "is_null", None, False),
        ("content", "exists", None, True),
        ("nothing at all", "exists", None, False),
        ("inputs deep x", "equals", "1", True),
        ("inputs deep", "like", '"x"', True),
        ("attributes parea.scores exact", "greater_than", "0.4", True),
        ("attributes parea.scores other", "less_than", "0.4", False),
        ("attributes parea.scores none", "is_null", None, True),
        ("attributes parea.annotations 7 * score", "equals", "1", True),
        ("attributes parea.annotations * * score", "equals", "2", False),
        ("output | content", "like", "hello", True),
        ("status", "equals", "success", True),
        ("feedback", "equals", "1", True),
        ("feedback", "less_than", "1", False),
    ],
)
async def test_conditions(store: Store, path: str, operator: str, value: str | None, holds: bool) -> None:
    await store.commit(P, [call(1, **FIELDS)])
    for score in (0.0, 1.0):
        await store.put_feedback(P, Feedback("r1", score))
    await store.put_feedback("other", Feedback("r1", 0.5))
    condition = Condition(tuple(tuple(one.split()) for one in path.split(" | ")), operator, value)
    assert await ids(store, LogQuery(condition=condition)) == ((["r1"], 1) if holds else ([], 0))


async def test_an_unknown_operator_is_an_error(store: Store) -> None:
    with pytest.raises(StoreError, match="equals, not_equals"):
        await store.logs(P, LogQuery(condition=Condition((("name",),), "resembles", "x")))


async def test_datasets(store: Store) -> None:
    cases = (DatasetCase({"q": "1+1"}, "2", ("math",)), DatasetCase({"q": "\x1e \N{OWL}"}))
    dataset = await store.put_dataset(Dataset("sums", P, ("q",), cases))
    assert dataset is not None
    assert dataset.id > 0
    assert [case.id for case in dataset.cases] == sorted({case.id for case in dataset.cases})
    assert await store.put_dataset(Dataset("sums", P)) is None
    other = await store.put_dataset(Dataset("sums", "other"))
    assert other is not None
    assert await store.dataset(P, "sums") == await store.dataset(P, dataset.id) == dataset
    added = await store.add_cases(P, dataset.id, [DatasetCase({"q": "2+2", "hint": "four"})])
    assert added is not None
    assert await store.update_case(P, dataset.id, DatasetCase({"q": "1+1?"}, "two", (), dataset.cases[0].id))
    stored = await store.dataset(P, "sums")
    assert stored is not None
    assert stored.columns == ("q", "hint")
    assert stored.updated_unix_nano > dataset.updated_unix_nano
    assert [(case.inputs["q"], case.target, case.tags) for case in stored.cases] == [
        ("1+1?", "two", ()),
        ("\x1e \N{OWL}", None, ()),
        ("2+2", None, ()),
    ]
    assert await store.add_cases("other", dataset.id, [DatasetCase({})]) is None
    assert not await store.update_case("other", dataset.id, DatasetCase({}, id=added[0]))
    assert not await store.update_case(P, other.id, DatasetCase({}, id=added[0]))
    assert await store.dataset("other", dataset.id) is None
    assert await store.dataset(P, "none") is None
    assert await store.dataset(P, str(dataset.id)) is None
    assert list(await store.projects()) == [P, "other"]


async def test_datasets_are_bounded(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "DATASET_CASES_MAX", 2)
    dataset = await store.put_dataset(Dataset("d", P, (), (DatasetCase({}), DatasetCase({}))))
    assert dataset is not None
    with pytest.raises(StoreError, match="2 cases"):
        await store.add_cases(P, dataset.id, [DatasetCase({"more": ""})])
    with pytest.raises(StoreError):
        await store.put_dataset(Dataset("e", P, (), (DatasetCase({}),) * 3))
    monkeypatch.setattr(limits, "DATASET_BYTES_MAX", 200)
    with pytest.raises(StoreError, match="200 bytes"):
        await store.update_case(P, dataset.id, DatasetCase({"x": "y" * 200}, id=dataset.cases[0].id))
    stored = await store.dataset(P, "d")
    assert stored is not None
    assert (stored.cases, stored.columns, await store.dataset(P, "e")) == (dataset.cases, (), None)


async def test_values_that_are_not_text_are_refused(store: Store) -> None:
    with pytest.raises(StoreError):
        await store.put_feedback(P, Feedback("r", 1.0, comment="\ud800"))
    with pytest.raises(StoreError):
        await store.put_experiment(Experiment("\ud800", P, "n", "r"))
    with pytest.raises(StoreError):
        await store.put_dataset(Dataset("\ud800", P))
    assert list(await store.experiments(P)) == []


async def test_a_file_of_the_first_schema_is_migrated(tmp_path: Path) -> None:
    """Records from before the schema had experiments are found by them."""
    import sqlite3
    from importlib import resources

    from everycall.server.store.opening import APPLICATION_ID

    path = tmp_path / "everycall.db"
    first = SqliteStore(path)
    await first.open()
    await first.commit(P, [call(1, "a", **of_experiment("u")), call(2, "b")])
    await first.close()
    newest = tmp_path / "newest.db"
    path.rename(newest)
    connection = sqlite3.connect(path)
    script = resources.files("everycall.server.store") / "schema" / "0001_initial.sql"
    connection.executescript(script.read_text("utf-8"))
    connection.execute("ATTACH ? AS newest", (str(newest),))
    for table in ("projects", "traces", "trace_tags", "records", "bodies", "record_tags"):
        columns = ", ".join(row[1] for row in connection.execute(f"PRAGMA main.table_info({table})"))
        connection.execute(f"INSERT INTO main.{table} ({columns}) SELECT {columns} FROM newest.{table}")
    connection.execute("PRAGMA user_version = 1")
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.commit()
    connection.close()
    again = SqliteStore(path)
    await again.open()
    try:
        assert list(await again.experiment_traces(P, "u")) == ["a"]
        await again.put_feedback(P, Feedback("r1", 1.0))
    finally:
        await again.close()


async def test_the_traces_of_an_experiment_are_found_by_index(tmp_path: Path) -> None:
    """A scan of all bodies would take seconds on a large store."""
    import sqlite3

    from everycall.server.store.evaluation import EXPERIMENT_OF, IN_EXPERIMENT

    opened = SqliteStore(tmp_path / "everycall.db")
    await opened.open()
    await opened.close()
    connection = sqlite3.connect(tmp_path / "everycall.db")
    query = f"SELECT b.record FROM bodies b WHERE {IN_EXPERIMENT} AND {EXPERIMENT_OF} = 'u'"
    plan = connection.execute(f"EXPLAIN QUERY PLAN {query}").fetchall()
    connection.close()
    assert "USING INDEX bodies_experiment" in plan[0][3]
