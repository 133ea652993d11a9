"""The tables of deployments: immutable versions, which of them is served, and the history of activations.

Called by `sqlite.SqliteStore`. Functions that write run in the writer's transaction, so concurrent changes are applied
one after the other; functions that read take a `Read`.
"""

from __future__ import annotations

import hashlib
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import fields, replace

import msgspec

from everycall import limits
from everycall.server.store.errors import NoEarlierVersion, StoreError, VersionConflict
from everycall.server.store.readers import Read
from everycall.server.store.values import Activation, Deployment, DeploymentUse, DeploymentVersion

__all__ = [
    "activate",
    "activations",
    "deployment",
    "deployments",
    "put_deployment",
    "roll_back",
    "uses",
    "versions",
]

_encoder = msgspec.json.Encoder()
_deployments = msgspec.json.Decoder(Deployment)
_versions = msgspec.json.Decoder(DeploymentVersion)
_activations = msgspec.json.Decoder(Activation)
_PROJECT = "(SELECT id FROM projects WHERE name = :project)"
_NOT_CONTENT = ("version", "created_unix_nano", "created_by", "active", "project_name", "deployment_id")


def put_deployment(
    connection: sqlite3.Connection, project: int, new: Deployment, *, activate: bool, expected: int | None
) -> Deployment:
    """Store a new version, unless one with the same content exists; serve it if `activate`."""
    key = (project, new.deployment_id)
    _expect(connection, key, expected)
    new, body = _checked(replace(new, created_unix_nano=new.created_unix_nano or time.time_ns(), active=False))
    digest = _digest(new)
    _add_missing_digests(connection, key)
    same = connection.execute(
        "SELECT version FROM deployments WHERE project = ? AND deployment_id = ? AND digest = ?"
        " ORDER BY active DESC, version DESC LIMIT 1",
        (*key, digest),
    ).fetchone()
    if same is None:
        version = 1 + _number(connection, "SELECT max(version) FROM deployments", key)
        new, body = _checked(replace(new, version=version))
        connection.execute(
            "INSERT INTO deployments (project, deployment_id, version, active, name, body, digest)"
            " VALUES (?, ?, ?, 0, ?, ?, ?)",
            (*key, version, new.name, body, digest),
        )
    else:
        version = same[0]
    if activate:
        _serve(connection, key, version, new.created_by)
    return _stored(connection, key, version)


def activate(
    connection: sqlite3.Connection, project: int, deployment_id: str, version: int, *, by: str, expected: int | None
) -> Deployment | None:
    """Serve a version (0: none) and return it; None if there is no such version."""
    key = (project, deployment_id)
    newest = _number(connection, "SELECT max(version) FROM deployments", key)
    if not newest or version > newest:
        return None
    _expect(connection, key, expected)
    _serve(connection, key, version, by)
    return _stored(connection, key, version or newest)


def roll_back(
    connection: sqlite3.Connection, project: int, deployment_id: str, *, by: str, expected: int | None
) -> Deployment | None:
    """Serve the previously served version and return it; None if there is no such deployment.

    Each activation refers to the one that a roll-back from it leads to (`earlier`). A roll-back adds an activation with
    the `earlier` of its target, so a second roll-back goes further back instead of forward again.
    """
    key = (project, deployment_id)
    head = _head(connection, key)
    if head is None and not _number(connection, "SELECT max(version) FROM deployments", key):
        return None
    _expect(connection, key, expected)
    target = connection.execute(
        "SELECT version, earlier FROM activations WHERE id = ?", (head[2] if head else None,)
    ).fetchone()
    if target is None:
        raise NoEarlierVersion("No other version was served before. Activate a version by its number.")
    _switch(connection, key, target[0], by, target[1])
    return _stored(connection, key, target[0])


def deployment(read: Read, project: str, deployment_id: str, version: int | None) -> Deployment | None:
    """Return a version, or the served one if `version` is None."""
    row = read.one(
        f"SELECT body, active FROM deployments WHERE project = {_PROJECT} AND deployment_id = :id"  # noqa: S608
        " AND CASE WHEN :version IS NULL THEN active = 1 ELSE version = :version END",
        {"project": project, "id": deployment_id, "version": version},
    )
    return None if row is None else replace(_deployments.decode(row[0]), active=bool(row[1]))


