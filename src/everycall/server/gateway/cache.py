"""The response cache: what counts as the same request, and one provider call for identical concurrent ones.

Key: SHA-256 over the project, the provider with its address, and everything that shapes the answer (model, parameters,
filled messages, functions); names, tags, metadata, users and log flags are not in it. A project never sees another
project's answers. Errors are never kept. With any `log_omit*` flag nothing is written, because the answer and
(hashed) the prompt would rest in the store although they were to be left out; with `log_omit` nothing is read either,
so that not even the time of an entry's last use tells that the call took place.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeAlias

import msgspec

from everycall import limits
from everycall.server.gateway.provider_request import ProviderRequest
from everycall.server.gateway.provider_response import ProviderResponse
from everycall.server.problems import ProblemError
from everycall.server.provider_settings import ProviderSettings
from everycall.server.store.base import Store
from everycall.server.store.errors import StoreError

__all__ = ["CacheUse", "FlightKey", "ResponseCache", "cache_key", "flight_key"]

logger = logging.getLogger("everycall.server.gateway")

_decoder = msgspec.json.Decoder(ProviderResponse)


@dataclass(frozen=True, slots=True)
class CacheUse:
    """What one request may do with the cache."""

    read: bool
    write: bool


def cache_key(project: str, settings: ProviderSettings, asked: ProviderRequest) -> str:
    """Return the key of a request, 64 hex digits."""
    parts = [
        "everycall/1",
        project,
        settings.name,
        settings.kind,
        settings.base_url,
        settings.api_version,
        asked.as_json(),
    ]
    return hashlib.sha256(msgspec.json.encode(parts, order="deterministic")).hexdigest()


FlightKey: TypeAlias = tuple[str, str, str | None]


def flight_key(project: str, key: str, caller_key: str | None) -> FlightKey:
    """Return what identical requests under way have in common, the key they are paid with included (hashed)."""
    return project, key, hashlib.sha256(caller_key.encode()).hexdigest() if caller_key else None


class ResponseCache:
    """Stored answers, and the calls under way. For the tasks of one event loop."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._flights: dict[FlightKey, asyncio.Task[tuple[ProviderResponse, bool]]] = {}

    async def answer(
        self,
        project: str,
        key: str,
        use: CacheUse,
        caller_key: str | None,
        ask: Callable[[], Awaitable[ProviderResponse]],
    ) -> tuple[ProviderResponse, bool]:
        """Return an answer and whether it is a hit: from the store, from an identical call under way, or asked now.

        A call under way with another `caller_key` is not joined: its failure would not be ours. What `ask` raises is
        raised to all who wait for it, but for a `ProblemError`: that says that this caller may not ask, and the next
        of those who wait asks for itself.
        """
        if not use.write:
            return await self._find_or_ask(project, key, use, ask)
        flight = flight_key(project, key, caller_key)
        while (shared := self._flights.get(flight)) is not None:
            try:
                answer, _ = await asyncio.shield(shared)
            except ProblemError:
                continue
            return answer, True
        # A task of its own: one caller that gives up does not take the answer from the others.
        task = asyncio.create_task(self._find_or_ask(project, key, use, ask))
        self._flights[flight] = task
        task.add_done_callback(lambda _: self._flights.pop(flight, None))
        return await asyncio.shield(task)

    async def _find_or_ask(
        self, project: str, key: str, use: CacheUse, ask: Callable[[], Awaitable[ProviderResponse]]
    ) -> tuple[ProviderResponse, bool]:
        if use.read and (found := await self.find(project, key)) is not None:
            return found, True
        answer = await ask()
        if use.write:
            await self.keep(project, key, answer)
        return answer, False

    async def keep(self, project: str, key: str, answer: ProviderResponse) -> None:
        """Store an answer; when that cannot be done, the cache is without it."""
        try:
            await self._store.cache(project, key, msgspec.json.encode(answer))
        except StoreError as error:
            logger.warning("a response was not kept in the cache: %s", error)

    async def find(self, project: str, key: str) -> ProviderResponse | None:
        """Return a stored answer, or None."""
        try:
            found = await self._store.cached(project, key, limits.CACHE_AGE_MAX_S)
            return None if found is None else _decoder.decode(found.body)
        except (StoreError, msgspec.DecodeError) as error:  # a cache that cannot be read is a cache without the answer
            logger.warning("the response cache could not be read: %s", error)
            return None
