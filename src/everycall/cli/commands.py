"""The command line of everycall: its commands, their arguments, and the exit codes.

Exit codes: 0 on success; 1 if the command failed, with one line on standard error that says what to do; 2 for an
invalid command line; 130 after Ctrl-C. Each command imports what it needs when it runs, so `everycall --help` is quick.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn, TypeAlias

from everycall._version import __version__
from everycall.errors import ConfigurationError, EverycallError
from everycall.semconv import DEFAULT_PORT, DEFAULT_PROJECT

__all__ = ["build_parser", "main"]

DONE, FAILED, MISUSED, INTERRUPTED = 0, 1, 2, 130
ROLES = ("read", "write", "admin")
UNPRICED = ("allow", "refuse")
NO_LIMIT = "none"


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line: what is wrong, and where the help is."""

    def error(self, message: str) -> NoReturn:
        self.exit(MISUSED, f"{self.prog}: {message} (see {self.prog} --help)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code. `argv` is the command line without the program's name."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    run: Callable[[argparse.Namespace], int] | None = getattr(arguments, "run", None)
    if run is None:
        arguments.parser.print_help()
        return MISUSED
    try:
        return run(arguments)
    except ConfigurationError as error:
        return _say(f"everycall: {error}", MISUSED)
    except EverycallError as error:
        return _say(f"everycall: {error}", FAILED)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # the reader has ended, as in `everycall ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line. A test parses the commands in the documentation with it."""
    parser = _Parser(
        prog="everycall",
        description="Every LLM call, on the record, once.",
        epilog="Run `everycall COMMAND --help` for the options of a command.",
        formatter_class=_Help,
    )
    parser.add_argument("--version", action="version", version=f"everycall {__version__}")
    parser.set_defaults(parser=parser)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", parser_class=_Parser)
    _add_demo(commands)
    _add_serve(commands)
    _add_ship(commands)
    _add_key(commands)
    _add_reprice(commands)
    _add_deploy(commands)
    return parser


class _Help(argparse.RawDescriptionHelpFormatter):
    """A help formatter with a column that is wide enough for our options."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=26, width=88)
        self._action_max_length = 14  # the longest command with its indent, which argparse does not count


_Commands: TypeAlias = "argparse._SubParsersAction[_Parser]"


def _add_command(commands: _Commands, name: str, summary: str, details: str) -> _Parser:
    parser = commands.add_parser(
        name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.\n\n{details}", formatter_class=_Help
    )
    parser.set_defaults(parser=parser)
    return parser


def _add_demo(commands: _Commands) -> None:
    parser = _add_command(
        commands,
        "demo",
        "try everycall on this machine, with a small local model",
        "Needs no API key and no network. Starts a server and a model, and calls the model in\n"
        "several ways: a deployed prompt twice (the second answer comes from the cache), a\n"
        "LangChain chain, nested and async functions, a function that fails, and calls with\n"
        "omitted inputs or outputs. Then it shows the records, and serves their page until\n"
        "Ctrl-C.",
    )
    parser.add_argument("--once", action="store_true", help="exit after the calls, with 0 if no record was lost")
    parser.add_argument(
        "--port", type=_port, default=0, metavar="N", help="port of the server (default: any free port)"
    )
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="data directory (default: `demo` in the state directory)"
    )
    parser.add_argument("--stand-in", action="store_true", help="use a fake model with fixed answers")
    parser.set_defaults(run=_demo)


def _add_serve(commands: _Commands) -> None:
    parser = _add_command(
        commands,
        "serve",
        "run the server",
        "The first start creates a local key, which programs of the same user find by\n"
        "themselves. The URL that it prints logs a browser in, once.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=_port, default=DEFAULT_PORT, metavar="N", help="default: %(default)s")
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="data directory (default: `data` in the state directory)"
    )
    parser.add_argument(
        "--prices", type=Path, metavar="FILE", help="your own prices (default: prices.toml in the data directory)"
    )
    parser.add_argument("--no-auth", action="store_true", help="require no key; on loopback addresses only")
    parser.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="another host name of the server, such as that of a proxy; may be repeated",
    )
    parser.add_argument(
        "--trusted-proxy",
        action="append",
        default=[],
        metavar="ADDRESS",
        help="address or network of a proxy to believe (X-Forwarded-Proto, X-Forwarded-Prefix); may be repeated",
    )
    parser.add_argument(
        "--root-path", default="", metavar="PATH", help="path under which a proxy serves it, such as /calls"
    )
    parser.add_argument(
        "--otlp-prefix",
        action="append",
        default=[],
        metavar="PATH",
        help="another path below which OpenTelemetry's senders post, such as /collector; may be repeated",
    )
    parser.set_defaults(run=_serve)


def _add_ship(commands: _Commands) -> None:
    parser = _add_command(
        commands,
        "ship",
        "deliver the records that ended processes left on disk",
        "Running processes deliver their own records and are skipped. Exits 0 if nothing is\n"
        "left, and 1 if some records could not be delivered: they are kept, and the table\n"
        "says where.",
    )
    parser.add_argument("--spool-dir", type=Path, metavar="DIR", help="default: all spools in the state directory")
    parser.add_argument("--endpoint", metavar="URL", help="default: the endpoint that the records were made for")
    parser.add_argument(
        "--api-key", metavar="KEY", help="default: EVERYCALL_API_KEY for EVERYCALL_ENDPOINT, else the local key"
    )
    parser.set_defaults(run=_ship)


def _add_key(commands: _Commands) -> None:
    parser = _add_command(
        commands,
        "key",
        "create, list, limit and revoke API keys",
        "The server stores the SHA-256 of a key, not the key.",
    )
    actions = parser.add_subparsers(title="commands", metavar="COMMAND", parser_class=_Parser)
    create = _add_command(actions, "create", "create a key and show it once", "It cannot be shown again.")
    create.add_argument("name", metavar="NAME", help="who or what uses the key")
    create.add_argument(
        "--project", default=DEFAULT_PROJECT, metavar="P", help="project of the key (default: %(default)s)"
    )
    create.add_argument("--role", choices=ROLES, default="write", help="default: %(default)s")
    create.set_defaults(run=_key_create)
    list_ = _add_command(
        actions, "list", "list keys, with limits and spending", "Spending counts completions since midnight UTC."
    )
    list_.set_defaults(run=_key_list)
    change = _add_command(actions, "set", "change the limits of a key", "They apply from its next request on.")
    change.set_defaults(run=_key_set)
    revoke = _add_command(actions, "revoke", "revoke a key for good", "Its next request is refused.")
    revoke.set_defaults(run=_key_revoke)
    for action in (change, revoke):
        action.add_argument("key", metavar="KEY", help="name or id of the key, or the first 8 or more digits of the id")
    for action in (create, change):
        action.add_argument(
            "--budget-usd-per-day", type=_usd, metavar="USD", help="limit of spending on completions, or `none`"
        )
        action.add_argument("--requests-per-minute", type=_rate, metavar="N", help="limit of completions, or `none`")
        action.add_argument(
            "--unpriced", choices=UNPRICED, help="what a key with a budget may do with models without a known price"
        )
    for action in (create, list_, change, revoke):
        action.add_argument(
            "--data", type=Path, metavar="DIR", help="data directory of a stopped server (default: ask the running one)"
        )


def _add_reprice(commands: _Commands) -> None:
    parser = _add_command(
        commands,
        "reprice",
        "recompute the cost of stored records with today's prices",
        "Shows the changes by model, and asks before it writes them. A cost that a client sent\n"
        "with its record is kept. Without this command, stored costs never change.",
    )
    parser.add_argument(
        "--since", required=True, metavar="TIME", help="records that started at or after this time (UTC)"
    )
    parser.add_argument("--until", metavar="TIME", help="records that started before this time")
    parser.add_argument("--project", metavar="P", help="default: all projects")
    parser.add_argument("--model", metavar="NAME", help="default: all models")
    parser.add_argument("--dry-run", action="store_true", help="show what would change, and write nothing")
    parser.add_argument("--yes", action="store_true", help="write without asking")
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="data directory of a stopped server (default: ask the running one)"
    )
    parser.set_defaults(run=_reprice)


def _add_deploy(commands: _Commands) -> None:
    from everycall.cli.deploy import add_deploy
    from everycall.cli.deployment import add_deployment

    add_deploy(_add_command, commands)
    add_deployment(_add_command, commands, _Parser)


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"invalid port {text!r}: use 1 to 65535, or 0 for any free port")
    return int(text)


def _usd(text: str) -> float | str:
    return _number(text, float, "a number of US dollars such as 5 or 0.25")


def _rate(text: str) -> float | str:
    return _number(text, int, "a whole number such as 60")


def _number(text: str, kind: type[float] | type[int], what: str) -> float | str:
    if text == NO_LIMIT:
        return text
    try:
        return kind(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not {what}, or {NO_LIMIT!r}") from None


def _limits(arguments: argparse.Namespace) -> dict[str, float | str | None]:
    """Return the limits on the command line, with None for those to remove."""
    options = {name: getattr(arguments, name) for name in ("budget_usd_per_day", "requests_per_minute", "unpriced")}
    return {name: None if value == NO_LIMIT else value for name, value in options.items() if value is not None}


def _demo(arguments: argparse.Namespace) -> int:
    from everycall.cli.extras import require

    require("demo", "server", "langchain")
    from everycall.demo.run import DemoOptions, run_demo

    return run_demo(
        DemoOptions(once=arguments.once, port=arguments.port, data_dir=arguments.data, stand_in=arguments.stand_in)
    )


def _serve(arguments: argparse.Namespace) -> int:
    from everycall.cli.extras import require

    require("serve", "server")
    from everycall.cli.serve import serve

    return serve(
        host=arguments.host,
        port=arguments.port,
        data_dir=arguments.data,
        no_auth=arguments.no_auth,
        prices=arguments.prices,
        hosts=tuple(arguments.allow_host),
        trusted_proxies=tuple(arguments.trusted_proxy),
        root_path=arguments.root_path.rstrip("/"),
        otlp_prefixes=tuple(prefix.rstrip("/") for prefix in arguments.otlp_prefix),
    )


def _ship(arguments: argparse.Namespace) -> int:
    from everycall.cli.ship import ship

    return ship(spool_dir=arguments.spool_dir, endpoint=arguments.endpoint, api_key=arguments.api_key)


def _key_create(arguments: argparse.Namespace) -> int:
    from everycall.cli.extras import require

    require("key create", "server")
    from everycall.cli.key import create_key

    return create_key(
        arguments.name,
        project=arguments.project,
        role=arguments.role,
        limits=_limits(arguments),
        data_dir=arguments.data,
    )


def _key_list(arguments: argparse.Namespace) -> int:
    from everycall.cli.extras import require

    require("key list", "server")
    from everycall.cli.key import list_keys

    return list_keys(data_dir=arguments.data)


def _key_set(arguments: argparse.Namespace) -> int:
    from everycall.cli.extras import require

    require("key set", "server")
    from everycall.cli.key import set_key

    limits = _limits(arguments)
    if not limits:
        raise ConfigurationError("name a limit to change: --budget-usd-per-day, --requests-per-minute or --unpriced")
    return set_key(arguments.key, limits=limits, data_dir=arguments.data)


def _key_revoke(arguments: argparse.Namespace) -> int:
    from everycall.cli.extras import require

    require("key revoke", "server")
    from everycall.cli.key import revoke_key

    return revoke_key(arguments.key, data_dir=arguments.data)


def _reprice(arguments: argparse.Namespace) -> int:
    from everycall.cli.extras import require

    require("reprice", "server")
    from everycall.cli.reprice import reprice

    return reprice(
        since=arguments.since,
        until=arguments.until,
        project=arguments.project,
        model=arguments.model,
        dry_run=arguments.dry_run,
        yes=arguments.yes,
        data_dir=arguments.data,
    )


def _say(message: str, code: int) -> int:
    sys.stderr.write(f"{message}\n")
    return code
