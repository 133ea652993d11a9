"""The response cache: which requests count as the same, and the stored responses. Called by `executor.py`.

The key is a SHA-256 of the project, the provider with its address, and everything that shapes the answer (model,
parameters, filled messages, functions), but not names, tags, metadata, users and log flags. A project never sees the
responses of another one. Errors are not stored. With any `log_omit*` flag nothing is written, because the response and
the hashed prompt would stay in the store although they are to be left out. With `log_omit` nothing is read either, so
that not even the time of an entry's last use shows that the call took place.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass

import msgspec

from everycall import limits
from everycall.server.gateway.provider_request import ProviderRequest
from everycall.server.gateway.provider_response import ProviderResponse
from everycall.server.gateway.request import CompletionRequest
from everycall.server.provider_settings import ProviderSettings
from everycall.server.store.base import Store
from everycall.server.store.errors import StoreError

__all__ = ["CacheUse", "ResponseCache", "cache_key"]

logger = logging.getLogger("everycall.server.gateway")

_decoder = msgspec.json.Decoder(ProviderResponse)


@dataclass(frozen=True, slots=True)
class CacheUse:
    """What one request may do with the cache."""

    read: bool
    write: bool

    @classmethod
    def of(cls, request: CompletionRequest) -> CacheUse:
        """Return what a request may do, according to its `cache` and its log flags."""
        if request.cache is False:
            return cls(read=False, write=False)
        omits = bool(request.log_omit or request.log_omit_inputs or request.log_omit_outputs)
        return cls(read=not request.log_omit, write=not omits)


def cache_key(project: str, settings: ProviderSettings, request: ProviderRequest) -> str:
    """Return the key of a request, 64 hex digits."""
    parts = [
        "everycall/2",
        project,
        settings.name,
        settings.kind,
        settings.base_url,
        settings.api_version,
        request.as_json(),
    ]
    return hashlib.sha256(msgspec.json.encode(parts, order="deterministic")).hexdigest()


class ResponseCache:
    """The stored responses. If the store cannot be used, it is a cache without responses."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def find(self, project: str, key: str) -> ProviderResponse | None:
        """Return a stored response, or None."""
        try:
            entry = await self._store.cached(project, key, limits.CACHE_AGE_MAX_S)
            return None if entry is None else _decoder.decode(entry.body)
        except (StoreError, msgspec.DecodeError) as error:
            logger.warning("the response cache could not be read: %s", error)
            return None

    async def keep(self, project: str, key: str, response: ProviderResponse) -> None:
        """Store a response."""
        try:
            await self._store.cache(project, key, msgspec.json.encode(response))
        except StoreError as error:
            logger.warning("a response was not kept in the cache: %s", error)
