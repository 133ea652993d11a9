"""`everycall deployment ...`: what is deployed, what it was before, and which version is served.

The commands ask a running server over its API. `commands` registers them by `add_deployment`.
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
    """Show what is served, or what is not; returns 0."""
    screen = Terminal()
    found = list(_all(target, active))
    if not found:
        screen.line("No deployment is served here." if active else "Every deployment is served.")
        return 0
    columns = (
        Column("deployment", gives_way=True),
        Column("name", gives_way=True),
        Column("version", right=True),
        Column("model"),
        Column("made (UTC)"),
        Column("by"),
    )
    screen.table(
        columns,
        [
            [
                one["deployment_id"], one["name"], str(one["version"]), one["model"], _time(one["created_unix_nano"]),
                one["created_by"] or None,
            ]
            for one in found
        ],
    )  # fmt: skip
    return 0


def show(target: Target, deployment_id: str, *, version: int | None) -> int:
    """Write a version as the file that it would be; returns 0."""
    from everycall.cli.prompt_files import written

    screen = Terminal()
    screen.out.write(written(target.ask(_path(deployment_id), version=version)))
    return 0


def history(target: Target, deployment_id: str) -> int:
    """Show which version was served from when on, and by whom; returns 0."""
    screen = Terminal()
    found = target.ask(f"{_path(deployment_id)}/activations")["activations"]
    columns = (Column("since (UTC)"), Column("version", right=True), Column("by", gives_way=True))
    rows = [
        [_time(one["unix_nano"]), str(one["version"]) if one["version"] else "none", one["by"] or None] for one in found
    ]
    if rows:
        screen.table(columns, rows)
    else:
        screen.line("None of its versions has been served yet.")
    return 0


def diff(target: Target, deployment_id: str, *, older: int | None, newer: int | None) -> int:
    """Show what differs between two versions; returns 0."""
    screen = Terminal()
    versions: dict[str, Any] = {"from": older, "to": newer}
    found = target.ask(f"{_path(deployment_id)}/diff", **versions)
    if found["unified"]:
        show_diff(screen, found["unified"])
    else:
        screen.line(f"Versions {found['from']} and {found['to']} say the same.")
    return 0


def activate(target: Target, deployment_id: str, version: int) -> int:
    """Serve a version; returns 0."""
    target.ask(f"{_path(deployment_id)}/activate", {"version": version})
    return _served(deployment_id, version)


def roll_back(target: Target, deployment_id: str) -> int:
    """Serve what was served before; returns 0."""
    return _served(deployment_id, target.ask(f"{_path(deployment_id)}/roll-back", {})["version"])


def archive(target: Target, deployment_id: str) -> int:
    """Serve none of its versions; returns 0."""
    target.ask(f"{_path(deployment_id)}/archive", {})
    Terminal().line(f"{deployment_id} is archived: completions with it are refused until a version is activated.")
    return 0


def pull(target: Target, folder: Path, *, overwrite: bool) -> int:
    """Write what is served as files; returns 0, or 1 when a file that says something else was left as it is."""
    from everycall.cli.prompt_files import ID_PATTERN, PromptFileError, load, written

    screen = Terminal()
    rows: list[Sequence[str | None]] = []
    kept = 0
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for one in _all(target, active=True):
            deployment_id = str(one["deployment_id"])
            path = folder / f"{deployment_id}.yaml"
            text = written({**one, "deployment_id": None})
            if not ID_PATTERN.match(deployment_id):
                rows.append([deployment_id, None, "skipped: no file can have this name"])
                continue
            outcome = "written"
            if path.exists():
                try:
                    same = load(path).body == _body_of(text, path)
                except PromptFileError:
                    same = False
                outcome = "unchanged" if same else "overwritten" if overwrite else "kept: it says something else"
                kept += outcome.startswith("kept")
            if outcome in ("written", "overwritten"):
                path.write_text(text, encoding="utf-8")
            rows.append([deployment_id, str(path), outcome])
    except OSError as error:
        raise CommandFailed(f"cannot write into {folder}: {error.strerror or error}") from error
    if rows:
        screen.table((Column("deployment", gives_way=True), Column("file", gives_way=True), Column("outcome")), rows)
    else:
        screen.line("No deployment is served here.")
    if kept:
        screen.line(f"{kept} kept as they are; --overwrite takes the server's version.")
    return 1 if kept else 0


def _body_of(text: str, path: Path) -> Any:
    from everycall.cli.prompt_files import parse

    return parse(text, path).body


def _all(target: Target, active: bool) -> Iterator[dict[str, Any]]:
    cursor: str | None = None
    while True:
        page = target.ask("", active=str(active).lower(), cursor=cursor, limit=50)
        yield from page["deployments"]
        cursor = page["next_cursor"]
        if cursor is None:
            return


def _served(deployment_id: str, version: int) -> int:
    Terminal().line(f"{deployment_id} is served as version {version}.")
    return 0


def _path(deployment_id: str) -> str:
    return f"/{quote(deployment_id, safe='')}"


def _time(unix_nano: int) -> str:
    return datetime.fromtimestamp(unix_nano // 10**9, UTC).strftime("%Y-%m-%d %H:%M:%S")


def add_deployment(add_command: Callable[..., Any], commands: Any, parser_class: type) -> None:
    """Register the commands."""
    parser = add_command(
        commands, "deployment", "look at what is deployed, and change what is served", "A version never changes."
    )
    actions = parser.add_subparsers(title="commands", metavar="COMMAND", parser_class=parser_class)

    def add(name: str, summary: str, details: str, run: Callable[[Target, argparse.Namespace], int]) -> Any:
        action = add_command(actions, name, summary, details)
        if name not in ("list", "pull"):
            action.add_argument("deployment", metavar="ID", help="its deployment_id")
        add_target(action)

        def running(arguments: argparse.Namespace) -> int:
            from everycall.cli.extras import require

            require(f"deployment {name}", "deploy")
            return run(Target.build(arguments.endpoint, arguments.project), arguments)

        action.set_defaults(run=running)
        return action

    listed = add(
        "list",
        "show what is served",
        "By name, with the version that is served.",
        lambda target, given: list_deployments(target, active=not given.inactive),
    )
    listed.add_argument("--inactive", action="store_true", help="those of which no version is served")
    shown = add(
        "show",
        "write a version as a file",
        "To standard output, as `everycall deploy` reads it.",
        lambda target, given: show(target, given.deployment, version=given.version),
    )
    shown.add_argument("--version", type=int, metavar="N", help="default: the one that is served")
    add(
        "history",
        "show which version was served when",
        "The latest first, with the name of the key that changed it.",
        lambda target, given: history(target, given.deployment),
    )
    compared = add(
        "diff",
        "show what differs between two versions",
        "The newest and the one before it, unless others are named.",
        lambda target, given: diff(target, given.deployment, older=given.older, newer=given.newer),
    )
    compared.add_argument("--from", dest="older", type=int, metavar="N", help="default: the one before; 0: nothing")
    compared.add_argument("--to", dest="newer", type=int, metavar="N", help="default: the newest")
    activating = add(
        "activate",
        "serve a version",
        "It counts from the next completion on.",
        lambda target, given: activate(target, given.deployment, given.version),
    )
    activating.add_argument("version", type=int, metavar="VERSION", help="its number")
    add(
        "roll-back",
        "serve what was served before",
        "Done again, what was served before that.",
        lambda target, given: roll_back(target, given.deployment),
    )
    add(
        "archive",
        "serve none of its versions any more",
        "Completions with it are refused. Activating a version brings it back.",
        lambda target, given: archive(target, given.deployment),
    )
    pulled = add(
        "pull",
        "write what is served as files",
        "One for each deployment. Deploying them again changes nothing. Exits 1 when a file\n"
        "was kept because it says something else.",
        lambda target, given: pull(target, given.folder, overwrite=given.overwrite),
    )
    pulled.add_argument("folder", type=Path, metavar="DIR", help="where they are written")
    pulled.add_argument("--overwrite", action="store_true", help="also over files that say something else")
