"""`everycall serve`: reads the options of a server from the arguments and the environment, and runs it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from everycall import paths
from everycall._terminal import Terminal
from everycall._version import __version__
from everycall.errors import ConfigurationError
from everycall.semconv import DEFAULT_PROJECT
from everycall.server.options import DATABASE, ServerOptions, price_book
from everycall.server.provider_settings import ProviderSettings, provider_settings
from everycall.server.store.errors import StoreError
from everycall.server.store.opening import FileLock

__all__ = ["PROVIDERS_FILE", "serve"]

PROVIDERS_FILE = "providers.toml"
KEY_VARIABLES = {"openai": "OPENAI_API_KEY", "anthropic": "ANTHROPIC_API_KEY", "azure": "AZURE_OPENAI_API_KEY"}


def serve(
    *,
    host: str,
    port: int,
    data_dir: Path | None = None,
    no_auth: bool = False,
    prices: Path | None = None,
    hosts: tuple[str, ...] = (),
    trusted_proxies: tuple[str, ...] = (),
    root_path: str = "",
    otlp_prefixes: tuple[str, ...] = (),
    environment: Mapping[str, str] | None = None,
) -> int:
    """Serve until SIGINT or SIGTERM; return 0. Raise `ConfigurationError` if the options or the data cannot be used."""
    directory = (data_dir or paths.data_dir()).expanduser().absolute()
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    providers = provider_settings(os.environ if environment is None else environment, directory / PROVIDERS_FILE)
    options = ServerOptions(
        directory,
        host=host,
        port=port,
        no_auth=no_auth,
        providers=providers,
        hosts=hosts,
        trusted_proxies=trusted_proxies,
        prices=prices,
        root_path=root_path,
        otlp_prefixes=otlp_prefixes,
    )
    price_book(options)  # report an invalid file of prices before anything else
    _check_free(directory)
    screen = Terminal()
    _introduce(screen, options)
    from everycall.server.runner import run  # takes most of a second to import: after the introduction

    def started(address: str, login_address: str) -> None:
        screen.line()
        screen.line(f"{screen.style('everycall', 'bold')} serves {address}")
        if no_auth:
            screen.line(f"  page       {screen.style(address, 'cyan')}  (no key needed: --no-auth)")
        else:
            screen.line(f"  page       {screen.style(login_address, 'cyan')}")
            screen.line("             This address logs a browser in, once.")
            screen.line(f"  local key  {paths.local_key_path()}")
            screen.line("             Programs of this user on this machine find it by themselves.")
        screen.line()
        screen.line("Ctrl-C ends it.")

    run(options, started)
    return 0


def _check_free(directory: Path) -> None:
    """Raise `ConfigurationError` if another server uses the data directory, before anything is said or imported."""
    lock = FileLock(directory / DATABASE)
    try:
        lock.take()
    except (OSError, StoreError) as error:
        raise ConfigurationError(f"cannot use the data directory {directory}: {error}") from error
    lock.release()


def _introduce(screen: Terminal, options: ServerOptions) -> None:
    """Say what the server is going to do, before the slow part of the start."""
    host = f"[{options.host}]" if ":" in options.host.strip("[]") else options.host
    port = options.port or "any free port"
    screen.line(f"{screen.style('everycall', 'bold')} {__version__}")
    screen.line(f"  address    {host}:{port}{options.root_path}")
    screen.line(f"  data       {options.data_dir}")
    screen.line(f"  project    {DEFAULT_PROJECT}, for programs and keys that name no other")
    if not options.providers:
        screen.line("  providers  none: set OPENAI_API_KEY or ANTHROPIC_API_KEY,")
        screen.line(f"             or write {options.data_dir / PROVIDERS_FILE}, and start again")
    for number, name in enumerate(sorted(options.providers)):
        screen.line(f"  {'' if number else 'providers':<9}  {name}: {_key_state(options.providers[name])}")


def _key_state(settings: ProviderSettings) -> str:
    if settings.api_key:
        return "has a key"
    if settings.kind == "openai_compatible" or (settings.kind == "openai" and settings.base_url):
        return "no key, as local servers need none"
    variable = KEY_VARIABLES.get(settings.name)
    remedy = f"set {variable}" if variable else f"set api_key in {PROVIDERS_FILE}"
    return f"NO KEY: requests have to bring their own, or {remedy}"
