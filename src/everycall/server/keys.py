"""API keys: the local key in its file, and the keys of projects in the store. `auth` identifies secrets with it.

A key is `ek_` followed by 256 random bits. The store has its SHA-256 only: with that much entropy a slow hash adds
nothing, and a fast one can be computed for each request.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import math
import os
import secrets
import stat
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from everycall import limits
from everycall.errors import ConfigurationError
from everycall.semconv import DEFAULT_PROJECT
from everycall.server.store.base import Store
from everycall.server.store.values import NO_LIMITS, ApiKey, KeyLimits

__all__ = [
    "LOCAL_ID",
    "ROLES",
    "UNPRICED",
    "Identity",
    "Keyring",
    "Role",
    "check_limits",
    "create_key",
    "digest",
    "local_key",
    "new_local",
]

Role = Literal["read", "write", "admin"]
ROLES: tuple[Role, ...] = ("read", "write", "admin")
"""Roles of keys. Each includes those before it: read records; write records and run completions; administrate."""

UNPRICED = ("allow", "refuse")
"""Whether a key with a budget may use models without a known price."""
LOCAL_ID = "local"
"""The local key's name and digest in the store, which has its limits and spending but not its secret."""
SECRET_BYTES = 32


@dataclass(frozen=True, slots=True)
class Identity:
    """Who sends a request. `project` None is every project: the local key, and sessions that logged in with it.

    `key` is the key whose limits apply and whose spending is counted.
    """

    project: str | None
    role: str
    name: str
    key: ApiKey | None = field(default=None, compare=False, repr=False)


