"""A user's own prices, from a TOML file: negotiated rates, models of their own, models the price list does not have.

`PriceBook` reads the file when a server starts and when it reprices. These prices take precedence over the price list.
"""

from __future__ import annotations

import hashlib
import math
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

from everycall import limits
from everycall._pricing.cost import Consumption, Unpriced
from everycall._pricing.providers import list_id, normalized
from everycall._pricing.rates import PER_MILLION, PER_THOUSAND, Rate, Rates, Tiered
from everycall.errors import ConfigurationError
from everycall.semconv import STANDARD_SERVICE_TIERS

__all__ = ["CustomPrice", "CustomPrices"]

_LABELS: Final = {"model": "acme-70b", "provider": "openai", "tier": "batch"}
"""The keys of a price that are texts, each with an example for messages."""
_DATES: Final = ("from", "until")
_ABOVE: Final = "above"
_KEYS: Final = frozenset({*PER_MILLION, *PER_THOUSAND, *_LABELS, *_DATES, _ABOVE})
_TIME_MAX: Final = 2**63 - 1

_Wrong = Callable[[str], ConfigurationError]
"""Makes the error about one price: its message begins with the file and the price."""


@dataclass(frozen=True, slots=True)
class CustomPrice:
    """One `[[price]]` table. It holds from `since` up to, not including, `until`, both UTC nanoseconds."""

    model: str
    provider: str | None
    tier: str | None
    since: int
    until: int
    rates: Rates

    def matches(self, model: str, provider: str | None) -> bool:
        """Return whether the price is for a model at a provider (as `list_id` spells it). `*` stands for any text."""
        if not fnmatchcase(model.lower(), self.model):
            return False
        return self.provider is None or list_id(self.provider) == provider

    @property
    def rank(self) -> tuple[bool, bool, int, int]:
        """What orders prices that match the same call: a whole name, a provider, a longer name, a later start."""
        return "*" not in self.model, self.provider is not None, len(self.model), self.since


class CustomPrices:
    """The prices of one file: `name` is their `cost_source`, `version` their `price_version`."""

    def __init__(self, name: str, version: str, prices: tuple[CustomPrice, ...]) -> None:
        self.name = name
        self.version = version
        self.prices = prices
        self._matches: dict[tuple[str, str | None], tuple[CustomPrice, ...]] = {}

    @classmethod
    def read(cls, path: Path) -> CustomPrices | None:
        """Return the prices of a file, None if it does not exist.

        Raise `ConfigurationError` that names the file, the price and the key, and says what is allowed there.
        """
        if path.suffix != ".toml":
            raise ConfigurationError(f"{path} is not a file of prices: its name must end in .toml")
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

    def rates(self, consumption: Consumption, tier: str) -> tuple[Rates, str, str] | Unpriced | None:
        """Return the rates for what a call used in a tier (empty: the standard one), with their source and version.

        None if no price of the file is for this model; `Unpriced` if one is, but for other tiers.
        """
        moment = consumption.at_unix_nano or int(datetime.now(UTC).timestamp() * 1e9)
        valid = [price for price in self._matching(consumption) if price.since <= moment < price.until]
        tier_names = {tier} if tier else STANDARD_SERVICE_TIERS
        for price in valid:
            if (price.tier or "") in tier_names:
                return price.rates, self.name, self.version
        return Unpriced(f"no own price of tier {tier or 'standard'}"[:50]) if valid else None

    def _matching(self, consumption: Consumption) -> tuple[CustomPrice, ...]:
        """Return the prices for a model at a provider, the most specific first. Found once and kept."""
        key = (consumption.model, normalized(consumption.provider))
        matching = self._matches.get(key)
        if matching is None:
            if len(self._matches) >= limits.PRICED_MODELS_MAX:
                self._matches.clear()
            model, provider = key
            provider_id = None if provider is None else list_id(provider)
            unordered = [price for price in self.prices if price.matches(model, provider_id)]
            matching = self._matches[key] = tuple(sorted(unordered, key=lambda price: price.rank, reverse=True))
        return matching


