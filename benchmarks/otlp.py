"""OpenTelemetry spans per second that one server process stores: a real server, SQLite on disk, a separate client.

    python benchmarks/otlp.py [--spans 50000] [--connections 4] [--json]

Sends batches of 512 spans as OTLP protobuf, as OpenTelemetry's exporters do: chat calls of the GenAI conventions with a
prompt of 1.5 KB, in traces of eight. Then one trace of 10,000 spans, to see that a long trace costs no more per span,
and eight clients at once with bodies of 16 MiB, to see how much memory the server takes at most. Counted are the spans
that the server acknowledged, and then the records in its database. With `--json` the last line is one JSON object.
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
from pathlib import Path
from typing import Any

import psutil
from ingest import count_stored, prose, read_answer, serve
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

BATCH = 512
TRACE = 8
"""Spans of one trace: an agent above seven calls."""
PROMPT_CHARS = 1_500
LONG_TRACE = 10_000
LARGE_BYTES = 16 << 20
LARGE_CLIENTS = 8
SECONDS_MAX = 120.0


def main() -> None:
    """Run the benchmark, or one of its two processes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--spans", type=int, default=50_000, help="spans of short traces (default 50000)")
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--load", help=argparse.SUPPRESS)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(Path(arguments.serve))
    elif arguments.load:
        print(json.dumps(load(arguments.load, arguments.work, arguments.spans, arguments.connections)))
    else:
        measure(arguments)


def measure(arguments: argparse.Namespace) -> None:
    """Start the server, run each load, and print the results."""
    rows: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="everycall-otlp-") as folder:
        environment = {**os.environ, "EVERYCALL_HOME": folder}
        command = [sys.executable, __file__, "--serve", folder]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as server:
            try:
                assert server.stdout is not None
                target = " ".join(json.loads(server.stdout.readline()))
                for work in ("short", "long", "large"):
                    rows[work] = one_load(arguments, work, target, server.pid)
                stored = count_stored(Path(folder) / "data" / "everycall.db")
            finally:
                server.terminate()
    acknowledged = sum(row["acknowledged"] for row in rows.values())
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}")
    print(f"{'load':<34}{'spans/s':>9}{'spans':>9}{'seconds':>9}{'server CPU':>12}{'peak RSS':>11}")
    titles = {
        "short": f"batches of {BATCH}, traces of {TRACE}",
        "long": f"one trace of {LONG_TRACE:,} spans",
        "large": f"{LARGE_CLIENTS} clients, bodies of {LARGE_BYTES >> 20} MiB",
    }
    for work, row in rows.items():
        print(
            f"{titles[work]:<34}{row['spans_per_s']:>9,.0f}{row['acknowledged']:>9,}{row['seconds']:>9.2f}"
            f"{row['server_cpu_s']:>11.2f}s{row['peak_rss_mb']:>8.0f} MB"
        )
    print(f"the last fifth of the long trace took {rows['long']['last_to_first']:.2f} times as long as the first")
    print(f"stored {stored:,} of {acknowledged:,} acknowledged")
    if arguments.json:
        totals = {
            "spans_per_s": rows["short"]["spans_per_s"],
            "stored": stored,
            "acknowledged": acknowledged,
            "peak_rss_mb": max(row["peak_rss_mb"] for row in rows.values()),
            "long_trace_last_to_first": rows["long"]["last_to_first"],
            "rows": rows,
        }
        print(json.dumps(totals))
    if stored < acknowledged:
        sys.exit("the server acknowledged spans that it does not have")


def one_load(arguments: argparse.Namespace, work: str, target: str, pid: int) -> dict[str, Any]:
    """Run the load generator once; return its numbers and those of the server."""
    server = psutil.Process(pid)
    before = server.cpu_times()
    Path(f"/proc/{pid}/clear_refs").write_text("5", encoding="ascii")  # the peak starts again
    command = [sys.executable, __file__, "--load", target, "--work", work]
    command += ["--spans", str(arguments.spans), "--connections", str(arguments.connections)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=SECONDS_MAX + 120)
    after = server.cpu_times()
    row: dict[str, Any] = json.loads(done.stdout)
    row["server_cpu_s"] = round(after.user + after.system - before.user - before.system, 2)
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    row["peak_rss_mb"] = round(peak * 1024 / 1e6, 1)
    return row


