"""A real HTTP server on loopback that takes `/v1/records` as an endpoint would, and misbehaves on demand.

`Sink().start()`; set `sink.mode` at any time. `sink.records` holds what was acknowledged, in order, duplicates
included; `sink.bodies` every byte of every request that arrived (decompressed), acknowledged or not.
"""

from __future__ import annotations

import gzip
import io
import json
import socket
import ssl
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class Sink:
    """A misbehaving endpoint.

    Modes: ok, status:NNN, retry_after:S (429), hang, slow:S, reset (before reading), swallow (read, then reset),
    lost_ack (stored, then reset), close (ok, and the connection ends after each answer), garbage (2xx that is not
    JSON), endless (2xx without end), too_large:BYTES (413 above), refuse:SUBSTRING (that record alone),
    bad_batch:SUBSTRING (400 for a batch that holds it).
    """

    def __init__(self, mode: str = "ok", certificate: Path | None = None) -> None:
        """`certificate` is a PEM file with the key, see `certificates`: the sink then speaks https."""
        self.mode = mode
        self.script: list[str] = []
        """Modes of the next requests, before `mode`."""
        self._tls: ssl.SSLContext | None = None
        if certificate is not None:
            self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._tls.load_cert_chain(certificate)
        self.records: list[dict[str, Any]] = []
        self.bodies: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self.times: list[float] = []
        self.sent_bytes = 0
        self._released = threading.Event()
        self._server: ThreadingHTTPServer | None = None
        self.port = 0

    @property
    def address(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    def start(self) -> Sink:
        sink = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def log_message(self, *args: object) -> None:
                pass

            def do_POST(self) -> None:
                sink._post(self)

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, request: object, client_address: object) -> None:
                pass

        self._server = Server(("127.0.0.1", self.port), Handler)
        if self._tls is not None:
            self._server.socket = self._tls.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def stop(self) -> None:
        """Stop listening: connections are refused from now on. `start` again listens on the same port."""
        self._released.set()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
        self._released = threading.Event()

    def release(self) -> None:
        """Let hanging requests go: their connections are closed without an answer."""
        self._released.set()
        self._released = threading.Event()

    def __enter__(self) -> Sink:
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    # --- what tests ask ---

    def counts(self, key: str = "inference_id") -> Counter[str]:
        """How often each record was acknowledged, by a field of it."""
        return Counter(str(r[key]) for r in self.records)

    def numbers(self) -> Counter[int]:
        """How often each numbered call (`inputs.n`) was stored, counting one per inference_id as the server does."""
        unique = {r["inference_id"]: r for r in self.records}
        return Counter(r["inputs"]["n"] for r in unique.values())

    def wait_until(self, condition: Callable[[], object]) -> None:
        """Wait until something is true; the time-out only ends a test that hangs."""
        deadline = time.monotonic() + 120
        while not condition():
            assert time.monotonic() < deadline, f"{len(self.records)} records so far"
            time.sleep(0.01)

    # --- within ---

    def _post(self, handler: BaseHTTPRequestHandler) -> None:
        mode, _, value = (self.script.pop(0) if self.script else self.mode).partition(":")
        self.times.append(time.monotonic())
        if mode == "reset":
            self._reset(handler)
            return
        body = handler.rfile.read(int(handler.headers.get("content-length", 0)))
        if handler.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        self.bodies.append(body)
        self.headers.append({k.lower(): v for k, v in handler.headers.items()})
        if mode == "hang":
            self._released.wait(60)
            handler.close_connection = True
            return
        if mode == "swallow":
            self._reset(handler)
            return
        if mode == "slow":
            time.sleep(float(value))
        if mode == "status":
            self._answer(handler, int(value), b'{"detail":"as told"}')
            return
        if mode == "retry_after":
            self._answer(handler, 429, b"{}", {"retry-after": value})
            return
        lines = [line for line in body.split(b"\n") if line]
        if mode == "too_large" and len(body) > int(value):
            self._answer(handler, 413, b"{}")
            return
        if mode == "bad_batch" and any(value.encode() in line for line in lines):
            self._answer(handler, 400, b'{"detail":"one of them is bad"}')
            return
        refused = [i for i, line in enumerate(lines) if mode == "refuse" and value.encode() in line]
        self.records += [json.loads(line) for i, line in enumerate(lines) if i not in refused]
        if mode == "lost_ack":
            self._reset(handler)
        elif mode == "garbage":
            self._answer(handler, 200, b"\x00\xff<html>")
        elif mode == "endless":
            self._endless(handler)
        else:
            answer = {
                "committed": len(lines) - len(refused),
                "refused": [{"index": i, "reason": "told to"} for i in refused],
            }
            self._answer(handler, 200, json.dumps(answer).encode(), {"connection": mode} if mode == "close" else {})

    def _answer(
        self, handler: BaseHTTPRequestHandler, status: int, body: bytes, headers: dict[str, str] | None = None
    ) -> None:
        handler.send_response(status)
        for name, value in {"content-length": str(len(body)), **(headers or {})}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)

    def _endless(self, handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        chunk = b"x" * 65_536
        try:
            while self.sent_bytes < 1 << 30:
                handler.connection.sendall(chunk)
                self.sent_bytes += len(chunk)
        except OSError:
            pass
        handler.close_connection = True

    def _reset(self, handler: BaseHTTPRequestHandler) -> None:
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        handler.connection.close()
        handler.close_connection = True
        handler.rfile.close()
        handler.wfile = io.BytesIO()
