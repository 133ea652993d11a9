"""Where everycall keeps things on this machine: one state directory per user, and the local key in it.

Layer 0: the SDK, the CLI and the server read the same places, so that a server started by a user and the programs of
the same user meet without any set-up.
"""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["data_dir", "local_key_path", "spool_root", "state_dir"]


def state_dir() -> Path:
    """Return `$EVERYCALL_HOME`, else `$XDG_STATE_HOME/everycall`, else `~/.local/state/everycall`. Makes nothing.

    Never a temporary directory: what is kept here must survive a restart of the machine.
    """
    own = os.environ.get("EVERYCALL_HOME")
    if own:
        return Path(own).expanduser()
    base = os.environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local" / "state") / "everycall"


def local_key_path() -> Path:
    """Return the file that holds the local key (mode 0600), written by the server at its first start."""
    return state_dir() / "local.key"


def spool_root() -> Path:
    """Return the directory under which spools are kept, one folder per endpoint and project."""
    return state_dir() / "spool"


def data_dir() -> Path:
    """Return the server's default data directory: the SQLite database and its lock."""
    return state_dir() / "data"
