"""A user's own prices, from a TOML file: negotiated rates, models of one's own, what the price list does not know.

Layer 2. Read by `_price.PriceBook` when a server starts and when it is asked to reprice. Own prices win over the list.
"""

from __future__ import annotations

import hashlib
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

from everycall import limits
from everycall.errors import ConfigurationError
from everycall.semconv import (
    USAGE_CACHE_WRITE,
    USAGE_CACHE_WRITE_1H,
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
    USAGE_WEB_SEARCHES,
)

__all__ = ["INPUT", "OUTPUT", "REQUESTS", "OwnPrice", "OwnPrices", "Rate", "Rates", "Tiered"]

INPUT: Final = "input"
OUTPUT: Final = "output"
REQUESTS: Final = "requests"

RATES: Final = (
    INPUT,
    OUTPUT,
    USAGE_CACHED,
    USAGE_CACHE_WRITE,
    USAGE_CACHE_WRITE_1H,
    USAGE_REASONING,
    USAGE_INPUT_AUDIO,
    USAGE_OUTPUT_AUDIO,
    USAGE_CACHED_AUDIO,
    USAGE_INPUT_IMAGE,
    USAGE_OUTPUT_IMAGE,
    USAGE_CACHED_IMAGE,
    USAGE_INPUT_VIDEO,
    USAGE_OUTPUT_VIDEO,
    USAGE_TOOL_USE_PROMPT,
)
"""What may have a price per million tokens."""
PER_THOUSAND: Final = (USAGE_WEB_SEARCHES, REQUESTS)
_LABELS: Final = ("model", "provider", "tier")
_DATES: Final = ("from", "until")
_ABOVE: Final = "above"
_KNOWN: Final = frozenset({*RATES, *PER_THOUSAND, *_LABELS, *_DATES, _ABOVE})
_TIME_MAX: Final = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Tiered:
    """A rate that depends on the input's length: of `(tokens, rate)`, the last one whose tokens the input exceeds."""

    base: float
    tiers: tuple[tuple[int, float], ...]


Rate = float | Tiered
Rates = Mapping[str, Rate]
"""Rates by name (`RATES` in dollars per million tokens, `PER_THOUSAND` in dollars per thousand)."""


@dataclass(frozen=True, slots=True)
class OwnPrice:
    """One `[[price]]` table. `since` and `until` are nanoseconds UTC, from the first up to before the second."""

    model: str
    provider: str | None
    tier: str | None
    since: int
    until: int
    rates: Rates

    def fits(self, model: str) -> bool:
        """Tell whether this is a price of a model: case aside, and with `*` for any text."""
        return fnmatchcase(model.lower(), self.model)

    @property
    def rank(self) -> tuple[bool, bool, int, int]:
        """What makes one price more telling than another that fits too: a whole name, a provider, a later start."""
        return "*" not in self.model, self.provider is not None, len(self.model), self.since


@dataclass(frozen=True, slots=True)
class OwnPrices:
    """The prices of one file: `name` is their `cost_source`, `version` their `price_version`."""

    name: str
    version: str
    prices: tuple[OwnPrice, ...]

    @classmethod
    def read(cls, path: Path) -> OwnPrices | None:
        """Return the prices of a file, None when there is none.

        Raises `ConfigurationError` that names the file, the table and the key, and what may stand there.
        """
        if path.suffix != ".toml":
            raise ConfigurationError(f"{path} is no file of prices: its name must end in .toml")
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error
        try:
            tables = tomllib.loads(data.decode())
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"{path} is not valid TOML: {error}") from error
        return cls(path.name[:64], *_read(path, tables, data))


