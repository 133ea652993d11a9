"""A soak: programs call for minutes while the server and some of them are killed; every call is in the store once.

    uv run python benchmarks/soak.py [--minutes 10] [--kill-every 30] [--json]

Three programs call the whole time: one steadily, one that forks a short child four times a second, and one that is
killed (SIGKILL) every seven seconds and started again. The server is killed every `--kill-every` seconds and started
again on the same store. Each call is noted in a file after it has returned. At the end one `everycall ship` delivers
what is left, and the notes are compared with the store. A program that was killed may have recorded the call it was in:
at most one for each kill is stored without a note.

Exits with 1 if a call that returned is missing or stored twice.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx

CALLER = """
import os, signal, sys, time, warnings
warnings.simplefilter("ignore", DeprecationWarning)
import everycall

name, notes, kind = sys.argv[1:]
running = True
def end(*_):
    global running
    running = False
signal.signal(signal.SIGTERM, end)

@everycall.trace
def numbered(n):
    return n

def call(n):
    numbered(n)
    os.write(fd, (n + chr(10)).encode())

fd = os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
count = 0
while running:
    call(f"{name}-{count}")
    count += 1
    if kind == "forks" and count % 20 == 0:
        if (pid := os.fork()) == 0:
            for number in range(5):
                call(f"{name}-{count}-child-{number}")
            os._exit(0)
        os.waitpid(pid, 0)
    time.sleep(0.0125 if kind == "forks" else 0.005)
"""
KILLED_EVERY_S = 7.0


class Soak:
    """The processes of one run, in a directory of its own."""

    def __init__(self, directory: Path, kill_every_s: float) -> None:
        self.directory = directory
        self.kill_every_s = kill_every_s
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("EVERYCALL_")},
            "EVERYCALL_HOME": str(directory / "home"),
            "EVERYCALL_ENDPOINT": self.endpoint,
        }
        self.kills_of_server = self.kills_of_program = 0
        self.notes = directory / "notes"
        self.errors = directory / "errors"

    def serve(self) -> subprocess.Popen[bytes]:
        """Start the server and wait until it answers."""
        command = [sys.executable, "-m", "everycall", "serve", "--port", str(self.port), "--data", str(self.data)]
        with (self.directory / "server.log").open("ab") as log:
            server = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)
        for _ in range(3_000):
            if server.poll() is not None:
                break
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{self.endpoint}/healthz", timeout=5).status_code == 200:
                    return server
            time.sleep(0.02)
        raise RuntimeError((self.directory / "server.log").read_text())

    @property
    def data(self) -> Path:
        """The server's data directory."""
        return self.directory / "data"

    def start(self, name: str, kind: str) -> subprocess.Popen[bytes]:
        """Start a program that calls."""
        with self.errors.open("ab") as errors:
            command = [sys.executable, "-c", CALLER, name, str(self.notes), kind]
            return subprocess.Popen(command, env=self.environment, stderr=errors)

    def run(self, seconds: float) -> None:
        """Let the programs call, kill what is to be killed, and deliver what is left."""
        server = self.serve()
        steady = [self.start("steady", "steady"), self.start("forks", "forks")]
        victim = self.start("victim-0", "steady")
        try:
            start = time.monotonic()
            kill_server_at, kill_victim_at = start + self.kill_every_s, start + KILLED_EVERY_S
            while (now := time.monotonic()) < start + seconds:
                if now >= kill_server_at:
                    kill_server_at += self.kill_every_s
                    server.kill()
                    server.wait()
                    self.kills_of_server += 1
                    server = self.serve()
                if now >= kill_victim_at:
                    kill_victim_at += KILLED_EVERY_S
                    victim.kill()
                    victim.wait()
                    self.kills_of_program += 1
                    victim = self.start(f"victim-{self.kills_of_program}", "steady")
                time.sleep(0.1)
            for program in (*steady, victim):
                program.send_signal(signal.SIGTERM)
                if program.wait(60):
                    raise RuntimeError(f"a program ended with {program.returncode}")
            ship = [sys.executable, "-m", "everycall", "ship", "--endpoint", self.endpoint]
            subprocess.run(ship, env=self.environment, stdout=subprocess.DEVNULL, check=True)
        finally:
            for process in (*steady, victim):
                process.kill()
                process.wait()
            server.send_signal(signal.SIGTERM)
            server.wait(60)

    def stored(self) -> Iterator[str]:
        """Yield the number of each record in the store."""
        with contextlib.closing(sqlite3.connect(self.data / "everycall.db")) as store:
            if store.execute("PRAGMA integrity_check").fetchone() != ("ok",):
                raise RuntimeError("the store is damaged")
            for (number,) in store.execute("SELECT json_extract(CAST(body AS TEXT), '$.inputs.n') FROM bodies"):
                yield number

    def outcome(self) -> dict[str, int]:
        """Compare the notes with the store."""
        calls = set(self.notes.read_text().split())
        stored = Counter(self.stored())
        return {
            "called": len(calls),
            "stored": sum(stored.values()),
            "lost": len(calls - set(stored)),
            "twice": sum(count > 1 for count in stored.values()),
            "in_progress": len(set(stored) - calls),
            "kills_of_server": self.kills_of_server,
            "kills_of_program": self.kills_of_program,
            "files_left": len(list((self.directory / "home").rglob("*.spool"))),
        }


def main() -> int:
    """Run the soak and print its outcome."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="how long the programs call (default 10)")
    parser.add_argument("--kill-every", type=float, default=30.0, help="seconds between kills of the server")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        soak = Soak(Path(directory), options.kill_every)
        soak.run(options.minutes * 60)
        outcome = soak.outcome()
        tracebacks = soak.errors.read_text().count("Traceback")
    for name, value in outcome.items():
        sys.stdout.write(f"{name.replace('_', ' '):20}{value:12,}\n")
    if options.json:
        sys.stdout.write(json.dumps(outcome) + "\n")
    unexpected = outcome["lost"] or outcome["twice"] or outcome["files_left"] or tracebacks
    return 1 if unexpected or outcome["in_progress"] > outcome["kills_of_program"] else 0


if __name__ == "__main__":
    sys.exit(main())
