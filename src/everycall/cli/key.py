"""`everycall key`: keys and what they may spend, from the running server, or the store of one that does not run."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from everycall import paths
from everycall._terminal import Column, Terminal
from everycall.cli.endpoint import ask
from everycall.cli.errors import CommandFailed
from everycall.semconv import API_KEY_HEADER
from everycall.server.gateway.budgets import Budgets, shown
from everycall.server.keys import LOCAL_ID, Keyring
from everycall.server.options import DATABASE
from everycall.server.store.errors import StoreError
from everycall.server.store.sqlite import SqliteStore
from everycall.server.store.values import ApiKey, KeyLimits
from everycall.settings import Settings

__all__ = ["create_key", "list_keys", "revoke_key", "set_key"]

TIMEOUT_S = 10.0
ID_DIGITS = 8
"""Shown of a key's id: enough to name it by."""


def create_key(name: str, *, project: str, role: str, limited: Mapping[str, Any], data_dir: Path | None = None) -> int:
    """Make a key and write it to standard output, once; what it is for goes with it. Returns 0.

    `limited` has the limits that were given, named as `KeyLimits` names them. Without a data directory the server at
    EVERYCALL_ENDPOINT (or the local one) is asked; when the local one does not run, its store is written to. Raises
    `CommandFailed` or `ConfigurationError` when neither can be done.
    """

    async def locally(keyring: Keyring, budgets: Budgets) -> dict[str, Any]:
        secret, key = await keyring.add(name, project, role, KeyLimits(**limited))
        return {**shown(key, budgets), "secret": secret}

    body = {"name": name, "project": project, "role": role, **limited}
    made, where = _do(lambda server: server.ask("POST", "", body), locally, data_dir)
    screen = Terminal()
    screen.line(f"A key named {name} for the project {project}, role {role}, at {where}.")
    if limited:
        screen.line(_limits_line(made))
    screen.line("It is shown this once:")
    screen.line()
    screen.line(f"  {screen.style(made['secret'], 'bold')}")
    screen.line()
    screen.line(f"Programs take it as EVERYCALL_API_KEY, or send it as the header {API_KEY_HEADER}.")
    return 0


def list_keys(*, data_dir: Path | None = None) -> int:
    """Write a table of the keys, with what they may spend and have spent today. Returns 0; raises as `create_key`."""

    async def locally(keyring: Keyring, budgets: Budgets) -> list[dict[str, Any]]:
        return [shown(key, budgets) for key in (keyring.local, *keyring.all())]

    keys, where = _do(lambda server: server.keys(), locally, data_dir)
    screen = Terminal()
    columns = [
        Column("id"),
        Column("name", gives_way=True),
        Column("project"),
        Column("role"),
        Column("spent today", right=True),
        Column("of", right=True),
        Column("a minute", right=True),
        Column("unpriced", right=True),
    ]
    screen.table(columns, [_row(key) for key in keys])
    screen.line(f"At {where}. Spent is on completions since midnight UTC; cached ones are free. Unpriced: completions")
    screen.line("today by models without a known price, which no budget counts (refuse: they are refused).")
    return 0


def set_key(named: str, *, limited: Mapping[str, Any], data_dir: Path | None = None) -> int:
    """Change a key's limits: those given, None to take one away. Returns 0.

    `named` is a name, an id, or the first digits of one; `local` is the local key. Raises as `create_key`, and
    `CommandFailed` when there is no such key, or there are several.
    """

    async def locally(keyring: Keyring, budgets: Budgets) -> dict[str, Any]:
        key = _one([shown(key, budgets) for key in (keyring.local, *keyring.all())], named)
        before = next(one for one in (keyring.local, *keyring.all()) if one.digest == key["id"])
        return shown(await keyring.limit(key["id"], _changed(before, limited)) or before, budgets)

    def remotely(server: _Server) -> dict[str, Any]:
        return server.ask("PATCH", f"/{_one(server.keys(), named)['id']}", dict(limited))

    key, _ = _do(remotely, locally, data_dir)
    screen = Terminal()
    screen.line(f"{key['name']} ({key['id'][:ID_DIGITS]}), from its next request on: {_limits_line(key)}")
    return 0


