"""Delivers a process's records to one destination: a ledger, a spool, a sender and a transport.

The runtime has one pipeline for current calls, and keeps earlier ones until they are drained.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from everycall import _guard
from everycall._delivery import folder
from everycall._delivery.sender import Sender
from everycall._delivery.spool import Spool
from everycall._delivery.transport import Transport
from everycall._ledger import Balance, Ledger
from everycall._version import SDK
from everycall.errors import ConfigurationError, Loss
from everycall.settings import Settings

__all__ = ["Pipeline"]


class Pipeline:
    """Ledger, spool and sender for one endpoint, project and spool directory.

    `redirect` gets the lines of calls that end after the pipeline was closed.
    """

    __slots__ = ("ledger", "pid", "sender", "settings", "spool")

    def __init__(self, settings: Settings, redirect: Callable[[Pipeline, bytes], None]) -> None:
        self.settings = settings
        self.pid = os.getpid()
        self.ledger = Ledger()
        self.spool = Spool(_spool_root(settings), settings.endpoint, settings.project_name, self.ledger)
        self.spool.redirect = lambda line: redirect(self, line)
        self.sender = Sender(self.spool, self._transport, lambda: self.settings.key())

    def _transport(self) -> Transport:
        settings = self.settings
        return Transport(
            settings.endpoint,
            compress=not settings.on_loopback,
            client=self.spool.client,
            user_agent=SDK,
            requires_proof=lambda: self.settings.requires_proof,
        )

    def is_for(self, settings: Settings) -> bool:
        """Return whether records made with these settings have the same destination and spool directory."""
        destination = (self.settings.endpoint, self.settings.project_name, self.spool.root)
        return destination == (settings.endpoint, settings.project_name, _spool_root(settings))

    @property
    def is_open(self) -> bool:
        """Whether records can be appended, in this process."""
        return not self.spool.is_closed

    def close(self, timeout_s: float) -> None:
        """Deliver as much as possible in time, stop the sender and close the spool. The rest stays in files."""
        deadline = time.monotonic() + timeout_s
        if timeout_s > 0:
            self.sender.flush(timeout_s * 0.8, is_last=True)
        self.sender.stop(max(deadline - time.monotonic() - 0.1 * timeout_s, 0.0))
        self.spool.close()

    def leftovers(self) -> str | None:
        """Return the text of the exit line: what was not delivered, why, and where it is. None if nothing is left."""
        balance = self.spool.balance()
        parts = []
        if balance.spooled:
            reason = self.sender.problem
            parts.append(
                f"{balance.spooled} of {balance.recorded} records not delivered yet{f' ({reason})' if reason else ''}; "
                f"kept in {self.spool.directory}, sent by the next process or `everycall ship`"
            )
        if balance.lost:
            reasons = ", ".join(f"{name}: {count}" for name, count in sorted(balance.dropped.items()))
            failure = self.sender.problem if Loss.SPOOL_UNWRITABLE.value in balance.dropped else None
            parts.append(
                f"{balance.lost} of {balance.recorded} records lost ({reasons}){f': {failure}' if failure else ''}"
            )
        return "; ".join(parts) or None

    def balance(self) -> Balance:
        """Return the balance sheet of this pipeline's records."""
        return self.spool.balance()

    def abandon_in_child(self) -> None:
        """In a forked child: close the inherited files and connection. The parent delivers its own records."""
        self.spool.abandon_in_child()
        self.sender.release_in_child()


def _spool_root(settings: Settings) -> Path | None:
    """Return the spool directory. If there can be none, warn and return None: records are then held in memory."""
    if not folder.is_supported():
        reason = "this platform has no file locks"
    else:
        try:
            root = settings.spool_root()
            if b"\0" not in os.fsencode(root):
                return root
            reason = "the path of the spool directory has a NUL in it"
        except UnicodeEncodeError:
            reason = f"the locale has no encoding for the path {str(settings.spool_dir)!a}"
        except (ConfigurationError, OSError, RuntimeError) as error:
            reason = str(error)
    _guard.warn_once("spool", "everycall has no spool: %s. Records are held in memory and sent from there", reason)
    return None
