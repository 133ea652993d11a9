"""The tables of feedback, experiments and datasets. Called by `sqlite.SqliteStore`.

Functions that write run in the writer's transaction; functions that read take a `Read`.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import msgspec

from everycall import limits
from everycall.server.store.errors import StoreError
from everycall.server.store.readers import Read
from everycall.server.store.values import Dataset, DatasetCase, Experiment, Feedback

__all__ = [
    "add_cases",
    "dataset",
    "experiment",
    "experiment_traces",
    "experiments",
    "feedback",
    "put_dataset",
    "put_experiment",
    "put_feedback",
    "update_case",
]

EXPERIMENT_OF = "json_extract(CAST(b.body AS TEXT), '$.attributes.\"parea.experiment_uuid\"')"
IN_EXPERIMENT = "instr(b.body, CAST('parea.experiment_uuid' AS BLOB)) > 0"
"""Both exactly as in the index `bodies_experiment`; otherwise SQLite would not use it."""

_encoder = msgspec.json.Encoder()
_feedback = msgspec.json.Decoder(Feedback)
_experiments = msgspec.json.Decoder(Experiment)
_cases = msgspec.json.Decoder(DatasetCase)
_columns = msgspec.json.Decoder(tuple[str, ...])
_PROJECT = "(SELECT id FROM projects WHERE name = ?)"


def put_feedback(connection: sqlite3.Connection, project: int, new: Feedback) -> None:
    """Store feedback, unless it equals the record's latest."""
    latest = connection.execute(
        "SELECT body FROM feedback WHERE project = ? AND inference_id = ? ORDER BY id DESC LIMIT 1",
        (project, new.inference_id),
    ).fetchone()
    stamped = replace(new, created_unix_nano=new.created_unix_nano or time.time_ns())
    if latest is not None:
        before = _feedback.decode(latest[0])
        if before == replace(stamped, created_unix_nano=before.created_unix_nano):
            return
    connection.execute(
        "INSERT INTO feedback (project, inference_id, score, body) VALUES (?, ?, ?, ?)",
        (project, new.inference_id, new.score, _encode(stamped)),
    )
    connection.execute(
        "DELETE FROM feedback WHERE id IN (SELECT id FROM feedback WHERE project = ? AND inference_id = ?"
        " ORDER BY id DESC LIMIT -1 OFFSET ?)",
        (project, new.inference_id, limits.FEEDBACK_MAX),
    )


def feedback(read: Read, project: str, inference_ids: Sequence[str]) -> dict[str, list[Feedback]]:
    """Return the feedback on records by `inference_id`, the latest last."""
    by_record: dict[str, list[Feedback]] = {}
    for body in read.texts(
        "SELECT CAST(group_concat(body, char(30)) AS BLOB) FROM (SELECT body FROM feedback"  # noqa: S608 - a constant
        f" WHERE project = {_PROJECT} AND inference_id IN (SELECT value FROM json_each(?)) ORDER BY id)",
        (project, _encoder.encode(list(inference_ids)).decode()),
    ):
        one = _feedback.decode(body)
        by_record.setdefault(one.inference_id, []).append(one)
    return by_record


def put_experiment(connection: sqlite3.Connection, project: int, new: Experiment) -> bool:
    """Store an experiment; return False if another one has its name and run name."""
    duplicate = connection.execute(
        "SELECT 1 FROM experiments WHERE project = ? AND name = ? AND run_name = ? AND uuid <> ?",
        (project, new.name, new.run_name, new.uuid),
    ).fetchone()
    if duplicate:
        return False
    stamped = replace(new, created_unix_nano=new.created_unix_nano or time.time_ns())
    connection.execute(
        "INSERT OR REPLACE INTO experiments (project, uuid, name, run_name, created, body) VALUES (?, ?, ?, ?, ?, ?)",
        (project, new.uuid, new.name, new.run_name, stamped.created_unix_nano, _encode(stamped)),
    )
    return True


def experiment(read: Read, project: str, uuid: str) -> Experiment | None:
    """Return the experiment with this `uuid`, or None."""
    row = read.one(
        f"SELECT body FROM experiments WHERE project = {_PROJECT} AND uuid = ?",  # noqa: S608 - a constant
        (project, uuid),
    )
    return None if row is None else _experiments.decode(row[0])


def experiments(read: Read, project: str) -> list[Experiment]:
    """Return the experiments of a project, the latest first."""
    return [
        _experiments.decode(body)
        for body in read.texts(
            "SELECT CAST(group_concat(body, char(30)) AS BLOB) FROM (SELECT body FROM experiments"  # noqa: S608
            f" WHERE project = {_PROJECT} ORDER BY created DESC, uuid LIMIT ?)",
            (project, limits.EXPERIMENTS_MAX),
        )
    ]