def revoke_key(named: str, *, data_dir: Path | None = None) -> int:
    """Revoke a key for good; `named` as in `set_key`. Returns 0; raises as that."""

    async def locally(keyring: Keyring, budgets: Budgets) -> dict[str, Any]:
        key = _one([shown(key, budgets) for key in keyring.all()], named)
        await keyring.revoke(key["id"])
        return key

    def remotely(server: _Server) -> dict[str, Any]:
        return server.ask("DELETE", f"/{_one(server.keys(), named)['id']}")

    key, where = _do(remotely, locally, data_dir)
    Terminal().line(f"{key['name']} ({key['id'][:ID_DIGITS]}) is revoked at {where}, from the next request on.")
    return 0


class _NotRunning(Exception):
    """The local server does not run."""


class _Server:
    """The keys of a running server."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.address = settings.endpoint

    def keys(self) -> list[dict[str, Any]]:
        """Return the keys, the local one first where it is shown. Raises as `ask`."""
        found = self.ask("GET", "")
        return [*([found["local"]] if "local" in found else []), *found["keys"]]

    def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return what it answers. Raises `CommandFailed`, and `_NotRunning` when it is local and does not run."""
        path = f"/api/keys{path}"
        found = ask(self._settings, path, body, failed="refused this", timeout_s=TIMEOUT_S, method=method)
        if found is None:
            raise _NotRunning
        return found


def _do(
    remotely: Callable[[_Server], Any], locally: Callable[[Keyring, Budgets], Awaitable[Any]], data_dir: Path | None
) -> tuple[Any, str]:
    """Do it at the server, or in the store that is named or whose server does not run; return the answer and where."""
    server = _Server(Settings.build())
    if data_dir is None:
        try:
            return remotely(server), server.address
        except _NotRunning:
            pass
        except KeyError as error:
            raise CommandFailed(f"{server.address} does not answer as a server of everycall does: {error}") from None
    directory = (data_dir or paths.data_dir()).expanduser().absolute()
    return asyncio.run(_in_store(directory, locally)), f"the server on {directory}"


async def _in_store(directory: Path, work: Callable[[Keyring, Budgets], Awaitable[Any]]) -> Any:
    store = SqliteStore(directory / DATABASE)
    try:
        await store.open()
    except StoreError as error:
        raise CommandFailed(f"cannot use the keys in {directory}: {error}") from error
    try:
        keyring, budgets = Keyring(store, ""), Budgets(store)
        await keyring.load()
        await budgets.load()
        return await work(keyring, budgets)
    finally:
        await store.close()


def _one(keys: list[dict[str, Any]], named: str) -> dict[str, Any]:
    """Return the key with this name or id, of those that are not revoked."""
    living = [key for key in keys if key["revoked_unix_nano"] is None]
    found = [key for key in living if key["name"] == named] or [
        key for key in living if len(named) >= 8 and key["id"].startswith(named.lower())
    ]
    if len(found) == 1:
        return found[0]
    if not found:
        raise CommandFailed(f"there is no key named {named!r}: `everycall key list` shows those there are")
    ids = ", ".join(key["id"][:ID_DIGITS] for key in found)
    raise CommandFailed(f"{len(found)} keys are named {named!r}: give one of the ids {ids}")


def _changed(key: ApiKey, limited: Mapping[str, Any]) -> KeyLimits:
    kept = key.limits
    return KeyLimits(
        limited.get("budget_usd_per_day", kept.budget_usd_per_day),
        limited.get("requests_per_minute", kept.requests_per_minute),
        limited.get("unpriced", kept.unpriced),
    )


def _row(key: Mapping[str, Any]) -> list[str | None]:
    budget, rate = key["budget_usd_per_day"], key["requests_per_minute"]
    revoked = key["revoked_unix_nano"] is not None
    unpriced = "refuse" if budget is not None and key["unpriced"] == "refuse" else str(key["unpriced_today"])
    return [
        key["id"][:ID_DIGITS],
        key["name"],
        "(all)" if key["id"] == LOCAL_ID else key["project"],
        "revoked" if revoked else key["role"],
        f"${key['spent_usd_today']:.4f}",
        None if budget is None else f"${budget:g}",
        None if rate is None else str(rate),
        unpriced,
    ]


def _limits_line(key: Mapping[str, Any]) -> str:
    budget, rate = key["budget_usd_per_day"], key["requests_per_minute"]
    words = [
        "no budget" if budget is None else f"${budget:g} a day, of which ${key['spent_usd_today']:.4f} is spent",
        "no rate limit" if rate is None else f"{rate} completions a minute",
    ]
    if budget is not None:
        words.append(f"models without a known price are {'allowed' if key['unpriced'] == 'allow' else 'refused'}")
    return "; ".join(words) + "."
