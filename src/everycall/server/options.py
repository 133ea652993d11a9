"""What a server is started with: one frozen value, checked when it is made. The CLI, the tests and `demo` build it."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from everycall._pricing.price_book import PriceBook
from everycall.errors import ConfigurationError
from everycall.semconv import DEFAULT_PORT
from everycall.server.provider_settings import ProviderSettings

__all__ = ["PRICES_FILE", "ServerOptions", "is_loopback", "price_book"]

PRICES_FILE = "prices.toml"


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """How to serve.

    `port` 0 takes any free one. `hosts` are further names by which browsers and clients may address the server (a
    service name, a public name behind a proxy); IP addresses and the names of the bound host need no mention.
    `trusted_proxies` are the addresses or networks (`10.0.0.0/8`) of proxies that are believed when they say that a
    browser came over TLS (`X-Forwarded-Proto`): its cookie is then `Secure`.
    `prices` is a file of one's own prices (TOML); without one, `prices.toml` in the data directory, if it is there.
    `local_key` takes the place of the key file, for tests and containers. Raises `ConfigurationError` when `no_auth`
    is asked for on an address that others can reach, or the port is not one.
    """

    data_dir: Path
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    no_auth: bool = False
    local_key: str | None = field(default=None, repr=False)
    providers: Mapping[str, ProviderSettings] = field(default_factory=dict, repr=False)
    hosts: tuple[str, ...] = ()
    trusted_proxies: tuple[str, ...] = ()
    prices: Path | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65_535:
            raise ConfigurationError(f"port {self.port} is not a port: give one from 1 to 65535, or 0 for any free one")
        if self.no_auth and not is_loopback(self.host):
            raise ConfigurationError(
                f"without authentication the server listens on a loopback address only, and {self.host!r} is none: "
                "leave out --no-auth, or serve on 127.0.0.1"
            )
        for proxy in self.trusted_proxies:
            try:
                ipaddress.ip_network(proxy, strict=False)
            except ValueError as error:
                raise ConfigurationError(
                    f"{proxy!r} is not an address of a proxy: give an IP address, or a network such as 10.0.0.0/8"
                ) from error
        if self.local_key is not None and len(self.local_key) < 16:
            raise ConfigurationError(
                "the local key is too short: give at least 16 characters, or none to have one made"
            )


def price_book(options: ServerOptions) -> PriceBook:
    """Return the prices of a server. Raises `ConfigurationError` for a file of own prices that cannot be used."""
    return PriceBook(options.prices or options.data_dir / PRICES_FILE, required=options.prices is not None)


def is_loopback(host: str) -> bool:
    """Return whether a host name or address reaches this machine only. Names other than `localhost` do not count."""
    name = host.strip("[]").lower().rstrip(".")
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
