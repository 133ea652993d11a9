"""`everycall deployment ...`: list deployments, compare their versions, and choose the version that is served.

The commands ask a running server over its API. `commands` registers them with `add_deployment`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from everycall._terminal import Column, Terminal
from everycall.cli.deploy import Target, add_target, show_diff
from everycall.cli.errors import CommandFailed

__all__ = ["add_deployment"]


def list_deployments(target: Target, *, active: bool) -> int:
    """Show the deployments that are active, or those that are not, and return 0."""
    screen = Terminal()
    deployments = list(_all(target, active))
    if not deployments:
        screen.line("There is no active deployment." if active else "There is no inactive deployment.")
        return 0
    columns = (
        Column("deployment", shrinks=True),
        Column("name", shrinks=True),
        Column("version", right=True),
        Column("model"),
        Column("created (UTC)"),
        Column("by"),
    )
    screen.table(
        columns,
        [
            [
                deployment["deployment_id"],
                deployment["name"],
                str(deployment["version"]),
                deployment["model"],
                _time(deployment["created_unix_nano"]),
                deployment["created_by"] or None,
            ]
            for deployment in deployments
        ],
    )
    return 0


def show(target: Target, deployment_id: str, *, version: int | None) -> int:
    """Write a version to standard output, in the format that `everycall deploy` reads, and return 0."""
    from everycall.cli.prompt_files import written

    screen = Terminal()
    screen.out.write(written(target.request(_path(deployment_id), version=version)))
    return 0


def history(target: Target, deployment_id: str) -> int:
    """Show which version was active since when, with who activated it, and return 0."""
    screen = Terminal()
    activations = target.request(f"{_path(deployment_id)}/activations")["activations"]
    columns = (Column("since (UTC)"), Column("version", right=True), Column("by", shrinks=True))
    rows = [
        [_time(entry["unix_nano"]), str(entry["version"]) if entry["version"] else "none", entry["by"] or None]
        for entry in activations
    ]
    if rows:
        screen.table(columns, rows)
    else:
        screen.line("No version has been active yet.")
    return 0


def diff(target: Target, deployment_id: str, *, older: int | None, newer: int | None) -> int:
    """Show the differences between two versions, and return 0."""
    screen = Terminal()
    versions: dict[str, Any] = {"from": older, "to": newer}
    answer = target.request(f"{_path(deployment_id)}/diff", **versions)
    if answer["unified"]:
        show_diff(screen, answer["unified"])
    else:
        screen.line(f"Versions {answer['from']} and {answer['to']} are the same.")
    return 0


def activate(target: Target, deployment_id: str, version: int) -> int:
    """Activate a version, and return 0."""
    target.request(f"{_path(deployment_id)}/activate", {"version": version})
    return _report_active(deployment_id, version)


def roll_back(target: Target, deployment_id: str) -> int:
    """Activate the version that was active before, and return 0."""
    return _report_active(deployment_id, target.request(f"{_path(deployment_id)}/roll-back", {})["version"])


def archive(target: Target, deployment_id: str) -> int:
    """Deactivate all versions, and return 0."""
    target.request(f"{_path(deployment_id)}/archive", {})
    Terminal().line(f"{deployment_id} is archived: its completions are refused until a version is activated.")
    return 0


def pull(target: Target, folder: Path, *, overwrite: bool) -> int:
    """Write the active deployments as files. Return 0, or 1 if a file with other content was kept."""
    from everycall.cli.prompt_files import ID_PATTERN, written

    screen = Terminal()
    rows: list[Sequence[str | None]] = []
    kept_count = 0
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for deployment in _all(target, active=True):
            deployment_id = str(deployment["deployment_id"])
            if not ID_PATTERN.match(deployment_id):
                rows.append([deployment_id, None, "skipped: the id cannot be a file name"])
                continue
            path = folder / f"{deployment_id}.yaml"
            outcome = _write(path, written({**deployment, "deployment_id": None}), overwrite=overwrite)
            kept_count += outcome.startswith("kept")
            rows.append([deployment_id, str(path), outcome])
    except OSError as error:
        raise CommandFailed(f"cannot write into {folder}: {error.strerror or error}") from error
    if rows:
        screen.table((Column("deployment", shrinks=True), Column("file", shrinks=True), Column("outcome")), rows)
    else:
        screen.line("There is no active deployment.")
    if kept_count:
        screen.line(f"{kept_count} kept; --overwrite replaces them with the server's version.")
    return 1 if kept_count else 0


def _write(path: Path, text: str, *, overwrite: bool) -> str:
    """Write a deployment's file, unless one with other content is there and must be kept; return the outcome."""
    from everycall.cli.prompt_files import PromptFileError, load, parse

    outcome = "written"
    if path.exists():
        try:
            if load(path).body == parse(text, path).body:
                return "unchanged"
        except PromptFileError:
            pass  # an invalid file has other content
        if not overwrite:
            return "kept: its content differs"
        outcome = "overwritten"
    path.write_text(text, encoding="utf-8")
    return outcome


