"""`everycall deploy PATH...`: what files say becomes what the server serves. Run twice, the second run changes nothing.

First all files are read, then the server is asked what each would change, and only when nothing is wrong with any of
them is the first one deployed. `commands` registers it by `add_deploy`.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from everycall._terminal import Column, Terminal
from everycall.cli.endpoint import Refused, ask
from everycall.cli.errors import CommandFailed
from everycall.settings import Settings

if TYPE_CHECKING:
    from everycall.cli.prompt_files import PromptFile

__all__ = ["Target", "add_deploy", "add_target", "deploy", "show_diff"]

TIMEOUT_S = 30.0
_COLUMNS = (
    Column("deployment", gives_way=True),
    Column("version", right=True),
    Column("outcome"),
    Column("changes", right=True),
    Column("file", gives_way=True),
)
_SIGNS = {"+": "green", "-": "red", "@": "cyan"}


@dataclass(frozen=True, slots=True)
class Target:
    """Which server and project. The key of the environment goes to the endpoint of the environment alone."""

    settings: Settings
    project: str | None

    @classmethod
    def build(cls, endpoint: str | None, project: str | None) -> Target:
        """Join what was given with the environment. Raises `ConfigurationError`."""
        environment = Settings.build()
        where = (endpoint or environment.endpoint).rstrip("/")
        key = environment.api_key if where == environment.endpoint else None
        named = project or os.environ.get("EVERYCALL_PROJECT") or None
        return cls(Settings(endpoint=where, api_key=key), named)

    def ask(
        self, path: str, body: Mapping[str, Any] | None = None, method: str | None = None, **query: object
    ) -> dict[str, Any]:
        """Return the server's answer. Raises `CommandFailed`, or `Refused` with what the server said."""
        given = {name: value for name, value in {"project": self.project, **query}.items() if value is not None}
        address = f"/api/deployments{path}" + (f"?{urlencode(given)}" if given else "")
        answer = ask(self.settings, address, body, method=method, failed="refuses this", timeout_s=TIMEOUT_S)
        if answer is None:
            raise CommandFailed(
                f"no server answers at {self.settings.endpoint}. Start one with `everycall serve`, or name another one "
                "with --endpoint."
            )
        return answer


def add_target(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which server and project."""
    parser.add_argument("--project", metavar="P", help="default: EVERYCALL_PROJECT, else the key's own")
    parser.add_argument("--endpoint", metavar="URL", help="default: EVERYCALL_ENDPOINT, else the local server")


def deploy(
    paths: Sequence[Path], target: Target, *, activate: bool = True, dry_run: bool = False, check: bool = False
) -> int:
    """Deploy what the files say, and show what was done; returns 0.

    With `dry_run` nothing is done, and the differences are shown; with `check` too, and it returns 1 when something
    would be done. Raises `CommandFailed`, before anything was changed, for whatever is wrong with any file.
    """
    screen = Terminal()
    files = _read(paths)
    planned = _plan(files, target, activate)
    only_look = dry_run or check
    done = planned if only_look else [_put(file, target, activate, dry_run=False) for file in files]
    screen.table(
        _COLUMNS,
        [
            [
                file.deployment_id,
                str(answer["deployment"]["version"]),
                answer["outcome"],
                str(len(answer["diff"]["changes"])) if answer["outcome"] != "unchanged" else None,
                str(file.path),
            ]
            for file, answer in zip(files, done, strict=True)
        ],
    )
    if only_look:
        for answer in done:
            if answer["outcome"] != "unchanged":
                show_diff(screen, answer["diff"]["unified"])
    changing = sum(answer["outcome"] != "unchanged" for answer in done)
    screen.line(_summary(changing, len(done), activate=activate, only_look=only_look))
    return 1 if check and changing else 0


def _read(paths: Sequence[Path]) -> list[PromptFile]:
    from everycall.cli.prompt_files import PromptFileError, find, load

    files: list[PromptFile] = []
    errors: list[str] = []
    try:
        found = find(paths)
    except PromptFileError as error:
        raise CommandFailed(str(error)) from None
    for path in found:
        try:
            files.append(load(path))
        except PromptFileError as error:
            errors.append(str(error))
    by_id: dict[str, PromptFile] = {}
    for file in files:
        other = by_id.setdefault(file.deployment_id, file)
        if other is not file:
            errors.append(f"{file.path}: its deployment_id {file.deployment_id!r} is that of {other.path} too")
    _stop(errors)
    return files


def _plan(files: Sequence[PromptFile], target: Target, activate: bool) -> list[dict[str, Any]]:
    """Ask the server what each file would change, so that nothing is changed when one of them cannot be."""
    errors: list[str] = []
    planned: list[dict[str, Any]] = []
    for file in files:
        try:
            planned.append(_put(file, target, activate, dry_run=True))
        except Refused as error:
            if error.status not in (400, 413, 422):
                raise
            line = file.line_of(str(error.problem.get("field") or ""))
            errors.append(f"{file.path}{f':{line}' if line else ''}: {error.problem.get('detail', error)}")
    _stop(errors)
    return planned


def _stop(errors: Sequence[str]) -> None:
    if errors:
        raise CommandFailed("nothing was deployed.\n" + "\n".join(f"  {error}" for error in errors))


def _put(file: PromptFile, target: Target, activate: bool, *, dry_run: bool) -> dict[str, Any]:
    body = {**file.body, "activate": activate}
    if target.project:
        body["project_name"] = target.project
    path = f"/{quote(file.deployment_id, safe='')}"
    return target.ask(path, body, "PUT", dry_run="true" if dry_run else None)


def show_diff(screen: Terminal, unified: str) -> None:
    """Write unified text in the colours of differences."""
    screen.line()
    for line in unified.splitlines():
        if line.startswith(("---", "+++")):
            screen.line(screen.style(_printable(line), "bold"))
        else:
            screen.line(screen.style(_printable(line), *([_SIGNS[line[:1]]] if line[:1] in _SIGNS else [])))
    screen.line()


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)


def _summary(changing: int, count: int, *, activate: bool, only_look: bool) -> str:
    if not changing:
        return f"Nothing to do: {'all are' if count > 1 else 'it is'} deployed as the files say."
    would = "would be " if only_look else ""
    served = "" if activate else ", without being served"
    rest = f", {count - changing} unchanged" if count > changing else ""
    return f"{changing} {would}deployed{served}{rest}."


def _run(arguments: argparse.Namespace) -> int:
    from everycall.cli.extras import require

    require("deploy", "deploy")
    target = Target.build(arguments.endpoint, arguments.project)
    return deploy(
        arguments.paths, target, activate=arguments.activate, dry_run=arguments.dry_run, check=arguments.check
    )


def add_deploy(add_command: Callable[..., Any], commands: Any) -> None:
    """Register the command."""
    parser = add_command(
        commands,
        "deploy",
        "serve the prompts of files: YAML under version control",
        "Each file is one deployment, with the file's name as its id; a folder stands for all\n"
        "*.yaml in it. Nothing is deployed when anything is wrong with any file. Running it\n"
        "again changes nothing. Its format is in docs/deployments.md.",
    )
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="a file, or a folder of them")
    parser.add_argument("--dry-run", action="store_true", help="show what would change, and change nothing")
    parser.add_argument("--check", action="store_true", help="as --dry-run, and exit 1 when something would change")
    parser.add_argument(
        "--activate",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="serve the new versions at once (default), or make them only",
    )
    add_target(parser)
    parser.set_defaults(run=_run)
