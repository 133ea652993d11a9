"""What a call cost: tokens, model and provider in, US dollars out, or the reason why nobody knows. Layer 2.

The server alone calls it: its store prices what it commits, its gateway what it answers. The prices are a user's own
(`_own_prices`) and those of the `genai-prices` package, read from its bundled data and never from the network. It is
imported at the first priced call (about half a second of CPU, once).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from everycall import limits
from everycall._pricing.catalogue import Unpriced, listed, spelt, told
from everycall._pricing.custom import INPUT, OUTPUT, REQUESTS, OwnPrice, OwnPrices, Rate, Rates, Tiered
from everycall.errors import ConfigurationError
from everycall.record import ABSENT, Record
from everycall.semconv import (
    EMBEDDING,
    PRICED_KINDS,
    RERANKER,
    STANDARD_SERVICE_TIERS,
    USAGE_CACHE_WRITE,
    USAGE_CACHED,
    USAGE_CACHED_AUDIO,
    USAGE_CACHED_IMAGE,
    USAGE_INPUT_AUDIO,
    USAGE_INPUT_IMAGE,
    USAGE_INPUT_VIDEO,
    USAGE_OUTPUT_AUDIO,
    USAGE_OUTPUT_IMAGE,
    USAGE_OUTPUT_VIDEO,
    USAGE_REASONING,
    USAGE_TOOL_USE_PROMPT,
    USAGE_UNPRICED,
    USAGE_WEB_SEARCHES,
)

__all__ = [
    "CACHE",
    "CLIENT",
    "PRICE_FIELDS",
    "SOURCE",
    "UNPRICED",
    "Price",
    "PriceBook",
    "Spent",
    "Unpriced",
    "in_use",
    "price",
    "unpriced_reason",
    "use",
]

SOURCE: Final = "genai-prices"
"""The `cost_source` of a cost from the price list."""
CLIENT: Final = "client"
"""The `cost_source` of a cost that came with the record and named no source."""
CACHE: Final = "cache"
"""The `cost_source` of a call that a cache answered."""
UNPRICED: Final = "unpriced: "
"""Begins the `cost_source` of a record whose cost is not known; the reason follows."""
PRICE_FIELDS: Final = ("cost", "cost_source", "price_version", "saved_cost")
"""The fields of a record that `PriceBook.price_record` sets."""

_OF_INPUT: Final = (
    USAGE_CACHED,
    USAGE_INPUT_AUDIO,
    USAGE_INPUT_IMAGE,
    USAGE_INPUT_VIDEO,
    USAGE_TOOL_USE_PROMPT,
)
_OF_OUTPUT: Final = (USAGE_REASONING, USAGE_OUTPUT_AUDIO, USAGE_OUTPUT_IMAGE, USAGE_OUTPUT_VIDEO)
_CACHED_PARTS: Final = ((USAGE_INPUT_AUDIO, USAGE_CACHED_AUDIO), (USAGE_INPUT_IMAGE, USAGE_CACHED_IMAGE))
_KEPT_LONGER: Final = f"{USAGE_CACHE_WRITE}_"
"""Begins the names of parts of what was written to a cache, such as `cache_write_1h`: each has its own rate or none."""
_WORD: Final = re.compile(r"[A-Za-z0-9_.-]{0,32}")
_NO_WORD: Final = "of-another-name"
"""Stands for a tier that is no word: what a caller wrote there does not travel on in the reason."""


@dataclass(frozen=True, slots=True)
class Price:
    """A cost in US dollars, where it comes from, and the version of the price list."""

    cost: float
    source: str
    version: str


@dataclass(frozen=True, slots=True)
class Spent:
    """What a call used. Counts are as in a record; `at_unix_nano` 0 is now; `tier` None is the standard one."""

    model: str
    provider: str | None
    input_tokens: int
    output_tokens: int
    usage: Mapping[str, int]
    at_unix_nano: int = 0
    tier: str | None = None


_attributes = msgspec.json.Decoder(dict[str, msgspec.Raw])


class PriceBook:
    """The prices of one server: a user's own, when there is a file of them, then the price list.

    Safe to use from several threads; `reload` may be called at any time.
    """

    def __init__(self, own_path: Path | None = None, *, required: bool = False) -> None:
        """Read own prices. Raises `ConfigurationError` for a file that cannot be used, or `required` and not there."""
        self._own_path = own_path
        self._required = required
        self._own: OwnPrices | None = None
        self._own_found: dict[tuple[str, str | None], tuple[OwnPrice, ...]] = {}
        self.reload()

    def reload(self) -> None:
        """Read own prices again. Raises `ConfigurationError`, and then keeps those it has."""
        if self._own_path is not None:
            own = OwnPrices.read(self._own_path)
            if own is None and self._required:
                raise ConfigurationError(f"{self._own_path} is not there; name a file of prices, or leave it out")
            self._own, self._own_found = own, {}

    def price(self, spent: Spent) -> Price | Unpriced:
        """Return what a call cost, or why that is not known. Never 0 for what is not known. Does not raise.

        `input_tokens` includes the parts named in `usage`, and `output_tokens` likewise. A part without a rate of its
        own costs what its whole costs, except what is kept in a cache for longer, which always costs more.
        """
        unknown = next((name for name, count in spent.usage.items() if count and name.startswith(USAGE_UNPRICED)), None)
        if unknown is not None:
            return Unpriced(f"unpriced tokens: {unknown.removeprefix(USAGE_UNPRICED)}"[:50])
        tier = (spent.tier or "").lower()
        tier = "" if tier in STANDARD_SERVICE_TIERS else tier
        found = self._own_rates(spent, tier)
        if found is None:
            try:
                found = _listed_rates(spent, tier)
            except (ArithmeticError, AttributeError, LookupError, OSError, TypeError, ValueError):
                return Unpriced("the price list has another shape")
        if isinstance(found, Unpriced):
            return found
        rates, source, version = found
        cost = _cost(rates, spent)
        return cost if isinstance(cost, Unpriced) else Price(cost, source, version)

    def price_record(self, record: Record) -> Record:
        """Return the record with its cost and where it comes from, or the same record where there is nothing to say.

        Only kinds in `semconv.PRICED_KINDS` are priced: the leaves where money is spent. A cost that came with the
        record is kept; without a source it is the client's. A cache hit costs 0, and `saved_cost` is what its tokens
        would have cost. Where no price can be known, `cost_source` says why. Does not raise.
        """
        if record.kind not in PRICED_KINDS:
            return record
        if record.cache_hit and not record.cost:
            return self._hit(record)
        if record.cost is not None:
            return record if record.cost_source is not None else msgspec.structs.replace(record, cost_source=CLIENT)
        found = self._found(record)
        if isinstance(found, Unpriced):
            return msgspec.structs.replace(record, cost_source=f"{UNPRICED}{found.reason}", price_version=None)
        return msgspec.structs.replace(record, cost=found.cost, cost_source=found.source, price_version=found.version)

    def settle(self, before: Record, after: Record) -> Record:
        """Return a record that was changed from `before` to `after`, with the price that it has now.

        What was computed from other tokens, or is a lack of a price that came since, is found again; nothing else
        changes: a new price list alone leaves records as they are.
        """
        given = after.cost != before.cost or after.cost_source != before.cost_source
        if not given and _basis(before) == _basis(after):
            return after
        changes: dict[str, Any] = {}
        if after.cost == before.cost and self.computed(before):
            changes.update(cost=None, cost_source=None, price_version=None)
        elif after.cost_source == before.cost_source and self.computed(before):
            changes.update(cost_source=None, price_version=None)  # a cost was given, and no source
        if before.cache_hit and before.saved_cost == after.saved_cost and before.price_version is not None:
            changes.update(saved_cost=None, price_version=None)
        return self.price_record(msgspec.structs.replace(after, **changes) if changes else after)

    def reprice(self, record: Record) -> Record:
        """Return the record with the price it has by this book now.

        The same record where its cost was not computed here, or is what it was: it then keeps its price's version.
        """
        if record.kind not in PRICED_KINDS or record.cache_hit or not self.computed(record):
            return record
        bare = msgspec.structs.replace(record, cost=None, cost_source=None, price_version=None)
        found = self.price_record(bare)
        return record if (found.cost, found.cost_source) == (record.cost, record.cost_source) else found

    def computed(self, record: Record) -> bool:
        """Tell whether the record's cost, or its lack of one, was found here, so that it may be found again."""
        source = record.cost_source
        if source is None:
            return record.cost is None
        return source == SOURCE or source.startswith(UNPRICED) or source.endswith(".toml")

    def _hit(self, record: Record) -> Record:
        changes: dict[str, Any] = {}
        if record.cost is None or record.cost_source is None:
            changes.update(cost=0.0, cost_source=CACHE)
        if record.saved_cost is None:
            found = self._found(record)
            if isinstance(found, Price):
                changes.update(saved_cost=found.cost, price_version=found.version)
        return msgspec.structs.replace(record, **changes) if changes else record

    def _found(self, record: Record) -> Price | Unpriced:
        output_tokens = record.output_tokens
        if output_tokens is None and record.kind in (EMBEDDING, RERANKER):
            output_tokens = 0  # they answer with numbers, not with tokens
        if not record.model:
            return Unpriced("no model")
        if record.input_tokens is None or output_tokens is None:
            return Unpriced("no token counts")
        return self.price(
            Spent(
                record.model,
                record.provider,
                record.input_tokens,
                output_tokens,
                record.usage,
                record.start_time_unix_nano,
                _tier_of(record),
            )
        )

    def _own_rates(self, spent: Spent, tier: str) -> tuple[Rates, str, str] | Unpriced | None:
        own, found = self._own, self._own_found
        if own is None:
            return None
        key = (spent.model, told(spent.provider))
        fitting = found.get(key)
        if fitting is None:
            if len(found) >= limits.PRICED_MODELS_MAX:
                found.clear()
            fitting = found[key] = _fitting(own, *key)
        at = spent.at_unix_nano or int(datetime.now(UTC).timestamp() * 1e9)
        valid = [one for one in fitting if one.since <= at < one.until]
        for one in valid:
            if (one.tier or "") in ((tier,) if tier else STANDARD_SERVICE_TIERS):
                return one.rates, own.name, own.version
        return Unpriced(f"no own price of tier {tier or 'standard'}"[:50]) if valid else None


