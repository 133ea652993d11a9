"""`everycall ship`: delivers the records that ended processes left in their spools; says what became of each folder.

A spool of a living process is locked by it and left alone. What cannot be delivered stays where it is.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from everycall._delivery.segment import SUFFIX, adoptable
from everycall._delivery.sender import Stuck as Stuck
from everycall._delivery.sender import ship_segment
from everycall._delivery.spool import REFUSED_DIR, target_of
from everycall._delivery.transport import Transport
from everycall._ledger import Balance
from everycall._terminal import Column, Terminal
from everycall._version import SDK
from everycall.errors import ConfigurationError, Loss
from everycall.settings import Settings

__all__ = ["Shipped", "ship"]

COLUMNS = (
    Column("folder", gives_way=True),
    Column("endpoint", gives_way=True),
    Column("records", right=True),
    Column("shipped", right=True),
    Column("refused", right=True),
    Column("left", right=True),
)


@dataclass(slots=True)
class Shipped:
    """What became of one folder's records. `damaged` lines had a wrong checksum; `in_use`: files of the living."""

    directory: Path
    endpoint: str | None
    records: int = 0
    shipped: int = 0
    refused: int = 0
    damaged: int = 0
    in_use: int = 0
    trouble: str | None = None

    @property
    def left(self) -> int:
        """Records that are still in the folder."""
        return self.records - self.shipped - self.refused - self.damaged


def ship(*, spool_dir: Path | None = None, endpoint: str | None = None, api_key: str | None = None) -> int:
    """Deliver what is there; returns 0 when nothing is left and nothing was refused, else 1.

    Raises `ConfigurationError` for a directory that is not there, or an endpoint that is no address.
    """
    screen = Terminal()
    root = Settings.build(spool_dir=spool_dir).spool_root()
    if spool_dir is not None and not root.is_dir():
        raise ConfigurationError(f"there is no directory {root}; --spool-dir names one that has spools")
    found = [_ship_folder(directory, endpoint, api_key) for directory in _folders(root)]
    told = [one for one in found if one.records or one.trouble]
    if told:
        cells = [
            [one.directory.name, one.endpoint, *map(_count, (one.records, one.shipped, one.refused, one.left))]
            for one in told
        ]
        screen.table(COLUMNS, cells)
    else:
        screen.line(f"Nothing to ship in {root}.")
    for one in told:
        for note in _notes(one):
            screen.line(f"  {note}")
    living = sum(one.in_use for one in found)
    if living:
        screen.line(f"  {living} spool file{'s' if living > 1 else ''} of living processes left to them.")
    return 1 if any(one.left or one.refused or one.damaged or one.trouble for one in found) else 0


def _folders(root: Path) -> Iterator[Path]:
    """The spool folders below a directory; the directory itself when it is one."""
    try:
        if target_of(root) is not None or any(root.glob(f"*{SUFFIX}")):
            yield root
        yield from sorted(path for path in root.iterdir() if path.is_dir() and path.name != REFUSED_DIR)
    except OSError as error:
        if root.exists():
            raise ConfigurationError(f"cannot read {root}: {error.strerror}") from error


def _ship_folder(directory: Path, endpoint: str | None, api_key: str | None) -> Shipped:
    target = target_of(directory)
    result = Shipped(directory, endpoint or (target[0] if target else None))
    files = len(list(directory.glob(f"*{SUFFIX}")))
    if result.endpoint is None:
        if files:
            result.trouble = "it does not say where its records were bound for: give --endpoint"
        return result
    settings = _settings(result.endpoint, api_key)
    client = f"{socket.gethostname()}:{os.getpid()}:{time.time_ns() // 1_000_000}"
    transport = Transport(settings.endpoint, compress=not settings.on_loopback, client=client, user_agent=SDK)
    taken = 0
    try:
        for segment in adoptable(directory):
            taken += 1
            if result.trouble is not None:
                result.records += segment.pending()
                segment.release()
                continue
            pending = segment.pending()
            result.records += pending
            try:
                delivered, lost = ship_segment(segment, transport, settings.key(), Balance(0, 0, 0), directory)
            except Stuck as stuck:
                result.trouble = str(stuck)
                continue
            result.shipped += delivered
            result.refused += lost.get(Loss.REFUSED, 0)
            result.damaged += lost.get(Loss.SPOOL_CORRUPT, 0)
    finally:
        transport.close()
    result.in_use = files - taken
    return result


def _settings(endpoint: str, api_key: str | None) -> Settings:
    """The key of the environment goes to the endpoint of the environment alone, never to another one."""
    environment = Settings.build()
    own = environment.api_key if endpoint.rstrip("/") == environment.endpoint else None
    return Settings(endpoint=endpoint.rstrip("/"), api_key=api_key or own)


def _notes(one: Shipped) -> Iterator[str]:
    if one.trouble:
        yield f"{one.left or 'Its'} records are kept in {one.directory}: {one.trouble}"
    if one.refused:
        yield f"{one.refused} refused, with the reasons, in {one.directory / REFUSED_DIR}"
    if one.damaged:
        yield f"{one.damaged} damaged lines in {one.directory}: their checksum did not match"


def _count(value: int) -> str:
    return f"{value:,}"
