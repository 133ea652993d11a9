"""The commands, their arguments and their exit codes; what each does is in the module beside this one.

Exit codes: 0 done; 1 it failed, with one line on standard error that says what to do; 2 the command line cannot be
understood; 130 ended by Ctrl-C. Nothing heavy is imported before a command is known: `everycall --help` is quick.
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
    """argparse with errors of one line: what is wrong, and where the help is."""

    def error(self, message: str) -> NoReturn:
        self.exit(MISUSED, f"{self.prog}: {message} (see {self.prog} --help)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code. `argv` is the command line without the program's name."""
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
    except BrokenPipeError:  # `everycall ... | head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line; the documents' examples are checked against it."""
    parser = _Parser(
        prog="everycall",
        description="Every LLM call, on the record, once.",
        epilog="`everycall COMMAND --help` explains one command.",
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
    """Help with the options in one column that is wide enough for ours."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=26, width=88)
        self._action_max_length = 14  # of a command's name with its indent, which argparse forgets


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
        "run all of it here: a server, a small local model, calls of every kind",
        "Needs no key and no network. Makes a deployed prompt's completion twice (the second\n"
        "from the cache), a LangChain chain, nested and async traced functions of which one\n"
        "fails, and calls whose inputs or outputs are omitted; then shows what was recorded\n"
        "and serves the page of it until Ctrl-C.",
    )
    parser.add_argument("--once", action="store_true", help="exit when the calls are made, 0 if none was lost")
    parser.add_argument("--port", type=_port, default=0, metavar="N", help="of the page (default: a free one)")
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="where records are kept (default: the state directory)"
    )
    parser.add_argument("--stand-in", action="store_true", help="use the deterministic stand-in, not the real model")
    parser.set_defaults(run=_demo)


def _add_serve(commands: _Commands) -> None:
    parser = _add_command(
        commands,
        "serve",
        "run the endpoint and its page",
        "The first start writes a local key that programs of this user find by themselves.\n"
        "The address that is printed logs a browser in, once.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=_port, default=DEFAULT_PORT, metavar="N", help="default: %(default)s")
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="where records are kept (default: the state directory)"
    )
    parser.add_argument(
        "--prices", type=Path, metavar="FILE", help="your own prices (default: prices.toml in the data directory)"
    )
    parser.add_argument("--no-auth", action="store_true", help="ask for no key; on a loopback address only")
    parser.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a further name it answers to, such as that of a proxy; may be repeated",
    )
    parser.add_argument(
        "--trusted-proxy",
        action="append",
        default=[],
        metavar="ADDRESS",
        help="address or network of a proxy to believe (X-Forwarded-Proto, X-Forwarded-Prefix); may be repeated",
    )
    parser.add_argument(
        "--root-path", default="", metavar="PATH", help="path below which a proxy serves it, such as /calls"
    )
    parser.set_defaults(run=_serve)


def _add_ship(commands: _Commands) -> None:
    parser = _add_command(
        commands,
        "ship",
        "deliver what ended processes left in their spools",
        "Living processes deliver their own and are left alone. Exits 0 when nothing is left,\n"
        "1 when something could not be delivered; it is kept, and the table says where.",
    )
    parser.add_argument("--spool-dir", type=Path, metavar="DIR", help="default: all spools in the state directory")
    parser.add_argument("--endpoint", metavar="URL", help="default: where the records were bound for")
    parser.add_argument(
        "--api-key", metavar="KEY", help="default: that of the environment for its endpoint, else the local key"
    )
    parser.set_defaults(run=_ship)


def _add_key(commands: _Commands) -> None:
    parser = _add_command(
        commands,
        "key",
        "make API keys, and limit what they spend",
        "A key is stored as its SHA-256, never itself.",
    )
    actions = parser.add_subparsers(title="commands", metavar="COMMAND", parser_class=_Parser)
    create = _add_command(actions, "create", "make a key and show it once", "It cannot be shown again.")
    create.add_argument("name", metavar="NAME", help="for people: who or what will use it")
    create.add_argument("--project", default=DEFAULT_PROJECT, metavar="P", help="it works in (default: %(default)s)")
    create.add_argument("--role", choices=ROLES, default="write", help="default: %(default)s")
    create.set_defaults(run=_key_create)
    of_spending = "Completions are counted since midnight UTC; cached ones are free."
    listed = _add_command(actions, "list", "show keys, what they may spend and have spent", of_spending)
    listed.set_defaults(run=_key_list)
    change = _add_command(actions, "set", "change what a key may spend", "It counts from the key's next request on.")
    change.set_defaults(run=_key_set)
    revoke = _add_command(actions, "revoke", "refuse a key for good", "From the next request on.")
    revoke.set_defaults(run=_key_revoke)
    for action in (change, revoke):
        action.add_argument("key", metavar="KEY", help="its name, its id, or the id's first 8 or more digits")
    for action in (create, change):
        action.add_argument("--budget-usd-per-day", type=_usd, metavar="USD", help="for completions; none: no limit")
        action.add_argument("--requests-per-minute", type=_rate, metavar="N", help="completions; none: no limit")
        action.add_argument("--unpriced", choices=UNPRICED, help="under a budget, models without a known price")
    for action in (create, listed, change, revoke):
        action.add_argument(
            "--data", type=Path, metavar="DIR", help="of a server that does not run (default: ask the running one)"
        )


def _add_reprice(commands: _Commands) -> None:
    parser = _add_command(
        commands,
        "reprice",
        "find the cost of stored records again, by the prices of now",
        "Shows what changes, by model, and asks before it writes. A cost that came with its\n"
        "record stays. Records keep the price they have until this is asked for.",
    )
    parser.add_argument("--since", required=True, metavar="TIME", help="started at or after, such as 2026-01-01 (UTC)")
    parser.add_argument("--until", metavar="TIME", help="started before")
    parser.add_argument("--project", metavar="P", help="default: all")
    parser.add_argument("--model", metavar="NAME", help="default: all")
    parser.add_argument("--dry-run", action="store_true", help="show what would change and write nothing")
    parser.add_argument("--yes", action="store_true", help="write without asking")
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="of a server that does not run (default: ask the running one)"
    )
    parser.set_defaults(run=_reprice)


def _add_deploy(commands: _Commands) -> None:
    from everycall.cli.deploy import add_deploy
    from everycall.cli.deployment import add_deployment

    add_deploy(_add_command, commands)
    add_deployment(_add_command, commands, _Parser)


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port: give 0 (any free one) to 65535")
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
    """Return the limits that were given; None where one is to go."""
    given = {name: getattr(arguments, name) for name in ("budget_usd_per_day", "requests_per_minute", "unpriced")}
    return {name: None if value == NO_LIMIT else value for name, value in given.items() if value is not None}


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
        limited=_limits(arguments),
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

    limited = _limits(arguments)
    if not limited:
        raise ConfigurationError("give what to change: --budget-usd-per-day, --requests-per-minute or --unpriced")
    return set_key(arguments.key, limited=limited, data_dir=arguments.data)


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
