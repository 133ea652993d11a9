"""`everycall serve`: reads what a server needs from the arguments and the environment, and says where it is."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from everycall import paths
from everycall._terminal import Terminal
from everycall.server.options import ServerOptions
from everycall.server.provider_settings import provider_settings
from everycall.server.runner import run

__all__ = ["PROVIDERS_FILE", "serve"]

PROVIDERS_FILE = "providers.toml"


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
    environment: Mapping[str, str] | None = None,
) -> int:
    """Serve until SIGINT or SIGTERM; returns 0. Raises `ConfigurationError` for what cannot be served so."""
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
        root_path=root_path,
        prices=prices,
    )
    screen = Terminal()

    def started(address: str, login_address: str) -> None:
        screen.line(f"{screen.style('everycall', 'bold')} serves {address}")
        screen.line()
        if no_auth:
            screen.line(f"  page       {screen.style(address, 'cyan')}  (asks for no key: --no-auth)")
        else:
            screen.line(f"  page       {screen.style(login_address, 'cyan')}")
            screen.line("             logs a browser in, once")
            screen.line(f"  local key  {paths.local_key_path()}")
            screen.line("             programs of this user on this machine find it by themselves")
        screen.line(f"  records    {directory}")
        screen.line(f"  providers  {', '.join(sorted(providers)) or _no_provider(directory)}")
        screen.line()
        screen.line("Ctrl-C ends it.")

    run(options, started)
    return 0


def _no_provider(directory: Path) -> str:
    return f"none: set OPENAI_API_KEY or ANTHROPIC_API_KEY, or write {directory / PROVIDERS_FILE}, and start again"
