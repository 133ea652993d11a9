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

__all__ = ["CommandFailed", "build_parser", "main"]

DONE, FAILED, MISUSED, INTERRUPTED = 0, 1, 2, 130
ROLES = ("read", "write", "admin")


class CommandFailed(EverycallError):
    """A command could not do its work; the message is the line for the person who ran it."""


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
    return parser


class _Help(argparse.RawDescriptionHelpFormatter):
    """Help with the options in one column that is wide enough for ours."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=26, width=88)


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
    parser.add_argument("--no-auth", action="store_true", help="ask for no key; on a loopback address only")
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
    parser = _add_command(commands, "key", "make API keys", "Keys are stored as their SHA-256, never themselves.")
    actions = parser.add_subparsers(title="commands", metavar="COMMAND", parser_class=_Parser)
    create = _add_command(actions, "create", "make a key and show it once", "It cannot be shown again.")
    create.add_argument("name", metavar="NAME", help="for people: who or what will use it")
    create.add_argument("--project", default=DEFAULT_PROJECT, metavar="P", help="it works in (default: %(default)s)")
    create.add_argument("--role", choices=ROLES, default="write", help="default: %(default)s")
    create.add_argument(
        "--data", type=Path, metavar="DIR", help="of a server that does not run (default: ask the running one)"
    )
    create.set_defaults(run=_key_create)


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port: give 0 (any free one) to 65535")
    return int(text)


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

    return serve(host=arguments.host, port=arguments.port, data_dir=arguments.data, no_auth=arguments.no_auth)


def _ship(arguments: argparse.Namespace) -> int:
    from everycall.cli.ship import ship

    return ship(spool_dir=arguments.spool_dir, endpoint=arguments.endpoint, api_key=arguments.api_key)


def _key_create(arguments: argparse.Namespace) -> int:
    from everycall.cli.extras import require

    require("key create", "server")
    from everycall.cli.key import create_key

    return create_key(arguments.name, project=arguments.project, role=arguments.role, data_dir=arguments.data)


def _say(message: str, code: int) -> int:
    sys.stderr.write(f"{message}\n")
    return code
