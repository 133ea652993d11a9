"""What the gateway adds to a completion: three processes on one machine, a provider, the server and a load client.

    python benchmarks/gateway.py [--pairs 400] [--hits 600] [--seconds 6] [--json]

Cached: one client asks the same completion again and again, then 32 do. Uncached: one client asks the provider itself
and the server (cache off) in turn, so that both meet the same machine; the overhead is the median of the differences.
The provider answers at once, so its own time is that of a small HTTP server. With `--json` the last line is one JSON
object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil

CLIENTS = 32
WARM_UP = 30
MODEL = "gpt-4o-mini-2024-07-18"
PROMPT = "Which of the three plans fits a team of forty people in two time zones? " * 12
ANSWER = "The second plan fits: it has shared calendars, and its price does not grow with time zones. " * 8
COMPLETION_PATH = "/api/parea/v1/completion"
TARGETS = {"cached_p50_ms": 5.0, "cached_per_s_32": 500.0, "uncached_overhead_p50_ms": 5.0}


def main() -> None:
    """Run as the benchmark, or as one of its three processes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=400, help="uncached completions, each beside a bare call")
    parser.add_argument("--hits", type=int, default=600, help="cached completions of one client")
    parser.add_argument("--seconds", type=float, default=6.0, help="of cached completions of 32 clients")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--be", choices=("provider", "server", "load"), help=argparse.SUPPRESS)
    parser.add_argument("--with", dest="given", default="{}", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    given = json.loads(arguments.given)
    match arguments.be:
        case "provider":
            asyncio.run(provide())
        case "server":
            serve(Path(given["folder"]), given["provider"])
        case "load":
            print(json.dumps(load(arguments, given)))
        case _:
            measure(arguments)


def measure(arguments: argparse.Namespace) -> None:
    """Start the processes, let the load client measure, and print what came of it."""
    with tempfile.TemporaryDirectory(prefix="everycall-gateway-") as folder:
        os.environ["EVERYCALL_HOME"] = folder
        with process("provider") as provider:
            address = json.loads(first_line(provider))
            with process("server", folder=folder, provider=address) as server:
                try:
                    served, key = json.loads(first_line(server))
                    counts = ("--pairs", "--hits", "--seconds")
                    options = [f"{name}={getattr(arguments, name[2:])}" for name in counts]
                    about = {"server": served, "key": key, "provider": address, "pid": server.pid}
                    with process("load", *options, **about) as client:
                        found = json.loads(first_line(client))
                finally:
                    server.terminate()
                    provider.terminate()
    show(found)
    if arguments.json:
        print(json.dumps(found))


def process(role: str, *options: str, **given: Any) -> subprocess.Popen[str]:
    """Start one of the three processes."""
    command = [sys.executable, __file__, "--be", role, "--with", json.dumps(given), *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def first_line(of: subprocess.Popen[str]) -> str:
    """Return what a process says first."""
    assert of.stdout is not None
    line = of.stdout.readline()
    if not line:
        sys.exit("one of the processes ended before it said anything")
    return line


def show(found: dict[str, Any]) -> None:
    """Print the table: what was measured, what it is to be, and what it cost."""
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}")
    print(f"{'':<34}{'p50':>10}{'p95':>10}{'target':>12}{'server CPU':>13}")

    def times(what: str, row: dict[str, float], target: str = "") -> None:
        cpu = f"{row['cpu_ms']:.2f} ms" if "cpu_ms" in row else ""
        print(f"{what:<34}{row['p50_ms']:>7.2f} ms{row['p95_ms']:>7.2f} ms{target:>12}{cpu:>13}")

    times("cached, 1 client", found["cached_1"], "<= 5 ms")
    times(f"cached, {CLIENTS} clients", found["cached_32"])
    times("provider asked directly", found["bare"])
    times("provider asked through the server", found["through"])
    times("  the overhead of that", found["overhead"], "<= 5 ms")
    print(f"{f'cached, {CLIENTS} clients':<34}{found['cached_per_s_32']:>8,.0f}/s{'':>10}{'>= 500/s':>12}")


# --- the provider ---


async def provide() -> None:
    """Be the provider: any POST is answered with the same completion, after the time that Python takes for it."""
    usage = {"prompt_tokens": 180, "completion_tokens": 150, "total_tokens": 330}
    message = {"role": "assistant", "content": ANSWER}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    body = json.dumps({"id": "c-1", "object": "chat.completion", "model": MODEL, "choices": [choice], "usage": usage})
    answer = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(length_of(head))
                writer.write(answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    print(json.dumps(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"), flush=True)
    async with server:
        await server.serve_forever()


def length_of(head: bytes) -> int:
    """Return the content-length in the head of a request or an answer."""
    return next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))


# --- the server ---


def serve(folder: Path, provider: str) -> None:
    """Be the server process, as `everycall serve` is."""
    from everycall.server.options import ServerOptions
    from everycall.server.provider_settings import ProviderSettings
    from everycall.server.runner import run

    key = "benchmark-local-key"
    settings = ProviderSettings("openai", "openai", base_url=f"{provider}/v1", api_key="sk-benchmark")
    options = ServerOptions(data_dir=folder / "data", port=0, local_key=key, providers={"openai": settings})
    run(options, lambda address, _: print(json.dumps([address, key]), flush=True))


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
        """Send one request; return the seconds it took, and the answer's body. Anything but 200 ends the program."""
        begun = time.perf_counter()
        self._socket.sendall(f"{self._head}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
        data = b""
        while b"\r\n\r\n" not in data:
            chunk = self._socket.recv(65_536)
            if not chunk:
                sys.exit("the connection was closed")
            data += chunk
        head, _, rest = data.partition(b"\r\n\r\n")
        length = length_of(head)
        while len(rest) < length:
            rest += self._socket.recv(65_536)
        seconds = time.perf_counter() - begun
        if int(head.split()[1]) != 200:
            sys.exit(f"{head!r} {rest[:500]!r}")
        return seconds, rest


def asked(number: int, *, cache: bool) -> bytes:
    """Return a completion request."""
    messages = [{"role": "user", "content": f"{number}: {PROMPT}"}]
    configuration = {"model": MODEL, "messages": messages, "model_params": {"temp": 0.5}}
    return json.dumps({"llm_configuration": configuration, "trace_name": "benchmark", "cache": cache}).encode()


def load(arguments: argparse.Namespace, given: dict[str, Any]) -> dict[str, Any]:
    """Be the load client: return all numbers."""

    def connect() -> Connection:
        return Connection(given["server"], COMPLETION_PATH, f"x-api-key: {given['key']}")

    server = psutil.Process(given["pid"])
    through = connect()
    bare = Connection(given["provider"], "/v1/chat/completions", "authorization: Bearer sk-benchmark")
    plain = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": PROMPT}], "temperature": 0.5}).encode()
    for number in range(WARM_UP):
        expect(through.post(asked(number, cache=False)), hit=False)
        bare.post(plain)
    pairs: list[tuple[float, float]] = []
    cpu = cpu_of(server)
    for number in range(arguments.pairs):
        first = bare.post(plain)[0]
        pairs.append((first, expect(through.post(asked(1_000 + number, cache=False)), hit=False)))
    uncached_cpu = (cpu_of(server) - cpu) / arguments.pairs
    same = asked(0, cache=True)
    expect(through.post(same), hit=False)
    cpu = cpu_of(server)
    hits = [expect(through.post(same), hit=True) for _ in range(arguments.hits)]
    cached_cpu = (cpu_of(server) - cpu) / arguments.hits
    cpu = cpu_of(server)
    many, seconds = at_once([connect() for _ in range(CLIENTS)], same, arguments.seconds)
    many_cpu = (cpu_of(server) - cpu) / len(many)
    overhead = row([through - bare for bare, through in pairs])
    return {
        "cached_p50_ms": row(hits)["p50_ms"],
        "cached_per_s_32": round(len(many) / seconds, 1),
        "uncached_overhead_p50_ms": overhead["p50_ms"],
        "targets": TARGETS,
        "cached_1": row(hits, cached_cpu),
        "cached_32": row(many, many_cpu),
        "bare": row([bare for bare, _ in pairs]),
        "through": row([through for _, through in pairs], uncached_cpu),
        "overhead": overhead,
    }


def at_once(connections: list[Connection], body: bytes, seconds: float) -> tuple[list[float], float]:
    """Let each connection ask the same again and again; return the times of all, and how long it went on."""
    times: list[list[float]] = [[] for _ in connections]
    until = time.perf_counter() + seconds

    def work(number: int) -> None:
        while time.perf_counter() < until:
            times[number].append(expect(connections[number].post(body), hit=True))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(connections))]
    begun = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [one for some in times for one in some], time.perf_counter() - begun


def expect(answered: tuple[float, bytes], *, hit: bool) -> float:
    """Return the seconds of an answer. One that is not what is to be measured ends the program."""
    seconds, body = answered
    if b'"status":"success"' not in body or (b'"cache_hit":true' in body) is not hit:
        sys.exit(f"not the answer that was to be measured: {body[:500]!r}")
    return seconds


def cpu_of(server: psutil.Process) -> float:
    """Return the CPU seconds that a process has used."""
    used = server.cpu_times()
    return float(used.user + used.system)


def row(seconds: list[float], cpu_s: float | None = None) -> dict[str, float]:
    """Return the median and the 95th percentile, in milliseconds."""
    found = {
        "p50_ms": round(statistics.median(seconds) * 1e3, 3),
        "p95_ms": round(statistics.quantiles(seconds, n=20)[-1] * 1e3, 3),
    }
    return found if cpu_s is None else {**found, "cpu_ms": round(cpu_s * 1e3, 3)}


if __name__ == "__main__":
    main()
