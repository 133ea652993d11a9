"""What each key may spend on completions in a day (UTC), and what it has spent. Called by `executor.py`.

A completion is admitted while what its key has spent today, plus what is reserved for its completions under way, is
below the budget. The reserved amount is an estimate, too high for most: the prompt at `limits.PROMPT_TOKEN_CHARS`
characters per token, and all of `max_length`. So any number of concurrent requests exceeds the budget by the cost of
one completion at most, as long as none costs more than its estimate. Failed and cached completions cost nothing.

Amounts are in memory, and in the store before the response is given: one server process counts for one store.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self

from everycall import limits
from everycall._pricing import price_book
from everycall._pricing.cost import Price
from everycall.server.gateway.provider_request import ProviderRequest
from everycall.server.problems import problem
from everycall.server.provider_settings import ProviderSettings
from everycall.server.store.base import Store
from everycall.server.store.errors import StoreError
from everycall.server.store.values import ApiKey, Expense, Spent

__all__ = ["Account", "Budgets", "estimate", "price_of", "shown"]

DAY_S = 86_400


@dataclass(slots=True)
class _Day:
    """One key's day: what it spent, how much of that is not yet stored, and what is reserved."""

    number: int
    spent: Spent
    unsaved: Spent
    reserved: float = 0.0


