"""The command line: `everycall demo | serve | ship | key create`."""

from everycall.cli.commands import build_parser, main

__all__ = ["build_parser", "main"]
