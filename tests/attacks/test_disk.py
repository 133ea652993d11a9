"""A disk that fills up, a database that is deleted or damaged while the server runs, a file system without locks.

No acknowledged record is lost, further records get 503, and health, status page, metrics and log tell the operator.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

UNLIMITED = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)


def line(name: str, size: int) -> bytes:
    content = os.urandom(size // 2).hex()
    return json.dumps({"inference_id": name, "trace_id": "t", "kind": "llm", "content": content}).encode()


def health(victim: Any) -> dict[str, Any]:
    answer = httpx.get(f"{victim.address}/healthz", timeout=30)
    assert answer.status_code == 200
    return dict(answer.json())


def wait_until(holds: Callable[[], bool]) -> None:
    """Wait for a condition; the time-out only ends a test that hangs."""
    deadline = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def server(start_victim: Callable[..., Any]) -> Any:
    """A server for one test. It checks ten times a second whether a fault is over."""
    return start_victim(limits={"PROBE_INTERVAL_S": 0.1})


@pytest.fixture(params=["a small disk", "a limit of file size"])
def small_disk(server: Any, request: pytest.FixtureRequest) -> Iterator[Callable[[], object]]:
    """Limit the server's disk to 16 MB, or its files to 5 MB. The fixture is a function that removes the limit."""
    if request.param == "a small disk":
        server.end(signal.SIGTERM)
        mount = ["mount", "-t", "tmpfs", "-o", "size=16m,mode=700", "tmpfs", str(server.data)]
        if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
            pytest.skip("only root can mount a small disk")
        server.start()
        yield lambda: subprocess.run(["mount", "-o", "remount,size=300m", str(server.data)], check=True)
        server.end(signal.SIGTERM)
        subprocess.run(["umount", str(server.data)], check=True)
    else:
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (5_000_000, resource.RLIM_INFINITY))
        yield lambda: resource.prlimit(server.pid, resource.RLIMIT_FSIZE, UNLIMITED) and None


def test_a_full_disk(server: Any, small_disk: Callable[[], object]) -> None:
    stored = []
    with server.client() as client:
        for size in (200_000, 20_000, 2_000):
            for number in range(400):
                name = f"{size}-{number}"
                answer = client.post("/v1/records", content=line(name, size))
                if answer.status_code != 200:
                    break
                stored.append(name)
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) >= 1
        assert "The disk is full" in answer.json()["detail"]
        assert len(stored) > 10

        assert health(server)["reason"] == "disk_full"
        status = client.get("/status.json").json()["health"]
        assert (status["status"], status["reason"]) == ("degraded", "disk_full")
        assert "The disk is full" in client.get("/status", headers={"accept": "text/html"}).text
        metrics = client.get("/metrics").text
        assert "everycall_degraded 1\n" in metrics
        assert 'everycall_degraded_reason{reason="disk_full"} 1\n' in metrics
        assert client.get("/api/records").status_code == 200  # reads go on
        assert client.get("/traces", headers={"accept": "text/html"}).status_code == 200
        for _ in range(50):
            client.post("/v1/records", content=line("later", 100_000))
        assert server.log().count("The disk is full") == 1

        small_disk()
        wait_until(lambda: health(server) == {"status": "ok"})  # by itself, without a request that writes
        assert client.post("/v1/records", content=line("later", 100_000)).json()["committed"] == 1
        missing = [name for name in [*stored, "later"] if client.get(f"/api/records/{name}").status_code != 200]
        assert missing == []
        assert "everycall_degraded 0\n" in client.get("/metrics").text
    assert server.log().count("\n") == 2
    assert "Records are stored again" in server.log()
    assert server.rows("PRAGMA integrity_check") == [("ok",)]


def delete(data: Path) -> None:
    for end in ("", "-wal", "-shm"):
        (data / f"everycall.db{end}").unlink(missing_ok=True)


def delete_log(data: Path) -> None:
    (data / "everycall.db-wal").unlink()


def move_directory(data: Path) -> None:
    data.rename(data.with_name("moved"))


def replace_file(data: Path) -> None:
    copy = data / "copy"
    copy.write_bytes((data / "everycall.db").read_bytes())
    copy.rename(data / "everycall.db")


def empty(data: Path) -> None:
    os.truncate(data / "everycall.db", 0)