def _basis(record: Record) -> tuple[Any, ...]:
    """What a price is computed from."""
    return (
        record.kind,
        record.model,
        record.provider,
        record.input_tokens,
        record.output_tokens,
        record.usage,
        record.start_time_unix_nano,
        record.cache_hit,
        _tier_of(record),
    )


def unpriced_reason(record: Record) -> str | None:
    """Return why an inference call has no cost, in words for people; None when it has one or is no inference call."""
    if record.cost is not None or record.kind not in PRICED_KINDS:
        return None
    source = record.cost_source or ""
    return source.removeprefix(UNPRICED) if source.startswith(UNPRICED) else "no reason was kept"


def _fitting(own: OwnPrices, model: str, provider: str | None) -> tuple[OwnPrice, ...]:
    """Return the own prices of a model at a provider, by any of its names; the most telling first."""
    at = None if provider is None else spelt(provider)
    fitting = [one for one in own.prices if one.fits(model) and (one.provider is None or spelt(one.provider) == at)]
    return tuple(sorted(fitting, key=lambda one: one.rank, reverse=True))


def _tier_of(record: Record) -> str | None:
    """Return the service tier that the record's attributes name: the answer's, else the one that was asked for."""
    attributes = record.attributes
    if attributes is ABSENT or b"service_tier" not in bytes(attributes):
        return None
    try:
        held = _attributes.decode(attributes)
        found = {name: msgspec.json.decode(held[name]) for name in held if name.endswith("service_tier")}
    except (msgspec.MsgspecError, RecursionError):
        return None
    for asked in (False, True):
        for name, tier in found.items():
            if isinstance(tier, str) and (".request." in name) is asked:
                return tier if _WORD.fullmatch(tier) else _NO_WORD
    return None