def deployments(
    read: Read, project: str, *, active: bool, after: tuple[str, str] | None, limit: int
) -> list[Deployment]:
    """Return the served versions after `after`, by name and id, or the newest versions of those not served."""
    served = "d.active = 1"
    if not active:
        served = (
            "d.version = (SELECT max(version) FROM deployments WHERE project = d.project"
            " AND deployment_id = d.deployment_id) AND NOT EXISTS (SELECT 1 FROM deployments"
            " WHERE project = d.project AND deployment_id = d.deployment_id AND active = 1)"
        )
    where = "" if after is None else " AND (d.name, d.deployment_id) > (:name, :id)"
    name, deployment_id = after or (None, None)
    return [
        replace(_deployments.decode(body), active=active)
        for body in read.texts(
            "SELECT CAST(group_concat(body, char(30)) AS BLOB) FROM (SELECT d.body FROM deployments d"  # noqa: S608
            f" WHERE d.project = {_PROJECT} AND {served}{where} ORDER BY d.name, d.deployment_id LIMIT :limit)",
            {"project": project, "limit": limit, "name": name, "id": deployment_id},
        )
    ]


def versions(read: Read, project: str, deployment_id: str, before: int | None, limit: int) -> list[DeploymentVersion]:
    """Return the versions lower than `before`, the newest first."""
    columns = ", ".join(
        f"'{name}', json(body -> '$.{name}')"
        for name in ("name", "model", "provider", "created_unix_nano", "created_by")
    )
    return [
        _versions.decode(text)
        for text in read.texts(
            "SELECT CAST(group_concat(text, char(30)) AS BLOB) FROM (SELECT json_object("  # noqa: S608 - constants
            f"'version', version, 'active', json(iif(active, 'true', 'false')), {columns}) AS text"
            " FROM (SELECT version, active, CAST(body AS TEXT) AS body FROM deployments"
            f" WHERE project = {_PROJECT} AND deployment_id = :id AND version < :before"
            " ORDER BY version DESC LIMIT :limit))",
            {"project": project, "id": deployment_id, "before": before or 2**62, "limit": limit},
        )
    ]


def activations(read: Read, project: str, deployment_id: str, limit: int) -> list[Activation]:
    """Return which version was served from when on, and whose key activated it, the latest first."""
    return [
        _activations.decode(text)
        for text in read.texts(
            "SELECT CAST(group_concat(text, char(30)) AS BLOB) FROM (SELECT json_object('version', a.version,"  # noqa: S608
            " 'unix_nano', a.at, 'by', a.actor, 'roll_back_to', e.version) AS text"
            " FROM activations a LEFT JOIN activations e ON e.id = a.earlier"
            f" WHERE a.project = {_PROJECT} AND a.deployment_id = :id ORDER BY a.id DESC LIMIT :limit)",
            {"project": project, "id": deployment_id, "limit": limit},
        )
    ]


