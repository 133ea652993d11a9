"""Where everycall keeps things on this machine: one state directory for each user, and the local key in it.

The SDK, the commands and the server read the same places, so a user's programs find that user's server without any
set-up.
"""

from __future__ import annotations

import os
from pathlib import Path

from everycall.errors import ConfigurationError

__all__ = ["data_dir", "local_key_path", "spool_root", "state_dir"]


def state_dir() -> Path:
    """Return `$EVERYCALL_HOME`, else `$XDG_STATE_HOME/everycall`, else `~/.local/state/everycall`. Creates nothing.

    Never a temporary directory: what is kept here must survive a restart of the machine. Raise `ConfigurationError` if
    none is set and the user has no home directory, as in a container that runs under an unknown user id.
    """
    directory = os.environ.get("EVERYCALL_HOME")
    base = os.environ.get("XDG_STATE_HOME")
    try:
        if directory:
            return Path(directory).expanduser()
        return (Path(base) if base else Path.home() / ".local" / "state") / "everycall"
    except RuntimeError as error:
        raise ConfigurationError(
            "this user has no home directory: set EVERYCALL_HOME to a directory that everycall may write to"
        ) from error


def local_key_path() -> Path:
    """Return the file that holds the local key (mode 0600), written by the server at its first start."""
    return state_dir() / "local.key"


def spool_root() -> Path:
    """Return the directory under which spools are kept, one folder per endpoint and project."""
    return state_dir() / "spool"


def data_dir() -> Path:
    """Return the server's default data directory: the SQLite database and its lock."""
    return state_dir() / "data"
