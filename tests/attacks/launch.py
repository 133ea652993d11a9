"""A process that imports the server once and forks a real server process for each test that needs one.

`conftest.py` runs it and sends it commands as lines of JSON. A fork takes tens of milliseconds; an interpreter with
the imports takes a second. Each child has an audit hook that writes what it opens, runs and connects to into a file,
and its standard error goes to another file.
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
    """Write each watched audit event of this process to a file, as a line of JSON."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event in WATCHED:
            arguments = [value if isinstance(value, str) else repr(value)[:200] for value in args[:3]]
            os.write(descriptor, json.dumps([event, *arguments]).encode() + b"\n")

    sys.addaudithook(hook)


def serve(command: dict[str, Any], tell: int) -> None:
    """Run a server in this process until a signal ends it."""
    log = os.open(command["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(descriptor, target)
    if command.get("audit"):
        watch(command["audit"])
    if "open_files" in command:
        resource.setrlimit(resource.RLIMIT_NOFILE, (command["open_files"],) * 2)
    for name, value in command.get("limits", {}).items():
        setattr(limits, name, value)
    providers = {name: ProviderSettings(name, **values) for name, values in command.get("providers", {}).items()}
    options = ServerOptions(
        data_dir=Path(command["data_dir"]),
        port=command.get("port", 0),
        local_key=command["key"],
        providers=providers,
        hosts=tuple(command.get("hosts", ())),
        trusted_proxies=tuple(command.get("trusted_proxies", ())),
    )

    def started(address: str, login: str) -> None:
        os.write(tell, json.dumps([address, login]).encode())

    try:
        run(options, started)
    except EverycallError as error:
        sys.exit(f"{type(error).__name__}: {error}")


def start(command: dict[str, Any]) -> dict[str, Any]:
    """Fork a server; return its process id and, once it accepts requests, its address."""
    hear, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: no server outlives its nursery
        os.close(hear)
        serve(command, tell)
        sys.exit(0)
    os.close(tell)
    with os.fdopen(hear, "rb") as pipe:
        line = pipe.read1()
    address, login = json.loads(line) if line else (None, None)
    return {"pid": pid, "address": address, "login": login}


def main() -> None:
    """Answer commands until the input ends: start a server, wait for the end of one."""
    for line in sys.stdin:
        command = json.loads(line)
        if "wait" in command:
            _, status = os.waitpid(command["wait"], 0)
            answer = {"code": os.waitstatus_to_exitcode(status)}
        else:
            answer = start(command)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
