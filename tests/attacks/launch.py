"""A nursery of real servers: it imports the server once and forks one process for each that a test asks for.

Run by `conftest.py`, spoken to in lines of JSON. A start costs tens of milliseconds instead of the second that the
imports take, so that a test can afford hundreds. Each child has an audit hook that writes what it opens, runs and
connects to into a file, and its standard error in another one.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

from everycall import limits
from everycall.errors import EverycallError
from everycall.server.options import ServerOptions
from everycall.server.provider_settings import ProviderSettings
from everycall.server.runner import run

WATCHED = frozenset(
    {"open", "os.listdir", "os.scandir", "os.system", "os.exec", "os.posix_spawn", "os.remove", "os.rename", "os.link",
     "subprocess.Popen", "sqlite3.connect", "socket.connect", "socket.getaddrinfo", "compile", "exec"}
)  # fmt: skip


def watch(path: str) -> None:
    """Write each watched event of this process to a file, as a line of JSON."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event in WATCHED:
            shown = [value if isinstance(value, str) else repr(value)[:200] for value in args[:3]]
            os.write(descriptor, json.dumps([event, *shown]).encode() + b"\n")

    sys.addaudithook(hook)


def serve(asked: dict[str, Any], tell: int) -> None:
    """Be one server until a signal ends it."""
    log = os.open(asked["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(descriptor, target)
    if asked.get("audit"):
        watch(asked["audit"])
    if "open_files" in asked:
        resource.setrlimit(resource.RLIMIT_NOFILE, (asked["open_files"],) * 2)
    for name, value in asked.get("limits", {}).items():
        setattr(limits, name, value)
    providers = {name: ProviderSettings(name, **values) for name, values in asked.get("providers", {}).items()}
    options = ServerOptions(
        data_dir=Path(asked["data_dir"]),
        port=asked.get("port", 0),
        local_key=asked["key"],
        providers=providers,
        hosts=tuple(asked.get("hosts", ())),
        trusted_proxies=tuple(asked.get("trusted_proxies", ())),
    )

    def started(address: str, login: str) -> None:
        os.write(tell, json.dumps([address, login]).encode())

    try:
        run(options, started)
    except EverycallError as error:
        sys.exit(f"{type(error).__name__}: {error}")


def start(asked: dict[str, Any]) -> dict[str, Any]:
    """Fork a server and return its process id and, once it accepts requests, its address."""
    hear, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: no server outlives its nursery
        os.close(hear)
        serve(asked, tell)
        sys.exit(0)
    os.close(tell)
    with os.fdopen(hear, "rb") as told:
        line = told.read1()
    address, login = json.loads(line) if line else (None, None)
    return {"pid": pid, "address": address, "login": login}


def main() -> None:
    """Answer commands until the input ends: start a server, wait for the end of one."""
    for line in sys.stdin:
        asked = json.loads(line)
        if "wait" in asked:
            _, status = os.waitpid(asked["wait"], 0)
            answer = {"code": os.waitstatus_to_exitcode(status)}
        else:
            answer = start(asked)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
