"""The tables of client reports, cached responses, keys, ended sessions and projects. Called by `sqlite.SqliteStore`.

Each row has a JSON body and the columns it is found by. Functions that write take the writer's connection and run in
its transaction; functions that read take a `Read`.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Mapping
from dataclasses import replace

import msgspec

from everycall import limits
from everycall.server.store.readers import Read
from everycall.server.store.values import ApiKey, CachedResponse, ClientReport

__all__ = [
    "cached",
    "clear_cache",
    "clients",
    "end_session",
    "ended_sessions",
    "keys",
    "projects",
    "put_client",
    "put_key",
    "put_response",
]

_encoder = msgspec.json.Encoder()
_clients = msgspec.json.Decoder(ClientReport)
_keys = msgspec.json.Decoder(ApiKey)
_PROJECT = "(SELECT id FROM projects WHERE name = ?)"


def projects_of_client(connection: sqlite3.Connection, client: str) -> list[int]:
    """Return the projects in which a client process has reported."""
    rows = connection.execute(
        "SELECT id FROM projects WHERE EXISTS (SELECT 1 FROM clients WHERE project = projects.id AND client = ?)",
        (client,),
    )
    return [number for (number,) in rows]


def put_client(connection: sqlite3.Connection, project: int, report: ClientReport) -> None:
    """Store a client's report, unless a later one is stored.

    A report that cannot be encoded is ignored: the records that came with it must be stored in any case.
    """
    seen_unix_nano = min(report.seen_unix_nano, 2**63 - 1) or time.time_ns()
    try:
        body = _encoder.encode(replace(report, seen_unix_nano=seen_unix_nano))
        report.client.encode()
    except (msgspec.MsgspecError, UnicodeEncodeError, TypeError, ValueError, OverflowError, RecursionError):
        return
    is_known = connection.execute(
        "SELECT 1 FROM clients WHERE project = ? AND client = ?", (project, report.client)
    ).fetchone()
    connection.execute(
        "INSERT INTO clients (project, client, seen, body) VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE"
        " SET seen = excluded.seen, body = excluded.body WHERE excluded.seen >= seen",
        (project, report.client, seen_unix_nano, body),
    )
    if is_known is None:
        connection.execute(
            "DELETE FROM clients WHERE project = :project AND client IN"
            " (SELECT client FROM clients WHERE project = :project ORDER BY seen DESC LIMIT -1 OFFSET :kept)",
            {"project": project, "kept": limits.CLIENTS_MAX},
        )


def clients(read: Read, project: str) -> list[ClientReport]:
    """Return the stored reports, the most recent first."""
    return [
        _clients.decode(body)
        for body in read.texts(
            "SELECT CAST(group_concat(body, char(30)) AS BLOB) FROM"  # noqa: S608 - a constant
            f" (SELECT body FROM clients WHERE project = {_PROJECT} ORDER BY seen DESC)",
            (project,),
        )
    ]


def cached(read: Read, project: str, key: str, max_age_s: float) -> CachedResponse | None:
    """Return the response with this key if it is at most `max_age_s` seconds old."""
    row = read.one(
        f"SELECT body, created FROM responses WHERE project = {_PROJECT} AND key = ?",  # noqa: S608 - a constant
        (project, key),
    )
    if row is None or row[1] < time.time_ns() - max_age_s * 1e9:
        return None
    return CachedResponse(row[0], row[1])


def put_response(
    connection: sqlite3.Connection, project: int, key: str, body: bytes, uses: Mapping[tuple[str, str], int]
) -> None:
    """Store a response. Delete those that are too old, then the least recently used ones beyond the limit.

    `uses` has the time of the last use of each response that was used since the last call, by project name and key.
    """
    now = time.time_ns()
    connection.executemany(
        f"UPDATE responses SET used = ? WHERE project = {_PROJECT} AND key = ?",  # noqa: S608 - a constant
        [(used, name, used_key) for (name, used_key), used in uses.items()],
    )
    size = len(body) + len(key)
    connection.execute(
        "DELETE FROM responses WHERE project = ? AND (key = ? OR created < ?)",
        (project, key, now - int(limits.CACHE_AGE_MAX_S * 1e9)),
    )
    if size > limits.CACHE_BYTES_MAX:
        return
    total = connection.execute("SELECT cache_bytes FROM projects WHERE id = ?", (project,)).fetchone()[0]
    while total + size > limits.CACHE_BYTES_MAX:
        number, freed = connection.execute(
            "SELECT id, size FROM responses WHERE project = ? ORDER BY used, id LIMIT 1", (project,)
        ).fetchone()
        connection.execute("DELETE FROM responses WHERE id = ?", (number,))
        total -= freed
    connection.execute(
        "INSERT INTO responses (project, key, created, used, size, body) VALUES (?, ?, ?, ?, ?, ?)",
        (project, key, now, now, size, body),
    )


def clear_cache(connection: sqlite3.Connection, project: int) -> int:
    """Delete all responses of a project; return how many there were."""
    return connection.execute("DELETE FROM responses WHERE project = ?", (project,)).rowcount


def put_key(connection: sqlite3.Connection, project: int, key: ApiKey) -> None:
    """Store a key, or replace the one with the same digest."""
    connection.execute(
        "INSERT OR REPLACE INTO api_keys (digest, project, created, body) VALUES (?, ?, ?, ?)",
        (key.digest, project, key.created_unix_nano, _encoder.encode(key)),
    )


def keys(read: Read) -> list[ApiKey]:
    """Return all keys, the oldest first."""
    return [
        _keys.decode(body)
        for body in read.texts(
            "SELECT CAST(group_concat(body, char(30)) AS BLOB) FROM"
            " (SELECT body FROM api_keys ORDER BY created, digest)"
        )
    ]


def end_session(connection: sqlite3.Connection, session: str, expires: int) -> None:
    """Remember an ended session. Forget those that have expired since, and the oldest beyond the limit."""
    connection.execute("INSERT OR REPLACE INTO ended_sessions (session, expires) VALUES (?, ?)", (session, expires))
    connection.execute(
        "DELETE FROM ended_sessions WHERE expires < ? OR session IN"
        " (SELECT session FROM ended_sessions ORDER BY expires DESC LIMIT -1 OFFSET ?)",
        (int(time.time()), limits.ENDED_SESSIONS_MAX),
    )


def ended_sessions(read: Read) -> dict[str, int]:
    """Return the ended sessions, with the time in seconds at which each would have expired."""
    row = read.one("SELECT json_group_object(session, expires) FROM ended_sessions")
    return msgspec.json.decode(row[0], type=dict[str, int]) if row else {}


def projects(read: Read) -> list[str]:
    """Return the names of the projects that have anything stored, sorted."""
    return [
        msgspec.json.decode(name, type=str)
        for name in read.texts(
            "SELECT CAST(group_concat(json_quote(name), char(30)) AS BLOB) FROM (SELECT name FROM projects p"
            " WHERE EXISTS (SELECT 1 FROM records r WHERE r.project = p.id)"
            " OR EXISTS (SELECT 1 FROM deployments d WHERE d.project = p.id)"
            " OR EXISTS (SELECT 1 FROM experiments e WHERE e.project = p.id)"
            " OR EXISTS (SELECT 1 FROM datasets d WHERE d.project = p.id)"
            " OR EXISTS (SELECT 1 FROM api_keys k WHERE k.project = p.id) ORDER BY name)"
        )
    ]
