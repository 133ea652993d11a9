"""The local key and the records go only to this user's server, not to another program on its port."""

from __future__ import annotations

import asyncio
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

import everycall
from everycall._local_server import nonce, proof_of
from everycall.client import Completion, Parea
from everycall.errors import UnreachableError
from everycall.paths import local_key_path
from everycall.settings import Settings

KEY = "ek_" + "local" * 12
PROGRAM = """
import everycall
@everycall.trace
def secret(text):
    return text
secret("CANARY")
print(everycall.flush({flush}).spooled)
"""


class Impostor:
    """Another user's process on the port: it answers everything with what may pass for a yes, and keeps what came."""

    def __init__(self, key: str | None = None, port: int | None = None) -> None:
        """With `key` and `port` it passes on a right proof, of a server on that port."""
        self.bytes = b""
        self.requests: list[str] = []
        impostor = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: object) -> None:
                pass

            def do_GET(self) -> None:
                impostor.requests.append(self.requestline)
                length = int(self.headers.get("content-length", 0))
                impostor.bytes += self.requestline.encode() + self.headers.as_bytes() + self.rfile.read(length)
                body = b'{"committed": 1, "refused": [], "proof": "' + b"0" * 64 + b'"}'
                if key is not None and self.path.startswith("/v1/proof"):
                    challenge = parse_qs(urlsplit(self.path).query)["nonce"][0]
                    body = json.dumps({"proof": proof_of(key, challenge, port or impostor.port)}).encode()
                self.send_response(200)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_GET

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = int(self._server.server_address[1])
        self.address = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def impostor() -> Iterator[Impostor]:
    started = Impostor()
    yield started
    started.stop()


@pytest.fixture
def local_key() -> str:
    """This user's server has run here once."""
    local_key_path().parent.mkdir(parents=True)
    local_key_path().write_text(KEY + "\n")
    return KEY


def run(endpoint: str | None, flush: float = 1, **environment: str) -> tuple[int, str]:
    """Run a program that records one call; return how many records it keeps, and its standard error."""
    env = {**os.environ, "EVERYCALL_EXIT_TIMEOUT": "0.3", **environment}
    if endpoint is not None:
        env["EVERYCALL_ENDPOINT"] = endpoint
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(flush=flush)],
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return int(done.stdout), done.stderr


@pytest.mark.parametrize("proof_of_port", [None, 1])
def test_the_sender_sends_nothing_to_an_impostor(local_key: str, proof_of_port: int | None) -> None:
    """Neither key nor record, whatever it answers: also a proof that the real server made on another port."""
    impostor = Impostor(local_key if proof_of_port else None, proof_of_port)
    try:
        spooled, errors = run(impostor.address)
    finally:
        impostor.stop()
    assert spooled == 1
    assert impostor.requests
    assert all(request.startswith("GET /v1/proof?nonce=") for request in impostor.requests)
    assert local_key.encode() not in impostor.bytes
    assert b"CANARY" not in impostor.bytes
    assert "did not prove that it is your own server" in errors
    assert "EVERYCALL_API_KEY" in errors


@pytest.mark.parametrize("host", ["localhost", "127.1", "0.0.0.0", "2130706433"])
def test_another_spelling_of_this_machine_does_not_help_an_impostor(
    local_key: str, impostor: Impostor, host: str
) -> None:
    """Neither key nor record goes out unproved."""
    spooled, errors = run(f"http://{host}:{impostor.port}")
    assert spooled == 1
    assert all(request.startswith("GET /v1/proof?nonce=") for request in impostor.requests)
    assert local_key.encode() not in impostor.bytes
    assert "did not prove that it is your own server" in errors


def test_a_server_with_the_key_proves_itself(local_key: str) -> None:
    """The same process with the key gets what it should: once proved, key and record are sent on that connection.

    The last request reports the balance, with the record delivered.
    """
    owner = Impostor(local_key)
    try:
        spooled, errors = run(owner.address)
    finally:
        owner.stop()
    assert (spooled, errors) == (0, "")
    assert local_key.encode() in owner.bytes
    assert b"CANARY" in owner.bytes
    post = "POST /v1/records HTTP/1.1"
    assert [request.split("?")[0] for request in owner.requests] == ["GET /v1/proof", post, post]


def test_an_api_key_needs_no_proof(local_key: str, impostor: Impostor) -> None:
    """EVERYCALL_API_KEY says that the user chose the server: it is sent as before, and the local key is not."""
    spooled, _ = run(impostor.address, EVERYCALL_API_KEY="ek_chosen")
    assert spooled == 0
    assert b"ek_chosen" in impostor.bytes
    assert local_key.encode() not in impostor.bytes


