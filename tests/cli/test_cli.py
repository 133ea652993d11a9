"""The command line: what it understands, what it says, and its exit codes. Every command runs as a real process."""

from __future__ import annotations

import os
import re
import signal
import socketserver
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import ClassVar

import httpx
import pytest

from everycall.cli import build_parser, main
from everycall.paths import spool_root


def everycall(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a child process, with the state directory of the test."""
    return subprocess.run(
        [sys.executable, "-m", "everycall", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_help_names_every_command() -> None:
    """`everycall --help` shows what there is, and exits 0."""
    done = everycall("--help")
    assert (done.returncode, done.stderr) == (0, "")
    for command in ("demo", "serve", "ship", "key", "reprice"):
        assert re.search(rf"^\s+{command}\s{{2,}}\S", done.stdout, re.MULTILINE)


@pytest.mark.parametrize("command", [["demo"], ["serve"], ["ship"], ["key"], ["key", "create"], ["reprice"]])
def test_each_command_has_help(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Each has help with what it does."""
    with pytest.raises(SystemExit) as ended:
        main([*command, "--help"])
    assert ended.value.code == 0
    assert len(capsys.readouterr().out.splitlines()) > 5


def test_the_version_is_that_of_the_distribution(capsys: pytest.CaptureFixture[str]) -> None:
    """`--version` prints name and version, the one that is installed."""
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"everycall {version('everycall')}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tail"], "invalid choice: 'tail'"),
        (["serve", "--port", "x"], "invalid port 'x': use 1 to 65535, or 0 for any free port"),
        (["serve", "--port", "65536"], "invalid port '65536'"),
        (["key", "create"], "required: NAME"),
        (["key", "create", "n", "--role", "owner"], "invalid choice: 'owner'"),
        (["ship", "extra"], "unrecognized arguments: extra"),
    ],
)
def test_a_usage_error_is_one_line_that_names_the_help(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, nothing on standard output, one line on standard error."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    out, err = capsys.readouterr()
    assert (ended.value.code, out, err.count("\n")) == (2, "", 1)
    assert message in err
    assert "--help)" in err


@pytest.mark.parametrize("arguments", [[], ["key"]])
def test_without_a_command_the_help_is_shown(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing was asked: the help, and exit code 2, so that a script notices."""
    assert main(arguments) == 2
    assert "COMMAND" in capsys.readouterr().out


def test_the_parser_knows_the_documented_options() -> None:
    """The options of the commands, as values."""
    parser = build_parser()
    assert vars(parser.parse_args(["demo", "--once", "--port", "0", "--data", "d"])).items() >= {
        ("once", True), ("port", 0), ("data", Path("d")), ("stand_in", False),
    }  # fmt: skip
    assert vars(parser.parse_args(["serve", "--host", "::1", "--no-auth"])).items() >= {
        ("host", "::1"), ("port", 7410), ("no_auth", True), ("data", None),
    }  # fmt: skip
    assert vars(parser.parse_args(["ship", "--endpoint", "http://h", "--api-key", "k"])).items() >= {
        ("endpoint", "http://h"), ("api_key", "k"), ("spool_dir", None),
    }  # fmt: skip
    assert vars(parser.parse_args(["key", "create", "ci", "--project", "p"])).items() >= {
        ("name", "ci"), ("project", "p"), ("role", "write"),
    }  # fmt: skip


# --- serve ---


class Serving:
    """`everycall serve` in a process, up to the line that says where."""

    def __init__(self, data: Path, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-u", "-m", "everycall", "serve", "--port", "0", "--data", str(data), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.said: list[str] = []
        for line in self.process.stdout:
            self.said.append(line)
            if line.startswith("Ctrl-C"):
                break
        match = re.search(r"serves (http://\S+)", "".join(self.said))
        assert match, self.process.communicate(timeout=120)
        self.address = match[1]

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End it as a person or a supervisor would; returns its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        self.process.communicate(timeout=120)
        return self.process.returncode


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Serving]:
    started = Serving(tmp_path / "data")
    yield started
    started.stop()


def test_serve_prints_a_url_that_logs_a_browser_in(serving: Serving, tmp_path: Path) -> None:
    """The printed address opens the page; without it the page asks to log in."""
    text = "".join(serving.said)
    login = re.search(r"http://\S+/login\?token=\S+", text)
    assert login
    assert str(tmp_path / "data") in text
    assert str(tmp_path / "home" / "local.key") in text
    with httpx.Client(follow_redirects=True, timeout=20, headers={"accept": "text/html"}) as browser:
        assert browser.get(f"{serving.address}/").url.path == "/login"
        page = browser.get(login[0])
        assert (page.status_code, page.url.path) != (200, "/login")
        assert browser.get(f"{serving.address}/").url.path != "/login"


def test_serve_prints_its_settings_before_slow_imports(tmp_path: Path) -> None:
    """The version, the address, the data, the project, and each provider with whether it has a key."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "providers.toml").write_text(
        '[local]\nkind = "openai_compatible"\nbase_url = "http://127.0.0.1:9/v1"\n'
        '[azure]\nkind = "azure"\nbase_url = "https://x.openai.azure.com"\napi_version = "2024-06-01"\n'
    )
    process = subprocess.Popen(
        [sys.executable, "-u", "-X", "importtime", "-m", "everycall", "serve", "--port", "0", "--root-path", "/calls",
         "--data", str(tmp_path / "data")],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OPENAI_API_KEY": "not-a-real-key", "ANTHROPIC_API_KEY": ""},
    )  # fmt: skip
    lines: list[str] = []
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line)
        if line.startswith("Ctrl-C"):
            break
    process.terminate()
    process.communicate(timeout=120)
    imported = next(place for place, line in enumerate(lines) if line.endswith("| litestar\n") or "litestar." in line)
    introduction = "".join(line for line in lines[:imported] if not line.startswith("import time:"))
    assert introduction.startswith(f"everycall {version('everycall')}\n  address    127.0.0.1:any free port/calls\n")
    assert f"  data       {tmp_path / 'data'}\n" in introduction
    assert "  project    default" in introduction
    providers = introduction.partition("  providers")[2]
    assert "openai: has a key" in providers
    assert "local: no key, as local servers need none" in providers
    assert "azure: NO KEY" in providers
    assert "AZURE_OPENAI_API_KEY" in providers
    assert "not-a-real-key" not in "".join(lines)
    assert re.search(r"everycall serves http://127\.0\.0\.1:\d+/calls\n", "".join(lines))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serve_exits_cleanly(serving: Serving, number: signal.Signals) -> None:
    """Ctrl-C and a supervisor's TERM end it with exit code 0."""
    assert serving.stop(number) == 0


