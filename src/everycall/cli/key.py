"""`everycall key`: create, list, change and revoke API keys, and limit what they spend.

The commands ask the running server. If the local server is not running, or `--data` names a data directory, they open
the database themselves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from everycall import paths
from everycall._terminal import Column, Terminal
from everycall.cli.endpoint import request
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
"""How many digits of a key's id are shown: enough to tell keys apart."""


def create_key(name: str, *, project: str, role: str, limits: Mapping[str, Any], data_dir: Path | None = None) -> int:
    """Create a key, write it to standard output, and return 0.

    `limits` has the limits of the key, named as in `KeyLimits`. Raise `CommandFailed` or `ConfigurationError` if
    neither the server nor the database can be used.
    """

    async def in_store(keyring: Keyring, budgets: Budgets) -> dict[str, Any]:
        secret, key = await keyring.add(name, project, role, KeyLimits(**limits))
        return {**shown(key, budgets), "secret": secret}

    body = {"name": name, "project": project, "role": role, **limits}
    key, place = _run(lambda server: server.request("POST", "", body), in_store, data_dir)
    screen = Terminal()
    screen.line(f"Created the key {name} for the project {project}, role {role}, {place}.")
    if limits:
        screen.line(_limits_line(key))
    screen.line("It is shown only now:")
    screen.line()
    screen.line(f"  {screen.style(key['secret'], 'bold')}")
    screen.line()
    screen.line(f"Set it as EVERYCALL_API_KEY, or send it in the header {API_KEY_HEADER}.")
    return 0


def list_keys(*, data_dir: Path | None = None) -> int:
    """Write a table of the keys with their limits and what they spent today, and return 0. Raise as `create_key`."""

    async def in_store(keyring: Keyring, budgets: Budgets) -> list[dict[str, Any]]:
        return [shown(key, budgets) for key in (keyring.local, *keyring.all())]

    keys, place = _run(lambda server: server.keys(), in_store, data_dir)
    screen = Terminal()
    columns = [
        Column("id"),
        Column("name", shrinks=True),
        Column("project"),
        Column("role"),
        Column("spent today", right=True),
        Column("of", right=True),
        Column("a minute", right=True),
        Column("unpriced", right=True),
    ]
    screen.table(columns, [_row(key) for key in keys])
    screen.line(f"These are the keys {place}. Spending counts completions since midnight UTC; cached ones are free.")
    screen.line("Unpriced: completions today by models without a known price, which no budget counts, or `refuse`.")
    return 0


def set_key(name_or_id: str, *, limits: Mapping[str, Any], data_dir: Path | None = None) -> int:
    """Change limits of a key and return 0. A limit of None is removed; limits that are not named stay.

    `name_or_id` is a name, an id, or the first digits of an id; `local` is the local key. Raise as `create_key`, and
    `CommandFailed` if no key or several keys match.
    """

    async def in_store(keyring: Keyring, budgets: Budgets) -> dict[str, Any]:
        keys = (keyring.local, *keyring.all())
        key_view = _find([shown(key, budgets) for key in keys], name_or_id)
        key = next(key for key in keys if key.digest == key_view["id"])
        return shown(await keyring.limit(key.digest, _merged(key, limits)) or key, budgets)

    def at_server(server: _Server) -> dict[str, Any]:
        return server.request("PATCH", f"/{_find(server.keys(), name_or_id)['id']}", dict(limits))

    key, _ = _run(at_server, in_store, data_dir)
    Terminal().line(f"{key['name']} ({key['id'][:ID_DIGITS]}), from its next request on: {_limits_line(key)}")
    return 0


def revoke_key(name_or_id: str, *, data_dir: Path | None = None) -> int:
    """Revoke a key for good and return 0. `name_or_id` is as in `set_key`, and so are the errors."""

    async def in_store(keyring: Keyring, budgets: Budgets) -> dict[str, Any]:
        key = _find([shown(key, budgets) for key in keyring.all()], name_or_id)
        await keyring.revoke(key["id"])
        return key

    def at_server(server: _Server) -> dict[str, Any]:
        return server.request("DELETE", f"/{_find(server.keys(), name_or_id)['id']}")

    key, place = _run(at_server, in_store, data_dir)
    Terminal().line(f"Revoked the key {key['name']} ({key['id'][:ID_DIGITS]}) {place}. Its next request is refused.")
    return 0