def _read(path: Path, tables: Mapping[str, Any], data: bytes) -> tuple[str, tuple[OwnPrice, ...]]:
    if unknown := sorted(tables.keys() - {"version", "price"}):
        raise ConfigurationError(f"{path}: unknown key {unknown[0]!r}; a price is a table that begins with [[price]]")
    version = tables.get("version", f"sha256:{hashlib.sha256(data).hexdigest()[:12]}")
    if not isinstance(version, str) or not 0 < len(version) <= 64:
        raise ConfigurationError(f"{path}: version must be a text of 1 to 64 characters")
    listed = tables.get("price", [])
    if not isinstance(listed, list):
        raise ConfigurationError(f"{path}: write [[price]] with two brackets; there may be several prices")
    if len(listed) > limits.OWN_PRICES_MAX:
        raise ConfigurationError(f"{path} has {len(listed)} prices; {limits.OWN_PRICES_MAX} are allowed")
    found: dict[tuple[Any, ...], int] = {}
    prices = []
    for number, table in enumerate(listed, start=1):
        one = _price(path, number, table)
        same = (one.model, one.provider, one.tier, one.since)
        if same in found:
            raise ConfigurationError(
                f"{path}, price {number} ({one.model}): price {found[same]} has the same model, provider, tier and "
                "from; take one away, or give them different dates"
            )
        found[same] = number
        prices.append(one)
    return version, tuple(prices)


def _price(path: Path, number: int, table: Any) -> OwnPrice:
    model = table.get("model") if isinstance(table, dict) else None
    label = f"{path}, price {number}" + (f" ({model})" if isinstance(model, str) else "")

    def wrong(what: str) -> ConfigurationError:
        return ConfigurationError(f"{label}: {what}")

    if not isinstance(table, dict):
        raise wrong("must be a table that begins with [[price]]")
    if unknown := sorted(table.keys() - _KNOWN):
        raise wrong(f"unknown key {unknown[0]!r}; it may have {', '.join(sorted(_KNOWN))}")
    for name in _LABELS:
        value = table.get(name)
        if (value is not None or name == "model") and not (isinstance(value, str) and value.strip()):
            raise wrong(f"{name} must be a text, such as {name} = {_EXAMPLES[name]!r}")
    rates: dict[str, Rate] = {name: _rate(name, table[name], wrong) for name in _rates_of(table)}
    if not rates:
        raise wrong("has no rate; give input and output, in dollars per million tokens")
    for above in _tiers(table.get(_ABOVE, []), wrong):
        for name in _rates_of(above):
            if name not in rates or name in PER_THOUSAND:
                raise wrong(f"above.{name} needs {name} beside it, and must be a rate of tokens")
            base, tier = rates[name], (above["tokens"], _rate(f"above.{name}", above[name], wrong))
            rates[name] = Tiered(base.base, (*base.tiers, tier)) if isinstance(base, Tiered) else Tiered(base, (tier,))
    since, until = (_instant(name, table.get(name), wrong) for name in _DATES)
    since, until = since or 0, _TIME_MAX if until is None else until
    if until <= since:
        raise wrong("until must be later than from")
    provider, tier_name = table.get("provider"), table.get("tier")
    return OwnPrice(
        table["model"].strip().lower(),
        provider.strip().lower() if provider else None,
        tier_name.strip().lower() if tier_name else None,
        since,
        until,
        rates,
    )


_EXAMPLES: Final = {"model": "acme-70b", "provider": "openai", "tier": "batch"}


def _rates_of(table: Mapping[str, Any]) -> list[str]:
    return [name for name in (*RATES, *PER_THOUSAND) if name in table]


def _rate(name: str, value: Any, wrong: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        unit = "thousand" if name in PER_THOUSAND else "million tokens"
        raise wrong(f"{name} must be a number of US dollars per {unit}, 0 or more, not {value!r}")
    return float(value)


def _tiers(given: Any, wrong: Any) -> list[dict[str, Any]]:
    if not isinstance(given, list) or not all(isinstance(one, dict) for one in given):
        raise wrong("above must be tables that begin with [[price.above]]")
    for one in given:
        if unknown := sorted(one.keys() - {*RATES, "tokens"}):
            raise wrong(f"unknown key above.{unknown[0]}; it may have tokens, {', '.join(RATES)}")
        tokens = one.get("tokens")
        if isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 0:
            raise wrong("above.tokens must be the number of input tokens beyond which these rates are paid")
    return sorted(given, key=lambda one: one["tokens"])


def _instant(name: str, value: Any, wrong: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime.combine(value, time(), UTC)
    if not isinstance(value, datetime):
        raise wrong(f"{name} must be a date, such as {name} = 2026-07-01 (UTC), without quotation marks")
    moment = value.replace(tzinfo=UTC) if value.tzinfo is None else value
    return max(0, int(moment.timestamp()) * 10**9)
