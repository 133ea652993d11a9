"""What the gateway adds to a completion: three processes on one machine, a provider, the server and a load client.

    python benchmarks/gateway.py [--pairs 400] [--hits 600] [--seconds 6] [--peer] [--json]

One client asks the provider itself and the server (cache off) in turn, so that both meet the same machine; what the
server adds is the median of the differences. The first byte of streams is measured in the same way. Then 16 clients ask
for different completions, and 32 for one that is cached. With `--peer`, Portkey's gateway, which records nothing, is
measured in the same run (`npx` fetches it). The provider answers at once, so its own time is that of a small HTTP
server. With `--json` the last line is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

CLIENTS = 16
CACHED_CLIENTS = 32
WARM_UP = 50
MODEL = "gpt-4o-mini-2024-07-18"
PROMPT = "Which of the three plans fits a team of forty people in two time zones? " * 12
ANSWER = "The second plan fits: it has shared calendars, and its price does not grow with time zones. " * 8
COMPLETION_PATH = "/api/parea/v1/completion"
CHAT_PATH = "/v1/chat/completions"
TARGETS = {
    "uncached_overhead_p50_ms": 2.0,
    "uncached_per_s_16": 1_500.0,
    "cached_per_s_32": 3_000.0,
    "stream_first_byte_added_ms": 1.2,
}
PEER = "@portkey-ai/gateway@1.15.2"


def main() -> None:
    """Run as the benchmark, or as one of its three processes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=400, help="uncached completions, each beside a bare call")
    parser.add_argument("--hits", type=int, default=600, help="cached completions of one client")
    parser.add_argument("--seconds", type=float, default=6.0, help="of many clients at once, cached and uncached")
    parser.add_argument("--peer", action="store_true", help="measure Portkey's gateway in the same run")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--role", choices=("provider", "server", "load"), help=argparse.SUPPRESS)
    parser.add_argument("--with", dest="details", default="{}", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    details = json.loads(arguments.details)
    match arguments.role:
        case "provider":
            asyncio.run(provide())
        case "server":
            serve(Path(details["folder"]), details["provider"])
        case "load":
            print(json.dumps(load(arguments, details)))
        case _:
            measure(arguments)


def measure(arguments: argparse.Namespace) -> None:
    """Start the processes, let the load client measure, and print its results."""
    with tempfile.TemporaryDirectory(prefix="everycall-gateway-") as folder, contextlib.ExitStack() as started:
        os.environ["EVERYCALL_HOME"] = folder
        provider = started.enter_context(process("provider"))
        address = json.loads(first_line(provider))
        server = started.enter_context(process("server", folder=folder, provider=address))
        served, key = json.loads(first_line(server))
        details = {"server": served, "key": key, "provider": address, "pid": server.pid}
        if arguments.peer:
            details["peer"] = started.enter_context(peer(address))
        options = [f"{name}={getattr(arguments, name[2:])}" for name in ("--pairs", "--hits", "--seconds")]
        client = started.enter_context(process("load", *options, **details))
        results = json.loads(first_line(client))
    show(results)
    if arguments.json:
        print(json.dumps(results))


@contextlib.contextmanager
def process(role: str, *options: str, **details: Any) -> Iterator[subprocess.Popen[str]]:
    """Start one of the three processes, and end it with the block."""
    command = [sys.executable, __file__, "--role", role, "--with", json.dumps(details), *options]
    started = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield started
    finally:
        started.terminate()
        started.wait()


def first_line(of: subprocess.Popen[str]) -> str:
    """Return the first line that a process prints."""
    assert of.stdout is not None
    line = of.stdout.readline()
    if not line:
        sys.exit("one of the processes ended before it printed anything")
    return line


def show(results: dict[str, Any]) -> None:
    """Print the table: what was measured, the targets, and the CPU time of the server."""
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}")
    print(f"{'':<40}{'p50':>10}{'p95':>10}{'target':>12}{'server CPU':>13}")

    def times(label: str, row: dict[str, float], target: str = "") -> None:
        cpu = f"{row['cpu_ms']:.2f} ms" if "cpu_ms" in row else ""
        print(f"{label:<40}{row['p50_ms']:>7.2f} ms{row['p95_ms']:>7.2f} ms{target:>12}{cpu:>13}")

    def rate(label: str, name: str, target: str = "") -> None:
        if name in results:
            cpu = f"{results[f'{name}_cpu_ms']:.2f} ms" if f"{name}_cpu_ms" in results else ""
            print(f"{label:<40}{results[name]:>8,.0f}/s{'':>10}{target:>12}{cpu:>13}")

    times("provider asked directly", results["bare"])
    times("provider asked through the server", results["through"])
    times("  added by the server", results["overhead"], "<= 2 ms")
    if "peer_overhead" in results:
        times("  added by the peer", results["peer_overhead"])
    times("first byte of a stream, added", results["first_byte"], "<= 1.2 ms")
    times("cached, 1 client", results["cached_1"])
    rate(f"uncached, {CLIENTS} clients", "uncached_per_s_16", ">= 1,500/s")
    rate(f"  the peer, {CLIENTS} clients", "peer_per_s_16")
    rate(f"cached, {CACHED_CLIENTS} clients", "cached_per_s_32", ">= 3,000/s")