def load(target: str, work: str, spans: int, connections: int) -> dict[str, Any]:
    """Send one kind of load: each connection sends its bodies, one request after the other, made before."""
    address, key = target.split()
    host, _, port = address.removeprefix("http://").partition(":")
    bodies = {"short": short_traces, "long": long_trace, "large": large_bodies}[work](spans, connections)
    head = f"POST /v1/traces HTTP/1.1\r\nhost: {host}:{port}\r\nx-api-key: {key}\r\n"
    head += "content-type: application/x-protobuf\r\n"
    results: list[tuple[float, int]] = []
    senders = [threading.Thread(target=send, args=(host, int(port), head, own, results)) for own in bodies]
    own_cpu, started = time.process_time(), time.perf_counter()
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    seconds = time.perf_counter() - started
    acknowledged = sum(count for _, count in results)
    fifth = max(1, len(results) // 5)
    times = [duration / count for duration, count in results]
    return {
        "acknowledged": acknowledged,
        "seconds": round(seconds, 3),
        "spans_per_s": round(acknowledged / seconds, 1),
        "last_to_first": round(sum(times[-fifth:]) / sum(times[:fifth]), 2),
        "load_cpu_s": round(time.process_time() - own_cpu, 2),
    }


def send(host: str, port: int, head: str, bodies: list[tuple[bytes, int]], results: list[tuple[float, int]]) -> None:
    """Send bodies over one connection; note the seconds of each request and the spans it stored.

    A busy server (503) is asked again, as exporters do.
    """
    until = time.monotonic() + SECONDS_MAX
    connection = socket.create_connection((host, port), timeout=60)
    for body, spans in bodies:
        status = 503
        while status == 503 and time.monotonic() < until:
            started = time.perf_counter()
            try:
                connection.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode())
                connection.sendall(body)
                status, answer = read_answer(connection)
            except (ConnectionError, TimeoutError):  # it answered before it had the whole body, or is busy
                status, answer = 503, b""
            if status == 503:
                connection.close()
                time.sleep(0.2)
                connection = socket.create_connection((host, port), timeout=60)
        if status == 503:
            return
        if status != 200:
            sys.exit(f"the server answered {status}: {answer[:500]!r}")
        rejected = ExportTraceServiceResponse.FromString(answer).partial_success.rejected_spans
        results.append((time.perf_counter() - started, spans - rejected))


def short_traces(spans: int, connections: int) -> list[list[tuple[bytes, int]]]:
    """Return batches of short traces for each connection."""
    rounds = max(1, spans // BATCH // connections)
    return [
        [(batch(f"short-{connection}", number * BATCH, BATCH, TRACE), BATCH) for number in range(rounds)]
        for connection in range(connections)
    ]


def long_trace(spans: int, connections: int) -> list[list[tuple[bytes, int]]]:
    """Return the batches of one trace, for one connection."""
    counts = [min(BATCH, LONG_TRACE - first) for first in range(0, LONG_TRACE, BATCH)]
    return [[(batch("long", number * BATCH, count, LONG_TRACE), count) for number, count in enumerate(counts)]]


def large_bodies(spans: int, connections: int) -> list[list[tuple[bytes, int]]]:
    """Return two bodies of 16 MiB for each of the clients."""
    size = len(batch("large", 0, BATCH, TRACE)) // BATCH
    count = LARGE_BYTES // size
    return [
        [(batch(f"large-{client}", number * count, count, TRACE), count) for number in range(2)]
        for client in range(LARGE_CLIENTS)
    ]


def batch(source: str, first: int, count: int, trace_spans: int) -> bytes:
    """Return one request: the spans in the order in which a client ends them, children before their parent."""
    chance = random.Random(f"{source} {first}")
    request = ExportTraceServiceRequest()
    resource_spans = request.resource_spans.add()
    resource_spans.resource.attributes.add(key="service.name").value.string_value = "bench"
    scope_spans = resource_spans.scope_spans.add()
    scope_spans.scope.name = "opentelemetry.instrumentation.genai.openai"
    for place in range(first, first + count):
        number, turn = divmod(place, trace_spans)
        trace = hashlib.sha256(f"{source} {number}".encode()).digest()[:16]
        is_root = turn == trace_spans - 1
        start = 1_790_000_000_000_000_000 + place * 50_000_000
        span = scope_spans.spans.add(
            trace_id=trace,
            span_id=(0xFF if is_root else turn + 256).to_bytes(8, "big"),
            parent_span_id=b"" if is_root else (0xFF).to_bytes(8, "big"),
            name="invoke_agent" if is_root else "chat gpt-4o-mini",
            start_time_unix_nano=start,
            end_time_unix_nano=start + chance.getrandbits(31),
        )
        for name, value in attributes_of(chance, place, is_root).items():
            attribute = span.attributes.add(key=name).value
            if isinstance(value, int):
                attribute.int_value = value
            else:
                attribute.string_value = value
    return request.SerializeToString()


def attributes_of(chance: random.Random, place: int, is_root: bool) -> dict[str, str | int]:
    """Return the attributes of a call, or of the agent above it."""
    if is_root:
        return {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "helper", "session.id": f"s-{place}"}
    question = [{"role": "user", "parts": [{"type": "text", "content": prose(chance, PROMPT_CHARS)}]}]
    answer = [
        {"role": "assistant", "parts": [{"type": "text", "content": prose(chance, 300)}], "finish_reason": "stop"}
    ]
    return {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-4o-mini",
        "gen_ai.response.model": "gpt-4o-mini",
        "gen_ai.response.id": f"chatcmpl-{place}",
        "gen_ai.usage.input_tokens": chance.randrange(50, 900),
        "gen_ai.usage.output_tokens": chance.randrange(20, 400),
        "gen_ai.input.messages": json.dumps(question, ensure_ascii=False),
        "gen_ai.output.messages": json.dumps(answer, ensure_ascii=False),
        "server.address": "api.openai.com",
    }


if __name__ == "__main__":
    main()