def digest(secret: str) -> str:
    """Return the SHA-256 of a secret, as 64 hex digits."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def create_key(name: str, project: str, role: str, key_limits: KeyLimits = NO_LIMITS) -> tuple[str, ApiKey]:
    """Create a key for one project; return its secret, which is shown once and never stored, and the key to store.

    Raise `ConfigurationError` for an unknown role, an empty or too long name, or invalid limits.
    """
    check_limits(key_limits)
    if role not in ROLES:
        raise ConfigurationError(f"unknown role {role!r}: use one of {', '.join(ROLES)}")
    for what, text in (("name", name), ("project", project)):
        if not 0 < len(text) <= 256:
            raise ConfigurationError(f"the key's {what} must have 1 to 256 characters")
    secret = "ek_" + secrets.token_urlsafe(SECRET_BYTES)
    return secret, ApiKey(digest(secret), name, project, role, time.time_ns(), limits=key_limits)


def check_limits(key_limits: KeyLimits) -> None:
    """Raise `ConfigurationError` if a key cannot have these limits."""
    budget, rate = key_limits.budget_usd_per_day, key_limits.requests_per_minute
    if budget is not None and not 0 <= budget < math.inf:
        raise ConfigurationError(f"a budget must be a number of US dollars a day, 0 or more, not {budget!r}")
    if rate is not None and not 0 < rate <= limits.REQUESTS_PER_MINUTE_MAX:
        raise ConfigurationError(
            f"requests per minute must be from 1 to {limits.REQUESTS_PER_MINUTE_MAX}, not {rate!r}"
        )
    if key_limits.unpriced not in UNPRICED:
        raise ConfigurationError(f"unpriced must be {' or '.join(UNPRICED)}, not {key_limits.unpriced!r}")


def new_local(key_limits: KeyLimits = NO_LIMITS) -> ApiKey:
    """Return the local key as stored: without its secret, and without the digest of its secret."""
    return ApiKey(LOCAL_ID, LOCAL_ID, DEFAULT_PROJECT, "admin", 0, limits=key_limits)


def local_key(path: Path) -> str:
    """Return the local key from its file. Create the file (mode 0600, its directory 0700) if it does not exist.

    Processes that start at the same time get the same key: the file is created complete, and only once. If others may
    read the file, its mode is changed to 0600. Raise `ConfigurationError` if the file cannot be used.
    """
    try:
        key = _read(path)
        if key is None:
            _create(path)
            key = _read(path)
    except OSError as error:
        raise ConfigurationError(f"cannot store the local key in {path}: {error.strerror or error}") from error
    if not key or len(key) < 16 or not key.isascii() or not key.isprintable():
        raise ConfigurationError(f"{path} does not contain a key: delete it, and the next start creates a new one")
    return key


def _read(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                os.fchmod(file.fileno(), 0o600)
            return file.read(4096).decode("utf-8", "replace").strip()
    except FileNotFoundError:
        return None


def _create(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.suppress(PermissionError):  # a directory of another user; the file itself is private
        path.parent.chmod(0o700)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(f"ek_{secrets.token_urlsafe(SECRET_BYTES)}\n".encode())
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)  # unlike a rename, it never replaces a key that another process has created
        except FileExistsError:
            return
    finally:
        draft.unlink()


class Keyring:
    """All keys in memory, by digest. They are loaded once; changes are made here and in the store.

    A key added or revoked through this object is in effect from the next request on. Changes that another process makes
    in the database take effect after a restart.
    """

    def __init__(self, store: Store, local_secret: str) -> None:
        self._store = store
        self.local_digest = digest(local_secret)
        self.local = new_local()
        """The local key with its limits. Without authentication, they apply to everybody."""
        self._keys: dict[str, ApiKey] = {}

    async def load(self) -> None:
        """Load all keys from the store."""
        self._keys = {key.digest: key for key in await self._store.keys()}
        self.local = self._keys.pop(LOCAL_ID, self.local)

    def identify(self, secret: str) -> tuple[Identity, str] | None:
        """Return the identity and the digest of a secret, or None if the key is unknown or revoked."""
        key_digest = digest(secret)
        identity = self.by_digest(key_digest)
        return None if identity is None else (identity, key_digest)

    def by_digest(self, key_digest: str) -> Identity | None:
        """Return the identity of the key with this digest, or None if the key is unknown or revoked."""
        if hmac.compare_digest(key_digest.encode(), self.local_digest.encode()):
            return Identity(project=None, role="admin", name="local", key=self.local)
        key = self._keys.get(key_digest)
        if key is None or key.revoked_unix_nano is not None or not hmac.compare_digest(key.digest, key_digest):
            return None
        return Identity(key.project_name, key.role, key.name, key)

    def all(self) -> list[ApiKey]:
        """Return all keys but the local one, including revoked ones, the oldest first."""
        return sorted(self._keys.values(), key=lambda key: (key.created_unix_nano, key.digest))

    async def add(self, name: str, project: str, role: str, key_limits: KeyLimits = NO_LIMITS) -> tuple[str, ApiKey]:
        """Create and store a key, as `create_key` does."""
        secret, key = create_key(name, project, role, key_limits)
        await self._store.put_key(key)
        self._keys[key.digest] = key
        return secret, key

    async def limit(self, key_digest: str, key_limits: KeyLimits) -> ApiKey | None:
        """Set the limits of a key, or of the local one (`LOCAL_ID`), and return it; None if there is no such key.

        They apply from the next request on. Raise `ConfigurationError` for invalid limits.
        """
        check_limits(key_limits)
        key = self.local if key_digest == LOCAL_ID else self._keys.get(key_digest)
        if key is None:
            return None
        key = replace(key, limits=key_limits)
        if key_digest == LOCAL_ID:
            self.local = key
        else:
            self._keys[key_digest] = key  # before storing it: a concurrent revocation must see it
        await self._store.put_key(key)
        return key

    async def revoke(self, key_digest: str) -> ApiKey | None:
        """Revoke a key and return it; None if there is no such key. Refused at once, even if storing it fails."""
        key = self._keys.get(key_digest)
        if key is None:
            return None
        if key.revoked_unix_nano is None:
            key = replace(key, revoked_unix_nano=time.time_ns())
            self._keys[key_digest] = key
            await self._store.put_key(key)
        return key