class _NotRunning(Exception):
    """The local server is not running."""


class _Server:
    """The keys of a running server, over its API."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.address = settings.endpoint

    def keys(self) -> list[dict[str, Any]]:
        """Return the keys, with the local key first if the server shows it. Raise as `request`."""
        answer = self.request("GET", "")
        local_keys = [answer["local"]] if "local" in answer else []
        return [*local_keys, *answer["keys"]]

    def request(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return the server's answer. Raise `CommandFailed`, or `_NotRunning` if the local server is not running."""
        answer = request(
            self._settings, f"/api/keys{path}", body, failure="refused this", timeout_s=TIMEOUT_S, method=method
        )
        if answer is None:
            raise _NotRunning
        return answer


def _run(
    at_server: Callable[[_Server], Any], in_store: Callable[[Keyring, Budgets], Awaitable[Any]], data_dir: Path | None
) -> tuple[Any, str]:
    """Run an action at the server, or in the store if the server is not running; return the result and the place."""
    server = _Server(Settings.build())
    if data_dir is None:
        try:
            return at_server(server), f"at {server.address}"
        except _NotRunning:
            pass
        except KeyError as error:
            raise CommandFailed(f"{server.address} answers without {error}: is it an everycall server?") from None
    directory = (data_dir or paths.data_dir()).expanduser().absolute()
    return asyncio.run(_in_store(directory, in_store)), f"in {directory} (its server is not running)"


async def _in_store(directory: Path, action: Callable[[Keyring, Budgets], Awaitable[Any]]) -> Any:
    store = SqliteStore(directory / DATABASE)
    try:
        await store.open()
    except StoreError as error:
        raise CommandFailed(f"cannot use the keys in {directory}: {error}") from error
    try:
        keyring, budgets = Keyring(store, ""), Budgets(store)
        await keyring.load()
        await budgets.load()
        return await action(keyring, budgets)
    finally:
        await store.close()


def _find(keys: list[dict[str, Any]], name_or_id: str) -> dict[str, Any]:
    """Return the key with this name or id, of those that are not revoked."""
    active = [key for key in keys if key["revoked_unix_nano"] is None]
    matches = [key for key in active if key["name"] == name_or_id]
    if not matches and len(name_or_id) >= ID_DIGITS:
        matches = [key for key in active if key["id"].startswith(name_or_id.lower())]
    if len(matches) == 1:
        return matches[0]
    if not matches:
        raise CommandFailed(f"there is no key named {name_or_id!r}: `everycall key list` lists the keys")
    ids = ", ".join(key["id"][:ID_DIGITS] for key in matches)
    raise CommandFailed(f"{len(matches)} keys are named {name_or_id!r}: use one of the ids {ids}")


def _merged(key: ApiKey, limits: Mapping[str, Any]) -> KeyLimits:
    current = key.limits
    return KeyLimits(
        limits.get("budget_usd_per_day", current.budget_usd_per_day),
        limits.get("requests_per_minute", current.requests_per_minute),
        limits.get("unpriced", current.unpriced),
    )


def _row(key: Mapping[str, Any]) -> list[str | None]:
    budget, rate = key["budget_usd_per_day"], key["requests_per_minute"]
    refuses_unpriced = budget is not None and key["unpriced"] == "refuse"
    return [
        key["id"][:ID_DIGITS],
        key["name"],
        "(all)" if key["id"] == LOCAL_ID else key["project"],
        key["role"] if key["revoked_unix_nano"] is None else "revoked",
        f"${key['spent_usd_today']:.4f}",
        None if budget is None else f"${budget:g}",
        None if rate is None else str(rate),
        "refuse" if refuses_unpriced else str(key["unpriced_today"]),
    ]


def _limits_line(key: Mapping[str, Any]) -> str:
    budget, rate = key["budget_usd_per_day"], key["requests_per_minute"]
    parts = [
        "no budget" if budget is None else f"${budget:g} a day, ${key['spent_usd_today']:.4f} of it spent today",
        "no rate limit" if rate is None else f"{rate} completions a minute",
    ]
    if budget is not None:
        parts.append(f"models without a known price are {'allowed' if key['unpriced'] == 'allow' else 'refused'}")
    return "; ".join(parts) + "."