def experiment_traces(read: Read, project: str, uuid: str, after: str) -> list[str]:
    """Return the ids of the traces with a record of an experiment, sorted."""
    return [
        msgspec.json.decode(text, type=str)
        for text in read.texts(
            "SELECT CAST(group_concat(json_quote(trace_id), char(30)) AS BLOB) FROM (SELECT DISTINCT t.trace_id"  # noqa: S608 - constants
            " FROM bodies b JOIN records r ON r.id = b.record JOIN traces t ON t.id = r.trace"
            f" WHERE {IN_EXPERIMENT} AND {EXPERIMENT_OF} = ? AND r.project = {_PROJECT} AND t.trace_id > ?"
            " ORDER BY t.trace_id LIMIT ?)",
            (uuid, project, after, limits.PAGE_ROWS_MAX),
        )
    ]


def put_dataset(connection: sqlite3.Connection, project: int, new: Dataset) -> Dataset | None:
    """Store a new dataset with its cases; return None if the name is taken."""
    if connection.execute("SELECT 1 FROM datasets WHERE project = ? AND name = ?", (project, new.name)).fetchone():
        return None
    now = time.time_ns()
    number = connection.execute(
        "INSERT INTO datasets (project, name, created, updated, columns, cases, bytes) VALUES (?, ?, ?, ?, ?, 0, 0)",
        (project, new.name, now, now, _encode(new.columns)),
    ).lastrowid
    ids = _insert_cases(connection, number or 0, new.cases, now)
    cases = tuple(replace(case, id=id_) for case, id_ in zip(new.cases, ids, strict=True))
    return replace(new, id=number or 0, cases=cases, created_unix_nano=now, updated_unix_nano=now)


def add_cases(
    connection: sqlite3.Connection, project: int, dataset_id: int, cases: Sequence[DatasetCase]
) -> list[int] | None:
    """Add cases to a dataset and return their ids; None if the project has no such dataset.

    New names of inputs become columns of the dataset.
    """
    row = connection.execute(
        "SELECT columns FROM datasets WHERE id = ? AND project = ?", (dataset_id, project)
    ).fetchone()
    if row is None:
        return None
    columns = dict.fromkeys(_columns.decode(row[0]))
    columns.update(dict.fromkeys(name for case in cases for name in case.inputs))
    connection.execute("UPDATE datasets SET columns = ? WHERE id = ?", (_encode(tuple(columns)), dataset_id))
    return _insert_cases(connection, dataset_id, cases, time.time_ns())


def update_case(connection: sqlite3.Connection, project: int, dataset_id: int, case: DatasetCase) -> bool:
    """Replace a case of a dataset; return False if it does not exist."""
    row = connection.execute(
        "SELECT length(c.body) FROM test_cases c JOIN datasets d ON d.id = c.dataset"
        " WHERE c.id = ? AND d.id = ? AND d.project = ?",
        (case.id, dataset_id, project),
    ).fetchone()
    if row is None:
        return False
    body = _encode(case)
    connection.execute("UPDATE test_cases SET body = ? WHERE id = ?", (body, case.id))
    _add_size(connection, dataset_id, 0, len(body) - row[0], time.time_ns())
    return True


def dataset(read: Read, project: str, key: int | str) -> Dataset | None:
    """Return the dataset with this id or name, with its cases."""
    row = read.one(
        "SELECT id, name, created, updated, columns FROM datasets"  # noqa: S608 - constants
        f" WHERE project = {_PROJECT} AND {'id' if isinstance(key, int) else 'name'} = ?",
        (project, key),
    )
    if row is None:
        return None
    cases = read.texts(
        "SELECT CAST(group_concat(json_set(CAST(body AS TEXT), '$.id', id), char(30)) AS BLOB) FROM"
        " (SELECT id, body FROM test_cases WHERE dataset = ? ORDER BY id)",
        (row[0],),
    )
    return Dataset(
        name=row[1],
        project_name=project,
        columns=_columns.decode(row[4]),
        cases=tuple(map(_cases.decode, cases)),
        id=row[0],
        created_unix_nano=row[2],
        updated_unix_nano=row[3],
    )


def _insert_cases(connection: sqlite3.Connection, dataset_id: int, cases: Sequence[DatasetCase], now: int) -> list[int]:
    ids: list[int] = []
    size = 0
    for case in cases:
        body = _encode(case)
        size += len(body)
        number = connection.execute(
            "INSERT INTO test_cases (dataset, body) VALUES (?, ?)", (dataset_id, body)
        ).lastrowid
        ids.append(number or 0)
    _add_size(connection, dataset_id, len(ids), size, now)
    return ids


def _add_size(connection: sqlite3.Connection, dataset_id: int, cases: int, size: int, now: int) -> None:
    cases, size = connection.execute(
        "UPDATE datasets SET cases = cases + ?, bytes = bytes + ?, updated = max(updated, ?) WHERE id = ?"
        " RETURNING cases, bytes",
        (cases, size, now, dataset_id),
    ).fetchone()
    if cases > limits.DATASET_CASES_MAX or size > limits.DATASET_BYTES_MAX:
        raise StoreError(
            f"A dataset may have {limits.DATASET_CASES_MAX} cases of {limits.DATASET_BYTES_MAX} bytes together. "
            "Make another dataset for the rest."
        )


def _encode(value: Feedback | Experiment | DatasetCase | Mapping[str, str] | tuple[str, ...]) -> bytes:
    try:
        body = _encoder.encode(value)
        body.decode()
    except (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise StoreError(f"This cannot be stored: {error}.") from error
    return body
