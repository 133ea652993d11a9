"""Keys with their limits and spending, and cached responses."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "NO_LIMITS",
    "ApiKey",
    "CachedResponse",
    "Expense",
    "KeyLimits",
    "Spent",
]


@dataclass(frozen=True, slots=True)
class CachedResponse:
    """A provider's response, stored for reuse. `body` is JSON. It never contains omitted content."""

    body: bytes
    created_unix_nano: int


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """The limits of a key for completions; None is no limit.

    `unpriced` tells what to do with models without a known price under a budget: "allow" (count them separately) or
    "refuse".
    """

    budget_usd_per_day: float | None = None
    requests_per_minute: int | None = None
    unpriced: str = "allow"


NO_LIMITS = KeyLimits()


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as stored, with its SHA-256 instead of its secret. `role` is "read", "write" or "admin"."""

    digest: str
    name: str
    project_name: str
    role: str
    created_unix_nano: int
    revoked_unix_nano: int | None = None
    limits: KeyLimits = NO_LIMITS


@dataclass(frozen=True, slots=True)
class Spent:
    """The spending of a key on completions: US dollars, and the number of completions, with and without a price."""

    cost: float = 0.0
    completions: int = 0
    unpriced: int = 0

    def plus(self, other: Spent) -> Spent:
        """Return the sum of both."""
        return Spent(self.cost + other.cost, self.completions + other.completions, self.unpriced + other.unpriced)


@dataclass(frozen=True, slots=True)
class Expense:
    """What a key spent on a day. `key` is its digest; `day` is counted from 1970 in UTC."""

    key: str
    day: int
    amount: Spent