class Budgets:
    """The spending of all keys. For the tasks of one event loop; `load` it before use."""

    def __init__(self, store: Store, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._clock = clock
        self._days: dict[str, _Day] = {}
        self._loading: asyncio.Task[None] | None = None

    async def load(self) -> None:
        """Read what was spent today, once; later calls return at once. Raises `StoreError`."""
        if self._loading is None:
            self._loading = asyncio.create_task(self._load())
        try:
            await asyncio.shield(self._loading)
        except StoreError:
            self._loading = None
            raise

    def account(self, key: ApiKey | None) -> Account:
        """Return the account of one completion. Without a key it counts nothing."""
        return Account(self, key)

    def spent(self, digest: str) -> Spent:
        """Return what a key has spent today."""
        return self.day(digest).spent

    def resets_at(self) -> datetime:
        """Return the end of the day: the next midnight UTC."""
        return datetime.fromtimestamp((self._today() + 1) * DAY_S, UTC)

    def resets_in_s(self) -> int:
        """Return the seconds until the end of the day, rounded up."""
        return int((self._today() + 1) * DAY_S - self._clock()) + 1

    def day(self, digest: str) -> _Day:
        """Return a key's current day. What is reserved is carried over from the day before."""
        today = self._today()
        day = self._days.get(digest)
        if day is None:
            day = self._days[digest] = _Day(today, Spent(), Spent())
        elif day.number != today:
            day.number, day.spent = today, Spent()
        return day

    def unsaved(self, digest: str) -> Expense | None:
        """Take what is not yet stored, to store it. If that fails, return it with `put_back`."""
        day = self.day(digest)
        amount, day.unsaved = day.unsaved, Spent()
        return None if amount == Spent() else Expense(digest, day.number, amount)

    def all_unsaved(self) -> list[Expense]:
        """Take what is not yet stored, of all keys."""
        expenses = [self.unsaved(digest) for digest in list(self._days)]
        return [expense for expense in expenses if expense is not None]

    def put_back(self, expense: Expense) -> None:
        """Take back an expense that could not be stored. It is stored with the key's next one."""
        day = self.day(expense.key)
        day.unsaved = day.unsaved.plus(expense.amount)

    def _today(self) -> int:
        return int(self._clock() // DAY_S)

    async def _load(self) -> None:
        today = self._today()
        for digest, spent in (await self._store.spent(today)).items():
            self._days[digest] = _Day(today, spent, Spent())


class Account:
    """What one completion reserves and pays, as an async context manager that releases what is reserved."""

    def __init__(self, budgets: Budgets, key: ApiKey | None) -> None:
        self._budgets = budgets
        self._key = key
        self._reserved = 0.0

    async def __aenter__(self) -> Self:
        """Raise `StoreError` if what was spent today cannot be read."""
        await self._budgets.load()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.release()

    def reserve(self, request: ProviderRequest, settings: ProviderSettings) -> None:
        """Reserve the estimated cost of a request, right before it is sent, in place of what was reserved before.

        Raise `ProblemError`: 429 `budget_exceeded`, or 403 `unpriced_model` if the key refuses unpriced models.
        """
        self.release()
        if self._key is None or self._key.limits.budget_usd_per_day is None:
            return
        day = self._budgets.day(self._key.digest)
        if day.spent.cost + day.reserved >= self._key.limits.budget_usd_per_day:
            raise self._exceeded(day)
        cost = estimate(request, settings)
        if cost is None and self._key.limits.unpriced == "refuse":
            raise problem(
                "unpriced_model",
                403,
                "This model has no known price",
                f"The key {self._key.name!r} has a budget, and may not use models without a known price, such as "
                f"{request.model[:128]!r}. Ask for another one, or allow it with everycall key set --unpriced allow.",
                field="llm_configuration.model",
            )
        self._reserved = cost or 0.0
        day.reserved += self._reserved

    def charge(self, request: ProviderRequest, settings: ProviderSettings, cost: float | None, content: str) -> None:
        """Pay for a response.

        An unknown cost is estimated from the prompt and the text that arrived. A model without a known price is counted
        as unpriced instead.
        """
        self.release()
        if self._key is None:
            return
        if cost is None:
            cost = estimate(request, settings, content)
        amount = Spent(cost or 0.0, 1, int(cost is None))
        day = self._budgets.day(self._key.digest)
        day.spent = day.spent.plus(amount)
        day.unsaved = day.unsaved.plus(amount)

    def unsaved(self) -> Expense | None:
        """Take what is not yet stored of the key's spending; see `Budgets.unsaved`."""
        return None if self._key is None else self._budgets.unsaved(self._key.digest)

    def release(self) -> None:
        """Release what is reserved."""
        if self._key is not None and self._reserved:
            day = self._budgets.day(self._key.digest)
            day.reserved = max(0.0, day.reserved - self._reserved)
            self._reserved = 0.0

    def _exceeded(self, day: _Day) -> Exception:
        assert self._key is not None
        limit = self._key.limits.budget_usd_per_day or 0.0
        resets_at = self._budgets.resets_at().strftime("%Y-%m-%dT%H:%M:%SZ")
        is_spent = day.spent.cost >= limit
        reserved = "" if is_spent else f", and {day.reserved:.6f} are reserved for completions under way"
        remedy = f"Try again after {resets_at}, or raise" if is_spent else "Try again in a moment, or raise"
        return problem(
            "budget_exceeded",
            429,
            "The key's budget for today is spent" if is_spent else "The rest of the key's budget is in use",
            f"The key {self._key.name!r} may spend {limit:g} US dollars a day and has spent {day.spent.cost:.6f}"
            f"{reserved}. {remedy} it with everycall key set --budget-usd-per-day. Cached answers are still given.",
            headers={"retry-after": str(self._budgets.resets_in_s() if is_spent else 1)},
            limit=limit,
            spent=round(day.spent.cost, 9),
            reserved=round(day.reserved, 9),
            resets_at=resets_at,
        )


def price_of(
    settings: ProviderSettings,
    model: str,
    input_tokens: int,
    output_tokens: int,
    parts: Mapping[str, int],
    tier: str | None = None,
) -> Price | None:
    """Return what tokens cost now at a provider, by its name or else by its kind. None if that is unknown."""
    names = [settings.name] if settings.kind == "openai_compatible" else [settings.name, settings.kind]
    for name in names:
        price = price_book.price(model, name, input_tokens, output_tokens, parts, time.time_ns(), tier)
        if price is not None:
            return price
    return None


def estimate(request: ProviderRequest, settings: ProviderSettings, content: str | None = None) -> float | None:
    """Return about the most that a completion will cost, in US dollars. None for a model without a known price.

    With `content`, return what it has cost if that is all that arrived.
    """
    prompt_tokens = sum(_tokens(message.get("content")) for message in request.messages) + _tokens([*request.functions])
    if content is None:
        answer_tokens = request.params.get("max_length") or limits.ANSWER_TOKENS_DEFAULT
    else:
        answer_tokens = _tokens(content)
    price = price_of(settings, request.model, prompt_tokens, answer_tokens, {})
    return None if price is None else price.cost


def _tokens(content: Any) -> int:
    if isinstance(content, str):
        return len(content) // limits.PROMPT_TOKEN_CHARS + 1
    if isinstance(content, list):
        return sum(_part_tokens(part) for part in content)
    return 0


def _part_tokens(part: Any) -> int:
    if isinstance(part, dict) and isinstance(part.get("text"), str):
        return _tokens(part["text"])
    if isinstance(part, dict) and "parameters" in part:  # a function
        return _tokens(str(part))
    return limits.PART_TOKENS


def shown(key: ApiKey, budgets: Budgets) -> dict[str, Any]:
    """Return a key with its limits and what it has spent today, as the API has it."""
    spent = budgets.spent(key.digest)
    return {
        "id": key.digest,
        "name": key.name,
        "project": key.project_name,
        "role": key.role,
        "created_unix_nano": key.created_unix_nano,
        "revoked_unix_nano": key.revoked_unix_nano,
        "budget_usd_per_day": key.limits.budget_usd_per_day,
        "requests_per_minute": key.limits.requests_per_minute,
        "unpriced": key.limits.unpriced,
        "spent_usd_today": round(spent.cost, 9),
        "completions_today": spent.completions,
        "unpriced_today": spent.unpriced,
        "resets_at": budgets.resets_at().strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
