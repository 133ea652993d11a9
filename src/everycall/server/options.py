"""The options of a server: one frozen value, checked when it is created. The CLI, the tests and `demo` create it."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from everycall._pricing.price_book import PriceBook
from everycall.errors import ConfigurationError
from everycall.semconv import DEFAULT_PORT
from everycall.server.provider_settings import ProviderSettings

__all__ = ["DATABASE", "PRICES_FILE", "ServerOptions", "is_base_path", "is_loopback", "price_book"]

DATABASE = "everycall.db"
"""The name of the database file in the data directory."""
PRICES_FILE = "prices.toml"

_BASE_PATH = re.compile(r"(?:/[A-Za-z0-9._~-]+)+")
_BASE_PATH_CHARS_MAX = 256


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """The options of a server.

    `port` 0 takes any free port. `hosts` are further names under which browsers and clients may reach the server, such
    as a public name behind a proxy. `trusted_proxies` are addresses or networks (`10.0.0.0/8`) of proxies. They are
    believed when they say that a browser came over TLS (`X-Forwarded-Proto`, which makes its cookie `Secure`) and below
    which path they serve (`X-Forwarded-Prefix`). `root_path` is such a path for all requests, as `/calls`.
    `otlp_prefixes` are further paths below which OpenTelemetry's senders post, such as `/collector`.
    `prices` is a TOML file of your own prices; the default is `prices.toml` in the data directory, if it exists.
    `local_key` replaces the key file, for tests and containers.

    Raise `ConfigurationError` for invalid options, such as `no_auth` on an address that other machines can reach.
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
    root_path: str = ""
    otlp_prefixes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65_535:
            raise ConfigurationError(f"invalid port {self.port}: use 1 to 65535, or 0 for any free port")
        if self.no_auth and not is_loopback(self.host):
            raise ConfigurationError(
                f"without authentication the server listens on loopback addresses only, not on {self.host!r}: "
                "leave out --no-auth, or use --host 127.0.0.1"
            )
        for proxy in self.trusted_proxies:
            try:
                ipaddress.ip_network(proxy, strict=False)
            except ValueError as error:
                raise ConfigurationError(
                    f"invalid address of a proxy {proxy!r}: use an IP address, or a network such as 10.0.0.0/8"
                ) from error
        if self.root_path and not is_base_path(self.root_path):
            raise ConfigurationError(
                f"invalid root path {self.root_path!r}: use a path such as /calls, without a slash at its end"
            )
        for prefix in self.otlp_prefixes:
            if not is_base_path(prefix):
                raise ConfigurationError(
                    f"invalid OTLP prefix {prefix!r}: use a path such as /collector, without a slash at its end"
                )
        if self.local_key is not None and len(self.local_key) < 16:
            raise ConfigurationError(
                "the local key is too short: use at least 16 characters, or leave it out to have one created"
            )


def price_book(options: ServerOptions) -> PriceBook:
    """Return the prices of a server. Raise `ConfigurationError` if the file of its own prices cannot be used."""
    return PriceBook(options.prices or options.data_dir / PRICES_FILE, required=options.prices is not None)


def is_loopback(host: str) -> bool:
    """Return whether a host is a loopback address, or the name `localhost`. Other names are not resolved."""
    name = host.strip("[]").lower().rstrip(".")
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def is_base_path(text: str) -> bool:
    """Return whether a text is a path such as `/calls` or `/team/calls`, without a slash at its end."""
    segments = text.split("/")
    return (
        len(text) <= _BASE_PATH_CHARS_MAX
        and _BASE_PATH.fullmatch(text) is not None
        and not any(segment in (".", "..") for segment in segments)
    )
