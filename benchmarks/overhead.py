"""What a traced call costs, against a plain OpenTelemetry SDK span that records the same two strings.

    uv run python benchmarks/overhead.py [--pairs 30] [--json]

One process, blocks in turn (A B A B ...), the median of the pairs' ratios. *Caller* is the CPU of the calling thread
(`CLOCK_THREAD_CPUTIME_ID`); *process* is the CPU of the whole process until everything is delivered to a sink in
another process. The baseline is `start_as_current_span` with a BatchSpanProcessor, the OTLP/HTTP exporter and two
attributes. everycall's figures include its durable append: when the call returns, the record is in the page cache.

`--json` prints one JSON object as the last line; `caller_ratio` and `cpu_ratio` are those of the plain call.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
PROMPT = "x" * 200
ANSWER = "y" * 500
CHAT = [
    {"role": "user" if i % 2 == 0 else "assistant", "content": f"message {i} " + "lorem ipsum " * 33} for i in range(20)
]
REPLY = "z" * 2_000


@dataclass(frozen=True)
class Workload:
    """One thing that is called, in two ways: under the baseline and under everycall; `calls` spans or records each."""

    name: str
    block: int
    baseline: Callable[[int], None]
    candidate: Callable[[int], None]
    calls: int = 1


@dataclass(frozen=True)
class Figure:
    """The outcome of a workload: nanoseconds per call (medians) and ratios (medians of pairs)."""

    name: str
    caller_baseline_ns: float
    caller_ns: float
    caller_ratio: float
    caller_ratio_p90: float
    cpu_baseline_ns: float
    cpu_ns: float
    cpu_ratio: float


def workloads(tracer: object) -> list[Workload]:
    """Build the pairs. Both sides run the same inner function and keep the same two strings."""
    import everycall

    start = tracer.start_as_current_span  # type: ignore[attr-defined]

    def inner(prompt: str) -> str:
        return ANSWER

    def otel_plain(prompt: str) -> str:
        with start("plain") as span:
            result = inner(prompt)
            span.set_attribute("input", json.dumps({"prompt": prompt}))
            span.set_attribute("output", json.dumps(result))
            return result

    traced_plain = everycall.trace(name="plain")(inner)

    def otel_parent(prompt: str) -> str:
        with start("parent") as span:
            span.set_attribute("input", json.dumps({"prompt": prompt}))
            for _ in range(3):
                result = otel_plain(prompt)
            span.set_attribute("output", json.dumps(result))
            return result

    @everycall.trace
    def parent(prompt: str) -> str:
        for _ in range(3):
            result = traced_plain(prompt)
        return result

    def otel_chat(messages: list[dict[str, str]]) -> str:
        with start("chat") as span:
            span.set_attribute("input", json.dumps(messages))
            span.set_attribute("output", json.dumps(REPLY))
            span.set_attribute("gen_ai.request.model", "gpt-4o")
            span.set_attribute("gen_ai.usage.input_tokens", 1800)
            span.set_attribute("gen_ai.usage.output_tokens", 400)
            return REPLY

    def chat(messages: list[dict[str, str]]) -> str:
        with everycall.span("chat", kind="llm", llm_configuration={"messages": messages}) as call:
            call.update(content=REPLY, model="gpt-4o", provider="openai", input_tokens=1800, output_tokens=400)
            return REPLY

    async def a_inner(prompt: str) -> str:
        return ANSWER

    a_traced = everycall.trace(name="async")(a_inner)

    async def a_otel(prompt: str) -> str:
        with start("async") as span:
            result = await a_inner(prompt)
            span.set_attribute("input", json.dumps({"prompt": prompt}))
            span.set_attribute("output", json.dumps(result))
            return result

    def gathered(function: Callable[[str], object]) -> Callable[[int], None]:
        async def run(n: int) -> None:
            for _ in range(n // 100):
                await asyncio.gather(*(function(PROMPT) for _ in range(100)))  # type: ignore[call-overload]

        return lambda n: asyncio.run(run(n))

    def times(function: Callable[[object], object], argument: object) -> Callable[[int], None]:
        def run(n: int) -> None:
            for _ in range(n):
                function(argument)

        return run

    return [
        Workload("plain call, 200 B in, 500 B out", 1_800, times(otel_plain, PROMPT), times(traced_plain, PROMPT)),
        Workload("nested, 1 + 3", 450, times(otel_parent, PROMPT), times(parent, PROMPT), 4),
        Workload("async, 100 at once", 1_800, gathered(a_otel), gathered(a_traced)),
        Workload("chat, 8 KB in, 2 KB out, model and tokens", 1_800, times(otel_chat, CHAT), times(chat, CHAT)),
    ]


def measure(work: Workload, pairs: int, drain_baseline: Callable[[], None], drain: Callable[[], None]) -> Figure:
    """Run blocks in turn and return the medians."""
    rows: list[tuple[float, float, float, float]] = []
    for index in range(pairs + 2):
        sides = []
        for run, settle in ((work.baseline, drain_baseline), (work.candidate, drain)):
            process, thread = time.process_time_ns(), time.thread_time_ns()
            run(work.block)
            caller = time.thread_time_ns() - thread
            settle()
            sides += [caller, time.process_time_ns() - process]
        if index >= 2:  # the first two warm both sides up
            rows.append((sides[0], sides[1], sides[2], sides[3]))
    count = work.block * work.calls
    caller_ratios = sorted(r[2] / r[0] for r in rows)
    return Figure(
        work.name,
        statistics.median(r[0] for r in rows) / count,
        statistics.median(r[2] for r in rows) / count,
        statistics.median(caller_ratios),
        caller_ratios[int(len(caller_ratios) * 0.9) - 1],
        statistics.median(r[1] for r in rows) / count,
        statistics.median(r[3] for r in rows) / count,
        statistics.median(r[3] / r[1] for r in rows),
    )


def sampled_out(pairs: int) -> float:
    """Return nanoseconds of a sampled-out SDK span: what recording nothing costs there."""
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

    start = TracerProvider(sampler=ALWAYS_OFF).get_tracer("b").start_as_current_span
    best = []
    for _ in range(pairs):
        begin_ns = time.thread_time_ns()
        for _ in range(1_000):
            with start("x"):
                pass
        best.append((time.thread_time_ns() - begin_ns) / 1_000)
    return statistics.median(best)


def import_cost() -> tuple[float, int]:
    """Return CPU milliseconds and modules that `import everycall` adds to a bare interpreter (medians of 7)."""
    code = "import sys, time; {}; print(time.process_time(), len(sys.modules))"

    def run(statement: str) -> tuple[float, int]:
        out = subprocess.run([sys.executable, "-c", code.format(statement)], capture_output=True, text=True, check=True)
        seconds, modules = out.stdout.split()
        return float(seconds), int(modules)

    bare, full = [run("pass") for _ in range(7)], [run("import everycall") for _ in range(7)]
    added = statistics.median(f[0] for f in full) - statistics.median(b[0] for b in bare)
    return added * 1e3, full[0][1] - bare[0][1]


def table(figures: list[Figure], outcast_ns: float, imported: tuple[float, int]) -> str:
    """Lay the figures out for people."""
    lines = [
        f"{'':44}{'caller, us/call':>24}{'':>9}{'process, us/call':>24}",
        f"{'workload':44}{'otel':>12}{'everycall':>12}{'ratio':>9}{'otel':>12}{'everycall':>12}{'ratio':>9}",
    ]
    lines += [
        f"{f.name:44}{f.caller_baseline_ns / 1e3:12.1f}{f.caller_ns / 1e3:12.1f}{f.caller_ratio:9.3f}"
        f"{f.cpu_baseline_ns / 1e3:12.1f}{f.cpu_ns / 1e3:12.1f}{f.cpu_ratio:9.3f}"
        for f in figures
    ]
    lines.append(f"a sampled-out SDK span, empty: {outcast_ns / 1e3:.1f} us; everycall's plain call / that: "
                 f"{figures[0].caller_ns / outcast_ns:.2f}")  # fmt: skip
    lines.append(f"import everycall: {imported[0]:.0f} ms CPU and {imported[1]} modules over the bare interpreter")
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=30, help="blocks of each side (default 30)")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        os.environ["EVERYCALL_HOME"] = home
        for name in [n for n in os.environ if n.startswith(("OTEL_", "EVERYCALL_")) and n != "EVERYCALL_HOME"]:
            del os.environ[name]
        sink = subprocess.Popen([sys.executable, str(HERE / "_sink.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            assert sink.stdout is not None
            report(f"http://127.0.0.1:{int(sink.stdout.readline())}", options.pairs, options.json)
        finally:
            sink.stdin.close()  # type: ignore[union-attr]
            sink.wait(10)


def report(address: str, pairs: int, as_json: bool) -> None:
    """Set both sides up against the sink, measure all workloads, print."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    import everycall

    imported = import_cost()
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=f"{address}/v1/traces")))
    everycall.init(endpoint=address)

    def drain() -> None:
        if everycall.flush(30).spooled:
            raise RuntimeError("the sink did not take everything")

    figures = [
        measure(w, pairs, lambda: provider.force_flush() and None, drain) for w in workloads(provider.get_tracer("b"))
    ]
    outcast = sampled_out(pairs)
    balance = everycall.stats()
    everycall.shutdown()
    provider.shutdown()
    assert balance.recorded == balance.delivered, balance
    sys.stdout.write(table(figures, outcast, imported) + "\n")
    if as_json:
        plain = figures[0]
        results = {
            "caller_ratio": round(plain.caller_ratio, 4),
            "cpu_ratio": round(plain.cpu_ratio, 4),
            "nested_caller_ratio": round(figures[1].caller_ratio, 4),
            "async_caller_ratio": round(figures[2].caller_ratio, 4),
            "chat_caller_ratio": round(figures[3].caller_ratio, 4),
            "chat_cpu_ratio": round(figures[3].cpu_ratio, 4),
            "sampled_out_ratio": round(plain.caller_ns / outcast, 4),
            "import_ms": round(imported[0], 1),
            "import_modules": imported[1],
        }
        sys.stdout.write(json.dumps(results) + "\n")


if __name__ == "__main__":
    main()
