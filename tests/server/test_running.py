"""Starting and stopping: in a thread, as a process, twice on the same port or data, and with requests in progress."""

from __future__ import annotations

import json
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from everycall.errors import ConfigurationError
from everycall.server.options import ServerOptions
from everycall.server.runner import Server, listen


def batch(prefix: str, size: int = 100) -> bytes:
    return b"\n".join(
        json.dumps({"inference_id": f"{prefix}-{number}", "trace_id": prefix, "content": "x" * 500}).encode()
        for number in range(size)
    )


def test_a_server_serves_until_it_is_stopped(tmp_path: Path) -> None:
    server = Server(ServerOptions(tmp_path / "data", port=0))
    with pytest.raises(ConfigurationError, match="not running"):
        server.login_url()
    before = threading.active_count()
    with server:
        assert server.address.startswith("http://127.0.0.1:")
        assert httpx.get(f"{server.address}/healthz").json() == {"status": "ok"}
        assert server.login_url("/traces").startswith(f"{server.address}/login?token=")
        with pytest.raises(ConfigurationError, match="started already"):
            server.start()
    server.stop()
    assert threading.active_count() == before
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{server.address}/healthz")


def test_a_server_can_start_with_the_data_of_a_stopped_one(server: Any, client: httpx.Client) -> None:
    client.post("/v1/records", content=batch("a", 3))
    server.stop()
    with Server(server.options) as again:
        response = httpx.get(f"{again.address}/api/records", headers={"x-api-key": again.key}).json()
    assert len(response["records"]) == 3


def test_an_error_for_a_port_in_use_names_the_option(server: Any, tmp_path: Path) -> None:
    port = int(server.address.rpartition(":")[2])
    with pytest.raises(ConfigurationError, match=rf"127\.0\.0\.1:{port} is in use.*--port"):
        Server(ServerOptions(tmp_path / "other", port=port)).start()
    assert not (tmp_path / "other").exists()


def test_an_address_of_another_machine_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot listen on 192\.0\.2\.1:0.*--host"):
        listen(ServerOptions(tmp_path, host="192.0.2.1", port=0))


def test_a_data_directory_in_use_is_an_error(server: Any) -> None:
    """Two servers on one data directory would overwrite each other; the second does not start."""
    with pytest.raises(ConfigurationError, match="cannot use the data directory"):
        Server(ServerOptions(server.options.data_dir, port=0)).start()
    assert httpx.get(f"{server.address}/healthz").status_code == 200


def test_a_second_process_with_the_same_data_exits_with_an_error(server_process: Callable[..., Any]) -> None:
    first, second = server_process(), server_process()
    assert second.address is None
    assert second.wait(30) == 1
    complaint = second.stderr.read()
    assert complaint.startswith("ConfigurationError: cannot use the data directory")
    assert "Traceback" not in complaint
    assert httpx.get(f"{first.address}/healthz").status_code == 200


def test_ipv6(tmp_path: Path) -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 loopback here")
    with Server(ServerOptions(tmp_path / "data", host="::1", port=0)) as server:
        assert server.address.startswith("http://[::1]:")
        assert httpx.get(f"{server.address}/healthz").status_code == 200


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_process_after_commits_in_progress(server_process: Callable[..., Any], number: int) -> None:
    """While clients send: it exits with 0, and everything it acknowledged is stored."""
    process = server_process()
    acknowledged: list[str] = []
    enough = threading.Event()

    def send(sender: int) -> None:
        with httpx.Client(headers={"x-api-key": process.key}, timeout=20) as client:
            for turn in range(10_000):
                prefix = f"s{sender}-{turn}"
                try:
                    answer = client.post(f"{process.address}/v1/records", content=batch(prefix))
                except httpx.TransportError:
                    return
                if answer.status_code != 200:
                    return
                assert answer.json()["committed"] == 100
                acknowledged.append(prefix)
                if len(acknowledged) >= 12:
                    enough.set()

    senders = [threading.Thread(target=send, args=(sender,)) for sender in range(3)]
    for sender in senders:
        sender.start()
    assert enough.wait(30)
    process.send_signal(number)
    assert process.wait(30) == 0
    for sender in senders:
        sender.join()
    assert process.stderr.read() == ""
    again = server_process()
    with httpx.Client(base_url=again.address, headers={"x-api-key": again.key}) as client:
        for prefix in acknowledged:
            assert len(client.get(f"/api/traces/{prefix}").json()["records"]) == 100


def test_a_silent_connection_does_not_delay_the_exit(server_process: Callable[..., Any]) -> None:
    """Neither an idle connection nor half a body delays the exit; the incomplete request gets 503."""
    process = server_process()
    host, _, port = process.address.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=10):
        with socket.create_connection((host, int(port)), timeout=10) as half:
            half.sendall(
                f"POST /v1/records HTTP/1.1\r\nhost: localhost\r\nx-api-key: {process.key}\r\n"
                "content-length: 100\r\n\r\nhalf".encode()
            )
            assert httpx.get(f"{process.address}/healthz").status_code == 200
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
            assert b" 503 " in half.recv(4096).partition(b"\r\n")[0]
    assert process.stderr.read() == ""


def test_the_printed_address_logs_in(server_process: Callable[..., Any]) -> None:
    process = server_process()
    with httpx.Client(base_url=process.address) as browser:
        assert browser.get(process.login).status_code == 303
        assert browser.get("/api/projects").status_code == 200


def test_the_environment_of_tracing_does_not_reach_the_server(
    server_process: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server never traces itself, whatever the environment says to OpenTelemetry and Litestar."""
    with socket.create_server(("127.0.0.1", 0)) as collector:
        collector.settimeout(0.5)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.getsockname()[1]}")
        monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp")
        monkeypatch.setenv("LITESTAR_DEBUG", "1")
        process = server_process()
        with httpx.Client(base_url=process.address, headers={"x-api-key": process.key}) as client:
            client.post("/v1/records", content=batch("a", 3))
            assert len(client.get("/api/records").json()["records"]) == 3
            assert "Traceback" not in client.get("/nowhere").text
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        with pytest.raises(TimeoutError):
            collector.accept()
