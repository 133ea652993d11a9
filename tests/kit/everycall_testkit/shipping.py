"""A later process that records nothing and delivers the files of ended processes, like `everycall ship`."""

from __future__ import annotations

import os
import subprocess
import sys


def ship(address: str, **environment: str) -> None:
    """Deliver to an endpoint what is left in this EVERYCALL_HOME; fails when anything is left after it."""
    command = [sys.executable, "-m", "everycall", "ship", "--endpoint", address]
    env = {**os.environ, **environment}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