def _all(target: Target, active: bool) -> Iterator[dict[str, Any]]:
    cursor: str | None = None
    while True:
        page = target.request("", active=str(active).lower(), cursor=cursor, limit=50)
        yield from page["deployments"]
        cursor = page["next_cursor"]
        if cursor is None:
            return


def _report_active(deployment_id: str, version: int) -> int:
    Terminal().line(f"Version {version} of {deployment_id} is active.")
    return 0


def _path(deployment_id: str) -> str:
    return f"/{quote(deployment_id, safe='')}"


def _time(unix_nano: int) -> str:
    return datetime.fromtimestamp(unix_nano // 10**9, UTC).strftime("%Y-%m-%d %H:%M:%S")


def add_deployment(add_command: Callable[..., Any], commands: Any, parser_class: type) -> None:
    """Register the subcommands."""
    parser = add_command(
        commands,
        "deployment",
        "list deployments, and choose the version that is served",
        "Versions never change: each edit creates a new one.",
    )
    actions = parser.add_subparsers(title="commands", metavar="COMMAND", parser_class=parser_class)

    def add(name: str, summary: str, details: str, run: Callable[[Target, argparse.Namespace], int]) -> Any:
        action = add_command(actions, name, summary, details)
        if name not in ("list", "pull"):
            action.add_argument("deployment", metavar="ID", help="the deployment_id")
        add_target(action)

        def execute(arguments: argparse.Namespace) -> int:
            from everycall.cli.extras import require

            require(f"deployment {name}", "deploy")
            return run(Target.build(arguments.endpoint, arguments.project), arguments)

        action.set_defaults(run=execute)
        return action

    _add_readers(add)
    _add_switches(add)
    _add_pull(add)


def _add_readers(add: Callable[..., Any]) -> None:
    """Register the commands that show deployments."""
    command = add(
        "list",
        "list the active deployments",
        "Sorted by name, with the active version of each.",
        lambda target, options: list_deployments(target, active=not options.inactive),
    )
    command.add_argument("--inactive", action="store_true", help="list those without an active version instead")
    command = add(
        "show",
        "print a version as a file",
        "Prints the YAML that `everycall deploy` reads.",
        lambda target, options: show(target, options.deployment, version=options.version),
    )
    command.add_argument("--version", type=int, metavar="N", help="default: the active version")
    add(
        "history",
        "show which version was active when",
        "Newest first, with the name of the key that activated each version.",
        lambda target, options: history(target, options.deployment),
    )
    command = add(
        "diff",
        "show the differences between two versions",
        "Compares the newest version with the one before it, unless others are named.",
        lambda target, options: diff(target, options.deployment, older=options.older, newer=options.newer),
    )
    command.add_argument("--from", dest="older", type=int, metavar="N", help="default: the one before; 0: empty")
    command.add_argument("--to", dest="newer", type=int, metavar="N", help="default: the newest version")


def _add_switches(add: Callable[..., Any]) -> None:
    """Register the commands that change which version is served."""
    command = add(
        "activate",
        "activate a version",
        "The next completion uses it.",
        lambda target, options: activate(target, options.deployment, options.version),
    )
    command.add_argument("version", type=int, metavar="VERSION", help="the number of the version")
    add(
        "roll-back",
        "activate the version that was active before",
        "Run it again to go back one more version.",
        lambda target, options: roll_back(target, options.deployment),
    )
    add(
        "archive",
        "deactivate all versions of a deployment",
        "Its completions are refused until a version is activated again.",
        lambda target, options: archive(target, options.deployment),
    )


def _add_pull(add: Callable[..., Any]) -> None:
    command = add(
        "pull",
        "write the active deployments as files",
        "Writes one YAML file for each deployment; deploying them again changes nothing. Exits 1\n"
        "if a file was kept because its content differs.",
        lambda target, options: pull(target, options.folder, overwrite=options.overwrite),
    )
    command.add_argument("folder", type=Path, metavar="DIR", help="the folder to write to")
    command.add_argument("--overwrite", action="store_true", help="overwrite files whose content differs")
