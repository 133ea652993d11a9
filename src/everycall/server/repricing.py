"""Pricing stored records again, a page at a time: a report of the changes, and the changes themselves.

Called by `api/repricing.py` in a running server, and by `everycall reprice` on the store of a stopped one. The store
writes the changes. Repricing a page again changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from everycall import limits
from everycall._pricing.price_book import PriceBook
from everycall._pricing.records import failed_without_usage
from everycall.record import Record
from everycall.semconv import PRICED_KINDS
from everycall.server.store.base import Store
from everycall.server.store.errors import StoreError
from everycall.server.store.values import RecordQuery

__all__ = ["ModelChange", "RepricePage", "joined", "reprice_page"]

_KINDS = tuple(sorted(PRICED_KINDS))


@dataclass(frozen=True, slots=True)
class ModelChange:
    """The changes to the records of one model of one provider. Sums are US dollars, None if no record has a cost.

    Of `records`, `changed` have another cost or another reason for it (or for having none), and `kept` have a cost that
    the client sent, which stays. Records that are counted in another record (`Record.counted_in`) are not included.
    """

    model: str | None
    provider: str | None
    records: int = 0
    changed: int = 0
    kept: int = 0
    old_cost: float | None = None
    new_cost: float | None = None
    newly_priced: int = 0
    now_unpriced: int = 0
    unpriced: int = 0

    def plus(self, other: ModelChange) -> ModelChange:
        """Return the sum of both."""
        counts = ("records", "changed", "kept", "newly_priced", "now_unpriced", "unpriced")
        return replace(
            self,
            **{name: getattr(self, name) + getattr(other, name) for name in counts},
            old_cost=_sum(self.old_cost, other.old_cost),
            new_cost=_sum(self.new_cost, other.new_cost),
        )


@dataclass(frozen=True, slots=True)
class RepricePage:
    """The changes of a page by model, the number of records written, and the next page's cursor (None: no more)."""

    models: tuple[ModelChange, ...]
    written: int
    next_cursor: str | None


async def reprice_page(
    store: Store, prices: PriceBook, project: str, query: RecordQuery, *, write: bool = False
) -> RepricePage:
    """Price the next `limits.PAGE_ROWS_MAX` records of a query again; with `write`, store the changes.

    `query` has `since`, `until`, `model`, and the `cursor` of the previous page. Raise `StoreError` for an invalid
    cursor.
    """
    kind, _, cursor = (query.cursor or f"{_KINDS[0]}:").partition(":")
    if kind not in _KINDS:
        raise StoreError("This cursor does not belong to this list. Start again without a cursor.")
    page = await store.records(project, replace(query, kind=kind, cursor=cursor or None, limit=limits.PAGE_ROWS_MAX))
    changes: list[ModelChange] = []
    stale: list[str] = []
    for record in page.records:
        priced = prices.reprice(record)
        if priced != record:
            stale.append(record.inference_id)
        if record.counted_in is None:
            changes.append(_change(prices, record, priced))
    written = await store.reprice(project, stale) if write and stale else 0
    following = None if page.next_cursor is None else f"{kind}:{page.next_cursor}"
    if following is None and kind != _KINDS[-1]:
        following = f"{_KINDS[_KINDS.index(kind) + 1]}:"
    return RepricePage(joined(changes), written, following)


def joined(changes: Iterable[ModelChange]) -> tuple[ModelChange, ...]:
    """Return the changes with one entry for each model and provider, sorted by name."""
    totals: dict[tuple[str | None, str | None], ModelChange] = {}
    for change in changes:
        key = change.model, change.provider
        totals[key] = totals[key].plus(change) if key in totals else change
    return tuple(totals[key] for key in sorted(totals, key=lambda key: (key[0] or "", key[1] or "")))


def _change(prices: PriceBook, old: Record, new: Record) -> ModelChange:
    return ModelChange(
        old.model,
        old.provider,
        records=1,
        changed=int(new != old),
        kept=int(not prices.computed(old)),
        old_cost=old.cost,
        new_cost=new.cost,
        newly_priced=int(old.cost is None and new.cost is not None),
        now_unpriced=int(old.cost is not None and new.cost is None),
        unpriced=int(new.cost is None and not failed_without_usage(new)),
    )


def _sum(one: float | None, other: float | None) -> float | None:
    values: list[Any] = [value for value in (one, other) if value is not None]
    return math.fsum(values) if values else None
