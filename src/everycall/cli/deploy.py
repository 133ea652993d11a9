"""`everycall deploy PATH...`: deploy prompts from YAML files. Running it again changes nothing.

The command reads all files, asks the server for a dry run of each, and deploys only if every file is valid.
`commands` registers it with `add_deploy`.
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
from everycall.cli.endpoint import RequestRefused, request
from everycall.cli.errors import CommandFailed
from everycall.settings import Settings

if TYPE_CHECKING:
    from everycall.cli.prompt_files import PromptFile

__all__ = ["Target", "add_deploy", "add_target", "deploy", "show_diff"]

TIMEOUT_S = 30.0
_COLUMNS = (
    Column("deployment", shrinks=True),
    Column("version", right=True),
    Column("outcome"),
    Column("changes", right=True),
    Column("file", shrinks=True),
)
_SIGNS = {"+": "green", "-": "red", "@": "cyan"}


@dataclass(frozen=True, slots=True)
class Target:
    """The server and the project of a command. EVERYCALL_API_KEY is sent to EVERYCALL_ENDPOINT only."""

    settings: Settings
    project: str | None

    @classmethod
    def build(cls, endpoint: str | None, project: str | None) -> Target:
        """Return the target from the options and the environment. Raise `ConfigurationError` if they are invalid."""
        settings = Settings.build()
        url = (endpoint or settings.endpoint).rstrip("/")
        key = settings.api_key if url == settings.endpoint else None
        return cls(Settings(endpoint=url, api_key=key), project or os.environ.get("EVERYCALL_PROJECT") or None)

    def request(
        self, path: str, body: Mapping[str, Any] | None = None, method: str | None = None, **query: object
    ) -> dict[str, Any]:
        """Return the server's answer. Raise `RequestRefused` if it is an error, and `CommandFailed` if none comes."""
        parameters = {name: value for name, value in {"project": self.project, **query}.items() if value is not None}
        url = f"/api/deployments{path}" + (f"?{urlencode(parameters)}" if parameters else "")
        answer = request(self.settings, url, body, method=method, failure="refused this", timeout_s=TIMEOUT_S)
        if answer is None:
            raise CommandFailed(
                f"no server is running at {self.settings.endpoint}. Start one with `everycall serve`, or name another "
                "one with --endpoint."
            )
        return answer


def add_target(parser: argparse.ArgumentParser) -> None:
    """Add the options that name the server and the project."""
    parser.add_argument("--project", metavar="P", help="default: EVERYCALL_PROJECT, else the key's project")
    parser.add_argument("--endpoint", metavar="URL", help="default: EVERYCALL_ENDPOINT, else the local server")


def deploy(
    paths: Sequence[Path], target: Target, *, activate: bool = True, dry_run: bool = False, check: bool = False
) -> int:
    """Deploy the files, show what changed, and return 0.

    With `dry_run` or `check`, show what would change and change nothing; `check` returns 1 if something would change.
    Raise `CommandFailed` if any file is invalid, before anything is changed.
    """
    screen = Terminal()
    files = _read(paths)
    answers = _plan(files, target, activate)
    preview = dry_run or check
    if not preview:
        answers = [_put(file, target, activate, dry_run=False) for file in files]
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
            for file, answer in zip(files, answers, strict=True)
        ],
    )
    changes = [answer for answer in answers if answer["outcome"] != "unchanged"]
    if preview:
        for answer in changes:
            show_diff(screen, answer["diff"]["unified"])
    screen.line(_summary(len(changes), len(answers), activate=activate, preview=preview))
    return 1 if check and changes else 0


def _read(paths: Sequence[Path]) -> list[PromptFile]:
    from everycall.cli.prompt_files import PromptFileError, find, load

    files: list[PromptFile] = []
    errors: list[str] = []
    try:
        prompt_paths = find(paths)
    except PromptFileError as error:
        raise CommandFailed(str(error)) from None
    for path in prompt_paths:
        try:
            files.append(load(path))
        except PromptFileError as error:
            errors.append(str(error))
    by_id: dict[str, PromptFile] = {}
    for file in files:
        other = by_id.setdefault(file.deployment_id, file)
        if other is not file:
            errors.append(f"{file.path}: {other.path} has the same deployment_id, {file.deployment_id!r}")
    _raise_if_any(errors)
    return files


def _plan(files: Sequence[PromptFile], target: Target, activate: bool) -> list[dict[str, Any]]:
    """Ask the server what each file would change, so that nothing changes if one of them is invalid."""
    errors: list[str] = []
    answers: list[dict[str, Any]] = []
    for file in files:
        try:
            answers.append(_put(file, target, activate, dry_run=True))
        except RequestRefused as error:
            if error.status not in (400, 413, 422):
                raise
            line = file.line_of(str(error.problem.get("field") or ""))
            errors.append(f"{file.path}{f':{line}' if line else ''}: {error.problem.get('detail', error)}")
    _raise_if_any(errors)
    return answers


def _raise_if_any(errors: Sequence[str]) -> None:
    if errors:
        raise CommandFailed("nothing was deployed.\n" + "\n".join(f"  {error}" for error in errors))


def _put(file: PromptFile, target: Target, activate: bool, *, dry_run: bool) -> dict[str, Any]:
    body = {**file.body, "activate": activate}
    if target.project:
        body["project_name"] = target.project
    path = f"/{quote(file.deployment_id, safe='')}"
    return target.request(path, body, "PUT", dry_run="true" if dry_run else None)


def show_diff(screen: Terminal, unified: str) -> None:
    """Write a unified diff in colour."""
    screen.line()
    for line in unified.splitlines():
        if line.startswith(("---", "+++")):
            screen.line(screen.style(_printable(line), "bold"))
        else:
            screen.line(screen.style(_printable(line), *([_SIGNS[line[:1]]] if line[:1] in _SIGNS else [])))
    screen.line()


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)


def _summary(changed: int, count: int, *, activate: bool, preview: bool) -> str:
    if not changed:
        return "Nothing to do: the server already serves these files."
    verb = "would be deployed" if preview else "deployed"
    inactive = "" if activate else ", not activated"
    rest = f", {count - changed} unchanged" if count > changed else ""
    return f"{changed} {verb}{inactive}{rest}."


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
        "deploy prompts from YAML files",
        "Each file is one deployment, and its name is the deployment's id. A folder stands for\n"
        "all *.yaml and *.yml files in it. If any file is invalid, nothing is deployed. Running\n"
        "the command again changes nothing. docs/deployments.md describes the format.",
    )
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="a file, or a folder of files")
    parser.add_argument("--dry-run", action="store_true", help="show what would change, and change nothing")
    parser.add_argument("--check", action="store_true", help="like --dry-run, but exit 1 if something would change")
    parser.add_argument(
        "--activate",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="serve the new versions at once (default), or only create them",
    )
    add_target(parser)
    parser.set_defaults(run=_run)