def test_a_second_server_with_the_same_data_is_an_error(serving: Serving, tmp_path: Path) -> None:
    """One line that names the directory, and exit code 2. The first server keeps running."""
    done = everycall("serve", "--port", "0", "--data", str(tmp_path / "data"))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert str(tmp_path / "data") in done.stderr
    assert f"pid {serving.process.pid}" in done.stderr
    assert httpx.get(f"{serving.address}/healthz", timeout=20).status_code == 200


def test_no_auth_works_on_loopback_only() -> None:
    """Asked for on all addresses, it is refused before anything listens."""
    done = everycall("serve", "--host", "0.0.0.0", "--no-auth", "--port", "0")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "--no-auth" in done.stderr


# --- key ---


def secret_of(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stderr
    secrets = re.findall(r"ek_[A-Za-z0-9_-]{40,}", done.stdout)
    assert len(secrets) == 1
    return str(secrets[0])


def accepts(address: str, key: str) -> bool:
    status = httpx.get(f"{address}/api/records", headers={"x-api-key": key}, timeout=20).status_code
    assert status in (200, 401)
    return status == 200


def test_a_key_of_a_running_server_works_at_once(serving: Serving) -> None:
    """The command requests it from the server with the local key, and the server accepts it from then on."""
    key = secret_of(everycall("key", "create", "ci", "--project", "shop", EVERYCALL_ENDPOINT=serving.address))
    assert accepts(serving.address, key)
    assert not accepts(serving.address, key[:-1] + ("A" if key[-1] != "A" else "B"))


def test_a_key_can_be_created_before_the_server_starts(tmp_path: Path) -> None:
    """It is written into the store, as its hash alone."""
    data = tmp_path / "data"
    key = secret_of(everycall("key", "create", "ci", "--data", str(data), "--role", "read"))
    with sqlite3.connect(data / "everycall.db") as database:
        dump = "\n".join(database.iterdump())
    database.close()
    assert key not in dump
    started = Serving(data)
    try:
        assert accepts(started.address, key)
    finally:
        started.stop()


def test_a_store_in_use_is_not_written_to(serving: Serving, tmp_path: Path) -> None:
    """One line that says which process has it."""
    done = everycall("key", "create", "ci", "--data", str(tmp_path / "data"))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert f"pid {serving.process.pid}" in done.stderr


def test_a_wrong_key_cannot_create_a_key(serving: Serving) -> None:
    """What the server answers is passed on."""
    done = everycall(
        "key", "create", "ci", EVERYCALL_ENDPOINT=serving.address, EVERYCALL_API_KEY="ek_" + "wrong" * 8
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "401" in done.stderr


# --- ship ---


def leave_records(endpoint: str, count: int = 3) -> None:
    """A program that is killed right after its traced calls returned."""
    program = (
        "import everycall, os, signal\n"
        "call = everycall.trace(name='left')(lambda n: f'canary {n}')\n"
        f"for n in range({count}): call(n)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "EVERYCALL_ENDPOINT": endpoint}, timeout=120, check=False
    )
    assert done.returncode == -signal.SIGKILL


def stored_names(address: str, tmp_path: Path) -> list[str]:
    key = (tmp_path / "home" / "local.key").read_text().strip()
    answer = httpx.get(f"{address}/api/records", headers={"x-api-key": key}, timeout=20)
    return [record["name"] for record in answer.json()["records"]]


def test_nothing_to_ship_is_success() -> None:
    """No spool at all: it says so, and exits 0."""
    done = everycall("ship")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Nothing to ship in ")


def test_records_of_a_killed_process_are_shipped_once(serving: Serving, tmp_path: Path) -> None:
    """SIGKILL, then `ship` to another address: all there once; a second `ship` finds nothing."""
    leave_records("http://127.0.0.1:9")
    first = everycall("ship", "--endpoint", serving.address)
    assert (first.returncode, first.stderr) == (0, "")
    assert re.search(r"│\s+3 │\s+3 │\s+0 │\s+0 │", first.stdout)
    second = everycall("ship", "--endpoint", serving.address)
    assert second.stdout.startswith("Nothing to ship in ")
    assert stored_names(serving.address, tmp_path) == ["left"] * 3


def test_records_that_cannot_be_shipped_are_kept_and_reported(tmp_path: Path) -> None:
    """Nobody listens: exit code 1, the table says how many are left, the line below where; they can be read still."""
    leave_records("http://127.0.0.1:9")
    done = everycall("ship")
    assert done.returncode == 1
    assert re.search(r"│\s+3 │\s+0 │\s+0 │\s+3 │", done.stdout)
    (folder,) = spool_root().iterdir()
    assert str(folder) in done.stdout
    assert b"canary 2" in next(folder.glob("*.spool")).read_bytes()


def test_a_wrong_key_keeps_the_records(serving: Serving) -> None:
    """401 is no refusal of the records: they stay until the key is right."""
    leave_records(serving.address)
    wrong = everycall("ship", "--api-key", "ek_" + "wrong" * 8)
    assert wrong.returncode == 1
    assert re.search(r"│\s+3 │\s+0 │\s+0 │\s+3 │", wrong.stdout)
    assert "401" in wrong.stdout
    assert everycall("ship").returncode == 0


def test_the_spool_of_a_running_process_is_skipped(serving: Serving) -> None:
    """Its files are locked by it: `ship` leaves them alone and says so."""
    program = (
        "import everycall, sys\n"
        "everycall.init(endpoint='http://127.0.0.1:9', exit_timeout_s=0)\n"
        "everycall.trace(lambda: 1)()\n"
        "print('recorded', flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as owner:
        assert owner.stdin is not None
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"recorded\n"
        done = everycall("ship", "--endpoint", serving.address)
        owner.stdin.close()
    assert done.returncode == 0
    assert "Skipped 1 spool file of running processes" in done.stdout
    again = everycall("ship", "--endpoint", serving.address)
    assert re.search(r"│\s+1 │\s+1 │\s+0 │\s+0 │", again.stdout)


def test_the_environments_key_is_sent_to_its_endpoint_only() -> None:
    """EVERYCALL_API_KEY belongs to EVERYCALL_ENDPOINT; a spool bound for another place does not get it."""
    with socketserver.TCPServer(("127.0.0.1", 0), _KeepsHeaders) as listening:
        thread = threading.Thread(target=listening.serve_forever, args=(0.02,))
        thread.start()
        leave_records(f"http://127.0.0.1:{listening.server_address[1]}")
        everycall("ship", EVERYCALL_API_KEY="ek_" + "secret" * 7, EVERYCALL_ENDPOINT="https://other.example")
        listening.shutdown()
        thread.join()
    heads = b"".join(_KeepsHeaders.seen)  # of the killed program too, if it got so far
    assert b"/v1/records" in heads
    assert b"ek_secret" not in heads


class _KeepsHeaders(socketserver.StreamRequestHandler):
    seen: ClassVar[list[bytes]] = []

    def handle(self) -> None:
        while (line := self.rfile.readline()) not in (b"", b"\r\n"):
            self.seen.append(line)


def test_a_missing_directory_is_a_usage_error(tmp_path: Path) -> None:
    """A wrong --spool-dir is an error, and not treated as an empty one."""
    done = everycall("ship", "--spool-dir", str(tmp_path / "nowhere"))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "nowhere" in done.stderr


def test_a_closed_pipe_causes_no_traceback(serving: Serving) -> None:
    """`everycall ship | true` ends quietly."""
    leave_records(serving.address)
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "everycall", "ship"], stdout=writing, stderr=subprocess.PIPE, timeout=120, check=False
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")
