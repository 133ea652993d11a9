"""Records per second that one server process stores: a real server on loopback, SQLite on disk, a separate client.

    python benchmarks/ingest.py [--records 50000] [--connections 4] [--json]

Sends batches of 500 records of 2.5 KB over kept-alive connections, first gzip'd, then plain. Counted are the records
the server acknowledged, and then those it says it has. With `--json` the last line is one JSON object.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from pathlib import Path
from typing import Any

import psutil

BATCH = 500
TRACE = 8
"""Calls of one trace: a root above seven others."""
RECORD_BYTES = 2_500
WORDS = (  # noqa: SIM905
    "the model answered with a plan that names each step and the tool it needs before the request goes out to search "
    "an index of documents retrieves seven passages ranks them by score and writes a summary for the user who asked "
    "about refunds invoices shipping dates account limits latency budgets Größe naïve 東京 and other ordinary things"
).split()
SECONDS_MAX = 120.0


def main() -> None:
    """Run the benchmark, or one of its two processes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, default=50_000, help="records for each encoding (default 50000)")
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--load", help=argparse.SUPPRESS)
    parser.add_argument("--encoding", default="gzip", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(Path(arguments.serve))
    elif arguments.load:
        load(arguments.load, arguments.encoding, arguments.records, arguments.connections)
    else:
        measure(arguments)


def measure(arguments: argparse.Namespace) -> None:
    """Start the server, run the load for each encoding, and print the results."""
    with tempfile.TemporaryDirectory(prefix="everycall-ingest-") as folder:
        environment = {**os.environ, "EVERYCALL_HOME": folder}
        command = [sys.executable, __file__, "--serve", folder]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as server:
            try:
                assert server.stdout is not None
                address, key = json.loads(server.stdout.readline())
                rows = [one_load(arguments, encoding, address, key, server.pid) for encoding in ("gzip", "identity")]
                stored = count_stored(Path(folder) / "data" / "everycall.db")
            finally:
                server.terminate()
        disk = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
    acknowledged = sum(row["acknowledged"] for row in rows)
    seconds = sum(row["seconds"] for row in rows)
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}")
    print(
        f"{'encoding':<10}{'records/s':>11}{'acknowledged':>14}{'seconds':>9}{'server CPU':>12}"
        f"{'load CPU':>10}{'RSS MB':>8}"
    )
    for row in rows:
        print(
            f"{row['encoding']:<10}{row['records_per_s']:>11,.0f}{row['acknowledged']:>14,}{row['seconds']:>9.2f}"
            f"{row['server_cpu_s']:>11.2f}s{row['load_cpu_s']:>9.2f}s{row['server_rss_mb']:>8.0f}"
        )
    print(f"stored {stored:,} of {acknowledged:,} acknowledged; {disk / 1e6:,.0f} MB on disk")
    if arguments.json:
        totals = {
            "records_per_s": round(acknowledged / seconds, 1),
            "stored": stored,
            "acknowledged": acknowledged,
            "rows": rows,
        }
        print(json.dumps(totals))
    if stored < acknowledged:
        sys.exit("the server acknowledged records that it does not have")


def one_load(arguments: argparse.Namespace, encoding: str, address: str, key: str, pid: int) -> dict[str, Any]:
    """Run the load generator for one encoding; return its numbers and those of the server."""
    server = psutil.Process(pid)
    before = server.cpu_times()
    command = [sys.executable, __file__, "--load", f"{address} {key}", "--encoding", encoding]
    command += ["--records", str(arguments.records), "--connections", str(arguments.connections)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=SECONDS_MAX + 60)
    after = server.cpu_times()
    row: dict[str, Any] = json.loads(done.stdout)
    row["server_cpu_s"] = round(after.user + after.system - before.user - before.system, 2)
    row["server_rss_mb"] = round(server.memory_info().rss / 1e6, 1)
    return row


def serve(folder: Path) -> None:
    """Run the server."""
    from everycall.server.options import ServerOptions
    from everycall.server.runner import run

    key = "benchmark-local-key"
    options = ServerOptions(data_dir=folder / "data", port=0, local_key=key)
    run(options, lambda address, _: print(json.dumps([address, key]), flush=True))


