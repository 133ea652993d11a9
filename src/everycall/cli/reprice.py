"""`everycall reprice`: what stored records would cost by the prices now, as a table first; written after a yes.

The running server is asked page by page; when the local one is off, its store is opened, which then nobody else may
write. Either way the store does the writing.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from everycall import paths
from everycall._terminal import Column, Terminal
from everycall.cli.endpoint import ask
from everycall.cli.errors import CommandFailed
from everycall.errors import ConfigurationError
from everycall.server.api.query import parse_time
from everycall.server.options import DATABASE, ServerOptions, price_book
from everycall.server.problems import ProblemError
from everycall.server.repricing import ModelChange, RepricePage, joined, reprice_page
from everycall.server.store.errors import StoreError
from everycall.server.store.sqlite import SqliteStore
from everycall.server.store.values import RecordQuery
from everycall.settings import Settings

__all__ = ["reprice"]

TIMEOUT_S = 60.0
"""For one page: it is read, priced and written at once."""
_COLUMNS = (
    Column("model", gives_way=True),
    Column("provider", gives_way=True),
    Column("records", right=True),
    Column("changed", right=True),
    Column("was", right=True),
    Column("will be", right=True),
    Column("gained", right=True),
    Column("lost", right=True),
    Column("unpriced", right=True),
)
Pages = Callable[[str, bool, str | None], Awaitable[RepricePage]]
"""Looks at a page of a project's records, by its cursor, and with True writes what changes."""


def reprice(
    *,
    since: str,
    until: str | None = None,
    project: str | None = None,
    model: str | None = None,
    dry_run: bool = False,
    yes: bool = False,
    data_dir: Path | None = None,
) -> int:
    """Show what would change, ask, and write it. Returns 0 when it is done, or was a dry run, or nothing changes.

    Without a data directory the server at EVERYCALL_ENDPOINT (or the local one) is asked; when the local one does not
    run, its store is opened. Without `project`, all projects. Raises `CommandFailed` or `ConfigurationError`.
    """
    query = RecordQuery(
        since=_instant("since", since), until=None if until is None else _instant("until", until), model=model
    )
    settings = Settings.build()
    projects = None if data_dir is not None else _projects(settings)
    screen = Terminal()
    if projects is not None:

        async def asked(name: str, write: bool, cursor: str | None) -> RepricePage:
            return await asyncio.to_thread(_page, settings, name, query, write, cursor)

        return asyncio.run(_run(screen, asked, _chosen(projects, project), dry_run=dry_run, yes=yes))
    directory = (data_dir or paths.data_dir()).expanduser().absolute()
    if not (directory / DATABASE).exists():
        raise CommandFailed(f"no server answers at {settings.endpoint}, and {directory} holds no records")
    return asyncio.run(_offline(screen, directory, query, project, dry_run=dry_run, yes=yes))


async def _offline(
    screen: Terminal, directory: Path, query: RecordQuery, project: str | None, *, dry_run: bool, yes: bool
) -> int:
    prices = price_book(ServerOptions(directory))
    store = SqliteStore(directory / DATABASE, prices)
    try:
        await store.open()
    except StoreError as error:
        raise CommandFailed(f"cannot use the records in {directory}: {error}") from error
    try:

        async def opened(name: str, write: bool, cursor: str | None) -> RepricePage:
            return await reprice_page(store, prices, name, replace(query, cursor=cursor), write=write)

        return await _run(screen, opened, _chosen(await store.projects(), project), dry_run=dry_run, yes=yes)
    except StoreError as error:
        raise CommandFailed(f"cannot use the records in {directory}: {error}") from error
    finally:
        await store.close()


async def _run(screen: Terminal, pages: Pages, projects: list[str], *, dry_run: bool, yes: bool) -> int:
    changes = (await _all(pages, projects, write=False))[0]
    _show(screen, changes)
    changed = sum(change.changed for change in changes)
    if not changed or dry_run:
        screen.line("Nothing changes." if not changed else "A dry run: nothing was written.")
        return 0
    if not yes and not _agreed(screen, changed):
        return 1
    written = (await _all(pages, projects, write=True))[1]
    screen.line(f"Written: {written:,}.")
    return 0


async def _all(pages: Pages, projects: list[str], *, write: bool) -> tuple[tuple[ModelChange, ...], int]:
    found: tuple[ModelChange, ...] = ()
    written = 0
    for project in projects:
        cursor: str | None = None
        while True:
            page = await pages(project, write, cursor)
            found, written, cursor = joined((*found, *page.models)), written + page.written, page.next_cursor
            if cursor is None:
                break
    return found, written


def _show(screen: Terminal, changes: tuple[ModelChange, ...]) -> None:
    shown = [change for change in changes if change.changed]
    total = ModelChange("in all", None)
    for change in changes:
        total = total.plus(change)
    screen.table(_COLUMNS, [_row(change) for change in (*shown, total)])
    screen.line("US dollars. Gained, lost: records that have a price now, and that have none any more.")
    alike = len(changes) - len(shown)
    if alike:
        screen.line(f"{alike} {'model stays as it is' if alike == 1 else 'models stay as they are'}.")
    if total.kept:
        screen.line(f"Came with their cost, which stays: {total.kept:,}.")


def _row(change: ModelChange) -> list[str | None]:
    return [
        change.model,
        change.provider,
        f"{change.records:,}",
        f"{change.changed:,}",
        _dollars(change.old_cost),
        _dollars(change.new_cost),
        f"{change.newly_priced:,}",
        f"{change.now_unpriced:,}",
        f"{change.unpriced:,}",
    ]


def _dollars(value: float | None) -> str | None:
    return None if value is None else f"${value:,.6f}"


def _agreed(screen: Terminal, changed: int) -> bool:
    if not sys.stdin.isatty():
        raise CommandFailed(f"nothing was written: give --yes to write what changes ({changed:,} in all)")
    screen.out.write(f"Write what changes ({changed:,} in all)? [y/N] ")
    screen.out.flush()
    if sys.stdin.readline().strip().lower() in ("y", "yes"):
        return True
    screen.line("Nothing was written.")
    return False


def _chosen(projects: Any, project: str | None) -> list[str]:
    if project is None:
        return list(projects)
    if project not in projects:
        raise CommandFailed(f"there is no project {project!r}; there are: {', '.join(projects) or 'none'}")
    return [project]


def _projects(settings: Settings) -> list[str] | None:
    answer = ask(settings, "/api/projects", None, failed="does not tell its projects", timeout_s=TIMEOUT_S)
    if answer is None:
        return None
    return [str(name) for name in answer.get("projects", [])]


def _page(settings: Settings, project: str, query: RecordQuery, write: bool, cursor: str | None) -> RepricePage:
    body: dict[str, Any] = {"since": str(query.since), "project": project, "dry_run": not write}
    optional = {"until": None if query.until is None else str(query.until), "model": query.model, "cursor": cursor}
    body.update((name, value) for name, value in optional.items() if value is not None)
    answer = ask(settings, "/api/reprice", body, failed="priced nothing again", timeout_s=TIMEOUT_S)
    if answer is None:
        raise CommandFailed(f"{settings.endpoint} ended while it was asked; what was written stays. Run this again.")
    try:
        return msgspec.convert(answer, RepricePage)
    except msgspec.ValidationError as error:
        raise CommandFailed(f"{settings.endpoint} does not answer as a server of everycall does: {error}") from error


def _instant(name: str, text: str) -> int:
    try:
        return parse_time(name, text)
    except ProblemError as error:
        raise ConfigurationError(f"--{error.problem.detail}") from error
