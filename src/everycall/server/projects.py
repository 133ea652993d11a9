"""Projects by the UUIDs that Parea's clients use, and the order of updates to one log. The routes of `api` use it."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from everycall import semconv
from everycall.server.store.base import Store

__all__ = ["Projects"]

NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "urn:everycall:project")
_UUID_CHARS = 36


class Projects:
    """Projects as Parea's clients know them. One instance per app.

    A project's UUID is derived from its name, so it is the same on every server. A project exists in the store from
    its first record on; one that a client only created is remembered by this process alone.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._since = datetime.now(UTC)
        self._created: dict[str, datetime] = {}
        self._turns: dict[tuple[str, str], tuple[asyncio.Lock, int]] = {}

    @asynccontextmanager
    async def turn(self, project: str, inference_id: str) -> AsyncIterator[None]:
        """Let one request at a time read, merge and write the attributes of one log."""
        key = project, inference_id
        lock, waiting = self._turns.get(key, (asyncio.Lock(), 0))
        self._turns[key] = lock, waiting + 1
        try:
            async with lock:
                yield
        finally:
            lock, waiting = self._turns.pop(key)
            if waiting > 1:
                self._turns[key] = lock, waiting - 1

    @staticmethod
    def uuid(name: str) -> str:
        """Return the UUID of the project with this name."""
        return str(uuid.uuid5(NAMESPACE, name))

    async def register(self, name: str) -> tuple[datetime, bool]:
        """Return the creation time of a project as this process knows it, and whether this call created it."""
        if name not in self._created:
            is_new = name not in await self._store.projects()
            self._created[name] = datetime.now(UTC) if is_new else self._since
            return self._created[name], is_new
        return self._created[name], False

    async def name_of(self, identifier: str) -> str:
        """Return the name of the project with this name or UUID.

        If there is none, return the identifier itself: records sent to an unknown project are stored under it.
        """
        if len(identifier) != _UUID_CHARS:
            return identifier  # a name, which saves asking the store
        for name in (semconv.DEFAULT_PROJECT, *self._created, *await self._store.projects()):
            if identifier in (name, self.uuid(name)):
                return name
        return identifier
