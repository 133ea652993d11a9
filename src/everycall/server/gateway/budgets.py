"""What each key may spend on completions in a day (UTC), and what it has spent. Called by `gateway.py`.

A completion is let in while what its key has spent today, and what is reserved for its completions under way, is below
the budget. Reserved is an estimate that is high for most: the prompt at `limits.PROMPT_TOKEN_CHARS` characters a token,
and all of `max_length`. So of any number of requests at once, the budget is passed by the cost of one completion at
most, as long as none costs more than its estimate. Failed completions cost nothing here, cached ones are free.

Amounts are in memory, and in the store before the answer is given: one server process counts for one store.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

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
    """One key's day: what it spent, what is reserved, and what of the former the store has not been told."""

    day: int
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
        """Return the account of one completion; without a key it is nobody's, and counts nothing."""
        return Account(self, key)

    def spent(self, digest: str) -> Spent:
        """Return what a key has spent today."""
        return self.day(digest).spent

    def resets_at(self) -> datetime:
        """Return the end of the day that counts: the next midnight UTC."""
        return datetime.fromtimestamp((self._today() + 1) * DAY_S, UTC)

    def resets_in_s(self) -> int:
        """Return the seconds until then, rounded up."""
        return int((self._today() + 1) * DAY_S - self._clock()) + 1

    def day(self, digest: str) -> _Day:
        """Return a key's day: today's, with what is reserved taken over from yesterday's."""
        today = self._today()
        found = self._days.get(digest)
        if found is None:
            found = self._days[digest] = _Day(today, Spent(), Spent())
        elif found.day != today:
            found.day, found.spent = today, Spent()
        return found

    def unsaved(self, digest: str) -> Expense | None:
        """Take what the store does not know yet, to store it. When that cannot be done, give it back by `put_back`."""
        kept = self.day(digest)
        amount, kept.unsaved = kept.unsaved, Spent()
        return None if amount == Spent() else Expense(digest, kept.day, amount)

    def all_unsaved(self) -> list[Expense]:
        """Take what the store does not know yet of all keys."""
        found = [self.unsaved(digest) for digest in list(self._days)]
        return [expense for expense in found if expense is not None]

    def put_back(self, expense: Expense) -> None:
        """Take an expense that could not be stored: it is stored with the key's next one."""
        kept = self.day(expense.key)
        kept.unsaved = kept.unsaved.plus(expense.amount)

    def _today(self) -> int:
        return int(self._clock() // DAY_S)

    async def _load(self) -> None:
        today = self._today()
        for digest, spent in (await self._store.spent(today)).items():
            self._days[digest] = _Day(today, spent, Spent())


class Account:
    """What one completion reserves and pays. `release` it in any case."""

    def __init__(self, budgets: Budgets, key: ApiKey | None) -> None:
        self._budgets = budgets
        self._key = key
        self._reserved = 0.0
        self._asked: tuple[ProviderRequest, ProviderSettings] | None = None

    def asks(self, asked: ProviderRequest, settings: ProviderSettings) -> None:
        """Say what is asked, for estimates. What was reserved for another provider is given back."""
        self.release()
        self._asked = (asked, settings)

    def reserve(self) -> None:
        """Take the place of one completion, right before a provider is asked.

        Raises `ProblemError`: 429 `budget_exceeded`, or 403 `unpriced_model` where the key refuses these.
        """
        if self._key is None or self._asked is None or self._key.limits.budget_usd_per_day is None:
            return
        kept = self._budgets.day(self._key.digest)
        if kept.spent.cost + kept.reserved >= self._key.limits.budget_usd_per_day:
            raise self._exceeded(kept)
        asked, settings = self._asked
        cost = estimate(asked, settings)
        if cost is None and self._key.limits.unpriced == "refuse":
            raise problem(
                "unpriced_model",
                403,
                "This model has no known price",
                f"The key {self._key.name!r} has a budget, and may not use models without a known price, such as "
                f"{asked.model[:128]!r}. Ask for another one, or allow it with everycall key set --unpriced allow.",
                field="llm_configuration.model",
            )
        self._reserved = cost or 0.0
        kept.reserved += self._reserved

    def charge(self, cost: float | None, content: str) -> None:
        """Pay for a completion that a provider made.

        A cost that is not known is estimated from the prompt and the text that came. A model without a known price is
        counted as unpriced instead.
        """
        self.release()
        if self._key is None or self._asked is None:
            return
        if cost is None:
            cost = estimate(*self._asked, content)
        amount = Spent(cost or 0.0, 1, int(cost is None))
        kept = self._budgets.day(self._key.digest)
        kept.spent = kept.spent.plus(amount)
        kept.unsaved = kept.unsaved.plus(amount)

    def unsaved(self) -> Expense | None:
        """Take what the store does not know yet of the key's spending; see `Budgets.unsaved`."""
        return None if self._key is None else self._budgets.unsaved(self._key.digest)

    def release(self) -> None:
        """Give back what is reserved."""
        if self._key is not None and self._reserved:
            kept = self._budgets.day(self._key.digest)
            kept.reserved = max(0.0, kept.reserved - self._reserved)
            self._reserved = 0.0

    def _exceeded(self, kept: _Day) -> Exception:
        assert self._key is not None
        limit = self._key.limits.budget_usd_per_day or 0.0
        resets_at = self._budgets.resets_at().strftime("%Y-%m-%dT%H:%M:%SZ")
        is_spent = kept.spent.cost >= limit
        why = "" if is_spent else f", and {kept.reserved:.6f} are reserved for completions under way"
        what = f"Try again after {resets_at}, or raise" if is_spent else "Try again in a moment, or raise"
        return problem(
            "budget_exceeded",
            429,
            "The key's budget for today is spent" if is_spent else "The rest of the key's budget is in use",
            f"The key {self._key.name!r} may spend {limit:g} US dollars a day and has spent {kept.spent.cost:.6f}"
            f"{why}. {what} it with everycall key set --budget-usd-per-day. Cached answers are still given.",
            headers={"retry-after": str(self._budgets.resets_in_s() if is_spent else 1)},
            limit=limit,
            spent=round(kept.spent.cost, 9),
            reserved=round(kept.reserved, 9),
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
    """Return what tokens cost now at a provider, by its name, else by its kind; None where it is not known."""
    names = [settings.name] if settings.kind == "openai_compatible" else [settings.name, settings.kind]
    found = (price_book.price(model, name, input_tokens, output_tokens, parts, time.time_ns(), tier) for name in names)
    return next((price for price in found if price is not None), None)


def estimate(asked: ProviderRequest, settings: ProviderSettings, content: str | None = None) -> float | None:
    """Return what a completion will cost at most, nearly, in US dollars; None for a model without a known price.

    With `content`, what it has cost when that is all that came.
    """
    prompt = sum(_tokens(message.get("content")) for message in asked.messages) + _tokens([*asked.functions])
    made = asked.params.get("max_length") or limits.ANSWER_TOKENS_DEFAULT
    if content is not None:
        made = _tokens(content)
    found = price_of(settings, asked.model, prompt, made, {})
    return None if found is None else found.cost


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
    """Return a key with its limits and what it has spent today, as the API shows it."""
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
