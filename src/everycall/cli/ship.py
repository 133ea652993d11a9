"""`everycall ship`: delivers the records that ended processes left in their spools, and reports on each folder.

Running processes hold a lock on their spool files; those are skipped. Records that cannot be delivered are kept.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from everycall import limits
from everycall._delivery.batch import Stuck, ship_segments
from everycall._delivery.folder import REFUSED_DIR, SUFFIX, target_of
from everycall._delivery.segment import adoptable
from everycall._delivery.spool import client_name
from everycall._delivery.transport import Transport
from everycall._ledger import Balance
from everycall._terminal import Column, Terminal
from everycall._version import SDK
from everycall.errors import ConfigurationError, Loss
from everycall.settings import Settings

__all__ = ["FolderReport", "ship"]

COLUMNS = (
    Column("folder", shrinks=True),
    Column("endpoint", shrinks=True),
    Column("records", right=True),
    Column("shipped", right=True),
    Column("refused", right=True),
    Column("left", right=True),
)


@dataclass(slots=True)
class FolderReport:
    """What happened to the records of one folder. `damaged` lines had a wrong checksum."""

    directory: Path
    endpoint: str | None
    records: int = 0
    shipped: int = 0
    refused: int = 0
    damaged: int = 0
    files_in_use: int = 0
    problem: str | None = None

    @property
    def left(self) -> int:
        """The records that are still in the folder."""
        return self.records - self.shipped - self.refused - self.damaged


def ship(*, spool_dir: Path | None = None, endpoint: str | None = None, api_key: str | None = None) -> int:
    """Deliver what ended processes left. Return 0 if nothing is left, damaged or refused, else 1.

    Raise `ConfigurationError` if the directory does not exist or the endpoint is not a URL.
    """
    screen = Terminal()
    root = Settings.build(spool_dir=spool_dir).spool_root()
    if spool_dir is not None and not root.is_dir():
        raise ConfigurationError(f"there is no directory {root}; --spool-dir takes a directory that contains spools")
    folders = list(_folders(root))
    own = _owned_by(_trusted_owners(root), folders)
    reports = [_ship_folder(directory, endpoint, api_key) for directory in own]
    rows = [report for report in reports if report.records or report.problem]
    if rows:
        cells = [
            [row.directory.name, row.endpoint, *map(_count, (row.records, row.shipped, row.refused, row.left))]
            for row in rows
        ]
        screen.table(COLUMNS, cells)
    else:
        screen.line(f"Nothing to ship in {root}.")
    for row in rows:
        for note in _notes(row):
            screen.line(f"  {note}")
    in_use = sum(report.files_in_use for report in reports)
    if in_use:
        screen.line(f"  Skipped {in_use} spool file{'s' if in_use > 1 else ''} of running processes.")
    if len(own) < len(folders):
        screen.line(f"  Skipped {len(folders) - len(own)} of {len(folders)} folders: they belong to other users.")
    return 1 if any(report.left or report.refused or report.damaged or report.problem for report in reports) else 0


def _folders(root: Path) -> Iterator[Path]:
    """Yield the spool folders in a directory, and the directory itself if it is one."""
    try:
        if target_of(root) is not None or any(root.glob(f"*{SUFFIX}")):
            yield root
        yield from sorted(
            path for path in root.iterdir() if path.is_dir() and not path.is_symlink() and path.name != REFUSED_DIR
        )
    except OSError as error:
        if root.exists():
            raise ConfigurationError(f"cannot read {root}: {error.strerror}") from error


def _owned_by(owners: set[int], folders: list[Path]) -> list[Path]:
    own = []
    for directory in folders:
        with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
            if directory.lstat().st_uid in owners:
                own.append(directory)
    return own


def _trusted_owners(root: Path) -> set[int]:
    """Return whose folders are shipped: this user's, and those of the owner of the directory.

    Anybody who may write to a shared directory can put records there, which would be sent with this user's key.
    """
    try:
        return {root.stat().st_uid, os.geteuid()}
    except (OSError, AttributeError):  # there is no directory, or there are no user ids
        return {0}


def _ship_folder(directory: Path, endpoint: str | None, api_key: str | None) -> FolderReport:
    target = target_of(directory)
    report = FolderReport(directory, endpoint or (target[0] if target else None))
    files = len(list(directory.glob(f"*{SUFFIX}")))
    if report.endpoint is None:
        if files:
            report.problem = "the folder does not name its endpoint; pass --endpoint"
        return report
    settings = _settings(report.endpoint, api_key)
    transport = Transport(
        settings.endpoint,
        compress=not settings.on_loopback,
        client=client_name(),
        user_agent=SDK,
        requires_proof=lambda: settings.requires_proof,
    )
    adopted = 0
    segments = adoptable(directory)
    try:
        while group := list(itertools.islice(segments, limits.ADOPT_FILES_MAX)):
            adopted += len(group)
            pending = sum(segment.pending() for segment in group)
            if report.problem is not None:  # the endpoint could not be reached: only count
                report.records += pending
                for segment in group:
                    segment.release()
                continue
            try:
                delivered, losses = ship_segments(group, transport, settings.key(), Balance(0, 0, 0), directory)
                pending = 0
            except Stuck as stuck:
                report.problem = str(stuck)
                delivered, losses = stuck.outcome
            report.records += max(pending, delivered + sum(losses.values()))
            report.shipped += delivered
            report.refused += losses.get(Loss.REFUSED, 0)
            report.damaged += losses.get(Loss.SPOOL_CORRUPT, 0)
    finally:
        transport.close()
    report.files_in_use = files - adopted
    return report


def _settings(endpoint: str, api_key: str | None) -> Settings:
    """Return settings whose key may be sent: EVERYCALL_API_KEY goes to EVERYCALL_ENDPOINT and to no other address."""
    environment = Settings.build()
    environment_key = environment.api_key if endpoint.rstrip("/") == environment.endpoint else None
    return Settings(endpoint=endpoint.rstrip("/"), api_key=api_key or environment_key)


def _notes(report: FolderReport) -> Iterator[str]:
    if report.problem:
        yield f"{report.left or 'Its'} records stay in {report.directory}: {report.problem}"
    if report.refused:
        yield f"{report.refused} refused; they are in {report.directory / REFUSED_DIR}, with the reasons"
    if report.damaged:
        yield f"{report.damaged} damaged lines in {report.directory}: their checksums did not match"


def _count(value: int) -> str:
    return f"{value:,}"