def load(target: str, encoding: str, records: int, connections: int) -> None:
    """Run the load generator: each connection sends its share, one request after the other, from bodies made before."""
    address, key = target.split()
    host, _, port = address.removeprefix("http://").partition(":")
    rounds = max(1, records // BATCH // connections)
    bodies = [[body(encoding, connection, number) for number in range(rounds)] for connection in range(connections)]
    head = f"POST /v1/records HTTP/1.1\r\nhost: {host}:{port}\r\nx-api-key: {key}\r\ncontent-encoding: {encoding}\r\n"
    counts = [0] * connections
    threads = [
        threading.Thread(target=send, args=(host, int(port), head, bodies[number], counts, number))
        for number in range(connections)
    ]
    own = time.process_time()
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - started
    acknowledged = sum(counts)
    row = {
        "encoding": encoding,
        "acknowledged": acknowledged,
        "sent": rounds * connections * BATCH,
        "seconds": round(seconds, 3),
        "records_per_s": round(acknowledged / seconds, 1),
        "load_cpu_s": round(time.process_time() - own, 2),
        "record_bytes": RECORD_BYTES,
    }
    print(json.dumps(row))


def send(host: str, port: int, head: str, bodies: list[bytes], counts: list[int], number: int) -> None:
    """Send bodies over one connection and count acknowledged records. A plain socket leaves the CPU to the server."""
    until = time.monotonic() + SECONDS_MAX
    with socket.create_connection((host, port), timeout=60) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for one in bodies:
            if time.monotonic() > until:
                return
            connection.sendall(f"{head}content-length: {len(one)}\r\n\r\n".encode())
            connection.sendall(one)
            status, answer = read_answer(connection)
            if status != 200:
                sys.exit(f"the server answered {status}: {answer[:500]!r}")
            counts[number] += json.loads(answer)["committed"]


def read_answer(connection: socket.socket) -> tuple[int, bytes]:
    """Read one response with a content-length."""
    data = b""
    while b"\r\n\r\n" not in data:
        chunk = connection.recv(65_536)
        if not chunk:
            sys.exit("the server closed the connection")
        data += chunk
    head, _, rest = data.partition(b"\r\n\r\n")
    length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    while len(rest) < length:
        rest += connection.recv(65_536)
    return int(head.split()[1]), rest


def body(encoding: str, connection: int, number: int) -> bytes:
    """Return one batch, encoded as it is sent."""
    chance = random.Random(f"{encoding} {connection} {number}")
    first = number * BATCH
    records = (line(chance, f"{encoding}-{connection}", place) for place in range(first, first + BATCH))
    lines = b"\n".join(records) + b"\n"
    if encoding == "identity":
        return lines
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    return packer.compress(lines) + packer.flush()


def line(chance: random.Random, source: str, place: int) -> bytes:
    """Return one record of about `RECORD_BYTES`, the `place`th that a client ends.

    A client's records come as its calls end: time goes on, the calls of a trace come together, children before the
    parent that they all have, and some traces span two batches. Three in four are chat completions.
    """
    number, turn = divmod(place, TRACE)
    trace = hashlib.sha256(f"{source} {number}".encode()).hexdigest()[:32]
    start = 1_790_000_000_000_000_000 + place * 50_000_000 + chance.getrandbits(26)
    root = turn == TRACE - 1
    tokens = chance.randrange(50, 900), chance.randrange(20, 400)
    record: dict[str, Any] = {
        "inference_id": f"{trace}-{'root' if root else turn}",
        "trace_id": trace,
        "trace_name": chance.choice(["support", "search", "billing", "triage"]),
        "parent_id": None if root else f"{trace}-root",
        "name": chance.choice(["plan", "answer", "rank", "chat"]),
        "end_user_identifier": f"u-{chance.randrange(5000)}",
        "session_id": f"s-{chance.randrange(2000)}",
        "metadata": {"team": "a", "release": "2026.10"},
        "tags": ["beta"] if chance.random() < 0.3 else [],
        "latency": round(chance.random() * 4, 6),
        "start_time_unix_nano": start,
        "end_time_unix_nano": start + chance.getrandbits(31),
        "sdk": "everycall-python/0.1.0",
        "scope": "everycall",
    }
    if not root and chance.random() < 0.86:
        record |= {
            "kind": "llm",
            "model": "gpt-4o-mini",
            "provider": "openai",
            "input_tokens": tokens[0],
            "output_tokens": tokens[1],
            "total_tokens": sum(tokens),
            "cost": round(sum(tokens) * 3e-7, 9),
            "cost_source": "genai-prices",
            "llm_configuration": {
                "model": "gpt-4o-mini",
                "messages": [{"role": "user", "content": prose(chance, 1_100)}],
            },
            "content": prose(chance, 500),
        }
    else:
        record |= {
            "kind": "chain",
            "inputs": {"question": prose(chance, 300)},
            "output": {"text": prose(chance, 1_400)},
        }
    missing = RECORD_BYTES - len(json.dumps(record, ensure_ascii=False).encode())
    record["attributes"] = {"note": prose(chance, max(0, missing - 32))}
    return json.dumps(record, ensure_ascii=False).encode()


def prose(chance: random.Random, characters: int) -> str:
    """Return text of about that length that compresses like prose."""
    words = []
    while characters > 0:
        word = chance.choice(WORDS) if chance.random() < 0.9 else f"{chance.getrandbits(28):x}"
        words.append(word)
        characters -= len(word) + 1
    return " ".join(words)


def count_stored(database: Path) -> int:
    """Return the number of records in the database, without asking the server."""
    import sqlite3

    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
        return int(connection.execute("SELECT count(*) FROM records").fetchone()[0])


if __name__ == "__main__":
    main()