def cut(data: Path) -> None:
    os.truncate(data / "everycall.db", 100)


def overwrite(data: Path) -> None:
    with (data / "everycall.db").open("r+b") as file:
        file.write(b"somebody's notes\n" * 1_000)


LOSSES = [delete, delete_log, move_directory, replace_file, empty, cut, overwrite]


@pytest.mark.parametrize("lose", LOSSES)
def test_a_database_that_disappears_while_the_server_runs(server: Any, lose: Callable[[Path], None]) -> None:
    """No record is acknowledged that would be missing after a restart."""
    with server.client() as client:
        for number in range(20):
            assert client.post("/v1/records", content=line(f"before-{number}", 2_000)).status_code == 200
        # the log is moved into the file, as it is once in a while
        for number in range(3):
            batch = b"\n".join(line(f"bulk-{number}-{one}", 100_000) for one in range(50))
            assert client.post("/v1/records", content=batch).json()["committed"] == 50
        lose(server.data)
        statuses = [client.post("/v1/records", content=line(f"r{number}", 2_000)).status_code for number in range(500)]
        assert set(statuses) == {503}
        state = health(server)
        assert state["status"] == "degraded"
        assert state["reason"] in ("database_missing", "database_damaged")
        change = client.post("/api/deployments", json={"name": "n", "model": "m", "messages": [{"content": "hi"}]})
        assert change.status_code == 503
    assert server.log().count("Records cannot be stored") == 1
    assert "Traceback" not in server.log()


def test_a_database_that_comes_back(server: Any) -> None:
    """The directory is moved away by mistake and moved back: storing continues, and no record is lost."""
    moved = server.data.with_name("moved")
    with server.client() as client:
        assert client.post("/v1/records", content=line("before", 2_000)).status_code == 200
        server.data.rename(moved)
        assert client.post("/v1/records", content=line("meanwhile", 2_000)).status_code == 503
        moved.rename(server.data)
        wait_until(lambda: health(server) == {"status": "ok"})
        assert client.post("/v1/records", content=line("after", 2_000)).status_code == 200
    server.end(signal.SIGKILL)
    server.start()
    with server.client() as client:
        ids = {record["inference_id"] for record in client.get("/api/records").json()["records"]}
    assert {"before", "after"} <= ids


def test_a_damaged_page_is_noticed_by_a_read(start_victim: Callable[..., Any]) -> None:
    """A read that finds damage gets 503 with the reason, and no further record is acknowledged."""
    server = start_victim()
    with server.client() as client:
        for number in range(3):
            batch = b"\n".join(line(f"bulk-{number}-{one}", 100_000) for one in range(50))
            assert client.post("/v1/records", content=batch).json()["committed"] == 50
    server.end(signal.SIGTERM)
    path = server.data / "everycall.db"
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(200 * 8192)
        file.write(os.urandom(size - 200 * 8192))
    server.start()
    with server.client() as client:
        statuses = set()
        for number in range(3):
            for one in range(50):
                with suppress(httpx.TransportError):
                    statuses.add(client.get(f"/api/records/bulk-{number}-{one}").status_code)
        assert 503 in statuses
        assert statuses <= {200, 503}
        assert health(server)["reason"] == "database_damaged"
        answer = client.post("/v1/records", content=line("r", 100))
        assert answer.status_code == 503
        assert "restore the file from a backup" in answer.json()["detail"]
    assert "Traceback" not in server.log()


@pytest.mark.parametrize("call", ["flock", "fcntl"])
def test_a_file_system_without_locks_is_named_at_the_start(tmp_path: Path, call: str) -> None:
    """The kernel answers ENOLCK: the error says so, and not that another program uses the data."""
    program = Path(__file__).with_name("without_locks.py")
    process = subprocess.run(
        [sys.executable, program, call, "everycall", "serve", "--port", "0", "--data", tmp_path / "data"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    if process.returncode == 77:
        pytest.skip("this kernel takes no filter of system calls")
    assert process.returncode == 2
    error = process.stderr
    assert error.startswith(f"everycall: cannot use the data directory {tmp_path / 'data'}: ")
    assert "support locks" in error
    assert "local disk" in error
    assert "in use by" not in error
    assert "Traceback" not in error