def _listed_rates(spent: Spent, tier: str) -> tuple[Rates, str, str] | Unpriced:
    model = listed(spent.model, spent.provider)
    if isinstance(model, Unpriced):
        return model
    found = model.at(spent.at_unix_nano, tier)
    if found is None:
        return Unpriced(f"no price of service tier {tier}"[:50])
    return found, SOURCE, model.version


def _cost(rates: Rates, spent: Spent) -> float | Unpriced:
    """Return the cost in US dollars, or why it is not known."""
    usage = spent.usage
    cached = usage.get(USAGE_CACHED, 0)
    for part, both in _CACHED_PARTS:
        overlap = usage.get(part, 0) and cached and part in rates and USAGE_CACHED in rates
        if overlap and both not in usage:
            return Unpriced(f"not told how much of {part} was cached")
    millions = 0.0
    for whole, tokens, parts in ((INPUT, spent.input_tokens, _OF_INPUT), (OUTPUT, spent.output_tokens, _OF_OUTPUT)):
        side = _side(rates, whole, tokens, dict(_apart(rates, usage, parts)), spent.input_tokens)
        if isinstance(side, Unpriced):
            return side
        millions += side
    thousands = _flat(rates.get(REQUESTS))
    searches = usage.get(USAGE_WEB_SEARCHES, 0)
    if searches:
        if USAGE_WEB_SEARCHES not in rates:
            return Unpriced(f"no price of {USAGE_WEB_SEARCHES}")
        thousands += searches * _flat(rates[USAGE_WEB_SEARCHES])
    return round(millions / 1_000_000 + thousands / 1_000, 12)


