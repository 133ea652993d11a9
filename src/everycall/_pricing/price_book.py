"""`PriceBook`: the prices of a server, a user's own first, then those of the price list.

Only the server uses it: the store prices what it commits, the gateway what it answers. The price list is imported at
the first priced call (about half a second of CPU, once).
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Final

import msgspec

from everycall._pricing.catalogue import listed
from everycall._pricing.cost import Consumption, Price, Unpriced, cost_of
from everycall._pricing.custom import CustomPrices
from everycall._pricing.rates import Rates
from everycall._pricing.records import UNPRICED, basis, consumption
from everycall.errors import ConfigurationError
from everycall.record import Record
from everycall.semconv import PRICED_KINDS, STANDARD_SERVICE_TIERS, USAGE_UNPRICED

__all__ = ["CACHE", "CLIENT", "PRICE_FIELDS", "SOURCE", "PriceBook", "in_use", "price", "use"]

SOURCE: Final = "genai-prices"
"""The `cost_source` of a cost from the price list."""
CLIENT: Final = "client"
"""The `cost_source` of a cost that came with the record, without a source."""
CACHE: Final = "cache"
"""The `cost_source` of a call that a cache answered."""
PRICE_FIELDS: Final = ("cost", "cost_source", "price_version", "saved_cost")
"""The fields of a record that `PriceBook.price_record` sets."""


class PriceBook:
    """The prices of one server: a user's own, if there is a file of them, then the price list.

    Safe to use from several threads; `reload` may be called at any time.
    """

    def __init__(self, custom_path: Path | None = None, *, required: bool = False) -> None:
        """Read a user's own prices.

        Raise `ConfigurationError` if the file cannot be used, or if it is `required` and missing.
        """
        self._custom_path = custom_path
        self._required = required
        self._custom: CustomPrices | None = None
        self.reload()

    def reload(self) -> None:
        """Read the user's prices again. Raise `ConfigurationError` if that fails; the present ones then stay."""
        if self._custom_path is not None:
            custom = CustomPrices.read(self._custom_path)
            if custom is None and self._required:
                raise ConfigurationError(f"{self._custom_path} is not there; name a file of prices, or leave it out")
            self._custom = custom

    def price(self, used: Consumption) -> Price | Unpriced:
        """Return what a call cost, or why that is unknown. An unknown cost is never 0. Does not raise.

        `input_tokens` includes the parts named in `usage`, and so does `output_tokens`. A part without a rate of its
        own costs what its whole costs, except what stays in a cache for longer, which always costs more.
        """
        unknown = next((name for name, count in used.usage.items() if count and name.startswith(USAGE_UNPRICED)), None)
        if unknown is not None:
            return Unpriced(f"unpriced tokens: {unknown.removeprefix(USAGE_UNPRICED)}"[:50])
        tier = (used.tier or "").lower()
        if tier in STANDARD_SERVICE_TIERS:
            tier = ""
        priced = self._custom.rates(used, tier) if self._custom is not None else None
        if priced is None:
            try:
                priced = _listed_rates(used, tier)
            except (ArithmeticError, AttributeError, LookupError, OSError, TypeError, ValueError):
                return Unpriced("the price list has another shape")
        if isinstance(priced, Unpriced):
            return priced
        rates, source, version = priced
        cost = cost_of(rates, used)
        return cost if isinstance(cost, Unpriced) else Price(cost, source, version)

    def price_record(self, record: Record) -> Record:
        """Return the record with its cost and `cost_source`, or the same record if they are set. Does not raise.

        Only the kinds in `semconv.PRICED_KINDS` have a price: the calls where money is spent. A cost that came with
        the record stays; without a source it is the client's. A cache hit costs 0, and `saved_cost` is what its tokens
        would have cost. If the price is unknown, `cost_source` says why.
        """
        if record.kind not in PRICED_KINDS:
            return record
        if record.cache_hit and not record.cost:
            return self._price_hit(record)
        if record.cost is not None:
            return record if record.cost_source is not None else msgspec.structs.replace(record, cost_source=CLIENT)
        price = self._price_of(record)
        if isinstance(price, Unpriced):
            return msgspec.structs.replace(record, cost_source=f"{UNPRICED}{price.reason}", price_version=None)
        return msgspec.structs.replace(record, cost=price.cost, cost_source=price.source, price_version=price.version)

    def settle(self, before: Record, after: Record) -> Record:
        """Return a record that was changed from `before` to `after`, with the price that it has now.

        A cost computed here from other tokens, and the reason for a missing cost that came since, are computed again.
        Nothing else is changed: a new price list alone does not change records.
        """
        cost_was_set = after.cost != before.cost or after.cost_source != before.cost_source
        if not cost_was_set and basis(before) == basis(after):
            return after
        changes: dict[str, Any] = {}
        if after.cost == before.cost and self.computed(before):
            changes.update(cost=None, cost_source=None, price_version=None)
        elif after.cost_source == before.cost_source and self.computed(before):
            changes.update(cost_source=None, price_version=None)  # the change has a cost without a source
        if before.cache_hit and before.saved_cost == after.saved_cost and before.price_version is not None:
            changes.update(saved_cost=None, price_version=None)
        return self.price_record(msgspec.structs.replace(after, **changes) if changes else after)

    def reprice(self, record: Record) -> Record:
        """Return the record with the price it has by this book now.

        The same record if its cost was not computed here or has not changed; it then keeps its price's version.
        """
        if record.kind not in PRICED_KINDS or record.cache_hit or not self.computed(record):
            return record
        bare = msgspec.structs.replace(record, cost=None, cost_source=None, price_version=None)
        priced = self.price_record(bare)
        return record if (priced.cost, priced.cost_source) == (record.cost, record.cost_source) else priced

    def computed(self, record: Record) -> bool:
        """Return whether the cost, or the reason for a missing one, was computed here and may be recomputed."""
        source = record.cost_source
        if source is None:
            return record.cost is None
        return source == SOURCE or source.startswith(UNPRICED) or source.endswith(".toml")

    def _price_hit(self, record: Record) -> Record:
        changes: dict[str, Any] = {}
        if record.cost is None or record.cost_source is None:
            changes.update(cost=0.0, cost_source=CACHE)
        if record.saved_cost is None:
            price = self._price_of(record)
            if isinstance(price, Price):
                changes.update(saved_cost=price.cost, price_version=price.version)
        return msgspec.structs.replace(record, **changes) if changes else record

    def _price_of(self, record: Record) -> Price | Unpriced:
        result = consumption(record)
        return result if isinstance(result, Unpriced) else self.price(result)


def _listed_rates(used: Consumption, tier: str) -> tuple[Rates, str, str] | Unpriced:
    model = listed(used.model, used.provider)
    if isinstance(model, Unpriced):
        return model
    rates = model.at(used.at_unix_nano, tier)
    if rates is None:
        return Unpriced(f"no price of service tier {tier}"[:50])
    return rates, SOURCE, model.version


_in_use: ContextVar[PriceBook] = ContextVar("everycall-prices", default=PriceBook())  # noqa: B039 - never changed


def in_use() -> PriceBook:
    """Return the prices of the server whose task calls this; elsewhere, the price list alone."""
    return _in_use.get()


def use(book: PriceBook) -> None:
    """Make `price` use this book, in this task and all tasks that it starts: each server has its own."""
    _in_use.set(book)


def price(
    model: str,
    provider: str | None,
    input_tokens: int,
    output_tokens: int,
    usage: Mapping[str, int],
    at_unix_nano: int,
    tier: str | None = None,
) -> Price | None:
    """Return what these tokens cost by the prices in use here (see `use`); None if that is unknown."""
    result = _in_use.get().price(Consumption(model, provider, input_tokens, output_tokens, usage, at_unix_nano, tier))
    return result if isinstance(result, Price) else None
