"""`everycall key create`: asks the running server for a key, or writes it into the store of one that is not running."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from pathlib import Path

from everycall import locations
from everycall.cli.commands import CommandFailed
from everycall.cli.terminal import Terminal
from everycall.semconv import API_KEY_HEADER
from everycall.server.keys import create_key as make_key
from everycall.server.running import DATABASE
from everycall.server.store.base import ApiKey, StoreError
from everycall.server.store.sqlite import SqliteStore
from everycall.settings import Settings

__all__ = ["create_key"]

TIMEOUT_S = 10.0


def create_key(name: str, *, project: str, role: str, data_dir: Path | None = None) -> int:
    """Make a key and write it to standard output, once; what it is for goes with it. Returns 0.

    Without a data directory the server at EVERYCALL_ENDPOINT (or the local one) is asked; when the local one does not
    run, its store is written to. Raises `CommandFailed` or `ConfigurationError` when neither can be done.
    """
    screen = Terminal()
    settings = Settings.build()
    secret = None if data_dir is not None else _from_server(settings, name, project, role)
    where = settings.endpoint
    if secret is None:
        directory = (data_dir or locations.data_dir()).expanduser().absolute()
        secret, key = make_key(name, project, role)
        asyncio.run(_store(directory, key))
        where = f"the server on {directory}"
    screen.line(f"A key named {name} for the project {project}, role {role}, at {where}.")
    screen.line("It is shown this once:")
    screen.line()
    screen.line(f"  {screen.style(secret, 'bold')}")
    screen.line()
    screen.line(f"Programs take it as EVERYCALL_API_KEY, or send it as the header {API_KEY_HEADER}.")
    return 0


def _from_server(settings: Settings, name: str, project: str, role: str) -> str | None:
    """Ask the server; None when it is the local one and does not run."""
    body = json.dumps({"name": name, "project": project, "role": role}).encode()
    headers = {"content-type": "application/json"}
    key = settings.key()
    if key is not None:
        headers[API_KEY_HEADER] = key
    request = urllib.request.Request(f"{settings.endpoint}/api/keys", body, headers)  # noqa: S310 - http(s), checked
    proxies = urllib.request.ProxyHandler({} if settings.on_loopback else None)
    try:
        with urllib.request.build_opener(proxies).open(request, timeout=TIMEOUT_S) as answer:
            return str(json.load(answer)["secret"])
    except urllib.error.HTTPError as error:
        with error:
            raise CommandFailed(f"{settings.endpoint} made no key: {_detail(error)}") from None
    except urllib.error.URLError as error:
        if settings.on_loopback and isinstance(error.reason, ConnectionRefusedError):
            return None
        raise CommandFailed(
            f"{settings.endpoint} does not answer: {error.reason}. Is EVERYCALL_ENDPOINT right?"
        ) from None
    except (ValueError, KeyError, OSError) as error:
        raise CommandFailed(f"{settings.endpoint} does not answer as a server of everycall does: {error}") from None


def _detail(error: urllib.error.HTTPError) -> str:
    try:
        return f"{error.code}: {json.load(error)['detail']}"
    except (ValueError, KeyError, TypeError):
        return f"it answered {error.code}"


async def _store(directory: Path, key: ApiKey) -> None:
    store = SqliteStore(directory / DATABASE)
    try:
        await store.open()
    except StoreError as error:
        raise CommandFailed(f"cannot write a key into {directory}: {error}") from error
    try:
        await store.put_key(key)
    finally:
        await store.close()