# --- the provider ---


async def provide() -> None:
    """Be the provider: every POST gets the same completion, whole or as a stream."""
    usage = {"prompt_tokens": 180, "completion_tokens": 150, "total_tokens": 330}
    message = {"role": "assistant", "content": ANSWER}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    body = json.dumps({"id": "c-1", "object": "chat.completion", "model": MODEL, "choices": [choice], "usage": usage})
    whole = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode()
    streamed = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    for chunk in (
        {"id": "c-1", "model": MODEL, "choices": [{"index": 0, "delta": {"content": ANSWER}}]},
        {"id": "c-1", "model": MODEL, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": usage},
    ):
        event = f"data: {json.dumps(chunk)}\n\n".encode()
        streamed += b"%x\r\n%b\r\n" % (len(event), event)
    streamed += b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                body = await reader.readexactly(length_of(head))
                writer.write(streamed if b'"stream":' in body else whole)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    print(json.dumps(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"), flush=True)
    async with server:
        await server.serve_forever()


def length_of(head: bytes) -> int:
    """Return the content-length in the head of a request or a response."""
    return next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))


# --- the server, and its peer ---


def serve(folder: Path, provider: str) -> None:
    """Be the server process, as `everycall serve` is."""
    from everycall.server.options import ServerOptions
    from everycall.server.provider_settings import ProviderSettings
    from everycall.server.runner import run

    key = "benchmark-local-key"
    settings = ProviderSettings("openai", "openai", base_url=f"{provider}/v1", api_key="sk-benchmark")
    options = ServerOptions(data_dir=folder / "data", port=0, local_key=key, providers={"openai": settings})
    run(options, lambda address, _: print(json.dumps([address, key]), flush=True))


@contextlib.contextmanager
def peer(provider: str) -> Iterator[str]:
    """Start Portkey's gateway and give its address."""
    if not shutil.which("npx"):
        sys.exit("--peer needs npx, which is part of Node.js")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    host = provider.removeprefix("http://")
    environment = {**os.environ, "PORT": str(port), "TRUSTED_CUSTOM_HOSTS": f"{host},127.0.0.1,localhost"}
    command = ["npx", "--yes", PEER, "--headless", f"--port={port}"]
    started = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment, start_new_session=True)
    try:
        for _ in range(600):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            time.sleep(0.2)
        else:
            sys.exit(f"{PEER} did not start")
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(started.pid, signal.SIGTERM)
        started.wait()


# --- the load client ---


