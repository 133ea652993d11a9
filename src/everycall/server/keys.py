"""Keys: the local one in its file, and the projects' own in the store. The guard asks it who a secret is.

A key is `ek_` and 256 random bits. What is stored is its SHA-256: with that much entropy a slow hash adds nothing, and
each request can afford to check.
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
"""What a key may do, each including those before it: read records; write records and run completions; manage."""

UNPRICED = ("allow", "refuse")
"""What a key with a budget may do with models without a known price."""
LOCAL_ID = "local"
"""Stands for the local key in the store, which has its limits and its spending but not the key: no SHA-256 is this."""
SECRET_BYTES = 32


@dataclass(frozen=True, slots=True)
class Identity:
    """Who asks. `project` None is every project: the local key, and a login that comes from it.

    `key` is the one whose limits hold, and which pays.
    """

    project: str | None
    role: str
    name: str
    key: ApiKey | None = field(default=None, compare=False, repr=False)


def digest(secret: str) -> str:
    """Return the SHA-256 of a secret, as 64 hex digits."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def create_key(name: str, project: str, role: str, limited: KeyLimits = NO_LIMITS) -> tuple[str, ApiKey]:
    """Make a key for one project; return the secret, which is shown once and kept nowhere, and what to store.

    Raises `ConfigurationError` for a role that does not exist, an empty or overlong name, or limits that cannot be.
    """
    check_limits(limited)
    if role not in ROLES:
        raise ConfigurationError(f"{role!r} is not a role: give {', '.join(ROLES)}")
    for what, text in (("name", name), ("project", project)):
        if not 0 < len(text) <= 256:
            raise ConfigurationError(f"the key's {what} must have 1 to 256 characters")
    secret = "ek_" + secrets.token_urlsafe(SECRET_BYTES)
    return secret, ApiKey(digest(secret), name, project, role, time.time_ns(), limits=limited)


def check_limits(limited: KeyLimits) -> None:
    """Raise `ConfigurationError` for a key's limits that cannot be."""
    budget, rate = limited.budget_usd_per_day, limited.requests_per_minute
    if budget is not None and not 0 <= budget < math.inf:
        raise ConfigurationError(f"a budget is a number of US dollars a day, 0 or more, not {budget!r}")
    if rate is not None and not 0 < rate <= limits.REQUESTS_PER_MINUTE_MAX:
        raise ConfigurationError(f"requests per minute are 1 to {limits.REQUESTS_PER_MINUTE_MAX}, not {rate!r}")
    if limited.unpriced not in UNPRICED:
        raise ConfigurationError(f"unpriced may be {' or '.join(UNPRICED)}, not {limited.unpriced!r}")


def new_local(limited: KeyLimits = NO_LIMITS) -> ApiKey:
    """Return what the store keeps for the local key, of which it never has the secret nor its digest."""
    return ApiKey(LOCAL_ID, LOCAL_ID, DEFAULT_PROJECT, "admin", 0, limits=limited)


def local_key(path: Path) -> str:
    """Return the key in the file, which is made with a fresh one (mode 0600, its folder 0700) when there is none.

    Several processes may ask at once: all get the same key, since the file appears whole and only once. A file that
    others may read is closed to them. Raises `ConfigurationError` when the file cannot be used.
    """
    try:
        found = _read(path)
        if found is None:
            _make(path)
            found = _read(path)
    except OSError as error:
        raise ConfigurationError(f"cannot keep the local key in {path}: {error.strerror or error}") from error
    if not found or len(found) < 16 or not found.isascii() or not found.isprintable():
        raise ConfigurationError(f"{path} does not hold a key: delete it and a new one will be made")
    return found


def _read(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                os.fchmod(file.fileno(), 0o600)
            return file.read(4096).decode("utf-8", "replace").strip()
    except FileNotFoundError:
        return None


def _make(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.suppress(PermissionError):  # somebody else's folder, lent to us: the file itself stays closed
        path.parent.chmod(0o700)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(f"ek_{secrets.token_urlsafe(SECRET_BYTES)}\n".encode())
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)  # unlike a rename, never replaces the key another process made meanwhile
        except FileExistsError:
            return
    finally:
        draft.unlink()


class Keyring:
    """All keys in memory, by digest: read from the store once, changed here and in the store together.

    A key added or revoked through this object counts from the next request on. One that another process writes to the
    same database counts after a restart.
    """

    def __init__(self, store: Store, local_secret: str) -> None:
        self._store = store
        self.local_digest = digest(local_secret)
        self.local = new_local()
        """The local key's limits; those of everybody when the server asks for no key."""
        self._keys: dict[str, ApiKey] = {}

    async def load(self) -> None:
        """Read all keys from the store."""
        self._keys = {key.digest: key for key in await self._store.keys()}
        self.local = self._keys.pop(LOCAL_ID, self.local)

    def identify(self, secret: str) -> tuple[Identity, str] | None:
        """Return who a secret is and its digest, or None."""
        found = digest(secret)
        identity = self.by_digest(found)
        return None if identity is None else (identity, found)

    def by_digest(self, found: str) -> Identity | None:
        """Return who a digest is; None when there is no such key or it was revoked."""
        if hmac.compare_digest(found.encode(), self.local_digest.encode()):
            return Identity(project=None, role="admin", name="local", key=self.local)
        key = self._keys.get(found)
        if key is None or key.revoked_unix_nano is not None or not hmac.compare_digest(key.digest, found):
            return None
        return Identity(key.project_name, key.role, key.name, key)

    def all(self) -> list[ApiKey]:
        """Return all keys, revoked ones included, oldest first."""
        return sorted(self._keys.values(), key=lambda key: (key.created_unix_nano, key.digest))

    async def add(self, name: str, project: str, role: str, limited: KeyLimits = NO_LIMITS) -> tuple[str, ApiKey]:
        """Make and store a key; see `create_key`."""
        secret, key = create_key(name, project, role, limited)
        await self._store.put_key(key)
        self._keys[key.digest] = key
        return secret, key

    async def limit(self, found: str, limited: KeyLimits) -> ApiKey | None:
        """Give a key, or the local one (`LOCAL_ID`), other limits, from the next request on. None: no such key.

        Raises `ConfigurationError` for limits that cannot be.
        """
        check_limits(limited)
        key = self.local if found == LOCAL_ID else self._keys.get(found)
        if key is None:
            return None
        key = replace(key, limits=limited)
        if found == LOCAL_ID:
            self.local = key
        else:
            self._keys[found] = key  # before the store: a revocation meanwhile must find it here
        await self._store.put_key(key)
        return key

    async def revoke(self, found: str) -> ApiKey | None:
        """Revoke a key for good; it is refused from this moment, even if the store then fails. None: no such key."""
        key = self._keys.get(found)
        if key is None:
            return None
        if key.revoked_unix_nano is None:
            key = replace(key, revoked_unix_nano=time.time_ns())
            self._keys[found] = key
            await self._store.put_key(key)
        return key