def test_a_configured_endpoint_needs_no_proof_without_a_local_key(impostor: Impostor) -> None:
    """A server without authentication, in a container for instance: no key is there that could be given away."""
    spooled, _ = run(impostor.address)
    assert spooled == 0
    assert b"CANARY" in impostor.bytes


def test_the_default_endpoint_always_needs_a_proof() -> None:
    """It is the default: before a server of this user has run, nothing is sent to a program that listens there."""
    assert Settings().requires_proof
    assert Settings.build({}).requires_proof
    assert not Settings(api_key="ek_chosen").requires_proof
    assert not Settings(endpoint="http://127.0.0.1:9000").requires_proof
    assert not Settings(endpoint="https://records.example").requires_proof


def test_the_local_key_requires_a_proof(local_key: str) -> None:
    """Wherever it would be sent: at any address of this machine, however it is spelled."""
    assert Settings(endpoint="http://127.0.0.1:9000").requires_proof
    names = ["localhost", "LOCALHOST.", "api.localhost", "[::1]", "[::]", "[::ffff:127.0.0.1]"]
    for host in (*names, "127.0.0.2", "127.1", "0.0.0.0", "0", "0x7f000001", "2130706433"):
        assert Settings(endpoint=f"http://{host}:9000").requires_proof, host
    for host in ("128.0.0.1", "localhost.example", "[::2]", "[::ffff:10.0.0.1]", "10.0.0.1", "notlocalhost"):
        assert not Settings(endpoint=f"http://{host}:9000").requires_proof, host
    assert not Settings(endpoint="https://records.example").requires_proof


def test_a_local_key_that_is_created_later_is_not_sent_without_proof(impostor: Impostor) -> None:
    """The connection is open already when the local key is written: the server has to prove itself then."""
    everycall.init(endpoint=impostor.address)
    try:
        everycall.trace(name="before")(lambda: 1)()
        assert everycall.flush(10).spooled == 0
        local_key_path().parent.mkdir(parents=True, exist_ok=True)
        local_key_path().write_text(KEY)
        everycall.trace(name="after")(lambda: 1)()
        assert everycall.flush(1).spooled == 1
    finally:
        everycall.shutdown(0)
    assert KEY.encode() not in impostor.bytes
    assert b"after" not in impostor.bytes


def test_the_client_sends_nothing_to_an_impostor(local_key: str, impostor: Impostor) -> None:
    """Neither a completion's prompt nor the key, in any of the ways to ask for one."""
    request = Completion(deployment_id="p-1", llm_inputs={"x": "CANARY"})
    with Parea(base_url=impostor.address) as client:
        with pytest.raises(UnreachableError, match="did not prove"):
            client.completion(request)
        with pytest.raises(UnreachableError, match="did not prove"):
            asyncio.run(client.acompletion(request))
        with pytest.raises(UnreachableError, match="did not prove"):
            list(client.stream(request))
    assert local_key.encode() not in impostor.bytes
    assert b"CANARY" not in impostor.bytes


@pytest.mark.parametrize("command", [["ship"], ["key", "list"], ["key", "create", "CANARY"]])
def test_commands_send_nothing_to_an_impostor(local_key: str, impostor: Impostor, command: list[str]) -> None:
    """They fail with one line, and send nothing."""
    closed = Impostor()
    closed.stop()
    run(closed.address, 0)  # something to ship
    arguments = [*command, *(("--endpoint", impostor.address) if command == ["ship"] else ())]
    done = subprocess.run(
        [sys.executable, "-m", "everycall", *arguments],
        env={**os.environ, "EVERYCALL_ENDPOINT": impostor.address},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode != 0
    assert "did not prove" in (done.stdout + done.stderr).replace("\n", " ")
    assert local_key.encode() not in impostor.bytes
    assert b"CANARY" not in impostor.bytes


def test_a_real_server_proves_itself(server: Any, tmp_path: Path) -> None:
    """The server's answer is the one its clients expect; without authentication too."""
    challenge = nonce()
    answer = httpx.get(f"{server.address}/v1/proof", params={"nonce": challenge})
    assert answer.json() == {"proof": proof_of(server.key, challenge, int(server.address.rpartition(":")[2]))}
    assert server.key not in answer.text
    spooled, errors = run(server.address)
    assert (spooled, errors) == (0, "")


@pytest.mark.parametrize(
    "query", ["", "nonce=", "nonce=abc", "nonce=" + "A" * 64, "nonce=" + "0" * 65, "n=" + "0" * 64]
)
def test_a_malformed_challenge_is_refused(server: Any, query: str) -> None:
    """Anything else is an error that says what to send."""
    answer = httpx.get(f"{server.address}/v1/proof?{query}")
    assert answer.status_code == 400
    assert "64 hex digits" in answer.json()["detail"]