class Connection:
    """One kept-alive connection. A plain socket leaves the CPU to the server."""

    def __init__(self, address: str, path: str, *headers: str) -> None:
        host, _, port = address.removeprefix("http://").partition(":")
        lines = [f"POST {path} HTTP/1.1", f"host: {host}:{port}", "content-type: application/json", *headers]
        self._head = "\r\n".join(lines)
        self._socket = socket.create_connection((host, int(port)), timeout=60)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def post(self, body: bytes) -> tuple[float, bytes]:
        """Send one request; return the seconds it took, and the response's body."""
        started = time.perf_counter()
        self._send(body)
        head, rest = self._head_of_response()
        if b"transfer-encoding: chunked" in head.lower():
            while not rest.endswith(b"0\r\n\r\n"):
                rest += self._socket.recv(65_536)
        else:
            length = length_of(head)
            while len(rest) < length:
                rest += self._socket.recv(65_536)
        return time.perf_counter() - started, rest

    def first_byte(self, body: bytes) -> float:
        """Send a request for a stream; return the seconds to the first byte of its first event."""
        started = time.perf_counter()
        self._send(body)
        _, rest = self._head_of_response()
        while b"data: " not in rest:
            rest += self._socket.recv(65_536)
        seconds = time.perf_counter() - started
        while not rest.endswith(b"0\r\n\r\n"):
            rest += self._socket.recv(65_536)
        return seconds

    def _send(self, body: bytes) -> None:
        self._socket.sendall(f"{self._head}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)

    def _head_of_response(self) -> tuple[bytes, bytes]:
        """Return the head, and the beginning of the body. Any status but 200 ends the program."""
        data = b""
        while b"\r\n\r\n" not in data:
            chunk = self._socket.recv(65_536)
            if not chunk:
                sys.exit("the connection was closed")
            data += chunk
        head, _, rest = data.partition(b"\r\n\r\n")
        if int(head.split()[1]) != 200:
            sys.exit(f"{head!r} {rest[:500]!r}")
        return head, rest


def completion(number: int, *, cache: bool) -> bytes:
    """Return a request to the server."""
    messages = [{"role": "user", "content": f"{number}: {PROMPT}"}]
    configuration = {"model": MODEL, "messages": messages, "model_params": {"temp": 0.5}}
    return json.dumps({"llm_configuration": configuration, "trace_name": "benchmark", "cache": cache}).encode()


def chat(**fields: Any) -> bytes:
    """Return a request to the provider or the peer."""
    messages = [{"role": "user", "content": PROMPT}]
    return json.dumps({"model": MODEL, "messages": messages, "temperature": 0.5, **fields}).encode()


def load(arguments: argparse.Namespace, details: dict[str, Any]) -> dict[str, Any]:
    """Be the load client: return all numbers."""

    def connect(path: str = COMPLETION_PATH) -> Connection:
        return Connection(details["server"], path, f"x-api-key: {details['key']}")

    def connect_peer() -> Connection:
        headers = ("authorization: Bearer sk-benchmark", "x-portkey-provider: openai")
        host = f"x-portkey-custom-host: {details['provider']}/v1"
        return Connection(details["peer"], CHAT_PATH, *headers, host)

    server = psutil.Process(details["pid"])
    bare = Connection(details["provider"], CHAT_PATH, "authorization: Bearer sk-benchmark")
    through = connect()
    others = [connect_peer()] if "peer" in details else []
    numbers = iter(range(10**9))

    def ask() -> bytes:
        return completion(next(numbers), cache=False)

    for _ in range(WARM_UP):
        bare.post(chat())
        expect(through.post(ask()), hit=False)
        for other in others:
            other.post(chat())
    rounds = []
    cpu = cpu_of(server)
    for _ in range(arguments.pairs):
        seconds = [bare.post(chat())[0], expect(through.post(ask()), hit=False)]
        rounds.append([*seconds, *(other.post(chat())[0] for other in others)])
    uncached_cpu = (cpu_of(server) - cpu) / arguments.pairs
    first_bytes = first_byte_added(bare, connect(f"{COMPLETION_PATH}/stream"), ask, arguments.pairs)
    same = completion(0, cache=True)
    expect(through.post(same), hit=False)
    cpu = cpu_of(server)
    hits = [expect(through.post(same), hit=True) for _ in range(arguments.hits)]
    cached_cpu = (cpu_of(server) - cpu) / arguments.hits
    overhead = row([through - bare for bare, through, *_ in rounds])
    lock = threading.Lock()

    def ask_in_turn() -> bytes:
        with lock:
            return ask()

    results: dict[str, Any] = {
        "targets": TARGETS,
        "uncached_overhead_p50_ms": overhead["p50_ms"],
        "stream_first_byte_added_ms": first_bytes["p50_ms"],
        "cached_p50_ms": row(hits)["p50_ms"],
        "bare": row([one[0] for one in rounds]),
        "through": row([one[1] for one in rounds], uncached_cpu),
        "overhead": overhead,
        "first_byte": first_bytes,
        "cached_1": row(hits, cached_cpu),
    }
    for name, clients, body in (
        ("uncached_per_s_16", CLIENTS, ask_in_turn),
        ("cached_per_s_32", CACHED_CLIENTS, lambda: same),
    ):
        cpu = cpu_of(server)
        results[name] = per_second([connect() for _ in range(clients)], body, arguments.seconds)
        results[f"{name}_cpu_ms"] = round((cpu_of(server) - cpu) * 1e3 / (results[name] * arguments.seconds), 3)
    if others:
        results["peer_overhead"] = row([peers - bare for bare, _, peers in rounds])
        results["peer_overhead_p50_ms"] = results["peer_overhead"]["p50_ms"]
        clients = [connect_peer() for _ in range(CLIENTS)]
        results["peer_per_s_16"] = per_second(clients, chat, arguments.seconds)
    return results


def first_byte_added(bare: Connection, through: Connection, ask: Callable[[], bytes], pairs: int) -> dict[str, float]:
    """Return how much later the first byte of a stream comes through the server."""
    added = []
    for number in range(pairs + WARM_UP):
        first = bare.first_byte(chat(stream=True))
        second = through.first_byte(ask())
        if number >= WARM_UP:
            added.append(second - first)
    return row(added)


def per_second(connections: list[Connection], body: Callable[[], bytes], seconds: float) -> float:
    """Let each connection ask again and again; return how many completions were answered in a second."""
    counts = [0] * len(connections)
    until = time.perf_counter() + seconds

    def work(number: int) -> None:
        while time.perf_counter() < until:
            connections[number].post(body())
            counts[number] += 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(connections))]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return round(sum(counts) / (time.perf_counter() - started), 1)


def expect(response: tuple[float, bytes], *, hit: bool) -> float:
    """Return the seconds of a response. One that is not to be measured ends the program."""
    seconds, body = response
    if b'"status":"success"' not in body or (b'"cache_hit":true' in body) is not hit:
        sys.exit(f"not the answer that was to be measured: {body[:500]!r}")
    return seconds


def cpu_of(server: psutil.Process) -> float:
    """Return the CPU seconds that a process has used."""
    times = server.cpu_times()
    return float(times.user + times.system)


def row(seconds: list[float], cpu_s: float | None = None) -> dict[str, float]:
    """Return the median and the 95th percentile, in milliseconds."""
    result = {
        "p50_ms": round(statistics.median(seconds) * 1e3, 3),
        "p95_ms": round(statistics.quantiles(seconds, n=20)[-1] * 1e3, 3),
    }
    return result if cpu_s is None else {**result, "cpu_ms": round(cpu_s * 1e3, 3)}


if __name__ == "__main__":
    main()