def _read(path: Path, tables: Mapping[str, Any], data: bytes) -> tuple[str, tuple[CustomPrice, ...]]:
    if unknown := sorted(tables.keys() - {"version", "price"}):
        raise ConfigurationError(f"{path}: unknown key {unknown[0]!r}; a price is a table that begins with [[price]]")
    version = tables.get("version", f"sha256:{hashlib.sha256(data).hexdigest()[:12]}")
    if not isinstance(version, str) or not 0 < len(version) <= 64:
        raise ConfigurationError(f"{path}: version must be a text of 1 to 64 characters")
    entries = tables.get("price", [])
    if not isinstance(entries, list):
        raise ConfigurationError(f"{path}: write [[price]] with two brackets; there may be several prices")
    if len(entries) > limits.CUSTOM_PRICES_MAX:
        raise ConfigurationError(f"{path} has {len(entries)} prices; {limits.CUSTOM_PRICES_MAX} are allowed")
    numbers: dict[tuple[Any, ...], int] = {}
    prices = []
    for number, table in enumerate(entries, start=1):
        price = _price(path, number, table)
        key = (price.model, price.provider, price.tier, price.since)
        if key in numbers:
            raise ConfigurationError(
                f"{path}, price {number} ({price.model}): price {numbers[key]} has the same model, provider, tier and "
                "from; remove one of them, or give them different dates"
            )
        numbers[key] = number
        prices.append(price)
    return version, tuple(prices)


def _price(path: Path, number: int, table: Any) -> CustomPrice:
    model = table.get("model") if isinstance(table, dict) else None
    place = f"{path}, price {number}" + (f" ({model})" if isinstance(model, str) else "")

    def wrong(what: str) -> ConfigurationError:
        return ConfigurationError(f"{place}: {what}")

    if not isinstance(table, dict):
        raise wrong("must be a table that begins with [[price]]")
    if unknown := sorted(table.keys() - _KEYS):
        raise wrong(f"unknown key {unknown[0]!r}; it may have {', '.join(sorted(_KEYS))}")
    for name, example in _LABELS.items():
        value = table.get(name)
        if (value is not None or name == "model") and not (isinstance(value, str) and value.strip()):
            raise wrong(f"{name} must be a text, such as {name} = {example!r}")
    since, until = (_moment(name, table.get(name), wrong) for name in _DATES)
    since, until = since or 0, _TIME_MAX if until is None else until
    if until <= since:
        raise wrong("until must be later than from")
    provider, tier = table.get("provider"), table.get("tier")
    return CustomPrice(
        table["model"].strip().lower(),
        provider.strip().lower() if provider else None,
        tier.strip().lower() if tier else None,
        since,
        until,
        _rates(table, wrong),
    )


def _rates(table: Mapping[str, Any], wrong: _Wrong) -> Rates:
    """Return the rates of one price, with those for longer inputs."""
    rates: dict[str, Rate] = {name: _rate(name, table[name], wrong) for name in _names_of_rates(table)}
    if not rates:
        raise wrong("has no rate; give input and output, in dollars per million tokens")
    for above in _tables_above(table.get(_ABOVE, []), wrong):
        for name in _names_of_rates(above):
            if name not in rates or name in PER_THOUSAND:
                raise wrong(f"above.{name} needs {name} beside it, and must be a rate of tokens")
            rate, tier = rates[name], (above["tokens"], _rate(f"above.{name}", above[name], wrong))
            rates[name] = Tiered(rate.base, (*rate.tiers, tier)) if isinstance(rate, Tiered) else Tiered(rate, (tier,))
    return rates


def _names_of_rates(table: Mapping[str, Any]) -> list[str]:
    return [name for name in (*PER_MILLION, *PER_THOUSAND) if name in table]


def _rate(name: str, value: Any, wrong: _Wrong) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        unit = "thousand" if name in PER_THOUSAND else "million tokens"
        raise wrong(f"{name} must be a number of US dollars per {unit}, 0 or more, not {value!r}")
    return float(value)


def _tables_above(tables: Any, wrong: _Wrong) -> list[dict[str, Any]]:
    """Return the `[[price.above]]` tables in the order of their tokens."""
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise wrong("above must be tables that begin with [[price.above]]")
    for table in tables:
        if unknown := sorted(table.keys() - {*PER_MILLION, "tokens"}):
            raise wrong(f"unknown key above.{unknown[0]}; the keys are tokens, {', '.join(PER_MILLION)}")
        tokens = table.get("tokens")
        if isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 0:
            raise wrong("above.tokens must be the number of input tokens above which these rates are paid")
    return sorted(tables, key=lambda table: table["tokens"])


def _moment(name: str, value: Any, wrong: _Wrong) -> int | None:
    """Return a date as UTC nanoseconds, None for None."""
    if value is None:
        return None
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime.combine(value, time(), UTC)
    if not isinstance(value, datetime):
        raise wrong(f"{name} must be a date, such as {name} = 2026-07-01 (UTC), without quotation marks")
    moment = value.replace(tzinfo=UTC) if value.tzinfo is None else value
    return max(0, int(moment.timestamp()) * 10**9)
