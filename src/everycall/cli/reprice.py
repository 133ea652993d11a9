"""`everycall reprice`: recompute the cost of stored records with today's prices. Show the changes, ask, write them.

The command asks the running server, page by page. If the local server is not running, it opens the database itself.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from everycall import paths
from everycall._terminal import Column, Terminal
from everycall.cli.endpoint import request
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
"""The time for one page of records, which the server reads, prices and writes in one request."""
_COLUMNS = (
    Column("model", shrinks=True),
    Column("provider", shrinks=True),
    Column("records", right=True),
    Column("changed", right=True),
    Column("cost", right=True),
    Column("new cost", right=True),
    Column("gained", right=True),
    Column("lost", right=True),
    Column("unpriced", right=True),
)
Pages = Callable[[str, bool, str | None], Awaitable[RepricePage]]
"""`pages(project, write, cursor)` prices one page of a project's records, and writes the changes if `write`."""


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
    """Show what would change, ask, and write it.

    `since` and `until` are times such as `2026-01-01` (UTC); `project` and `model` restrict the records. Return 0 after
    writing, after a dry run, and if nothing changes, and 1 if the person says no. Raise `CommandFailed` or
    `ConfigurationError`.
    """
    query = RecordQuery(
        since=_instant("since", since), until=None if until is None else _instant("until", until), model=model
    )
    settings = Settings.build()
    projects = None if data_dir is not None else _projects(settings)
    screen = Terminal()
    if projects is not None:

        async def pages(name: str, write: bool, cursor: str | None) -> RepricePage:
            return await asyncio.to_thread(_page, settings, name, query, write, cursor)

        return asyncio.run(_run(screen, pages, _selected(projects, project), dry_run=dry_run, yes=yes))
    directory = (data_dir or paths.data_dir()).expanduser().absolute()
    if not (directory / DATABASE).exists():
        raise CommandFailed(f"no server is running at {settings.endpoint}, and there are no records in {directory}")
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

        async def pages(name: str, write: bool, cursor: str | None) -> RepricePage:
            return await reprice_page(store, prices, name, replace(query, cursor=cursor), write=write)

        return await _run(screen, pages, _selected(await store.projects(), project), dry_run=dry_run, yes=yes)
    except StoreError as error:
        raise CommandFailed(f"cannot use the records in {directory}: {error}") from error
    finally:
        await store.close()


async def _run(screen: Terminal, pages: Pages, projects: list[str], *, dry_run: bool, yes: bool) -> int:
    changes, _ = await _all(pages, projects, write=False)
    _show(screen, changes)
    count = sum(change.changed for change in changes)
    if not count or dry_run:
        screen.line("Nothing was written: this is a dry run." if count else "Nothing changes.")
        return 0
    if not yes and not _confirm(screen, count):
        return 1
    _, written_count = await _all(pages, projects, write=True)
    screen.line(f"Wrote the cost of {written_count:,} {'record' if written_count == 1 else 'records'}.")
    return 0


async def _all(pages: Pages, projects: list[str], *, write: bool) -> tuple[tuple[ModelChange, ...], int]:
    """Return the changes of all projects, by model, and how many records were written."""
    changes: tuple[ModelChange, ...] = ()
    written = 0
    for project in projects:
        cursor: str | None = None
        while True:
            page = await pages(project, write, cursor)
            changes, written, cursor = joined((*changes, *page.models)), written + page.written, page.next_cursor
            if cursor is None:
                break
    return changes, written


def _show(screen: Terminal, changes: tuple[ModelChange, ...]) -> None:
    rows = [change for change in changes if change.changed]
    total = ModelChange("total", None)
    for change in changes:
        total = total.plus(change)
    screen.table(_COLUMNS, [_row(change) for change in (*rows, total)])
    screen.line(
        "Costs are in US dollars. Gained: records that now have a price. Lost: records that no longer have one."
    )
    unchanged = len(changes) - len(rows)
    if unchanged:
        screen.line(f"{unchanged} {'model does' if unchanged == 1 else 'models do'} not change.")
    if total.kept:
        screen.line(f"Records that came with their own cost, which is kept: {total.kept:,}.")


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


def _confirm(screen: Terminal, count: int) -> bool:
    records = "1 record" if count == 1 else f"{count:,} records"
    if not sys.stdin.isatty():
        raise CommandFailed(f"nothing was written: add --yes to write the new cost of {records}")
    screen.out.write(f"Write the new cost of {records}? [y/N] ")
    screen.out.flush()
    if sys.stdin.readline().strip().lower() in ("y", "yes"):
        return True
    screen.line("Nothing was written.")
    return False


def _selected(projects: Iterable[str], project: str | None) -> list[str]:
    if project is None:
        return list(projects)
    names = list(projects)
    if project not in names:
        raise CommandFailed(f"there is no project {project!r}; the projects are: {', '.join(names) or '(none)'}")
    return [project]


def _projects(settings: Settings) -> list[str] | None:
    """Return the names of the server's projects, or None if the local server is not running."""
    answer = request(settings, "/api/projects", failure="did not list its projects", timeout_s=TIMEOUT_S)
    if answer is None:
        return None
    return [str(name) for name in answer.get("projects", [])]


def _page(settings: Settings, project: str, query: RecordQuery, write: bool, cursor: str | None) -> RepricePage:
    body: dict[str, Any] = {"since": str(query.since), "project": project, "dry_run": not write}
    optional = {"until": None if query.until is None else str(query.until), "model": query.model, "cursor": cursor}
    body.update((name, value) for name, value in optional.items() if value is not None)
    answer = request(settings, "/api/reprice", body, failure="did not reprice", timeout_s=TIMEOUT_S)
    if answer is None:
        raise CommandFailed(f"the server at {settings.endpoint} ended. What was written stays; run this command again.")
    try:
        return msgspec.convert(answer, RepricePage)
    except msgspec.ValidationError as error:
        raise CommandFailed(
            f"unexpected answer from {settings.endpoint}: {error}. Is it an everycall server?"
        ) from None


def _instant(name: str, text: str) -> int:
    try:
        return parse_time(name, text)
    except ProblemError as error:
        raise ConfigurationError(f"--{error.problem.detail}") from error