def uses(read: Read, project: str, deployment_ids: Sequence[str], since: int) -> dict[str, DeploymentUse]:
    """Return how often each deployment was called since a time, and the cost of its latest calls."""
    usage: dict[str, DeploymentUse] = {}
    share = min(limits.DEPLOYMENT_USES_MAX, limits.DEPLOYMENT_COSTS_MAX // max(1, len(deployment_ids)))
    latest = (
        f"FROM records r WHERE r.project = {_PROJECT} AND r.deployment = :id AND r.start >= :since"
        " ORDER BY r.start DESC LIMIT :limit"
    )
    for deployment_id in deployment_ids:
        of = {"project": project, "id": deployment_id}
        count, errors = read.one(
            f"SELECT count(*), coalesce(sum(failed), 0) FROM (SELECT r.failed {latest})",  # noqa: S608 - constants
            {**of, "since": since, "limit": limits.DEPLOYMENT_USES_MAX},
        ) or (0, 0)
        cost, unpriced = read.one(
            "SELECT sum(cost), coalesce(sum(cost IS NULL AND NOT (failed AND no_tokens)), 0) FROM ("  # noqa: S608
            "SELECT failed, body ->> '$.cost' AS cost, coalesce(body ->> '$.input_tokens',"
            " body ->> '$.output_tokens', body ->> '$.total_tokens') IS NULL AS no_tokens"
            " FROM (SELECT r.failed, CAST(b.body AS TEXT) AS body"
            f" FROM (SELECT r.id, r.failed {latest}) r JOIN bodies b ON b.record = r.id))",
            {**of, "since": since, "limit": share},
        ) or (None, 0)
        last = read.one(
            f"SELECT max(start) FROM records WHERE project = {_PROJECT} AND deployment = :id",  # noqa: S608
            of,
        )
        usage[deployment_id] = DeploymentUse(
            completions=count,
            errors=errors,
            cost=None if cost is None else float(cost),
            unpriced=unpriced,
            costed=min(count, share),
            last_unix_nano=last[0] if last else None,
            whole=count < limits.DEPLOYMENT_USES_MAX,
        )
    return usage


def _checked(new: Deployment) -> tuple[Deployment, bytes]:
    """Return a version as it will be read back, and its body. Raise `StoreError` if it is not JSON, or too large."""
    try:
        body = _encoder.encode(new)
        new = _deployments.decode(body)
    except (msgspec.MsgspecError, UnicodeError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise StoreError(f"This deployment cannot be stored: {error}.") from error
    if len(body) > limits.DEPLOYMENT_BYTES_MAX:
        raise StoreError(
            f"This deployment has {len(body)} bytes; at most {limits.DEPLOYMENT_BYTES_MAX} are allowed. "
            "Move long text out of the templates into llm_inputs."
        )
    return new, body


def _digest(version: Deployment) -> str:
    """Return the SHA-256 of a version's content. The order of keys counts, as models see them in that order."""
    content = {one.name: getattr(version, one.name) for one in fields(version) if one.name not in _NOT_CONTENT}
    return hashlib.sha256(_encoder.encode(content)).hexdigest()


def _add_missing_digests(connection: sqlite3.Connection, key: tuple[int, str]) -> None:
    """Add the digests of versions that were stored before the table had digests."""
    rows = connection.execute(
        "SELECT version, body FROM deployments WHERE project = ? AND deployment_id = ? AND digest IS NULL", key
    ).fetchall()
    connection.executemany(
        "UPDATE deployments SET digest = ? WHERE project = ? AND deployment_id = ? AND version = ?",
        [(_digest(_deployments.decode(body)), *key, version) for version, body in rows],
    )


def _expect(connection: sqlite3.Connection, key: tuple[int, str], expected: int | None) -> None:
    if expected is None:
        return
    active = _number(connection, "SELECT version FROM deployments", key, " AND active = 1")
    if active != expected:
        raise VersionConflict(active)


def _serve(connection: sqlite3.Connection, key: tuple[int, str], version: int, by: str) -> None:
    """Serve a version and record its activation, unless it is served already."""
    if _number(connection, "SELECT version FROM deployments", key, " AND active = 1") == version:
        return
    head = _head(connection, key)
    earlier = None if head is None else head[0] if head[1] else head[2]  # a roll-back never leads to version 0
    _switch(connection, key, version, by, earlier)


def _switch(connection: sqlite3.Connection, key: tuple[int, str], version: int, by: str, earlier: int | None) -> None:
    of = "WHERE project = ? AND deployment_id = ?"
    connection.execute(f"UPDATE deployments SET active = 0 {of} AND active = 1", key)  # noqa: S608 - a constant
    connection.execute(f"UPDATE deployments SET active = 1 {of} AND version = ?", (*key, version))  # noqa: S608
    connection.execute(
        "INSERT INTO activations (project, deployment_id, version, at, actor, earlier) VALUES (?, ?, ?, ?, ?, ?)",
        (*key, version, time.time_ns(), by, earlier),
    )


def _head(connection: sqlite3.Connection, key: tuple[int, str]) -> tuple[int, int, int | None] | None:
    """Return the latest activation: its id, its version, and the id of the activation a roll-back leads to."""
    row: tuple[int, int, int | None] | None = connection.execute(
        "SELECT id, version, earlier FROM activations WHERE project = ? AND deployment_id = ? ORDER BY id DESC LIMIT 1",
        key,
    ).fetchone()
    return row


def _number(connection: sqlite3.Connection, select: str, key: tuple[int, str], more: str = "") -> int:
    row = connection.execute(f"{select} WHERE project = ? AND deployment_id = ?{more}", key).fetchone()
    return int(row[0] or 0) if row else 0


def _stored(connection: sqlite3.Connection, key: tuple[int, str], version: int) -> Deployment:
    body, active = connection.execute(
        "SELECT body, active FROM deployments WHERE project = ? AND deployment_id = ? AND version = ?", (*key, version)
    ).fetchone()
    return replace(_deployments.decode(body), active=bool(active))