def _apart(rates: Rates, usage: Mapping[str, int], parts: tuple[str, ...]) -> Iterator[tuple[str, int]]:
    """Give the parts that are paid at a rate of their own, each token once."""
    counts = {part: usage.get(part, 0) for part in parts if part in rates}
    for part, both in _CACHED_PARTS:
        shared = usage.get(both, 0)
        if shared and USAGE_CACHED in counts and (both in rates or part in counts):
            if part in counts:
                counts[part] -= shared
            if both in rates:  # else a cached token of sound is paid as a cached one
                counts[USAGE_CACHED] -= shared
                yield both, shared
    yield from counts.items()
    if parts is _OF_INPUT and USAGE_CACHE_WRITE in rates:
        longer = {name: count for name, count in usage.items() if count and name.startswith(_KEPT_LONGER)}
        yield USAGE_CACHE_WRITE, usage.get(USAGE_CACHE_WRITE, 0) - sum(longer.values())
        yield from longer.items()


def _side(rates: Rates, whole: str, tokens: int, parts: Mapping[str, int], threshold: int) -> float | Unpriced:
    """Return the cost of one direction in millionths of a dollar; `threshold` is the input that chooses the tier."""
    total, rest = 0.0, tokens
    for part, count in parts.items():
        if count < 0:
            return Unpriced("the parts exceed the whole")
        if count:
            if part not in rates:
                return Unpriced(f"no price of {part}"[:50])
            total += count * _at(rates[part], threshold)
            rest -= count
    if rest < 0:
        return Unpriced("the parts exceed the whole")
    if rest and whole not in rates:
        return Unpriced(f"no price of {whole} tokens")
    return total + (rest * _at(rates[whole], threshold) if rest else 0.0)


def _at(rate: Rate, threshold: int) -> float:
    """Return the rate of a price: itself, or that of the highest tier the input exceeds (all tokens pay it)."""
    if not isinstance(rate, Tiered):
        return rate
    return next((dear for start, dear in reversed(rate.tiers) if threshold > start), rate.base)


def _flat(rate: Rate | None) -> float:
    return 0.0 if rate is None else rate.base if isinstance(rate, Tiered) else rate


_in_use: ContextVar[PriceBook] = ContextVar("everycall-prices", default=PriceBook())  # noqa: B039 - never changed


def in_use() -> PriceBook:
    """Return the prices of the server whose task asks; elsewhere the price list alone."""
    return _in_use.get()


def use(book: PriceBook) -> None:
    """Make a book the one that `price` reads, in this task and all that it starts: each server has its own."""
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
    """Return what these tokens cost by the prices in use here (see `use`); None when that is not known."""
    found = _in_use.get().price(Spent(model, provider, input_tokens, output_tokens, usage, at_unix_nano, tier))
    return found if isinstance(found, Price) else None
