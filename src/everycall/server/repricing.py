"""Finding the cost of stored records again, a page at a time: what would change, and the change. Layer: server.

Called by `api/repricing.py` in a running server, and by `everycall reprice` on the store of one that does not run. The
store does the writing, so that there is one writer whoever asks. A page twice changes nothing the second time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from everycall import limits
from everycall._pricing.price_book import PriceBook
from everycall.record import Record
from everycall.semconv import PRICED_KINDS
from everycall.server.store.base import Store
from everycall.server.store.errors import StoreError
from everycall.server.store.values import RecordQuery

__all__ = ["ModelChange", "RepricePage", "joined", "reprice_page"]

_KINDS = tuple(sorted(PRICED_KINDS))


@dataclass(frozen=True, slots=True)
class ModelChange:
    """What becomes of the records of one model at one provider. Sums are US dollars, None when no record has a cost.

    `records` were looked at, `changed` have another cost than before, or have it or lack it for another reason; `kept`
    have a cost that was given and stays. Records that are counted in another one of the same answer
    (`Record.counted_in`) are in none of these figures.
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
        """Return both together."""
        counts = ("records", "changed", "kept", "newly_priced", "now_unpriced", "unpriced")
        return replace(
            self,
            **{name: getattr(self, name) + getattr(other, name) for name in counts},
            old_cost=_sum(self.old_cost, other.old_cost),
            new_cost=_sum(self.new_cost, other.new_cost),
        )


@dataclass(frozen=True, slots=True)
class RepricePage:
    """A page's changes by model, how many records were written, and where to go on; None: that was all."""

    models: tuple[ModelChange, ...]
    written: int
    next_cursor: str | None


async def reprice_page(
    store: Store, prices: PriceBook, project: str, query: RecordQuery, *, write: bool = False
) -> RepricePage:
    """Look at the next `limits.PAGE_ROWS_MAX` records of a query, and with `write` store what changes.

    `query` has `since`, `until`, `model` and the `cursor` of the page before. Raises `StoreError` for a cursor that
    was not made here.
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
    """Return the changes with one entry for each model at each provider, by name."""
    found: dict[tuple[str | None, str | None], ModelChange] = {}
    for change in changes:
        key = change.model, change.provider
        found[key] = found[key].plus(change) if key in found else change
    return tuple(found[key] for key in sorted(found, key=lambda key: (key[0] or "", key[1] or "")))


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
        unpriced=int(new.cost is None),
    )


def _sum(one: float | None, other: float | None) -> float | None:
    known: list[Any] = [value for value in (one, other) if value is not None]
    return math.fsum(known) if known else None
